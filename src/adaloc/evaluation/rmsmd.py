"""Root mean square minimum distance (RMSMD) of estimates pooled over a movie, after Sun (CCNY; NAIRR-SMLM leaderboard).

Two distances are averaged: from each estimate to an emitter, and from each emitter to an estimate. The partitioned
one, RMSMD-P, first gives each emitter its share of the estimates, so an emitter that is found too seldom takes
estimates from far away, and one found too often gives estimates to others. Axes: K estimates, M emitters, D axes.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

from adaloc.emitters import FloatArray, IntArray

_CHUNK = 2_000_000  # distances that are worked on at a time


def rmsmd(estimates_KD: FloatArray, emitters_MD: FloatArray) -> float:
    """RMSMD without shares: each row's distance to the nearest of the other set.

    Args:
        estimates_KD: positions of all frames together, nm.
        emitters_MD: position of each emitter once, nm.

    Returns:
        nm.

    Raises:
        ValueError: when either is empty.
    """
    _require_both(estimates_KD, emitters_MD)
    to_emitter = cKDTree(emitters_MD).query(estimates_KD)[0]
    to_estimate = cKDTree(estimates_KD).query(emitters_MD)[0]
    return math.sqrt(
        (float((to_emitter**2).sum()) + float((to_estimate**2).sum())) / (len(to_emitter) + len(to_estimate))
    )


def rmsmd_partitioned(estimates_KD: FloatArray, emitters_MD: FloatArray, activations_M: IntArray) -> float:
    """RMSMD-P.

    Args:
        estimates_KD: positions of all frames together, nm.
        emitters_MD: position of each emitter once, nm.
        activations_M: frames in which each emitter shone.

    Returns:
        nm.

    Raises:
        ValueError: when a set is empty, or the sizes do not fit.
    """
    _require_both(estimates_KD, emitters_MD)
    if activations_M.shape != (len(emitters_MD),):
        raise ValueError(f"activations have shape {activations_M.shape}, there are {len(emitters_MD)} emitters")
    owner = partition(estimates_KD, emitters_MD, shares(len(estimates_KD), activations_M))
    squares = ((estimates_KD - emitters_MD[owner]) ** 2).sum(axis=1)
    nearest = np.full(len(emitters_MD), np.inf)
    np.minimum.at(nearest, owner, squares)
    # An emitter without a share takes its nearest estimate, whosever that is.
    lonely = np.flatnonzero(np.isinf(nearest))
    if len(lonely):
        nearest[lonely] = cKDTree(estimates_KD).query(emitters_MD[lonely])[0] ** 2
    return math.sqrt((float(squares.sum()) + float(nearest.sum())) / (len(estimates_KD) + len(emitters_MD)))


def shares(num_estimates: int, activations_M: IntArray) -> IntArray:
    """How many of the estimates each emitter should have.

    With fewer than two estimates an emitter they come from a method that makes one of the whole movie: all shares are
    equal. Otherwise they are proportional to the activations. Halves are rounded up.
    """
    num_emitters = len(activations_M)
    if num_estimates < 2 * num_emitters:
        fraction = np.full(num_emitters, 1 / num_emitters)
    else:
        fraction = activations_M / activations_M.sum()
    return np.floor(num_estimates * fraction + 0.5).astype(np.int64)


def partition(estimates_KD: FloatArray, emitters_MD: FloatArray, shares_M: IntArray) -> IntArray:
    """The emitter of each estimate.

    The globally nearest pair of an open emitter and a free estimate is joined again and again; an emitter closes when
    it has its share. Estimates that are left when all are closed go to emitters in the same way, one each.

    Returns:
        (K,) rows of emitters.
    """
    owner = _nearest_first(estimates_KD, emitters_MD, shares_M)
    # Rounding can leave over more than one an emitter only where shares are all equal; then they come round again.
    while (free := np.flatnonzero(owner < 0)).size:
        owner[free] = _nearest_first(estimates_KD[free], emitters_MD, np.ones(len(emitters_MD), np.int64))
    return owner


def _nearest_first(estimates_KD: FloatArray, emitters_MD: FloatArray, shares_M: IntArray) -> IntArray:
    """Owners after joining the globally nearest pairs; -1 where all emitters are closed.

    With distances that are the same from both sides, taking nearest pairs first gives the one stable matching (Gale and
    Shapley, 1962). It is found without sorting all K M pairs: estimates ask their nearest emitter that has not refused
    them, and an emitter keeps the nearest of those who asked, as many as its share.
    """
    preference = _preferences(estimates_KD, emitters_MD)
    owner = np.full(len(estimates_KD), -1, np.int64)
    distance = np.full(len(estimates_KD), np.inf)
    asked = np.zeros(len(estimates_KD), np.int64)
    asking = np.arange(len(estimates_KD))
    while len(asking):
        target = preference[asking, asked[asking]].astype(np.int64)
        owner[asking] = target
        distance[asking] = ((estimates_KD[asking] - emitters_MD[target]) ** 2).sum(axis=1)
        touched = np.zeros(len(emitters_MD), bool)
        touched[target] = True
        held = np.flatnonzero((owner >= 0) & touched[np.maximum(owner, 0)])
        order = held[np.lexsort((held, distance[held], owner[held]))]
        group = owner[order]
        first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        rank = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
        refused = order[rank >= shares_M[group]]
        owner[refused] = -1
        asked[refused] += 1
        asking = refused[asked[refused] < len(emitters_MD)]
    return owner


def _preferences(estimates_KD: FloatArray, emitters_MD: FloatArray) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    """(K, M) emitters from near to far."""
    result = np.empty((len(estimates_KD), len(emitters_MD)), np.int32)
    step = max(1, _CHUNK // len(emitters_MD))
    for start in range(0, len(estimates_KD), step):
        rows = slice(start, start + step)
        squares = ((estimates_KD[rows, None, :] - emitters_MD[None, :, :]) ** 2).sum(axis=2)
        result[rows] = np.argsort(squares, axis=1, kind="stable")
    return result


def _require_both(estimates_KD: FloatArray, emitters_MD: FloatArray) -> None:
    if len(estimates_KD) == 0 or len(emitters_MD) == 0:
        raise ValueError("RMSMD needs at least one estimate and one emitter")
    if estimates_KD.shape[1] != emitters_MD.shape[1]:
        raise ValueError(f"estimates have {estimates_KD.shape[1]} axes, emitters {emitters_MD.shape[1]}")
