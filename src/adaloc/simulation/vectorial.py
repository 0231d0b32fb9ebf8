"""Vectorial diffraction PSF of a freely rotating dipole behind layered media.

Each dipole along x, y or z gives a field with an x and a y part behind the objective; the image is the sum of the
six intensities. Mortensen et al., Nature Methods 7, 377 (2010), with its supplement; Siemons et al., Optics Express
26, 8397 (2018). Light from below the critical angle of the sample (NA above its index) is evanescent there: it decays
with the emitter's height above the cover slip.

Axes as in `pupil`; C components of the field.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from adaloc.config import OpticsConfig
from adaloc.emitters import FloatArray
from adaloc.simulation.pupil import PupilPSF, pupil_grid, tensor

ComplexArray = npt.NDArray[np.complex128]
_AT_ONCE_A_THREAD = (
    32  # emitters on a CPU: the five fields of more than some 50 leave a core's cache, at half the speed
)


class VectorialPupilPSF(PupilPSF):
    """Field-dependent vectorial PSF of isotropic emitters.

    Args:
        optics: wavelength, NA, pixel size; `refractive_index` is that of the immersion medium.
        roi_size_px: odd side of the square that is computed.
        pupil_samples: samples across the pupil.
        sample_index: index of refraction around the emitters; None for that of the immersion medium.
        cover_slip_index: None for that of the immersion medium.
        defocus: what z moves. "depth": the emitter, in the sample. "stage": the focus, in the immersion medium, as in a
            scan of beads on the cover slip. Without a step of the index both are the same.
        focus_depth_nm: height above the cover slip of an emitter with z = 0, which is in focus there.
        blur_nm, pupil_phase, margin_px: see `PupilPSF`.
    """

    def __init__(
        self,
        optics: OpticsConfig,
        roi_size_px: int,
        pupil_samples: int = 40,
        *,
        sample_index: float | None = None,
        cover_slip_index: float | None = None,
        defocus: Literal["depth", "stage"] = "depth",
        focus_depth_nm: float = 0.0,
        blur_nm: float = 0.0,
        pupil_phase: FloatArray | None = None,
        margin_px: int | None = None,
    ) -> None:
        self._by_depth = defocus == "depth"
        self._focus_depth_nm = focus_depth_nm
        indices = [optics.refractive_index if n is None else n for n in (sample_index, cover_slip_index)]
        self._sample_index, slip_index = indices
        super().__init__(
            optics, roi_size_px, pupil_samples, blur_nm=blur_nm, pupil_phase=pupil_phase, margin_px=margin_px
        )
        u, coverage = pupil_grid(pupil_samples)
        u_col, v_row = np.meshgrid(u, u)
        inside = coverage > 0
        rho_P = np.minimum(np.hypot(u_col, v_row), 1.0)[inside]
        angle_P = np.arctan2(v_row, u_col)[inside]
        field_CP = coverage[inside] * dipole_fields(optics, self._sample_index, slip_index, rho_P, angle_P)
        evanescent_P = _wavenumber(optics, self._sample_index, rho_P).imag
        supercritical = bool(evanescent_P.max() > 0)
        self._field_CP = torch.from_numpy(field_CP.astype(np.complex64)) if supercritical else tensor(field_CP.real)
        self._power_P = tensor((np.abs(field_CP) ** 2).sum(0) / coverage[inside])
        self._decay_per_nm_P = tensor(evanescent_P) if supercritical else None
        if focus_depth_nm > 0:
            focusing_P = tensor(_focusing_phase(optics, self._sample_index, rho_P, focus_depth_nm))
            constant_P = self._constant_phase_P
            self._constant_phase_P = focusing_P if constant_P is None else constant_P + focusing_P

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
        at_once = _AT_ONCE_A_THREAD * torch.get_num_threads()
        if len(x_N) > at_once and x_N.device.type == "cpu":
            rows = [slice(begin, begin + at_once) for begin in range(0, len(x_N), at_once)]
            return torch.cat(
                [
                    self._images(
                        x_N[r], y_N[r], z_N[r],
                        None if phase_NK is None else phase_NK[r], None if magnitude_NK is None else magnitude_NK[r],
                        blur_nm,
                    )
                    for r in rows
                ]
            )  # fmt: skip
        return self._images(x_N, y_N, z_N, phase_NK, magnitude_NK, blur_nm)

    def _images(
        self,
        x_N: torch.Tensor,
        y_N: torch.Tensor,
        z_N: torch.Tensor,
        phase_NK: torch.Tensor | None,
        magnitude_NK: torch.Tensor | None,
        blur_nm: torch.Tensor | None,
    ) -> torch.Tensor:
        angle_NP = self._angles(x_N, y_N, z_N, phase_NK)
        amplitude_NP = torch.ones_like(angle_NP)
        if magnitude_NK is not None:
            amplitude_NP = magnitude_NK.to(angle_NP.dtype) @ self._modes_KP
        if self._decay_per_nm_P is not None:
            # Below the cover slip there are no emitters: the decay ends there, where tails of z ranges may reach.
            height_N = (self._focus_depth_nm + z_N * self._by_depth).clamp_min(0).to(angle_NP.dtype)
            amplitude_NP = amplitude_NP * (-height_N[:, None] * self._decay_per_nm_P).exp()
        energy_N = amplitude_NP.square() @ self._power_P
        phasor_NP = torch.polar(amplitude_NP.abs(), angle_NP + math.pi * (amplitude_NP < 0))
        field_MP = (phasor_NP[:, None, :] * self._field_CP).flatten(0, 1)
        return self._pixels(field_MP, energy_N, blur_nm)

    def _axial_phase_per_nm(self, optics: OpticsConfig, rho: FloatArray) -> FloatArray:
        index = self._sample_index if self._by_depth else optics.refractive_index
        return np.asarray(_wavenumber(optics, index, rho).real)


def dipole_fields(
    optics: OpticsConfig, sample_index: float, slip_index: float, rho_P: FloatArray, angle_P: FloatArray
) -> ComplexArray:
    """Fields in the pupil of an aplanatic objective, for dipoles along x, y and z.

    A dipole along x gives the same cross-polarized field as one along y, so that of the six components five are
    different; that one counts twice, by the square root of 2.

    Args:
        optics: NA and index of the immersion medium.
        sample_index: index around the dipole.
        slip_index: index of the cover slip.
        rho_P: radii in the pupil, 1 at the NA.
        angle_P: angles in the pupil from x towards y, radians.

    Returns:
        (5, P): x part of x dipole, y part of y dipole, cross part, x part of z dipole, y part of z dipole.
    """
    sine = optics.numerical_aperture * rho_P
    indices = (sample_index, slip_index, optics.refractive_index)
    sample, slip, oil = (np.emath.sqrt(1 - (sine / n) ** 2 + 0j) for n in indices)
    n_sample, n_slip, n_oil = indices
    # Fresnel's transmission from the sample into the slip over n cos(theta) of the sample: the factor of the wave
    # expansion of a dipole's field, which makes it finite at the critical angle; then from the slip into the immersion.
    p = 2 / (n_sample * slip + n_slip * sample) * 2 * n_slip * slip / (n_slip * oil + n_oil * slip)
    s = 2 / (n_sample * sample + n_slip * slip) * 2 * n_slip * slip / (n_slip * slip + n_oil * oil)
    aplanatic = np.sqrt(oil)
    radial, tangential, axial = aplanatic * p * sample, aplanatic * s, -aplanatic * p * sine / n_sample
    cos, sin = np.cos(angle_P), np.sin(angle_P)
    return np.stack(
        [
            radial * cos**2 + tangential * sin**2,
            radial * sin**2 + tangential * cos**2,
            (radial - tangential) * sin * cos * math.sqrt(2),
            axial * cos,
            axial * sin,
        ]
    )


def _wavenumber(optics: OpticsConfig, index: float, rho: FloatArray) -> ComplexArray:
    """Axial wave number in 1/nm; imaginary where the light is evanescent."""
    root = np.emath.sqrt(index**2 - (optics.numerical_aperture * rho) ** 2 + 0j)
    return np.asarray(2 * np.pi / optics.wavelength_nm * root)


def focused_depth_nm(optics: OpticsConfig, sample_index: float, stage_nm: float, samples: int = 64) -> float:
    """Height above the cover slip of the emitters that are in focus, in the sense of `focus_depth_nm`.

    Args:
        optics: NA, index of the immersion medium, wavelength.
        sample_index: around the emitters.
        stage_nm: how far the focus was moved into the sample, as measured in the immersion medium: what the stage or
            objective moved from focus on the cover slip.
        samples: across the pupil.
    """
    u, coverage = pupil_grid(samples)
    rho_P = np.minimum(np.hypot(*np.meshgrid(u, u)), 1.0)[coverage > 0]
    return stage_nm / float(_best_stage(optics, sample_index, rho_P, 1.0)[0])


def _best_stage(optics: OpticsConfig, sample_index: float, rho_P: FloatArray, depth_nm: float) -> FloatArray:
    """(2,) the stage's way in nm, and the piston in radians, that flatten the phase of an emitter at a depth best."""
    of_depth = depth_nm * _wavenumber(optics, sample_index, rho_P)
    propagating = of_depth.imag == 0
    columns = np.stack([_wavenumber(optics, optics.refractive_index, rho_P).real, np.ones_like(rho_P)], axis=1)
    best, *_ = np.linalg.lstsq(columns[propagating], of_depth.real[propagating], rcond=None)
    return np.asarray(best)


def _focusing_phase(optics: OpticsConfig, sample_index: float, rho_P: FloatArray, depth_nm: float) -> FloatArray:
    """Phase of an emitter at a depth, less the stage's defocus and piston that flatten it best.

    What is left is the spherical aberration of the step of the index.
    """
    of_depth = depth_nm * _wavenumber(optics, sample_index, rho_P)
    columns = np.stack([_wavenumber(optics, optics.refractive_index, rho_P).real, np.ones_like(rho_P)], axis=1)
    return np.asarray(of_depth.real - columns @ _best_stage(optics, sample_index, rho_P, depth_nm))
