"""Localization files that Picasso, ThunderSTORM and SMAP read; DECODE's are written in decode_file.py."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from adaloc import __version__
from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError
from adaloc.files import atomic_path
from adaloc.hdf5_file import new_large_hdf5
from adaloc.localize.rows import Rows, as_rows

PRECISION_FORMULA = (
    "Mortensen et al., Nature Methods 7, 377 (2010), least squares: "
    "var = sa^2/N (16/9 + 8 pi sa^2 b/(N a^2)), sa^2 = sigma^2 + a^2/12"
)


def precision_nm(
    photons: FloatArray, background: FloatArray, psf_sigma_nm: float, pixel_nm: float, pixel_area_nm2: float
) -> FloatArray:
    """Theoretical precision along one axis, by `PRECISION_FORMULA`.

    It holds for a Gaussian spot alone in focus that is fitted by least squares; it is what Picasso and ThunderSTORM
    state too. It is no measured uncertainty.

    Args:
        photons: N, photons of each localization; less than one photon counts as one.
        background: b, photons per px.
        psf_sigma_nm: sigma of the spot, about 0.21 wavelength/NA in focus.
        pixel_nm: a along this axis.
        pixel_area_nm2: a^2 of the background term, the product of both sides.

    Returns:
        Standard deviations in nm.
    """
    n = np.maximum(photons, 1.0)
    sa_sq = psf_sigma_nm**2 + pixel_nm**2 / 12
    variance = sa_sq / n * (16 / 9 + 8 * np.pi * sa_sq * np.maximum(background, 0.0) / (n * pixel_area_nm2))
    return np.sqrt(variance)


def write_thunderstorm_csv(
    path: Path,
    table: EmitterTable | Rows,
    pixel_size_nm: PixelSize,
    *,
    psf_sigma_nm: float | None = None,
    is_3d: bool = True,
) -> None:
    """Writes a ThunderSTORM table: quoted header, frames from 1, nm from the outer edge of the first pixel.

    Columns that nothing is known about are left out: `offset` without background, `uncertainty_xy` where neither
    sigmas nor the formula's arguments exist, `sigma` without `psf_sigma_nm`. ThunderSTORM reads the file without
    them; Picasso's import asks for all of them, so give `psf_sigma_nm` for Picasso.

    Args:
        path: the file, replaced atomically.
        table: localizations; rows are written in the order of their frames.
        pixel_size_nm: camera pixel.
        psf_sigma_nm: sigma of the spot in focus. It is written as the width of every spot, and stands in
            `PRECISION_FORMULA` where the table has no sigmas.
        is_3d: False leaves out z and its uncertainty.

    Raises:
        AdalocError: when the file cannot be written.
    """
    rows = as_rows(table)
    columns: list[_CsvColumn] = [
        _CsvColumn('"frame"', "%d", lambda part: part.frame.astype(np.float64) + 1),
        _CsvColumn('"x [nm]"', "%.4f", lambda part: (part.x + 0.5) * pixel_size_nm.x),
        _CsvColumn('"y [nm]"', "%.4f", lambda part: (part.y + 0.5) * pixel_size_nm.y),
    ]
    if is_3d:
        columns.append(_CsvColumn('"z [nm]"', "%.4f", lambda part: part.z))
    if psf_sigma_nm is not None:
        # An astigmatic spot has two widths; Picasso's import wants both names wherever there is a z.
        for name in ('"sigma1 [nm]"', '"sigma2 [nm]"') if is_3d else ('"sigma [nm]"',):
            columns.append(_CsvColumn(name, "%.4f", lambda part: np.full(len(part), psf_sigma_nm)))
    columns.append(_CsvColumn('"intensity [photon]"', "%.4f", lambda part: part.photons))
    if "background" in rows.columns:
        columns.append(_CsvColumn('"offset [photon]"', "%.4f", lambda part: _present(part.background)))
    if knows_sigmas(rows.columns, psf_sigma_nm):
        columns.append(
            _CsvColumn('"uncertainty_xy [nm]"', "%.4f", lambda part: _lateral_nm(part, pixel_size_nm, psf_sigma_nm))
        )
    if is_3d and "z_sigma" in rows.columns:
        columns.append(_CsvColumn('"uncertainty_z [nm]"', "%.4f", lambda part: _present(part.z_sigma)))
    if "probability" in rows.columns:
        columns.append(_CsvColumn('"probability"', "%.6f", lambda part: _present(part.probability)))
    _write_csv(path, rows, '"id"', columns)


def write_smap_csv(
    path: Path,
    table: EmitterTable | Rows,
    pixel_size_nm: PixelSize,
    *,
    psf_sigma_nm: float | None = None,
    is_3d: bool = True,
) -> None:
    """Writes a table that SMAP's CSV import maps by itself: frames from 1, nm from the outer edge of the first pixel.

    Args and Raises as `write_thunderstorm_csv`; the width of the spot is used for the precision alone.
    """
    rows = as_rows(table)
    columns: list[_CsvColumn] = [
        _CsvColumn("frame", "%d", lambda part: part.frame.astype(np.float64) + 1),
        _CsvColumn("xnm", "%.4f", lambda part: (part.x + 0.5) * pixel_size_nm.x),
        _CsvColumn("ynm", "%.4f", lambda part: (part.y + 0.5) * pixel_size_nm.y),
    ]
    if is_3d:
        columns.append(_CsvColumn("znm", "%.4f", lambda part: part.z))
    columns.append(_CsvColumn("phot", "%.4f", lambda part: part.photons))
    if "background" in rows.columns:
        columns.append(_CsvColumn("bg", "%.4f", lambda part: _present(part.background)))
    if knows_sigmas(rows.columns, psf_sigma_nm):
        columns.append(_CsvColumn("locprecnm", "%.4f", lambda part: _lateral_nm(part, pixel_size_nm, psf_sigma_nm)))
    if is_3d and "z_sigma" in rows.columns:
        columns.append(_CsvColumn("locprecznm", "%.4f", lambda part: _present(part.z_sigma)))
    _write_csv(path, rows, "ID", columns)


def write_picasso_hdf5(
    path: Path,
    table: EmitterTable | Rows,
    pixel_size_nm: PixelSize,
    *,
    image_size_px: tuple[int, int],
    num_frames: int,
    psf_sigma_nm: float | None = None,
    is_3d: bool = True,
) -> None:
    """Writes Picasso's `.hdf5` and the `.yaml` beside it.

    Picasso knows one pixel size. It is given that along x, and y counts in pixels of that size too, so that the
    geometry in nm is right: y_picasso = (y + 0.5) * size_y/size_x - 0.5, and the height is scaled and rounded up.
    The YAML says so, and keeps the camera's own numbers for adaloc's reader. Picasso's reader leaves out rows with
    negative x, y or photons, that is also the outer half of the first row and column.

    The `.hdf5` also carries the metadata inside (Picasso 0.11 and later) and appears after the `.yaml`, so that
    whoever finds it finds its metadata.

    Args:
        path: the `.hdf5`; both files are replaced atomically.
        table: localizations; rows are written in the order of their frames.
        pixel_size_nm: camera pixel.
        image_size_px: (H, W) of the camera frame.
        num_frames: length of the movie.
        psf_sigma_nm: sigma of the spot in focus, for `PRECISION_FORMULA` where the table has no sigmas.
        is_3d: False leaves out z and its uncertainty.

    Raises:
        DataError: when the precision (lpx, lpy), which Picasso needs, is neither in the table nor to be computed.
        AdalocError: when a file cannot be written.
    """
    rows = as_rows(table)
    if not knows_sigmas(rows.columns, psf_sigma_nm):
        raise DataError(
            f"{path}: Picasso needs the precision of each localization. This table has no x and y uncertainties, and "
            "they can be computed only from a background and the width of the PSF (--psf-sigma-nm of adaloc convert). "
            "Give them, write a ThunderSTORM CSV instead, or use a model that predicts uncertainties."
        )
    info = _picasso_info(rows, pixel_size_nm, image_size_px, num_frames, psf_sigma_nm)
    names = ("x", "y", "z", "photons", "bg", "lpx", "lpy", "lpz", "probability")
    absent = {
        "z": not is_3d,
        "bg": "background" not in rows.columns,
        "lpz": not is_3d or "z_sigma" not in rows.columns,
        "probability": "probability" not in rows.columns,
    }
    dtype = np.dtype([("frame", "<u4"), *((name, "<f4") for name in names if not absent.get(name, False))])
    # The inner file is renamed first.
    with atomic_path(path) as temporary, atomic_path(path.with_suffix(".yaml")) as temporary_yaml:
        temporary_yaml.write_text(yaml.safe_dump_all(info, sort_keys=False), encoding="utf-8")
        with new_large_hdf5(temporary) as file:
            locs = file.create_dataset("locs", (rows.num_rows,), dtype)
            begin = 0
            for part in rows.parts():
                locs[begin : begin + len(part)] = _picasso_locs(part, dtype, pixel_size_nm, psf_sigma_nm)
                begin += len(part)
            file.create_dataset("metadata", data=json.dumps(info))


@dataclass(frozen=True)
class _CsvColumn:
    name: str
    number_format: str
    values: Callable[[EmitterTable], FloatArray]


def _write_csv(path: Path, rows: Rows, id_name: str, columns: Sequence[_CsvColumn]) -> None:
    """Writes part by part, with the rows counted from 1 in front."""
    formats = ["%d", *(column.number_format for column in columns)]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write(",".join([id_name, *(column.name for column in columns)]) + "\n")
        first = 1
        for part in rows.parts():
            ids = np.arange(first, first + len(part), dtype=np.float64)
            values = np.column_stack([ids, *(column.values(part) for column in columns)])
            np.savetxt(handle, values, fmt=formats, delimiter=",")
            first += len(part)


def knows_sigmas(columns: frozenset[str], psf_sigma_nm: float | None) -> bool:
    """Whether lateral uncertainties are in the table, or can be computed by `PRECISION_FORMULA`."""
    return {"x_sigma", "y_sigma"} <= columns or (psf_sigma_nm is not None and "background" in columns)


def _present(column: FloatArray | None) -> FloatArray:
    assert column is not None  # asked for only where `Rows.columns` has it
    return column


def _lateral_nm(part: EmitterTable, pixel_size_nm: PixelSize, psf_sigma_nm: float | None) -> FloatArray:
    """Root mean square of the uncertainties along x and y."""
    x_nm, y_nm = sigmas_nm(part, pixel_size_nm, psf_sigma_nm)
    mean_square: FloatArray = (x_nm**2 + y_nm**2) / 2
    return np.sqrt(mean_square)


def sigmas_nm(
    table: EmitterTable, pixel_size_nm: PixelSize, psf_sigma_nm: float | None
) -> tuple[FloatArray, FloatArray]:
    """Uncertainty along x and along y in nm: the table's own, else the formula's; ask `knows_sigmas` before."""
    if table.x_sigma is not None and table.y_sigma is not None:
        return table.x_sigma * pixel_size_nm.x, table.y_sigma * pixel_size_nm.y
    assert psf_sigma_nm is not None
    area, background = pixel_size_nm.x * pixel_size_nm.y, _present(table.background)
    return (
        precision_nm(table.photons, background, psf_sigma_nm, pixel_size_nm.x, area),
        precision_nm(table.photons, background, psf_sigma_nm, pixel_size_nm.y, area),
    )


def _picasso_locs(
    part: EmitterTable, dtype: np.dtype[Any], pixel_size_nm: PixelSize, psf_sigma_nm: float | None
) -> np.ndarray[Any, np.dtype[np.void]]:
    scale = pixel_size_nm.y / pixel_size_nm.x
    x_nm, y_nm = sigmas_nm(part, pixel_size_nm, psf_sigma_nm)
    columns = {
        "frame": part.frame,
        "x": part.x,
        "y": (part.y + 0.5) * scale - 0.5,
        "z": part.z,
        "photons": part.photons,
        "bg": part.background,
        "lpx": x_nm / pixel_size_nm.x,
        "lpy": y_nm / pixel_size_nm.x,
        "lpz": part.z_sigma,
        "probability": part.probability,
    }
    locs = np.empty(len(part), dtype)
    for name in dtype.names or ():
        locs[name] = columns[name]
    return locs


def _picasso_info(
    rows: Rows,
    pixel_size_nm: PixelSize,
    image_size_px: tuple[int, int],
    num_frames: int,
    psf_sigma_nm: float | None,
) -> list[dict[str, Any]]:
    height, width = (int(side) for side in image_size_px)  # YAML knows no numpy numbers
    scale = pixel_size_nm.y / pixel_size_nm.x
    measured = {"x_sigma", "y_sigma"} <= rows.columns
    movie = {
        # Rounding must not add a row to a height that is whole.
        "Height": math.ceil(height * scale - 1e-6),
        "Width": width,
        "Frames": int(num_frames),
        "Pixelsize": pixel_size_nm.x,
        "Generated by": f"adaloc {__version__}",
    }
    notes: dict[str, Any] = {
        "Generated by": f"adaloc {__version__} localize",
        "lpx, lpy": "uncertainty predicted for each localization"
        if measured
        else f"not measured: {PRECISION_FORMULA}, sigma = {psf_sigma_nm} nm",
        "Camera": {
            "pixel_size_x_nm": pixel_size_nm.x,
            "pixel_size_y_nm": pixel_size_nm.y,
            "height_px": height,
            "width_px": width,
        },
    }
    if scale != 1:
        notes["y, lpy, Height"] = (
            f"in pixels of {pixel_size_nm.x} nm, the size along x, because Picasso knows one pixel size: "
            f"y = (y_camera + 0.5) * {pixel_size_nm.y}/{pixel_size_nm.x} - 0.5"
        )
    return [movie, notes]
