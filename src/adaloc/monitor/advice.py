"""What a run's numbers mean, in words: the verdict in one sentence, and advice with its evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adaloc.config import AdaptiveLRConfig
from adaloc.emitters import FloatArray
from adaloc.monitor.analysis import WINDOW, Analysis, analyse, noise_sigma, plain_number, slope_with_error
from adaloc.monitor.log import Run, number
from adaloc.training.causes import NAMED, Finding
from adaloc.training.diagnosis_text import CAUSES, describe_evidence

_MOST_ADVICE = 5
_EARLY_EPOCHS = 20  # before that a loss near the no-information line is no news: the warmup alone takes 10
_NO_INFORMATION_MARGIN = 0.02
_MUCH_WAITING = 0.2
_MUCH_CLIPPING = 0.5
_LONG_WITHOUT_BEST = 30
_SIGMAS = 3.0
_HIGH_RATE = 0.5  # of the highest rate of the run
_WORTHWHILE_GAIN = 0.005  # of the loss, until the end of the run


@dataclass(frozen=True)
class Advice:
    """One piece of advice: what to do, and the numbers it rests on."""

    text: str
    evidence: str


def verdict(run: Run) -> str:
    """How the run stands, in one sentence."""
    analysis = analyse(run)
    if analysis.num_epochs == 0:
        ended = "" if run.end is None else f" (it is {_STATUS_WORDS.get(run.status, run.status)})"
        return f"The run has started, but no epoch is finished{ended or ' yet'}."
    return f"{_head(run, analysis)}: {_loss_now(run, analysis)}{_bad_losses(analysis)}{_outlook(run, analysis)}."


def advise(run: Run) -> list[Advice]:
    """At most five pieces of advice, the most important first; empty when there is nothing to say."""
    analysis = analyse(run)
    if analysis.num_epochs == 0:
        return []
    found = [
        _advise_diagnosis(run),
        _advise_not_finite(analysis),
        _advise_no_information(run, analysis),
        _advise_overfitting(run, analysis),
        _advise_waiting_for_data(run),
        _advise_minimum_rate(run, analysis),
        _advise_stalled(run, analysis),
        _advise_falling(run, analysis),
        _advise_clipping(run, analysis),
    ]
    return [advice for advice in found if advice is not None][:_MOST_ADVICE]


def describe_duration(seconds: float | None) -> str:
    """Seconds as people say them.

    >>> describe_duration(45), describe_duration(600), describe_duration(9000)
    ('45 s', '10 min', '2 h 30 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def learned_nothing(run: Run, analysis: Analysis) -> bool:
    """Whether the last losses lie at the no-information line or above it, late enough to mean something."""
    recent, line = _recent(run.epochs.val_loss), run.no_information_loss
    if analysis.num_epochs < _EARLY_EPOCHS or len(recent) == 0 or not line > 0:
        return False
    return float(np.median(recent)) >= (1 - _NO_INFORMATION_MARGIN) * line


def is_overfitting(run: Run) -> bool:
    """Whether, in the last window, the validation loss rises while the training loss falls, both beyond their noise."""
    after = run.epochs.index.astype(np.float64) + 1
    significance = []
    for losses in (run.epochs.val_loss, run.epochs.train_loss):
        # The noise of the same window: an earlier, noisier stretch would hide the trend.
        slope, error = slope_with_error(after, losses, noise_sigma(losses, WINDOW))
        significance.append(slope / error if error > 0 else 0.0)
    return significance[0] > _SIGMAS and significance[1] < -_SIGMAS


_STATUS_WORDS = {
    "finished": "finished",
    "stopped_early": "stopped early",
    "interrupted": "interrupted",
    "unfinished": "not finished",
}


def _head(run: Run, analysis: Analysis) -> str:
    planned = run.planned_epochs
    short = planned is not None and planned > analysis.num_epochs
    count = f"{analysis.num_epochs} of {planned} epochs" if short else count_epochs(analysis.num_epochs)
    if run.end is None:
        return f"After {count}"
    return f"{_STATUS_WORDS.get(run.status, run.status).capitalize()} after {count}"


def count_epochs(count: int) -> str:
    """The number with its noun.

    >>> count_epochs(1), count_epochs(2)
    ('1 epoch', '2 epochs')
    """
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def _loss_now(run: Run, analysis: Analysis) -> str:
    if analysis.best_after is None:
        return "the validation loss was never a finite number"
    if analysis.bad_since is not None:
        return (
            f"the validation loss is not a finite number since epoch {analysis.bad_since} "
            f"(best before: {plain_number(analysis.best_loss)} at epoch {analysis.best_after})"
        )
    loss = f"the validation loss is {plain_number(analysis.last_loss)}"
    if analysis.best_loss < analysis.last_loss:
        loss += f" (best {plain_number(analysis.best_loss)})"
    line = run.no_information_loss
    if learned_nothing(run, analysis):
        if analysis.last_loss > (1 + _NO_INFORMATION_MARGIN) * line:
            return f"{loss}, worse than the no-information loss {plain_number(line)}"
        return f"{loss}, at the no-information loss {plain_number(line)}: the network has learned nothing"
    if math.isfinite(analysis.captured_percent):
        return (
            f"{loss}, and the best model captures {analysis.captured_percent:.1f} % of the information between the "
            f"no-information loss {plain_number(line)} and the physical floor {plain_number(run.floor)}"
        )
    if not math.isfinite(analysis.explained_percent):
        return loss
    share = f"{analysis.explained_percent:.1f} %"
    return f"{loss}, and the best model explains {share} of the no-information loss {plain_number(line)}"


def _bad_losses(analysis: Analysis) -> str:
    parts = []
    if analysis.num_bad_epochs and analysis.bad_since is None:
        parts.append(f"the validation loss was not a finite number in {count_epochs(analysis.num_bad_epochs)}")
    if analysis.num_bad_train_epochs:
        parts.append(f"the training loss was not a finite number in {count_epochs(analysis.num_bad_train_epochs)}")
    return "".join(f"; {part}" for part in parts)


def _outlook(run: Run, analysis: Analysis) -> str:
    if analysis.bad_since is not None or learned_nothing(run, analysis):
        return ""
    if run.end is None:
        return {
            "falling": f"; it falls by {-analysis.slope:.2g} per epoch",
            "flat": f"; no clear change in the last {WINDOW} epochs",
            "rising": f"; it rises by {analysis.slope:.2g} per epoch",
        }.get(analysis.trend, "; too early to see a trend")
    due = [promise for promise in analysis.promises or () if promise.state != "open"]
    if not due:
        return ""
    kept = sum(promise.state == "kept" for promise in due)
    return f"; {kept} of {len(due)} promised levels reached in time"


def _advise_diagnosis(run: Run) -> Advice | None:
    """The first named cause of the last diagnosis that the run made of itself."""
    findings = run.diagnosis.get("findings") if run.diagnosis is not None else None
    if not isinstance(findings, list) or not findings or not isinstance(findings[0], dict):
        return None
    first = findings[0]
    cause, score, evidence = str(first.get("cause")), number(first.get("score")), first.get("evidence")
    if cause not in CAUSES or cause == "healthy" or not score >= NAMED:
        return None
    finding = Finding(cause, score, evidence if isinstance(evidence, dict) else {})
    what, remedy = CAUSES[cause].what[0], CAUSES[cause].remedy[0]
    return Advice(f"{what} {remedy}", describe_evidence(finding) or f"diagnosis {cause}")


def _advise_not_finite(analysis: Analysis) -> Advice | None:
    count = max(analysis.num_bad_epochs, analysis.num_bad_train_epochs)
    if not count:
        return None
    return Advice(
        "The loss is not a finite number: check the data with adaloc check for pixels or emitters that are not "
        "finite, then lower training.lr_first, or set precision to float32.",
        f"validation loss not finite in {count_epochs(analysis.num_bad_epochs)}, training loss in "
        f"{count_epochs(analysis.num_bad_train_epochs)} of {analysis.num_epochs}",
    )


def _advise_no_information(run: Run, analysis: Analysis) -> Advice | None:
    line = run.no_information_loss
    if learned_nothing(run, analysis):
        loss = float(np.median(_recent(run.epochs.val_loss)))
        evidence = (
            f"median validation loss {plain_number(loss)} in the last {WINDOW} epochs, "
            f"no-information loss {plain_number(line)}"
        )
        if loss > (1 + _NO_INFORMATION_MARGIN) * line:
            return Advice(
                "The network is worse than one that knows nothing: check the camera settings and the scaling of the "
                "validation data against the training data; then lower training.lr_first.",
                evidence,
            )
        return Advice(
            "The network has learned nothing: check that inputs and targets belong together before touching the "
            "learning rate.",
            evidence,
        )
    if analysis.num_epochs < _EARLY_EPOCHS and run.end is None:
        return Advice("Too early to judge; wait.", f"{count_epochs(analysis.num_epochs)} finished")
    return None


def _advise_overfitting(run: Run, analysis: Analysis) -> Advice | None:
    if not is_overfitting(run):
        return None
    return Advice(
        "The network begins to learn the training samples by heart: use more samples (simulation.num_samples); the "
        "best model is kept meanwhile.",
        f"in the last {WINDOW} epochs the validation loss rose by {analysis.slope:.2g} per epoch while the training "
        f"loss fell; best validation loss {plain_number(analysis.best_loss)} after {analysis.best_after} epochs",
    )


def _advise_waiting_for_data(run: Run) -> Advice | None:
    waiting = _recent(run.epochs.wait_share)
    if len(waiting) == 0 or float(np.median(waiting)) <= _MUCH_WAITING:
        return None
    return Advice(
        "The training waits for data: raise data.num_workers, or keep the data on a faster disk.",
        f"{100 * float(np.median(waiting)):.0f} % of the time of the last {count_epochs(len(waiting))}",
    )


def _advise_minimum_rate(run: Run, analysis: Analysis) -> Advice | None:
    rates = run.epochs.lr
    at_minimum = rates <= 1.1 * _minimum_rate(run)
    above = np.flatnonzero(~at_minimum)
    since = int(above[-1]) + 1 if len(above) else 0
    num_at_minimum = len(rates) - since
    # At the end of every anneal the rate is at its minimum for a moment, as it should.
    if num_at_minimum <= max(WINDOW, 0.05 * len(rates)):
        return None
    return Advice(
        "The learning rate is at its minimum, so that little will change: stop here, or start anew with a larger "
        "training.adaptive_lr_config.plateau_min_lr or plateau_patience.",
        f"rate {rates[-1]:.2g} for {num_at_minimum} epochs, {analysis.adjustments.get('decay', 0)} decays and "
        f"{analysis.adjustments.get('plateau', 0)} plateau reductions",
    )


def _advise_stalled(run: Run, analysis: Analysis) -> Advice | None:
    since, rates = analysis.epochs_since_best, run.epochs.lr
    if analysis.trend == "falling" or since is None or since <= _LONG_WITHOUT_BEST or learned_nothing(run, analysis):
        return None
    highest = float(np.max(rates, initial=0.0, where=np.isfinite(rates)))
    if not rates[-1] > _HIGH_RATE * highest:
        return None
    return Advice(
        "The loss stalls at a high learning rate: let the anneal at the end of the run lower it, or shorten "
        "training.epochs so that it begins sooner.",
        f"no new best for {count_epochs(since)} at rate {rates[-1]:.2g}; change per epoch {analysis.slope:.1e} with "
        f"an error of {analysis.slope_error:.1e}",
    )


def _advise_falling(run: Run, analysis: Analysis) -> Advice | None:
    if analysis.trend != "falling" or analysis.num_epochs < _EARLY_EPOCHS:
        return None
    evidence = (
        f"it falls by {-analysis.slope:.2g} per epoch (error {analysis.slope_error:.1e}) in the last {WINDOW} epochs"
    )
    if run.end is None:
        left = describe_duration(analysis.seconds_left)
        return Advice("The loss still falls: wait.", f"{evidence}; time left: {left}")
    if -analysis.slope * WINDOW < _WORTHWHILE_GAIN * analysis.last_loss or run.status == "interrupted":
        return None
    # While the rate comes down the loss always falls, and that is no promise for more epochs.
    highest = float(np.max(run.epochs.lr, initial=0.0, where=np.isfinite(run.epochs.lr)))
    if not run.epochs.lr[-1] > _HIGH_RATE * highest:
        return None
    return Advice("The loss still fell at the end: a longer run (training.epochs) would go lower.", evidence)


def _advise_clipping(run: Run, analysis: Analysis) -> Advice | None:
    shares, norms = _recent(run.epochs.clipped_share), _recent(run.epochs.grad_norm)
    if len(shares) == 0 or float(np.mean(shares)) <= _MUCH_CLIPPING or analysis.num_epochs < _EARLY_EPOCHS:
        return None
    norm = f", median norm {float(np.median(norms)):.3g} before clipping" if len(norms) else ""
    return Advice(
        "Most steps are clipped, so that the clipping sets their length: if the loss does not fall, raise "
        "training.clip_norm or lower training.lr_first.",
        f"{100 * float(np.mean(shares)):.0f} % of the steps in the last {count_epochs(len(shares))}{norm}",
    )


def _minimum_rate(run: Run) -> float:
    section: object = run.config
    for key in ("training", "adaptive_lr_config", "plateau_min_lr"):
        section = section.get(key) if isinstance(section, dict) else None
    configured = number(section)
    return configured if math.isfinite(configured) else AdaptiveLRConfig().plateau_min_lr


def _recent(values: FloatArray) -> FloatArray:
    recent = values[-WINDOW:]
    return recent[np.isfinite(recent)]
