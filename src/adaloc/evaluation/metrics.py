"""How good localizations are, in the figures of the SMLM challenge 2016 (Sage et al., Nature Methods 16, 387, 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.evaluation.matching import match

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
) -> Evaluation:
    """Scores localizations against the truth.

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

    Returns:
        The figures. RMSE lateral is sqrt(sum(dx^2 + dy^2)/TP), which is sqrt(2) larger than the error per axis;
        efficiency is 100 - sqrt((100 - 100 J)^2 + (a RMSE)^2) with a = 1/nm lateral, 0.5/nm axial, 3D their mean.
    """
    pairs = match(
        localizations,
        truth,
        pixel_size_nm=pixel_size_nm,
        lateral_tolerance_nm=lateral_tolerance_nm,
        axial_tolerance_nm=axial_tolerance_nm,
    )
    asked_for = _inside(truth, pixel_size_nm, image_size_px, border_nm) & (truth.photons >= min_photons)
    unpaired = np.ones(len(localizations), bool)
    unpaired[pairs.localization] = False
    counted = asked_for[pairs.truth]
    true_positives = int(counted.sum())
    false_positives = int((unpaired & _inside(localizations, pixel_size_nm, image_size_px, border_nm)).sum())
    false_negatives = int(asked_for.sum()) - true_positives

    found, emitters = localizations.select(pairs.localization[counted]), truth.select(pairs.truth[counted])
    dx_nm = (found.x - emitters.x) * pixel_size_nm.x
    dy_nm = (found.y - emitters.y) * pixel_size_nm.y
    # Without z there is no axial error: an empty array makes its figures None, as without true positives.
    dz_nm = np.empty(0) if axial_tolerance_nm is None else found.z - emitters.z

    jaccard = _fraction(true_positives, true_positives + false_positives + false_negatives)
    rmse_lateral_nm = _root_mean(dx_nm**2 + dy_nm**2)
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
        bias_x_nm=_mean(dx_nm),
        bias_y_nm=_mean(dy_nm),
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
