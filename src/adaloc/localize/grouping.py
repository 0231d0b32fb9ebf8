"""Localizations of the whole movie become molecules: a molecule that blinks is localized many times.

1. Localizations that no chain of neighbours joins are apart.
2. Each remaining cloud is cut in two as long as two molecules explain it better than one (`mixture`).
3. All centres together are fitted to all localizations (expectation maximization with known widths), which gives
   each localization to its most likely molecule, and neighbours that are one molecule after all are joined.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.localize.combining import Combined, combine
from adaloc.localize.mixture import needed_gain, split_cloud, split_in_two

_REACH = 5.0  # combined standard deviations to the neighbours that can be of the same molecule
_NUM_NEIGHBOURS = 10
_NUM_CENTRES = 6  # that compete for a localization
_REFINEMENTS = 15
_MAX_ROUNDS = 10


def group(
    table: EmitterTable, *, pixel_size_nm: PixelSize, use_z: bool = True, extra_sigma_nm: float = 0.0
) -> Combined:
    """Groups localizations into molecules by position and uncertainty.

    Molecules that are nearer than about two standard deviations of a single localization cannot be told apart unless
    each was localized often. Uncertainties that are too small break molecules into pieces (15 % too small: 14 % too
    many molecules), ones that are too large join near neighbours.

    Args:
        table: localizations with x_sigma and y_sigma, and with z_sigma where z counts.
        pixel_size_nm: camera pixel.
        use_z: let z count.
        extra_sigma_nm: what comes on top of every uncertainty, in quadrature: residual drift, the size of the label.

    Returns:
        One row for each molecule, by its first frame. Its standard errors assume independent localizations.

    Raises:
        ValueError: when an uncertainty is missing or not positive.
    """
    points, sigmas = _positions_and_sigmas_nm(table, pixel_size_nm, use_z, extra_sigma_nm)
    if len(table) == 0:
        return combine(table, np.empty(0, np.int64))
    labels = _split_everything(points, sigmas)
    for _ in range(_MAX_ROUNDS):
        labels = _refined(points, sigmas, labels)
        joined = _joined(points, sigmas, labels)
        if joined.max() == labels.max():
            break
        labels = joined
    grouped = combine(table, labels)
    if extra_sigma_nm == 0:
        return grouped
    # Of the extra, the mean must know too.
    errors = 1 / np.sqrt(np.stack([np.bincount(grouped.member_of, 1 / axis**2) for axis in sigmas.T]))
    columns = {"x_sigma": errors[0] / pixel_size_nm.x, "y_sigma": errors[1] / pixel_size_nm.y}
    if use_z:
        columns["z_sigma"] = errors[2]
    return Combined(grouped.table.with_columns(**columns), grouped.count, grouped.last_frame, grouped.member_of)


def reduced_chi_square(table: EmitterTable, grouped: Combined, pixel_size_nm: PixelSize, use_z: bool) -> float | None:
    """Spread of the localizations around their molecules over the spread that their uncertainties say.

    About 1 where uncertainties are right. Where they are stated too small, molecules in pieces hide most of the excess:
    half as large as they are gives about 1.5, not 4.

    Returns:
        None where no molecule was localized twice.
    """
    points, sigmas = _positions_and_sigmas_nm(table, pixel_size_nm, use_z, 0.0)
    freedom = points.shape[1] * (len(table) - len(grouped))
    if freedom == 0:
        return None
    centres = _positions_nm(grouped.table, pixel_size_nm, use_z)
    return float((((points - centres[grouped.member_of]) / sigmas) ** 2).sum() / freedom)


def _positions_nm(table: EmitterTable, pixel_size_nm: PixelSize, use_z: bool) -> FloatArray:
    return np.column_stack([table.x * pixel_size_nm.x, table.y * pixel_size_nm.y, *([table.z] if use_z else [])])


def _positions_and_sigmas_nm(
    table: EmitterTable, pixel_size_nm: PixelSize, use_z: bool, extra_nm: float
) -> tuple[FloatArray, FloatArray]:
    if table.x_sigma is None or table.y_sigma is None:
        raise ValueError("grouping needs the lateral uncertainty of each localization (x_sigma, y_sigma)")
    columns = [table.x_sigma * pixel_size_nm.x, table.y_sigma * pixel_size_nm.y]
    if use_z:
        if table.z_sigma is None:
            raise ValueError("grouping in 3D needs the axial uncertainty of each localization (z_sigma)")
        columns.append(table.z_sigma)
    sigmas = np.sqrt(np.column_stack(columns) ** 2 + extra_nm**2)
    if not (np.isfinite(sigmas).all() and (sigmas > 0).all()):
        raise ValueError("uncertainties must be positive and finite")
    return _positions_nm(table, pixel_size_nm, use_z), sigmas


def _split_everything(points: FloatArray, sigmas: FloatArray) -> IntArray:
    """Steps 1 and 2: a label for each localization."""
    earlier, later = _neighbours(points, sigmas, _NUM_NEIGHBOURS)
    links = coo_array((np.ones(len(earlier)), (earlier, later)), shape=(len(points), len(points)))
    cloud = connected_components(links, directed=False)[1]
    order = np.argsort(cloud, kind="stable")
    labels, count = np.empty(len(points), np.int64), 0
    for rows in np.split(order, np.flatnonzero(np.diff(cloud[order])) + 1):
        for part in split_cloud(points[rows], sigmas[rows]):
            labels[rows[part]] = count
            count += 1
    return labels


def _neighbours(points: FloatArray, sigmas: FloatArray, num: int) -> tuple[IntArray, IntArray]:
    """Pairs of the nearest neighbours that lie within `_REACH`."""
    unit = np.median(sigmas, axis=0)
    num = min(num + 1, len(points))
    scaled = points / unit
    near = cKDTree(scaled).query(scaled, k=list(range(1, num + 1)))[1]
    earlier, later = np.repeat(np.arange(len(points)), num), near.ravel()
    earlier, later = earlier[earlier != later], later[earlier != later]
    distance_sq = ((points[earlier] - points[later]) ** 2 / (sigmas[earlier] ** 2 + sigmas[later] ** 2)).sum(axis=1)
    close = distance_sq <= _REACH**2
    return earlier[close], later[close]


def _refined(points: FloatArray, sigmas: FloatArray, labels: IntArray) -> IntArray:
    """Expectation maximization over all centres; a localization sees the nearest few."""
    weights = 1 / sigmas**2
    unit = np.median(sigmas, axis=0)
    centres, shares = _centres(points, weights, labels)
    for _ in range(_REFINEMENTS):
        num = min(_NUM_CENTRES, len(centres))
        near = cKDTree(centres / unit).query(points / unit, k=list(range(1, num + 1)))[1]
        distance_sq = (weights[:, None, :] * (points[:, None, :] - centres[near]) ** 2).sum(axis=2)
        log = np.log(shares[near]) - 0.5 * distance_sq
        ratio = np.exp(log - log.max(axis=1, keepdims=True))
        ratio /= ratio.sum(axis=1, keepdims=True)
        labels = near[np.arange(len(points)), ratio.argmax(axis=1)]
        flat = near.ravel()
        mass = np.stack([np.bincount(flat, (ratio * w[:, None]).ravel(), len(centres)) for w in weights.T], axis=1)
        sums = np.stack(
            [
                np.bincount(flat, (ratio * (w * p)[:, None]).ravel(), len(centres))
                for w, p in zip(weights.T, points.T, strict=True)
            ],
            axis=1,
        )
        held = np.asarray(np.bincount(flat, ratio.ravel(), len(centres)), np.float64)
        # A centre that is nobody's first choice of 6 has less than this, and goes.
        alive = held > 1 / (2 * _NUM_CENTRES)
        moved = np.abs(sums[alive] / mass[alive] - centres[alive]).max()
        centres, shares = sums[alive] / mass[alive], held[alive]
        if alive.all() and moved < 0.01 * unit.min():
            break
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.int64)


def _centres(points: FloatArray, weights: FloatArray, labels: IntArray) -> tuple[FloatArray, FloatArray]:
    """Weighted mean and number of localizations of each label."""
    num = int(labels.max()) + 1
    mass = np.stack([np.bincount(labels, w, num) for w in weights.T], axis=1)
    sums = np.stack([np.bincount(labels, w * p, num) for w, p in zip(weights.T, points.T, strict=True)], axis=1)
    return sums / mass, np.bincount(labels, minlength=num).astype(np.float64)


def _joined(points: FloatArray, sigmas: FloatArray, labels: IntArray) -> IntArray:
    """Joins neighbouring groups that one molecule explains; each group at most once, the surest pairs first."""
    weights = 1 / sigmas**2
    centres, count = _centres(points, weights, labels)
    if len(centres) == 1:
        return labels
    mass = np.stack([np.bincount(labels, w) for w in weights.T], axis=1)
    first, second = _neighbours(centres, np.tile(np.median(sigmas, axis=0), (len(centres), 1)), _NUM_CENTRES)
    first, second = np.unique(np.sort(np.stack([first, second]), axis=0), axis=1)
    difference = 0.5 * ((centres[first] - centres[second]) ** 2 / (1 / mass[first] + 1 / mass[second])).sum(axis=1)
    both = count[first] + count[second]
    # With each localization in its own group the gain is at least this: whoever passes needs no fit.
    at_least = difference + count[first] * np.log(count[first] / both) + count[second] * np.log(count[second] / both)
    needed = needed_gain(both.astype(np.int64), points.shape[1])
    unsure = np.flatnonzero(at_least <= needed)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(count.astype(np.int64))[:-1])
    missing = np.empty(len(unsure))
    for index, pair in enumerate(unsure):
        rows = np.concatenate([members[first[pair]], members[second[pair]]])
        gain = split_in_two(points[rows], sigmas[rows], centres[first[pair]], centres[second[pair]]).gain
        missing[index] = needed[pair] - gain
    target = np.arange(len(centres))
    used = np.zeros(len(centres), bool)
    for index in np.argsort(-missing, kind="stable"):
        a, b = first[unsure[index]], second[unsure[index]]
        if missing[index] >= 0 and not (used[a] or used[b]):
            used[[a, b]] = True
            target[b] = a
    return np.asarray(np.unique(target[labels], return_inverse=True)[1], np.int64)
