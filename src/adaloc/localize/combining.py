"""Localizations that belong together become one row: what linking and grouping have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.localize.export import precision_nm


@dataclass(frozen=True)
class Combined:
    """One row for each set of localizations.

    Attributes:
        table: frame is that of the first localization, photons are summed; x_sigma, y_sigma, z_sigma are the
            standard errors of the mean positions, from the localizations' own uncertainties.
        count: localizations in each row.
        last_frame: frame of the last one.
        member_of: the row that each of the original localizations went into.
    """

    table: EmitterTable
    count: IntArray
    last_frame: IntArray
    member_of: IntArray

    def __len__(self) -> int:
        return len(self.count)


def combine(table: EmitterTable, member_of: IntArray) -> Combined:
    """Averages the rows of each set.

    Positions are averaged with the weights 1/sigma^2 of their own axis, which gives the standard error
    1/sqrt(sum 1/sigma^2); where the table has no uncertainty of an axis, with the photons, and the standard error
    stays unknown. Photons are summed and their uncertainties added in quadrature, background (per px and frame) is
    averaged, and the largest probability stays. The identity `emitter_id` is dropped: what is put together is not it.

    Args:
        table: localizations.
        member_of: the set of each row, whole numbers of any range.

    Returns:
        The sets, sorted by their first frame; sets that begin in the same frame, by number.

    Raises:
        ValueError: when `member_of` has another length than the table, or an uncertainty is not positive.
    """
    if member_of.shape != (len(table),):
        raise ValueError(f"member_of has shape {member_of.shape}, the table {len(table)} rows")
    labels, member = np.unique(member_of, return_inverse=True)
    first, last = np.full(len(labels), np.iinfo(np.int64).max), np.full(len(labels), -1, np.int64)
    np.minimum.at(first, member, table.frame)
    np.maximum.at(last, member, table.frame)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels))
    member, first, last = place[member], first[order], last[order]
    num = len(labels)
    (x, x_sigma), (y, y_sigma), (z, z_sigma) = (
        _mean(values, sigma, table.photons, member, num)
        for values, sigma in ((table.x, table.x_sigma), (table.y, table.y_sigma), (table.z, table.z_sigma))
    )
    count = np.bincount(member, minlength=num).astype(np.int64)
    variance = None if table.photons_sigma is None else np.bincount(member, table.photons_sigma**2, num)
    joined = EmitterTable(
        frame=first,
        x=x,
        y=y,
        z=z,
        photons=np.asarray(np.bincount(member, table.photons, num), np.float64),
        background=None if table.background is None else np.bincount(member, table.background, num) / count,
        x_sigma=x_sigma,
        y_sigma=y_sigma,
        z_sigma=z_sigma,
        photons_sigma=None if variance is None else np.sqrt(variance),
        probability=None if table.probability is None else _largest(table.probability, member, num),
    )
    return Combined(joined, count, last, member)


def with_precision(table: EmitterTable, pixel_size_nm: PixelSize, psf_sigma_nm: float) -> EmitterTable:
    """The table with lateral uncertainties from theory (`precision_nm`: Mortensen 2010) where it has none.

    Args:
        table: localizations; a table with x_sigma and y_sigma comes back as it is.
        pixel_size_nm: camera pixel.
        psf_sigma_nm: sigma of the spot in focus, nm.

    Raises:
        ValueError: when the table has no background, which the formula needs.
    """
    if table.x_sigma is not None and table.y_sigma is not None:
        return table
    if table.background is None:
        raise ValueError("the theoretical precision needs the background of each localization")
    area = pixel_size_nm.x * pixel_size_nm.y
    sigma_x, sigma_y = (
        precision_nm(table.photons, table.background, psf_sigma_nm, side, area) / side
        for side in (pixel_size_nm.x, pixel_size_nm.y)
    )
    return table.with_columns(x_sigma=sigma_x, y_sigma=sigma_y)


def _mean(
    values: FloatArray, sigma: FloatArray | None, photons: FloatArray, member: IntArray, num: int
) -> tuple[FloatArray, FloatArray | None]:
    if sigma is not None and not (sigma > 0).all():
        raise ValueError("uncertainties must be positive")
    # At least a trace of weight: localizations without photons would otherwise have no mean.
    weight = np.maximum(photons, 1e-9) if sigma is None else 1 / sigma**2
    total = np.bincount(member, weight, num)
    # Differences to a value of the set: sums of large coordinates would round more than a small error.
    origin = np.zeros(num)
    origin[member] = values
    mean = origin + np.bincount(member, weight * (values - origin[member]), num) / total
    return mean, None if sigma is None else 1 / np.sqrt(total)


def _largest(values: FloatArray, member: IntArray, num: int) -> FloatArray:
    largest = np.full(num, -np.inf)
    np.maximum.at(largest, member, values)
    return largest
