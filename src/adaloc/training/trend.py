"""Is a noisy series falling, stalled or diverging? An equivalence test on the losses of steps at one learning rate.

A stall is a claim, not the absence of one: the improvement over the window must be shown to be smaller than what
would matter. So each look gives bounds on the improvement and one of four verdicts, of which "undecided" asks for
more steps. Nothing depends on the unit or the zero of the loss: L and a L + b (a > 0) give the same verdicts.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.special import stdtrit

Verdict = Literal["falling", "stalled", "diverging", "undecided"]

_NUM_BLOCKS = 20
"""Block means per look: their averaging removes most correlation, and 18 degrees of freedom are enough for t."""
_FIRST_LOOK = 30
_LOOK_GROWTH = 1.5
"""Looks are spaced geometrically, so that a run has few and each still finds much that the one before had not."""
_SETTLING = 1 / 3
"""Share of the steps since the last change that is left out: the new rate's transient is no trend."""
_MOST_STORED = 480  # block means kept; beyond, neighbours are merged. A multiple of 2 and of _NUM_BLOCKS
_OUTLIER_SIGMAS = 3.0
_MAD_TO_SIGMA = 1.4826  # of a Gaussian
_NO_LEVEL_LOSSES = 20
_RELATIVE_CHANGE = 0.01
_NOISE_SHARE = 0.5
_LARGEST_CORRELATION = 0.95


@dataclass(frozen=True)
class Trend:
    """What one look says.

    Attributes:
        verdict: falling, stalled, diverging or undecided.
        improvement: fall of the loss over the window, estimated.
        lower, upper: bounds on it.
        delta: the improvement that would matter.
        noise: standard deviation of the loss of one step around the trend.
        level: mean loss of the window.
        num_steps: length of the window.
    """

    verdict: Verdict
    improvement: float
    lower: float
    upper: float
    delta: float
    noise: float
    level: float
    num_steps: int

    def evidence(self) -> dict[str, float]:
        """The numbers, for the log."""
        return {
            "improvement": self.improvement, "lower": self.lower, "upper": self.upper, "delta": self.delta,
            "noise": self.noise, "level": self.level, "num_steps": float(self.num_steps),
        }  # fmt: skip


class TrendTest:
    """Collects the losses of steps at one rate and looks at them at geometric intervals.

    Args:
        error_rate: probability of a wrong verdict in a whole run. The look number k (from 1, counted over the
            run) may spend 6 / (pi k)^2 of it, which sums to the whole.

    Example:
        >>> test = TrendTest()
        >>> looks = [look for step in range(200) if (look := test.observe(5 - 0.01 * step + 0.1 * (step % 2)))]
        >>> looks[-1].verdict
        'falling'
    """

    def __init__(self, error_rate: float = 0.05) -> None:
        self._error_rate = error_rate
        self._num_looks = 0
        self._first_losses: list[float] = []
        self.reset()

    def reset(self) -> None:
        """Starts a new series, after a change of the rate. The looks that were taken stay counted."""
        self._means: list[float] = []
        self._block = 1
        self._partial: list[float] = []
        self._num_steps = 0
        self._next_look = _FIRST_LOOK

    def observe(self, loss: float) -> Trend | None:
        """Takes the loss of a step.

        Args:
            loss: finite.

        Returns:
            What a look says, when one is due.
        """
        if len(self._first_losses) < _NO_LEVEL_LOSSES:
            self._first_losses.append(loss)
        self._partial.append(loss)
        self._num_steps += 1
        if len(self._partial) == self._block:
            self._means.append(math.fsum(self._partial) / self._block)
            self._partial = []
        if len(self._means) == _MOST_STORED:
            self._means = [(a + b) / 2 for a, b in zip(self._means[::2], self._means[1::2], strict=True)]
            self._block *= 2
        if self._num_steps < self._next_look:
            return None
        self._next_look = math.ceil(self._num_steps * _LOOK_GROWTH)
        self._num_looks += 1
        return self._look(self._error_rate / 2 * 6 / (math.pi * self._num_looks) ** 2)

    @property
    def improvement_so_far(self) -> float:
        """From the run's first losses to those of the current series; 0 where there is none."""
        if not self._means:
            return 0.0
        return max(statistics.fmean(self._first_losses) - statistics.fmean(self._means[-_NUM_BLOCKS:]), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs, as plain containers."""
        return {
            "num_looks": self._num_looks,
            "first_losses": list(self._first_losses),
            "means": list(self._means),
            "block": self._block,
            "partial": list(self._partial),
            "num_steps": self._num_steps,
            "next_look": self._next_look,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._num_looks = int(state["num_looks"])
        self._first_losses = [float(loss) for loss in state["first_losses"]]
        self._means = [float(mean) for mean in state["means"]]
        self._block, self._partial = int(state["block"]), [float(loss) for loss in state["partial"]]
        self._num_steps, self._next_look = int(state["num_steps"]), int(state["next_look"])

    def _look(self, error_rate: float) -> Trend:
        settled = self._means[math.ceil(len(self._means) * _SETTLING) :]
        merge = len(settled) // _NUM_BLOCKS
        recent = settled[len(settled) - merge * _NUM_BLOCKS :]
        num_steps = merge * self._block * _NUM_BLOCKS
        improvement, half_width, spread = improvement_with_interval(recent, error_rate)
        noise = spread * math.sqrt(merge * self._block)
        delta = max(_RELATIVE_CHANGE * self.improvement_so_far, _NOISE_SHARE * noise)
        lower, upper = improvement - half_width, improvement + half_width
        verdict: Verdict = "undecided"
        if lower > 0:
            verdict = "falling"
        elif upper < 0:
            verdict = "diverging"
        elif -delta < lower and upper < delta:
            verdict = "stalled"
        return Trend(verdict, improvement, lower, upper, delta, noise, statistics.fmean(recent), num_steps)


def improvement_with_interval(values: Sequence[float], error_rate: float) -> tuple[float, float, float]:
    """Fall of a series over its length, with the half-width of its interval.

    A line through block means, fitted by least squares after means far from the median-of-slopes line (Theil and Sen)
    were pulled in to 3 robust sigmas. The interval is Student's, widened for the correlation of neighbours.

    Args:
        values: equally spaced; a multiple of 20 of them.
        error_rate: probability that the truth lies beyond one given side.

    Returns:
        The improvement (positive where the series falls), the half-width, and the spread of the block means.
    """
    n, merge = _NUM_BLOCKS, len(values) // _NUM_BLOCKS
    means = [statistics.fmean(values[i : i + merge]) for i in range(0, len(values), merge)]
    robust_slope = statistics.median(
        (b - a) / (j - i) for (i, a), (j, b) in itertools.combinations(enumerate(means), 2)
    )
    residuals = [value - robust_slope * i for i, value in enumerate(means)]
    middle = statistics.median(residuals)
    reach = _OUTLIER_SIGMAS * _MAD_TO_SIGMA * statistics.median(abs(r - middle) for r in residuals)
    # Where more than half lie exactly on the line its spread says nothing about the others; they stay as they are.
    if reach > 0:
        residuals = [min(max(r, middle - reach), middle + reach) for r in residuals]
    times = [i - (n - 1) / 2 for i in range(n)]
    square = math.fsum(t * t for t in times)
    mean = statistics.fmean(residuals)
    tilt = math.fsum(t * r for t, r in zip(times, residuals, strict=True)) / square
    left = [r - mean - tilt * t for t, r in zip(times, residuals, strict=True)]
    variance = math.fsum(e * e for e in left) / (n - 2)
    spread = math.sqrt(variance)
    slope = (robust_slope + tilt) / merge
    fine = [value - slope * i for i, value in enumerate(values)]
    # Many values tell their own correlation well, and what it makes of the means' if it dies out exponentially; the
    # means' own estimate sees what does not die out so.
    correlation = max(_correlation(left, 0.0), _of_means(_correlation(fine, 2.0), merge))
    # Independent values would have told as much as this share of ours (AR(1), large n).
    share = (1 - correlation) / (1 + correlation)
    freedom = max((n - 2) * share, 1.0)
    error = spread * math.sqrt(1 / (square * share))
    return -(robust_slope + tilt) * n, n * error * float(stdtrit(freedom, 1 - error_rate)), spread


def _correlation(residuals: Sequence[float], num_errors: float) -> float:
    """Of neighbours, from 0 up, plus standard errors; without the bias of a fitted line, (2 + 4 r) / n."""
    n = len(residuals)
    mean = statistics.fmean(residuals)
    square = math.fsum((e - mean) ** 2 for e in residuals)
    if square == 0:
        return 0.0
    raw = math.fsum((a - mean) * (b - mean) for a, b in itertools.pairwise(residuals)) / square
    corrected = (raw + 2 / n) / (1 - 4 / n)
    cautious = corrected + num_errors * math.sqrt(max(1 - corrected**2, 0.0) / n)
    return min(max(cautious, 0.0), _LARGEST_CORRELATION)


def _of_means(correlation: float, merge: int) -> float:
    """Correlation of neighbouring means of `merge` values of an AR(1) series whose neighbours correlate so."""
    if merge == 1 or correlation == 0:
        return correlation
    rest = 1 - correlation**merge
    return correlation * rest**2 / (merge * (1 - correlation**2) - 2 * correlation * rest)
