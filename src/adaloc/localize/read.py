"""Localization and truth files of this and other programs, recognised by what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from adaloc.bounds import require_file
from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError, UnknownPixelSizeError
from adaloc.hdf5_file import dataset, member, open_hdf5, read_numbers, read_text
from adaloc.localize.csv_table import has_known_columns, read_csv_columns, require_columns
from adaloc.localize.foreign import (
    INSIGHT3_START,
    MATLAB_HDF5_START,
    RAPIDSTORM_START,
    ForeignColumns,
    decode_columns,
    insight3_columns,
    rapidstorm_columns,
    smap_columns,
)
from adaloc.yaml_file import read_yaml

_MOST_FRAMES = 10**12
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class LocalizationFile:
    """What a file holds; x and y of the table are in px of `pixel_size_nm`.

    `image_size_px` (H, W) and `num_frames` are None where the file does not say them. `is_3d`: the file has a z,
    and it is not 0 everywhere, which is how 2D data look in formats that always have a z.
    """

    table: EmitterTable
    pixel_size_nm: PixelSize
    image_size_px: tuple[int, int] | None
    num_frames: int | None
    is_3d: bool


def read_localizations(path: Path, pixel_size_nm: PixelSize | None = None) -> LocalizationFile:
    """Reads localizations or a truth.

    Understood are ThunderSTORM, SMAP, vLUME, NAIRR-SMLM and SMLM challenge 2013 CSV, the challenge's table without
    header (id, frame, x, y, z, photons), Picasso's `.hdf5`, DECODE's `.h5`, SMAP's `_sml.mat` (MATLAB 7.3),
    rapidSTORM's text and Insight3's `.bin` (both with the brightness in ADU), and adaloc's sample folder or the
    `emitters.h5` in it.

    Args:
        path: file, or sample folder.
        pixel_size_nm: camera pixel. CSV files do not say it; for the others it goes before what the file says.

    Returns:
        The table, and what the file says about the movie.

    Raises:
        DataError: when the file is missing, damaged, of another format, or holds values that cannot be.
            `UnknownPixelSizeError` is one.
    """
    if path.is_dir():
        return _read_sample_folder(path, pixel_size_nm)
    require_file(path, "a localization file")
    try:
        with path.open("rb") as handle:
            start = handle.read(4096)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check the path of the localization file.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not start:
        raise DataError(f"{path} is empty. The program that wrote it may have been interrupted.")
    if start.startswith(RAPIDSTORM_START):
        return _foreign(path, rapidstorm_columns(path), pixel_size_nm)
    if start.startswith(INSIGHT3_START):
        return _foreign(path, insight3_columns(path), pixel_size_nm)
    if start.startswith((HDF5_SIGNATURE, MATLAB_HDF5_START)):
        return _read_hdf5(path, pixel_size_nm)
    if b"\0" in start:
        raise DataError(
            f"{path} is neither HDF5 nor text. Give a Picasso .hdf5, a DECODE .h5, a .csv or a sample folder."
        )
    return _read_csv(path, pixel_size_nm)


def looks_like_localizations(path: Path) -> bool:
    """Whether `read_localizations` would try: the first bytes, names or column headings of a file are known to it.

    No localization is read, so a damaged file may look right. What is no file, or cannot be opened, does not.
    """
    if not path.is_file():
        return False
    try:
        with path.open("rb") as handle:
            start = handle.read(4096)
        if start.startswith((RAPIDSTORM_START, INSIGHT3_START)):
            return True
        if start.startswith((HDF5_SIGNATURE, MATLAB_HDF5_START)):
            with open_hdf5(path) as file:
                known = dataset(file, "locs") is not None or member(file, "data/xyz") is not None
                known = known or isinstance(member(file, "saveloc/loc"), h5py.Group)
                return known or (path.name == "emitters.h5" and "records" in file)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, DataError):
        return False
    return bool(start) and b"\0" not in start and has_known_columns(path)


def _read_sample_folder(folder: Path, pixel_size_nm: PixelSize | None) -> LocalizationFile:
    # Imported here because reading a CSV must not wait for what the data part imports.
    from adaloc.data.sample_folder import find_movie, read_emitters, read_movie_shape, read_pixel_size

    table = read_emitters(folder)
    _check_values(folder, {name: getattr(table, name) for name in ("frame", "x", "y", "z", "photons")})
    size = _known(folder, pixel_size_nm or read_pixel_size(folder))
    if not any(path.suffix.lower() in (".tif", ".tiff") for path in folder.iterdir()):
        # A truth may be kept without its movie, when the pixel size is given.
        return LocalizationFile(table, size, image_size_px=None, num_frames=None, is_3d=_has_depth(table.z))
    num_frames, height, width = read_movie_shape(find_movie(folder))
    return LocalizationFile(table, size, (height, width), num_frames, _has_depth(table.z))


def _read_csv(path: Path, pixel_size_nm: PixelSize | None) -> LocalizationFile:
    columns = read_csv_columns(path)
    columns["frame"] = columns["frame"] - 1
    _check_values(path, columns)
    size = _known(path, pixel_size_nm, is_placed=True)
    z, sigma_nm = columns.get("z"), columns.get("sigma_lateral")
    table = EmitterTable(
        frame=columns["frame"].astype(np.int64),
        x=columns["x"] / size.x - 0.5,
        y=columns["y"] / size.y - 0.5,
        z=np.zeros(len(columns["x"])) if z is None else z,
        photons=columns["photons"],
        background=columns.get("background"),
        x_sigma=None if sigma_nm is None else sigma_nm / size.x,
        y_sigma=None if sigma_nm is None else sigma_nm / size.y,
        z_sigma=columns.get("sigma_axial"),
        probability=columns.get("probability"),
        emitter_id=columns["emitter_id"].astype(np.int64) if "emitter_id" in columns else None,
    )
    return LocalizationFile(table, size, image_size_px=None, num_frames=None, is_3d=_has_depth(z))


def _read_hdf5(path: Path, pixel_size_nm: PixelSize | None) -> LocalizationFile:
    try:
        with open_hdf5(path) as file:
            # HDF5 lets a name be any bytes; h5py gives those that are no text as they are.
            names = [name if isinstance(name, str) else name.decode("utf-8", "replace") for name in file]
            table, metadata, data = dataset(file, "locs"), dataset(file, "metadata"), member(file, "data")
            locs = None if table is None else read_numbers(table)
            embedded = None if metadata is None else read_text(metadata)
            foreign = None
            if isinstance(data, h5py.Group) and "xyz" in data:
                foreign = decode_columns(path, file)
            elif isinstance(member(file, "saveloc/loc"), h5py.Group):
                foreign = smap_columns(path, file)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} is truncated or damaged. Copy or write it again. (HDF5 says: {error})") from error
    if foreign is not None:
        return _foreign(path, foreign, pixel_size_nm)
    if locs is not None:
        return _picasso(path, locs, _sidecar_metadata(path) or _embedded_metadata(embedded), pixel_size_nm)
    if "records" in names and path.name == "emitters.h5":
        return _read_sample_folder(path.parent, pixel_size_nm)
    raise DataError(
        f"{path} holds {', '.join(names) or 'nothing'}: neither Picasso's dataset 'locs', DECODE's 'data' or "
        "SMAP's 'saveloc', nor, as a file named emitters.h5, the group 'records' of a sample folder."
    )


def _foreign(path: Path, found: ForeignColumns, pixel_size_nm: PixelSize | None) -> LocalizationFile:
    columns = dict(found.columns)
    _check_values(path, columns)
    from_corner = found.first_centre_px == 0.5
    size = _known(path, pixel_size_nm or found.pixel_size_nm, is_placed=found.is_nm and from_corner)
    for axis, side in (("x", size.x), ("y", size.y)):
        scale = side if found.is_nm else 1.0
        columns[axis] = columns[axis] / scale - found.first_centre_px
        if f"{axis}_sigma" in columns:
            columns[f"{axis}_sigma"] = columns[f"{axis}_sigma"] / scale
    z = columns.setdefault("z", np.zeros(len(columns["x"])))
    anything: dict[str, Any] = dict(columns)  # the table makes whole numbers of frame and emitter_id
    table = EmitterTable(**anything)
    return LocalizationFile(table, size, found.image_size_px, found.num_frames, _has_depth(z))


def _picasso(path: Path, locs: Any, info: Mapping[str, Any], pixel_size_nm: PixelSize | None) -> LocalizationFile:
    names = locs.dtype.names or ()
    require_columns(path, "Picasso", ("frame", "x", "y", "photons"), names)
    columns = {name: np.asarray(locs[name], np.float64) for name in names if locs[name].dtype.kind in "iuf"}
    _check_values(path, columns)
    try:
        movie = _Movie.from_metadata(info)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"The metadata of {path} cannot be used: {error}") from error
    scale, z = movie.y_scale, columns.get("z")
    table = EmitterTable(
        frame=columns["frame"].astype(np.int64),
        x=columns["x"],
        y=(columns["y"] + 0.5) / scale - 0.5,
        z=np.zeros(len(locs)) if z is None else z,
        photons=columns["photons"],
        background=columns.get("bg"),
        x_sigma=columns.get("lpx"),
        y_sigma=columns["lpy"] / scale if "lpy" in columns else None,
        z_sigma=columns.get("lpz"),
        probability=columns.get("probability"),
    )
    size = _known(path, pixel_size_nm or movie.pixel_size_nm)
    return LocalizationFile(table, size, movie.image_size_px, movie.num_frames, _has_depth(z))


@dataclass(frozen=True)
class _Movie:
    """What the metadata say. `y_scale`: camera pixels are that much taller than Picasso's square ones."""

    pixel_size_nm: PixelSize | None
    image_size_px: tuple[int, int] | None
    num_frames: int | None
    y_scale: float

    @classmethod
    def from_metadata(cls, info: Mapping[str, Any]) -> _Movie:
        num_frames = int(info["Frames"]) if "Frames" in info else None
        camera = info.get("Camera")
        if isinstance(camera, dict) and "pixel_size_y_nm" in camera:  # written by export.write_picasso_hdf5
            size = PixelSize(x=camera["pixel_size_x_nm"], y=camera["pixel_size_y_nm"])
            return cls(size, (int(camera["height_px"]), int(camera["width_px"])), num_frames, size.y / size.x)
        square = PixelSize(x=info["Pixelsize"], y=info["Pixelsize"]) if "Pixelsize" in info else None
        image_size = (int(info["Height"]), int(info["Width"])) if "Height" in info and "Width" in info else None
        return cls(square, image_size, num_frames, 1.0)


def _sidecar_metadata(path: Path) -> dict[str, Any]:
    sidecar = path.with_suffix(".yaml")
    if not sidecar.is_file():
        return {}
    try:
        return _merged(read_yaml(sidecar))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{sidecar}, the metadata of {path.name}, cannot be read: {error}") from error


def _embedded_metadata(text: bytes | None) -> dict[str, Any]:
    """The metadata inside files of Picasso 0.11 and later."""
    try:
        documents = json.loads(text or b"[]")
    except (ValueError, RecursionError):
        return {}
    return _merged(documents) if isinstance(documents, list) else {}


def _merged(documents: Iterable[Any]) -> dict[str, Any]:
    """One dictionary; the later document wins, as in Picasso."""
    merged: dict[str, Any] = {}
    for document in documents:
        if isinstance(document, dict):
            merged.update({key: value for key, value in document.items() if value is not None})
    return merged


def _check_values(path: Path, columns: Mapping[str, Any]) -> None:
    """Positions and photons are finite; frames, from 0, are whole and not negative."""
    for name in ("frame", "x", "y", "z", "photons"):
        bad = ~np.isfinite(columns[name]) if name in columns else np.zeros(1, bool)
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{path}: {name} in row {row + 1} of the table is {columns[name][row]}. "
                "Remove such rows in the program that wrote the file."
            )
    frame = columns["frame"]
    if len(frame) and frame.max() > _MOST_FRAMES:
        row = int(np.argmax(frame))
        raise DataError(f"{path}: the frame in row {row + 1} of the table, {frame[row]:g}, is larger than any movie.")
    bad = (frame < 0) | (frame != np.round(frame))
    if bad.any():
        raise DataError(
            f"{path}: the frame in row {int(np.argmax(bad)) + 1} of the table is negative or no whole number. "
            "Frames count from 1 in CSV files and from 0 in HDF5 files."
        )


def _has_depth(z: FloatArray | None) -> bool:
    return z is not None and (len(z) == 0 or bool(np.any(z != 0)))


def _known(path: Path, pixel_size_nm: PixelSize | None, *, is_placed: bool = False) -> PixelSize:
    if pixel_size_nm is None:
        raise UnknownPixelSizeError(
            f"{path} does not say how large a camera pixel is. Give it with --pixel-size-nm.", is_placed=is_placed
        )
    return pixel_size_nm
