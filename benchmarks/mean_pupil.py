"""A pupil PSF that is the same everywhere, as fits know it, for data with a field map."""

from __future__ import annotations

import torch

from adaloc.config import PupilPSFConfig, SimulationConfig
from adaloc.simulation.field_map import FieldMap
from adaloc.simulation.psf import make_psf


class MeanPupil:
    """The pupil PSF with the mean Zernike coefficients of a field map, the same everywhere."""

    def __init__(self, simulation: SimulationConfig, field_map: FieldMap, roi_size_px: int | None = None) -> None:
        assert isinstance(simulation.psf, PupilPSFConfig)
        size = {} if roi_size_px is None else {"roi_size_px": roi_size_px}
        self._psf = make_psf(simulation.psf.model_copy(update=size), simulation.optics)
        self.roi_size_px = self._psf.roi_size_px
        self._phase_1K = torch.from_numpy(field_map.phase.mean((1, 2))[None]).float()
        self._magnitude_1K = torch.from_numpy(field_map.coeff_mag.mean(0)[None]).float()

    def images(
        self,
        x_N: torch.Tensor,
        y_N: torch.Tensor,
        z_N: torch.Tensor,
        phase_NK: torch.Tensor | None = None,
        magnitude_NK: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `PSF.images`; coefficients that are given are ignored."""
        num = len(x_N)
        return self._psf.images(x_N, y_N, z_N, self._phase_1K.expand(num, -1), self._magnitude_1K.expand(num, -1))
