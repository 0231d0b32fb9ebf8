"""Shapes of fixed schedules: the share, 0 to 1, of the way from the minimum to the full rate at an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine(epoch: float, start: float, end: float) -> float:
    """Half a cosine from 1 at `start` to 0 at `end` (Loshchilov and Hutter 2017).

    >>> cosine(0, 0, 10), round(cosine(5, 0, 10), 3), cosine(10, 0, 10)
    (1.0, 0.5, 0.0)
    """
    progress = min(max((epoch - start) / max(end - start, 1e-9), 0.0), 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


def warm_restarts(epoch: float, periods: Sequence[int]) -> float:
    """Cosines of the given lengths one after the other; the last length repeats (SGDR).

    >>> warm_restarts(0, [10, 20]), warm_restarts(10, [10, 20]), round(warm_restarts(20, [10, 20]), 3)
    (1.0, 1.0, 0.5)
    """
    begin = 0.0
    for period in periods:
        if epoch < begin + period:
            return cosine(epoch, begin, begin + period)
        begin += period
    return cosine((epoch - begin) % periods[-1], 0, periods[-1])


def cyclical(epoch: float, period: float) -> float:
    """Straight lines from 0 up to 1 and back in each period ("triangular", Smith 2017).

    >>> cyclical(0, 10), cyclical(5, 10), cyclical(7.5, 10), cyclical(10, 10)
    (0.0, 1.0, 0.5, 0.0)
    """
    return 1 - abs(2 * (epoch / period % 1) - 1)


def step(epoch: float, period: int, factor: float) -> float:
    """`factor` once more after each period: torch's StepLR.

    >>> step(9.9, 10, 0.5), step(10, 10, 0.5), step(25, 10, 0.5)
    (1.0, 0.5, 0.25)
    """
    return float(factor ** int(epoch // period))


def warmup_stable_decay(epoch: float, epochs: int, decay_fraction: float) -> float:
    """1, then a straight line to 0 over the last `decay_fraction` of the epochs (Hu et al. 2024).

    >>> warmup_stable_decay(50, 100, 0.2), round(warmup_stable_decay(90, 100, 0.2), 3)
    (1.0, 0.5)
    """
    return min(1.0, max(epochs - epoch, 0.0) / max(epochs * decay_fraction, 1e-9))


def one_cycle(epoch: float, epochs: float) -> float:
    """Half a cosine up from 1/25 over the first 30 %, and one down to 0 (Smith and Topin 2018, torch's defaults).

    >>> one_cycle(0, 100), one_cycle(30, 100), one_cycle(100, 100)
    (0.04, 1.0, 0.0)
    """
    top = 0.3 * epochs
    if epoch < top:
        return 1 - (1 - 1 / 25) * cosine(epoch, 0, top)
    return cosine(epoch, top, epochs)
