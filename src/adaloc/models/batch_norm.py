"""Batch normalization whose statistics are those of a batch that is split over several processes.

torch's own SyncBatchNorm does the same on GPUs alone. Axes: R processes, C channels, N, H, W.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn


class Group(Protocol):
    """Processes that compute the same at the same time, each on its part of a batch."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in place; the same bits in all of them."""
        ...

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """(R, ...) the tensors of all processes."""
        ...


class BatchNorm2d(nn.BatchNorm2d):
    """As torch's, but for the block of `sharing`, in which the statistics are those of all processes' parts."""

    group: Group | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same; in a block of `sharing` N may be 0, and differ between the processes."""
        if self.group is None or not self.training:
            return super().forward(x)
        count, mean, variance = _statistics(x.detach(), self.group)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * count / (count - 1).clamp_min(1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        inverse_std = (variance + self.eps).rsqrt().float()
        normalized: torch.Tensor = _Normalize.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, mean.float(), inverse_std, count, self.group
        )
        return normalized


@contextmanager
def sharing(network: nn.Module, group: Group) -> Iterator[None]:
    """While it lasts, the network's batch normalizations in training mode take the statistics over all processes.

    Each process must make the same passes, forward and backward, in the block.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d)]
    for norm in norms:
        norm.group = group
    try:
        yield
    finally:
        for norm in norms:
            norm.group = None


def _statistics(x: torch.Tensor, group: Group) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Number of values, (C,) mean and biased variance, in float64, over all processes (Chan et al. 1979)."""
    count, values = x.numel() // x.shape[1], x.float()
    if count:
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
    else:
        variance, mean = values.new_zeros(2, x.shape[1])
    own = torch.stack([torch.full_like(mean, count), mean, variance]).double()
    counts, means, variances = group.gather(own).unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    return total[0], mean, variance


class _Normalize(torch.autograd.Function):
    """Scales and shifts with given statistics; differentiates as if they were computed here, over all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        inverse_std: torch.Tensor,
        count: torch.Tensor,
        group: Group,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.count, ctx.group = count, group
        scale = weight * inverse_std
        outputs = (x.float() - _wide(mean)) * _wide(scale) + _wide(bias)
        return outputs.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        gradient = gradients[0].float()
        normalized = (x.float() - _wide(mean)) * _wide(inverse_std)
        # The weights' own gradients stay those of this part: the training step sums all gradients in one go.
        of_bias, of_weight = gradient.sum((0, 2, 3)), (gradient * normalized).sum((0, 2, 3))
        total_bias, total_weight = ctx.group.sum(torch.stack([of_bias, of_weight])) / ctx.count.float()
        of_x = (gradient - _wide(total_bias) - normalized * _wide(total_weight)) * _wide(weight * inverse_std)
        return of_x.to(x.dtype), of_weight, of_bias, None, None, None, None


def _wide(values_C: torch.Tensor) -> torch.Tensor:
    return values_C[:, None, None]
