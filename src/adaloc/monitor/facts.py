"""What a report shows, as lists of labelled words: used by the text, the web page and the live view alike."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from adaloc.config import Config
from adaloc.monitor.analysis import WINDOW, Analysis, Promise, plain_number
from adaloc.monitor.decisions import kind_words, reason_words
from adaloc.monitor.log import Adjustment, Run, number
from adaloc.monitor.say import Say, speaker
from adaloc.monitor.verdict import count_epochs, describe_duration
from adaloc.words import Language

Fact = tuple[str, str]

_SECTIONS_NOT_COMPARED = ("output",)  # where a run is written says nothing about it
_ENGLISH = speaker("en")


def key_facts(run: Run, analysis: Analysis, language: Language = "en") -> list[Fact]:
    """Loss, progress, time, device."""
    say = speaker(language)
    best = plain_number(analysis.best_loss)
    if analysis.best_after:
        best = say("{best} (epoch {at})", best=best, at=analysis.best_after)
    num_parameters = number(run.start.get("num_parameters"))
    facts = [
        (say("validation loss"), plain_number(analysis.last_loss)),
        (say("best validation loss"), best),
        (say("no-information loss"), plain_number(run.no_information_loss)),
        (say("physical floor"), plain_number(run.floor) if math.isfinite(run.floor) else say("unknown")),
        (say("captured information"), describe_captured(analysis, say)),
        (say("explained by the best model"), _percent(analysis.explained_percent)),
        (say("epochs"), say("{n} of {planned}", n=analysis.num_epochs, planned=run.planned_epochs or say("unknown"))),
        (
            say("training time"),
            describe_duration(float(run.epochs.wall_s[-1]) if len(run.epochs) else None, language),
        ),
    ]
    if analysis.seconds_left is not None and run.end is None:
        facts.append((say("time left"), describe_duration(analysis.seconds_left, language)))
    return [
        *facts,
        (say("device"), str(run.start.get("device", say("unknown")))),
        (say("parameters"), f"{num_parameters:,.0f}" if math.isfinite(num_parameters) else say("unknown")),
    ]


def describe_floor(run: Run, say: Say = _ENGLISH) -> str:
    """The loss that physics allows, or why it is unknown."""
    if math.isfinite(run.floor):
        return plain_number(run.floor)
    return say("unknown: {why}", why=run.floor_unknown_because)


def describe_captured(analysis: Analysis, say: Say = _ENGLISH) -> str:
    """The captured information of the best model in percent, or that it is unknown."""
    return _percent(analysis.captured_percent) if math.isfinite(analysis.captured_percent) else say("unknown")


def convergence_facts(run: Run, analysis: Analysis, language: Language = "en") -> list[Fact]:
    """Trend, noise, stagnation, stability."""
    say = speaker(language)
    change = plain_number(analysis.slope)
    if math.isfinite(analysis.slope_error):
        change += f" +- {analysis.slope_error:.1e}"
    trend = {"falling": say("falling"), "flat": say("flat"), "rising": say("rising")}.get(
        analysis.trend, say("unknown")
    )
    unknown = [] if math.isfinite(run.floor) else [(say("physical floor"), describe_floor(run, say))]
    resumed = say("{n} times", n=run.num_resumes) if run.num_resumes != 1 else say("once")
    return [
        *unknown,
        (
            say("trend of the last window"),
            say("{trend} ({change} per epoch, {window} epochs)", trend=trend, change=change, window=WINDOW),
        ),
        (say("epoch-to-epoch noise"), plain_number(analysis.noise)),
        (say("epochs since the best"), "-" if analysis.epochs_since_best is None else str(analysis.epochs_since_best)),
        (say("improvement over the run"), plain_number(analysis.improvement_run)),
        (
            say("improvement, last {window} epochs over the {window} before", window=WINDOW),
            plain_number(analysis.improvement_window),
        ),
        (say("epochs with a sudden rise"), _percent(100 * analysis.unstable_share)),
        (say("resumed"), resumed),
    ]


def promise_facts(analysis: Analysis, language: Language = "en") -> list[Fact]:
    """The promised levels; one line that says so where they do not apply."""
    say = speaker(language)
    if analysis.promises is None:
        why = say("apply only to the default weights in information units (no-information loss 5.5)")
        return [(say("promised levels"), why)]
    return [
        (say("below {level:g} within {n} epochs", level=p.level, n=p.within_epochs), describe_promise(p, say))
        for p in analysis.promises
    ]


def describe_promise(promise: Promise, say: Say = _ENGLISH) -> str:
    """Kept, late, missed or open, in words."""
    if promise.reached_after is None:
        return say("missed") if promise.state == "missed" else say("not reached yet")
    count = count_epochs(promise.reached_after, say)
    if promise.state == "late":
        return say("reached after {count}, too late", count=count)
    return say("reached after {count}", count=count)


def metric_facts(run: Run, language: Language = "en") -> list[Fact]:
    """The last detection metrics, with units; empty when none were measured."""
    if not run.metrics:
        return []
    say, last = speaker(language), run.metrics[-1]
    labels = metric_labels(say)
    values = [(label, number(last.get(name)), unit) for name, (label, unit) in labels.items() if name in last]
    epoch = number(last.get("epoch"))
    facts = [(label, f"{value:.3g}{unit}" if math.isfinite(value) else "-") for label, value, unit in values]
    if math.isfinite(epoch):
        facts.append((say("measured after"), count_epochs(int(epoch) + 1, say)))
    return facts


def metric_labels(say: Say) -> dict[str, tuple[str, str]]:
    """Name of each detection metric in words, and its unit."""
    return {
        "jaccard": (say("Jaccard index"), ""),
        "precision": (say("precision"), ""),
        "recall": (say("recall"), ""),
        "rmse_lateral_nm": (say("RMSE lateral"), " nm"),
        "rmse_axial_nm": (say("RMSE axial"), " nm"),
        "efficiency_3d": (say("efficiency 3D"), " %"),
        "rmse_over_crlb_lateral": (say("RMSE over CRLB, lateral"), ""),
        "rmse_over_crlb_axial": (say("RMSE over CRLB, axial"), ""),
    }


def environment_facts(run: Run, language: Language = "en") -> list[Fact]:
    """What the run was made with."""
    say = speaker(language)
    names = {
        "version": say("version"),
        "seed": say("seed"),
        "device": say("device"),
        "precision": say("number format"),
        "scheduler_type": say("strategy of the learning rate"),
        "lr_first": say("initial learning rate"),
        "steps_per_epoch": say("steps in an epoch"),
    }
    facts = [(label, str(run.start[name])) for name, label in names.items() if name in run.start]
    weights = ", ".join(f"{name} {weight:g}" for name, weight in run.channel_weights.items())
    facts.append((say("weights of the channels"), weights or say("unknown")))
    facts.append((say("started"), _date(number(run.start.get("time_s")), say)))
    facts.append((say("last event"), _date(run.last_time_s, say)))
    facts.append((say("folder"), str(run.folder)))
    return facts


def describe_adjustment(adjustment: Adjustment, language: Language = "en") -> tuple[str, str, str, str]:
    """Epoch, kind, change of the rate, reason."""
    say = speaker(language)
    change = f"{adjustment.lr_before:.2e} -> {adjustment.lr_after:.2e}"
    return str(adjustment.epoch + 1), kind_words(adjustment.kind, say), change, reason_words(adjustment.reason, say)


def describe_counts(counts: dict[str, int], language: Language = "en") -> str:
    """Kinds of adjustments with their counts.

    >>> describe_counts({"decay": 3, "boost": 1})
    'boost 1, decay 3'
    """
    say = speaker(language)
    return ", ".join(f"{kind_words(kind, say)} {count}" for kind, count in sorted(counts.items())) or say("none")


def config_differences(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Where a config differs from the default: dotted name, value, default ("-": the default has no such key)."""
    ours, default = _flatten(config), _flatten(Config().model_dump(mode="json"))
    return [
        (name, _show(ours, name), _show(default, name))
        for name in ours
        if name.split(".")[0] not in _SECTIONS_NOT_COMPARED and _show(ours, name) != _show(default, name)
    ]


def _flatten(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _show(flat: dict[str, Any], name: str) -> str:
    if name not in flat:
        return "-"
    value = flat[name]
    # 100 and 100.0 are one value.
    plain = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return f"{plain:g}" if isinstance(plain, float) else json.dumps(plain, ensure_ascii=False)


def _percent(value: float) -> str:
    return f"{value:.1f} %" if math.isfinite(value) else "-"


def _date(seconds: float, say: Say) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return say("unknown")


def differing_keys(configs: Sequence[dict[str, Any] | None]) -> list[tuple[str, list[str]]]:
    """Dotted names whose values are not the same in all configs, with the value of each ("-": not there)."""
    flat = [_flatten(config) if config is not None else {} for config in configs]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [(name, [_show(one, name) for one in flat]) for name in names]
    return [
        (name, values)
        for name, values in rows
        if len(set(values)) > 1 and name.split(".")[0] not in (*_SECTIONS_NOT_COMPARED, "comments")
    ]
