"""Localizations in the binary and XML formats of DECODE, SMAP, rapidSTORM and Insight3 / storm-analysis."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from adaloc.config import PixelSize
from adaloc.emitters import FloatArray
from adaloc.errors import DataError
from adaloc.hdf5_file import attribute, dataset, member, read_numbers

MATLAB_HDF5_START = b"MATLAB 7.3 MAT-file"
RAPIDSTORM_START = b"# <localizations"
INSIGHT3_START = b"M425"
_INSIGHT3_HEADER_BYTES = 16
_INSIGHT3_RECORD = np.dtype(
    [(name, "<f4") for name in ("x", "y", "xc", "yc", "h", "area", "w", "phi", "ax", "bg", "i")]
    + [(name, "<i4") for name in ("category", "iterations", "frame", "length", "link")]
    + [("z", "<f4"), ("zc", "<f4")]
)
_RAPIDSTORM_FIELDS = {
    "Position-0-0": "x", "Position-1-0": "y", "Position-2-0": "z", "ImageNumber-0-0": "frame",
    "Amplitude-0-0": "photons",
    "Position-0-0-uncertainty": "x_sigma", "Position-1-0-uncertainty": "y_sigma", "LocalBackground-0-0": "background",
}  # fmt: skip


@dataclass(frozen=True)
class ForeignColumns:
    """What such a file holds.

    Attributes:
        columns: by the names of `EmitterTable`; frames from 0, z in nm, x and y and their sigmas in nm or px.
        is_nm: x and y are in nm.
        first_centre_px: where the centre of the first pixel is, in px.
        pixel_size_nm: camera pixel, where the file says it.
        image_size_px: (H, W), where the file says it.
        num_frames: of the movie, where the file says it.
    """

    columns: dict[str, FloatArray]
    is_nm: bool
    first_centre_px: float
    pixel_size_nm: PixelSize | None = None
    image_size_px: tuple[int, int] | None = None
    num_frames: int | None = None


def decode_columns(path: Path, file: h5py.File) -> ForeignColumns:
    """DECODE's HDF5. Its first coordinate runs along the rows of a frame and is therefore y here.

    Raises:
        DataError: when needed datasets are missing or of the wrong shape.
    """
    data, meta = file["data"], member(file, "meta")
    found = {name: dataset(data, name) for name in data}
    arrays = {
        name: read_numbers(source).astype(np.float64)
        for name, source in found.items()
        if source is not None and source.shape is not None and source.dtype.kind in "uif"
    }
    missing = [name for name in ("xyz", "phot", "frame_ix") if name not in arrays]
    if missing:
        raise DataError(f"{path} looks like a DECODE file but lacks {', '.join(missing)} in its group 'data'.")
    rows = len(arrays["frame_ix"])
    for name, array in arrays.items():
        if array.shape != ((rows, 3) if name.startswith("xyz") else (rows,)):
            raise DataError(f"{path}: data/{name} has the shape {array.shape}, frame_ix has {rows} rows.")
    columns = {"frame": arrays["frame_ix"], "photons": arrays["phot"]}
    columns.update(y=arrays["xyz"][:, 0], x=arrays["xyz"][:, 1], z=arrays["xyz"][:, 2])
    if "xyz_sig" in arrays:
        sigma = arrays["xyz_sig"]
        columns.update(y_sigma=sigma[:, 0], x_sigma=sigma[:, 1], z_sigma=sigma[:, 2])
    for name, ours in (
        ("bg", "background"),
        ("phot_sig", "photons_sigma"),
        ("prob", "probability"),
        ("id", "emitter_id"),
    ):
        if name in arrays:
            columns[ours] = arrays[name]
    if np.all(columns.get("emitter_id", np.zeros(1)) < 0):
        columns.pop("emitter_id", None)  # -1 stands for none
    # A column of NaN is how DECODE writes that nothing is known.
    needed = ("frame", "x", "y", "z", "photons")
    columns = {k: column for k, column in columns.items() if k in needed or not (rows and np.isnan(column).all())}
    sides = [float(str(side)) for side in np.ravel(_meta(meta, "px_size", ()))]  # 127.1 and not the float32 127.0999985
    known = PixelSize(x=sides[1], y=sides[0]) if len(sides) == 2 and all(1 < side < 10_000 for side in sides) else None
    unit = _meta(meta, "xy_unit", "px")
    if unit not in ("px", "nm"):
        raise DataError(f"{path}: the unit of x and y is '{unit}'; px and nm are understood.")
    return ForeignColumns(columns, unit == "nm", 0.0, known)


def _meta(meta: h5py.Group | h5py.Dataset | None, name: str, default: Any) -> Any:
    value = None if meta is None else attribute(meta, name)
    return default if value is None else value


def smap_columns(path: Path, file: h5py.File) -> ForeignColumns:
    """SMAP's `_sml.mat` of MATLAB 7.3; nm from the outer edge of the first pixel, frames from 1.

    Raises:
        DataError: when needed fields are missing.
    """
    group = file["saveloc/loc"]
    names = {
        "xnm": "x", "ynm": "y", "znm": "z", "frame": "frame", "phot": "photons", "bg": "background",
        "xnmerr": "x_sigma", "ynmerr": "y_sigma", "locprecznm": "z_sigma", "photerr": "photons_sigma",
    }  # fmt: skip
    found = {ours: dataset(group, name) for name, ours in names.items()}
    columns = {
        ours: read_numbers(source).astype(np.float64).ravel() for ours, source in found.items() if source is not None
    }
    missing = [name for name in ("xnm", "ynm", "frame", "phot") if names[name] not in columns]
    if missing:
        raise DataError(f"{path} looks like a SMAP file but lacks {', '.join(missing)} in saveloc/loc.")
    columns["frame"] = columns["frame"] - 1
    info = member(file, "saveloc/file/info")

    def number(name: str) -> FloatArray:
        source = dataset(info, name) if isinstance(info, h5py.Group) else None
        if source is None or source.dtype.kind not in "uif":
            return np.empty(0)
        return read_numbers(source).astype(np.float64).ravel()

    micrometres, height, width, frames = (number(n) for n in ("cam_pixelsize_um", "Height", "Width", "numberOfFrames"))
    size = None
    if len(micrometres) == 2 and bool(np.all((micrometres > 1e-3) & (micrometres < 10))):
        size = PixelSize(x=1000 * micrometres[0], y=1000 * micrometres[1])
    field = (int(height[0]), int(width[0])) if len(height) == len(width) == 1 else None
    return ForeignColumns(columns, True, 0.5, size, field, int(frames[0]) if len(frames) == 1 else None)


def rapidstorm_columns(path: Path) -> ForeignColumns:
    """rapidSTORM's text; nm from the centre of the first pixel, frames from 0, brightness in ADU and not in photons.

    Of tracked localizations the means are read.

    Raises:
        DataError: when the header cannot be read, a field is missing, or a line holds other things than numbers.
    """
    with path.open(encoding="utf-8", errors="replace") as handle:
        header = handle.readline()
        try:
            fields = [child for child in ElementTree.fromstring(header.lstrip("# ")) if child.tag == "field"]
        except ElementTree.ParseError as error:
            raise DataError(f"{path}: the header of this rapidSTORM file cannot be read: {error}.") from None
        positions = {
            _RAPIDSTORM_FIELDS[identifier]: index
            for index, child in enumerate(fields)
            if (identifier := child.attrib.get("identifier", "")) in _RAPIDSTORM_FIELDS
        }
        missing = {"x", "y", "frame", "photons"} - set(positions)
        if missing:
            raise DataError(f"{path} looks like a rapidSTORM file but lacks the fields {', '.join(sorted(missing))}.")
        for child in fields:
            if child.attrib.get("identifier", "").startswith("Position") and child.attrib.get("unit") != "nanometer":
                raise DataError(f"{path}: positions are in {child.attrib.get('unit')}, expected nanometer.")
        lines = [line for line in handle if line.strip() and not line.startswith("#")]
    if not lines:
        return ForeignColumns({name: np.empty(0) for name in positions}, True, 0.0)
    try:
        cells = np.loadtxt(lines, usecols=list(positions.values()), ndmin=2)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read; was it cut off? {error}") from None
    return ForeignColumns(dict(zip(positions, cells.T, strict=True)), True, 0.0)


def insight3_columns(path: Path) -> ForeignColumns:
    """Insight3's and storm-analysis' `.bin`; positions and frames from 1, brightness in ADU and not in photons.

    Raises:
        DataError: when the file is shorter than its header says.
    """
    with path.open("rb") as handle:
        header = handle.read(_INSIGHT3_HEADER_BYTES)
        num_records = int.from_bytes(header[12:16], "little", signed=True) if len(header) == 16 else -1
        present = (path.stat().st_size - _INSIGHT3_HEADER_BYTES) // _INSIGHT3_RECORD.itemsize
        if not 0 <= num_records <= present:
            raise DataError(f"{path} is cut off: its header says {num_records} localizations, it holds {present}.")
        records: Any = np.fromfile(handle, _INSIGHT3_RECORD, num_records)
    columns = {ours: records[name].astype(np.float64) for name, ours in (("x", "x"), ("y", "y"), ("z", "z"))}
    columns.update(frame=records["frame"].astype(np.float64) - 1, photons=records["area"].astype(np.float64))
    return ForeignColumns(columns, is_nm=False, first_centre_px=1.0)
