"""From paths on the command line to movies: which file is read how, and what a folder holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from adaloc.data.sample_folder import EMITTERS_FILE, find_movie
from adaloc.errors import MovieError
from adaloc.localize.movie.interface import FrameArray, JoinedMovie, Movie
from adaloc.localize.movie.nikon import open_nd2
from adaloc.localize.movie.raw import open_dax, open_picasso_raw
from adaloc.localize.movie.tiff import is_single_frame, open_tiff_movie

_OPENERS: dict[str, Callable[[Path], Movie]] = {
    ".tif": open_tiff_movie,
    ".tiff": open_tiff_movie,
    ".btf": open_tiff_movie,
    ".raw": open_picasso_raw,
    ".dax": open_dax,
    ".nd2": open_nd2,
}
_EXPORTERS = {
    ".sif": "Andor Solis", ".czi": "ZEN", ".lif": "LAS X", ".vsi": "cellSens", ".oir": "cellSens", ".ims": "Imaris",
    ".spe": "LightField", ".tsm": "Fiji", ".avi": "Fiji",
}  # fmt: skip
_SIDECARS = {".yaml": ".raw", ".inf": ".dax"}
_TIFF_SUFFIXES = (".tif", ".tiff", ".btf")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_movie(path: Path) -> Movie:
    """Opens one movie: a file, a folder of numbered one-frame TIFFs, a sample folder, or a folder with one movie.

    Files are TIFF (OME-TIFF, BigTIFF, in several files), Picasso `.raw` with `.yaml`, `.dax` with `.inf`, and, where
    the library nd2 is installed, Nikon `.nd2`.

    Raises:
        DataError: when there is no movie at `path`, or it cannot be read. `MovieError` is one.
    """
    movies = find_movies([path])
    if len(movies) > 1:
        for movie in movies:
            movie.close()
        names = ", ".join(movie.name.name for movie in movies[:4])
        raise MovieError(f"{path} holds {len(movies)} movies ({names}...). Name one of them, or join them with --join.")
    return movies[0]


def find_movies(paths: Sequence[Path]) -> list[Movie]:
    """The movies at several paths, in natural order (2 before 10) within a folder.

    A folder is a sample folder, or one movie if its TIFFs hold one frame each and their names differ in numbers
    alone, or else every file in it is a movie of its own. What belongs to a movie already (the further files of an
    OME-TIFF) is not a second one.

    Raises:
        DataError: as `open_movie`.
    """
    movies: list[Movie] = []
    try:
        for path in paths:
            if path.is_dir():
                movies += _in_folder(path)
            else:
                movies.append(_open_file(path))
    except BaseException:
        for movie in movies:
            movie.close()
        raise
    return movies


def join_movies(paths: Sequence[Path]) -> Movie:
    """Several files or folders as one movie, in the order given; a folder's files in natural order.

    Raises:
        DataError: as `open_movie`, or when the parts do not fit together.
    """
    movies = find_movies(paths)
    return movies[0] if len(movies) == 1 else JoinedMovie(movies, paths[0])


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts 2.tif before 10.tif."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)


class SequenceMovie(Movie):
    """A folder of one-frame TIFFs, in natural order of their names.

    Raises:
        DataError: when the first cannot be read. Others are looked at when they are read.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        with open_tiff_movie(files[0]) as first:
            shape, dtype, pixel_size = (len(files), first.height, first.width), first.dtype, first.pixel_size_nm
        super().__init__(folder, shape, dtype, pixel_size_nm=pixel_size, files=files, notes=_gaps(folder, files))

    def _read(self, begin: int, end: int) -> FrameArray:
        frames = np.empty((end - begin, self.height, self.width), self.dtype)
        for index in range(begin, end):
            with open_tiff_movie(self.files[index]) as movie:
                frame = movie.read(0, 1)
                if (movie.num_frames, *frame.shape[1:], movie.dtype) != (1, self.height, self.width, self.dtype):
                    raise MovieError(
                        f"{self.files[index]} has {movie.num_frames} frame(s) of {movie.height} x {movie.width} px "
                        f"({movie.dtype}), the first file one of {self.height} x {self.width} px ({self.dtype}). "
                        "Sort out the files that do not belong to this movie."
                    )
                frames[index - begin] = frame[0]
        return frames


def _open_file(path: Path) -> Movie:
    suffix = path.suffix.lower()
    if suffix in _SIDECARS and path.with_suffix(_SIDECARS[suffix]).is_file():
        path, suffix = path.with_suffix(_SIDECARS[suffix]), _SIDECARS[suffix]
    if not path.is_file():
        raise MovieError(f"The movie {path} does not exist. Check its path.")
    if suffix in _OPENERS:
        return _OPENERS[suffix](path)
    with path.open("rb") as handle:
        if handle.read(4) in _TIFF_STARTS:
            return open_tiff_movie(path)
    raise MovieError(
        f"{path} cannot be read here; known are {', '.join(_OPENERS)}. Export it as 16-bit grey TIFF with "
        f"{_EXPORTERS.get(suffix, 'Fiji')}."
    )


def _in_folder(folder: Path) -> list[Movie]:
    if (folder / EMITTERS_FILE).is_file():
        return [open_tiff_movie(find_movie(folder))]
    files = sorted(
        (file for file in folder.iterdir() if file.suffix.lower() in _OPENERS and not file.name.startswith(".")),
        key=lambda file: natural_key(file.name),
    )
    if not files:
        raise MovieError(f"The folder {folder} holds no movie ({', '.join(_OPENERS)}).")
    if _is_sequence(files):
        return [SequenceMovie(folder, files)]
    movies: list[Movie] = []
    known: set[Path] = set()
    for file in files:
        if not file.is_file():
            raise MovieError(f"{file} is no file; a link in the folder may lead in a circle or nowhere. Remove it.")
        if file.resolve() not in known:
            movies.append(_open_file(file))
            known.update(part.resolve() for part in movies[-1].files)
    return movies


def _is_sequence(files: Sequence[Path]) -> bool:
    patterns = {re.sub(r"\d+", "#", file.name) for file in files}
    is_numbered = len(files) > 1 and len(patterns) == 1 and "#" in next(iter(patterns))
    return is_numbered and files[0].suffix.lower() in _TIFF_SUFFIXES and is_single_frame(files[0])


def _gaps(folder: Path, files: Sequence[Path]) -> list[str]:
    """A note where numbers are missing: neighbouring files are then no neighbouring frames."""
    numbers = [[int(part) for part in re.findall(r"\d+", file.stem)] for file in files]
    changing = [column for column in zip(*numbers, strict=False) if len(set(column)) > 1]
    if len(changing) != 1:
        return []
    first, last = changing[0][0], changing[0][-1]
    missing = last - first + 1 - len(files)
    if missing <= 0:
        return []
    return [
        f"{folder}: the files are numbered {first} to {last}, and {missing} numbers are missing. Frames are counted "
        "without gaps, so frame numbers are not file numbers, and frames beside a gap have a wrong neighbour."
    ]
