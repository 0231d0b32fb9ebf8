"""What a report shows, as lists of labelled words: used by the text, the web page and the live view alike."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from adaloc.config import Config
from adaloc.monitor.advice import count_epochs, describe_duration
from adaloc.monitor.analysis import WINDOW, Analysis, Promise, plain_number
from adaloc.monitor.log import Adjustment, Run, number

Fact = tuple[str, str]

_METRICS = (
    ("jaccard", "Jaccard index", ""),
    ("precision", "precision", ""),
    ("recall", "recall", ""),
    ("rmse_lateral_nm", "RMSE lateral", " nm"),
    ("rmse_axial_nm", "RMSE axial", " nm"),
    ("efficiency_3d", "efficiency 3D", " %"),
)
_SECTIONS_NOT_COMPARED = ("output",)  # where a run is written says nothing about it


def key_facts(run: Run, analysis: Analysis) -> list[Fact]:
    """Loss, progress, time, device."""
    best = plain_number(analysis.best_loss)
    facts = [
        ("validation loss", plain_number(analysis.last_loss)),
        ("best validation loss", f"{best} (epoch {analysis.best_after})" if analysis.best_after else best),
        ("no-information loss", plain_number(run.no_information_loss)),
        ("physical floor", plain_number(run.floor) if math.isfinite(run.floor) else "unknown"),
        ("captured information", describe_captured(analysis)),
        ("explained by the best model", _percent(analysis.explained_percent)),
        ("epochs", f"{analysis.num_epochs} of {run.planned_epochs or 'unknown'}"),
        ("training time", describe_duration(float(run.epochs.wall_s[-1]) if len(run.epochs) else None)),
    ]
    if analysis.seconds_left is not None and run.end is None:
        facts.append(("time left", describe_duration(analysis.seconds_left)))
    facts.append(("device", str(run.start.get("device", "unknown"))))
    num_parameters = number(run.start.get("num_parameters"))
    facts.append(("parameters", f"{num_parameters:,.0f}" if math.isfinite(num_parameters) else "unknown"))
    return facts


def describe_floor(run: Run) -> str:
    """The loss that physics allows, or why it is unknown."""
    return plain_number(run.floor) if math.isfinite(run.floor) else f"unknown: {run.floor_unknown_because}"


def describe_captured(analysis: Analysis) -> str:
    """The captured information of the best model in percent, or that it is unknown."""
    return _percent(analysis.captured_percent) if math.isfinite(analysis.captured_percent) else "unknown"


def convergence_facts(run: Run, analysis: Analysis) -> list[Fact]:
    """Trend, noise, stagnation, stability."""
    change = plain_number(analysis.slope)
    if math.isfinite(analysis.slope_error):
        change += f" +- {analysis.slope_error:.1e}"
    unknown = [] if math.isfinite(run.floor) else [("physical floor", describe_floor(run))]
    return [
        *unknown,
        ("trend of the last window", f"{analysis.trend} ({change} per epoch, {WINDOW} epochs)"),
        ("epoch-to-epoch noise", plain_number(analysis.noise)),
        ("epochs since the best", "-" if analysis.epochs_since_best is None else str(analysis.epochs_since_best)),
        ("improvement over the run", plain_number(analysis.improvement_run)),
        (f"improvement, last {WINDOW} epochs over the {WINDOW} before", plain_number(analysis.improvement_window)),
        ("epochs with a sudden rise", _percent(100 * analysis.unstable_share)),
        ("resumed", f"{run.num_resumes} times" if run.num_resumes != 1 else "once"),
    ]


def promise_facts(analysis: Analysis) -> list[Fact]:
    """The promised levels; one line that says so where they do not apply."""
    if analysis.promises is None:
        return [("promised levels", "apply only to the default weights in information units (no-information loss 5.5)")]
    return [(f"below {p.level:g} within {p.within_epochs} epochs", describe_promise(p)) for p in analysis.promises]


def describe_promise(promise: Promise) -> str:
    """Kept, late, missed or open, in words."""
    if promise.reached_after is not None:
        late = ", too late" if promise.state == "late" else ""
        return f"reached after {count_epochs(promise.reached_after)}{late}"
    return "missed" if promise.state == "missed" else "not reached yet"


def metric_facts(run: Run) -> list[Fact]:
    """The last detection metrics, with units; empty when none were measured."""
    if not run.metrics:
        return []
    last = run.metrics[-1]
    values = [(label, number(last.get(name)), unit) for name, label, unit in _METRICS]
    epoch = number(last.get("epoch"))
    when = [("measured after", count_epochs(int(epoch) + 1))] if math.isfinite(epoch) else []
    return [(label, f"{value:.3g}{unit}" if math.isfinite(value) else "-") for label, value, unit in values] + when


def environment_facts(run: Run) -> list[Fact]:
    """What the run was made with."""
    names = ("version", "seed", "device", "precision", "scheduler_type", "lr_first", "steps_per_epoch")
    facts = [(name, str(run.start[name])) for name in names if name in run.start]
    weights = ", ".join(f"{name} {weight:g}" for name, weight in run.channel_weights.items())
    facts.append(("weights of the channels", weights or "unknown"))
    facts.append(("started", _date(number(run.start.get("time_s")))))
    facts.append(("last event", _date(run.last_time_s)))
    facts.append(("folder", str(run.folder)))
    return facts


def describe_adjustment(adjustment: Adjustment) -> tuple[str, str, str, str]:
    """Epoch, kind, change of the rate, reason."""
    change = f"{adjustment.lr_before:.2e} -> {adjustment.lr_after:.2e}"
    return str(adjustment.epoch + 1), adjustment.kind, change, adjustment.reason


def describe_counts(counts: dict[str, int]) -> str:
    """Kinds of adjustments with their counts.

    >>> describe_counts({"decay": 3, "boost": 1})
    'boost 1, decay 3'
    """
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "none"


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


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "unknown"
