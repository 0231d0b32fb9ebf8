"""How much an optimizer's step changes the weights, relative to their size, and how much it should."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from adaloc.models.blocks import Residual
from adaloc.training.rate_search import ORTHOGONAL_SHARE, OTHER_SHARE

_LARGEST_SHARE, _SUM_OF_SHARES = 0.06, 0.3
"""Where nothing normalizes: of one layer, and of all together. Changes of layers in a row multiply, (1 + share)^layers
(Bernstein et al. 2020, "On the distance between two neural networks and the stability of learning").

From eight networks of 14 to 22 layers without normalization, each trained at shares of 6, 3, 1.5 and 0.75 %: all were
best at 1.5, and most learned nothing at 6 (docs/strategy.md).
"""


def step_share(network: nn.Module, *, is_orthogonal: bool) -> float:
    """Share of the weights' size that a step should change, in a run of 300 steps.

    Args:
        network: without normalization, or with branches that are added to what comes in, it gets less the more layers
            it has. Layers that normalize are told by their names, as those of other libraries have no common class.
        is_orthogonal: whether the steps are orthogonal matrices, as Muon's.
    """
    is_normalized = any("norm" in type(module).__name__.lower() for module in network.modules())
    if is_normalized and not any(isinstance(module, Residual) for module in network.modules()):
        return ORTHOGONAL_SHARE if is_orthogonal else OTHER_SHARE
    num_layers = sum(p.ndim > 1 and p.requires_grad for p in network.parameters())
    return min(_LARGEST_SHARE, _SUM_OF_SHARES / max(num_layers, 1))


class StepSize:
    """Measures one step: make it before the step, read it after.

    Args:
        parameters: those of two and more dimensions count; biases and scales begin at 0 or 1 and have no size to
            compare with.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        self._parameters = [p for p in parameters if p.ndim > 1]
        self._before = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def relative(self) -> float:
        """Median over the tensors of the norm of the change over the norm before; NaN without tensors."""
        if not self._before:
            return float("nan")
        changes = torch.stack([(now - then).norm() for now, then in zip(self._parameters, self._before, strict=True)])
        sizes = torch.stack([then.norm() for then in self._before])
        return float((changes / sizes.clamp_min(1e-30)).median())
