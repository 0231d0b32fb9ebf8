"""Training targets: emitters to six dense channels and back, and the statistics that scale them.

Axes: B windows, K channels [probability, x, y, z, photons, background], H rows, W columns, N emitters.
Units of a target: x, y offset to the pixel's centre in px, z in nm, photons, background in photons per px.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

PROBABILITY, X, Y, Z, PHOTONS, BACKGROUND = range(6)
SIGMAS = slice(6, 10)
"""Of x, y, z and photons: what a network that predicts uncertainties puts out behind the six channels."""


@dataclass(frozen=True)
class EmitterRows:
    """Emitters of a batch of target frames, as tensors of N rows on one device.

    Attributes:
        window: index into the batch, int64.
        x, y: px. z: nm. photons: photons in the frame. All float32.
    """

    window: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    z: torch.Tensor
    photons: torch.Tensor

    def to(self, device: torch.device) -> EmitterRows:
        """The same rows on another device."""
        return EmitterRows(*(column.to(device) for column in (self.window, self.x, self.y, self.z, self.photons)))

    def select(self, rows: torch.Tensor) -> EmitterRows:
        """The rows of an index or mask."""
        return EmitterRows(*(column[rows] for column in (self.window, self.x, self.y, self.z, self.photons)))


def choose_targets(
    emitters: EmitterRows, size_px: tuple[int, int], min_photons: float
) -> tuple[EmitterRows, torch.Tensor]:
    """The emitters that become targets, and their flat pixel (window * H + row) * W + column.

    Those with fewer than `min_photons`, or outside of the field, are none. Of two in one pixel the brighter is.
    """
    rows, pixel = target_rows(emitters, size_px, min_photons)
    return emitters.select(rows), pixel


def target_rows(
    emitters: EmitterRows, size_px: tuple[int, int], min_photons: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same choice as rows of `emitters`, and their flat pixel."""
    height, width = size_px
    row, column = emitters.y.round().long(), emitters.x.round().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (emitters.photons >= min_photons)
    rows = torch.nonzero(inside)[:, 0]
    pixel = ((emitters.window * height + row) * width + column)[rows]
    # Brightest last, then a stable sort by pixel: the last of each run of equal pixels is the brightest.
    order = torch.argsort(emitters.photons[rows], stable=True)
    order = order[torch.argsort(pixel[order], stable=True)]
    pixel = pixel[order]
    last = torch.ones_like(pixel, dtype=torch.bool)
    last[:-1] = pixel[1:] != pixel[:-1]
    return rows[order[last]], pixel[last]


def encode_targets(
    emitters: EmitterRows, background_B: torch.Tensor, size_px: tuple[int, int], min_photons: float
) -> torch.Tensor:
    """Dense targets.

    Args:
        emitters: of all windows.
        background_B: (B,) photons per px of each target frame, or (B, H, W) of each of its pixels; NaN where it is
            not known.
        size_px: (H, W).
        min_photons: dimmer emitters are left out.

    Returns:
        (B, 6, H, W) float32. x, y, z and photons are 0 where the probability is 0 and mean nothing there.
    """
    height, width = size_px
    chosen, pixel = choose_targets(emitters, size_px, min_photons)
    flat = torch.zeros((6, len(background_B) * height * width), device=background_B.device)
    flat[PROBABILITY, pixel] = 1.0
    flat[X, pixel] = chosen.x - chosen.x.round()
    flat[Y, pixel] = chosen.y - chosen.y.round()
    flat[Z, pixel] = chosen.z
    flat[PHOTONS, pixel] = chosen.photons
    targets_BKHW = flat.view(6, len(background_B), height, width).transpose(0, 1).contiguous()
    targets_BKHW[:, BACKGROUND] = background_B[:, None, None] if background_B.ndim == 1 else background_B
    return targets_BKHW


def decode_targets(targets_BKHW: torch.Tensor) -> EmitterRows:
    """The inverse of `encode_targets`: one emitter for each pixel with a probability of 1."""
    window, row, column = torch.nonzero(targets_BKHW[:, PROBABILITY] == 1, as_tuple=True)
    values = targets_BKHW[window, :, row, column]
    return EmitterRows(window, column + values[:, X], row + values[:, Y], values[:, Z], values[:, PHOTONS])
