"""Formats of camera and microscope makers, by libraries that are installed on request: `pip install adaloc[movies]`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from adaloc.config import PixelSize
from adaloc.errors import MovieError
from adaloc.localize.movie.interface import ArrayMovie, FrameArray, Movie
from adaloc.localize.movie.raw import RawMovie

_NM_PER_UM = 1000.0


def open_sif(path: Path) -> Movie:
    """Andor's `.sif` (float32), by sif_parser; rows in the order of the file.

    Raises:
        MovieError: when sif_parser is not installed, or the file is damaged or cut off.
    """
    sif_parser = _library("sif_parser", path, "Andor Solis")
    with path.open("rb") as handle:  # opened here because the parser leaves its own handle open when it fails
        try:
            mapped = _sif_frames(sif_parser, handle)
            num_frames, height, width = mapped.shape
            if not isinstance(mapped, np.memmap):
                return ArrayMovie(np.asarray(mapped), path)
            first, frame_bytes = int(mapped.offset), height * width * 4
        except Exception as error:
            # The parser raises whatever its indexing of a broken header leads to.
            raise MovieError(f"The movie {path} cannot be read; it may be cut off: {error}.") from None
    offsets = range(first, first + num_frames * frame_bytes, frame_bytes)
    return RawMovie(path, offsets, (height, width), np.dtype("<f4"))


def _sif_frames(sif_parser: ModuleType, handle: BinaryIO) -> FrameArray:
    """Mapped, so that its place in the file is known; sif_parser 0.3.6 cannot map a file of one frame, and reads it."""
    try:
        frames, _ = sif_parser.np_open(handle, lazy="memmap")
    except IndexError:
        handle.seek(0)
        frames, info = sif_parser.np_open(handle)
        if len(frames) != 1 or int(info["NumberOfFrames"]) != 1:
            raise
    mapped: FrameArray = frames
    return mapped


def open_nd2(path: Path) -> Movie:
    """Nikon's `.nd2`, by nd2.

    Raises:
        MovieError: when nd2 is not installed, the file is damaged, or it holds channels or positions.
    """
    return _Nd2Movie(path, _library("nd2", path, "NIS-Elements or Fiji"))


class _Nd2Movie(Movie):
    def __init__(self, path: Path, library: ModuleType) -> None:
        try:
            self._file = library.ND2File(path)
            sizes, dtype, voxel = dict(self._file.sizes), np.dtype(self._file.dtype), self._file.voxel_size()
        except Exception as error:
            # The library raises many kinds of errors on broken files.
            raise MovieError(f"The movie {path} cannot be read; it may be cut off: {error}.") from None
        longer = {axis: side for axis, side in sizes.items() if axis not in "YX" and side > 1}
        if len(longer) > 1 or {"C", "S"} & set(longer):
            self._file.close()
            raise MovieError(
                f"The movie {path} has channels, planes or positions besides its frames ({longer}). "
                "Save one of them as a movie of its own."
            )
        sides = (voxel.x * _NM_PER_UM, voxel.y * _NM_PER_UM)
        known = all(1 < side < 10_000 for side in sides)
        shape = (max(longer.values(), default=1), sizes["Y"], sizes["X"])
        super().__init__(path, shape, dtype, pixel_size_nm=PixelSize(x=sides[0], y=sides[1]) if known else None)

    def _read(self, begin: int, end: int) -> FrameArray:
        frames = np.empty((end - begin, self.height, self.width), self.dtype)
        for index in range(begin, end):
            try:
                frames[index - begin] = np.asarray(self._file.read_frame(index)).reshape(self.height, self.width)
            except Exception as error:
                raise MovieError(f"The movie {self.name} cannot be read at frame {index}: {error}.") from None
        return frames

    def close(self) -> None:
        self._file.close()


def _library(name: str, path: Path, exporter: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise MovieError(
            f"{path}: {path.suffix} files need the library {name}: pip install {name}. "
            f"Or export the movie as TIFF with {exporter}."
        ) from None
