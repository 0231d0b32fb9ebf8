"""Axes of a chart: from numbers to places in the picture, and ticks at round numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adaloc.emitters import FloatArray


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from `low` to `high`, drawn from `start` to `end` in px."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of one number, px."""
        return float(self.of(np.array([value]))[0])

    def of(self, values: FloatArray) -> FloatArray:
        """(N,) places of (N,) numbers, px; numbers must be positive on a logarithmic axis."""
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        share = (values - low) / (high - low if high > low else 1.0)
        # Far outside a number is not drawn; a bound keeps the picture's text short.
        return np.asarray(self.start + (self.end - self.start) * np.clip(share, -1.0, 2.0))


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round numbers within an interval, equally far apart.

    >>> linear_ticks(0, 1000, 6), linear_ticks(0.0, 0.7, 4)
    ([0.0, 200.0, 400.0, 600.0, 800.0, 1000.0], [0.0, 0.2, 0.4, 0.6])
    """
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return []
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within an interval: 1, 2, 3, 5 times a power of ten, or fewer, so that they are at most `most`.

    >>> log_ticks(0.6, 12, 8), log_ticks(1e-6, 1e-1, 6)
    ([1.0, 2.0, 3.0, 5.0, 10.0], [1e-06, 1e-05, 0.0001, 0.001, 0.01, 0.1])
    """
    if not 0 < low < high < math.inf:
        return []
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1,)):
        ticks = [float(f"{d}e{p}") for p in powers for d in digits if low <= float(f"{d}e{p}") <= high]
        if len(ticks) <= most:
            return ticks
    step = -(-len(ticks) // most)
    return ticks[::step]
