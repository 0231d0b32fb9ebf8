"""From dense network outputs to a table of localizations.

Axes: B frames, K channels [probability, x, y, z, photons, background], H rows, W columns.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from adaloc.data.targets import BACKGROUND, PHOTONS, PROBABILITY, X, Y, Z
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
    weight = centre[:, PROBABILITY].clone()
    x, y = (column + centre[:, X]) * weight, (row + centre[:, Y]) * weight
    height, width = free.shape[-2:]
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c = (row + down).clamp(0, height - 1), (column + right).clamp(0, width - 1)
        share = torch.where((r == row + down) & (c == column + right), free[frame, r, c], 0.0)
        weight += share
        x += share * (c + outputs_BKHW[frame, X, r, c])
        y += share * (r + outputs_BKHW[frame, Y, r, c])
    keep = weight >= threshold

    def column_of(values: torch.Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return values[keep].cpu().double().numpy()

    return EmitterTable(
        frame=first_frame + frame[keep].cpu().numpy(),
        x=column_of(x / weight),
        y=column_of(y / weight),
        z=column_of(centre[:, Z]),
        photons=column_of(centre[:, PHOTONS].clamp_min(0)),
        background=column_of(centre[:, BACKGROUND].clamp_min(0)),
        probability=column_of(weight.clamp_max(1)),
    )
