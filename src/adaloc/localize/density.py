"""Localizations to planes of numbers: how dense they are, and how deep."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError

PlaneArray = npt.NDArray[np.float32]

MAX_SIDE_PX = 20_000
DEFAULT_BLUR_NM = 10.0
"""Width of a localization whose uncertainty is not known: what good single-molecule data reach."""
_STRIP_PX = 8_000_000  # pixels that are worked on at a time; bounds the memory besides the image itself
_NUM_BLUR_CLASSES = 8


@dataclass(frozen=True)
class Planes:
    """What an image is made of.

    Attributes:
        density: (rows, columns) localizations per pixel; their Gaussians have the weight 1.
        depth_nm: mean z of what shines into the pixel, NaN where nothing does; None where it was not asked for.
        occupied: flat indices of the pixels that a localization falls into, ascending.
    """

    density: PlaneArray
    depth_nm: PlaneArray | None
    occupied: npt.NDArray[np.int64]


def planes(
    table: EmitterTable,
    *,
    pixel_size_nm: PixelSize,
    image_size_px: tuple[int, int] | None,
    render_pixel_nm: float = 10.0,
    blur_nm: float | None = None,
    with_depth: bool = False,
) -> Planes:
    """Adds up the localizations' Gaussians.

    Row 0 is at the top and x runs to the right, as in the camera frame; pixel (0, 0) begins at the field's outer edge.

    Args:
        table: localizations; those outside the field are left out.
        pixel_size_nm: camera pixel.
        image_size_px: (H, W) of the camera frame; None takes the field from its first corner to the last localization.
        render_pixel_nm: side of a pixel of the image.
        blur_nm: sigma of the Gaussian. None takes each localization's own uncertainty, in 8 steps, or
            `DEFAULT_BLUR_NM` where the table has none, and at least one pixel of the image: a narrower spot falls
            between the pixels. 0 draws the bare histogram.
        with_depth: make the plane of the depth too.

    Raises:
        DataError: when the image would have more than 20,000 px on a side.
    """
    shape = _image_shape(table, pixel_size_nm, image_size_px, render_pixel_nm)
    spots = _spots(table, pixel_size_nm, render_pixel_nm, blur_nm, shape)
    density = np.empty(shape, np.float32)
    depth = np.empty(shape, np.float32) if with_depth else None
    for rows, margin in _strips(shape, spots):
        strip = _accumulate(spots, None, rows, margin, shape[1])
        density[rows] = strip
        if depth is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                depth[rows] = _accumulate(spots, spots.z, rows, margin, shape[1]) / strip
    return Planes(density, depth, np.unique(spots.row * shape[1] + spots.column))


@dataclass(frozen=True)
class _Spots:
    """Localizations in image pixels, ascending rows; `blur_px[blur_class]` is the sigma of each."""

    row: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    z: FloatArray
    blur_class: npt.NDArray[np.int64]
    blur_px: FloatArray


def _image_shape(
    table: EmitterTable, pixel_size_nm: PixelSize, image_size_px: tuple[int, int] | None, render_pixel_nm: float
) -> tuple[int, int]:
    if image_size_px is None:
        far_y, far_x = (max(0.0, column.max(initial=0.0)) for column in (table.y, table.x))
        image_size_px = (math.floor(far_y + 0.5) + 1, math.floor(far_x + 0.5) + 1)
    height_nm, width_nm = image_size_px[0] * pixel_size_nm.y, image_size_px[1] * pixel_size_nm.x
    # Rounding must not add a row to a height that is whole.
    rows, columns = (max(1, math.ceil(side / render_pixel_nm - 1e-6)) for side in (height_nm, width_nm))
    if max(rows, columns) > MAX_SIDE_PX:
        fitting = math.ceil(max(height_nm, width_nm) / MAX_SIDE_PX)
        raise DataError(
            f"The image would have {columns} x {rows} px, and {MAX_SIDE_PX} on a side is the limit. "
            f"Choose render pixels of {fitting} nm or more instead of {render_pixel_nm:g} nm, or render a part."
        )
    return rows, columns


def _spots(
    table: EmitterTable,
    pixel_size_nm: PixelSize,
    render_pixel_nm: float,
    blur_nm: float | None,
    shape: tuple[int, int],
) -> _Spots:
    row = np.floor((table.y + 0.5) * pixel_size_nm.y / render_pixel_nm).astype(np.int64)
    column = np.floor((table.x + 0.5) * pixel_size_nm.x / render_pixel_nm).astype(np.int64)
    inside = np.flatnonzero((row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1]))
    order = inside[np.argsort(row[inside], kind="stable")]
    widths_nm = _widths_nm(table, pixel_size_nm, render_pixel_nm) if blur_nm is None else np.full(len(table), blur_nm)
    blur_class, class_nm = _blur_classes(widths_nm[order])
    return _Spots(row[order], column[order], table.z[order], blur_class, class_nm / render_pixel_nm)


def _widths_nm(table: EmitterTable, pixel_size_nm: PixelSize, at_least_nm: float) -> FloatArray:
    if table.x_sigma is None or table.y_sigma is None:
        return np.full(len(table), max(DEFAULT_BLUR_NM, at_least_nm))
    lateral = np.sqrt(((table.x_sigma * pixel_size_nm.x) ** 2 + (table.y_sigma * pixel_size_nm.y) ** 2) / 2)
    return np.maximum(np.where(np.isfinite(lateral), lateral, DEFAULT_BLUR_NM), at_least_nm)


def _blur_classes(widths_nm: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """A few widths in equal ratios, and which of them each localization gets.

    One filter per class replaces one Gaussian per localization. The widest and narrowest 2 % take the outer classes:
    a fit that went astray would otherwise cost the most and be seen the least.
    """
    if len(widths_nm) == 0:
        return np.empty(0, np.int64), np.zeros(1)
    low, high = np.percentile(widths_nm, [2, 98])
    if high <= low:
        return np.zeros(len(widths_nm), np.int64), np.array([low])
    classes = np.geomspace(low, high, _NUM_BLUR_CLASSES)
    step = math.log(high / low) / (_NUM_BLUR_CLASSES - 1)
    nearest = np.round(np.log(np.clip(widths_nm, low, high) / low) / step)
    return nearest.astype(np.int64), classes


def _strips(shape: tuple[int, int], spots: _Spots) -> Iterator[tuple[slice, int]]:
    """Blocks of rows, and how many rows around them can shine into them."""
    margin = math.ceil(4 * float(spots.blur_px.max())) + 1
    height = max(_STRIP_PX // shape[1], margin)
    for start in range(0, shape[0], height):
        yield slice(start, min(start + height, shape[0])), margin


def _accumulate(spots: _Spots, weights: FloatArray | None, rows: slice, margin: int, width: int) -> PlaneArray:
    """Sum of the spots' Gaussians over a strip, each times its weight."""
    top, bottom = rows.start - margin, rows.stop + margin
    first, last = np.searchsorted(spots.row, [top, bottom])
    strip = np.zeros((bottom - top, width), np.float32)
    for index, blur_px in enumerate(spots.blur_px):
        chosen = first + np.flatnonzero(spots.blur_class[first:last] == index)
        if len(chosen) == 0:
            continue
        flat = (spots.row[chosen] - top) * width + spots.column[chosen]
        weight = None if weights is None else weights[chosen]
        plane = np.bincount(flat, weight, minlength=strip.size).reshape(strip.shape).astype(np.float32)
        strip += gaussian_filter(plane, blur_px, mode="constant", truncate=4.0) if blur_px > 0 else plane
    return strip[margin : bottom - top - margin]
