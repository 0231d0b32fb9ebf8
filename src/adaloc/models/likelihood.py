"""The loss that knows about uncertainty: the likelihood of a Gaussian mixture over pixels (Speiser et al. 2021).

All values are in network units (see `Scaling`), and the result in nats, summed over a batch.
Axes: B frames, K channels, H rows, W columns, N emitters, C components of the mixture, P parameters [x, y, z, photons].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from adaloc.data.scaling import Scaling, positive_sigma
from adaloc.data.targets import BACKGROUND, PHOTONS, PROBABILITY, SIGMAS, X

_REACH_PX = 1
"""Components of an emitter's likelihood lie at most so far from its pixel, along rows and columns.

An emitter is explained by its own pixel or by a neighbour, as in DECODE, whose offsets are bounded. With more, and
nothing else to say which pixel it is to be, networks came to speak for emitters two pixels away. Leaving components out
can only lower a likelihood, so it gives no loophole.
"""
_COUNT_VARIANCE = 1 / 12
"""Added to the variance of the count.

The number of emitters is an integer, and the density of a normal distribution narrower than a bin of 1 grows without
bound: an empty frame could be rewarded without end. Not so with the variance of a uniform bin (Sheppard's correction).
"""
_LOG_2_PI = math.log(2 * math.pi)


def mixture_nats(outputs_BKHW: torch.Tensor, targets_BKHW: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """Negative log likelihood of a batch's emitters under the predicted mixture, with that of their number.

    Each pixel is a normal distribution over [x, y, z, photons], weighted by its share of the summed probability; every
    emitter is a draw from the mixture. The number of emitters is normal with the mean sum(p) and the variance
    sum(p (1 - p)), and counts once for every emitter, as in DECODE's code (once a frame, it is too weak to
    fix the scale of p). Background is no part of it.

    Args:
        outputs_BKHW: (B, 10, H, W) float32, six channels and the four raw sigmas.
        targets_BKHW: (B, 6, H, W) float32 in network units, as from `Scaling.scale_targets`.
        scaling: of both.

    Returns:
        The sum over frames, a scalar.
    """
    logit = outputs_BKHW[:, PROBABILITY]
    log_p_BHW, p_BHW = F.logsigmoid(logit), logit.sigmoid()
    mean_B = p_BHW.sum((1, 2))
    variance_B = (p_BHW * (1 - p_BHW)).sum((1, 2)) + _COUNT_VARIANCE
    num_B = targets_BKHW[:, PROBABILITY].sum((1, 2))
    count_B = 0.5 * ((num_B - mean_B).square() / variance_B + variance_B.log() + _LOG_2_PI)
    log_sum_B = log_p_BHW.flatten(1).logsumexp(1)
    frame, row, column = torch.nonzero(targets_BKHW[:, PROBABILITY] == 1, as_tuple=True)
    steps = torch.arange(-_REACH_PX, _REACH_PX + 1, device=logit.device)
    down_C, right_C = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    height, width = logit.shape[1:]
    row_NC, column_NC = row[:, None] + down_C, column[:, None] + right_C
    inside_NC = (row_NC >= 0) & (row_NC < height) & (column_NC >= 0) & (column_NC < width)
    row_NC, column_NC = row_NC.clamp(0, height - 1), column_NC.clamp(0, width - 1)
    outputs_NCK = outputs_BKHW[frame[:, None], :, row_NC, column_NC]
    targets_NP = targets_BKHW[frame, X:BACKGROUND, row, column]
    unit_x, unit_y = scaling.unit()[:2]
    # An offset counts from the centre of its own pixel: seen from a component's pixel it is another number.
    shift_CP = torch.stack(
        [right_C / unit_x, down_C / unit_y, torch.zeros_like(steps[0]).expand_as(down_C).float()], dim=1
    )[:, [0, 1, 2, 2]]
    error_NCP = targets_NP[:, None] - shift_CP - outputs_NCK[..., X:BACKGROUND]
    log_density_NC = -_normal_nats(error_NCP, outputs_NCK[..., SIGMAS], scaling)
    log_weight_NC = log_p_BHW[frame[:, None], row_NC, column_NC].masked_fill(~inside_NC, -math.inf)
    log_likelihood_N = (log_weight_NC + log_density_NC).logsumexp(1) - log_sum_B[frame]
    return (count_B * num_B.clamp_min(1)).sum() - log_likelihood_N.sum()


def mean_of_neighbours(outputs_BKHW: torch.Tensor, mask_BHW: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """What a mixture says of each emitter, for judging it by the six channels.

    A mixture may explain an emitter near the border of two pixels by either of them, and what the other one predicts
    is then of no meaning. So x, y, z and photons at an emitter's pixel become the mean over it and its
    neighbours, weighted by probability, much as when molecules are localized. Without a gradient.

    Args:
        outputs_BKHW, scaling: as in `mixture_nats`.
        mask_BHW: 1 at the emitters' pixels.

    Returns:
        (B, 6, H, W) the six channels.
    """
    outputs = outputs_BKHW[:, : BACKGROUND + 1].detach().clone()
    frame, row, column = torch.nonzero(mask_BHW == 1, as_tuple=True)
    unit_x, unit_y = scaling.unit()[:2]
    height, width = outputs.shape[-2:]
    total_NP, weight_N = outputs.new_zeros((len(frame), 4)), outputs.new_zeros(len(frame))
    steps = range(-_REACH_PX, _REACH_PX + 1)
    for down, right in itertools.product(steps, steps):
        r, c = (row + down).clamp(0, height - 1), (column + right).clamp(0, width - 1)
        inside = (r == row + down) & (c == column + right)
        values_NK = outputs[frame, :, r, c]
        share_N = torch.where(inside, values_NK[:, PROBABILITY].sigmoid(), 0.0)
        values_NP = values_NK[:, X:BACKGROUND] + values_NK.new_tensor([right / unit_x, down / unit_y, 0.0, 0.0])
        total_NP += share_N[:, None] * values_NP
        weight_N += share_N
    outputs[frame, X:BACKGROUND, row, column] = total_NP / weight_N.clamp_min(1e-30)[:, None]
    return outputs


def _normal_nats(error_P: torch.Tensor, raw_sigma_P: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """Negative log density of independent normal errors, over the last axis; of parameters that vary."""
    varies = _columns(scaling.varies[X : PHOTONS + 1])
    sigma = positive_sigma(raw_sigma_P[..., varies])
    return (0.5 * (error_P[..., varies] / sigma).square() + sigma.log() + 0.5 * _LOG_2_PI).sum(-1)


def _columns(flags: Sequence[bool]) -> list[int]:
    return [index for index, flag in enumerate(flags) if flag]
