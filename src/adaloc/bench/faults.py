"""Faults that `adaloc bench stalls` puts into real runs, one for each cause. They wrap the run's parts from outside.

Each is a change of the config, of the samples, or of the run after its setup; `rng` draws its strength and kind.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from adaloc.data.scaling import Scaling
from adaloc.data.targets import X, Y
from adaloc.data.windows import Batch, Sample
from adaloc.models.model_file import Model
from adaloc.training.run import Run

Changes = dict[str, Any]
Samples = list[Sample]
Rng = np.random.Generator


@dataclass(frozen=True)
class Fault:
    """How a cause is put into a run.

    Attributes:
        config: changes of the config, section by section.
        samples: training and validation samples in, faulty ones out.
        run: changes of the run after its setup.
        resume: stop after half of the epochs and go on from the checkpoint; `run` is then applied to the second half.
        steps: how long the run is, about.
        easy: on data whose floor can be reached.
    """

    config: Callable[[Rng], Changes] = lambda _: {}
    samples: Callable[[Samples, Rng], Samples] = lambda samples, _: samples
    run: Callable[[Run, Rng], None] = lambda *_: None
    resume: bool = False
    steps: int = 105
    easy: bool = False


class WrappedWindows:
    """Training windows whose batches pass through `change(step, batch)`."""

    def __init__(self, windows: Any, change: Callable[[int, Batch], Batch]) -> None:
        self._windows, self._change = windows, change
        self.steps_per_epoch, self.num_different = windows.steps_per_epoch, windows.num_different

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, step: int) -> Batch:
        return self._change(step, self._windows[step])


class AbsoluteTargets(Scaling):
    """x and y targets counted from the corner of the field."""

    def scale_targets(self, targets_BKHW: torch.Tensor) -> torch.Tensor:
        """Offsets plus the pixel's own coordinates, in the units of the scaled offsets."""
        targets = super().scale_targets(targets_BKHW)
        height, width = targets.shape[-2:]
        unit = self.unit()
        targets[:, X] += torch.arange(width)[None, None] / unit[0]
        targets[:, Y] += torch.arange(height)[None, :, None] / unit[1]
        return targets


class UnscaledTargets(Scaling):
    """Targets in px, nm and photons, compared with outputs in network units."""

    def scale_targets(self, targets_BKHW: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return targets_BKHW


class Saturating(nn.Module):
    """A sigmoid far from its middle: a slope of some 1e-6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return torch.sigmoid(x + 14)


def shuffle_emitters(samples: Samples, rng: Rng) -> Samples:
    """Each movie with the truth of another one, or noise with random truth."""
    if rng.random() < 0.5:
        others = samples[1:] + samples[:1]
        return [dataclasses.replace(a, emitters=b.emitters, first_row_T=b.first_row_T, background_T=b.background_T)
                for a, b in zip(samples, others, strict=True)]  # fmt: skip
    return noise(samples, rng)


def noise(samples: Samples, rng: Rng) -> Samples:
    """Frames of noise with emitters at random places."""
    noisy = []
    for sample in samples:
        frames = rng.normal(300, 30, sample.frames_THW.shape).clip(0, 65535).astype(np.uint16)
        table = sample.emitters
        height, width = frames.shape[1:]
        placed = dataclasses.replace(
            table, x=rng.uniform(-0.5, width - 0.5, len(table)), y=rng.uniform(-0.5, height - 0.5, len(table))
        )
        noisy.append(dataclasses.replace(sample, frames_THW=frames, emitters=placed))
    return noisy


def swap_axes(samples: Samples, _: Rng) -> Samples:
    """x in the place of y."""
    return [
        dataclasses.replace(s, emitters=dataclasses.replace(s.emitters, x=s.emitters.y, y=s.emitters.x))
        for s in samples
    ]


def few_frames(samples: Samples, _: Rng) -> Samples:
    """Four frames a movie: two windows each to learn from."""
    short = []
    for sample in samples:
        keep = sample.emitters.select(sample.emitters.frame < 4)
        short.append(
            dataclasses.replace(sample, frames_THW=sample.frames_THW[:4], emitters=keep,
                                first_row_T=sample.first_row_T[:5], background_T=sample.background_T[:4])
        )  # fmt: skip
    return short


def repeat(run: Run, _: Rng) -> None:
    """The first batch for ever."""
    first = run.windows[0]
    run.windows = WrappedWindows(run.windows, lambda *_: first)  # type: ignore[assignment]


def slow_loader(run: Run, rng: Rng) -> None:
    """Each batch takes two to four times as long as the step before it."""
    factor, last, steps = rng.uniform(2, 4), [time.perf_counter()], run.config.training.epochs * len(run.windows)

    def wait(step: int, batch: Batch) -> Batch:
        if step < steps:  # probes need not wait
            time.sleep(min(factor * (time.perf_counter() - last[0]), 0.3))
        last[0] = time.perf_counter()
        return batch

    run.windows = WrappedWindows(run.windows, wait)  # type: ignore[assignment]


def input_scaling(run: Run, rng: Rng) -> None:
    """The network's input is scaled otherwise than the training data were measured."""
    old = run.model.scaling
    kind = rng.integers(3)
    if kind == 0:  # the measured scale is not applied
        new = dataclasses.replace(old, input_mean=0.0, input_std=1.0)
    elif kind == 1:  # that of a much brighter camera
        new = dataclasses.replace(old, input_mean=10 * old.input_mean, input_std=10 * old.input_std)
    else:  # a spread mistaken for a variance
        new = dataclasses.replace(old, input_std=old.input_std / rng.uniform(10, 30))
    run.model = Model(run.model.network, run.model.config, new)


def train_eval(run: Run, rng: Rng) -> None:
    """Statistics of normalization that hardly adapt, or a dropout that evaluation makes up for wrongly."""
    if rng.random() < 0.5:
        for module in run.model.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1e-3
    else:
        stages = run.model.network.second_stage
        stages[0].register_forward_hook(
            lambda module, _, output: nn.functional.dropout(output, 0.8) if module.training else 2.5 * output
        )


def freeze(run: Run, rng: Rng) -> None:
    """The first stage without gradients, or forgotten by the optimizer."""
    part = list(run.model.network.first_stage.parameters())
    if rng.random() < 0.5:
        for parameter in part:
            parameter.requires_grad_(False)
    else:
        missing = {id(parameter) for parameter in part}
        for group in run.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in missing]


def forget_moments(run: Run, rng: Rng) -> None:
    """A resumed run without the optimizer's moments, or at another rate than the controller's."""
    if rng.random() < 0.5:
        for part in getattr(run.optimizer, "parts", [run.optimizer]):
            part.state.clear()
    else:
        step, factor = run.optimizer.step, float(10 ** rng.uniform(-1.5, -0.5))

        def stale() -> Any:
            for group in run.optimizer.param_groups:
                group["lr"] *= factor
            return step()

        run.optimizer.step = stale  # type: ignore[method-assign]


def dominant_channel(rng: Rng) -> Changes:
    """Channels in their own units, or one with a weight of 300."""
    if rng.random() < 0.5:
        return {"training": {"loss_type": "unified_decode", "unified_loss_config": {"normalization": "raw"}}}
    weights = [1.0] * 6
    weights[rng.integers(6)] = 300.0
    return {"training": {"loss_type": "unified_decode", "unified_loss_config": {"channel_weights": weights}}}


def head_of(run: Run) -> Any:
    """The convolution that makes the six channels."""
    return run.model.network.second_stage[-1]


def collapse(run: Run, _: Rng) -> None:
    """The best constant of a loss to which a missed emitter costs next to nothing."""
    with torch.no_grad():
        head_of(run).bias[0] = run.loss.best_constant()[0]


def saturate(run: Run, rng: Rng) -> None:
    """Logits in the flat ends of a tanh: sure of themselves, and without a gradient."""
    head, steepness, height = head_of(run), 10 ** rng.uniform(2, 3), rng.uniform(15, 40)
    with torch.no_grad():
        head.weight[0] = torch.from_numpy(rng.normal(size=tuple(head.weight[0].shape)))
        head.bias[0] = 0.0

    def flatten(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([height * torch.tanh(steepness * output[:, :1]), output[:, 1:]], dim=1)

    head.register_forward_hook(flatten)


def vanish(run: Run, rng: Rng) -> None:
    """Activations at the flat end of a sigmoid, or a first stage whose gradient is made tiny."""
    first = run.model.network.first_stage
    if rng.random() < 0.5:
        for module in list(first.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.SiLU):
                    setattr(module, name, Saturating())
    else:
        factor = float(10 ** rng.uniform(-9, -7))

        def weaken(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            return output.detach() + factor * (output - output.detach())

        for stage in first:
            stage.register_forward_hook(weaken)


def kill_units(run: Run, rng: Rng) -> None:
    """Most units of one normalization shifted to where their activation is flat."""
    share = rng.uniform(0.65, 0.9)
    norms = [m for m in run.model.network.modules() if isinstance(m, nn.BatchNorm2d)]
    chosen = norms[rng.integers(len(norms))]
    with torch.no_grad():
        chosen.bias[: max(round(share * len(chosen.bias)), len(chosen.bias) // 2 + 1)] = -60.0


def half_precision(run: Run, rng: Rng) -> None:
    """Gradients as float16 holds them when the loss was scaled too little, or too much in many steps."""
    if rng.random() < 0.5:
        scale = float(10 ** rng.uniform(-6.5, -5.5))
        for parameter in run.model.network.parameters():
            parameter.register_hook(lambda gradient: (gradient * scale).half().float() / scale)  # type: ignore[no-untyped-call]
    else:
        chance, count = rng.uniform(0.35, 0.6), [0]
        first = next(run.model.network.parameters())

        def overflow(gradient: torch.Tensor) -> torch.Tensor:
            count[0] += 1
            bad = np.random.default_rng(count[0]).random() < chance
            return gradient + torch.inf if bad else gradient

        first.register_hook(overflow)  # type: ignore[no-untyped-call]


def no_warmup(run: Run, rng: Rng) -> None:
    """A rate that is far too high at the very start and right after some ten steps."""
    factor = rng.uniform(20, 40)

    class Hot(type(run.learning_rate)):  # type: ignore[misc]
        @property
        def rate(self) -> float:
            return float(super().rate * (1 + factor * 0.5 ** max(run.step - 6, 0)))

    run.learning_rate.__class__ = Hot


def targets_of(kind: type[Scaling]) -> Callable[[Run, Rng], None]:
    """The loss sees the targets that `kind` makes; the network's input stays as it is."""

    def put(run: Run, _: Rng) -> None:
        run.loss = dataclasses.replace(run.loss, scaling=kind(**vars(run.loss.scaling)))

    return put
