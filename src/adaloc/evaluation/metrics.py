"""How good localizations are, in the figures of the SMLM challenge 2016 (Sage et al., Nature Methods 16, 387, 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.evaluation.matching import Method, match

LATERAL_WEIGHT_PER_NM = 1.0
AXIAL_WEIGHT_PER_NM = 0.5
"""How many percent of the Jaccard index one nm of RMSE is worth in the efficiency."""


@dataclass(frozen=True)
class Evaluation:
    """Counts, fractions (0 to 1), errors in nm and efficiencies in percent.

    `num_truth` is true positives + false negatives, `num_localizations` true + false positives: what was left out
    by border or photons is in neither. A fraction of nothing is 0. Errors and efficiencies are None where there is
    no true positive, the axial ones and `efficiency_3d` also for 2D data. Biases are mean(estimate - truth).
    """

    num_truth: int
    num_localizations: int
    true_positives: int
    false_positives: int
    false_negatives: int
    jaccard: float
    precision: float
    recall: float
    rmse_lateral_nm: float | None
    rmse_axial_nm: float | None
    bias_x_nm: float | None
    bias_y_nm: float | None
    bias_z_nm: float | None
    efficiency_lateral: float | None
    efficiency_axial: float | None
    efficiency_3d: float | None


@dataclass(frozen=True)
class Scored:
    """Which rows count, and how far off the pairs are.

    Attributes:
        localization, truth: rows of the true positives, pair by pair.
        false_positive: rows of localizations. false_negative: rows of the truth.
        dx_nm, dy_nm, dz_nm: estimate - truth of each pair; dz_nm is None for 2D data.
    """

    localization: IntArray
    truth: IntArray
    false_positive: IntArray
    false_negative: IntArray
    dx_nm: FloatArray
    dy_nm: FloatArray
    dz_nm: FloatArray | None


def score(
    localizations: EmitterTable,
    truth: EmitterTable,
    *,
    pixel_size_nm: PixelSize,
    image_size_px: tuple[int, int] | None,
    lateral_tolerance_nm: float = 250.0,
    axial_tolerance_nm: float | None = 500.0,
    border_nm: float = 450.0,
    min_photons: float = 0.0,
    method: Method = "greedy",
    cut_border_first: bool = False,
) -> Scored:
    """Pairs localizations with the truth and decides what counts.

    Everything is paired first, border and dim emitters included; then **the truth decides** what counts:

    - A pair counts as a true positive if its emitter is inside the border and has `min_photons`; on which side of
      the border line its localization fell does not matter. All other pairs leave the count.
    - An unpaired emitter is a false negative if it is inside and bright enough.
    - An unpaired localization is a false positive if it is inside.

    Were rows cut off before the pairing, every emitter near the line would turn an error of a few nm into a false
    positive or a false negative, and a found dim emitter would be a false positive. This way the number of emitters
    to be found depends on the truth alone, and the pairing does not change with border or threshold.

    Args:
        localizations: estimates.
        truth: all emitters that were there, also the dim ones and those near or outside the edge.
        pixel_size_nm: camera pixel.
        image_size_px: (H, W) of the camera frame; None: the edge is unknown and no border is left out.
        lateral_tolerance_nm: largest distance of a pair in x, y.
        axial_tolerance_nm: largest distance of a pair in z; None for 2D data.
        border_nm: width of the margin that is left out. One that covers the field leaves nothing to count.
        min_photons: emitters with fewer photons in the frame are not asked for.
        method: how pairs are found, see `match`.
        cut_border_first: leave out the rows of both tables that lie in the border before anything is paired, as the
            challenge's own program does.
    """
    inside_l = _inside(localizations, pixel_size_nm, image_size_px, border_nm)
    inside_t = _inside(truth, pixel_size_nm, image_size_px, border_nm)
    kept_l = np.flatnonzero(inside_l) if cut_border_first else np.arange(len(localizations))
    kept_t = np.flatnonzero(inside_t) if cut_border_first else np.arange(len(truth))
    pairs = match(
        localizations.select(kept_l),
        truth.select(kept_t),
        pixel_size_nm=pixel_size_nm,
        lateral_tolerance_nm=lateral_tolerance_nm,
        axial_tolerance_nm=axial_tolerance_nm,
        method=method,
    )
    row_l, row_t = kept_l[pairs.localization], kept_t[pairs.truth]
    asked_for = inside_t & (truth.photons >= min_photons)
    counted = asked_for[row_t]
    extra, missed = inside_l.copy(), asked_for.copy()
    extra[row_l] = False  # also those paired with an emitter that is not asked for
    row_l, row_t = row_l[counted], row_t[counted]
    missed[row_t] = False
    return Scored(
        localization=row_l,
        truth=row_t,
        false_positive=np.flatnonzero(extra),
        false_negative=np.flatnonzero(missed),
        dx_nm=(localizations.x[row_l] - truth.x[row_t]) * pixel_size_nm.x,
        dy_nm=(localizations.y[row_l] - truth.y[row_t]) * pixel_size_nm.y,
        dz_nm=None if axial_tolerance_nm is None else localizations.z[row_l] - truth.z[row_t],
    )


def evaluate(
    localizations: EmitterTable,
    truth: EmitterTable,
    *,
    pixel_size_nm: PixelSize,
    image_size_px: tuple[int, int] | None,
    lateral_tolerance_nm: float = 250.0,
    axial_tolerance_nm: float | None = 500.0,
    border_nm: float = 450.0,
    min_photons: float = 0.0,
    method: Method = "greedy",
    cut_border_first: bool = False,
) -> Evaluation:
    """Scores localizations against the truth: `score`, whose arguments these are, and then `summarize`."""
    return summarize(
        score(
            localizations,
            truth,
            pixel_size_nm=pixel_size_nm,
            image_size_px=image_size_px,
            lateral_tolerance_nm=lateral_tolerance_nm,
            axial_tolerance_nm=axial_tolerance_nm,
            border_nm=border_nm,
            min_photons=min_photons,
            method=method,
            cut_border_first=cut_border_first,
        )
    )


def summarize(scored: Scored) -> Evaluation:
    """The figures of what was scored.

    RMSE lateral is sqrt(sum(dx^2 + dy^2)/TP), which is sqrt(2) larger than the error per axis; efficiency is
    100 - sqrt((100 - 100 J)^2 + (a RMSE)^2) with a = 1/nm lateral, 0.5/nm axial, 3D their mean.
    """
    true_positives, false_positives = len(scored.truth), len(scored.false_positive)
    false_negatives = len(scored.false_negative)
    # Without z there is no axial error: an empty array makes its figures None, as without true positives.
    dz_nm = np.empty(0) if scored.dz_nm is None else scored.dz_nm
    jaccard = _fraction(true_positives, true_positives + false_positives + false_negatives)
    rmse_lateral_nm = _root_mean(scored.dx_nm**2 + scored.dy_nm**2)
    rmse_axial_nm = _root_mean(dz_nm**2)
    lateral = _efficiency(jaccard, rmse_lateral_nm, LATERAL_WEIGHT_PER_NM)
    axial = _efficiency(jaccard, rmse_axial_nm, AXIAL_WEIGHT_PER_NM)
    return Evaluation(
        num_truth=true_positives + false_negatives,
        num_localizations=true_positives + false_positives,
        true_positives=true_positives,
        false_positives=false_positives,
        false_negatives=false_negatives,
        jaccard=jaccard,
        precision=_fraction(true_positives, true_positives + false_positives),
        recall=_fraction(true_positives, true_positives + false_negatives),
        rmse_lateral_nm=rmse_lateral_nm,
        rmse_axial_nm=rmse_axial_nm,
        bias_x_nm=_mean(scored.dx_nm),
        bias_y_nm=_mean(scored.dy_nm),
        bias_z_nm=_mean(dz_nm),
        efficiency_lateral=lateral,
        efficiency_axial=axial,
        efficiency_3d=None if lateral is None or axial is None else (lateral + axial) / 2,
    )


def _inside(
    table: EmitterTable, pixel_size_nm: PixelSize, image_size_px: tuple[int, int] | None, border_nm: float
) -> npt.NDArray[np.bool_]:
    """Rows at least `border_nm` away from the outer edge of the field."""
    if image_size_px is None or border_nm == 0:
        return np.ones(len(table), bool)
    height, width = image_size_px
    x_nm, y_nm = (table.x + 0.5) * pixel_size_nm.x, (table.y + 0.5) * pixel_size_nm.y
    inside: npt.NDArray[np.bool_] = (x_nm >= border_nm) & (x_nm <= width * pixel_size_nm.x - border_nm)
    return inside & (y_nm >= border_nm) & (y_nm <= height * pixel_size_nm.y - border_nm)


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _root_mean(squares: npt.NDArray[np.float64]) -> float | None:
    return math.sqrt(squares.mean()) if len(squares) else None


def _efficiency(jaccard: float, rmse_nm: float | None, weight_per_nm: float) -> float | None:
    return None if rmse_nm is None else 100 - math.hypot(100 - 100 * jaccard, weight_per_nm * rmse_nm)
