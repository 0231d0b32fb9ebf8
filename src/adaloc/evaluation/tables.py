"""Scores in parts: by photons, depth and density of the emitters, and frame by frame."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.evaluation.bounds_of_pairs import Bounds
from adaloc.evaluation.metrics import Evaluation, Scored, summarize

DENSITY_RADIUS_NM = 1000.0


@dataclass(frozen=True)
class Bin:
    """One row of a table.

    Attributes:
        low, high: limits of the quantity.
        figures: of what lies between them. A pair and a missed emitter lie where the truth says, a false positive
            where it says itself.
        crlb_lateral_nm, crlb_axial_nm: root mean square of the bound over the pairs; None where it is not known.
    """

    low: float
    high: float
    figures: Evaluation
    crlb_lateral_nm: float | None
    crlb_axial_nm: float | None


def binned(
    scored: Scored,
    of_localizations: FloatArray,
    of_truth: FloatArray,
    edges: FloatArray,
    bounds: Bounds | None = None,
) -> list[Bin]:
    """Scores bin by bin.

    Args:
        scored: what counts.
        of_localizations, of_truth: the quantity for every row of the two tables.
        edges: ascending limits; the last bin holds its upper limit. False positives beyond lie in the outer bins.
        bounds: of every row of the truth.
    """
    at_pair, at_missed = of_truth[scored.truth], of_truth[scored.false_negative]
    at_extra = np.clip(of_localizations[scored.false_positive], edges[0], edges[-1])
    rows = []
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        last = index == len(edges) - 2
        pair, missed, extra = (
            (value >= low) & ((value <= high) if last else (value < high)) for value in (at_pair, at_missed, at_extra)
        )
        part = replace(
            scored,
            localization=scored.localization[pair],
            truth=scored.truth[pair],
            false_positive=scored.false_positive[extra],
            false_negative=scored.false_negative[missed],
            dx_nm=scored.dx_nm[pair],
            dy_nm=scored.dy_nm[pair],
            dz_nm=None if scored.dz_nm is None else scored.dz_nm[pair],
        )
        lateral, axial = (None, None) if bounds is None else bounds.root_mean_square(part.truth)
        rows.append(Bin(float(low), float(high), summarize(part), lateral, axial))
    return rows


def quantile_edges(values: FloatArray, num_bins: int) -> FloatArray:
    """Limits of bins that hold equally many; fewer bins where many values are equal."""
    if len(values) == 0:
        return np.array([0.0, 1.0])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num_bins + 1)))
    return edges if len(edges) > 1 else np.array([edges[0], np.nextafter(edges[0], np.inf)])


def even_edges(values: FloatArray, num_bins: int) -> FloatArray:
    """Limits of bins of equal width."""
    if len(values) == 0 or values.max() == values.min():
        return quantile_edges(values, 1)
    return np.linspace(values.min(), values.max(), num_bins + 1)


def local_density_per_um2(
    at: EmitterTable, truth: EmitterTable, pixel_size_nm: PixelSize, radius_nm: float = DENSITY_RADIUS_NM
) -> FloatArray:
    """Emitters of the same frame within a radius of each row, per square micrometre.

    An emitter counts itself. At the edge of the field the circle holds less, and the density is too low.
    """
    if len(at) == 0 or len(truth) == 0:
        return np.zeros(len(at))
    spacing = 4 * radius_nm  # the frame as a third coordinate that no radius bridges
    places, emitters = (
        np.column_stack([t.x * pixel_size_nm.x, t.y * pixel_size_nm.y, spacing * t.frame]) for t in (at, truth)
    )
    # The balanced tree splits badly where thousands of rows share a coordinate.
    count = cKDTree(emitters, balanced_tree=False).query_ball_point(places, radius_nm, return_length=True)
    return np.asarray(count / (np.pi * (radius_nm / 1000) ** 2))


@dataclass(frozen=True)
class PerFrame:
    """Counts of each frame that holds anything; frames ascend."""

    frame: IntArray
    true_positives: IntArray
    false_positives: IntArray
    false_negatives: IntArray

    @property
    def jaccard(self) -> FloatArray:
        """Of each frame, 0 to 1."""
        return np.asarray(self.true_positives / (self.true_positives + self.false_positives + self.false_negatives))


def per_frame(scored: Scored, localizations: EmitterTable, truth: EmitterTable) -> PerFrame:
    """Counts frame by frame. Pooled figures weigh emitters equally; the mean of these weighs frames equally."""
    parts = (truth.frame[scored.truth], localizations.frame[scored.false_positive], truth.frame[scored.false_negative])
    frame, row = np.unique(np.concatenate(parts), return_inverse=True)
    rows = np.split(row, np.cumsum([len(part) for part in parts])[:-1])
    counts = [np.bincount(part, minlength=len(frame)).astype(np.int64) for part in rows]
    return PerFrame(frame, *counts)
