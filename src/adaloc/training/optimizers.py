"""Optimizers: torch's, schedule-free AdamW, and Muon for the convolution kernels with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from adaloc.config import TrainingConfig
from adaloc.training.averaging import MovingAverage, ScheduleFree

_BETAS = (0.9, 0.999)
_EPS = 1e-8
_SGD_MOMENTUM = 0.9
_MUON_STEP = 7.0
"""Size of a Muon step in units of the learning rate.

So that one rate serves both parts: 0.007 for AdamW and 0.05 for Muon went well together in 600 steps on the reference
data, the only pair that was tried.
"""
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al.: fast, to singular values of 0.7 to 1.2
_NEWTON_SCHULZ_STEPS = 5


class Optimizer(Protocol):
    """What the trainer asks of an optimizer. The groups carry `lr_ratio`, their rate over the first stage's."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All parameter groups."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients."""
        ...

    def step(self) -> Any:
        """One step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain containers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        ...


class Muon(torch.optim.Optimizer):
    """Momentum whose update is the nearest orthogonal matrix (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    A kernel (out, in, h, w) counts as a matrix of out rows and in * h * w columns; torch's own Muon takes no kernels.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; kernels of equal shape are orthogonalized together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"])  # Nesterov
                by_shape.setdefault(tuple(parameter.shape), []).append((parameter, update.flatten(1)))
            for pairs in by_shape.values():
                updates = orthogonalize(torch.stack([update for _, update in pairs]))
                rows, columns = updates.shape[1:]
                size = group["lr"] * _MUON_STEP * max(1.0, rows / columns) ** 0.5
                for (parameter, _), update in zip(pairs, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view_as(parameter), alpha=-size)


def orthogonalize(matrices_NRC: torch.Tensor) -> torch.Tensor:
    """The orthogonal factors of a batch of matrices, approximately: singular values between about 0.7 and 1.2.

    Newton and Schulz's iteration needs matrix products only.
    """
    a, b, c = _NEWTON_SCHULZ
    is_tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.mT if is_tall else matrices_NRC
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x.mT if is_tall else x
    return result


class Together:
    """Several optimizers as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        """A step of each part."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The parts' states."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for part, part_state in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(part_state)


def make_optimizer(config: TrainingConfig, first_stage: nn.Module, second_stage: nn.Sequential) -> Optimizer:
    """The optimizer that a config asks for, with a group of parameters for each stage, and its average if any."""
    optimizer = _without_average(config, first_stage, second_stage)
    return MovingAverage(optimizer, config.ema_decay) if config.ema_decay > 0 else optimizer


def _without_average(config: TrainingConfig, first_stage: nn.Module, second_stage: nn.Sequential) -> Optimizer:
    ratio = config.lr_second / config.lr_first
    stages = [(list(first_stage.parameters()), 1.0), (list(second_stage.parameters()), ratio)]
    rate, decay = config.lr_first, config.weight_decay
    if config.optimizer != "muon":
        groups = [{"params": parameters, "lr_ratio": r} for parameters, r in stages]
        return _usual(config, _split_decay(groups, config))
    output = second_stage[-1].weight

    def is_kernel(parameter: torch.Tensor) -> bool:
        """Kernels between hidden layers: not those from the camera's one channel, nor those to the outputs."""
        return parameter.ndim == 4 and parameter.shape[1] > 1 and parameter is not output

    kernels = [{"params": [p for p in parameters if is_kernel(p)], "lr_ratio": r} for parameters, r in stages]
    others = [{"params": [p for p in parameters if not is_kernel(p)], "lr_ratio": r} for parameters, r in stages]
    others = _split_decay(others, config)
    adamw = torch.optim.AdamW(others, lr=rate, betas=_BETAS, eps=_EPS, weight_decay=decay)
    return Together(Muon(kernels, lr=rate, weight_decay=decay), adamw)


def _usual(config: TrainingConfig, groups: list[dict[str, Any]]) -> Optimizer:
    """One optimizer for all parameters. RAdam and NAdam take their decay beside the gradient, as AdamW does."""
    rate, decay = config.lr_first, config.weight_decay
    if config.optimizer == "schedule_free":
        return ScheduleFree(groups, rate, _BETAS, _EPS, decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=_SGD_MOMENTUM, nesterov=True, weight_decay=decay)
    if config.optimizer == "radam":
        return torch.optim.RAdam(
            groups, lr=rate, betas=_BETAS, eps=_EPS, weight_decay=decay, decoupled_weight_decay=True
        )
    if config.optimizer == "nadam":
        return torch.optim.NAdam(
            groups, lr=rate, betas=_BETAS, eps=_EPS, weight_decay=decay, decoupled_weight_decay=True
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=rate, betas=_BETAS, eps=_EPS, weight_decay=decay)


def _split_decay(groups: list[dict[str, Any]], config: TrainingConfig) -> list[dict[str, Any]]:
    """The groups, where the config asks for it with biases and the scales of norms in groups without decay."""
    if config.decay_biases_and_norms:
        return groups
    kernels = [{**group, "params": [p for p in group["params"] if p.ndim > 1]} for group in groups]
    flat = [{**g, "params": [p for p in g["params"] if p.ndim <= 1], "weight_decay": 0.0} for g in groups]
    return [group for group in (*kernels, *flat) if group["params"]]
