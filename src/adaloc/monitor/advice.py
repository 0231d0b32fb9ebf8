"""Advice on a run, with its evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adaloc.config import AdaptiveLRConfig
from adaloc.monitor.analysis import WINDOW, Analysis, analyse, noise_sigma, plain_number, slope_with_error
from adaloc.monitor.log import Run, number
from adaloc.monitor.say import Say, speaker
from adaloc.monitor.verdict import (
    EARLY_EPOCHS,
    NO_INFORMATION_MARGIN,
    count_epochs,
    describe_duration,
    learned_nothing,
    recent,
)
from adaloc.training.causes import NAMED, Finding
from adaloc.training.diagnosis_text import CAUSES, describe_evidence
from adaloc.words import Language

_MOST_ADVICE = 5
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


def advise(run: Run, language: Language = "en") -> list[Advice]:
    """At most five pieces of advice, the most important first; empty when there is nothing to say."""
    analysis, say = analyse(run), speaker(language)
    if analysis.num_epochs == 0:
        return []
    found = [
        _advise_diagnosis(run, language),
        _advise_not_finite(analysis, say),
        _advise_no_information(run, analysis, say),
        _advise_overfitting(run, analysis, say),
        _advise_waiting_for_data(run, say),
        _advise_minimum_rate(run, analysis, say),
        _advise_stalled(run, analysis, say),
        _advise_falling(run, analysis, say),
        _advise_clipping(run, analysis, say),
    ]
    return [advice for advice in found if advice is not None][:_MOST_ADVICE]


def is_overfitting(run: Run) -> bool:
    """Whether, in the last window, the validation loss rises while the training loss falls, both beyond their noise."""
    after = run.epochs.index.astype(np.float64) + 1
    significance = []
    for losses in (run.epochs.val_loss, run.epochs.train_loss):
        # The noise of the same window: an earlier, noisier stretch would hide the trend.
        slope, error = slope_with_error(after, losses, noise_sigma(losses, WINDOW))
        significance.append(slope / error if error > 0 else 0.0)
    return significance[0] > _SIGMAS and significance[1] < -_SIGMAS


def _advise_diagnosis(run: Run, language: Language) -> Advice | None:
    """The first named cause of the last diagnosis that the run made of itself."""
    found = findings(run)
    if not found or found[0].cause == "healthy" or not found[0].score >= NAMED:
        return None
    if found[0].cause == "unknown" and run.status == "finished":
        return None  # its remedy is to wait for the end
    words, at = CAUSES[found[0].cause], 0 if language == "en" else 1
    space = " " if language == "en" else ""
    numbers = describe_evidence(found[0], language) or speaker(language)("diagnosis {cause}", cause=found[0].cause)
    return Advice(f"{words.what[at]}{space}{words.remedy[at]}", numbers)


def findings(run: Run) -> list[Finding]:
    """What the last diagnosis that the run made of itself found, the most likely first; empty without one."""
    listed = run.diagnosis.get("findings") if run.diagnosis is not None else None
    found = []
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, dict) or item.get("cause") not in CAUSES:
            continue
        evidence = item.get("evidence")
        found.append(Finding(item["cause"], number(item.get("score")), evidence if isinstance(evidence, dict) else {}))
    return found


def _advise_not_finite(analysis: Analysis, say: Say) -> Advice | None:
    count = max(analysis.num_bad_epochs, analysis.num_bad_train_epochs)
    if not count:
        return None
    return Advice(
        say(
            "The loss is not a finite number: check the data with adaloc check for pixels or emitters that are not "
            "finite, then lower training.lr_first, or set precision to float32."
        ),
        say(
            "validation loss not finite in {val}, training loss in {train} of {all}",
            val=count_epochs(analysis.num_bad_epochs, say),
            train=count_epochs(analysis.num_bad_train_epochs, say),
            all=analysis.num_epochs,
        ),
    )


def _advise_no_information(run: Run, analysis: Analysis, say: Say) -> Advice | None:
    line = run.no_information_loss
    if learned_nothing(run, analysis):
        loss = float(np.median(recent(run.epochs.val_loss)))
        evidence = say(
            "median validation loss {loss} in the last {window} epochs, no-information loss {line}",
            loss=plain_number(loss), window=WINDOW, line=plain_number(line),
        )  # fmt: skip
        if loss > (1 + NO_INFORMATION_MARGIN) * line:
            return Advice(
                say(
                    "The network is worse than one that knows nothing: check the camera settings and the scaling of "
                    "the validation data against the training data; then lower training.lr_first."
                ),
                evidence,
            )
        return Advice(
            say(
                "The network has learned nothing: check that inputs and targets belong together before touching the "
                "learning rate."
            ),
            evidence,
        )
    if analysis.num_epochs < EARLY_EPOCHS and run.end is None:
        return Advice(
            say("Too early to judge; wait."), say("{count} finished", count=count_epochs(analysis.num_epochs, say))
        )
    return None


def _advise_overfitting(run: Run, analysis: Analysis, say: Say) -> Advice | None:
    if not is_overfitting(run):
        return None
    return Advice(
        say(
            "The network begins to learn the training samples by heart: use more samples (simulation.num_samples); "
            "the best model is kept meanwhile."
        ),
        say(
            "in the last {window} epochs the validation loss rose by {slope:.2g} per epoch while the training loss "
            "fell; best validation loss {best} after {at} epochs",
            window=WINDOW, slope=analysis.slope, best=plain_number(analysis.best_loss), at=analysis.best_after,
        ),
    )  # fmt: skip


def _advise_waiting_for_data(run: Run, say: Say) -> Advice | None:
    waiting = recent(run.epochs.wait_share)
    if len(waiting) == 0 or float(np.median(waiting)) <= _MUCH_WAITING:
        return None
    return Advice(
        say("The training waits for data: raise data.num_workers, or keep the data on a faster disk."),
        say(
            "{share:.0f} % of the time of the last {count}",
            share=100 * float(np.median(waiting)), count=count_epochs(len(waiting), say),
        ),
    )  # fmt: skip


def _advise_minimum_rate(run: Run, analysis: Analysis, say: Say) -> Advice | None:
    rates = run.epochs.lr
    at_minimum = rates <= 1.1 * _minimum_rate(run)
    above = np.flatnonzero(~at_minimum)
    since = int(above[-1]) + 1 if len(above) else 0
    num_at_minimum = len(rates) - since
    # At the end of every anneal the rate is at its minimum for a moment, as it should.
    if num_at_minimum <= max(WINDOW, 0.05 * len(rates)):
        return None
    return Advice(
        say(
            "The learning rate is at its minimum, so that little will change: stop here, or start anew with a larger "
            "training.adaptive_lr_config.plateau_min_lr or plateau_patience."
        ),
        say(
            "rate {rate:.2g} for {n} epochs, {decays} decays and {plateaus} plateau reductions",
            rate=rates[-1], n=num_at_minimum, decays=analysis.adjustments.get("decay", 0),
            plateaus=analysis.adjustments.get("plateau", 0),
        ),
    )  # fmt: skip


def _advise_stalled(run: Run, analysis: Analysis, say: Say) -> Advice | None:
    since, rates = analysis.epochs_since_best, run.epochs.lr
    if analysis.trend == "falling" or since is None or since <= _LONG_WITHOUT_BEST or learned_nothing(run, analysis):
        return None
    highest = float(np.max(rates, initial=0.0, where=np.isfinite(rates)))
    if not rates[-1] > _HIGH_RATE * highest:
        return None
    return Advice(
        say(
            "The loss stalls at a high learning rate: let the anneal at the end of the run lower it, or shorten "
            "training.epochs so that it begins sooner."
        ),
        say(
            "no new best for {count} at rate {rate:.2g}; change per epoch {slope:.1e} with an error of {error:.1e}",
            count=count_epochs(since, say), rate=rates[-1], slope=analysis.slope, error=analysis.slope_error,
        ),
    )  # fmt: skip


def _advise_falling(run: Run, analysis: Analysis, say: Say) -> Advice | None:
    if analysis.trend != "falling" or analysis.num_epochs < EARLY_EPOCHS:
        return None
    evidence = say(
        "it falls by {slope:.2g} per epoch (error {error:.1e}) in the last {window} epochs",
        slope=-analysis.slope, error=analysis.slope_error, window=WINDOW,
    )  # fmt: skip
    if run.end is None:
        left = describe_duration(analysis.seconds_left, say.language)
        return Advice(
            say("The loss still falls: wait."), say("{evidence}; time left: {left}", evidence=evidence, left=left)
        )
    if -analysis.slope * WINDOW < _WORTHWHILE_GAIN * analysis.last_loss or run.status == "interrupted":
        return None
    # While the rate comes down the loss always falls, and that is no promise for more epochs.
    highest = float(np.max(run.epochs.lr, initial=0.0, where=np.isfinite(run.epochs.lr)))
    if not run.epochs.lr[-1] > _HIGH_RATE * highest:
        return None
    return Advice(say("The loss still fell at the end: a longer run (training.epochs) would go lower."), evidence)


def _advise_clipping(run: Run, analysis: Analysis, say: Say) -> Advice | None:
    shares, norms = recent(run.epochs.clipped_share), recent(run.epochs.grad_norm)
    if analysis.trend == "falling":
        return None  # Adam's and Muon's steps hardly depend on the gradient's scale; it does no harm here
    if len(shares) == 0 or float(np.mean(shares)) <= _MUCH_CLIPPING or analysis.num_epochs < EARLY_EPOCHS:
        return None
    evidence = say(
        "{share:.0f} % of the steps in the last {count}",
        share=100 * float(np.mean(shares)), count=count_epochs(len(shares), say),
    )  # fmt: skip
    if len(norms):
        evidence += say(", median norm {norm:.3g} before clipping", norm=float(np.median(norms)))
    return Advice(
        say(
            "Most steps are clipped, so that the clipping sets their length: if the loss does not fall, raise "
            "training.clip_norm or lower training.lr_first."
        ),
        evidence,
    )


def _minimum_rate(run: Run) -> float:
    section: object = run.config
    for key in ("training", "adaptive_lr_config", "plateau_min_lr"):
        section = section.get(key) if isinstance(section, dict) else None
    configured = number(section)
    return configured if math.isfinite(configured) else AdaptiveLRConfig().plateau_min_lr
