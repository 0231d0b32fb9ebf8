"""Terms of what is minimised that belong to training alone: focal loss, label smoothing, errors at coarser scales.

The loss by which models are judged and kept knows none of them, so that it compares models trained with any of them.
Each term is divided by what the best constant predictor has, as the channels are. All is float32, summed over the
frames at hand and divided by the counts of the whole batch, so that the parts of a batch add up.

Axes as in losses.py: B frames, K channels, H rows, W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from adaloc.config import TrainingTermsConfig
from adaloc.data.targets import PHOTONS, PROBABILITY
from adaloc.models.losses import ChannelLoss

SCALES_PX = (2, 4, 8)
_HALF_LOGIT_RANGE = 30.0


@dataclass(frozen=True)
class TrainingTerms:
    """What is minimised beside the loss.

    Attributes:
        config: the weights.
        loss: by which models are judged; its scaling, weights and references.
        detection_reference: of the changed cross entropy, the loss of its best constant predictor.
    """

    config: TrainingTermsConfig
    loss: ChannelLoss
    detection_reference: float

    @property
    def is_on(self) -> bool:
        """Whether there is any term."""
        return self.config.changes_cross_entropy or self.config.multi_scale_weight > 0

    def __call__(self, outputs_BKHW: torch.Tensor, targets_BKHW: torch.Tensor, count_K: torch.Tensor) -> torch.Tensor:
        """The terms' sum for some frames of a batch, a scalar; to be added to the objective.

        Args:
            outputs_BKHW: network outputs.
            targets_BKHW: physical targets.
            count_K: the loss's counts of the whole batch.
        """
        outputs, num_pixels = outputs_BKHW.float(), count_K[PROBABILITY].clamp_min(1)
        total = outputs.new_zeros(())
        if self.config.changes_cross_entropy:
            total = total + self._instead_of_cross_entropy(outputs[:, PROBABILITY], targets_BKHW, num_pixels)
        if self.config.multi_scale_weight > 0:
            total = total + self.config.multi_scale_weight * self._multi_scale(outputs, targets_BKHW, num_pixels)
        return total

    def _instead_of_cross_entropy(
        self, logit_BHW: torch.Tensor, targets_BKHW: torch.Tensor, num_pixels: torch.Tensor
    ) -> torch.Tensor:
        """The changed cross entropy less the plain one, which is part of the objective."""
        label, loss = targets_BKHW[:, PROBABILITY], self.loss
        smooth = smoothed(label, loss.scaling.prior, self.config.label_smoothing)
        changed = focal(logit_BHW, smooth, self.config.focal_gamma, loss.pos_weight).sum() / self.detection_reference
        plain = focal(logit_BHW, label, 0.0, loss.pos_weight).sum() / _or_one(0.0 if loss.raw else loss.references[0])
        return loss.weights[PROBABILITY] * (changed - plain) / num_pixels

    def _multi_scale(
        self, outputs_BKHW: torch.Tensor, targets_BKHW: torch.Tensor, num_pixels: torch.Tensor
    ) -> torch.Tensor:
        """Mean over the scales of the squared errors of count and light in squares, over their variances.

        The light of a square is the photons of its emitters, in units of the mean photons. The photons that a pixel
        would have count as given: only how probable it is has a gradient from here.
        """
        scaling = self.loss.scaling
        mean, std = scaling.mean[PHOTONS - 1], scaling.std[PHOTONS - 1]
        bright = 1.0 / _or_one(mean)
        label, p = targets_BKHW[:, PROBABILITY], outputs_BKHW[:, PROBABILITY].sigmoid()
        photons = scaling.to_physical(outputs_BKHW.detach())[:, PHOTONS].clamp_min(0) * bright
        errors = torch.stack([p - label, p * photons - label * targets_BKHW[:, PHOTONS] * bright], dim=1)
        prior = scaling.prior
        # Of one pixel; pixels are as good as independent, so that a square's is the sum of its pixels'.
        variances = (prior * (1 - prior), prior * (1 + (std * bright) ** 2) - prior**2)
        per_pixel = errors.new_tensor(variances)[:, None, None]
        total = errors.new_zeros(())
        for side in SCALES_PX:
            # Pixels beyond the edge count as right.
            bottom, right = (-extent % side for extent in errors.shape[-2:])
            sums = F.avg_pool2d(F.pad(errors, (0, right, 0, bottom)), side) * side**2
            total = total + (sums.square() / (per_pixel * side**2)).sum() * side**2
        return total / (2 * len(SCALES_PX) * num_pixels)


def make_terms(config: TrainingTermsConfig, loss: ChannelLoss) -> TrainingTerms:
    """The terms that a config asks for."""
    reference = 1.0 if loss.raw else focal_reference(loss.scaling.prior, config.focal_gamma, loss.pos_weight)
    return TrainingTerms(config, loss, _or_one(reference))


def smoothed(label: torch.Tensor, prior: float, share: float) -> torch.Tensor:
    """Labels of which a share is replaced by the mean label, so that their mean stays.

    Smoothing towards 1/2, as with balanced classes (Szegedy et al. 2016), would put an emitter into every empty pixel.
    """
    return (1 - share) * label + share * prior


def focal(logit: torch.Tensor, label: torch.Tensor, gamma: float, pos_weight: float) -> torch.Tensor:
    """Focal loss (Lin et al. 2017) of each pixel, for labels between 0 and 1; with gamma 0 the cross entropy, in nats.

    Args:
        logit, label: of one shape.
        gamma: power of the probability of the other answer.
        pos_weight: of the label's share of an emitter.
    """
    log_p, log_q = F.logsigmoid(logit), F.logsigmoid(-logit)
    of_emitter, of_none = -log_p, -log_q
    if gamma > 0:  # exp of the logarithms: neither power nor gradient is lost where a probability is nearly 0 or 1
        of_emitter, of_none = of_emitter * (gamma * log_q).exp(), of_none * (gamma * log_p).exp()
    return pos_weight * label * of_emitter + (1 - label) * of_none


def focal_reference(prior: float, gamma: float, pos_weight: float) -> float:
    """The least mean focal loss of a constant prediction, where a share `prior` of the pixels has an emitter."""
    if not 0 < prior < 1:
        return 0.0

    def mean(logit: float) -> float:
        log_p, log_q = -math.log1p(math.exp(-logit)), -math.log1p(math.exp(logit))
        return -pos_weight * prior * math.exp(gamma * log_q) * log_p - (1 - prior) * math.exp(gamma * log_p) * log_q

    found = minimize_scalar(mean, bounds=(-_HALF_LOGIT_RANGE, _HALF_LOGIT_RANGE), method="bounded")
    return float(found.fun)


def _or_one(value: float) -> float:
    return value if value > 0 else 1.0
