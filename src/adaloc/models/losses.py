"""Six-channel losses in information units: each channel is divided by the loss of its best constant predictor.

So knowing nothing scores the sum of the channel weights, and 0 is a perfect prediction, whatever the data are.
The errors of x, y, z and photons count at emitter pixels only; those of probability and background everywhere.

That is how every model is judged. What is minimised (`objective`) may have the likelihood of a mixture over pixels
(likelihood.py) beside the channels, or in their place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from adaloc.config import CHANNELS, TrainingConfig
from adaloc.data.scaling import Scaling
from adaloc.data.targets import BACKGROUND, PROBABILITY
from adaloc.models.likelihood import mean_of_neighbours, mixture_nats


@dataclass(frozen=True)
class LossSums:
    """Sums over pixels or emitters, so that batches add up exactly.

    Attributes:
        total_K: summed error of each channel, in network units (raw: in the targets' units).
        count_K: number of terms in each sum.
        nats: negative log likelihood, 0 for a loss without one.
    """

    total_K: torch.Tensor
    count_K: torch.Tensor
    nats: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(self.total_K + other.total_K, self.count_K + other.count_K, self.nats + other.nats)

    def detach(self) -> LossSums:
        """The same numbers without their history."""
        return LossSums(self.total_K.detach(), self.count_K.detach(), self.nats.detach())


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
        mixture_weight: of the mixture's nats in what is minimised; 0 for a network without uncertainties.
        mixture_alone: the nats take the place of all channels but the background, which no likelihood is part of.
    """

    weights: tuple[float, ...]
    pos_weight: float
    absolute: tuple[bool, ...]
    references: tuple[float, ...]
    scaling: Scaling
    raw: bool
    mixture_weight: float = 0.0
    mixture_alone: bool = False

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
        all_outputs, mask = outputs_BKHW.float(), targets_BKHW[:, PROBABILITY]
        outputs = all_outputs[:, : len(CHANNELS)]
        if self.mixture_alone:
            # The background has its gradient from here, the others from the likelihood.
            means = mean_of_neighbours(all_outputs, mask, self.scaling)
            outputs = torch.cat([means[:, :BACKGROUND], outputs[:, BACKGROUND:]], dim=1)
        if self.raw:
            outputs = torch.cat([outputs[:, :1], self.scaling.to_physical(outputs)[:, 1:]], dim=1)
        scaled = self.scaling.scale_targets(targets_BKHW)
        targets = targets_BKHW if self.raw else scaled
        positive = outputs.new_tensor(self.pos_weight)
        cross_entropy = F.binary_cross_entropy_with_logits(
            outputs[:, PROBABILITY], mask, pos_weight=positive, reduction="sum"
        )
        known = targets[:, BACKGROUND].isfinite()
        background_error = torch.where(known, outputs[:, BACKGROUND] - targets[:, BACKGROUND].nan_to_num(), 0.0)
        difference = outputs[:, 1:BACKGROUND] - targets[:, 1:BACKGROUND]
        absolute = torch.tensor(self.absolute[1:BACKGROUND], device=outputs.device)[:, None, None]
        error = torch.where(absolute, difference.abs(), difference.square()) * mask[:, None]
        total = torch.stack([cross_entropy, *error.sum((0, 2, 3)), background_error.square().sum()])
        nats = mixture_nats(all_outputs, scaled, self.scaling) if self.mixture_weight else all_outputs.new_zeros(())
        return LossSums(total, self.counts(targets_BKHW), nats)

    def counts(self, targets_BKHW: torch.Tensor) -> torch.Tensor:
        """(K,) number of terms in each channel's sum; it does not depend on the outputs."""
        mask, known = targets_BKHW[:, PROBABILITY], targets_BKHW[:, BACKGROUND].isfinite()
        num_emitters = mask.sum()
        return torch.stack([num_emitters.new_tensor(mask.numel()), *[num_emitters] * 4, known.sum().to(mask.dtype)])

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

    def objective(self, sums: LossSums) -> torch.Tensor:
        """What is minimised. Nats count per expected emitter: of a batch without emitters they are still finite."""
        if self.mixture_weight == 0:
            return self.total(sums)
        nats = self.mixture_weight * sums.nats / (sums.count_K[PROBABILITY] * self.scaling.prior)
        if self.mixture_alone:
            return nats + self.weights[BACKGROUND] * self.channels(sums)[BACKGROUND]
        return nats + self.total(sums)

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
    alone = config.loss_type == "gaussian_mixture"
    if config.loss_type != "simple_combined":
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
        mixture_weight=config.mixture_weight or (1.0 if alone else 0.0),
        mixture_alone=alone,
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
