"""Cubic-spline calibrations of SMAP and fit3Dcspline (`NAME_3dcal.mat`): reading and writing. docs/spline.md.

Conventions, taken from how SMAP's fitter and DECODE use these files:

- The first array axis of `coeff` is the image's rows, the second its columns, the third the planes of the bead stack.
- `x0` counts nodes from 1, for rows and columns alike; where it is missing, the middle node is meant.
- `z0` is subtracted from positions that count nodes from 0. z grows with the plane; SMAP turns its sign afterwards.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.io

from adaloc.errors import DataError
from adaloc.files import atomic_path
from adaloc.simulation.matlab_tree import Node, open_matlab
from adaloc.simulation.spline import Spline

_GLOBAL, _TILES, _BARE = "SXY_g", "SXY", "cspline"


def read_smap_calibration(path: Path, tile: int | None = None, channel: int = 0) -> Spline:
    """Reads one spline of a calibration.

    Args:
        path: MATLAB version 5 to 7.3; `cspline` below `SXY` or at the top level.
        tile: which of the spatial tiles, from 0, in MATLAB's order; None for the global calibration, or the only one.
        channel: which of the channels, from 0.

    Raises:
        DataError: when the file is broken, or lacks what was asked for.
    """
    with open_matlab(path, (_GLOBAL, _TILES, _BARE, "parameters")) as variables:
        cspline = _choose(path, variables, tile)
        channels = _require(path, cspline, "coeff").elements()
        if channel >= len(channels):
            raise DataError(f"{path} has {len(channels)} channels; simulation.psf.channel {channel} is not among them.")
        try:
            coefficients = _rows_first(channels[channel].array())
            dz_nm, z0 = (_number(_require(path, cspline, name)) for name in ("dz", "z0"))
            rows, columns = coefficients.shape[1] + 1, coefficients.shape[2] + 1
            centre = cspline.field("x0")
            x0, y0 = ((columns - 1) / 2, (rows - 1) / 2) if centre is None else (_number(centre) - 1,) * 2
            return Spline(coefficients, dz_nm, z0, x0, y0, _pixel_size_nm(variables.get("parameters")))
        except ValueError as error:
            raise DataError(f"{path} is no calibration that can be used: {error}.") from None


def write_smap_calibration(path: Path, spline: Spline) -> None:
    """Writes a calibration with one tile and one channel, atomically: MATLAB version 5, compressed.

    Raises:
        ValueError: when x0 and y0 differ, as the format has one number for both.
    """
    if spline.x0 != spline.y0:
        raise ValueError(f"the format has one centre for both axes; this spline has x0 {spline.x0:g}, y0 {spline.y0:g}")
    cells = spline.coefficients
    by_power = cells.reshape(*cells.shape[:3], 4, 4, 4).transpose(1, 2, 0, 3, 5, 4)
    coeff = np.empty((1, 1), dtype=object)
    coeff[0, 0] = np.ascontiguousarray(by_power).reshape(*by_power.shape[:3], 64).astype(np.float32)
    cspline = {
        "coeff": coeff, "dz": spline.dz_nm, "z0": spline.z0, "x0": spline.x0 + 1, "mirror": 0.0,
        "global": {"isglobal": 0.0},
    }  # fmt: skip
    whole_field = np.array([[-np.inf, np.inf]])
    variables: dict[str, object] = {
        "SXY": {
            "cspline": cspline, "posind": np.array([[1.0, 1.0]]), "Xrange": whole_field, "Yrange": whole_field,
            "EMon": 0.0,
        },
        "parameters": {"dz": spline.dz_nm},
    }  # fmt: skip
    if spline.pixel_size_nm is not None:
        pixel_um = np.array([spline.pixel_size_nm]) / 1000
        variables["parameters"] = {"dz": spline.dz_nm, "cam_pixelsize_um": pixel_um}
    with atomic_path(path) as temporary:
        scipy.io.savemat(temporary, variables, do_compression=True, appendmat=False)


def _choose(path: Path, variables: dict[str, Node], tile: int | None) -> Node:
    if tile is None and _GLOBAL in variables:
        return _require(path, variables[_GLOBAL].elements()[0], "cspline")
    if _TILES not in variables:
        if _BARE not in variables:
            raise DataError(f"{path} holds neither SXY nor cspline: it is no cubic-spline calibration.")
        if tile:
            raise DataError(f"{path} has one calibration for the whole field; leave simulation.psf.tile out.")
        return variables[_BARE]
    tiles = [element.field("cspline") for element in variables[_TILES].elements()]
    usable = [i for i, cspline in enumerate(tiles) if cspline is not None and cspline.field("coeff") is not None]
    numbers = ", ".join(map(str, usable))
    if tile is None and len(usable) != 1:
        what = f"{len(usable)} spatial tiles ({numbers}) and no global one" if usable else "no tile with a spline"
        raise DataError(f"{path} has {what}; name one in simulation.psf.tile, or calibrate the field as a whole.")
    chosen = usable[0] if tile is None else tile
    cspline = tiles[chosen] if chosen < len(tiles) else None
    if cspline is None or chosen not in usable:
        raise DataError(f"{path} has no spline in tile {chosen} of {len(tiles)}; there is one in: {numbers or 'none'}.")
    return cspline


def _require(path: Path, node: Node, name: str) -> Node:
    found = node.field(name)
    if found is None:
        raise DataError(f"{path} lacks {name}: it is no cubic-spline calibration, or one that failed.")
    return found


def _number(node: Node) -> float:
    array = node.array()
    if array.size != 1:
        raise ValueError(f"one number was expected, {array.size} are there")
    return float(array.reshape(-1)[0])


def _rows_first(coeff: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """(rows, columns, planes, 64) with powers 16 planes + 4 columns + rows, to the axes of `Spline`."""
    if coeff.ndim != 4 or coeff.shape[3] != 64:
        raise ValueError(f"coeff has shape {coeff.shape}; expected (rows, columns, planes, 64)")
    by_power = coeff.reshape(*coeff.shape[:3], 4, 4, 4).transpose(2, 0, 1, 3, 5, 4)
    return np.ascontiguousarray(by_power, dtype=np.float32).reshape(*by_power.shape[:3], 64)


def _pixel_size_nm(parameters: Node | None) -> tuple[float, float] | None:
    """SMAP's camera pixel in nm, if the file says it: one number or one each for x and y, in micrometres."""
    size = None if parameters is None else parameters.field("cam_pixelsize_um")
    if size is None:
        return None
    values = np.asarray(size.array(), dtype=np.float64).reshape(-1) * 1000
    if values.size not in (1, 2) or not (np.isfinite(values).all() and (values > 0).all()):
        return None
    return float(values[0]), float(values[-1])
