"""Bias towards the pixel grid: do localizations prefer some places within a pixel?

Molecules do not know where the pixels are, so their sub-pixel positions are uniform. A network (or a fit that is
stopped early) that pulls towards pixel centres or edges shows as a wave in their histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adaloc.emitters import FloatArray


@dataclass(frozen=True)
class PixelGridBias:
    """Of one axis.

    Attributes:
        amplitude: of the first harmonic of the density, relative to its mean: 0 is uniform, 1 swings to zero.
        peak_px: sub-pixel position that is preferred, -0.5 to 0.5; 0 is the centre of the pixel.
        p_value: chance of such an amplitude or more in uniform independent positions (Rayleigh's test). A molecule that
            is localized many times is not independent of itself: group or link before taking this seriously.
        num: localizations.
    """

    amplitude: float
    peak_px: float
    p_value: float
    num: int


def pixel_grid_bias(position_px: FloatArray) -> PixelGridBias | None:
    """Measures the preference along one axis.

    Args:
        position_px: coordinates in px, 0 at the centre of the first pixel.

    Returns:
        None where there are no localizations.
    """
    num = len(position_px)
    if num == 0:
        return None
    wave = complex(np.exp(2j * np.pi * position_px).mean())
    length = abs(wave)
    # The density 1 + a cos(2 pi (u - peak)) has a mean wave of length a/2.
    return PixelGridBias(
        amplitude=2 * length,
        peak_px=math.atan2(wave.imag, wave.real) / (2 * math.pi),
        p_value=_rayleigh_p(length, num),
        num=num,
    )


def error_wave_nm(error_nm: FloatArray, true_position_px: FloatArray) -> float | None:
    """Amplitude, in nm, of the error's first harmonic over the true sub-pixel position.

    This is the bias itself, and needs a truth; `pixel_grid_bias` sees only what it does to the density.

    Returns:
        None with fewer than 10 errors, from which no wave can be told.
    """
    if len(error_nm) < 10:
        return None
    phase = 2 * np.pi * true_position_px
    design = np.column_stack([np.ones(len(phase)), np.cos(phase), np.sin(phase)])
    _, cosine, sine = np.linalg.lstsq(design, error_nm, rcond=None)[0]
    return math.hypot(cosine, sine)


def _rayleigh_p(length: float, num: int) -> float:
    """P value of a mean resultant length (Mardia and Jupp, Directional Statistics, 2000, eq. 6.3.5)."""
    z = num * length**2
    series = 1 + (2 * z - z**2) / (4 * num) - (24 * z - 132 * z**2 + 76 * z**3 - 9 * z**4) / (288 * num**2)
    # The series is for small z; far out exp(-z) alone is left of it.
    return min(1.0, max(0.0, math.exp(-z) * (series if z < 5 and series > 0 else 1.0)))
