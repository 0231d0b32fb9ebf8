"""Uncompressed frames at known places of a file: Picasso `.raw`, storm-analysis `.dax`, and plain TIFFs.

Frames are read, not memory-mapped: mapped pages count as the process's memory for as long as the system has no
better use for them, so that a movie of 20 GB would look like (and under a limit be) 20 GB of memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from adaloc.bounds import read_text
from adaloc.config import PixelSize
from adaloc.errors import MovieError
from adaloc.localize.movie.interface import FrameArray, Movie
from adaloc.yaml_file import read_yaml

_MAX_SIDE_PX = 1_000_000
_MOST_METADATA_BYTES = 16 * 2**20


class RawMovie(Movie):
    """Uncompressed frames, row by row.

    Args:
        path: the file.
        offsets_T: first byte of each frame; a `range` where they follow each other.
        shape_HW: of a frame.
        dtype: as in the file, with its byte order.
        pixel_size_nm: where it is known.
        notes: as in `Movie`.

    Raises:
        MovieError: when the last frame ends beyond the end of the file.
    """

    def __init__(
        self,
        path: Path,
        offsets_T: Sequence[int],
        shape_HW: tuple[int, int],
        dtype: np.dtype[Any],
        *,
        pixel_size_nm: PixelSize | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(path, (len(offsets_T), *shape_HW), dtype, pixel_size_nm=pixel_size_nm, notes=notes)
        self._path, self._offsets, self._file_dtype = path, offsets_T, dtype
        needed, present = max(offsets_T) + self.bytes_per_frame, path.stat().st_size
        if needed > present:
            raise MovieError(
                f"The movie {path} is cut off: its {self.num_frames} frames need {needed} bytes, the file has "
                f"{present}. Copy it again."
            )

    def _read(self, begin: int, end: int) -> FrameArray:
        frames = np.empty((end - begin, self.height, self.width), self._file_dtype)
        places = np.asarray(self._offsets[begin:end], np.int64)
        # Frames that follow each other without a gap are read at once.
        gaps = np.flatnonzero(np.diff(places) != self.bytes_per_frame) + 1
        with self._path.open("rb") as handle:
            for run in np.split(np.arange(end - begin), gaps):
                if len(run) == 0:
                    continue
                handle.seek(int(places[run[0]]))
                values = np.fromfile(handle, self._file_dtype, len(run) * self.height * self.width)
                if len(values) != len(run) * self.height * self.width:
                    raise MovieError(
                        f"The movie {self._path} ended while frames {begin + run[0]} to {begin + run[-1]} were read. "
                        "Is it still being written? Start again with --resume when it is complete."
                    )
                frames[run[0] : run[-1] + 1] = values.reshape(-1, self.height, self.width)
        return frames


def open_picasso_raw(path: Path) -> Movie:
    """Picasso's `.raw`, with the `.yaml` beside it that says how to read it.

    Raises:
        MovieError: when the metadata are missing or wrong, or do not fit the size of the file.
    """
    sidecar = path.with_suffix(".yaml")
    if not sidecar.is_file():
        raise MovieError(
            f"{path} needs {sidecar.name} beside it, which says its width, height, frames and number type. "
            "Copy it from where the movie was recorded."
        )
    try:
        info = next(iter(read_yaml(sidecar)), None)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise MovieError(f"{sidecar}, the metadata of {path.name}, cannot be read: {error}") from None
    if not isinstance(info, dict):
        raise MovieError(f"{sidecar} holds no metadata of a movie.")
    try:
        height, width, num_frames = (_whole(info[key], key) for key in ("Height", "Width", "Frames"))
        order = info.get("Byte Order", "<")
        if order not in ("<", ">"):
            raise ValueError(f"'Byte Order' is {order!r}, expected < or >")
        dtype = _number_type(str(info["Data Type"])).newbyteorder(order)
    except (KeyError, TypeError, ValueError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise MovieError(f"{sidecar}, the metadata of {path.name}, cannot be used: {missing}.") from None
    pixel = info.get("Pixelsize", info.get("Camera.Pixelsize"))
    square = PixelSize(x=pixel, y=pixel) if isinstance(pixel, int | float) and 1 < pixel < 10_000 else None
    return _frames_in_a_row(path, sidecar, (num_frames, height, width), dtype, "Frames", square)


def _number_type(name: str) -> np.dtype[Any]:
    """The type of a pixel. NumPy reads more than names of types here, and fails on some in its own ways."""
    if not re.fullmatch(r"[<>=|]?(uint|int|float|u|i|f)[0-9]{1,2}", name):
        raise ValueError(f"'Data Type' is {name[:40]!r}, expected for example uint16")
    return np.dtype(name)


def open_dax(path: Path) -> Movie:
    """A `.dax` of Insight3 and storm-analysis, with the `.inf` beside it: 16-bit, usually big-endian.

    Raises:
        MovieError: when the metadata are missing or wrong, or do not fit the size of the file.
    """
    sidecar = path.with_suffix(".inf")
    if not sidecar.is_file():
        raise MovieError(f"{path} needs {sidecar.name} beside it, which says its frame size. Copy it from the source.")
    try:
        text = read_text(sidecar, _MOST_METADATA_BYTES, "metadata of a movie", errors="replace")
    except OSError as error:
        raise MovieError(f"{sidecar}, the metadata of {path.name}, cannot be read: {error.strerror}.") from None
    size = re.search(r"frame dimensions\s*=\s*(\d{1,7})\s*x\s*(\d{1,7})\s*$", text, re.MULTILINE)
    count = re.search(r"number of frames\s*=\s*(\d{1,12})\s*$", text, re.MULTILINE)
    kind = re.search(r"data type\s*=\s*(.*)$", text, re.MULTILINE)
    if size is None or count is None or kind is None:
        raise MovieError(f"{sidecar} lacks 'frame dimensions', 'number of frames' or 'data type'; is it a .inf file?")
    if "16 bit" not in kind[1] or "endian" not in kind[1]:
        raise MovieError(f"{sidecar}: the data type '{kind[1].strip()}' is not known; expected 16 bit integers.")
    dtype = np.dtype("<u2" if "little" in kind[1] else ">u2")
    width, height = int(size[1]), int(size[2])
    return _frames_in_a_row(path, sidecar, (int(count[1]), height, width), dtype, "number of frames", None)


def _frames_in_a_row(
    path: Path,
    sidecar: Path,
    claimed_THW: tuple[int, int, int],
    dtype: np.dtype[Any],
    key: str,
    pixel_size_nm: PixelSize | None,
) -> Movie:
    """Weighs what the metadata claim against the size of the file, before anything is read or allocated."""
    num_claimed, height, width = claimed_THW
    if not (0 < height <= _MAX_SIDE_PX and 0 < width <= _MAX_SIDE_PX) or dtype.kind not in "uif":
        raise MovieError(f"{sidecar}: frames of {height} x {width} px of {dtype} cannot be.")
    frame_bytes, present = height * width * dtype.itemsize, path.stat().st_size
    num_present, left = divmod(present, frame_bytes)
    if left:
        raise MovieError(
            f"The movie {path} has {present} bytes; that is {num_present} frames of {height} x {width} px and {left} "
            f"bytes more. Either it is cut off, or the frame size in {sidecar.name} is wrong."
        )
    if num_present < num_claimed:
        raise MovieError(
            f"The movie {path} is cut off: {sidecar.name} says {num_claimed} frames, the file holds {num_present}. "
            f"Copy it again, or set '{key}' to {num_present} to use what is there."
        )
    notes = []
    if num_present > num_claimed:
        notes.append(f"{path}: {sidecar.name} says {num_claimed} frames, the file holds {num_present}; all are used.")
    offsets = range(0, present, frame_bytes)
    return RawMovie(path, offsets, (height, width), dtype, pixel_size_nm=pixel_size_nm, notes=notes)


def _whole(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**12:
        raise ValueError(f"'{key}' is {value!r}, expected a whole number above 0")
    return value
