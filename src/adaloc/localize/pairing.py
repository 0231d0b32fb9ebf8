"""One-to-one pairs from a list of candidates, the best first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from adaloc.emitters import FloatArray, IntArray


def take_in_order(left: IntArray, right: IntArray) -> npt.NDArray[np.bool_]:
    """Which candidate pairs are taken when they are gone through in order and each row is used once.

    Args:
        left, right: rows of each candidate pair, the best pair first.

    Returns:
        True for the pairs that are taken.
    """
    taken = np.zeros(len(left), bool)
    open_pairs = np.arange(len(left))
    # A pair that comes first for both of its rows is taken whatever the others do. Each round takes all of those,
    # and drops what they block; the best open pair is always among them, so the rounds end.
    while len(open_pairs):
        first_left, first_right = (np.zeros(len(open_pairs), bool) for _ in range(2))
        first_left[np.unique(left[open_pairs], return_index=True)[1]] = True
        first_right[np.unique(right[open_pairs], return_index=True)[1]] = True
        chosen = open_pairs[first_left & first_right]
        taken[chosen] = True
        blocked = np.isin(left[open_pairs], left[chosen]) | np.isin(right[open_pairs], right[chosen])
        open_pairs = open_pairs[~blocked]
    return taken


def pairs_within(points_a: FloatArray, points_b: FloatArray, reach: float) -> tuple[IntArray, IntArray]:
    """All pairs of rows no further apart than `reach`, of two (N, D) and (M, D) sets of points in the same unit."""
    if len(points_a) == 0 or len(points_b) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # The balanced tree splits badly where thousands of rows share a coordinate, as frames do.
    trees = [cKDTree(points, balanced_tree=False) for points in (points_a, points_b)]
    pairs = trees[0].sparse_distance_matrix(trees[1], reach, output_type="ndarray")
    return pairs["i"].astype(np.int64), pairs["j"].astype(np.int64)
