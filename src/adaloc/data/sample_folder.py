"""Sample folders: one movie with its truth (docs/formats.md).

    DATA/sample_000/sample_000.ome.tiff   (T, H, W) ADU
    DATA/sample_000/emitters.h5           records/frame_ix, id, phot, xyz; emitters/...; zernike_coeffs/...

In the file x, y count from the corner of the field (0 to W) and z is in micrometres; in memory x, y are 0 at the
centre of the first pixel and z is in nm. The half pixel is taken off on reading and put on in writing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import numpy.typing as npt
import tifffile

from adaloc.config import CameraConfig, OpticsConfig, PixelSize
from adaloc.data.tiff_file import open_tiff, read_frames
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import AdalocError, DataError
from adaloc.files import describe_write_failure
from adaloc.hdf5_file import member, new_hdf5, open_hdf5, read_numbers
from adaloc.simulation.background import BackgroundShape
from adaloc.simulation.camera_maps import CameraMaps, maps_of
from adaloc.simulation.frames import SimulatedSample

EMITTERS_FILE = "emitters.h5"
_CORNER_TO_CENTRE_PX = 0.5
_NM_PER_UM = 1000.0
_TO_NM = {"nm": 1.0, "µm": 1000.0, "um": 1000.0, "μm": 1000.0, "mm": 1e6}


def list_samples(root: Path) -> list[Path]:
    """The sample folders below `root`, sorted by name: those that hold an emitters.h5 or are named sample_*.

    Raises:
        DataError: when `root` is no folder.
    """
    if not root.is_dir():
        raise DataError(f"The data folder {root} does not exist.")
    return sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and (path.name.startswith("sample_") or (path / EMITTERS_FILE).exists())
    )


def find_movie(folder: Path) -> Path:
    """The TIFF of a sample folder.

    Raises:
        DataError: when there is none, or several and none is named like the folder.
    """
    movies = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".tif", ".tiff") and not p.name.startswith("."))
    named = [p for p in movies if p.name in (f"{folder.name}.ome.tiff", f"{folder.name}.ome.tif")]
    if named:
        return named[0]
    if len(movies) == 1:
        return movies[0]
    if not movies:
        raise DataError(f"The sample {folder} holds no TIFF movie. Delete the folder, or put its movie back.")
    raise DataError(
        f"The sample {folder} holds {len(movies)} TIFF files ({', '.join(p.name for p in movies[:4])}...). "
        f"Keep one, or name it {folder.name}.ome.tiff."
    )


def read_movie(path: Path) -> npt.NDArray[Any]:
    """Reads a whole movie.

    Returns:
        (T, H, W), uint16 or the file's own number type.

    Raises:
        DataError: when the file is missing, is no TIFF, is cut off, or is not a stack of grey frames.
    """
    if not path.is_file():
        raise DataError(f"The movie {path} does not exist. Check its path.")
    with open_tiff(path) as tiff:
        if "S" in tiff.series[0].axes:
            raise DataError(f"The movie {path} is in colour; expected grey frames (T, H, W).")
        frames = read_frames(tiff, path)
    if frames.ndim == 2:
        frames = frames[None]
    if frames.ndim != 3 or frames.shape[0] == 0 or frames.dtype.kind not in "uif":
        raise DataError(f"The movie {path} has shape {frames.shape} of {frames.dtype}; expected grey frames (T, H, W).")
    if frames.dtype.kind == "f" and not (finite := np.isfinite(frames).all(axis=(1, 2))).all():
        bad = np.flatnonzero(~finite)
        raise DataError(
            f"The movie {path} holds NaN or infinite pixels in {len(bad)} frames, first in frame {bad[0]} "
            "(counted from 0). Export it again, or remove these frames."
        )
    return np.asarray(frames)


def read_emitters(folder: Path) -> EmitterTable:
    """The emitters of a sample folder (or of an emitters.h5), one row per frame, sorted by frame.

    Raises:
        DataError: when the file is missing, broken, or holds numbers that cannot be.
    """
    path = folder / EMITTERS_FILE if folder.is_dir() else folder
    arrays = _read_datasets(path, {"records/frame_ix": 1, "records/phot": 1, "records/xyz": 2, "records/id": 1})
    missing = [name for name in ("records/frame_ix", "records/phot", "records/xyz") if arrays.get(name) is None]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}: it is not an emitter file of a sample folder (docs/formats.md)."
        )
    frame, photons, xyz, ids = (arrays[f"records/{key}"] for key in ("frame_ix", "phot", "xyz", "id"))
    assert frame is not None and photons is not None and xyz is not None
    if xyz.shape != (len(frame), 3) or photons.shape != frame.shape:
        raise DataError(
            f"{path}: records/frame_ix has {len(frame)} rows, phot {photons.shape}, xyz {xyz.shape}; "
            "expected (M,), (M,) and (M, 3)."
        )
    for name, values in (("xyz", xyz), ("phot", photons), ("frame_ix", frame)):
        if not np.isfinite(values).all():
            raise DataError(f"{path}: records/{name} holds NaN or infinite values.")
    if len(frame) and (frame.min() < 0 or photons.min() < 0):
        raise DataError(f"{path}: records hold negative frames or photons.")
    return EmitterTable(
        frame=frame.astype(np.int64),
        x=xyz[:, 0] - _CORNER_TO_CENTRE_PX,
        y=xyz[:, 1] - _CORNER_TO_CENTRE_PX,
        z=xyz[:, 2] * _NM_PER_UM,
        photons=photons,
        emitter_id=None if ids is None or ids.shape != frame.shape else ids.astype(np.int64),
    ).sorted_by_frame()


def read_background(folder: Path) -> FloatArray | None:
    """(T,) photons per px of each frame, or None where the folder does not say."""
    return _read_datasets(folder / EMITTERS_FILE, {"background/photons": 1})["background/photons"]


def read_background_shape(folder: Path) -> BackgroundShape | None:
    """How the background is spread over the field; None where the folder says nothing of it: it is uniform.

    Raises:
        DataError: when the file is broken.
    """
    path = folder / EMITTERS_FILE
    arrays = _read_datasets(path, {"background/pattern": 3, "background/pattern_ix": 1})
    pattern, index = arrays["background/pattern"], arrays["background/pattern_ix"]
    if pattern is None or index is None:
        return None
    if not len(pattern) or not np.isin(index, np.arange(len(pattern))).all() or not np.isfinite(pattern).all():
        raise DataError(f"{path}: background/pattern_ix names patterns that background/pattern does not hold.")
    return BackgroundShape(pattern.astype(np.float32), index.astype(np.int64))


def read_camera_origin(folder: Path) -> tuple[int, int] | None:
    """(row, column) of the camera maps at which the first pixel lies; None where the folder does not say.

    Raises:
        DataError: when the file is broken.
    """
    path = folder / EMITTERS_FILE
    origin = _read_datasets(path, {"camera/origin_px": 1})["camera/origin_px"]
    if origin is None:
        return None
    if origin.shape != (2,):
        raise DataError(f"{path}: camera/origin_px has the shape {origin.shape}; expected (2,): row, column.")
    return int(origin[0]), int(origin[1])


def read_maps_of_sample(folder: Path, size_px: tuple[int, int], camera: CameraConfig) -> CameraMaps | None:
    """The camera maps under a sample's pixels; None for a uniform camera.

    Args:
        folder: the sample folder; a sample that does not say where it lies in the maps must be of their size.
        size_px: (height, width) of its movie.
        camera: names the maps.

    Raises:
        DataError: when sample and maps do not fit, or only one of them knows of maps.
    """
    origin, maps = read_camera_origin(folder), maps_of(camera)
    if maps is None:
        if origin is not None:
            raise DataError(
                f"The sample {folder} was taken with a camera whose pixels differ (camera/origin_px in emitters.h5). "
                "Name its maps in simulation.camera.maps."
            )
        return None
    try:
        return maps.fitting(size_px) if origin is None else maps.cut(origin, size_px)
    except DataError as error:
        raise DataError(f"The sample {folder} and {camera.maps} do not fit: {error}") from None


def read_coefficients(folder: Path) -> tuple[FloatArray, FloatArray] | None:
    """(N, 21) Zernike phases in radians and amplitudes, rows as `emitter_id`; None where the folder does not say."""
    arrays = _read_datasets(folder / EMITTERS_FILE, {"zernike_coeffs/phase": 2, "zernike_coeffs/mag": 2})
    phase, magnitude = arrays["zernike_coeffs/phase"], arrays["zernike_coeffs/mag"]
    return None if phase is None or magnitude is None else (phase, magnitude)


def read_pixel_size(folder: Path) -> PixelSize | None:
    """The pixel size in a sample folder's OME metadata, or None where it has none."""
    return movie_pixel_size(find_movie(folder if folder.is_dir() else folder.parent))


def read_movie_shape(path: Path) -> tuple[int, int, int]:
    """(T, H, W) of a TIFF of grey frames, without reading them.

    Raises:
        DataError: when it is no such file.
    """
    with open_tiff(path) as tiff:
        shape = tiff.series[0].shape
    if len(shape) not in (2, 3):
        raise DataError(f"The movie {path} has shape {shape}; expected grey frames (T, H, W).")
    height, width = shape[-2:]
    return (shape[0] if len(shape) == 3 else 1), height, width


def movie_pixel_size(path: Path) -> PixelSize | None:
    """The pixel size in a TIFF's OME metadata, in nm, or None where it has none."""
    with open_tiff(path) as tiff:
        metadata = tiff.ome_metadata
    if not metadata:
        return None
    try:
        pixels = next(e for e in ElementTree.fromstring(metadata).iter() if e.tag.endswith("}Pixels"))
        size = {
            axis: float(pixels.attrib[f"PhysicalSize{axis.upper()}"])
            * _TO_NM[pixels.attrib.get(f"PhysicalSize{axis.upper()}Unit", "µm")]
            for axis in ("x", "y")
        }
        return PixelSize(**size)
    except (StopIteration, KeyError, ValueError, ElementTree.ParseError):
        return None


def write_sample(folder: Path, sample: SimulatedSample, optics: OpticsConfig) -> None:
    """Writes a sample folder; it appears complete or not at all.

    Raises:
        AdalocError: when it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        tifffile.imwrite(
            temporary / f"{folder.name}.ome.tiff",
            sample.frames_THW,
            photometric="minisblack",
            metadata={
                "axes": "TYX",
                "PhysicalSizeX": optics.pixel_size_nm.x / _NM_PER_UM,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": optics.pixel_size_nm.y / _NM_PER_UM,
                "PhysicalSizeYUnit": "µm",
            },
        )
        _write_emitters(temporary / EMITTERS_FILE, sample)
        temporary.rename(folder)
    except OSError as error:
        raise AdalocError(describe_write_failure(folder, error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_emitters(path: Path, sample: SimulatedSample) -> None:
    emitters, molecules = sample.emitters, sample.molecules
    with new_hdf5(path) as file:
        file["records/frame_ix"] = emitters.frame
        file["records/id"] = emitters.emitter_id
        file["records/phot"] = emitters.photons
        file["records/xyz"] = _to_file_units(emitters.x, emitters.y, emitters.z)
        file["emitters/xyz"] = _to_file_units(molecules.x, molecules.y, molecules.z)
        file["emitters/intensity"] = molecules.photons_per_frame
        file["emitters/t0"] = molecules.start_frame
        file["emitters/on_time"] = molecules.on_time_frames
        file["emitters/id"] = np.arange(len(molecules))
        file["background/photons"] = sample.background_T
        if sample.background_shape is not None:
            file["background/pattern"] = sample.background_shape.pattern_PHW
            file["background/pattern_ix"] = sample.background_shape.pattern_T
        if sample.camera_origin_px is not None:
            file["camera/origin_px"] = np.array(sample.camera_origin_px, dtype=np.int64)
        if sample.phase_NK is not None and sample.magnitude_NK is not None:
            file["zernike_coeffs/phase"] = sample.phase_NK
            file["zernike_coeffs/mag"] = sample.magnitude_NK


def _to_file_units(x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
    return np.stack([x + _CORNER_TO_CENTRE_PX, y + _CORNER_TO_CENTRE_PX, z / _NM_PER_UM], axis=1)


def _read_datasets(path: Path, dimensions: dict[str, int]) -> dict[str, FloatArray | None]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: the sample has no truth. Delete the folder, or put the file back.")
    try:
        with open_hdf5(path) as file:
            result: dict[str, FloatArray | None] = {}
            for name, ndim in dimensions.items():
                dataset = member(file, name)
                if dataset is None:
                    result[name] = None
                    continue
                if not isinstance(dataset, h5py.Dataset) or dataset.ndim != ndim or dataset.dtype.kind not in "uif":
                    raise DataError(f"{path}: {name} is not a numeric array of {ndim} dimensions.")
                result[name] = read_numbers(dataset).astype(np.float64)
            return result
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise DataError(f"{path} cannot be read as HDF5; it may be cut off: {error}") from None
