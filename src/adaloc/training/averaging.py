"""Averaged weights: what is validated and kept may be an average of the weights that are trained.

Either a moving average beside any optimizer, or that of schedule-free AdamW (Defazio et al. 2024). Both are wrapped as
an optimizer, so that checkpoints and copies to go back to hold the average with the moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from adaloc.errors import ConfigError

STATISTICS_BATCHES = 4
"""Training batches from which the statistics of batch normalization are taken anew, for the averaged weights."""


@runtime_checkable
class AveragesWeights(Protocol):
    """An optimizer that knows an average of the weights."""

    @property
    def parameters(self) -> Sequence[torch.Tensor]:
        """The weights that are trained."""
        ...

    def averages(self) -> list[torch.Tensor]:
        """Copies of their averages, in the same order."""
        ...


class _Inner(Protocol):
    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def step(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class MovingAverage:
    """An optimizer with an exponential moving average of its weights.

    Over the first steps the average is shorter, as the initial weights say nothing: step t, from 1, has the decay
    min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage.

    Args:
        inner: the optimizer.
        decay: below 1; about 1 / (1 - decay) steps are averaged.
    """

    def __init__(self, inner: _Inner, decay: float) -> None:
        self.inner, self.decay = inner, decay
        self._steps = 0
        self._averages = [p.detach().clone() for p in self.parameters]

    @property
    def parts(self) -> Sequence[Any]:
        """The optimizers inside."""
        return getattr(self.inner, "parts", (self.inner,))

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The weights, group by group."""
        return [p for group in self.inner.param_groups for p in group["params"]]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer."""
        return self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients."""
        self.inner.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """One step, which the average follows."""
        self.inner.step()
        self._steps += 1
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._averages, self.parameters, 1 - decay)

    def averages(self) -> list[torch.Tensor]:
        """Copies of the averaged weights."""
        return [average.clone() for average in self._averages]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state and the averages."""
        return {"inner": self.inner.state_dict(), "steps": self._steps, "averages": list(self._averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.inner.load_state_dict(state["inner"])
        self._steps = int(state["steps"])
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.copy_(saved)


class ScheduleFree:
    """Schedule-free AdamW, always in its training mode: its average is asked for without leaving it.

    The package's own switch between the modes computes the weights back and forth, with a rounding error each time;
    here they are kept and put back, so that a run does not depend on how often it is validated.

    Args:
        groups: of parameters.
        lr: the rate; the warmup is that of the config's schedule.
        betas, eps, weight_decay: as of AdamW.

    Raises:
        ConfigError: when the package is not installed.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        try:
            from schedulefree import AdamWScheduleFree
        except ImportError:
            raise ConfigError(
                'The optimizer "schedule_free" is in a package of its own, which is not installed: pip install '
                "'adaloc[schedulefree]', or choose another training.optimizer."
            ) from None
        self._inner = AdamWScheduleFree(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self._inner.train()

    @property
    def parts(self) -> tuple[torch.optim.Optimizer]:
        """The optimizer inside."""
        return (self._inner,)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The weights, group by group."""
        return [p for group in self._inner.param_groups for p in group["params"]]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All parameter groups."""
        groups: list[dict[str, Any]] = self._inner.param_groups
        return groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients."""
        self._inner.zero_grad(set_to_none)

    def step(self) -> None:
        """One step."""
        self._inner.step()

    @torch.no_grad()
    def averages(self) -> list[torch.Tensor]:
        """Copies of the averaged weights, what the package calls x; the weights in training are its y."""
        trained = [p.detach().clone() for p in self.parameters]
        self._inner.eval()
        averages = [p.detach().clone() for p in self.parameters]
        self._inner.train()
        for parameter, was in zip(self.parameters, trained, strict=True):
            parameter.copy_(was)
        return averages

    def state_dict(self) -> dict[str, Any]:
        """The package's."""
        state: dict[str, Any] = self._inner.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._inner.load_state_dict(state)


@contextmanager
def averaged_weights(network: nn.Module, optimizer: object, see: Callable[[], None]) -> Iterator[None]:
    """While it lasts the network has its averaged weights, if the optimizer knows any, and is in evaluation mode.

    The statistics of batch normalization were gathered by other weights. So `see` is called once in training mode, and
    the statistics become plain means over what it shows. Weights and buffers come back bit by bit.

    Args:
        network: whose weights the optimizer trains.
        optimizer: one of this module, or any other, with which nothing happens but the change of mode.
        see: passes training batches through the network.
    """
    was_training = network.training
    try:
        if not isinstance(optimizer, AveragesWeights):
            network.eval()
            yield
            return
        kept = [tensor.detach().clone() for tensor in network.state_dict().values()]
        with torch.no_grad():
            for parameter, average in zip(optimizer.parameters, optimizer.averages(), strict=True):
                parameter.copy_(average)
        try:
            _take_statistics(network, see)
            network.eval()
            yield
        finally:
            with torch.no_grad():
                for tensor, before in zip(network.state_dict().values(), kept, strict=True):
                    tensor.copy_(before)
    finally:
        network.train(was_training)


def _take_statistics(network: nn.Module, see: Callable[[], None]) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the plain mean over all batches
    network.train()
    try:
        with torch.no_grad():
            see()
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
