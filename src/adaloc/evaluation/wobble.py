"""Wobble: a lateral shift of the PSF with depth, which a method that knows the PSF only on the axis cannot see."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import Polynomial

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.evaluation.metrics import Scored

_DEGREE = 3
_MIN_PAIRS = 100


def without_wobble(
    localizations: EmitterTable, truth: EmitterTable, scored: Scored, pixel_size_nm: PixelSize
) -> EmitterTable:
    """Takes the mean lateral error at each depth off the localizations.

    The SMLM challenge 2016 measured it on beads. Here it comes from the pairs themselves, as a cubic in the true depth,
    so a score after it is one of the scatter alone and must be called so.

    Returns:
        The localizations, shifted by their own z; as they were with fewer than 100 pairs, or for 2D data.
    """
    if scored.dz_nm is None or len(scored.truth) < _MIN_PAIRS:
        return localizations
    depth = truth.z[scored.truth]
    if np.ptp(depth) == 0:
        return localizations
    shift_x, shift_y = (Polynomial.fit(depth, error, _DEGREE) for error in (scored.dx_nm, scored.dy_nm))
    known = np.clip(localizations.z, depth.min(), depth.max())
    return localizations.with_columns(
        x=localizations.x - shift_x(known) / pixel_size_nm.x, y=localizations.y - shift_y(known) / pixel_size_nm.y
    )
