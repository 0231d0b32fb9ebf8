"""From dense network outputs to a table of localizations.

Axes: B frames, K channels [probability, x, y, z, photons, background] and, from a network that predicts uncertainties,
the sigmas of x, y, z and photons; H rows, W columns, N localizations, S the 9 pixels around each, P [x, y, z, photons].
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from adaloc.data.targets import BACKGROUND, PHOTONS, PROBABILITY, SIGMAS, X, Y, Z
from adaloc.emitters import EmitterTable, FloatArray, IntArray

_CANDIDATE = 0.1
"""Pixels below this, or below a fifth of the threshold, begin no localization: five of them are no emitter."""
_ROUNDS = 4
"""So many emitters are found within two pixels of each other. The bound keeps what a pixel depends on finite."""
CONTEXT_PX = 3 * _ROUNDS
"""Pixels around a place on which its localizations depend: 2 to be the highest, 1 to take from, in each round."""


def find_localizations(
    outputs_BKHW: torch.Tensor,
    first_frame: int,
    threshold: float = 0.5,
    within: tuple[slice, slice] = (slice(None), slice(None)),
) -> EmitterTable:
    """Emitters from the probability, of which each has 1.

    The probability of an emitter near the border of pixels is split between them, and that of two emitters closer than
    the resolution is spread over the pixels that either may be in; the sum over these pixels still says how many they
    are, for a probability that is calibrated. So the highest pixel takes a probability of 1 from itself and its eight
    neighbours, those first whose predicted position is nearest to its own, and is localized at the mean of what it
    took; then the highest of what is left. One that finds less than the threshold is none.

    Args:
        outputs_BKHW: physical outputs of `Scaling.to_physical`.
        first_frame: number of the first frame.
        threshold: least summed probability.
        within: rows and columns whose localizations count. The pixels around them are context: with `CONTEXT_PX` of it,
            what counts is what would have counted in the whole field.

    Returns:
        The table, sorted by frame; probability is the sum that was taken.
    """
    left_BHW = outputs_BKHW[:, PROBABILITY].clone()
    counts = torch.zeros(left_BHW.shape[1:], dtype=torch.bool, device=left_BHW.device)
    counts[within] = True
    found = []
    for _ in range(_ROUNDS):
        frame, row, column = torch.nonzero(_highest(left_BHW, min(_CANDIDATE, threshold / 5)), as_tuple=True)
        if len(frame) == 0:
            break
        taken_NK = _take(outputs_BKHW, left_BHW, frame, row, column)
        keep = (taken_NK[:, PROBABILITY] >= threshold) & counts[row, column]
        place_N3 = torch.stack([frame, row, column], dim=1)
        found.append((place_N3[keep].cpu().numpy(), taken_NK[keep].cpu().double().numpy()))
    num_channels = outputs_BKHW.shape[1]
    places, channels = zip((np.empty((0, 3), np.int64), np.empty((0, num_channels))), *found, strict=True)
    return _table(np.concatenate(places), np.concatenate(channels), first_frame)


def _highest(left_BHW: torch.Tensor, least: float) -> torch.Tensor:
    """Pixels above `least` that are the highest within two pixels, so that their neighbourhoods do not touch."""
    height, width = left_BHW.shape[1:]
    # Ties, as of two sure pixels side by side, are broken by a number that no other pixel within reach has.
    row, column = (torch.arange(size, device=left_BHW.device) % 5 for size in (height, width))
    rank = 5 * row[:, None] + column
    unique = torch.where(left_BHW > least, left_BHW.double() + 1e-10 * rank, 0.0)[:, None]
    rows = F.max_pool2d(unique, (5, 1), stride=1, padding=(2, 0))
    return ((unique == F.max_pool2d(rows, (1, 5), stride=1, padding=(0, 2))) & (unique > 0))[:, 0]


def _take(
    outputs_BKHW: torch.Tensor, left_BHW: torch.Tensor, frame: torch.Tensor, row: torch.Tensor, column: torch.Tensor
) -> torch.Tensor:
    """Takes a probability of up to 1 around each pixel out of `left_BHW`, in place.

    Returns:
        (N, K): the probability that was taken, the mean of x, y (px from the centre of the pixel that takes), z and
        photons over where it was, with their sigmas; the background of the pixel that takes.
    """
    height, width = left_BHW.shape[1:]
    steps = torch.arange(-1, 2, device=row.device)
    down_S, right_S = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    r_NS, c_NS = row[:, None] + down_S, column[:, None] + right_S
    inside_NS = (r_NS >= 0) & (r_NS < height) & (c_NS >= 0) & (c_NS < width)
    r_NS, c_NS = r_NS.clamp(0, height - 1), c_NS.clamp(0, width - 1)
    values_NSK = outputs_BKHW[frame[:, None], :, r_NS, c_NS]
    # Relative to the pixel that takes: single precision would blur positions in large fields.
    values_NSP = values_NSK[..., X:BACKGROUND].clone()
    values_NSP[..., 0] += right_S
    values_NSP[..., 1] += down_S
    own = len(down_S) // 2
    distance_NS = (values_NSP[..., :2] - values_NSP[:, own : own + 1, :2]).square().sum(-1)
    distance_NS[:, own] = -1.0
    order_NS = distance_NS.argsort(dim=1, stable=True)
    there_NS = torch.where(inside_NS, left_BHW[frame[:, None], r_NS, c_NS], 0.0)
    sorted_NS = there_NS.gather(1, order_NS)
    before_NS = sorted_NS.cumsum(1) - sorted_NS
    taken_NS = torch.zeros_like(there_NS).scatter(1, order_NS, torch.minimum(sorted_NS, (1 - before_NS).clamp_min(0)))
    left_BHW[frame[:, None].expand_as(r_NS)[inside_NS], r_NS[inside_NS], c_NS[inside_NS]] -= taken_NS[inside_NS]
    total_N = taken_NS.sum(1)
    share_NS1 = (taken_NS / total_N[:, None]).unsqueeze(-1)
    mean_NP = (share_NS1 * values_NSP).sum(1)
    result = values_NSK[:, own].clone()
    result[:, PROBABILITY], result[:, X:BACKGROUND] = total_N, mean_NP
    if outputs_BKHW.shape[1] > SIGMAS.start:
        # Of the mixture of the pixels' distributions, so pixels that disagree make it larger.
        spread_NSP = values_NSK[..., SIGMAS].square() + (values_NSP - mean_NP[:, None]).square()
        result[:, SIGMAS] = (share_NS1 * spread_NSP).sum(1).sqrt()
    return result


def _table(place_N3: IntArray, channels_NK: FloatArray, first_frame: int) -> EmitterTable:
    order = np.lexsort((place_N3[:, 2], place_N3[:, 1], place_N3[:, 0]))
    (frame, row, column), channels = place_N3[order].T, channels_NK[order].T
    names = ("x_sigma", "y_sigma", "z_sigma", "photons_sigma")
    table = EmitterTable(
        frame=first_frame + frame,
        x=column + channels[X],
        y=row + channels[Y],
        z=channels[Z],
        photons=channels[PHOTONS].clip(min=0),
        background=channels[BACKGROUND].clip(min=0),
        probability=channels[PROBABILITY].clip(max=1),
    )
    return table.with_columns(**dict(zip(names, channels[SIGMAS], strict=False)))
