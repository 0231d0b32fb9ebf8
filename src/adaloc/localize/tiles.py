"""Which parts of a movie the network sees at once: tiles with overlap, and how many frames of them."""

from __future__ import annotations

import itertools
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
    best: tuple[float, int, int, int] | None = None
    row_splits, column_splits = (
        [
            (n, _spans(low, high, full, n, margin_px, multiple_px))
            for n in range(1, max(1, (high - low) // _LEAST_TILE_PX) + 1)
        ]
        for low, high, full in ((region.top, region.bottom, frame_size[0]), (region.left, region.right, frame_size[1]))
    )
    for (num_rows, rows), (num_columns, columns) in itertools.product(row_splits, column_splits):
        heights, widths = ([read[1] - read[0] for read, _ in spans] for spans in (rows, columns))
        fitting = pixels_at_once // (max(heights) * max(widths)) - context_frames
        is_smallest = num_rows == len(row_splits) and num_columns == len(column_splits)
        if fitting < 1 and not is_smallest:
            continue
        frames = max(fitting, 1)
        cost = sum(heights) * sum(widths) * (2 + context_frames / frames)
        if best is None or (fitting >= 1 and cost < best[0]):
            best = cost, frames, num_rows, num_columns
    assert best is not None  # the smallest tiles always count
    _, frames, num_rows, num_columns = best
    tiles = tuple(
        Tile(Box(*read_rows, *read_columns), Box(*keep_rows, *keep_columns))
        for read_rows, keep_rows in row_splits[num_rows - 1][1]
        for read_columns, keep_columns in column_splits[num_columns - 1][1]
    )
    return TilePlan(tiles, frames)


def blocks(begin: int, end: int, length: int) -> Iterator[tuple[int, int]]:
    """`begin` to `end` in steps of `length`; the last may be shorter."""
    for first in range(begin, end, length):
        yield first, min(first + length, end)


def _spans(
    low: int, high: int, full: int, count: int, margin: int, multiple: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """`count` (read, keep) intervals along one axis."""
    edges = [low + (high - low) * i // count for i in range(count + 1)]
    spans = []
    for first, last in itertools.pairwise(edges):
        begin = max(first - margin, 0) // multiple * multiple
        end = min(-(-(last + margin) // multiple) * multiple, full)
        spans.append(((begin, end), (first, last)))
    return spans
