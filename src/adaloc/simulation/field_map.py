"""Field maps (`zmap`): how the Zernike coefficients vary over the field of view."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.interpolate import CloughTocher2DInterpolator, NearestNDInterpolator
from scipy.ndimage import map_coordinates, spline_filter
from scipy.spatial import QhullError

from adaloc.config import PupilPSFConfig
from adaloc.emitters import FloatArray
from adaloc.errors import DataError
from adaloc.files import atomic_path
from adaloc.hdf5_file import new_hdf5, open_hdf5, require_dataset
from adaloc.simulation.psf_file import PSFFile
from adaloc.simulation.pupil import clear_magnitudes
from adaloc.simulation.zernike import NUM_MODES

_ASTIGMATISM = 5  # row of Noll 6
_FIRST_ABERRATION = 4  # row of Noll 5: piston, tilts and defocus are no aberrations but shifts


@dataclass(frozen=True)
class FieldMap:
    """Zernike coefficients over the field.

    Attributes:
        phase: (21, H, W) radians rms at the pixel centres.
        coords: (P, 2) x and y in px at which the amplitude is known.
        coeff_mag: (P, 21) Zernike expansion of the pupil's amplitude there.
    """

    phase: FloatArray
    coords: FloatArray
    coeff_mag: FloatArray

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width)."""
        return self.phase.shape[1], self.phase.shape[2]

    def coefficients_at(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Phase and amplitude coefficients at positions in px: cubic inside the field, nearest outside.

        Returns:
            (N, 21) phase in radians, (N, 21) amplitude.
        """
        height, width = self.size_px
        position = np.stack([np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)])
        phase = np.zeros((len(x), NUM_MODES))
        for mode in range(NUM_MODES):
            if np.ptp(self.phase[mode]) == 0:
                phase[:, mode] = self.phase[mode, 0, 0]
            else:
                # A mirrored spline at the edges: the constant extension lies in the clipped positions.
                phase[:, mode] = map_coordinates(
                    self._phase_spline[mode], position, order=3, mode="mirror", prefilter=False
                )
        return phase, self._magnitude_at(x, y)

    @cached_property
    def _phase_spline(self) -> FloatArray:
        return np.stack([spline_filter(plane, order=3, mode="mirror") for plane in self.phase])

    def _magnitude_at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        if np.ptp(self.coeff_mag, axis=0).max() == 0:
            return np.repeat(self.coeff_mag[:1], len(x), axis=0)
        points = np.stack([x, y], axis=1)
        nearest = NearestNDInterpolator(self.coords, self.coeff_mag)(points)
        try:
            cubic = CloughTocher2DInterpolator(self.coords, self.coeff_mag)(points)
        except QhullError:  # fewer than three points, or all on a line: there is no inside
            return np.asarray(nearest)
        return np.asarray(np.where(np.isnan(cubic), nearest, cubic))


def random_field_map(
    config: PupilPSFConfig,
    wavelength_nm: float,
    size_px: tuple[int, int],
    rng: np.random.Generator,
    measured: PSFFile | None = None,
) -> FieldMap:
    """A constant aberration plus smooth quadratic fields in Noll 5 to 21, lower orders stronger.

    The constant one is astigmatism, or what was `measured`, in phase and amplitude. The root mean square of all
    field-dependent modes together, over the field, is `config.field_aberration_nm_rms`.
    """
    height, width = size_px
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    basis = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2])
    varying = np.zeros((NUM_MODES, height, width))
    order = np.array([2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5])  # radial order of Noll 5 to 21
    weights = rng.normal(size=(len(order), len(basis))) / order[:, None] ** 2
    varying[_FIRST_ABERRATION:] = np.tensordot(weights, basis, axes=1)
    rms = np.sqrt((varying**2).sum(0).mean())
    phase = varying * (config.field_aberration_nm_rms / rms)
    if measured is None:
        phase[_ASTIGMATISM] += config.astigmatism_nm_rms
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], dtype=np.float64)
    magnitude, phase = clear_magnitudes(len(corners)), phase * (2 * np.pi / wavelength_nm)
    if measured is not None:
        phase += measured.phase_K[:, None, None]
        magnitude[:] = measured.magnitude_K
    return FieldMap(phase, corners, magnitude)


def write_field_map(path: Path, field_map: FieldMap) -> None:
    """Writes the `zmap` HDF5 layout, atomically."""
    with atomic_path(path) as temporary, new_hdf5(temporary) as file:
        file["z_maps/phase"] = field_map.phase
        file["coords"] = field_map.coords
        file["zernike/coeff_mag"] = field_map.coeff_mag


def read_field_map(path: Path) -> FieldMap:
    """Reads a `zmap` file.

    Raises:
        DataError: when the file is missing, is not HDF5, or lacks a dataset of the right shape.
    """
    if not path.is_file():
        raise DataError(f"The field map {path} does not exist. Check the path after --zmap.")
    try:
        with open_hdf5(path) as file:
            missing = [name for name in ("z_maps/phase", "coords", "zernike/coeff_mag") if name not in file]
            if missing:
                raise DataError(f"The field map {path} lacks {', '.join(missing)}. docs/formats.md shows the layout.")
            phase, coords, magnitude = (
                require_dataset(file, name).astype(np.float64)
                for name in ("z_maps/phase", "coords", "zernike/coeff_mag")
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DataError(f"The field map {path} cannot be read as HDF5: {error}") from None
    is_right = coords.ndim == 2 and coords.shape[1] == 2 and magnitude.shape == (len(coords), NUM_MODES)
    if phase.ndim != 3 or len(phase) != NUM_MODES or not is_right or len(coords) == 0:
        raise DataError(
            f"The field map {path} has z_maps/phase {phase.shape}, coords {coords.shape} and zernike/coeff_mag "
            f"{magnitude.shape}; expected (21, H, W), (P, 2) and (P, 21)."
        )
    if not all(np.isfinite(part).all() for part in (phase, coords, magnitude)):
        raise DataError(f"The field map {path} holds values that are not finite.")
    return FieldMap(phase, coords, magnitude)
