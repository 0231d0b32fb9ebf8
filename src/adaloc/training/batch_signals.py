"""What one batch shows about the data and the outputs. Pure functions of tensors; the names are those of the log.

Axes: B windows, N target frames, K the six channels, H rows, W columns.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from adaloc.config import CHANNELS
from adaloc.data.targets import PHOTONS, PROBABILITY, X, Y, Z
from adaloc.data.windows import Batch
from adaloc.models.losses import ChannelLoss

_HASH_STRIDE = 5  # every 25th pixel: a repeated batch agrees in all of them, and another one in none
_BOX_PX = 5
"""Side of the box over which an emitter's light is averaged: an astigmatic PSF is that wide over most of its depth."""


def fingerprint(batch: Batch) -> int:
    """A number that two batches share when their frames and emitters are the same."""
    frames = batch.adu_BTHW[..., ::_HASH_STRIDE, ::_HASH_STRIDE].contiguous().cpu().numpy()
    return zlib.crc32(batch.emitters.x.cpu().numpy().tobytes(), zlib.crc32(frames.tobytes()))


@dataclass(frozen=True)
class Contrast:
    """Light at the emitters against light at as many places of other windows; sums, so that batches add up.

    Attributes:
        own, other, transposed: summed light, in standard deviations of the frame, in a box at the emitter's place;
            at the same place of the next window; and with x and y swapped.
        square: summed squares of own - other; square_transposed: of transposed - other.
        num: emitters.
    """

    own: float = 0.0
    other: float = 0.0
    transposed: float = 0.0
    square: float = 0.0
    square_transposed: float = 0.0
    num: int = 0

    def __add__(self, more: Contrast) -> Contrast:
        return Contrast(*(a + b for a, b in zip(vars(self).values(), vars(more).values(), strict=True)))

    def signals(self) -> dict[str, float]:
        """Mean contrasts and how many standard errors they lie above 0."""
        if self.num < 2:
            return {}
        mean = (self.own - self.other) / self.num
        mean_transposed = (self.transposed - self.other) / self.num

        def sigmas(value: float, square: float) -> float:
            variance = max(square / self.num - value**2, 1e-12)
            return value / math.sqrt(variance / self.num)

        return {
            "contrast": mean,
            "contrast_sigmas": sigmas(mean, self.square),
            "contrast_transposed": mean_transposed,
            "contrast_transposed_sigmas": sigmas(mean_transposed, self.square_transposed),
            "contrast_emitters": float(self.num),
        }


def light_contrast(photons_NHW: torch.Tensor, targets_NKHW: torch.Tensor, per_window: int = 1) -> Contrast:
    """Whether there is more light where the targets say that emitters are. Needs no model.

    Args:
        photons_NHW: the target frames, in any affine unit of light.
        targets_NKHW: targets; only the probability is looked at.
        per_window: targets in a row that are of one window and may show the same emitters.

    Returns:
        Empty for a single window: there is no other to compare with.
    """
    num, height, width = photons_NHW.shape
    if num <= per_window:
        return Contrast()
    light = photons_NHW - photons_NHW.mean((1, 2), keepdim=True)
    light = light / photons_NHW.std().clamp_min(1e-9)
    box = min(_BOX_PX, height, width)
    light = F.avg_pool2d(light[:, None], box, stride=1, padding=box // 2, count_include_pad=False)[:, 0]
    window, row, column = torch.nonzero(targets_NKHW[:, PROBABILITY] == 1, as_tuple=True)
    own, other = light[window, row, column], light[(window + per_window) % num, row, column]
    swapped = light[window, column.clamp_max(height - 1), row.clamp_max(width - 1)]
    return Contrast(
        own=float(own.sum()),
        other=float(other.sum()),
        transposed=float(swapped.sum()),
        square=float((own - other).square().sum()),
        square_transposed=float((swapped - other).square().sum()),
        num=len(window),
    )


def target_signals(loss: ChannelLoss, targets_NKHW: torch.Tensor) -> dict[str, float]:
    """Range and spread of the targets as the loss compares them; empty for a raw loss, whose units are free.

    In network units x and y offsets lie within about +-1.8 (half a pixel over its uniform spread), and z and photons
    have a spread of about 1.
    """
    at_emitter = targets_NKHW[:, PROBABILITY] == 1
    if loss.raw or int(at_emitter.sum()) < 2:
        return {}
    compared = loss.compared_targets(targets_NKHW)
    values = {name: compared[:, channel][at_emitter] for name, channel in (("x", X), ("y", Y), ("z", Z))}
    photons = compared[:, PHOTONS][at_emitter]
    return {
        "target_offset_max": float(torch.cat([values["x"], values["y"]]).abs().max()),
        "target_z_rms": float(values["z"].square().mean().sqrt()),
        "target_photons_rms": float(photons.square().mean().sqrt()),
    }


def detection_signals(outputs_NKHW: torch.Tensor, targets_NKHW: torch.Tensor) -> dict[str, float]:
    """How the probabilities stand to the truth.

    emitters: their number; few of them say little.
    count_ratio: summed probability over the number of emitters (1 when calibrated, also for the best constant).
    p_at_emitters: mean probability at emitter pixels.
    overconfidence: mean squared error over mean p (1 - p); 1 when calibrated, large when sure and wrong.
    """
    p, truth = outputs_NKHW[:, PROBABILITY].float().sigmoid(), targets_NKHW[:, PROBABILITY]
    num_emitters = float(truth.sum())
    if num_emitters == 0:
        return {"emitters": 0.0}
    spread = float((p * (1 - p)).mean())
    return {
        "emitters": num_emitters,
        "count_ratio": float(p.sum()) / num_emitters,
        "p_at_emitters": float((p * truth).sum()) / num_emitters,
        "overconfidence": float((p - truth).square().mean()) / max(spread, 1e-12),
    }


def detection_pulls(gradient_NKHW: torch.Tensor) -> dict[str, float]:
    """How strongly the loss pulls the logits up (at emitters) and down (elsewhere), from its gradient at the outputs.

    They balance where the network says what the loss wants, even where that is "empty". A plain cross entropy pulls up
    1 / count_ratio times as strongly as down.
    """
    gradient = gradient_NKHW[:, PROBABILITY].float()
    return {"pull_up": float(-gradient.clamp_max(0).sum()), "pull_down": float(gradient.clamp_min(0).sum())}


def mode_difference(training_NKHW: torch.Tensor, evaluation_NKHW: torch.Tensor) -> float | None:
    """How far the outputs of the two modes lie apart, over how far outputs vary: the median of the six channels.

    Squared differences over variances, so 0 where the mode does not matter and 1 where it matters as much as the input
    does. Unlike a difference of losses this also shows in a network that has learned little. None where no output
    varies.
    """
    training, evaluation = (t[:, : len(CHANNELS)].float() for t in (training_NKHW, evaluation_NKHW))
    variance = training.var((0, 2, 3), correction=0)
    difference = (evaluation - training).square().mean((0, 2, 3))
    varies = variance > 0
    return float((difference[varies] / variance[varies]).median()) if bool(varies.any()) else None


def shuffle_gap(
    loss: ChannelLoss, outputs_NKHW: torch.Tensor, targets_NKHW: torch.Tensor, per_window: int = 1
) -> float | None:
    """How much worse the outputs of the other windows score, as a share of their loss; 0 when inputs do not matter.

    None for a single window.
    """
    if len(outputs_NKHW) <= per_window:
        return None
    own = float(loss.total(loss.sums(outputs_NKHW, targets_NKHW)))
    shuffled = float(loss.total(loss.sums(outputs_NKHW.roll(per_window, dims=0), targets_NKHW)))
    return (shuffled - own) / max(abs(shuffled), 1e-12)
