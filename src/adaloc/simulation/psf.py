"""The point spread functions, chosen by the config."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from adaloc.config import GaussianPSFConfig, OpticsConfig, PSFConfig, PupilPSFConfig, SplinePSFConfig
from adaloc.errors import ConfigError
from adaloc.simulation.psf_file import read_psf_file
from adaloc.simulation.pupil import PupilPSF, ScalarPupilPSF
from adaloc.simulation.spline_files import load_spline_psf
from adaloc.simulation.vectorial import VectorialPupilPSF


class PSF(Protocol):
    """What the simulator asks of a PSF. Coefficients are ignored by a PSF that has none."""

    roi_size_px: int

    def images(
        self,
        x_N: torch.Tensor,
        y_N: torch.Tensor,
        z_N: torch.Tensor,
        phase_NK: torch.Tensor | None = None,
        magnitude_NK: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(N, R, R) share of photons per pixel for offsets in px to the middle pixel and z in nm."""
        ...


class GaussianPSF:
    """Astigmatic Gaussian integrated over the pixels; widths after Huang et al., Science 319, 810 (2008)."""

    def __init__(self, config: GaussianPSFConfig, optics: OpticsConfig) -> None:
        self.roi_size_px = config.roi_size_px
        self._config = config
        self._optics = optics

    def sigma_nm(self, z_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Widths (sigma_x, sigma_y) in nm at z in nm."""
        c = self._config
        return (
            _huang_sigma(z_N, c.sigma_x_nm, c.focus_x_nm, c.depth_nm, c.cubic_x, c.quartic_x),
            _huang_sigma(z_N, c.sigma_y_nm, c.focus_y_nm, c.depth_nm, c.cubic_y, c.quartic_y),
        )

    def images(
        self,
        x_N: torch.Tensor,
        y_N: torch.Tensor,
        z_N: torch.Tensor,
        phase_NK: torch.Tensor | None = None,
        magnitude_NK: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(N, R, R) share of photons per pixel; see `PSF.images`."""
        sigma_x, sigma_y = self.sigma_nm(z_N)
        share_x = _integrated_gaussian(x_N, sigma_x / self._optics.pixel_size_nm.x, self.roi_size_px)
        share_y = _integrated_gaussian(y_N, sigma_y / self._optics.pixel_size_nm.y, self.roi_size_px)
        return share_y[:, :, None] * share_x[:, None, :]


def make_psf(config: PSFConfig, optics: OpticsConfig) -> PSF:
    """The PSF that a config describes.

    Raises:
        DataError: when the file of a calibration is missing or cannot be used.
        ConfigError: when a calibration is of other optics.
    """
    if isinstance(config, SplinePSFConfig):
        return load_spline_psf(config, optics)
    if isinstance(config, PupilPSFConfig):
        return _pupil_psf(config, optics)
    return GaussianPSF(config, optics)


def _pupil_psf(config: PupilPSFConfig, optics: OpticsConfig) -> PupilPSF:
    model, aplanatic, blur_nm, pupil_phase = config.model, config.aplanatic, config.blur_nm, None
    sample_index, cover_slip_index = config.sample_index, config.cover_slip_index
    if config.calibration is not None:
        measured = read_psf_file(config.calibration)
        measured.require_optics(optics, str(config.calibration))
        model, aplanatic, blur_nm = measured.model, measured.aplanatic, measured.blur_nm
        sample_index, cover_slip_index = measured.sample_index, measured.cover_slip_index
        pupil_phase = measured.pupil_phase_on(config.pupil_samples)
        if model == "scalar" and (config.defocus != "depth" or config.focus_depth_nm != 0):
            raise ConfigError(
                "simulation.psf.defocus and focus_depth_nm have no meaning in the scalar model of "
                f"{config.calibration}; leave them out, or calibrate with --vectorial."
            )
    if model == "scalar":
        return ScalarPupilPSF(
            optics, config.roi_size_px, config.pupil_samples,
            aplanatic=aplanatic, blur_nm=blur_nm, pupil_phase=pupil_phase,
        )  # fmt: skip
    return VectorialPupilPSF(
        optics, config.roi_size_px, config.pupil_samples,
        sample_index=sample_index, cover_slip_index=cover_slip_index, defocus=config.defocus,
        focus_depth_nm=config.focus_depth_nm, blur_nm=blur_nm, pupil_phase=pupil_phase,
    )  # fmt: skip


def _huang_sigma(
    z_N: torch.Tensor, sigma_nm: float, focus_nm: float, depth_nm: float | None, cubic: float, quartic: float
) -> torch.Tensor:
    if depth_nm is None:
        return torch.full_like(z_N, sigma_nm)
    u = (z_N - focus_nm) / depth_nm
    return sigma_nm * (1 + u**2 + cubic * u**3 + quartic * u**4).clamp_min(1e-3).sqrt()


def _integrated_gaussian(offset_N: torch.Tensor, sigma_N: torch.Tensor, roi_size_px: int) -> torch.Tensor:
    edges = torch.arange(roi_size_px + 1, device=offset_N.device, dtype=offset_N.dtype) - roi_size_px / 2
    cumulative = torch.erf((edges[None, :] - offset_N[:, None]) / (sigma_N[:, None] * math.sqrt(2)))
    return 0.5 * cumulative.diff(dim=1)
