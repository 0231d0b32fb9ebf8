"""A model over a movie that napari shows: the pipeline of `adaloc localize`, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaloc.emitters import EmitterTable, concatenate
from adaloc.errors import DataError
from adaloc.localize.command import certain_rows, mismatches, sample_frames
from adaloc.localize.inference import localize_stream, view_of
from adaloc.localize.movie import Movie
from adaloc.localize.movie.interface import FrameArray
from adaloc.models.device import choose_device
from adaloc.models.model_file import load_model
from adaloc.napari_plugin.layers import LayerData, MovieArray, found_layer
from adaloc.simulation.camera_maps import maps_of_movie


class LayerMovie(Movie):
    """The array of an image layer, of numpy or dask or `MovieArray`, as a movie.

    Raises:
        DataError: when it is no stack of grey frames.
    """

    def __init__(self, data: Any, name: str) -> None:
        shape = tuple(getattr(data, "shape", ()))
        if len(shape) != 3:
            raise DataError(
                f"The layer {name} has the shape {shape}; a movie has three axes: frame, y, x. Choose a layer of grey "
                "frames, or split this one."
            )
        super().__init__(Path(name), (shape[0], shape[1], shape[2]), np.dtype(data.dtype))
        self._data = data

    def _read(self, begin: int, end: int) -> FrameArray:
        return np.asarray(self._data[begin:end])


@dataclass(frozen=True)
class Progress:
    """What is known while it runs: frames that are done, of how many, and localizations so far."""

    done: int
    frames: int
    found: int


def movie_of(data: Any, name: str) -> Movie:
    """The movie behind an image layer's array.

    Raises:
        DataError: when it is none.
    """
    return data.movie if isinstance(data, MovieArray) else LayerMovie(data, name)


def predict(
    model_path: Path,
    movie: Movie,
    *,
    name: str,
    threshold: float = 0.5,
    max_sigma_nm: float | None = None,
    frames: tuple[int, int | None] | None = None,
    placement: dict[str, Any] | None = None,
    device: str = "auto",
    warn: Callable[[str], None],
) -> Iterator[Progress | LayerData]:
    """Localizes a movie with a model.

    Args:
        model_path: model file or checkpoint.
        movie: what to localize, in ADU.
        name: of the layer.
        threshold: least probability of a localization.
        max_sigma_nm: largest predicted uncertainty along x and along y; None keeps all.
        frames: first frame and the frame after the last; None takes all.
        placement: scale and translation of the movie's layer, so that the points lie on it; None places them by the
            model's pixel size.
        device: name of a device.
        warn: gets what about the movie does not fit the model.

    Yields:
        The progress after each block, and at the end the points layer.

    Raises:
        AdalocError: when model and movie cannot be used, or the options do not fit them.
    """
    model = load_model(model_path)
    model.network.to(choose_device(device))
    view = view_of(movie, frames)
    maps = maps_of_movie(model.config.simulation.camera, None, None, (movie.height, movie.width))
    for warning in mismatches(model, sample_frames(movie, view), movie.pixel_size_nm, None, maps):
        warn(warning)
    size = model.config.simulation.optics.pixel_size_nm
    tables: list[EmitterTable] = []
    found = 0
    for block in localize_stream(model, movie, view, threshold=threshold, maps=maps):
        table = block.table if max_sigma_nm is None else certain_rows(block.table, size, max_sigma_nm)
        tables.append(table)
        found += len(table)
        yield Progress(block.end - view.begin, len(view), found)
    yield _on_the_movie(found_layer(concatenate(tables), size, name), placement)


def _on_the_movie(layer: LayerData, placement: dict[str, Any] | None) -> LayerData:
    """The layer at its movie's place; the crosses keep their share of a pixel."""
    if placement is None:
        return layer
    data, keywords, kind = layer
    return data, {**keywords, **placement}, kind
