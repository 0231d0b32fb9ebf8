"""From dense network outputs to a table of localizations.

Axes: B frames, K channels [probability, x, y, z, photons, background] and, from a network that predicts uncertainties,
the sigmas of x, y, z and photons; H rows, W columns, N localizations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from adaloc.data.targets import BACKGROUND, PHOTONS, PROBABILITY, SIGMAS, X, Y, Z
from adaloc.emitters import EmitterTable

_CERTAIN = 0.6
"""A pixel above this is an emitter of its own, even beside a brighter one."""
_CANDIDATE = 0.1
"""Local maxima below this, or below a fifth of the threshold, are not looked at: five of them are no emitter."""


def find_localizations(
    outputs_BKHW: torch.Tensor,
    first_frame: int,
    threshold: float = 0.5,
    within: tuple[slice, slice] = (slice(None), slice(None)),
) -> EmitterTable:
    """Local maxima of the integrated probability.

    An emitter near the border of two pixels splits its probability between them. So the probability of a local
    maximum is integrated over the pixel and its four neighbours (as in Speiser et al. 2021), and its position is
    their mean weighted by probability. Pixels that are certain by themselves are not merged.

    Args:
        outputs_BKHW: physical outputs of `Scaling.to_physical`.
        first_frame: number of the first frame.
        threshold: least integrated probability.
        within: rows and columns whose maxima count. The pixels around them are context: 2 px of it, and what counts
            is what would have counted in the whole field.

    Returns:
        The table, sorted by frame.
    """
    probability = outputs_BKHW[:, PROBABILITY : PROBABILITY + 1]
    highest = F.max_pool2d(probability, 3, stride=1, padding=1)
    candidate = min(_CANDIDATE, threshold / 5)
    chosen = (((probability == highest) & (probability > candidate)) | (probability > _CERTAIN))[:, 0]
    # What a chosen pixel may take from its neighbours: all of a free one, nothing of another chosen one.
    free = probability[:, 0] * ~chosen
    counts = torch.zeros_like(chosen)
    counts[:, within[0], within[1]] = True
    frame, row, column = torch.nonzero(chosen & counts, as_tuple=True)
    centre = outputs_BKHW[frame, :, row, column]
    moments = _Moments(outputs_BKHW)
    moments.add(centre[:, PROBABILITY], centre, 0, 0)
    height, width = free.shape[-2:]
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c = (row + down).clamp(0, height - 1), (column + right).clamp(0, width - 1)
        share = torch.where((r == row + down) & (c == column + right), free[frame, r, c], 0.0)
        moments.add(share, outputs_BKHW[frame, :, r, c], down, right)
    keep = moments.weight >= threshold
    x, y = (mean + pixel for mean, pixel in zip(moments.mean(), (column, row), strict=True))

    def column_of(values: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return values[keep].cpu().double().numpy()

    table = EmitterTable(
        frame=first_frame + frame[keep].cpu().numpy(),
        x=column_of(x),
        y=column_of(y),
        z=column_of(centre[:, Z]),
        photons=column_of(centre[:, PHOTONS].clamp_min(0)),
        background=column_of(centre[:, BACKGROUND].clamp_min(0)),
        probability=column_of(moments.weight.clamp_max(1)),
    )
    return table.with_columns(**{name: column_of(sigma) for name, sigma in _sigmas(centre, moments).items()})


class _Moments:
    """Weighted moments of x and y over a localization's pixels, in px from the centre of its own pixel."""

    def __init__(self, outputs_BKHW: torch.Tensor) -> None:
        self._has_sigma = outputs_BKHW.shape[1] > SIGMAS.start
        zero = outputs_BKHW.new_zeros(())
        self.weight, self._sums, self._squares = zero, [zero, zero], [zero, zero]

    def add(self, share_N: torch.Tensor, outputs_NK: torch.Tensor, down: int, right: int) -> None:
        """Adds a pixel `down` and `right` of the localizations' own, with its share of each."""
        self.weight = self.weight + share_N
        for axis, (channel, step) in enumerate(((X, right), (Y, down))):
            offset = outputs_NK[:, channel] + step
            self._sums[axis] = self._sums[axis] + share_N * offset
            if self._has_sigma:
                sigma = outputs_NK[:, SIGMAS.start + axis]
                self._squares[axis] = self._squares[axis] + share_N * (sigma.square() + offset.square())

    def mean(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of x and y."""
        return self._sums[0] / self.weight, self._sums[1] / self.weight

    def sigma(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of x and y: of the mixture of the pixels' distributions, so pixels that disagree make it larger."""
        variances = (q / self.weight - m.square() for q, m in zip(self._squares, self.mean(), strict=True))
        sigma_x, sigma_y = (variance.clamp_min(0).sqrt() for variance in variances)
        return sigma_x, sigma_y


def _sigmas(centre_NK: torch.Tensor, moments: _Moments) -> dict[str, torch.Tensor]:
    """The columns of uncertainty; none where the network predicts none."""
    if centre_NK.shape[1] <= SIGMAS.start:
        return {}
    x_sigma, y_sigma = moments.sigma()
    z_sigma, photons_sigma = centre_NK[:, SIGMAS.start + 2], centre_NK[:, SIGMAS.start + 3]
    return {"x_sigma": x_sigma, "y_sigma": y_sigma, "z_sigma": z_sigma, "photons_sigma": photons_sigma}
