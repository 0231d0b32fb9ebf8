"""Which localization belongs to which emitter.

The greedy rule is that of the SMLM challenge 2016 (Sage et al., Nature Methods 16, 387, 2019): within a frame all pairs
inside the tolerance are taken in the order of their distance, and each row is used once. The optimal one is the
assignment of the Hungarian method: as many pairs as the tolerance allows, and of those the smallest sum of squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray

Method = Literal["greedy", "optimal"]


@dataclass(frozen=True)
class Matches:
    """Pairs: row `localization[i]` of the localizations belongs to row `truth[i]` of the truth."""

    localization: IntArray
    truth: IntArray

    def __len__(self) -> int:
        return len(self.localization)


def match(
    localizations: EmitterTable,
    truth: EmitterTable,
    *,
    pixel_size_nm: PixelSize,
    lateral_tolerance_nm: float = 250.0,
    axial_tolerance_nm: float | None = 500.0,
    method: Method = "greedy",
) -> Matches:
    """Pairs localizations with emitters of the same frame.

    Both tolerances are inclusive and hold separately (a cylinder). Distances are 3D, or 2D where
    `axial_tolerance_nm` is None. Pairs at exactly the same distance are taken in the order of their coordinates,
    so the greedy result does not depend on the order of the rows.

    Args:
        localizations: estimates, any order.
        truth: emitters, any order.
        pixel_size_nm: camera pixel, turns x and y into nm.
        lateral_tolerance_nm: largest distance in x, y.
        axial_tolerance_nm: largest distance in z; None ignores z.
        method: "greedy" takes nearest pairs first, as the challenge does; "optimal" finds the largest number of pairs
            with the smallest sum of squared distances. Optimal pairs are never fewer.

    Returns:
        The pairs, by increasing distance.

    Raises:
        ValueError: when a position is not finite.
    """
    row_l, row_t = _pairs_in_reach(_nm(localizations, pixel_size_nm), _nm(truth, pixel_size_nm), lateral_tolerance_nm)
    lateral_sq = ((localizations.x[row_l] - truth.x[row_t]) * pixel_size_nm.x) ** 2
    lateral_sq += ((localizations.y[row_l] - truth.y[row_t]) * pixel_size_nm.y) ** 2
    keep = lateral_sq <= lateral_tolerance_nm**2
    distance_sq = lateral_sq
    if axial_tolerance_nm is not None:
        dz = localizations.z[row_l] - truth.z[row_t]
        keep &= np.abs(dz) <= axial_tolerance_nm
        distance_sq = lateral_sq + dz**2
    row_l, row_t, distance_sq = row_l[keep], row_t[keep], distance_sq[keep]
    order = np.lexsort((_rank(truth)[row_t], _rank(localizations)[row_l], distance_sq))
    row_l, row_t, distance_sq = row_l[order], row_t[order], distance_sq[order]
    if method == "optimal":
        return _assign(row_l, row_t, distance_sq, len(localizations), len(truth))
    return _take_greedily(row_l, row_t, len(localizations), len(truth))


def _nm(table: EmitterTable, pixel_size_nm: PixelSize) -> FloatArray:
    """Columns x nm, y nm, frame."""
    return np.column_stack([table.x * pixel_size_nm.x, table.y * pixel_size_nm.y, table.frame.astype(np.float64)])


def _pairs_in_reach(localizations: FloatArray, truth: FloatArray, reach_nm: float) -> tuple[IntArray, IntArray]:
    """Row pairs of one frame no further apart than `reach_nm` (and a little more, against rounding)."""
    if not (np.isfinite(localizations).all() and np.isfinite(truth).all()):
        raise ValueError("positions must be finite")
    if len(localizations) == 0 or len(truth) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    reach = reach_nm * (1 + 1e-6) + 1e-6
    # One tree for all frames: the frame is a third coordinate, spaced so that no reach bridges two frames.
    spacing = np.array([1.0, 1.0, 4 * reach])
    # The balanced tree splits badly where thousands of rows share a coordinate, as the frame's do.
    tree_l, tree_t = (cKDTree(points * spacing, balanced_tree=False) for points in (localizations, truth))
    pairs = tree_l.sparse_distance_matrix(tree_t, reach, output_type="ndarray")
    return pairs["i"].astype(np.int64), pairs["j"].astype(np.int64)


def _rank(table: EmitterTable) -> npt.NDArray[np.intp]:
    """Position of each row when sorted by its values: an order that survives shuffling the rows."""
    order = np.lexsort((-table.photons, table.z, table.y, table.x, table.frame))
    rank = np.empty(len(table), np.intp)
    rank[order] = np.arange(len(table))
    return rank


def _take_greedily(row_l: IntArray, row_t: IntArray, num_l: int, num_t: int) -> Matches:
    used_l, used_t = bytearray(num_l), bytearray(num_t)
    taken = []
    for index, (row, partner) in enumerate(zip(row_l.tolist(), row_t.tolist(), strict=True)):
        if not (used_l[row] or used_t[partner]):
            used_l[row] = used_t[partner] = 1
            taken.append(index)
    chosen = np.array(taken, np.int64)
    return Matches(localization=row_l[chosen], truth=row_t[chosen])


def _assign(row_l: IntArray, row_t: IntArray, distance_sq: FloatArray, num_l: int, num_t: int) -> Matches:
    """Optimal pairs out of the candidates; what no chain of candidates joins is solved apart."""
    if len(row_l) == 0:
        return Matches(row_l, row_t)
    graph = coo_array((np.ones(len(row_l)), (row_l, num_l + row_t)), shape=(num_l + num_t, num_l + num_t))
    part = connected_components(graph, directed=False)[1][row_l]
    order = np.argsort(part, kind="stable")
    chosen = []
    for candidates in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
        if len(candidates) == 1:
            chosen.append(candidates[0])
            continue
        left, at_left = np.unique(row_l[candidates], return_inverse=True)
        right, at_right = np.unique(row_t[candidates], return_inverse=True)
        # One pair too far apart costs more than all allowed ones together: none is taken instead of an allowed one.
        too_far = 1.0 + float(distance_sq[candidates].max()) * min(len(left), len(right))
        cost = np.full((len(left), len(right)), too_far)
        cost[at_left, at_right] = distance_sq[candidates]
        index = np.full(cost.shape, -1)
        index[at_left, at_right] = candidates
        taken = index[linear_sum_assignment(cost)]
        chosen += taken[taken >= 0].tolist()
    kept = np.sort(np.array(chosen, np.int64))
    return Matches(localization=row_l[kept], truth=row_t[kept])
