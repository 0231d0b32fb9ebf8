"""Six-channel losses in information units: each channel is divided by the loss of its best constant predictor.

So knowing nothing scores the sum of the channel weights, and 0 is a perfect prediction, whatever the data are.
The errors of x, y, z and photons count at emitter pixels only; those of probability and background everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from adaloc.config import CHANNELS, TrainingConfig
from adaloc.data.scaling import Scaling
from adaloc.data.targets import BACKGROUND, PROBABILITY


@dataclass(frozen=True)
class LossSums:
    """Sums over pixels or emitters, so that batches add up exactly.

    Attributes:
        total_K: summed error of each channel, in network units (raw: in the targets' units).
        count_K: number of terms in each sum.
    """

    total_K: torch.Tensor
    count_K: torch.Tensor

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(self.total_K + other.total_K, self.count_K + other.count_K)


@dataclass(frozen=True)
class ChannelLoss:
    """A weighted sum of channel losses.

    Attributes:
        weights: of [probability, x, y, z, photons, background]; 0 for a channel that has nothing to explain.
        pos_weight: weight of emitter pixels in the probability's cross entropy.
        absolute: channels whose error is absolute instead of squared.
        references: loss of each channel's best constant predictor, in the units of `LossSums`.
        scaling: network units.
        raw: no division by the references, targets in their own units.
    """

    weights: tuple[float, ...]
    pos_weight: float
    absolute: tuple[bool, ...]
    references: tuple[float, ...]
    scaling: Scaling
    raw: bool

    @property
    def no_information_loss(self) -> float:
        """Loss of the best constant predictor: sum of the weights in information units."""
        if self.raw:
            return math.fsum(w * r for w, r in zip(self.weights, self.references, strict=True))
        return math.fsum(self.weights)

    def sums(self, outputs_BKHW: torch.Tensor, targets_BKHW: torch.Tensor) -> LossSums:
        """Errors of a batch, computed in float32.

        Args:
            outputs_BKHW: network outputs.
            targets_BKHW: physical targets, as from `encode_targets`; background NaN where it is not known.
        """
        outputs, mask = outputs_BKHW.float(), targets_BKHW[:, PROBABILITY]
        if self.raw:
            outputs = torch.cat([outputs[:, :1], self.scaling.to_physical(outputs)[:, 1:]], dim=1)
        targets = self.compared_targets(targets_BKHW)
        positive = outputs.new_tensor(self.pos_weight)
        cross_entropy = F.binary_cross_entropy_with_logits(
            outputs[:, PROBABILITY], mask, pos_weight=positive, reduction="sum"
        )
        known = targets[:, BACKGROUND].isfinite()
        background_error = torch.where(known, outputs[:, BACKGROUND] - targets[:, BACKGROUND].nan_to_num(), 0.0)
        difference = outputs[:, 1:BACKGROUND] - targets[:, 1:BACKGROUND]
        absolute = torch.tensor(self.absolute[1:BACKGROUND], device=outputs.device)[:, None, None]
        error = torch.where(absolute, difference.abs(), difference.square()) * mask[:, None]
        num_emitters = mask.sum()
        total = torch.stack([cross_entropy, *error.sum((0, 2, 3)), background_error.square().sum()])
        count = torch.stack([num_emitters.new_tensor(mask.numel()), *[num_emitters] * 4, known.sum().to(mask.dtype)])
        return LossSums(total, count)

    def compared_targets(self, targets_BKHW: torch.Tensor) -> torch.Tensor:
        """The targets that the outputs are compared with: in network units, or in their own when raw."""
        return targets_BKHW if self.raw else self.scaling.scale_targets(targets_BKHW)

    def channels(self, sums: LossSums) -> torch.Tensor:
        """(K,) loss of each channel, before weighting; 0 where the sums hold no term."""
        mean = sums.total_K / sums.count_K.clamp_min(1)
        if self.raw:
            return mean
        return mean / mean.new_tensor([r if r > 0 else 1.0 for r in self.references])

    def total(self, sums: LossSums) -> torch.Tensor:
        """The weighted sum of the channels."""
        return (self.channels(sums) * sums.total_K.new_tensor(self.weights)).sum()

    def best_constant(self) -> tuple[float, ...]:
        """Network outputs of the predictor that knows nothing: a logit, and five constants in network units."""
        odds = self.pos_weight * self.scaling.prior / (1 - self.scaling.prior)
        unit = self.scaling.unit()
        centre = [
            (median - mean) / u if absolute else 0.0
            for median, mean, u, absolute in zip(
                self.scaling.median, self.scaling.mean, unit, self.absolute[1:], strict=True
            )
        ]
        return (math.log(odds), *centre)


def make_loss(config: TrainingConfig, scaling: Scaling) -> ChannelLoss:
    """The loss that a config asks for, with channels that have nothing to explain left out."""
    if config.loss_type == "unified_decode":
        unified = config.unified_loss_config
        weights: Sequence[float] = unified.channel_weights
        absolute = (False,) * len(CHANNELS)
        # "sum" and "mean" are the same in information units: the division cancels the number of terms.
        pos_weight, raw = unified.pos_weight, unified.normalization == "raw"
    else:
        simple, override = config.simple_combined_config, config.loss_weights
        count = override.count if override.count is not None else simple.count_weight
        loc = override.loc if override.loc is not None else simple.loc_weight
        photon = override.photon if override.photon is not None else simple.photon_weight
        background = override.background if override.background is not None else simple.bg_weight
        weights = (count, loc / 3, loc / 3, loc / 3, photon, background)
        absolute = (False, True, True, True, True, False)
        pos_weight, raw = simple.pos_weight, simple.normalization == "raw"
    return ChannelLoss(
        weights=tuple(w if varies else 0.0 for w, varies in zip(weights, scaling.varies, strict=True)),
        pos_weight=pos_weight,
        absolute=absolute,
        references=_references(scaling, pos_weight, absolute, raw),
        scaling=scaling,
        raw=raw,
    )


def left_out_channels(scaling: Scaling) -> list[str]:
    """Names of the channels whose targets never vary."""
    return [name for name, varies in zip(CHANNELS, scaling.varies, strict=True) if not varies]


def _references(scaling: Scaling, pos_weight: float, absolute: Sequence[bool], raw: bool) -> tuple[float, ...]:
    prior = scaling.prior
    if 0 < prior < 1:
        positive = pos_weight * prior
        q = positive / (positive + 1 - prior)  # the constant that minimizes the weighted cross entropy
        entropy = -(positive * math.log(q) + (1 - prior) * math.log(1 - q))
    else:
        entropy = 0.0
    regression = [
        (deviation / u if is_absolute else (std / u) ** 2) if not raw else (deviation if is_absolute else std**2)
        for deviation, std, u, is_absolute in zip(
            scaling.mean_deviation, scaling.std, scaling.unit(), absolute[1:], strict=True
        )
    ]
    return (entropy, *regression)
