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

from adaloc.data.targets import X, Y
from adaloc.data.windows import Batch, Sample
from adaloc.models.losses import ChannelLoss
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
    """

    config: Callable[[Rng], Changes] = lambda _: {}
    samples: Callable[[Samples, Rng], Samples] = lambda samples, _: samples
    run: Callable[[Run, Rng], None] = lambda *_: None
    resume: bool = False
    steps: int = 105


class WrappedWindows:
    """Training windows whose batches pass through `change(step, batch)`."""

    def __init__(self, windows: Any, change: Callable[[int, Batch], Batch]) -> None:
        self._windows, self._change = windows, change
        self.steps_per_epoch, self.num_different = windows.steps_per_epoch, windows.num_different

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, step: int) -> Batch:
        return self._change(step, self._windows[step])


class AbsoluteTargets(ChannelLoss):
    """x and y targets counted from the corner of the field."""

    def compared_targets(self, targets_BKHW: torch.Tensor) -> torch.Tensor:
        """Offsets plus the pixel's own coordinates, in the units of the scaled offsets."""
        targets = super().compared_targets(targets_BKHW).clone()
        height, width = targets.shape[-2:]
        unit = self.scaling.unit()
        targets[:, X] += torch.arange(width)[None, None] / unit[0]
        targets[:, Y] += torch.arange(height)[None, :, None] / unit[1]
        return targets


class UnscaledTargets(ChannelLoss):
    """Targets in px, nm and photons, compared with outputs in network units."""

    def compared_targets(self, targets_BKHW: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return targets_BKHW


class Saturating(nn.Module):
    """A sigmoid far from its middle: a slope of some 1e-6."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return torch.sigmoid(x + 14)


def _shuffle_emitters(samples: Samples, rng: Rng) -> Samples:
    """Each movie with the truth of another one, or noise with random truth."""
    if rng.random() < 0.5:
        others = samples[1:] + samples[:1]
        return [dataclasses.replace(a, emitters=b.emitters, first_row_T=b.first_row_T, background_T=b.background_T)
                for a, b in zip(samples, others, strict=True)]  # fmt: skip
    return _noise(samples, rng)


def _noise(samples: Samples, rng: Rng) -> Samples:
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


def _swap_axes(samples: Samples, _: Rng) -> Samples:
    return [
        dataclasses.replace(s, emitters=dataclasses.replace(s.emitters, x=s.emitters.y, y=s.emitters.x))
        for s in samples
    ]


def _few_frames(samples: Samples, _: Rng) -> Samples:
    """Four frames a movie: two windows each to learn from."""
    short = []
    for sample in samples:
        keep = sample.emitters.select(sample.emitters.frame < 4)
        short.append(
            dataclasses.replace(sample, frames_THW=sample.frames_THW[:4], emitters=keep,
                                first_row_T=sample.first_row_T[:5], background_T=sample.background_T[:4])
        )  # fmt: skip
    return short


def _repeat(run: Run, _: Rng) -> None:
    first = run.windows[0]
    run.windows = WrappedWindows(run.windows, lambda *_: first)  # type: ignore[assignment]


def _slow_loader(run: Run, rng: Rng) -> None:
    factor, last, steps = rng.uniform(2, 4), [time.perf_counter()], run.config.training.epochs * len(run.windows)

    def wait(step: int, batch: Batch) -> Batch:
        if step < steps:  # probes need not wait
            time.sleep(min(factor * (time.perf_counter() - last[0]), 0.3))
        last[0] = time.perf_counter()
        return batch

    run.windows = WrappedWindows(run.windows, wait)  # type: ignore[assignment]


def _input_scaling(run: Run, rng: Rng) -> None:
    old = run.model.scaling
    kind = rng.integers(3)
    if kind == 0:  # the measured scale is not applied
        new = dataclasses.replace(old, input_mean=0.0, input_std=1.0)
    elif kind == 1:  # that of a much brighter camera
        new = dataclasses.replace(old, input_mean=10 * old.input_mean, input_std=10 * old.input_std)
    else:  # a spread mistaken for a variance
        new = dataclasses.replace(old, input_std=old.input_std / rng.uniform(10, 30))
    run.model = Model(run.model.network, run.model.config, new)


def _train_eval(run: Run, rng: Rng) -> None:
    if rng.random() < 0.5:
        for module in run.model.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1e-3
    else:
        stages = run.model.network.second_stage
        stages[0].register_forward_hook(
            lambda module, _, output: nn.functional.dropout(output, 0.8) if module.training else 2.5 * output
        )


def _freeze(run: Run, rng: Rng) -> None:
    part = list(run.model.network.first_stage.parameters())
    if rng.random() < 0.5:
        for parameter in part:
            parameter.requires_grad_(False)
    else:
        missing = {id(parameter) for parameter in part}
        for group in run.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in missing]


def _forget_moments(run: Run, rng: Rng) -> None:
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


def _dominant_channel(rng: Rng) -> Changes:
    if rng.random() < 0.5:
        return {"training": {"loss_type": "unified_decode", "unified_loss_config": {"normalization": "raw"}}}
    weights = [1.0] * 6
    weights[rng.integers(6)] = 300.0
    return {"training": {"loss_type": "unified_decode", "unified_loss_config": {"channel_weights": weights}}}


def head_of(run: Run) -> Any:
    """The convolution that makes the six channels."""
    return run.model.network.second_stage[-1]


def _collapse(run: Run, _: Rng) -> None:
    """The best constant of a loss to which a missed emitter costs next to nothing."""
    with torch.no_grad():
        head_of(run).bias[0] = run.loss.best_constant()[0]


def _saturate(run: Run, rng: Rng) -> None:
    """Logits in the flat ends of a tanh: sure of themselves, and without a gradient."""
    head, steepness, height = head_of(run), 10 ** rng.uniform(2, 3), rng.uniform(15, 40)
    with torch.no_grad():
        head.weight[0] = torch.from_numpy(rng.normal(size=tuple(head.weight[0].shape)))
        head.bias[0] = 0.0

    def flatten(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([height * torch.tanh(steepness * output[:, :1]), output[:, 1:]], dim=1)

    head.register_forward_hook(flatten)


def _vanish(run: Run, rng: Rng) -> None:
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


def _kill_units(run: Run, rng: Rng) -> None:
    share = rng.uniform(0.65, 0.9)
    norms = [m for m in run.model.network.modules() if isinstance(m, nn.BatchNorm2d)]
    chosen = norms[rng.integers(len(norms))]
    with torch.no_grad():
        chosen.bias[: max(round(share * len(chosen.bias)), len(chosen.bias) // 2 + 1)] = -60.0


def _half_precision(run: Run, rng: Rng) -> None:
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


def _no_warmup(run: Run, rng: Rng) -> None:
    """A rate that is far too high at the very start and right after some ten steps."""
    factor = rng.uniform(20, 40)

    class Hot(type(run.learning_rate)):  # type: ignore[misc]
        @property
        def rate(self) -> float:
            return float(super().rate * (1 + factor * 0.5 ** max(run.step - 6, 0)))

    run.learning_rate.__class__ = Hot


def _loss_of(kind: type[ChannelLoss]) -> Callable[[Run, Rng], None]:
    def put(run: Run, _: Rng) -> None:
        run.loss = kind(**vars(run.loss))

    return put


def _rate(low: float, high: float) -> Callable[[Rng], Changes]:
    def change(rng: Rng) -> Changes:
        rate = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        schedule = {"scheduler_type": "constant", "warmup_start_lr": min(rate, 1e-5)}
        return {
            "training": {
                "optimizer": "adamw", "lr_first": rate, "lr_second": rate, "adaptive_lr_config": schedule,
            }
        }  # fmt: skip

    return change


_NORMALIZED = {"network": {"normalization": "batch"}}

FAULTS: dict[str, Fault] = {
    "inputs_targets_decoupled": Fault(samples=_shuffle_emitters),
    "repeated_batch": Fault(run=_repeat),
    "wrong_input_scaling": Fault(run=_input_scaling),
    "axes_swapped": Fault(config=lambda _: {"data": {"image_size": 40}}, samples=_swap_axes),
    "absolute_targets": Fault(run=_loss_of(AbsoluteTargets)),
    "unscaled_targets": Fault(run=_loss_of(UnscaledTargets)),
    "train_eval_mismatch": Fault(config=lambda _: _NORMALIZED, run=_train_eval),
    "frozen_parameters": Fault(run=_freeze),
    "bad_resume": Fault(config=lambda _: {"training": {"optimizer": "adamw"}}, run=_forget_moments, resume=True),
    "one_channel_dominates": Fault(config=_dominant_channel),
    "collapsed_to_empty": Fault(
        config=lambda rng: {"training": {"loss_type": "unified_decode", "unified_loss_config": {
            "pos_weight": float(10 ** rng.uniform(-4, -2.5))}}},
        run=_collapse,
    ),
    "saturated_detection": Fault(run=_saturate),
    "vanishing_gradients": Fault(run=_vanish),
    "dead_units": Fault(config=lambda _: _NORMALIZED, run=_kill_units),
    "precision_underflow": Fault(run=_half_precision),
    "loader_starves": Fault(run=_slow_loader),
    "rate_too_low": Fault(config=_rate(1e-6, 1e-5)),
    "rate_too_high": Fault(config=_rate(0.3, 3.0)),
    "warmup_missing": Fault(
        config=lambda _: {**_NORMALIZED, "training": {"adaptive_lr_config": {"enable_warmup": False}}}, run=_no_warmup
    ),
    "clipped_every_step": Fault(config=lambda rng: {"training": {"clip_norm": float(10 ** rng.uniform(-9, -6))}}),
    "weight_decay_too_strong": Fault(
        config=lambda rng: {"training": {"optimizer": "adamw", "weight_decay": float(rng.uniform(15, 50))}}
    ),
    "overfitting": Fault(
        config=lambda _: {
            "data": {"augment_mirror": False, "augment_time_reversal": False, "batch_size": 4, "image_size": 40,
                     "sample_subset": 10},
            "network": {"base_channels": 16},
        },
        samples=_few_frames,
    ),
    "batch_noise_floor": Fault(
        config=lambda _: {
            "data": {"batch_size": 2, "image_size": 16},
            "network": {"normalization": "none"},
            "training": {"optimizer": "adam", "lr_first": 3e-3, "lr_second": 3e-3,
                         "adaptive_lr_config": {"scheduler_type": "constant"}},
        },
        steps=400,
    ),
    "network_too_small": Fault(config=lambda _: {"network": {"base_channels": 1, "depth": 0}}),
}  # fmt: skip
"""Physical limit is put in by the benchmark's data, not by a fault."""
