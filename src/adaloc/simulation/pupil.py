"""Scalar diffraction PSF from a pupil with Zernike aberrations, one set of coefficients per emitter.

The image of an emitter is |matrix Fourier transform of its pupil|^2, integrated over the pixels. Sub-pixel
shifts are phase ramps in the pupil, so positions are exact; a batch of emitters runs as matrix products; and
everything differentiates. Goodman, Introduction to Fourier Optics, ch. 6; high-NA defocus after Hanser et al.,
J. Microsc. 216, 32 (2004).

Axes: N emitters, v and u pupil rows and columns, S samples and R pixels of the region of interest, K Zernike modes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt
from scipy.special import sici

from adaloc.config import OpticsConfig
from adaloc.emitters import FloatArray
from adaloc.simulation.zernike import NUM_MODES, zernike_modes


class PupilPSF(ABC):
    """What scalar and vectorial pupils share: the grid, ramps, modes, and the way from the pupil to the pixels.

    Args:
        optics: wavelength, NA, index of refraction, pixel size.
        roi_size_px: odd side of the square that is computed.
        pupil_samples: samples across the pupil; light repeats after pupil_samples * wavelength / (2 NA).
        blur_nm: sigma of a Gaussian that the image is blurred with, as by vibration or the width of the spectrum.
        pupil_phase: (pupil_samples, pupil_samples) radians that every emitter has, beyond the Zernike modes; the
            rows along y and the columns along x, as the grid of `pupil_grid`.
        margin_px: how far around the region light is computed that a blur brings in; None: three times `blur_nm`.
    """

    def __init__(
        self,
        optics: OpticsConfig,
        roi_size_px: int,
        pupil_samples: int,
        *,
        blur_nm: float = 0.0,
        pupil_phase: FloatArray | None = None,
        margin_px: int | None = None,
    ) -> None:
        if roi_size_px % 2 == 0:
            raise ValueError(f"roi_size_px must be odd, so that an emitter's pixel is its centre; it is {roi_size_px}")
        self.roi_size_px = roi_size_px
        self.pupil_samples = pupil_samples
        u, coverage = pupil_grid(pupil_samples)
        u_col, v_row = np.meshgrid(u, u)
        rho = np.minimum(np.hypot(u_col, v_row), 1.0)  # cells that the edge cuts count as lying on it
        inside = coverage > 0
        wavenumber_per_nm = 2 * math.pi / optics.wavelength_nm
        lateral_per_nm = wavenumber_per_nm * optics.numerical_aperture

        self._inside = torch.from_numpy(np.flatnonzero(inside))
        self._coverage_P = tensor(coverage[inside])
        modes = zernike_modes(rho, np.arctan2(v_row, u_col))
        self._modes_KP = tensor(modes[:, inside])
        self._constant_phase_P = None if pupil_phase is None else tensor(pupil_phase[inside])
        self._fitted_phase_P: torch.Tensor | None = None
        pixel = (optics.pixel_size_nm.x, optics.pixel_size_nm.y)
        # phase per px along x, per px along y, per nm along z
        self._phase_3P = tensor(
            np.stack(
                [
                    -lateral_per_nm * pixel[0] * u_col[inside],
                    -lateral_per_nm * pixel[1] * v_row[inside],
                    self._axial_phase_per_nm(optics, rho)[inside],
                ]
            )
        )
        margin = math.ceil(3 * blur_nm / min(pixel)) if margin_px is None else margin_px
        axes = [PupilAxis(size, u, lateral_per_nm, roi_size_px, margin) for size in pixel]
        self._axes = axes
        self._fourier_xuS, self._fourier_yvS = (axis.fourier() for axis in axes)
        self._integrate_xRS, self._integrate_yRS = (axis.integrals(blur_nm) for axis in axes)
        # Parseval: with the energy of the pupil's disk, the intensities of all pixels of the plane sum to 1.
        period_px = math.prod(pupil_samples * optics.wavelength_nm / (2 * optics.numerical_aperture) / p for p in pixel)
        self._density = 1 / period_px

    @abstractmethod
    def images(
        self,
        x_N: torch.Tensor,
        y_N: torch.Tensor,
        z_N: torch.Tensor,
        phase_NK: torch.Tensor | None = None,
        magnitude_NK: torch.Tensor | None = None,
        *,
        blur_nm: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Images of emitters; differentiable in all arguments.

        Args:
            x_N: column offset to the centre of the region's middle pixel, px.
            y_N: row offset, px.
            z_N: axial position relative to focus, nm; it rises away from the objective.
            phase_NK: Zernike phase coefficients, radians rms; None for no aberration.
            magnitude_NK: Zernike expansion of the pupil's amplitude (1, 0, 0, ... when clear); None when clear.
            blur_nm: sigma of the blur, for fits; None for the one that the PSF was made with.

        Returns:
            (N, R, R) share of the collected photons in each pixel; sums to at most 1 up to rounding.
        """

    def to(self, device: torch.device) -> Self:
        """Moves the matrices to a device; returns self."""
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(device))
        return self

    @property
    def num_inside(self) -> int:
        """P: samples inside of the pupil."""
        return len(self._inside)

    def fit_phase(self, phase_P: torch.Tensor | None) -> None:
        """Adds a phase to all emitters, sample by sample inside of the pupil; it may be a variable of a fit."""
        self._fitted_phase_P = phase_P

    @property
    def inside_grid(self) -> npt.NDArray[np.bool_]:
        """(S, S) which samples of the square grid lie inside of the pupil; row by row they are the P samples."""
        inside = np.zeros(self.pupil_samples**2, dtype=bool)
        inside[self._inside.cpu().numpy()] = True
        return inside.reshape(self.pupil_samples, self.pupil_samples)

    def on_grid(self, values_P: torch.Tensor) -> FloatArray:
        """(S, S) values on the square grid; outside of the pupil the nearest, so that they interpolate at its edge."""
        inside = self.inside_grid
        grid = np.zeros(inside.shape)
        grid[inside] = values_P.detach().double().cpu().numpy()
        nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
        return np.asarray(grid[tuple(nearest)])

    @abstractmethod
    def _axial_phase_per_nm(self, optics: OpticsConfig, rho: FloatArray) -> FloatArray:
        """Phase per nm of z at the radii `rho` of the pupil."""

    def _angles(
        self, x_N: torch.Tensor, y_N: torch.Tensor, z_N: torch.Tensor, phase_NK: torch.Tensor | None
    ) -> torch.Tensor:
        """(N, P) phase in the pupil."""
        angle_NP = torch.stack([x_N, y_N, z_N], dim=1).to(self._phase_3P.dtype) @ self._phase_3P
        if phase_NK is not None:
            angle_NP = angle_NP + phase_NK.to(angle_NP.dtype) @ self._modes_KP
        for phase_P in (self._constant_phase_P, self._fitted_phase_P):
            if phase_P is not None:
                angle_NP = angle_NP + phase_P
        return angle_NP

    def _pixels(self, field_MP: torch.Tensor, energy_N: torch.Tensor, blur_nm: torch.Tensor | None) -> torch.Tensor:
        """(N, R, R) images from the fields of all components, M = N times their number, emitter by emitter."""
        samples, emitters = self.pupil_samples, len(energy_N)
        pupil = field_MP.new_zeros(len(field_MP), samples * samples).index_copy(1, self._inside, field_MP)
        field = pupil.view(-1, samples, samples) @ self._fourier_xuS
        field = self._fourier_yvS.mT @ field
        intensity = field.real.square() + field.imag.square()
        if len(field) != emitters:
            intensity = intensity.view(emitters, -1, *intensity.shape[1:]).sum(1)
        intensity = intensity * (self._density / energy_N)[:, None, None]
        integrate_x, integrate_y = self._integrate_xRS, self._integrate_yRS
        if blur_nm is not None:
            integrate_x, integrate_y = (axis.integrals_of(blur_nm) for axis in self._axes)
        # Band limitation allows the exact integral over a pixel from samples at Nyquist; the cut at the region's
        # edge leaves ripples of about 1e-5 that may be negative, and photon counts cannot be.
        return (integrate_y @ intensity @ integrate_x.mT).clamp_min(0)


class ScalarPupilPSF(PupilPSF):
    """Field-dependent scalar PSF.

    Args:
        optics: wavelength, NA, index of refraction, pixel size.
        roi_size_px: odd side of the square that is computed.
        pupil_samples: samples across the pupil; light repeats after pupil_samples * wavelength / (2 NA).
        aplanatic: amplitude 1/sqrt(cos theta) of an isotropic emitter seen by a sine-condition objective; else 1.
        blur_nm, pupil_phase, margin_px: see `PupilPSF`.
    """

    def __init__(
        self,
        optics: OpticsConfig,
        roi_size_px: int,
        pupil_samples: int = 40,
        *,
        aplanatic: bool = False,
        blur_nm: float = 0.0,
        pupil_phase: FloatArray | None = None,
        margin_px: int | None = None,
    ) -> None:
        super().__init__(
            optics, roi_size_px, pupil_samples, blur_nm=blur_nm, pupil_phase=pupil_phase, margin_px=margin_px
        )
        amplitude_P = self._coverage_P
        if aplanatic:
            u, coverage = pupil_grid(pupil_samples)
            rho = np.minimum(np.hypot(*np.meshgrid(u, u)), 1.0)
            amplitude_P = tensor((coverage / np.sqrt(_cosine(optics, rho)))[coverage > 0])
        self._amplitude_P = amplitude_P

    def images(
        self,
        x_N: torch.Tensor,
        y_N: torch.Tensor,
        z_N: torch.Tensor,
        phase_NK: torch.Tensor | None = None,
        magnitude_NK: torch.Tensor | None = None,
        *,
        blur_nm: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(N, R, R) share of photons per pixel; see `PupilPSF.images`."""
        angle_NP = self._angles(x_N, y_N, z_N, phase_NK)
        amplitude_NP = self._amplitude_P.expand_as(angle_NP)
        if magnitude_NK is not None:
            amplitude_NP = amplitude_NP * (magnitude_NK.to(angle_NP.dtype) @ self._modes_KP)
        energy_N = (amplitude_NP.square() / self._coverage_P).sum(1)
        field_NP = torch.polar(amplitude_NP.abs(), angle_NP + math.pi * (amplitude_NP < 0))
        return self._pixels(field_NP, energy_N, blur_nm)

    def _axial_phase_per_nm(self, optics: OpticsConfig, rho: FloatArray) -> FloatArray:
        return 2 * math.pi / optics.wavelength_nm * optics.refractive_index * _cosine(optics, rho)


@dataclass(frozen=True)
class PupilAxis:
    """One axis of the image: from the pupil to samples, and from samples to pixels.

    Attributes:
        pixel_nm: size of a pixel.
        u_P: coordinates of the pupil's samples, -1 to 1.
        lateral_per_nm: phase per nm at the edge of the pupil.
        roi_size_px: number of pixels.
        margin_px: pixels on either side that have samples, but are no part of the result.
    """

    pixel_nm: float
    u_P: FloatArray
    lateral_per_nm: float
    roi_size_px: int
    margin_px: int = 0

    @property
    def per_pixel(self) -> int:
        """Samples in a pixel: the intensity holds frequencies up to 2 NA / wavelength, and needs two a period."""
        return math.ceil(self.pixel_nm / (math.pi / (2 * self.lateral_per_nm)))

    def fourier(self) -> torch.Tensor:
        """(P, S) Fourier matrix."""
        matrix = np.exp(1j * self.lateral_per_nm * self.pixel_nm * self.u_P[:, None] * self._offsets_px()[None, :])
        return torch.from_numpy(matrix.astype(np.complex64))

    def integrals(self, blur_nm: float) -> torch.Tensor:
        """(R, S) matrix that blurs samples and integrates them over pixels."""
        if blur_nm > 0:
            return self.integrals_of(torch.tensor(blur_nm, dtype=torch.float64)).float()
        distance, edge = self._distances(), self.per_pixel / 2
        integral = (sici(np.pi * (distance + edge))[0] - sici(np.pi * (distance - edge))[0]) / np.pi / self.per_pixel
        return tensor(integral)

    def integrals_of(self, blur_nm: torch.Tensor) -> torch.Tensor:
        """The same for a blur that may be fitted: the integral over frequencies, by Gauss-Legendre quadrature."""
        cosine_RSF, exponent_F = (torch.from_numpy(part).to(blur_nm) for part in self._frequency_integral)
        return cosine_RSF @ (exponent_F * blur_nm.square()).exp()

    @cached_property
    def _frequency_integral(self) -> tuple[FloatArray, FloatArray]:
        """(R, S, F) weighted cosines, and (F,) what a squared blur in nm adds to the exponent."""
        # The cosine turns once a sample of distance and period of the samples: 1.5 nodes a turn are converged.
        nodes, weights = np.polynomial.legendre.leggauss(3 * self._num_samples // 2 + 16)
        frequency, weight = (nodes + 1) / 4, weights / 2  # cycles per sample, 0 to 1/2; both signs together
        cosine_RSF = np.cos(2 * np.pi * self._distances()[:, :, None] * frequency)
        per_nm = frequency * self.per_pixel / self.pixel_nm
        return cosine_RSF * (weight * np.sinc(frequency * self.per_pixel)), -2 * (np.pi * per_nm) ** 2

    def _offsets_px(self) -> FloatArray:
        return (np.arange(self._num_samples) + 0.5) / self.per_pixel - self.roi_size_px / 2 - self.margin_px

    @property
    def _num_samples(self) -> int:
        """S."""
        return (self.roi_size_px + 2 * self.margin_px) * self.per_pixel

    def _distances(self) -> FloatArray:
        """(R, S) from each pixel's centre to each sample, in samples."""
        centres_px = np.arange(self.roi_size_px) - (self.roi_size_px - 1) / 2
        return np.asarray((centres_px[:, None] - self._offsets_px()[None, :]) * self.per_pixel)


def clear_magnitudes(num_emitters: int) -> FloatArray:
    """(num_emitters, 21) amplitude coefficients of a clear pupil: piston 1, the rest 0."""
    magnitudes = np.zeros((num_emitters, NUM_MODES))
    magnitudes[:, 0] = 1
    return magnitudes


def tensor(array: FloatArray) -> torch.Tensor:
    """A float32 tensor with the array's values."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def pupil_grid(samples: int) -> tuple[FloatArray, FloatArray]:
    """Cell centres across the pupil, (P,), and the share of each cell inside the unit disk, (P, P)."""
    fine = 16
    u_fine = (np.arange(samples * fine) + 0.5) / (samples * fine) * 2 - 1
    disk = (u_fine[:, None] ** 2 + u_fine[None, :] ** 2 <= 1).astype(np.float64)
    coverage = disk.reshape(samples, fine, samples, fine).mean(axis=(1, 3))
    return (np.arange(samples) + 0.5) / samples * 2 - 1, coverage


def _cosine(optics: OpticsConfig, rho: FloatArray) -> FloatArray:
    """Cosine of a ray's angle in the immersion medium."""
    return np.asarray(np.sqrt(1 - (optics.numerical_aperture / optics.refractive_index * rho) ** 2))
