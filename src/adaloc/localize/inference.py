"""A model over a movie: in blocks of frames and tiles, read while the block before is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adaloc.data.targets import Z
from adaloc.emitters import EmitterTable, concatenate
from adaloc.errors import ConfigError
from adaloc.localize.candidates import CONTEXT_PX, find_localizations
from adaloc.localize.movie.interface import ArrayMovie, FrameArray, Movie
from adaloc.localize.tiles import Box, Tile, TilePlan, blocks, plan_tiles
from adaloc.models.folding import fold_normalization
from adaloc.models.model_file import Model
from adaloc.simulation.camera_maps import CameraMaps

_BYTES_PER_PIXEL_AND_CHANNEL = 64
"""That the network needs besides its weights, for each channel of its width."""
_CPU_BYTES_AT_ONCE, _GPU_BYTES_AT_ONCE = 400_000_000, 2_000_000_000
_BLOCK_BYTES = 16_000_000
"""Frames that are read at once and then kept as a finished block; there are two of them in memory."""


@dataclass(frozen=True)
class View:
    """The part of a movie to localize; what surrounds it in time and space is context.

    Attributes:
        begin: first frame.
        end: frame after the last.
        region: pixels of the whole frame.
    """

    begin: int
    end: int
    region: Box

    def __len__(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Block:
    """The localizations of the frames from `begin` to before `end`, sorted by frame."""

    begin: int
    end: int
    table: EmitterTable


def view_of(movie: Movie, frames: tuple[int, int | None] | None = None, region: Box | None = None) -> View:
    """The part that a user asked for, checked; None means all.

    Raises:
        ConfigError: when it does not lie in the movie.
    """
    begin, end = frames or (0, None)
    end = movie.num_frames if end is None else end
    if not 0 <= begin < end <= movie.num_frames:
        raise ConfigError(
            f"--frames {begin}:{end} does not fit the movie {movie.name}: it has {movie.num_frames} frames, 0 to "
            f"{movie.num_frames - 1}; the end is not included."
        )
    region = region or Box(0, movie.height, 0, movie.width)
    if not (0 <= region.top < region.bottom <= movie.height and 0 <= region.left < region.right <= movie.width):
        raise ConfigError(
            f"--region {region.left}:{region.right},{region.top}:{region.bottom} does not fit the movie {movie.name}: "
            f"its frames are {movie.width} px wide (x) and {movie.height} px high (y)."
        )
    return View(begin, end, region)


def localize_stream(
    model: Model,
    movie: Movie,
    view: View,
    *,
    threshold: float = 0.5,
    maps: CameraMaps | None = None,
    first_frame: int | None = None,
    last_frame: int | None = None,
) -> Iterator[Block]:
    """Localizes part of a movie of any length and frame size, block by block, in bounded memory.

    Frames before the first and after the last of the movie are that frame repeated. Tiles overlap by the network's
    `margin_px`, so that the result is that of whole frames within rounding; frames and pixels around the view are
    seen as context, so that it is that of the whole movie. One thread reads the next block meanwhile.

    Args:
        model: on the device to compute on.
        movie: frames in ADU.
        view: what to localize.
        threshold: least integrated probability of a localization.
        maps: of the camera's pixels under the whole movie; None for a uniform camera.
        first_frame: where to go on in the view; a block's begin, for blocks as without interruption.
        last_frame: where to end in the view, not included; None: at its end. Where both are whole numbers of
            `plan_of(...).frames_at_once` from the view's begin, the result is a part of the view's bit for bit.

    Yields:
        Blocks in ascending order; x and y are those of the whole movie.

    Raises:
        MovieError: when frames cannot be read.
    """
    device = next(model.network.parameters()).device
    context = model.config.data.consecutive_frames // 2
    plan = plan_of(model, movie, view, device)
    model.network.eval()
    folded = replace(model, network=fold_normalization(model.network))

    def read(span: tuple[int, int]) -> FrameArray:
        begin, end = span
        first, last = max(begin - context, 0), min(end + context, movie.num_frames)
        index = np.clip(np.arange(begin - context, end + context), first, last - 1) - first
        frames = movie.read(first, last)
        return frames if len(index) == len(frames) else frames[index]

    begin, end = (view.begin if first_frame is None else first_frame), (view.end if last_frame is None else last_frame)
    spans = blocks(begin, end, _block_length(movie, plan))
    for (begin, end), frames in _read_ahead(read, spans):
        tables = []
        for first, last in blocks(begin, end, plan.frames_at_once):
            run = frames[first - begin : last - begin + 2 * context]
            parts = [_localize_tile(folded, run, tile, first, threshold, maps, device) for tile in plan.tiles]
            tables.append(concatenate(parts).sorted_by_frame())
        yield Block(begin, end, concatenate(tables))


def localize_frames(
    model: Model,
    frames_THW: npt.NDArray[Any],
    *,
    threshold: float = 0.5,
    maps: CameraMaps | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> EmitterTable:
    """Localizes every frame of a movie in memory; see `localize_stream`.

    Args:
        model: on the device to compute on.
        frames_THW: ADU; any height and width.
        threshold: least integrated probability of a localization.
        maps: of the camera's pixels under these frames, already cut to them; None for a uniform camera.
        on_progress: gets the number of finished frames.

    Returns:
        Localizations sorted by frame.
    """
    movie = ArrayMovie(frames_THW)
    tables = []
    for block in localize_stream(model, movie, view_of(movie), threshold=threshold, maps=maps):
        tables.append(block.table)
        on_progress(block.end)
    return concatenate(tables)


def tile_adu(
    raw_THW: npt.NDArray[Any], model: Model, maps: CameraMaps | None, origin_px: tuple[int, int] = (0, 0)
) -> npt.NDArray[np.float32]:
    """Raw frames of a tile as the model's uniform camera would have given them, float32 ADU.

    Args:
        raw_THW: ADU of the tile.
        model: its camera sets the scale.
        maps: of the whole movie's pixels; None: the camera is uniform, and the numbers stay as they are.
        origin_px: row and column of the movie at which the tile begins.
    """
    if maps is None:
        return raw_THW.astype(np.float32)
    height, width = raw_THW.shape[1:]
    return maps.cut(origin_px, (height, width)).to_uniform(raw_THW, model.config.simulation.camera)


def _localize_tile(
    model: Model,
    run_THW: FrameArray,
    tile: Tile,
    first_frame: int,
    threshold: float,
    maps: CameraMaps | None,
    device: torch.device,
) -> EmitterTable:
    """The localizations of a run of frames in a tile's keep; `run_THW` includes the context frames."""
    cut = run_THW[:, tile.read.rows, tile.read.columns]
    adu = torch.from_numpy(tile_adu(cut, model, maps, (tile.read.top, tile.read.left))).to(device)
    with torch.inference_mode():
        outputs_BKHW = model.predict(adu[None])[0].float()
        physical = model.scaling.to_physical(outputs_BKHW)
        table = find_localizations(physical, first_frame, threshold, within=tile.keep.within(tile.read))
    if not model.scaling.varies[Z]:
        table = replace(table, z_sigma=None)  # nothing was learned of it
    return replace(table, x=table.x + tile.read.left, y=table.y + tile.read.top)


def plan_of(model: Model, movie: Movie, view: View, device: torch.device) -> TilePlan:
    """The tiles of a movie, and how many frames of them the network sees at once."""
    at_once = _CPU_BYTES_AT_ONCE if device.type == "cpu" else _GPU_BYTES_AT_ONCE
    return plan_tiles(
        view.region,
        (movie.height, movie.width),
        margin_px=model.network.margin_px + CONTEXT_PX,
        multiple_px=model.network.size_multiple_px,
        context_frames=model.config.data.consecutive_frames - 1,
        pixels_at_once=at_once // (_BYTES_PER_PIXEL_AND_CHANNEL * model.config.network.base_channels),
    )


def _block_length(movie: Movie, plan: TilePlan) -> int:
    """A multiple of the frames at once, of about `_BLOCK_BYTES`."""
    return max(_BLOCK_BYTES // (movie.bytes_per_frame * plan.frames_at_once), 1) * plan.frames_at_once


def _read_ahead(
    read: Callable[[tuple[int, int]], FrameArray], spans: Iterator[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], FrameArray]]:
    """Spans with their frames; the next is read by another thread while this one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="movie-reader") as pool:
        span = next(spans, None)
        pending = None if span is None else pool.submit(read, span)
        while span is not None and pending is not None:
            frames = pending.result()
            following = next(spans, None)
            pending = None if following is None else pool.submit(read, following)
            yield span, frames
            span = following
