"""Bias towards the pixel grid: do localizations prefer some places within a pixel?

Molecules do not know where the pixels are, so their sub-pixel positions are uniform. A network (or a fit that is
stopped early) that pulls towards pixel centres or edges shows as a wave in their histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adaloc.emitters import FloatArray

_STRONG = 0.3
"""Amplitude that is pointed at. The network of benchmarks/real_movies.py has 0.06 to 0.09 on a movie that fits it."""


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


class PixelGridWave:
    """Gathers positions along one axis, block by block."""

    def __init__(self) -> None:
        self._sum, self._num = 0j, 0

    def add(self, position_px: FloatArray) -> None:
        """Coordinates in px, 0 at the centre of the first pixel."""
        self._sum += complex(np.exp(2j * np.pi * position_px).sum())
        self._num += len(position_px)

    def bias(self) -> PixelGridBias | None:
        """The preference of what was added; None where that is nothing."""
        if self._num == 0:
            return None
        wave = self._sum / self._num
        # The density 1 + a cos(2 pi (u - peak)) has a mean wave of length a/2.
        return PixelGridBias(
            amplitude=2 * abs(wave),
            peak_px=math.atan2(wave.imag, wave.real) / (2 * math.pi),
            p_value=_rayleigh_p(abs(wave), self._num),
            num=self._num,
        )


def pixel_grid_bias(position_px: FloatArray) -> PixelGridBias | None:
    """Measures the preference along one axis.

    Args:
        position_px: coordinates in px, 0 at the centre of the first pixel.

    Returns:
        None where there are no localizations.
    """
    wave = PixelGridWave()
    wave.add(position_px)
    return wave.bias()


def describe_pixel_grid(x: PixelGridBias | None, y: PixelGridBias | None) -> str | None:
    """A line for people; None where there is nothing to say."""
    if x is None or y is None:
        return None
    text = (
        f"Within a pixel the density of positions swings by {100 * x.amplitude:.0f} % along x and "
        f"{100 * y.amplitude:.0f} % along y (0 % is no preference; by chance {100 * _by_chance(x.num):.1f} %)."
    )
    worst = max(x, y, key=lambda bias: bias.amplitude)
    if worst.amplitude > _STRONG:
        place = "centres" if abs(worst.peak_px) < 0.25 else "edges"
        text += (
            f" That is much: positions are drawn to the pixels' {place}. A PSF or a camera other than those of the "
            "training, or molecules too dim for the network, do this; see adaloc check --movie."
        )
    return text


def _by_chance(num: int) -> float:
    """Mean amplitude of uniform independent positions: of Rayleigh's distribution."""
    return math.sqrt(math.pi / num)


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
