"""How a run stands, in one sentence."""

from __future__ import annotations

import math

import numpy as np

from adaloc.emitters import FloatArray
from adaloc.monitor.analysis import WINDOW, Analysis, analyse, plain_number
from adaloc.monitor.log import Run
from adaloc.monitor.say import Say, speaker
from adaloc.words import Language

EARLY_EPOCHS = 20
"""Before that a loss near the no-information line is no news: the warmup alone takes 10."""
NO_INFORMATION_MARGIN = 0.02
"""Share of the no-information loss below it at which nothing is learned yet."""
_ENGLISH = speaker("en")


def verdict(run: Run, language: Language = "en") -> str:
    """How the run stands, in one sentence."""
    analysis, say = analyse(run), speaker(language)
    if analysis.num_epochs == 0:
        if run.end is None:
            return say("The run has started, but no epoch is finished yet.")
        return say("The run has started, but no epoch is finished (it is {status}).", status=status_words(run, say))
    parts = [_loss_now(run, analysis, say), *_bad_losses(analysis, say), *_outlook(run, analysis, say)]
    return say("{head}: {rest}.", head=_head(run, analysis, say), rest=say("; ").join(parts))


def describe_duration(seconds: float | None, language: Language = "en") -> str:
    """Seconds as people say them.

    >>> describe_duration(45), describe_duration(600), describe_duration(9000)
    ('45 s', '10 min', '2 h 30 min')
    """
    say = speaker(language)
    if seconds is None or not math.isfinite(seconds):
        return say("unknown")
    if seconds < 120:
        return say("{s:.0f} s", s=seconds)
    minutes = round(seconds / 60)
    if minutes < 120:
        return say("{m} min", m=minutes)
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return say("{h} h {m} min", h=hours, m=minutes) if minutes else say("{h} h", h=hours)
    return say("{d} d {h} h", d=hours // 24, h=hours % 24)


def learned_nothing(run: Run, analysis: Analysis) -> bool:
    """Whether the last losses lie at the no-information line or above it, late enough to mean something."""
    last, line = recent(run.epochs.val_loss), run.no_information_loss
    if analysis.num_epochs < EARLY_EPOCHS or len(last) == 0 or not line > 0:
        return False
    return float(np.median(last)) >= (1 - NO_INFORMATION_MARGIN) * line


def status_words(run: Run, say: Say) -> str:
    """The run's status as people say it."""
    known = {
        "finished": say("finished"),
        "stopped_early": say("stopped early"),
        "interrupted": say("interrupted"),
        "unfinished": say("not finished"),
    }
    return known.get(run.status, run.status)


def count_epochs(count: int, say: Say = _ENGLISH) -> str:
    """The number with its noun.

    >>> count_epochs(1), count_epochs(2)
    ('1 epoch', '2 epochs')
    """
    return say("{n} epoch", n=count) if count == 1 else say("{n} epochs", n=count)


def _head(run: Run, analysis: Analysis, say: Say) -> str:
    planned = run.planned_epochs
    short = planned is not None and planned > analysis.num_epochs
    count = count_epochs(analysis.num_epochs, say)
    if short:
        count = say("{n} of {planned} epochs", n=analysis.num_epochs, planned=planned)
    if run.end is None:
        return say("After {count}", count=count)
    return say("{status} after {count}", status=status_words(run, say).capitalize(), count=count)


def _loss_now(run: Run, analysis: Analysis, say: Say) -> str:
    if analysis.best_after is None:
        return say("the validation loss was never a finite number")
    best = plain_number(analysis.best_loss)
    if analysis.bad_since is not None:
        return say(
            "the validation loss is not a finite number since epoch {since} (best before: {best} at epoch {at})",
            since=analysis.bad_since, best=best, at=analysis.best_after,
        )  # fmt: skip
    loss = say("the validation loss is {loss}", loss=plain_number(analysis.last_loss))
    if analysis.best_loss < analysis.last_loss:
        loss += say(" (best {best})", best=best)
    line = plain_number(run.no_information_loss)
    if learned_nothing(run, analysis):
        if analysis.last_loss > (1 + NO_INFORMATION_MARGIN) * run.no_information_loss:
            return say("{loss}, worse than the no-information loss {line}", loss=loss, line=line)
        return say("{loss}, at the no-information loss {line}: the network has learned nothing", loss=loss, line=line)
    if math.isfinite(analysis.captured_percent):
        return say(
            "{loss}, and the best model captures {share:.1f} % of the information between the "
            "no-information loss {line} and the physical floor {floor}",
            loss=loss, share=analysis.captured_percent, line=line, floor=plain_number(run.floor),
        )  # fmt: skip
    if not math.isfinite(analysis.explained_percent):
        return loss
    return say(
        "{loss}, and the best model explains {share:.1f} % of the no-information loss {line}",
        loss=loss, share=analysis.explained_percent, line=line,
    )  # fmt: skip


def _bad_losses(analysis: Analysis, say: Say) -> list[str]:
    parts = []
    if analysis.num_bad_epochs and analysis.bad_since is None:
        count = count_epochs(analysis.num_bad_epochs, say)
        parts.append(say("the validation loss was not a finite number in {count}", count=count))
    if analysis.num_bad_train_epochs:
        count = count_epochs(analysis.num_bad_train_epochs, say)
        parts.append(say("the training loss was not a finite number in {count}", count=count))
    return parts


def _outlook(run: Run, analysis: Analysis, say: Say) -> list[str]:
    if analysis.bad_since is not None or learned_nothing(run, analysis):
        return []
    if run.end is None:
        if analysis.trend == "falling":
            return [say("it falls by {slope:.2g} per epoch", slope=-analysis.slope)]
        if analysis.trend == "flat":
            return [say("no clear change in the last {window} epochs", window=WINDOW)]
        if analysis.trend == "rising":
            return [say("it rises by {slope:.2g} per epoch", slope=analysis.slope)]
        return [say("too early to see a trend")]
    due = [promise for promise in analysis.promises or () if promise.state != "open"]
    if not due:
        return []
    kept = sum(promise.state == "kept" for promise in due)
    return [say("{kept} of {due} promised levels reached in time", kept=kept, due=len(due))]


def recent(values: FloatArray) -> FloatArray:
    """The finite ones of the last window."""
    last = values[-WINDOW:]
    return last[np.isfinite(last)]
