"""What the layers of a network show at one step: updates, decay, gradients, dead units. Nothing here changes anything.

Units: ratios of norms, so nothing depends on the scale of the loss. "Layer" is a parameter tensor with its name.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import activation

from adaloc.training.optimizers import Optimizer

_ACTIVATIONS = tuple(
    kind
    for name in activation.__all__
    if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin")
    for kind in (getattr(activation, name),)
)
_DEAD_SPREAD = 1e-6
"""Spread of a unit over that of its layer's median unit, below which it says nothing: float32's resolution."""


@dataclass(frozen=True)
class Before:
    """Copies of the weights before a step, by name."""

    weights: dict[str, torch.Tensor]


def copy_weights(network: nn.Module) -> Before:
    """The weights before a step."""
    return Before({name: parameter.detach().clone() for name, parameter in network.named_parameters()})


def update_signals(network: nn.Module, before: Before, optimizer: Optimizer) -> dict[str, Any]:
    """What a step did to the weights.

    update_ratio: median over kernels of |change| / |weight|.
    frozen_share: share of the tensors that did not change at all, though their gradient is missing or is not zero;
        frozen: their names (five at most).
    decay_ratio: median over kernels of |decay term| / |change|.
    """
    decay = _decay_per_step(optimizer)
    ratios, decays, frozen, num = [], [], [], 0
    for name, parameter in network.named_parameters():
        old = before.weights[name]
        size, change = float(old.norm()), float((parameter.detach() - old).norm())
        num += 1
        # An exact 0 as gradient is underflow, and not this.
        has_gradient = parameter.grad is not None and bool((parameter.grad != 0).any())
        if change == 0 and (parameter.grad is None or has_gradient):
            frozen.append(name)
        if parameter.ndim > 1 and size > 0:
            ratios.append(change / size)
            if change > 0:
                decays.append(decay.get(id(parameter), 0.0) * size / change)
    return {
        "update_ratio": statistics.median(ratios) if ratios else None,
        "frozen_share": len(frozen) / max(num, 1),
        "frozen": frozen[:5],
        "decay_ratio": statistics.median(decays) if decays else None,
    }


def gradient_signals(network: nn.Module) -> dict[str, Any]:
    """What the gradients of a step show; empty before the first.

    gradient_depth_ratio: the smallest over the largest of |gradient| |weight| / sqrt(number) over kernels, which is
        the effect of a relative change of a kernel on the loss: it vanishes where nothing flows back.
    zero_gradient_share: median over tensors of the share of exact zeros.
    head_shares: share of each output channel in the squared gradient of the last kernel.
    """
    effects, zeros, last = [], [], None
    for parameter in network.parameters():
        if parameter.grad is None:
            continue
        gradient = parameter.grad.detach()
        zeros.append(float((gradient == 0).float().mean()))
        if parameter.ndim > 1:
            effects.append(float(gradient.norm()) * float(parameter.detach().norm()) / parameter.numel() ** 0.5)
            last = gradient
    if last is None:
        return {}
    shares = last.flatten(1).square().sum(1)
    return {
        "gradient_depth_ratio": min(effects) / max(max(effects), 1e-38),
        "zero_gradient_share": statistics.median(zeros),
        "head_shares": (shares / shares.sum().clamp_min(1e-38)).tolist(),
    }


def flat_gradient(network: nn.Module) -> torch.Tensor | None:
    """All gradients as one vector; None when there is none."""
    parts = [p.grad.detach().flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(parts) if parts else None


def moment_steps(optimizer: Optimizer) -> int | None:
    """Steps that the optimizer's moments have seen; None for one that does not count them.

    0 when it has no moments yet.
    """
    counts = [
        int(values["step"])
        for part in getattr(optimizer, "parts", [optimizer])
        for values in getattr(part, "state", {}).values()
        if "step" in values
    ]
    if counts:
        return max(counts)
    has_state = any(len(getattr(part, "state", {})) for part in getattr(optimizer, "parts", [optimizer]))
    return None if has_state else 0


class UnitWatch:
    """Spread of every unit behind an activation, from the passes made while `watching`."""

    def __init__(self) -> None:
        self.input_mean: float | None = None
        self.input_std: float | None = None
        self._dead: dict[str, float] = {}

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Looks at the passes through the network while it lasts."""
        handles = [network.register_forward_pre_hook(self._see_input)]
        handles += [
            module.register_forward_hook(self._see_units(name))
            for name, module in network.named_modules()
            if isinstance(module, _ACTIVATIONS)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def signals(self) -> dict[str, Any]:
        """input_mean, input_std: of what enters the network. dead_share: of the units of the worst layer."""
        worst = max(self._dead.items(), key=lambda item: item[1], default=("", None))
        return {
            "input_mean": self.input_mean,
            "input_std": self.input_std,
            "dead_share": worst[1],
            "dead_layer": worst[0],
        }

    def _see_input(self, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        frames = inputs[0].detach().float()
        self.input_mean, self.input_std = float(frames.mean()), float(frames.std())

    def _see_units(self, name: str) -> Any:
        def see(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            # Two rows and two columns apart: a quarter of the pixels tells the same.
            spread = output.detach()[..., ::2, ::2].float().std(dim=(0, 2, 3))
            # Relative to the layer's largest unit: where all are equal, all are alive or none.
            self._dead[name] = float((spread <= _DEAD_SPREAD * spread.max()).float().mean())

        return see


def _decay_per_step(optimizer: Optimizer) -> Mapping[int, float]:
    """Share of a weight that decay takes off in a step, by the parameter's id.

    Adam adds the decay to the gradient; there it has no size of its own, and counts as the rate times the decay too.
    """
    return {
        id(parameter): float(group["lr"]) * float(group.get("weight_decay", 0.0))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
