"""Errors against the Cramer-Rao bound of each emitter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adaloc.emitters import FloatArray, IntArray
from adaloc.evaluation.metrics import Scored


@dataclass(frozen=True)
class Bounds:
    """Smallest standard deviation of an unbiased estimate, for every row of the truth; NaN where it is not known.

    Attributes:
        x_nm, y_nm: along the axes. z_nm: None for 2D data.
    """

    x_nm: FloatArray
    y_nm: FloatArray
    z_nm: FloatArray | None

    def root_mean_square(self, rows: IntArray) -> tuple[float | None, float | None]:
        """Lateral, sqrt(mean(x^2 + y^2)), and axial bound of some rows; None where there is none."""
        lateral = _root_mean(self.x_nm[rows] ** 2 + self.y_nm[rows] ** 2)
        return lateral, None if self.z_nm is None else _root_mean(self.z_nm[rows] ** 2)


@dataclass(frozen=True)
class AgainstBounds:
    """How near the errors of the pairs come to physics; 1 is the best that an unbiased estimate can do.

    Attributes:
        rmse_over_crlb_lateral, rmse_over_crlb_axial: RMSE over the root mean square bound of the same pairs. Emitters
            with a large bound decide it: dim ones, and those that overlap with another.
        error_in_crlb_lateral, error_in_crlb_axial: root mean square of each error in units of its own bound; all pairs
            weigh the same. Where bounds exceed the tolerance of the pairing, both are too small.
        num_pairs: pairs whose bound is known.
    """

    rmse_over_crlb_lateral: float | None
    rmse_over_crlb_axial: float | None
    error_in_crlb_lateral: float | None
    error_in_crlb_axial: float | None
    num_pairs: int


def against_bounds(scored: Scored, bounds: Bounds) -> AgainstBounds:
    """Compares the errors of the pairs with the bounds of their emitters."""
    bound_sq = bounds.x_nm[scored.truth] ** 2 + bounds.y_nm[scored.truth] ** 2
    lateral = _ratios(scored.dx_nm**2 + scored.dy_nm**2, bound_sq)
    axial: tuple[float | None, float | None] = (None, None)
    if scored.dz_nm is not None and bounds.z_nm is not None:
        axial = _ratios(scored.dz_nm**2, bounds.z_nm[scored.truth] ** 2)
    return AgainstBounds(lateral[0], axial[0], lateral[1], axial[1], int(np.isfinite(bound_sq).sum()))


def _ratios(error_sq: FloatArray, bound_sq: FloatArray) -> tuple[float | None, float | None]:
    known = np.isfinite(bound_sq)
    if not known.any():
        return None, None
    error_sq, bound_sq = error_sq[known], bound_sq[known]
    return math.sqrt(error_sq.mean() / bound_sq.mean()), math.sqrt((error_sq / bound_sq).mean())


def _root_mean(squares: FloatArray) -> float | None:
    known = squares[np.isfinite(squares)]
    return math.sqrt(known.mean()) if len(known) else None
