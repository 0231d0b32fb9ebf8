"""Scalar diffraction PSF from a pupil with Zernike aberrations, one set of coefficients per emitter.

The image of an emitter is |matrix Fourier transform of its pupil|^2, integrated over the pixels. Sub-pixel
shifts are phase ramps in the pupil, so positions are exact; a batch of emitters runs as matrix products; and
everything differentiates. Goodman, Introduction to Fourier Optics, ch. 6; high-NA defocus after Hanser et al.,
J. Microsc. 216, 32 (2004).

Axes: N emitters, v and u pupil rows and columns, S samples and R pixels of the region of interest, K Zernike modes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import sici

from adaloc.config import OpticsConfig
from adaloc.emitters import FloatArray
from adaloc.simulation.zernike import NUM_MODES, zernike_modes


class ScalarPupilPSF:
    """Field-dependent scalar PSF.

    Args:
        optics: wavelength, NA, index of refraction, pixel size.
        roi_size_px: odd side of the square that is computed.
        pupil_samples: samples across the pupil; light repeats after pupil_samples * wavelength / (2 NA).
        aplanatic: amplitude 1/sqrt(cos theta) of an isotropic emitter seen by a sine-condition objective; else 1.
    """

    def __init__(
        self, optics: OpticsConfig, roi_size_px: int, pupil_samples: int = 40, *, aplanatic: bool = False
    ) -> None:
        if roi_size_px % 2 == 0:
            raise ValueError(f"roi_size_px must be odd, so that an emitter's pixel is its centre; it is {roi_size_px}")
        self.roi_size_px = roi_size_px
        u, coverage = _pupil_grid(pupil_samples)
        u_col, v_row = np.meshgrid(u, u)
        rho = np.minimum(np.hypot(u_col, v_row), 1.0)  # cells that the edge cuts count as lying on it
        cosine = np.sqrt(1 - (optics.numerical_aperture / optics.refractive_index * rho) ** 2)
        amplitude = coverage / np.sqrt(cosine) if aplanatic else coverage
        inside = coverage > 0
        wavenumber_per_nm = 2 * math.pi / optics.wavelength_nm
        lateral_per_nm = wavenumber_per_nm * optics.numerical_aperture

        self._inside = torch.from_numpy(np.flatnonzero(inside))
        self._pupil_samples = pupil_samples
        self._amplitude_P = _tensor(amplitude[inside])
        self._coverage_P = _tensor(coverage[inside])
        modes = zernike_modes(rho, np.arctan2(v_row, u_col))
        self._modes_KP = _tensor(modes[:, inside])
        pixel = (optics.pixel_size_nm.x, optics.pixel_size_nm.y)
        # phase per px along x, per px along y, per nm along z
        self._phase_3P = _tensor(
            np.stack(
                [
                    -lateral_per_nm * pixel[0] * u_col[inside],
                    -lateral_per_nm * pixel[1] * v_row[inside],
                    wavenumber_per_nm * optics.refractive_index * cosine[inside],
                ]
            )
        )
        self._fourier_xuS, self._integrate_xRS = _axis_matrices(pixel[0], u, lateral_per_nm, roi_size_px)
        self._fourier_yvS, self._integrate_yRS = _axis_matrices(pixel[1], u, lateral_per_nm, roi_size_px)
        # Parseval: with the energy of the pupil's disk, the intensities of all pixels of the plane sum to 1.
        period_px = math.prod(pupil_samples * optics.wavelength_nm / (2 * optics.numerical_aperture) / p for p in pixel)
        self._density = 1 / period_px

    def to(self, device: torch.device) -> ScalarPupilPSF:
        """Moves the matrices to a device; returns self."""
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(device))
        return self

    def images(
        self,
        x_N: torch.Tensor,
        y_N: torch.Tensor,
        z_N: torch.Tensor,
        phase_NK: torch.Tensor | None = None,
        magnitude_NK: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Images of emitters; differentiable in all arguments.

        Args:
            x_N: column offset to the centre of the region's middle pixel, px.
            y_N: row offset, px.
            z_N: axial position relative to focus, nm.
            phase_NK: Zernike phase coefficients, radians rms; None for no aberration.
            magnitude_NK: Zernike expansion of the pupil's amplitude (1, 0, 0, ... when clear); None when clear.

        Returns:
            (N, R, R) share of the collected photons in each pixel; sums to at most 1 up to rounding.
        """
        angle_NP = torch.stack([x_N, y_N, z_N], dim=1).to(self._phase_3P.dtype) @ self._phase_3P
        if phase_NK is not None:
            angle_NP = angle_NP + phase_NK.to(angle_NP.dtype) @ self._modes_KP
        amplitude_NP = self._amplitude_P.expand_as(angle_NP)
        if magnitude_NK is not None:
            amplitude_NP = amplitude_NP * (magnitude_NK.to(angle_NP.dtype) @ self._modes_KP)
        energy_N = (amplitude_NP.square() / self._coverage_P).sum(1)
        field_NP = torch.polar(amplitude_NP.abs(), angle_NP + math.pi * (amplitude_NP < 0))
        samples = self._pupil_samples
        pupil = field_NP.new_zeros(len(x_N), samples * samples).index_copy(1, self._inside, field_NP)
        field = pupil.view(-1, samples, samples) @ self._fourier_xuS
        field = self._fourier_yvS.mT @ field
        intensity = (field.real.square() + field.imag.square()) * (self._density / energy_N)[:, None, None]
        # Band limitation allows the exact integral over a pixel from samples at Nyquist; the cut at the region's
        # edge leaves ripples of about 1e-5 that may be negative, and photon counts cannot be.
        return (self._integrate_yRS @ intensity @ self._integrate_xRS.mT).clamp_min(0)


def clear_magnitudes(num_emitters: int) -> FloatArray:
    """(num_emitters, 21) amplitude coefficients of a clear pupil: piston 1, the rest 0."""
    magnitudes = np.zeros((num_emitters, NUM_MODES))
    magnitudes[:, 0] = 1
    return magnitudes


def _tensor(array: FloatArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _pupil_grid(samples: int) -> tuple[FloatArray, FloatArray]:
    """Cell centres across the pupil, (P,), and the share of each cell inside the unit disk, (P, P)."""
    fine = 16
    u_fine = (np.arange(samples * fine) + 0.5) / (samples * fine) * 2 - 1
    disk = (u_fine[:, None] ** 2 + u_fine[None, :] ** 2 <= 1).astype(np.float64)
    coverage = disk.reshape(samples, fine, samples, fine).mean(axis=(1, 3))
    return (np.arange(samples) + 0.5) / samples * 2 - 1, coverage


def _axis_matrices(
    pixel_nm: float, u: FloatArray, lateral_per_nm: float, roi_size_px: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fourier matrix (P, S) from pupil to samples, and matrix (R, S) that integrates samples over pixels."""
    # The intensity holds frequencies up to 2 NA / wavelength: sample it no coarser than half that period.
    nyquist_nm = math.pi / (2 * lateral_per_nm)
    per_pixel = math.ceil(pixel_nm / nyquist_nm)
    offsets_px = (np.arange(roi_size_px * per_pixel) + 0.5) / per_pixel - roi_size_px / 2
    fourier = np.exp(1j * lateral_per_nm * pixel_nm * u[:, None] * offsets_px[None, :])
    centres_px = np.arange(roi_size_px) - (roi_size_px - 1) / 2
    distance = (centres_px[:, None] - offsets_px[None, :]) * per_pixel
    edge = per_pixel / 2
    integral = (sici(np.pi * (distance + edge))[0] - sici(np.pi * (distance - edge))[0]) / np.pi / per_pixel
    return torch.from_numpy(fourier.astype(np.complex64)), _tensor(integral)
