"""How much an optimizer's step changes the weights, relative to their size."""

from __future__ import annotations

from collections.abc import Iterable

import torch


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
