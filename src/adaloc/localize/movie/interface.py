"""What every movie can do, and the movies that are made of others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from adaloc.config import PixelSize
from adaloc.errors import MovieError

FrameArray = npt.NDArray[Any]


class Movie(ABC):
    """Grey frames that are read when they are asked for, never all of them.

    One thread reads at a time. `close` may be called more than once; a `with` block calls it.

    Attributes:
        name: for messages and for the names of results: the file or folder.
        num_frames: T.
        height: H, rows.
        width: W, columns.
        dtype: number type of the frames, in the machine's byte order.
        pixel_size_nm: camera pixel in the sample where the file says it, else None.
        files: the files that the frames come from.
        notes: what a person should know about the file, for example that its metadata counts frames wrongly.
    """

    def __init__(
        self,
        name: Path,
        shape_THW: tuple[int, int, int],
        dtype: np.dtype[Any],
        *,
        pixel_size_nm: PixelSize | None = None,
        files: Sequence[Path] = (),
        notes: Sequence[str] = (),
    ) -> None:
        if min(shape_THW) < 1:
            raise MovieError(f"The movie {name} has shape {shape_THW}: there is no frame to read.")
        if dtype.kind not in "uif":
            raise MovieError(f"The movie {name} holds {dtype}, which is no brightness. Export it as 16-bit grey TIFF.")
        self.name = name
        self.num_frames, self.height, self.width = shape_THW
        self.dtype = dtype.newbyteorder("=")
        self.pixel_size_nm = pixel_size_nm
        self.files = tuple(files) or (name,)
        self.notes = tuple(notes)

    @property
    def bytes_per_frame(self) -> int:
        """In memory."""
        return self.height * self.width * self.dtype.itemsize

    def read(self, begin: int, end: int) -> FrameArray:
        """The frames from `begin` to before `end`.

        Returns:
            (end - begin, H, W) of `dtype`.

        Raises:
            MovieError: when the file ends too early, is damaged, or holds NaN or infinite pixels.
            ValueError: when the range lies outside of the movie.
        """
        if not 0 <= begin <= end <= self.num_frames:
            raise ValueError(f"frames {begin} to {end} of a movie of {self.num_frames}")
        frames = self._read(begin, end).astype(self.dtype, copy=False)
        if frames.shape != (end - begin, self.height, self.width):
            raise MovieError(
                f"The movie {self.name}: frames {begin} to {end - 1} have the shape {frames.shape[1:]}, "
                f"the first frame has {(self.height, self.width)}. Sort out the frames that do not belong to it."
            )
        if self.dtype.kind == "f" and not (finite := np.isfinite(frames).all(axis=(1, 2))).all():
            raise MovieError(
                f"The movie {self.name} holds NaN or infinite pixels in frame {begin + int(np.argmin(finite))} "
                "(counted from 0). Export it again, or leave such frames out with --frames."
            )
        return frames

    @abstractmethod
    def _read(self, begin: int, end: int) -> FrameArray:
        """As `read`, in any byte order and unchecked."""

    def close(self) -> None:  # noqa: B027 - most movies keep no file open
        """Closes what is open."""

    def __enter__(self) -> Movie:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ArrayMovie(Movie):
    """Frames that are in memory already, (T, H, W)."""

    def __init__(self, frames_THW: FrameArray, name: Path = Path("frames in memory")) -> None:
        num_frames, height, width = frames_THW.shape
        super().__init__(name, (num_frames, height, width), frames_THW.dtype)
        self._frames = frames_THW

    def _read(self, begin: int, end: int) -> FrameArray:
        return self._frames[begin:end]


class JoinedMovie(Movie):
    """Several movies one after the other; frames count on.

    Raises:
        MovieError: when they differ in size or number type.
    """

    def __init__(self, movies: Sequence[Movie], name: Path | None = None) -> None:
        first = movies[0]
        for movie in movies[1:]:
            if (movie.height, movie.width, movie.dtype) != (first.height, first.width, first.dtype):
                raise MovieError(
                    f"{movie.name} has frames of {movie.height} x {movie.width} px ({movie.dtype}), {first.name} of "
                    f"{first.height} x {first.width} px ({first.dtype}): they are no parts of one movie."
                )
        lengths = [movie.num_frames for movie in movies]
        super().__init__(
            name or first.name,
            (sum(lengths), first.height, first.width),
            first.dtype,
            pixel_size_nm=first.pixel_size_nm,
            files=[file for movie in movies for file in movie.files],
            notes=[note for movie in movies for note in movie.notes],
        )
        self._movies = tuple(movies)
        self._starts = np.cumsum([0, *lengths])

    def _read(self, begin: int, end: int) -> FrameArray:
        parts = [
            movie.read(max(begin - start, 0), min(end - start, movie.num_frames))
            for movie, start in zip(self._movies, self._starts.tolist(), strict=False)
            if start < end and begin < start + movie.num_frames
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.height, self.width), self.dtype)

    def close(self) -> None:
        """Closes all parts."""
        for movie in self._movies:
            movie.close()
