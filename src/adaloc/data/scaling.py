"""Scales measured on the training data: of the network's input, and of its targets.

A target channel is divided by the loss of its best constant predictor, so that knowing nothing scores exactly
the sum of the channel weights, whatever the data (DESIGN: loss in information units).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from adaloc.data.targets import SIGMAS
from adaloc.emitters import FloatArray
from adaloc.errors import CheckpointError

_LEAST_SIGMA = 0.003
"""In network units: 0.1 nm of a pixel of 100 nm, 1 nm of a z range of 1 um. Below what any photon budget allows."""


@dataclass(frozen=True)
class Scaling:
    """What the network's numbers mean.

    Attributes:
        input_mean, input_std: of the stabilized frames, see `stabilize`.
        prior: share of pixels that hold a target.
        mean, std, median, mean_deviation: of the targets x, y (px), z (nm), photons, background (photons per px);
            `mean_deviation` is the mean absolute difference to the median.
    """

    input_mean: float
    input_std: float
    prior: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    median: tuple[float, ...]
    mean_deviation: tuple[float, ...]

    @property
    def varies(self) -> tuple[bool, ...]:
        """For each of the six channels, whether its targets vary. One that never does has nothing to explain."""
        return (0 < self.prior < 1, *(bool(s > 1e-9 * (1 + abs(m))) for s, m in zip(self.std, self.mean, strict=True)))

    def unit(self) -> tuple[float, ...]:
        """Size of one network unit of x, y, z, photons, background; 1 for a channel that never varies."""
        return tuple(s if v else 1.0 for s, v in zip(self.std, self.varies[1:], strict=True))

    def scale_input(self, photons: torch.Tensor) -> torch.Tensor:
        """Frames in photons, of any shape, as the network sees them."""
        return (stabilize(photons) - self.input_mean) / self.input_std

    def scale_targets(self, targets_BKHW: torch.Tensor) -> torch.Tensor:
        """Targets in network units; the probability stays."""
        mean, unit = self._columns(targets_BKHW.device)
        return torch.cat([targets_BKHW[:, :1], (targets_BKHW[:, 1:] - mean) / unit], dim=1)

    def to_physical(self, outputs_BKHW: torch.Tensor) -> torch.Tensor:
        """Network outputs to probability and the targets' units; raw sigmas, where there are any, to sigmas."""
        mean, unit = self._columns(outputs_BKHW.device)
        channels = [outputs_BKHW[:, :1].sigmoid(), outputs_BKHW[:, 1:6] * unit + mean]
        if outputs_BKHW.shape[1] > 6:
            channels.append(positive_sigma(outputs_BKHW[:, SIGMAS]) * unit[:4])
        return torch.cat(channels, dim=1)

    def require_usable(self) -> None:
        """Refuses numbers that no data have.

        Raises:
            ValueError: naming them.
            TypeError: when they are no numbers.
        """
        columns = (self.mean, self.std, self.median, self.mean_deviation)
        numbers = (self.input_mean, self.input_std, self.prior, *(v for column in columns for v in column))
        if not all(math.isfinite(number) for number in numbers) or {len(column) for column in columns} != {5}:
            raise ValueError("it must hold finite numbers, five of each target statistic")
        if not 0 < self.prior < 1 or self.input_std <= 0 or min(*self.std, *self.mean_deviation) < 0:
            raise ValueError(f"prior {self.prior}, input_std {self.input_std}: out of range")

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Scaling:
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: when a value is missing.
        """
        try:
            plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()}
            scaling = Scaling(**plain)
            scaling.require_usable()
            return scaling
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"The model's scaling cannot be read: {error}") from None

    def _columns(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        def column(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]

        return column(self.mean), column(self.unit())


def positive_sigma(raw: torch.Tensor) -> torch.Tensor:
    """A network's raw output as a standard deviation in network units: softplus, linear for large values."""
    return torch.nn.functional.softplus(raw) + _LEAST_SIGMA


def stabilize(photons: torch.Tensor) -> torch.Tensor:
    """Anscombe's transform (Biometrika 35, 246, 1948): shot noise of any brightness gets a variance of 1.

    So a dim emitter on its background and the flank of a bright one are errors of like size to the network.
    Photons below -3/8, which read noise can make, count as -3/8.
    """
    return 2 * (photons + 0.375).clamp_min(0).sqrt()


def measure_scaling(
    *, input_mean: float, input_std: float, num_pixels: int, columns: tuple[FloatArray, ...]
) -> Scaling:
    """Scales from the training targets.

    Args:
        input_mean, input_std: of the stabilized frames.
        num_pixels: pixels of all target frames.
        columns: x, y offsets (px), z (nm), photons of every target, and the background of every frame
            (photons per px; empty where it is not known).
    """
    x = columns[0]

    def statistic(function: Any) -> tuple[float, ...]:
        return tuple(float(function(c)) if len(c) else 0.0 for c in columns)

    return Scaling(
        input_mean=input_mean,
        input_std=input_std if input_std > 0 else 1.0,
        prior=len(x) / num_pixels,
        mean=statistic(np.mean),
        std=statistic(np.std),
        median=statistic(np.median),
        mean_deviation=statistic(lambda c: np.abs(c - np.median(c)).mean()),
    )
