"""What napari asks when a file or folder is dropped on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from adaloc.config import PixelSize
from adaloc.errors import DataError, UnknownPixelSizeError
from adaloc.localize.read import LocalizationFile, looks_like_localizations, read_localizations
from adaloc.napari_plugin.layers import ANY_PIXEL, LayerData, found_layer, movie_layer, true_layer

Paths = str | Path | Sequence[str | Path]
Reader = Callable[[Paths], list[LayerData]]
_EMITTERS_FILE = "emitters.h5"
_SIDECARS = {".raw": ".yaml", ".dax": ".inf", ".nd2": ""}
"""Movies that napari does not read by itself, and the file that must stand beside each."""


def get_reader(path: Paths) -> Reader | None:
    """The function that reads a path, or several, or None where one of them is none of adaloc's kinds.

    It looks at the first bytes and headings alone, so that napari can ask for every file that is dropped on it.
    Sample folders, all files of `read_localizations`, and movies in .raw, .dax and .nd2.
    """
    listed = _listed(path)
    return read_layers if listed and all(map(_is_known, listed)) else None


def read_layers(path: Paths) -> list[LayerData]:
    """The layers of a path, or of several, that `get_reader` accepted.

    Raises:
        DataError: when one of them cannot be read; the message says why and what to do.
    """
    return [layer for one in _listed(path) for layer in _read(one)]


def read_sample(folder: Path) -> list[LayerData]:
    """A sample folder: its frames, and its true emitters of each frame.

    Raises:
        DataError: when a part is missing or broken, or the movie does not say how large a pixel is.
    """
    from adaloc.localize.movie import open_movie  # imports torch, for which a CSV must not wait

    truth = read_localizations(folder)
    movie = open_movie(folder)
    return [
        movie_layer(movie, truth.pixel_size_nm, folder.name),
        true_layer(truth.table, truth.pixel_size_nm, f"{folder.name} true emitters"),
    ]


def read_table(path: Path, pixel_size_nm: PixelSize | None = None) -> list[LayerData]:
    """A localization file of any program that adaloc reads, as points.

    Args:
        path: the file.
        pixel_size_nm: camera pixel. A file in nm from the corner of the field needs none; any other must say it
            itself, or it is given here.

    Raises:
        DataError: when the file cannot be read.
    """
    found = _read_anyhow(path, pixel_size_nm)
    make = true_layer if path.name == _EMITTERS_FILE else found_layer
    return [make(found.table, found.pixel_size_nm, path.stem)]


def _read_anyhow(path: Path, pixel_size_nm: PixelSize | None) -> LocalizationFile:
    try:
        return read_localizations(path, pixel_size_nm)
    except UnknownPixelSizeError as error:
        if error.is_placed:
            return read_localizations(path, ANY_PIXEL)
        raise DataError(
            f"{path} does not say how large a camera pixel is, on which its places depend. Open it with Plugins > "
            "adaloc > Open localizations, which asks for it."
        ) from None


def _read(path: Path) -> list[LayerData]:
    if path.is_dir():
        return read_sample(path)
    if path.suffix.lower() not in _SIDECARS:
        return read_table(path)
    from adaloc.localize.movie import open_movie

    movie = open_movie(path)
    return [movie_layer(movie, movie.pixel_size_nm, path.stem)]


def _is_known(path: Path) -> bool:
    if path.is_dir():
        return (path / _EMITTERS_FILE).is_file()
    sidecar = _SIDECARS.get(path.suffix.lower())
    if sidecar is not None:
        return path.is_file() and path.with_suffix(sidecar or path.suffix).is_file()
    return looks_like_localizations(path)


def _listed(path: Paths) -> list[Path]:
    return [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
