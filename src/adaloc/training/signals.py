"""The observer: cheap signals at every step, those of layers and outputs now and then, as "signals" events in the log.

It looks and never touches: a run with it is bit-identical to one without it. A long look takes about as long as one
step, so with one in a hundred steps observing costs about one percent.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from adaloc.config import CHANNELS
from adaloc.data.windows import Batch
from adaloc.simulation.camera import to_photons
from adaloc.training.batch_signals import (
    Contrast,
    detection_pulls,
    detection_signals,
    fingerprint,
    light_contrast,
    mode_difference,
    shuffle_gap,
    target_signals,
)
from adaloc.training.cures import is_out_of_memory, windows_of
from adaloc.training.layer_signals import (
    Before,
    UnitWatch,
    copy_weights,
    flat_gradient,
    gradient_signals,
    moment_steps,
    update_signals,
)
from adaloc.training.run import Run, batch_targets, predict

_EARLY_LOOKS = (5, 20, 50)
"""Steps of the first long looks: the integrity of a run is to be known within its first epochs."""
_STEPS_BETWEEN_LOOKS = 100
_COSINE_STEPS = 3
"""Gradients that are compared with one before a long look."""
REMEMBERED_BATCHES = 100
EARLY_EPOCHS = 5
"""Epochs in which every batch's targets and light are looked at."""


@dataclass(frozen=True)
class StepFacts:
    """What the training loop tells about a step.

    Attributes:
        loss: of the batch. channels: loss of each channel before weighting.
        grad_norm: before clipping. clip_norm: the limit that was in force.
        rate: of the first stage, as its controller says.
        is_taken: whether the optimizer made its step (False when the gradient was not finite).
        wait_s, train_s: seconds spent waiting for the batch, and on the whole step.
    """

    loss: float
    channels: list[float]
    grad_norm: float
    clip_norm: float
    rate: float
    is_taken: bool
    wait_s: float
    train_s: float


@dataclass
class _Window:
    """What was gathered since the last event."""

    facts: list[StepFacts] = field(default_factory=list)
    repeated: int = 0
    contrast: Contrast = field(default_factory=Contrast)
    targets: dict[str, float] = field(default_factory=dict)


def is_looked_at(step: int) -> bool:
    """Whether step number `step` (from 1) is one of a long look."""
    return step in _EARLY_LOOKS or step % _STEPS_BETWEEN_LOOKS == 0


class Observer:
    """Watches the steps of a run; see the module's docstring. Call `before_step` and `after_step` around each."""

    def __init__(self) -> None:
        self._window = _Window()
        self._recent: deque[int] = deque(maxlen=REMEMBERED_BATCHES)
        self._before: Before | None = None
        self._reference: torch.Tensor | None = None
        self._cosines: list[float] = []
        self._batch_look: dict[str, Any] = {}
        self._most_windows: int | None = None
        self._observe_s, self._train_s = 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """What was seen since the last event, so that a resumed run writes the events of one that was not stopped."""
        return {
            "facts": [vars(facts) for facts in self._window.facts],
            "repeated": self._window.repeated,
            "contrast": vars(self._window.contrast),
            "targets": self._window.targets,
            "recent": list(self._recent),
            "reference": self._reference,
            "cosines": list(self._cosines),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._window = _Window(
            [StepFacts(**facts) for facts in state["facts"]],
            state["repeated"],
            Contrast(**state["contrast"]),
            dict(state["targets"]),
        )
        self._recent = deque(state["recent"], maxlen=REMEMBERED_BATCHES)
        self._reference, self._cosines = state["reference"], list(state["cosines"])

    def before_step(self, run: Run, batch: Batch) -> None:
        """Looks at a batch, on the run's device, that the next step is made with."""
        begin = time.perf_counter()
        self._look_before(run, batch)
        self._observe_s += time.perf_counter() - begin

    def after_step(self, run: Run, facts: StepFacts) -> None:
        """Looks at what the step did; writes an event at a long look. Call before the step counter moves on."""
        begin = time.perf_counter()
        self._train_s += facts.train_s
        self._look_after(run, facts)
        self._observe_s += time.perf_counter() - begin

    def _look_before(self, run: Run, batch: Batch) -> None:
        mark = fingerprint(batch)
        self._window.repeated += mark in self._recent
        self._recent.append(mark)
        is_long = is_looked_at(run.step + 1)
        if is_long or run.epoch < EARLY_EPOCHS:
            self._look_at_data(run, batch)
        if is_long:
            self._before = copy_weights(run.model.network)
            self._batch_look = self._look_at_what_fits(run, batch)

    def _look_at_what_fits(self, run: Run, batch: Batch) -> dict[str, Any]:
        """At half of the batch, or at fewer windows where the training has to split it for want of memory."""
        size = len(batch.adu_BTHW)
        num = max(min(size // 2, math.ceil(size / run.config.training.accumulation_steps)), 1)
        num = min(num, self._most_windows or num)
        while True:
            try:
                return look_at_batch(run, batch, num)
            except RuntimeError as error:
                if num == 1 or not is_out_of_memory(error):
                    raise
                self._most_windows = num = num // 2

    def _look_after(self, run: Run, facts: StepFacts) -> None:
        self._window.facts.append(facts)
        step = run.step + 1
        if facts.is_taken:
            self._compare_gradients(run, step)
        if not is_looked_at(step):
            return
        signals = self._signals_of_steps(run, facts)
        if facts.is_taken and self._before is not None:
            signals |= update_signals(run.model.network, self._before, run.optimizer)
            signals |= gradient_signals(run.model.network)
        signals |= self._batch_look | self._window.contrast.signals() | self._window.targets
        norms = self._batch_look.get("half_gradient_norm")
        if norms is not None and facts.is_taken:
            signals |= noise_signals(norms, facts.grad_norm, self._batch_look["half_windows"], run)
        run.log.write("signals", epoch=run.epoch, step=step, **_plain(signals))
        # The light's sums go on: the more emitters, the surer.
        self._window = _Window(contrast=self._window.contrast)
        self._before, self._reference, self._cosines, self._batch_look = None, None, [], {}

    def forget_batches(self) -> None:
        """To be called when the run goes back in the data: a trial's batches come again, and that is no fault."""
        self._recent.clear()

    def _look_at_data(self, run: Run, batch: Batch) -> None:
        targets = batch_targets(run, batch)
        photons = to_photons(batch.adu_BTHW, run.config.simulation.camera)
        margin = run.config.data.consecutive_frames // 2
        middle = photons[:, margin : photons.shape[1] - margin].flatten(0, 1)
        self._window.contrast += light_contrast(middle, targets, run.config.data.targets_per_window)
        self._window.targets = target_signals(run.loss, targets)

    def _compare_gradients(self, run: Run, step: int) -> None:
        if is_looked_at(step + _COSINE_STEPS):
            self._reference = flat_gradient(run.model.network)
        elif self._reference is not None:
            gradient = flat_gradient(run.model.network)
            if gradient is not None and gradient.shape == self._reference.shape:
                scale = gradient.norm() * self._reference.norm()
                self._cosines.append(float(gradient @ self._reference / scale.clamp_min(1e-38)))

    def _signals_of_steps(self, run: Run, last: StepFacts) -> dict[str, Any]:
        facts = self._window.facts
        losses = [fact.loss for fact in facts]
        finite = [fact.grad_norm for fact in facts if math.isfinite(fact.grad_norm)]
        group = run.optimizer.param_groups[0]
        # All steps: a single small batch may hold no emitter, and its loss is then that of one or two channels.
        channels = [fact.channels for fact in facts if all(map(math.isfinite, fact.channels))] or [last.channels]
        means = [statistics.fmean(column) for column in zip(*channels, strict=True)]
        weighted = [c * w for c, w in zip(means, run.loss.weights, strict=True)]
        total = math.fsum(weighted)
        return {
            "num_steps": len(facts),
            "loss_first": losses[0],
            "loss_mean": statistics.fmean(losses),
            "loss_max": max(losses),
            "loss_shares": dict(zip(CHANNELS, (w / total if total else 0.0 for w in weighted), strict=True)),
            "grad_norm_median": statistics.median(finite) if finite else None,
            "grad_norm_max": max(finite) if finite else None,
            "clipped_share": statistics.fmean(fact.grad_norm > fact.clip_norm for fact in facts),
            "clip_excess": statistics.median(n.grad_norm / n.clip_norm for n in facts),
            "skipped_share": statistics.fmean(not fact.is_taken for fact in facts),
            "wait_share": math.fsum(f.wait_s for f in facts) / max(math.fsum(f.train_s for f in facts), 1e-9),
            "repeated_share": self._window.repeated / len(facts),
            "observe_share": self._observe_s / max(self._train_s, 1e-9),
            "rate": float(group["lr"]) / float(group.get("lr_ratio", 1.0)),
            "rate_asked": last.rate,
            "moment_steps": moment_steps(run.optimizer),
            "gradient_cosine": statistics.fmean(self._cosines) if self._cosines else None,
        }


def look_at_batch(run: Run, batch: Batch, num: int) -> dict[str, Any]:
    """One pass each way over a batch's first `num` windows, and one in evaluation mode.

    What it tells of: outputs, dead units, noise of the gradient.

    Buffers are put back, gradients of the run are not touched, and no random number is drawn.
    """
    network = run.model.network
    half = windows_of(batch, 0, num)
    targets = batch_targets(run, half)
    buffers = [buffer.clone() for buffer in network.buffers()]
    watch = UnitWatch()
    with watch.watching(network):
        outputs = predict(run, half)
    sums = run.loss.sums(outputs, targets)
    parameters = [p for p in network.parameters() if p.requires_grad]
    # Of the loss that models are judged by: a mixture's likelihood pulls at all pixels of a frame together.
    pulls = (
        detection_pulls(torch.autograd.grad(run.loss.total(sums), outputs, retain_graph=True)[0])
        if outputs.requires_grad
        else {}
    )
    gradients = torch.autograd.grad(run.loss.objective(sums), parameters, allow_unused=True) if parameters else ()
    norm = math.sqrt(math.fsum(float(g.square().sum()) for g in gradients if g is not None))
    with torch.no_grad():
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        network.eval()
        evaluated = predict(run, half)
        network.train()
        eval_loss = float(run.loss.total(run.loss.sums(evaluated, targets)))
        signals = {
            "train_mode_loss": float(run.loss.total(sums)),
            "eval_mode_loss": eval_loss,
            "mode_difference": mode_difference(outputs.detach(), evaluated),
            "shuffle_gap": shuffle_gap(run.loss, outputs.detach(), targets, run.config.data.targets_per_window),
            "half_windows": num,
            "half_gradient_norm": norm if num < len(batch.adu_BTHW) else None,
        }
        return signals | pulls | watch.signals() | detection_signals(outputs.detach(), targets)


def noise_signals(half_norm: float, norm: float, half_windows: int, run: Run) -> dict[str, float]:
    """Unbiased estimates of the gradient's squared length and of its noise per window (McCandlish et al. 2018, A.1).

    Each alone may be negative by chance; their sums over several looks are what is meant to be read.
    """
    whole = min(run.config.data.windows_per_batch, len(run.windows))
    if whole <= half_windows:
        return {}
    return {
        "gradient_square": (whole * norm**2 - half_windows * half_norm**2) / (whole - half_windows),
        "gradient_noise": (half_norm**2 - norm**2) / (1 / half_windows - 1 / whole),
        "batch_windows": float(whole),
    }


def _plain(signals: dict[str, Any]) -> dict[str, Any]:
    """Six digits: the log is read by people too."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, list):
            return [short(item) for item in value]
        return {k: short(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {name: short(value) for name, value in signals.items()}
