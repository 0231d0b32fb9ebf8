"""Aberration maps of FD-DeepLoc and uiPSF, converted to field maps.

Both keep one set of Zernike coefficients per pixel of the field, orthonormal as ours, but each in its own order,
unit and orientation:

- FD-DeepLoc (Fu et al., Nature Methods 20, 459, 2023), `aber_map` (H, W, 21 or 23): 21 modes in the order of
  `FD_DEEPLOC_MODES`, in wavelengths rms; planes 22 and 23 are sigmas of a blur of the image. The first axis of its
  pupil runs along the rows of the image, and angles are measured from there.
- uiPSF (Liu et al., Nature Methods 21, 1082, 2024), (H, W, 45, 2), or `zernike_map` (2, 45, h, w) on a coarse grid
  over the field in its own HDF5: modes in Noll's order, amplitude and phase, in radians rms; angles from the
  columns, as ours.

These are the conventions of the two programs' public sources; no file of either could be had to check them with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.ndimage import zoom

from adaloc.bounds import load_npy
from adaloc.emitters import FloatArray
from adaloc.errors import DataError
from adaloc.hdf5_file import open_hdf5, read_numbers
from adaloc.simulation.field_map import FieldMap
from adaloc.simulation.matlab_tree import is_real_array, open_matlab
from adaloc.simulation.pupil import clear_magnitudes
from adaloc.simulation.zernike import NUM_MODES, noll_to_radial_azimuthal

FD_DEEPLOC_MODES = (
    (2, -2), (2, 2), (3, -1), (3, 1), (4, 0), (3, -3), (3, 3), (4, -2), (4, 2), (5, -1), (5, 1),
    (6, 0), (4, -4), (4, 4), (5, -3), (5, 3), (6, -2), (6, 2), (7, 1), (7, -1), (8, 0),
)  # fmt: skip
"""(n, m) of the 21 planes; negative m are sine modes."""

_UIPSF_MODES = 45
_OURS = {noll_to_radial_azimuthal(j): j - 1 for j in range(1, NUM_MODES + 1)}
_MAGNITUDE_POINTS = 16  # along each side: amplitudes are smooth, and a field map keeps them at single points


@dataclass(frozen=True)
class ConvertedMap:
    """A field map, and what of its source it cannot hold.

    Attributes:
        field_map: the map.
        source: "FD-DeepLoc" or "uiPSF".
        kept_rad_rms: root mean square over the field of all modes that were kept, radians.
        lost_rad_rms: the same of the modes beyond Noll 21.
        has_blur: whether there were planes of a blur, which are left out.
    """

    field_map: FieldMap
    source: str
    kept_rad_rms: float
    lost_rad_rms: float
    has_blur: bool


def convert_aberration_map(
    path: Path, image_size_px: tuple[int, int] | None = None, *, transposed: bool = False
) -> ConvertedMap:
    """Reads a map of either program, told apart by its shape.

    Args:
        path: `.mat` (any version), `.npy`, or `.h5`.
        image_size_px: (height, width) of the field, needed for a coarse `zernike_map` and refused otherwise where it
            differs from the map's own.
        transposed: the first axis of the map runs along the columns of the image; FD-DeepLoc's angles then do too.

    Raises:
        DataError: when the file cannot be read, or holds no such map.
    """
    array = _read_array(path)
    if array.ndim == 4 and array.shape[:2] == (2, _UIPSF_MODES):
        if image_size_px is None:
            raise DataError(
                f"{path} holds a coarse map of {array.shape[2]} x {array.shape[3]} points. "
                "Give the field that it spans: --image-size-px HEIGHTxWIDTH"
            )
        array = _refine(array, image_size_px)
    if not np.isfinite(array).all():
        raise DataError(f"The map in {path} holds values that are not finite.")
    if transposed:
        array = array.swapaxes(0, 1)
    if array.ndim == 3 and array.shape[2] in (21, 23):
        converted = _from_fd_deeploc(array, angles_from_rows=not transposed)
    elif array.ndim == 4 and array.shape[2:] == (_UIPSF_MODES, 2):
        converted = _from_uipsf(array)
    else:
        raise DataError(
            f"The map in {path} has the shape {array.shape}; expected (H, W, 21), (H, W, 23) or (H, W, 45, 2)."
        )
    if image_size_px is not None and converted.field_map.size_px != image_size_px:
        raise DataError(f"The map in {path} is of {converted.field_map.size_px} px, not of {image_size_px}.")
    return converted


def from_row_angles(n_m: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """A mode whose angle is measured from the row axis, as a mode whose angle is measured from the column axis.

    The angles add up to 90 degrees, so that sine and cosine change places for odd m, with a sign.

    Returns:
        (n, m) and the sign of the coefficient.

    >>> from_row_angles((2, 2)), from_row_angles((3, 1)), from_row_angles((3, -3))
    (((2, 2), -1), ((3, -1), 1), ((3, 3), -1))
    """
    n, m = n_m
    if m % 2:
        return (n, -m), 1 if abs(m) % 4 == 1 else -1
    quarter_turns = abs(m) // 2 + (m < 0)
    return (n, m), 1 if quarter_turns % 2 == 0 else -1


def _from_fd_deeploc(array_HWC: FloatArray, *, angles_from_rows: bool) -> ConvertedMap:
    phase = np.zeros((NUM_MODES, *array_HWC.shape[:2]))
    kept = lost = 0.0
    for plane, n_m in enumerate(FD_DEEPLOC_MODES):
        own, sign = from_row_angles(n_m) if angles_from_rows else (n_m, 1)
        coefficient = array_HWC[:, :, plane] * (2 * np.pi)
        if own in _OURS:
            phase[_OURS[own]] = sign * coefficient
            kept += float((coefficient**2).mean())
        else:
            lost += float((coefficient**2).mean())
    height, width = array_HWC.shape[:2]
    coords = _corners(height, width)
    has_blur = array_HWC.shape[2] == 23 and bool(np.any(array_HWC[:, :, 21:]))
    field_map = FieldMap(phase, coords, clear_magnitudes(len(coords)))
    return ConvertedMap(field_map, "FD-DeepLoc", kept**0.5, lost**0.5, has_blur)


def _from_uipsf(array_HWK2: FloatArray) -> ConvertedMap:
    height, width = array_HWK2.shape[:2]
    magnitude, phase = np.moveaxis(array_HWK2, (2, 3), (1, 0))
    rows, columns = (
        np.unique(np.linspace(0, size - 1, _MAGNITUDE_POINTS).round().astype(int)) for size in (height, width)
    )
    y, x = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    at_points = magnitude[:NUM_MODES, y, x].T
    if np.any(at_points[:, 0] <= 0):
        raise DataError("The map's amplitude has no positive piston everywhere, and is no pupil of uiPSF.")
    own = phase.copy()
    own[:4] = 0  # piston, tilts and defocus move the image; uiPSF does not use them either
    mean_square = (own**2).mean(axis=(1, 2))
    return ConvertedMap(
        FieldMap(own[:NUM_MODES], np.stack([x, y], axis=1).astype(np.float64), at_points / at_points[:, :1]),
        "uiPSF",
        float(mean_square[:NUM_MODES].sum() ** 0.5),
        float(mean_square[NUM_MODES:].sum() ** 0.5),
        has_blur=False,
    )


def _corners(height: int, width: int) -> FloatArray:
    return np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], dtype=np.float64)


def _refine(array_2Khw: FloatArray, size_px: tuple[int, int]) -> FloatArray:
    """Linear between the points, of which the outer ones lie on the edges of the field."""
    factors = (1, 1, size_px[0] / array_2Khw.shape[2], size_px[1] / array_2Khw.shape[3])
    return np.asarray(np.moveaxis(zoom(array_2Khw, factors, order=1), (0, 1), (3, 2)))


def _read_array(path: Path) -> FloatArray:
    """The one map in a file: `aber_map`, `zernike_map`, or the only array of three or four axes."""
    if not path.is_file():
        raise DataError(f"The aberration map {path} does not exist. Check the path.")
    try:
        arrays = _all_arrays(path)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DataError(f"The aberration map {path} cannot be read: {error}. Export it again.") from None
    for name in ("aber_map", "res/zernike_map", "zernike_map"):
        if name in arrays:
            return np.asarray(arrays[name], dtype=np.float64)
    large = [name for name, value in arrays.items() if value.ndim in (3, 4)]
    if len(large) != 1:
        listed = ", ".join(f"{name} {value.shape}" for name, value in arrays.items()) or "nothing numeric"
        raise DataError(f"{path} holds no aber_map or zernike_map. It holds: {listed}.")
    return np.asarray(arrays[large[0]], dtype=np.float64)


def _all_arrays(path: Path) -> dict[str, Any]:
    if path.suffix == ".npy":
        return {path.stem: load_npy(path)}
    arrays: dict[str, Any] = {}
    if h5py.is_hdf5(path):  # MATLAB's v7.3 files are HDF5 with the axes reversed
        matlab = path.suffix == ".mat"
        with open_hdf5(path) as file:

            def keep(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu" and item.ndim in (3, 4):
                    arrays[name] = read_numbers(item).T if matlab else read_numbers(item)

            file.visititems(keep)
        return arrays
    with open_matlab(path, None) as variables:
        return {name: node.array() for name, node in variables.items() if is_real_array(node)}
