"""Tables that come out of linking, grouping, drift and ring correlation, and localizations in either format."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import ConfigError
from adaloc.files import atomic_path
from adaloc.localize.combining import Combined
from adaloc.localize.drift import Drift
from adaloc.localize.export import write_picasso_hdf5, write_thunderstorm_csv
from adaloc.localize.frc import RingCorrelation
from adaloc.localize.read import LocalizationFile

CSV_SUFFIX, HDF5_SUFFIXES = ".csv", (".hdf5", ".h5")


def require_table_name(path: Path) -> None:
    """Refuses names that say nothing about the format.

    Raises:
        ConfigError: when the name ends neither in .csv nor in .hdf5.
    """
    if path.suffix.lower() not in (CSV_SUFFIX, *HDF5_SUFFIXES):
        raise ConfigError(f"--out {path}: write a name that ends in .csv (ThunderSTORM) or .hdf5 (Picasso).")


def write_localizations(path: Path, table: EmitterTable, source: LocalizationFile) -> None:
    """Writes ThunderSTORM `.csv` or Picasso `.hdf5`, as the name ends.

    Args:
        path: the file.
        table: localizations, x and y in px of `source.pixel_size_nm`.
        source: the file that they came from, which knows about the movie.

    Raises:
        ConfigError: for another ending.
        AdalocError: when it cannot be written.
    """
    require_table_name(path)
    if path.suffix.lower() == CSV_SUFFIX:
        write_thunderstorm_csv(path, table, source.pixel_size_nm, is_3d=source.is_3d)
        return
    far_y, far_x = (math.floor(max(0.0, axis.max(initial=0.0)) + 0.5) + 1 for axis in (table.y, table.x))
    write_picasso_hdf5(
        path,
        table,
        source.pixel_size_nm,
        image_size_px=source.image_size_px or (far_y, far_x),
        num_frames=source.num_frames or int(table.frame.max(initial=0)) + 1,
        is_3d=source.is_3d,
    )


def write_combined(path: Path, combined: Combined, source: LocalizationFile) -> None:
    """Writes blinks or molecules: the molecule table as `.csv`, or what Picasso takes of it as `.hdf5`.

    The CSV is ThunderSTORM's with its own column `detections`, and `last_frame`, `uncertainty_x [nm]` and
    `uncertainty_y [nm]` besides. Frames count from 1; `frame` is the first. Uncertainties are standard errors of the
    mean position. What is not known has no column.

    Raises:
        ConfigError: for another ending.
        AdalocError: when it cannot be written.
    """
    require_table_name(path)
    if path.suffix.lower() != CSV_SUFFIX:
        write_localizations(path, combined.table, source)
        return
    table, size = combined.table, source.pixel_size_nm
    sigma_x, sigma_y = (
        None if sigma is None else sigma * side for sigma, side in ((table.x_sigma, size.x), (table.y_sigma, size.y))
    )
    lateral = None if sigma_x is None or sigma_y is None else np.sqrt((sigma_x**2 + sigma_y**2) / 2)
    columns: list[tuple[str, str, FloatArray | None]] = [
        ("id", "%d", np.arange(1.0, len(table) + 1)),
        ("frame", "%d", (table.frame + 1).astype(np.float64)),
        ("x [nm]", "%.4f", (table.x + 0.5) * size.x),
        ("y [nm]", "%.4f", (table.y + 0.5) * size.y),
        ("z [nm]", "%.4f", table.z if source.is_3d else None),
        ("intensity [photon]", "%.4f", table.photons),
        ("offset [photon]", "%.4f", table.background),
        ("uncertainty_xy [nm]", "%.4f", lateral),
        ("uncertainty_x [nm]", "%.4f", sigma_x),
        ("uncertainty_y [nm]", "%.4f", sigma_y),
        ("uncertainty_z [nm]", "%.4f", table.z_sigma if source.is_3d else None),
        ("detections", "%d", combined.count.astype(np.float64)),
        ("last_frame", "%d", (combined.last_frame + 1).astype(np.float64)),
    ]
    _write_csv(path, columns)


def write_drift(path: Path, drift: Drift) -> None:
    """Writes the drift as CSV: frame (from 1), x, y, z in nm; that is what was taken off the localizations.

    Raises:
        AdalocError: when it cannot be written.
    """
    columns: list[tuple[str, str, FloatArray | None]] = [("frame", "%d", np.arange(1.0, len(drift) + 1))]
    columns += [(f"{axis} [nm]", "%.4f", drift.shift_F3[:, index]) for index, axis in enumerate("xyz")]
    _write_csv(path, columns)


def write_ring_correlation(path: Path, curve: RingCorrelation) -> None:
    """Writes the curve as CSV.

    Raises:
        AdalocError: when it cannot be written.
    """
    _write_csv(
        path,
        [
            ("frequency [1/nm]", "%.8f", curve.frequency_per_nm),
            ("correlation", "%.6f", curve.correlation),
            ("smoothed", "%.6f", curve.smoothed),
        ],
    )


def _write_csv(path: Path, columns: list[tuple[str, str, FloatArray | None]]) -> None:
    present = [(name, form, values) for name, form, values in columns if values is not None]
    with atomic_path(path) as temporary:
        np.savetxt(
            temporary,
            np.column_stack([values for _, _, values in present]),
            fmt=[form for _, form, _ in present],
            delimiter=",",
            header=",".join(f'"{name}"' for name, _, _ in present),
            comments="",
        )
