"""What the owner of the learning rate did, and why, in both languages."""

from __future__ import annotations

import re
from typing import Any

from adaloc.monitor.chinese import CHINESE
from adaloc.monitor.say import Say

_NUMBER = re.compile(r"\d[\d.e+-]*")


def kind_words(kind: str, say: Say) -> str:
    """Name of a kind of decision; one that is not known stays as it is."""
    known = {
        "search": say("search"),
        "found": say("found"),
        "trial": say("trial"),
        "boost": say("boost"),
        "revert": say("revert"),
        "decay": say("decay"),
        "plateau": say("plateau"),
        "rollback": say("rollback"),
        "warmup_done": say("warmup done"),
        "anneal": say("anneal"),
        "restart": say("restart"),
    }
    return known.get(kind, kind)


def kind_meaning(kind: str, say: Say) -> str:
    """What a kind of decision does; empty for one that is not known."""
    known = {
        "search": say("the search for a learning rate begins again at a lower one"),
        "found": say("a learning rate was found by growing it until a step changes the weights by the wanted share"),
        "trial": say("some steps at the present rate, then the same steps at a higher one, to compare"),
        "boost": say("the higher rate stays"),
        "revert": say("the higher rate failed: everything goes back, and the rate is lowered"),
        "decay": say("a lower rate"),
        "plateau": say("a lower rate"),
        "rollback": say("back to a copy of the weights from before, at a lower rate"),
        "warmup_done": say("the rate has grown to its initial value"),
        "anneal": say("from here on the rate goes down to its minimum"),
        "restart": say("the rate starts again high"),
    }
    return known.get(kind, "")


def reason_words(reason: str, say: Say) -> str:
    """The logged reason in the language of `say`; one that is not known stays in English.

    The log holds reasons with their numbers. Those are taken out, the sentence is looked up, and they are put back.
    """
    if say.language == "en":
        return reason
    numbers = iter(_NUMBER.findall(reason))
    translated = CHINESE.get(_NUMBER.sub("#", reason))
    return reason if translated is None else re.sub("#", lambda _: next(numbers), translated)


def evidence_lines(evidence: dict[str, Any], say: Say) -> list[str]:
    """The numbers of a decision with what they are, one a line; a number without words has its name."""
    labels = {
        "rate": say("rate"),
        "num_steps": say("steps"),
        "relative_step": say("share of the weights' size that a step changes"),
        "target_relative_step": say("wanted share"),
        "last_loss": say("last loss"),
        "lowest_level": say("lowest level of the loss"),
        "level": say("level of the loss"),
        "level_before": say("level before"),
        "level_now": say("level now"),
        "noise": say("noise of a step"),
        "improvement": say("improvement in the window"),
        "lower": say("its lower bound"),
        "upper": say("its upper bound"),
        "delta": say("improvement that would count"),
        "gain": say("gain of the higher rate"),
        "gain_needed": say("gain needed to be beyond chance"),
        "best_loss": say("best loss"),
        "epochs_since_best": say("epochs since the best"),
        "recent_mean": say("mean of the last losses"),
        "recent_variance": say("variance of the last losses"),
    }
    lines = []
    for name, value in evidence.items():
        if isinstance(value, int | float) and (value or name in labels):
            lines.append(f"{labels.get(name, name)}: {value:.3g}")
    return lines
