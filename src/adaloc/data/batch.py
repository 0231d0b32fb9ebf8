"""What a training step needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from adaloc.data.targets import EmitterRows


@dataclass(frozen=True)
class Batch:
    """What a training step needs, on the CPU until `to`.

    Attributes:
        adu_BTHW: frames.
        emitters: of the targets; `window` counts targets, run by run.
        background_N: photons per px of each target frame; (N, H, W) where a sample's background is structured.
    """

    adu_BTHW: torch.Tensor
    emitters: EmitterRows
    background_N: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(self.adu_BTHW.to(device), self.emitters.to(device), self.background_N.to(device))
