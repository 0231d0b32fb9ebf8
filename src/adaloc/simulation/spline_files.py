"""From a calibration file to a spline PSF: SMAP's `_3dcal.mat`, and the HDF5 of uiPSF (Liu et al., Nat. Methods 2024).

uiPSF writes `/locres/coeff` (64, planes, rows, columns), powers as in `Spline`, normalized to the median sum of the
planes, and `/locres/coeff_reverse`, the same with z counted the other way; pixel sizes stand in the JSON of the
attribute `params`, in micrometres.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from adaloc.config import OpticsConfig, SplinePSFConfig
from adaloc.errors import DataError
from adaloc.hdf5_file import attribute, member, open_hdf5, read_numbers
from adaloc.simulation.matlab_tree import MOST_NUMBERS
from adaloc.simulation.smap_calibration import read_smap_calibration
from adaloc.simulation.spline import Spline, SplinePSF, reversed_z, transposed

_COEFF, _REVERSED = "locres/coeff", "locres/coeff_reverse"
_MOST_PARAMS = 1_000_000  # characters of JSON
_PIXEL_SIZE_TOLERANCE = 0.02


def load_spline_psf(config: SplinePSFConfig, optics: OpticsConfig) -> SplinePSF:
    """The PSF of a config's calibration file.

    Raises:
        DataError: when the file is missing, broken, or was calibrated with pixels of another size.
    """
    spline = read_spline(config.file, tile=config.tile, channel=config.channel, flip_z=config.flip_z)
    spline = transposed(spline) if config.transpose else spline
    if config.check_pixel_size and spline.pixel_size_nm is not None:
        here = (optics.pixel_size_nm.x, optics.pixel_size_nm.y)
        there = spline.pixel_size_nm
        if max(abs(a / b - 1) for a, b in zip(here, there, strict=True)) > _PIXEL_SIZE_TOLERANCE:
            raise DataError(
                f"{config.file} was calibrated with pixels of {there[0]:g} x {there[1]:g} nm, and "
                f"simulation.optics.pixel_size_nm is {here[0]:g} x {here[1]:g}. Set it to the calibration's; where the "
                "file is wrong about it, set simulation.psf.check_pixel_size to false."
            )
    try:
        return SplinePSF(spline, config.roi_size_px, config.z_offset_nm)
    except ValueError as error:
        raise DataError(f"{config.file} cannot be used as a PSF: {error}.") from None


def read_spline(path: Path, *, tile: int | None = None, channel: int = 0, flip_z: bool = False) -> Spline:
    """Reads a calibration, whichever of the formats it is in.

    Args:
        path: `_3dcal.mat`, or HDF5 of uiPSF.
        tile: spatial tile of SMAP's calibrations; None for the global one, or the only one.
        channel: from 0.
        flip_z: count z against the order of the planes.

    Raises:
        DataError: when it is missing, broken, or of no known format.
    """
    if not path.is_file():
        raise DataError(f"The PSF calibration {path} does not exist. Check simulation.psf.file.")
    if not (h5py.is_hdf5(path) and "params" in _attributes(path)):
        spline = read_smap_calibration(path, tile, channel)
        return reversed_z(spline) if flip_z else spline
    if tile:
        raise DataError(f"{path} is a uiPSF calibration without tiles; leave simulation.psf.tile out.")
    return _read_uipsf(path, channel, flip_z)


def _read_uipsf(path: Path, channel: int, flip_z: bool) -> Spline:
    try:
        with open_hdf5(path) as file:
            pixel_nm = _pixel_size_nm(attribute(file, "params"))
            own_reverse = flip_z and _is_spline(member(file, _REVERSED))
            dataset = member(file, _REVERSED if own_reverse else _COEFF)
            if not _is_spline(dataset):
                raise DataError(f"{path} lacks {_COEFF}: uiPSF writes it once the PSF has been learned.")
            coeff = _one_channel(dataset, channel)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as a uiPSF calibration: {error}.") from None
    planes, rows, columns = (cells + 1 for cells in coeff.shape[1:])
    # The emitter is where the Fourier transform has its origin; focus is taken to be the middle plane.
    spline = Spline(
        np.ascontiguousarray(np.moveaxis(coeff, 0, -1), dtype=np.float32), pixel_nm[2],
        float(planes - 1 - planes // 2 if own_reverse else planes // 2), float(columns // 2), float(rows // 2),
        pixel_nm[:2],
    )  # fmt: skip
    return reversed_z(spline) if flip_z and not own_reverse else spline


def _attributes(path: Path) -> set[str]:
    try:
        with open_hdf5(path) as file:
            return set(file.attrs)
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5; it may be cut off: {error}.") from None


def _is_spline(dataset: Any) -> bool:
    return isinstance(dataset, h5py.Dataset) and dataset.ndim in (4, 5) and dataset.dtype.kind == "f"


def _one_channel(dataset: h5py.Dataset, channel: int) -> Any:
    num_channels = dataset.shape[0] if dataset.ndim == 5 else 1
    if channel >= num_channels:
        raise ValueError(f"it has {num_channels} channels; simulation.psf.channel {channel} is not among them")
    shape = dataset.shape[-4:]
    if shape[0] != 64 or math.prod(shape) > MOST_NUMBERS or min(shape) < 1:
        raise ValueError(f"{dataset.name} has shape {dataset.shape}; expected (64, planes, rows, columns)")
    return read_numbers(dataset, channel if dataset.ndim == 5 else ())


def _pixel_size_nm(params: Any) -> tuple[float, float, float]:
    text = params.decode() if isinstance(params, bytes) else str(params)
    if len(text) > _MOST_PARAMS:
        raise ValueError("params are too long to be parameters")
    size = json.loads(text)["pixel_size"]
    x, y, z = (float(size[axis]) * 1000 for axis in "xyz")
    if not (min(x, y, z) > 0 and math.isfinite(x + y + z)):
        raise ValueError(f"pixel_size {size} is not above 0")
    return x, y, z
