"""Localization files that Picasso and ThunderSTORM read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from adaloc import __version__
from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError
from adaloc.files import atomic_path

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
    table: EmitterTable,
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
    table = table.sorted_by_frame()
    columns: list[tuple[str, str, FloatArray]] = [
        ("id", "%d", np.arange(1.0, len(table) + 1)),
        ("frame", "%d", table.frame.astype(np.float64) + 1),
        ("x [nm]", "%.4f", (table.x + 0.5) * pixel_size_nm.x),
        ("y [nm]", "%.4f", (table.y + 0.5) * pixel_size_nm.y),
    ]
    if is_3d:
        columns.append(("z [nm]", "%.4f", table.z))
    if psf_sigma_nm is not None:
        # An astigmatic spot has two widths; Picasso's import wants both names wherever there is a z.
        for name in ("sigma1 [nm]", "sigma2 [nm]") if is_3d else ("sigma [nm]",):
            columns.append((name, "%.4f", np.full(len(table), psf_sigma_nm)))
    columns.append(("intensity [photon]", "%.4f", table.photons))
    if table.background is not None:
        columns.append(("offset [photon]", "%.4f", table.background))
    sigmas = _sigmas_nm(table, pixel_size_nm, psf_sigma_nm)
    if sigmas is not None:
        columns.append(("uncertainty_xy [nm]", "%.4f", np.sqrt((sigmas[0] ** 2 + sigmas[1] ** 2) / 2)))
    if is_3d and table.z_sigma is not None:
        columns.append(("uncertainty_z [nm]", "%.4f", table.z_sigma))
    if table.probability is not None:
        columns.append(("probability", "%.6f", table.probability))

    names, formats, values = zip(*columns, strict=True)
    header = ",".join(f'"{name}"' for name in names)
    with atomic_path(path) as temporary:
        np.savetxt(temporary, np.column_stack(values), fmt=list(formats), delimiter=",", header=header, comments="")


def write_picasso_hdf5(
    path: Path,
    table: EmitterTable,
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
    sigmas = _sigmas_nm(table, pixel_size_nm, psf_sigma_nm)
    if sigmas is None:
        raise DataError(
            f"{path}: Picasso needs the precision of each localization. This table has no x and y uncertainties, and "
            "they can be computed only from a background and the width of the PSF. "
            "Write a ThunderSTORM CSV instead, or use a model that predicts uncertainties."
        )
    info = _picasso_info(table, pixel_size_nm, image_size_px, num_frames, psf_sigma_nm)
    locs = _picasso_locs(table, sigmas, pixel_size_nm, is_3d)
    # The inner file is renamed first.
    with atomic_path(path) as temporary, atomic_path(path.with_suffix(".yaml")) as temporary_yaml:
        temporary_yaml.write_text(yaml.safe_dump_all(info, sort_keys=False), encoding="utf-8")
        with h5py.File(temporary, "w") as file:
            file.create_dataset("locs", data=locs)
            file.create_dataset("metadata", data=json.dumps(info))


def _sigmas_nm(
    table: EmitterTable, pixel_size_nm: PixelSize, psf_sigma_nm: float | None
) -> tuple[FloatArray, FloatArray] | None:
    """Uncertainty along x and along y in nm: the table's own, else the formula's, else None."""
    if table.x_sigma is not None and table.y_sigma is not None:
        return table.x_sigma * pixel_size_nm.x, table.y_sigma * pixel_size_nm.y
    if psf_sigma_nm is None or table.background is None:
        return None
    area = pixel_size_nm.x * pixel_size_nm.y
    return (
        precision_nm(table.photons, table.background, psf_sigma_nm, pixel_size_nm.x, area),
        precision_nm(table.photons, table.background, psf_sigma_nm, pixel_size_nm.y, area),
    )


def _picasso_locs(
    table: EmitterTable, sigmas_nm: tuple[FloatArray, FloatArray], pixel_size_nm: PixelSize, is_3d: bool
) -> np.ndarray[Any, np.dtype[np.void]]:
    scale = pixel_size_nm.y / pixel_size_nm.x
    columns: dict[str, FloatArray | None] = {
        "x": table.x,
        "y": (table.y + 0.5) * scale - 0.5,
        "z": table.z if is_3d else None,
        "photons": table.photons,
        "bg": table.background,
        "lpx": sigmas_nm[0] / pixel_size_nm.x,
        "lpy": sigmas_nm[1] / pixel_size_nm.x,
        "lpz": table.z_sigma if is_3d else None,
        "probability": table.probability,
    }
    present = {name: column for name, column in columns.items() if column is not None}
    locs = np.empty(len(table), dtype=[("frame", "<u4"), *((name, "<f4") for name in present)])
    locs["frame"] = table.frame
    for name, column in present.items():
        locs[name] = column
    # Picasso's linking and drift correction expect ascending frames.
    return locs[np.argsort(table.frame, kind="stable")]


def _picasso_info(
    table: EmitterTable,
    pixel_size_nm: PixelSize,
    image_size_px: tuple[int, int],
    num_frames: int,
    psf_sigma_nm: float | None,
) -> list[dict[str, Any]]:
    height, width = (int(side) for side in image_size_px)  # YAML knows no numpy numbers
    scale = pixel_size_nm.y / pixel_size_nm.x
    measured = table.x_sigma is not None and table.y_sigma is not None
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
