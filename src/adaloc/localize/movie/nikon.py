"""Nikon's `.nd2`, by the library nd2, which is installed on request: `pip install adaloc[nd2]`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from adaloc.config import PixelSize
from adaloc.errors import MovieError
from adaloc.localize.movie.interface import FrameArray, Movie

_NM_PER_UM = 1000.0


def open_nd2(path: Path) -> Movie:
    """Nikon's `.nd2`, by nd2.

    Raises:
        MovieError: when nd2 is not installed, the file is damaged, or it holds channels or positions.
    """
    try:
        library = import_module("nd2")
    except ImportError:
        raise MovieError(
            f"{path}: .nd2 files need the library nd2: pip install nd2. Or export the movie as TIFF with NIS-Elements "
            "or Fiji."
        ) from None
    return _Nd2Movie(path, library)


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
