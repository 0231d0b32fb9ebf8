"""Convergence of a run in numbers. Pure functions; the words are in advice.py.

"After n epochs" counts finished epochs: the first one, index 0 in the log, gives the loss after 1 epoch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from adaloc.emitters import FloatArray
from adaloc.monitor.log import Run, number

WINDOW = 20
"""Epochs over which averages and slopes are taken; the controller's default window."""

PROMISED_LEVELS = ((3.5, 50), (2.0, 200), (1.0, 1000))
"""The strategy's promises: validation loss below the first number within so many epochs."""

_DEFAULT_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 0.5)
_NOISE_WINDOW = 50
_FEWEST_FOR_TREND = 5
_SIGMAS = 3.0


@dataclass(frozen=True)
class Promise:
    """A promised level of the validation loss.

    Attributes:
        level: the loss that is to be undercut.
        within_epochs: the promise's term.
        reached_after: epochs after which the loss was first below the level, or None.
        state: kept, late (reached after the term), missed (term over, not reached), or open.
    """

    level: float
    within_epochs: int
    reached_after: int | None
    state: str


@dataclass(frozen=True)
class Analysis:
    """What the losses of a run say. NaN or None where the log does not suffice.

    Attributes:
        num_epochs: finished epochs.
        last_loss: validation loss of the last epoch, which may be not finite.
        best_loss: lowest finite validation loss.
        best_after: epochs after which it was reached.
        explained_percent: share of the no-information loss that the best model explains; negative when it is worse.
        captured_percent: share of what can be known, by the best model: 0 at the no-information loss, 100 at the
            physical floor; NaN when the floor is unknown.
        noise: scatter of the recent validation losses about their trend (one standard deviation, robust).
        slope: change of the validation loss per epoch in the last window (Theil-Sen).
        slope_error: standard error of `slope` from `noise`.
        trend: falling, flat, rising, or unknown.
        epochs_since_best: epochs since the best loss.
        improvement_run: initial (or first) loss minus best loss.
        improvement_window: median loss of the window before the last, minus that of the last window.
        unstable_share: share of the epochs in which the loss rose by more than 3 sigmas of its usual change.
        adjustments: kind to count.
        promises: the promised levels, or None where they do not apply.
        num_bad_epochs: epochs whose validation loss is not finite.
        num_bad_train_epochs: epochs whose training loss is not finite.
        bad_since: epochs after which the validation loss is not finite up to now, or None.
        seconds_per_epoch: median of the last window, s.
        seconds_left: until the planned epochs are done, s; None when ended or not known.
    """

    num_epochs: int
    last_loss: float
    best_loss: float
    best_after: int | None
    explained_percent: float
    captured_percent: float
    noise: float
    slope: float
    slope_error: float
    trend: str
    epochs_since_best: int | None
    improvement_run: float
    improvement_window: float
    unstable_share: float
    adjustments: dict[str, int]
    promises: tuple[Promise, ...] | None
    num_bad_epochs: int
    num_bad_train_epochs: int
    bad_since: int | None
    seconds_per_epoch: float
    seconds_left: float | None


def analyse(run: Run) -> Analysis:
    """Analyses a run with any number of epochs, including none."""
    epochs = run.epochs
    after = epochs.index.astype(np.float64) + 1
    losses = epochs.val_loss
    finite = np.isfinite(losses)
    best = int(np.nanargmin(np.where(finite, losses, np.nan))) if finite.any() else None
    best_loss = float(losses[best]) if best is not None else math.nan
    best_after = int(after[best]) if best is not None else None
    noise = noise_sigma(losses)
    slope, slope_error = slope_with_error(after, losses, noise)
    seconds = seconds_per_epoch(epochs.wall_s)
    num_epochs = int(after[-1]) if len(epochs) else 0
    return Analysis(
        num_epochs=num_epochs,
        last_loss=float(losses[-1]) if len(losses) else math.nan,
        best_loss=best_loss,
        best_after=best_after,
        explained_percent=explained_percent(best_loss, run.no_information_loss),
        captured_percent=captured_percent(best_loss, run.no_information_loss, run.floor),
        noise=noise,
        slope=slope,
        slope_error=slope_error,
        trend=_trend(slope, slope_error),
        epochs_since_best=None if best_after is None else num_epochs - best_after,
        improvement_run=first_loss(run) - best_loss,
        improvement_window=_window_improvement(losses[finite]),
        unstable_share=unstable_share(losses),
        adjustments=dict(Counter(adjustment.kind for adjustment in run.adjustments)),
        promises=promises(run),
        num_bad_epochs=int(np.count_nonzero(~finite)),
        num_bad_train_epochs=int(np.count_nonzero(~np.isfinite(epochs.train_loss))),
        bad_since=_bad_since(after, finite),
        seconds_per_epoch=seconds,
        seconds_left=_seconds_left(run, num_epochs, seconds),
    )


def channel_reference(run: Run, name: str) -> float:
    """Loss of a channel that counts as 1: of the best constant predictor, else before training."""
    if run.in_information_units:
        return 1.0
    channels = run.initial.get("val_channels") if run.initial is not None else None
    if isinstance(channels, dict):
        return number(channels.get(name))
    values = run.epochs.val_channels[name]
    return float(values[0]) if len(values) else math.nan


def first_loss(run: Run) -> float:
    """Validation loss before the first step, else after the first epoch with a finite one; NaN when there is none."""
    initial = number(run.initial.get("val_loss")) if run.initial is not None else math.nan
    finite = run.epochs.val_loss[np.isfinite(run.epochs.val_loss)]
    if math.isfinite(initial):
        return initial
    return float(finite[0]) if len(finite) else math.nan


def explained_percent(loss: float, no_information_loss: float) -> float:
    """100 (1 - loss / no-information loss): 0 for knowing nothing, 100 for a perfect prediction; NaN when unknown."""
    if not (math.isfinite(loss) and math.isfinite(no_information_loss) and no_information_loss > 0):
        return math.nan
    return 100 * (1 - loss / no_information_loss)


def captured_percent(loss: float, no_information_loss: float, floor: float) -> float:
    """100 (no-information - loss) / (no-information - floor): the captured information; NaN when unknown.

    >>> captured_percent(5.5, 5.5, 0.5), captured_percent(1.5, 5.5, 0.5), captured_percent(0.5, 5.5, 0.5)
    (0.0, 80.0, 100.0)
    """
    if not (math.isfinite(loss) and math.isfinite(floor) and floor < no_information_loss < math.inf):
        return math.nan
    return 100 * (no_information_loss - loss) / (no_information_loss - floor)


def plain_number(value: float) -> str:
    """Four significant digits, without an exponent where people don't want one; "-" when not known.

    >>> plain_number(0.46472), plain_number(36310.2), plain_number(math.nan)
    ('0.4647', '36310', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def moving_average(values: FloatArray, window: int = WINDOW) -> FloatArray:
    """Mean of the last `window` values at each place, of fewer at the beginning; what is not finite is left out.

    >>> moving_average(np.array([1.0, 2.0, 3.0, 4.0]), window=2).tolist()
    [1.0, 1.5, 2.5, 3.5]
    """
    if len(values) == 0:
        return np.empty(0)
    padded = np.concatenate([np.full(window - 1, np.nan), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    known = np.isfinite(windows)
    total, count = np.where(known, windows, 0.0).sum(axis=1), known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def moving_median(values: FloatArray, window: int = WINDOW) -> FloatArray:
    """Median of the last `window` values at each place, of fewer at the beginning; what is not finite is left out.

    A spike, as a search for the rate can make in the validation loss, does not move it.

    >>> moving_median(np.array([1.0, 2.0, 900.0, 4.0]), window=3).tolist()
    [1.0, 1.5, 2.0, 4.0]
    """
    known = [[v for v in values[max(i + 1 - window, 0) : i + 1] if math.isfinite(v)] for i in range(len(values))]
    return np.array([float(np.median(v)) if v else np.nan for v in known])


def theil_sen(x: FloatArray, y: FloatArray) -> float:
    """Median of the slopes between all pairs of points: unmoved by up to 29 % of outliers. NaN below two points.

    >>> theil_sen(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0, 7.0]))
    2.0
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    first, second = np.triu_indices(len(x), k=1)
    first, second = first[x[second] != x[first]], second[x[second] != x[first]]
    if len(first) == 0:
        return math.nan
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])))


def rate_of_change(after: FloatArray, values: FloatArray, window: int = WINDOW) -> FloatArray:
    """(E,) slope per epoch over the last `window` epochs at each epoch; NaN where fewer than 5 are known."""
    rates = np.full(len(values), np.nan)
    for end in range(_FEWEST_FOR_TREND, len(values) + 1):
        part = slice(max(end - window, 0), end)
        if np.count_nonzero(np.isfinite(values[part])) >= _FEWEST_FOR_TREND:
            rates[end - 1] = theil_sen(after[part], values[part])
    return rates


def noise_sigma(values: FloatArray, window: int = _NOISE_WINDOW) -> float:
    """Scatter of the last values about their trend, from the median absolute deviation of their differences."""
    return _change_sigma(np.diff(values[np.isfinite(values)][-window:])) / math.sqrt(2)


def slope_with_error(after: FloatArray, values: FloatArray, noise: float) -> tuple[float, float]:
    """Theil-Sen slope of the last window, per epoch, and its standard error for independent noise."""
    known = np.isfinite(values)
    after, values = after[known][-WINDOW:], values[known][-WINDOW:]
    if len(values) < _FEWEST_FOR_TREND:
        return math.nan, math.nan
    spread = math.sqrt(float(np.sum((after - after.mean()) ** 2)))
    return theil_sen(after, values), noise / spread


def unstable_share(values: FloatArray, window: int = _NOISE_WINDOW) -> float:
    """Share of the epochs in which the loss rose by over 3 sigmas of its changes in the window up to there."""
    changes = np.diff(values[np.isfinite(values)])
    if len(changes) < _FEWEST_FOR_TREND:
        return math.nan
    sigmas = [_change_sigma(changes[max(end - window, 0) : end]) for end in range(1, len(changes) + 1)]
    return float(np.mean([change > _SIGMAS * sigma for change, sigma in zip(changes, sigmas, strict=True)]))


def promises(run: Run) -> tuple[Promise, ...] | None:
    """The promised levels; None unless the loss is in information units with the default weights (5.5)."""
    weights = tuple(run.channel_weights.values())
    if weights != _DEFAULT_WEIGHTS or not run.in_information_units:
        return None
    num_epochs = int(run.epochs.index[-1]) + 1 if len(run.epochs) else 0
    return tuple(_promise(run, level, term, num_epochs) for level, term in PROMISED_LEVELS)


def seconds_per_epoch(wall_s: FloatArray) -> float:
    """Median duration of the last epochs, s; NaN when not known."""
    known = wall_s[np.isfinite(wall_s)][-WINDOW - 1 :]
    durations = np.diff(known) if len(known) > 1 else known
    durations = durations[durations > 0]  # a log put together may go back in time
    return float(np.median(durations)) if len(durations) else math.nan


def _promise(run: Run, level: float, term: int, num_epochs: int) -> Promise:
    below = np.flatnonzero(run.epochs.val_loss < level)
    if len(below):
        reached = int(run.epochs.index[below[0]]) + 1
        return Promise(level, term, reached, "kept" if reached <= term else "late")
    return Promise(level, term, None, "missed" if num_epochs >= term else "open")


def _change_sigma(changes: FloatArray) -> float:
    if len(changes) < 3:
        return math.nan
    return 1.4826 * float(np.median(np.abs(changes - np.median(changes))))


def _trend(slope: float, error: float) -> str:
    if not (math.isfinite(slope) and math.isfinite(error)):
        return "unknown"
    if abs(slope) <= _SIGMAS * error or slope == 0:
        return "flat"
    return "falling" if slope < 0 else "rising"


def _window_improvement(losses: FloatArray) -> float:
    if len(losses) < 2 * WINDOW:
        return math.nan
    return float(np.median(losses[-2 * WINDOW : -WINDOW]) - np.median(losses[-WINDOW:]))


def _bad_since(after: FloatArray, finite: np.typing.NDArray[np.bool_]) -> int | None:
    if len(finite) == 0 or finite[-1]:
        return None
    good = np.flatnonzero(finite)
    return int(after[good[-1] + 1 if len(good) else 0])


def _seconds_left(run: Run, num_epochs: int, seconds: float) -> float | None:
    if run.end is not None or run.planned_epochs is None or not math.isfinite(seconds):
        return None
    return max(run.planned_epochs - num_epochs, 0) * seconds
