"""Localizations of one molecule in consecutive frames become one."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.localize.combining import Combined, combine
from adaloc.localize.pairing import pairs_within, take_in_order


def link(
    table: EmitterTable,
    *,
    pixel_size_nm: PixelSize,
    radius: float,
    radius_unit: Literal["nm", "sigma"] = "nm",
    max_dark_frames: int = 0,
    use_z: bool = False,
) -> Combined:
    """Follows molecules from frame to frame and combines what belongs to one blink.

    A localization is linked to one in a later frame, at most `max_dark_frames` frames left out between them. Each
    has at most one predecessor and one successor. Short gaps go first, then short distances; the distance is that
    to the last localization of the blink, so a slow drift is followed.

    Args:
        table: localizations, any order.
        pixel_size_nm: camera pixel, turns x and y into nm.
        radius: largest distance.
        radius_unit: "nm": the radius is a distance in x, y (and z). "sigma": every axis is measured in the combined
            uncertainty sqrt(sigma_1^2 + sigma_2^2) of the pair.
        max_dark_frames: frames that a molecule may be dark within one blink.
        use_z: let z count too.

    Returns:
        One row for each blink.

    Raises:
        ValueError: when sigmas are asked for and the table has none.
    """
    if radius <= 0 or max_dark_frames < 0:
        raise ValueError("the radius must be positive and the number of dark frames not negative")
    points = _positions_nm(table, pixel_size_nm, use_z)
    sigmas = _sigmas_nm(table, pixel_size_nm, use_z) if radius_unit == "sigma" else None
    parts = [_candidates(table.frame, points, sigmas, radius, gap) for gap in range(1, max_dark_frames + 2)]
    earlier, later, distance, gap = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Position decides between equal distances: the result must not depend on the order of the rows.
    order = np.lexsort((points[later, 0], points[earlier, 0], distance, gap))
    earlier, later = earlier[order], later[order]
    taken = take_in_order(earlier, later)
    links = coo_array((np.ones(taken.sum()), (earlier[taken], later[taken])), shape=(len(table), len(table)))
    blink = connected_components(links, directed=False)[1] if len(table) else np.empty(0)
    return combine(table, blink.astype(np.int64))


def _candidates(
    frame: IntArray, points_nm: FloatArray, sigmas_nm: FloatArray | None, radius: float, gap: int
) -> tuple[IntArray, IntArray, FloatArray, IntArray]:
    """Pairs exactly `gap` frames apart: earlier row, later row, distance in the radius' unit, gap."""
    reach = radius if sigmas_nm is None or len(sigmas_nm) == 0 else radius * float(np.sqrt(2) * sigmas_nm.max())
    # The frame is one more coordinate, spaced so that no reach bridges two frames.
    spacing = 4 * reach
    before = np.column_stack([points_nm, spacing * (frame + gap)])
    after = np.column_stack([points_nm, spacing * frame])
    earlier, later = pairs_within(before, after, reach * (1 + 1e-9))
    step = points_nm[earlier] - points_nm[later]
    if sigmas_nm is not None:
        step = step / np.sqrt(sigmas_nm[earlier] ** 2 + sigmas_nm[later] ** 2)
    distance = np.sqrt((step**2).sum(axis=1))
    keep = distance <= radius
    return earlier[keep], later[keep], distance[keep], np.full(int(keep.sum()), gap)


def _positions_nm(table: EmitterTable, pixel_size_nm: PixelSize, use_z: bool) -> FloatArray:
    columns = [table.x * pixel_size_nm.x, table.y * pixel_size_nm.y, *([table.z] if use_z else [])]
    return np.column_stack(columns)


def _sigmas_nm(table: EmitterTable, pixel_size_nm: PixelSize, use_z: bool) -> FloatArray:
    if table.x_sigma is None or table.y_sigma is None or (use_z and table.z_sigma is None):
        raise ValueError("a radius in sigmas needs the uncertainty of every axis that counts")
    columns = [table.x_sigma * pixel_size_nm.x, table.y_sigma * pixel_size_nm.y]
    if use_z and table.z_sigma is not None:
        columns.append(table.z_sigma)
    return np.column_stack(columns)
