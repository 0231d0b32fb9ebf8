"""Which parts of a movie the network sees at once: tiles with overlap, and how many frames of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

_LEAST_TILE_PX = 32


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels; bottom and right are the first row and column outside of it."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> slice:
        """Rows of a frame."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """Columns of a frame."""
        return slice(self.left, self.right)

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Rows and columns of this box in an array that holds `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True)
class Tile:
    """A part of a frame, in pixels of the whole frame.

    Attributes:
        read: what the network sees; per-pixel camera maps are cut by it.
        keep: where its localizations count; the tiles' keeps are disjoint and cover the region.
    """

    read: Box
    keep: Box


@dataclass(frozen=True)
class TilePlan:
    """Tiles, and the number of target frames that the network sees at once in each."""

    tiles: tuple[Tile, ...]
    frames_at_once: int


def plan_tiles(
    region: Box,
    frame_size: tuple[int, int],
    *,
    margin_px: int,
    multiple_px: int,
    context_frames: int,
    pixels_at_once: int,
) -> TilePlan:
    """The cheapest plan whose runs hold at most `pixels_at_once` pixels.

    Large tiles waste little on their margins, but then few frames fit at once, and each run sees `context_frames`
    besides its targets. A target frame costs its pixels twice, a context frame once (it goes through the first of
    the network's two stages only).

    Args:
        region: where localizations are wanted.
        frame_size: (H, W) of the movie.
        margin_px: overlap that makes tiles agree with the whole frame.
        multiple_px: tiles begin at multiples of this.
        context_frames: frames of a run that are no targets.
        pixels_at_once: pixels of a run, context included; exceeded only where one frame of the smallest tile does.
    """
    row_splits = _splits(region.top, region.bottom, frame_size[0], margin_px, multiple_px)
    column_splits = _splits(region.left, region.right, frame_size[1], margin_px, multiple_px)
    # Where not even the smallest tiles fit, they are taken with one frame at once.
    best, best_cost, best_frames = (row_splits[-1], column_splits[-1]), math.inf, 1
    for rows, columns in itertools.product(row_splits, column_splits):
        frames = pixels_at_once // (rows.longest * columns.longest) - context_frames
        cost = rows.total * columns.total * (2 + context_frames / frames) if frames >= 1 else math.inf
        if cost < best_cost:
            best, best_cost, best_frames = (rows, columns), cost, frames
    tiles = tuple(
        Tile(Box(*read_rows, *read_columns), Box(*keep_rows, *keep_columns))
        for read_rows, keep_rows in best[0].spans
        for read_columns, keep_columns in best[1].spans
    )
    return TilePlan(tiles, best_frames)


def blocks(begin: int, end: int, length: int) -> Iterator[tuple[int, int]]:
    """`begin` to `end` in steps of `length`; the last may be shorter."""
    for first in range(begin, end, length):
        yield first, min(first + length, end)


_Interval = tuple[int, int]


@dataclass(frozen=True)
class _Split:
    """One way to divide an axis: (read, keep) intervals, the longest read, and all of them together."""

    spans: tuple[tuple[_Interval, _Interval], ...]
    longest: int
    total: int


def _splits(low: int, high: int, full: int, margin: int, multiple: int) -> list[_Split]:
    """An axis in one part, in two, and so on, down to parts of `_LEAST_TILE_PX`."""
    splits = []
    for count in range(1, max(1, (high - low) // _LEAST_TILE_PX) + 1):
        edges = [low + (high - low) * i // count for i in range(count + 1)]
        spans = []
        for first, last in itertools.pairwise(edges):
            begin = max(first - margin, 0) // multiple * multiple
            end = min(-(-(last + margin) // multiple) * multiple, full)
            spans.append(((begin, end), (first, last)))
        lengths = [end - begin for (begin, end), _ in spans]
        splits.append(_Split(tuple(spans), max(lengths), sum(lengths)))
    return splits
