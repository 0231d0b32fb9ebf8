"""TIFF, OME-TIFF and BigTIFF, in one file or several, compressed or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from adaloc.bounds import array_bytes, require_plausible
from adaloc.config import PixelSize
from adaloc.data.sample_folder import movie_pixel_size
from adaloc.data.tiff_file import open_tiff, require_plausible_page
from adaloc.errors import DataError, MovieError
from adaloc.localize.movie.interface import FrameArray, Movie
from adaloc.localize.movie.raw import RawMovie

_NM_PER_IMAGEJ_UNIT = {"micron": 1000.0, "um": 1000.0, "µm": 1000.0, "\\u00B5m": 1000.0, "nm": 1.0}


def open_tiff_movie(path: Path) -> Movie:
    """A TIFF whose first series is a stack of grey frames.

    Uncompressed frames are read by their place in the file. The frames of others are decoded one by one. Of an
    OME-TIFF in several files any part opens the whole.

    Raises:
        DataError: when it is no TIFF, cut off, or compressed in a way that cannot be read.
        MovieError: when it is in colour, has channels, or parts of it are missing.
    """
    with open_tiff(path) as tiff:
        if not tiff.pages:
            raise MovieError(f"The movie {path} has no frames.")
        series = tiff.series[0]
        shape = _movie_shape(path, series)
        pixel_size = movie_pixel_size(path) or _imagej_pixel_size(tiff)
        notes = []
        if "C" in series.axes and shape[0] > 1:
            notes.append(f"{path} calls its {shape[0]} frames channels; they are taken for frames.")
        if len(tiff.series) > 1:
            others = ", ".join(str(other.shape) for other in tiff.series[1:4])
            notes.append(f"{path} holds {len(tiff.series)} image series; the first is used, not {others}.")
        pages = list(series.pages)
        if any(page is None for page in pages):
            raise MovieError(
                f"{sum(page is None for page in pages)} of {len(pages)} frames of {path} are in files that are not "
                "here. Put all parts of this OME-TIFF into one folder, under their own names."
            )
        files = sorted({Path(page.parent.filehandle.path) for page in pages if page is not None})
        dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        present = path.stat().st_size
        require_plausible(array_bytes(shape[1:], dtype.itemsize), present, path, "a frame")
        offsets = _frame_offsets(series, pages, shape[1] * shape[2] * dtype.itemsize) if len(files) == 1 else None
    if offsets is not None:
        return RawMovie(files[0], offsets, shape[1:], dtype, pixel_size_nm=pixel_size, notes=notes)
    return _PagedTiffMovie(path, shape, np.dtype(series.dtype), pixel_size, files, notes)


def is_single_frame(path: Path) -> bool:
    """Whether a TIFF holds one frame, so that it may be one of a numbered sequence."""
    with open_tiff(path) as tiff:
        return bool(tiff.pages) and math.prod(tiff.series[0].shape[:-2]) == 1 and len(tiff.series) == 1


class _PagedTiffMovie(Movie):
    """Frames that are decoded by tifffile, page by page."""

    def __init__(
        self,
        path: Path,
        shape_THW: tuple[int, int, int],
        dtype: np.dtype[Any],
        pixel_size_nm: PixelSize | None,
        files: Sequence[Path],
        notes: Sequence[str],
    ) -> None:
        super().__init__(path, shape_THW, dtype, pixel_size_nm=pixel_size_nm, files=files, notes=notes)
        self._path = path
        self._tiff: tifffile.TiffFile | None = None
        self._others: list[Any] = []

    def _read(self, begin: int, end: int) -> FrameArray:
        if self._tiff is None:
            self._tiff = tifffile.TiffFile(self._path)
        pages = self._tiff.series[0].pages
        frames = np.empty((end - begin, self.height, self.width), self.dtype)
        for index in range(begin, end):
            page = pages[index]
            assert page is not None  # looked at when the movie was opened
            try:
                handle = page.parent.filehandle  # of an OME-TIFF in several files tifffile leaves the others closed
                if handle.closed:
                    handle.open()
                    self._others.append(handle)
                require_plausible_page(page)
                frame = page.asarray()
            except DataError:
                raise
            except Exception as error:
                # tifffile and its decoders raise many kinds of errors on broken pages; each means the same here.
                raise MovieError(f"The movie {self._path} cannot be read at frame {index}: {error}.") from None
            if frame.size != self.height * self.width:
                raise MovieError(
                    f"The movie {self._path} cannot be read at frame {index}: it holds {frame.size} pixels instead "
                    f"of {self.height} x {self.width}. It is damaged."
                )
            frames[index - begin] = frame.reshape(self.height, self.width)
        return frames

    def close(self) -> None:
        if self._tiff is not None:
            for handle in [*self._others, self._tiff]:
                handle.close()
            self._tiff, self._others = None, []


def _movie_shape(path: Path, series: tifffile.TiffPageSeries) -> tuple[int, int, int]:
    """(T, H, W) of a series with one axis besides rows and columns."""
    axes, shape = series.axes, series.shape
    if "S" in axes:
        raise MovieError(f"The movie {path} is in colour; expected grey frames (T, H, W). Convert it to 16-bit grey.")
    if axes[-2:] != "YX":
        raise MovieError(f"The movie {path} has the axes {axes}; expected rows and columns last. Save it as a stack.")
    longer = {axis: side for axis, side in zip(axes[:-2], shape[:-2], strict=True) if side > 1}
    if len(longer) > 1:
        described = ", ".join(f"{axis} {side}" for axis, side in longer.items())
        raise MovieError(
            f"The movie {path} has channels, planes or positions besides its frames ({described}). "
            "Save one of them as a movie of its own."
        )
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def _frame_offsets(series: tifffile.TiffPageSeries, pages: Sequence[Any], frame_bytes: int) -> Sequence[int] | None:
    """First byte of each frame, or None where the frames are not plain rows of pixels."""
    first = series.dataoffset  # set where all frames follow each other, also where one page stands for all of them
    if first is not None:
        return range(first, first + math.prod(series.shape[:-2]) * frame_bytes, frame_bytes)
    if not series.keyframe.is_final:
        return None
    offsets = []
    for page in pages:
        starts, counts = page.dataoffsets, page.databytecounts
        follows = all(a + n == b for a, n, b in zip(starts, counts, starts[1:], strict=False))
        if not starts or not follows or sum(counts) < frame_bytes:
            return None
        offsets.append(starts[0])
    return offsets


def _imagej_pixel_size(tiff: tifffile.TiffFile) -> PixelSize | None:
    """From ImageJ's unit and the TIFF resolution, which without a unit of ImageJ says nothing about the sample."""
    scale = _NM_PER_IMAGEJ_UNIT.get(str((tiff.imagej_metadata or {}).get("unit")))
    tags = tiff.pages.first.tags
    if scale is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    sizes = []
    for name in ("XResolution", "YResolution"):
        pixels, units = tags[name].value
        sizes.append(scale * units / pixels if pixels else 0.0)
    if not all(1 < size < 10_000 for size in sizes):
        return None
    return PixelSize(x=sizes[0], y=sizes[1])
