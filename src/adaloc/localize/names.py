"""What the files of localized movies are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaloc.errors import ConfigError
from adaloc.localize.movie import Movie


def check_names(out: Path | None, render_path: Path | None) -> None:
    """Before anything is loaded: files end as their formats do.

    Raises:
        ConfigError: when one does not.
    """
    if out is not None and out.suffix.lower() not in ("", ".csv", ".hdf5", ".h5") and not out.is_dir():
        raise ConfigError(f"--out {out}: write a name that ends in .csv, .hdf5 or .h5, or the name of a folder.")
    if render_path is not None and render_path.suffix.lower() not in ("", ".png") and not render_path.is_dir():
        raise ConfigError(f"--render {render_path}: the image is a PNG; write a name that ends in .png.")


def output_names(movies: Sequence[Movie], out: Path | None) -> list[Path]:
    """A file name for each movie, before the formats' suffixes.

    Raises:
        ConfigError: when there is one name for several movies.
    """
    if out is None:
        return [movie.name.with_name(f"{_stem(movie.name)}_locs.csv") for movie in movies]
    if out.suffix and not out.is_dir():
        if len(movies) > 1:
            raise ConfigError(f"--out {out} names one file, and there are {len(movies)} movies. Name a folder instead.")
        return [out]
    names = [out / f"{_stem(movie.name)}.csv" for movie in movies]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"Several movies would be written to {twice}. Localize them with different folders as --out.")
    return names


def image_names(movies: Sequence[Movie], names: Sequence[Path], render_path: Path | None) -> Sequence[Path | None]:
    """The image of each movie, whose outputs are called `names`; None for none.

    Raises:
        ConfigError: when there is one name for several movies.
    """
    if render_path is None:
        return [None] * len(movies)
    if len(movies) == 1 and render_path.suffix.lower() == ".png":
        return [render_path]
    if render_path.suffix.lower() == ".png":
        raise ConfigError(f"--render {render_path} names one image, and there are {len(movies)} movies. Name a folder.")
    return [render_path / f"{name.stem}.png" for name in names]


def _stem(name: Path) -> str:
    return name.name if name.is_dir() else Path(name.stem).stem if name.stem.lower().endswith(".ome") else name.stem
