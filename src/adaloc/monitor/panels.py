"""The charts of a run. Each answers one question, which is its heading; what answers none is left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from adaloc.emitters import FloatArray
from adaloc.monitor.analysis import (
    WINDOW,
    Analysis,
    channel_reference,
    first_loss,
    moving_average,
    moving_median,
    plain_number,
)
from adaloc.monitor.chart import Band, Chart, Curve, Level, Mark, Span
from adaloc.monitor.decisions import evidence_lines, kind_meaning, kind_words, reason_words
from adaloc.monitor.facts import metric_labels
from adaloc.monitor.log import Adjustment, Run, number
from adaloc.monitor.say import Say

_STYLES = {
    "boost": ("up", "c3"),
    "decay": ("down", "c6"),
    "plateau": ("square", "c5"),
    "anneal": ("diamond", "c4"),
    "warmup_done": ("circle", "c1"),
    "restart": ("up", "c7"),
    "search": ("circle", "c1"),
    "found": ("circle", "c2"),
    "trial": ("diamond", "c2"),
    "revert": ("down", "c5"),
    "rollback": ("cross", "c6"),
}
_CHANNEL_COLORS = ("c7", "c1", "c2", "c3", "c4", "c5")
_MOST_MARKS = 300  # the literal strategy may decay at every epoch
_NOISE_WINDOW = 50
_MUCH_WAITING = 0.05
_HIGHEST_OF_LOSS = 1.25  # of the larger of the no-information and the first loss: a spike must not flatten the rest


def loss_chart(run: Run, analysis: Analysis, say: Say) -> Chart:
    """Losses between the two lines, with a band of noise and the decisions."""
    after, train, val = _after(run), run.epochs.train_loss, run.epochs.val_loss
    middle, noise = moving_median(val), moving_noise(val)
    line, first = run.no_information_loss, first_loss(run)
    levels = [Level(say("knowing nothing: {loss}", loss=plain_number(line)), line, "c6")] if line > 0 else []
    if math.isfinite(run.floor):
        levels.append(Level(say("physics allows: {loss}", loss=plain_number(run.floor)), run.floor, "c3"))
    levels += [
        Level(say("promised within {n} epochs: {level:g}", n=p.within_epochs, level=p.level), p.level, "soft", "dots")
        for p in analysis.promises or ()
    ]
    low, high = _loss_limits(run, [train, val], [line, first])
    answer = say(
        "From {first} to {last}; a step from one epoch to the next is noise up to about {noise}.",
        first=plain_number(first), last=plain_number(analysis.last_loss), noise=plain_number(2 * analysis.noise),
    )  # fmt: skip
    return Chart(
        say("Is it learning, and how far is it from what physics allows?"),
        answer if len(run.epochs) else "",
        say("Loss over the epochs"),
        say("epochs"),
        say("loss"),
        curves=[
            Curve(say("training"), after, train, "c4", "thin"),
            Curve(say("validation"), after, val, "c1", "thin"),
            Curve(say("validation, median of the last {n}", n=WINDOW), after, middle, "c2"),
        ],
        bands=[Band(say("noise, ± 2 sigma"), after, middle - 2 * noise, middle + 2 * noise, "c2")],
        levels=levels,
        marks=_marks(run, say, lambda a: _at(after, middle, a.epoch + 1)),
        log=high > 3 * low > 0,
        y_limits=(low, high),
        x_limits=_x_limits(run),
        wide=True,
    )


def channel_chart(run: Run, say: Say) -> Chart:
    """The loss of each channel over that of its best constant predictor."""
    curves = []
    for (name, values), color in zip(run.epochs.val_channels.items(), itertools.cycle(_CHANNEL_COLORS), strict=False):
        reference = channel_reference(run, name)
        if run.channel_weights.get(name) == 0 or not reference > 0:
            continue
        smooth = moving_median(values / reference, 5)
        curves.append(Curve(channel_words(name, say), _after(run), smooth, color, "dashed" if name == "y" else "line"))
    label = say("knowing nothing: {loss}", loss="1") if run.in_information_units else say("before training: 1")
    positive = [curve.y[np.isfinite(curve.y) & (curve.y > 0)] for curve in curves]
    low = min([float(part.min()) for part in positive if len(part)], default=0.1)
    return Chart(
        say("Which channel lags behind?"),
        say("Each channel's validation loss, divided by that of its best constant predictor (median of 5 epochs)."),
        say("Loss of each channel over the epochs"),
        say("epochs"),
        say("relative loss"),
        curves=curves,
        levels=[Level(label, 1.0, "c6")],
        log=low < 0.3,
        y_limits=(low / 1.2 if low < 0.3 else 0.0, 1.6),
        x_limits=_x_limits(run),
    )


def rate_chart(run: Run, say: Say) -> Chart:
    """The learning rate with its ceiling, trials and decisions."""
    after, rates = _after(run), run.epochs.lr
    curves = [Curve(say("learning rate"), after, rates, "c2")]
    if np.isfinite(run.epochs.lr_ceiling).any():
        curves.append(Curve(say("ceiling: a rate that failed"), after, run.epochs.lr_ceiling, "c6", "dashed"))
    spans, begin = [], None
    for adjustment in run.adjustments:
        if adjustment.kind == "trial":
            begin = adjustment.epoch + 1
        elif begin is not None and adjustment.kind in ("boost", "revert", "rollback"):
            spans.append(Span(say("trial of a higher rate"), begin, adjustment.epoch + 1, "c2"))
            begin = None
    found = [a for a in run.adjustments if a.kind == "found"]
    first = run.start.get("lr_first")
    answer = say("The rate {first:g} of the config was not used: {found:.2g} was found.", first=number(first),
                 found=found[-1].lr_after) if found and math.isfinite(number(first)) else ""  # fmt: skip
    return Chart(
        say("What was done with the learning rate, and why?"),
        answer,
        say("Learning rate over the epochs"),
        say("epochs"),
        say("learning rate"),
        curves=curves,
        spans=spans,
        marks=_marks(run, say, lambda a: a.lr_after),
        log=bool(np.any(rates > 0)),
        x_limits=_x_limits(run),
    )


def gradient_chart(run: Run, say: Say) -> Chart:
    """Gradient norm before clipping, with the limit."""
    norms, shares = run.epochs.grad_norm, run.epochs.clipped_share[-WINDOW:]
    shares = shares[np.isfinite(shares)]
    limit = _clip_norm(run)
    answer = ""
    if len(shares):
        answer = say("{share:.0f} % of the steps of the last {n} epochs were clipped.", share=100 * shares.mean(),
                     n=len(shares))  # fmt: skip
    marks = [
        Mark(number(cure.get("epoch")) + 1, number(cure.get("after")), say("clipping limit raised"), "up", "c3",
             (say("clipping limit raised"), f"{number(cure.get('before')):g} → {number(cure.get('after')):g}"))
        for cure in run.cures if cure.get("kind") == "clip_raised"
    ]  # fmt: skip
    return Chart(
        say("Are the gradients sound, and does clipping set the length of the steps?"),
        answer,
        say("Gradient norm over the epochs"),
        say("epochs"),
        say("gradient norm"),
        curves=[
            Curve(say("median of the epoch, before clipping"), _after(run), norms, "c5", "thin"),
            Curve(say("median of the last {n}", n=WINDOW), _after(run), moving_median(norms), "c5"),
        ],
        levels=[Level(say("clipped above {limit:g}", limit=limit), limit, "c6")] if math.isfinite(limit) else [],
        marks=marks,
        log=bool(np.any(norms > 0)),
        x_limits=_x_limits(run),
    )


def throughput_chart(run: Run, say: Say) -> Chart:
    """Windows per second; what share of the time is waiting is said in words."""
    waiting = run.epochs.wait_share[np.isfinite(run.epochs.wait_share)]
    answer = ""
    if len(waiting):
        answer = say("{share:.1f} % of the training time was spent waiting for data.", share=100 * waiting.mean())
    return Chart(
        say("Is the machine kept busy?"),
        answer,
        say("Windows per second over the epochs"),
        say("epochs"),
        say("windows per s"),
        curves=[
            Curve(say("each epoch"), _after(run), run.epochs.windows_per_s, "c1", "thin"),
            Curve(say("median of the last {n}", n=WINDOW), _after(run), moving_median(run.epochs.windows_per_s), "c2"),
        ],
        x_limits=_x_limits(run),
    )


def waiting_chart(run: Run, say: Say) -> Chart | None:
    """Share of waiting; only where it matters."""
    waiting = run.epochs.wait_share
    if not np.isfinite(waiting).any() or np.nanmean(np.where(np.isfinite(waiting), waiting, np.nan)) < _MUCH_WAITING:
        return None
    return Chart(
        say("When does the training wait for data?"),
        "",
        say("Share of waiting over the epochs"),
        say("epochs"),
        say("waiting, %"),
        curves=[Curve(say("mean of the last {n}", n=WINDOW), _after(run), 100 * moving_average(waiting), "c6")],
        y_limits=(0, 100),
        x_limits=_x_limits(run),
    )


def metric_charts(run: Run, say: Say) -> list[Chart]:
    """Detection, errors in nm, and errors over the bound; those that were measured."""
    labels = metric_labels(say)

    def chart(question: str, answer: str, y_label: str, names: tuple[str, ...], levels: list[Level],
              limits: tuple[float, float] | None = None) -> Chart:  # fmt: skip
        curves = []
        for name, color in zip(names, ("c2", "c3", "c4"), strict=False):
            points = [(number(m.get("epoch")) + 1, number(m.get(name))) for m in run.metrics]
            curve = np.array(points, dtype=np.float64).reshape(-1, 2)
            if np.isfinite(curve[:, 1]).any():
                curves.append(Curve(labels[name][0], curve[:, 0], curve[:, 1], color, "linedots"))
        return Chart(question, answer, question, say("epochs"), y_label, curves=curves, levels=levels,
                     y_limits=limits, x_limits=_x_limits(run))  # fmt: skip

    while_training = say("On some frames while training; the last point is of the best model on all validation frames.")
    charts = [
        chart(say("Does it find the molecules?"), while_training, say("share"), ("jaccard", "precision", "recall"), [],
              (0.0, 1.0)),
        chart(say("How precise are the positions?"), "", say("RMSE, nm"), ("rmse_lateral_nm", "rmse_axial_nm"), []),
        chart(say("How near do the errors come to the physical bound?"),
              say("Of each frame alone. A network that reads the neighbouring frames can go below 1."),
              say("RMSE / CRLB"), ("rmse_over_crlb_lateral", "rmse_over_crlb_axial"),
              [Level(say("the bound (CRLB)"), 1.0, "c3")]),
    ]  # fmt: skip
    return [one for one in charts if not one.is_empty]


def moving_noise(values: FloatArray, window: int = _NOISE_WINDOW) -> FloatArray:
    """(N,) scatter of the last values about their trend at each place, from the median size of their differences.

    NaN below three differences. The factors are those of normal noise (median absolute deviation, difference of two).
    """
    known = np.where(np.isfinite(values), values, np.nan)
    sizes = np.abs(np.diff(known))
    result = np.full(len(values), np.nan)
    for end in range(3, len(sizes) + 1):
        part = sizes[max(end - window, 0) : end]
        part = part[np.isfinite(part)]
        if len(part) >= 3:
            result[end] = 1.4826 * float(np.median(part)) / math.sqrt(2)
    return result


def channel_words(name: str, say: Say) -> str:
    """A channel's name as people read it."""
    known = {
        "probability": say("detection"),
        "photons": say("photons"),
        "background": say("background"),
    }
    return known.get(name, name)


def _marks(run: Run, say: Say, height: Callable[[Adjustment], float]) -> list[Mark]:
    marks = []
    for adjustment in run.adjustments[-_MOST_MARKS:]:
        shape, color = _STYLES.get(adjustment.kind, ("square", "soft"))
        kind = kind_words(adjustment.kind, say)
        tip = [
            say("epoch {epoch}: {kind}", epoch=adjustment.epoch + 1, kind=kind),
            kind_meaning(adjustment.kind, say),
            say("rate {before:.2e} → {after:.2e}", before=adjustment.lr_before, after=adjustment.lr_after),
            say("why: {reason}", reason=reason_words(adjustment.reason, say)),
            *evidence_lines(adjustment.evidence, say),
        ]
        place = height(adjustment)
        marks.append(Mark(adjustment.epoch + 1, place, kind, shape, color, tuple(line for line in tip if line)))
    return marks


def _at(after: FloatArray, values: FloatArray, epoch: float) -> float:
    """The value at an epoch, or at the last one before it that is known."""
    known = np.flatnonzero((after <= epoch) & np.isfinite(values))
    if len(known):
        return float(values[known[-1]])
    finite = values[np.isfinite(values)]
    return float(finite[0]) if len(finite) else math.nan


def _after(run: Run) -> FloatArray:
    return run.epochs.index.astype(np.float64) + 1


def _x_limits(run: Run) -> tuple[float, float]:
    last = max([*_after(run)[-1:], *(a.epoch + 1 for a in run.adjustments[-1:]), 1])
    return 0.0, float(last)


def _loss_limits(run: Run, curves: list[FloatArray], others: list[float]) -> tuple[float, float]:
    values = np.concatenate(curves)
    values = values[np.isfinite(values)]
    lines = [value for value in others if math.isfinite(value)]
    high = float(values.max(initial=max(lines, default=1.0)))
    if lines:
        high = min(high, _HIGHEST_OF_LOSS * max(lines)) if np.any(values < max(lines)) else high
    low = float(values.min(initial=high))
    if math.isfinite(run.floor):
        low = min(low, run.floor)
    if low > 0 and high > 3 * low:
        return low / 1.15, high * 1.05
    return min(0.0, low), 1.08 * high if high > 0 else 1.0


def _clip_norm(run: Run) -> float:
    training = (run.config or {}).get("training")
    return number(training.get("clip_norm")) if isinstance(training, dict) else math.nan
