"""DECODE's HDF5 of localizations, as DECODE 0.10 writes it; read in foreign.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.files import atomic_path
from adaloc.hdf5_file import new_large_hdf5
from adaloc.localize.rows import Rows, as_rows

_LAYOUT_VERSION = "0.10.0"
"""Of DECODE, whose layout this is; DECODE's group holds this alone, because SMAP takes attributes by position."""


def write_decode_h5(path: Path, table: EmitterTable | Rows, pixel_size_nm: PixelSize, *, is_3d: bool = True) -> None:
    """Writes DECODE's `.h5`: frames from 0, px with 0 at a pixel's centre, z in nm, float32.

    DECODE's first coordinate runs along the rows of a frame, so its x is y here; `px_size` is in that order too. SMAP
    turns it back on import. Programs that take DECODE's x for a column show all DECODE files mirrored.
    Without uncertainties their datasets are empty, as DECODE's are; without probability it is 1, without background
    NaN, DECODE's own defaults; the precision formula's numbers are no prediction and are not written.

    Args:
        path: the file, replaced atomically.
        table: localizations; rows are written in the order of their frames.
        pixel_size_nm: camera pixel.
        is_3d: False writes z as 0 and its uncertainty as NaN.

    Raises:
        AdalocError: when the file cannot be written.
    """
    rows = as_rows(table)
    unknown = np.nan

    def xyz(part: EmitterTable) -> FloatArray:
        return np.stack([part.y, part.x, part.z if is_3d else np.zeros(len(part))], axis=1)

    def xyz_sigma(part: EmitterTable) -> FloatArray:
        z_sigma = part.z_sigma if is_3d else None
        return np.stack(
            [column_or(part.y_sigma, part), column_or(part.x_sigma, part), column_or(z_sigma, part)], axis=1
        )

    def column_or(column: FloatArray | None, part: EmitterTable, default: float = unknown) -> FloatArray:
        return np.full(len(part), default) if column is None else column

    columns: dict[str, tuple[Callable[[EmitterTable], FloatArray] | None, str]] = {
        "xyz": (xyz, "<f4"),
        "xyz_sig": (xyz_sigma if {"x_sigma", "y_sigma"} <= rows.columns else None, "<f4"),
        "xyz_cr": (None, "<f4"),
        "phot": (lambda part: part.photons, "<f4"),
        "phot_sig": (
            (lambda part: column_or(part.photons_sigma, part)) if "photons_sigma" in rows.columns else None,
            "<f4",
        ),
        "phot_cr": (None, "<f4"),
        "bg": (lambda part: column_or(part.background, part), "<f4"),
        "bg_sig": (None, "<f4"),
        "bg_cr": (None, "<f4"),
        "frame_ix": (lambda part: part.frame.astype(np.float64), "<i8"),
        "id": (
            lambda part: column_or(None if part.emitter_id is None else part.emitter_id.astype(np.float64), part, -1),
            "<i8",
        ),
        "prob": (lambda part: column_or(part.probability, part, 1.0), "<f4"),
    }
    with atomic_path(path) as temporary, new_large_hdf5(temporary) as file:
        data = file.create_group("data")
        file.create_group("decode").attrs["version"] = _LAYOUT_VERSION
        meta = file.create_group("meta").attrs
        meta["px_size"] = np.array([pixel_size_nm.y, pixel_size_nm.x], np.float32)
        meta["xy_unit"] = "px"
        for name, (values, dtype) in columns.items():
            if values is None:
                data.create_dataset(name, data=h5py.Empty("f"))
            else:
                shape = (rows.num_rows, 3) if name.startswith("xyz") else (rows.num_rows,)
                data.create_dataset(name, shape, dtype)
        begin = 0
        for part in rows.parts():
            for name, (values, _) in columns.items():
                if values is not None:
                    data[name][begin : begin + len(part)] = values(part)
            begin += len(part)
