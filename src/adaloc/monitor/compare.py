"""Runs side by side: the strategy's own table, curves over each other, and where their configs differ."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from adaloc.errors import DataError
from adaloc.monitor.analysis import PROMISED_LEVELS, analyse, plain_number
from adaloc.monitor.chart import Chart, Curve, Level
from adaloc.monitor.facts import differing_keys
from adaloc.monitor.log import LOG_FILE, Run, load_run, number
from adaloc.monitor.page import Live, drawn, page, render
from adaloc.monitor.say import Say, speaker
from adaloc.monitor.verdict import describe_duration, status_words, verdict
from adaloc.words import Language

_INTERVENTIONS = ("search", "boost", "revert", "decay", "plateau", "rollback")
"""Decisions that changed a rate against the plan; finding it, warmup and anneal are the plan."""
_MOST_CURVES = 12
_COLORS = ("c2", "c6", "c3", "c4", "c5", "c1", "c7", "c0")


@dataclass(frozen=True)
class Row:
    """One run of the table; None where its log does not say.

    Attributes:
        name: unique among the compared runs.
        status: finished, stopped_early, interrupted or unfinished.
        strategy: scheduler_type.
        initial_rate: `lr_first`. found_rate: by the search.
        epochs, planned_epochs: finished, and meant.
        epochs_to: level of the validation loss to the epochs after which it was first below, of the promised levels.
        final_loss, best_loss: validation.
        unstable_percent: epochs in which the loss rose suddenly (beyond 3 sigma of its usual change).
        interventions: changes of the rate against the plan.
        captured_percent: information that the best model captured.
        jaccard, rmse_lateral_nm: last measured.
        wall_s, seconds_left: time.
    """

    name: str
    status: str
    strategy: str
    seed: int | None
    initial_rate: float | None
    found_rate: float | None
    epochs: int
    planned_epochs: int | None
    epochs_to: dict[str, int | None]
    final_loss: float | None
    best_loss: float | None
    unstable_percent: float | None
    interventions: int
    captured_percent: float | None
    jaccard: float | None
    rmse_lateral_nm: float | None
    wall_s: float | None
    seconds_left: float | None
    verdict: str


def load_runs(folders: Sequence[Path]) -> dict[str, Run]:
    """Runs by name: the folder's, with as much of its path as tells them apart.

    Raises:
        DataError: when one is no run, or one is given twice.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise DataError("A run is given twice. Name each folder once.")
    return dict(zip(unique_names(resolved), [load_run(folder) for folder in folders], strict=True))


def unique_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart.

    >>> unique_names([Path("/a/x/run"), Path("/a/y/run")])
    ['x/run', 'y/run']
    """
    for parts in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def find_runs(folder: Path) -> dict[str, Path]:
    """Run folders in a folder or one level deeper, by name; the folder itself when it is one."""
    if (folder / LOG_FILE).is_file():
        return {folder.resolve().name: folder}
    found = sorted(path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{LOG_FILE}"))
    return {path.relative_to(folder).as_posix(): path for path in found}


def make_row(name: str, run: Run, language: Language = "en") -> Row:
    """One run's line of the table."""
    analysis = analyse(run)
    below = {f"{level:g}": np.flatnonzero(run.epochs.val_loss < level) for level, _ in PROMISED_LEVELS}
    applies = run.in_information_units
    metrics = run.metrics[-1] if run.metrics else {}
    planned, seed = run.planned_epochs, number(run.start.get("seed"))
    return Row(
        name=name,
        status=run.status,
        strategy=str(run.start.get("scheduler_type", "unknown")),
        seed=int(seed) if math.isfinite(seed) else None,
        initial_rate=_known(run.start.get("lr_first")),
        found_rate=next((_known(a.lr_after) for a in reversed(run.adjustments) if a.kind == "found"), None),
        epochs=analysis.num_epochs,
        planned_epochs=planned,
        epochs_to={
            level: int(run.epochs.index[rows[0]]) + 1 if len(rows) and applies else None
            for level, rows in below.items()
        },
        final_loss=_known(analysis.last_loss),
        best_loss=_known(analysis.best_loss),
        unstable_percent=_known(100 * analysis.unstable_share),
        interventions=sum(analysis.adjustments.get(kind, 0) for kind in _INTERVENTIONS),
        captured_percent=_known(analysis.captured_percent),
        jaccard=_known(metrics.get("jaccard")),
        rmse_lateral_nm=_known(metrics.get("rmse_lateral_nm")),
        wall_s=_known(float(run.epochs.wall_s[-1])) if len(run.epochs) else None,
        seconds_left=_known(analysis.seconds_left),
        verdict=verdict(run, language),
    )


def json_table(runs: dict[str, Run]) -> str:
    """The rows and the differing config keys as strict JSON."""
    rows = [asdict(make_row(name, run)) for name, run in runs.items()]
    differences = [{"key": key, "values": dict(zip(runs, values, strict=True))} for key, values in _differences(runs)]
    return json.dumps({"runs": rows, "config_differences": differences}, indent=2, allow_nan=False, ensure_ascii=False)


def headings(say: Say) -> list[str]:
    """Of the columns of `cells`."""
    levels = [say("epochs to {level:g}", level=level) for level, _ in PROMISED_LEVELS]
    return [
        say("run"), say("status"), say("strategy"), say("initial rate"), say("found rate"), say("epochs"), *levels,
        say("final loss"), say("best loss"), say("sudden rises"), say("interventions"), say("captured"),
        say("Jaccard index"), say("RMSE lateral"), say("time"),
    ]  # fmt: skip


def cells(row: Row, run: Run, language: Language) -> list[tuple[str, float | str]]:
    """Each column's words, and the value that it is sorted by."""
    say = speaker(language)

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f} %"

    def rate(value: float | None) -> str:
        return "-" if value is None else f"{value:.2g}"

    def loss(value: float | None) -> str:
        return "-" if value is None else plain_number(value)

    def key(value: float | None) -> float | str:
        return "" if value is None else value

    planned = f" / {row.planned_epochs}" if row.planned_epochs else ""
    reached = [("-" if after is None else str(after), key(after)) for after in row.epochs_to.values()]
    return [
        (row.name, row.name),
        (status_words(run, say), row.status),
        (row.strategy, row.strategy),
        (rate(row.initial_rate), key(row.initial_rate)),
        (rate(row.found_rate), key(row.found_rate)),
        (f"{row.epochs}{planned}", row.epochs),
        *reached,
        (loss(row.final_loss), key(row.final_loss)),
        (loss(row.best_loss), key(row.best_loss)),
        (percent(row.unstable_percent), key(row.unstable_percent)),
        (str(row.interventions), row.interventions),
        (percent(row.captured_percent), key(row.captured_percent)),
        ("-" if row.jaccard is None else f"{row.jaccard:.3f}", key(row.jaccard)),
        ("-" if row.rmse_lateral_nm is None else f"{row.rmse_lateral_nm:.1f} nm", key(row.rmse_lateral_nm)),
        (describe_duration(row.wall_s, language), key(row.wall_s)),
    ]


def markdown_table(runs: dict[str, Run], language: Language = "en") -> str:
    """The table in Markdown."""
    say = speaker(language)
    lines = [headings(say), ["---"] * len(headings(say))]
    lines += [[words for words, _ in cells(make_row(n, r, language), r, language)] for n, r in runs.items()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def comparison_body(
    runs: dict[str, Run],
    language: Language = "en",
    links: dict[str, str] | None = None,
    running: Collection[str] = (),
) -> Markup:
    """The page's content: table, curves, config differences.

    Args:
        runs: by name.
        language: of the words.
        links: page of each run by name, where it has one.
        running: names of the unfinished runs that are known to train still.
    """
    say = speaker(language)
    rows = []
    for index, (name, run) in enumerate(runs.items()):
        row = cells(make_row(name, run, language), run, language)
        if name in running:
            row[1] = (say("running"), "running")
        rows.append(
            {"name": name, "cells": row, "link": (links or {}).get(name), "color": _COLORS[index % len(_COLORS)],
             "status": row[1][1]}
        )  # fmt: skip
    return render(
        "runs_body.html", say=say, rows=rows, headings=headings(say), charts=drawn(_charts(runs, say)),
        names=list(runs), differences=_differences(runs), no_curves=max(len(runs) - _MOST_CURVES, 0),
    )  # fmt: skip


def comparison_page(runs: dict[str, Run], language: Language = "en", live: Live | None = None) -> str:
    """The whole page, with nothing from elsewhere."""
    say = speaker(language)
    return page(say("Comparison of runs"), comparison_body(runs, language), say, live)


def _charts(runs: dict[str, Run], say: Say) -> list[Chart]:
    shown = list(enumerate(runs.items()))[:_MOST_CURVES]

    def chart(question: str, y_label: str, column: str, *, wide: bool, log: bool, levels: list[Level]) -> Chart:
        curves = [
            Curve(name, run.epochs.index.astype(np.float64) + 1, getattr(run.epochs, column),
                  _COLORS[index % len(_COLORS)], "thin" if column != "lr" else "line", name)
            for index, (name, run) in shown if len(run.epochs)
        ]  # fmt: skip
        last = max([float(curve.x[-1]) for curve in curves], default=1.0)
        limits = None
        if column == "val_loss" and curves:
            lines = [run.no_information_loss for _, (_, run) in shown if math.isfinite(run.no_information_loss)]
            values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves] + [np.array(lines)])
            high = min(float(values.max()), 1.25 * max(lines)) if lines else float(values.max(initial=1.0))
            low = min(float(values.min(initial=high)), *(level.value for level in levels), high)
            limits = (low / 1.1, high * 1.05) if low > 0 else None
        return Chart(question, "", question, say("epochs"), y_label, curves=curves, levels=levels, log=log,
                     y_limits=limits, x_limits=(0.0, last), wide=wide)  # fmt: skip

    levels = [Level(f"{level:g}", level, "soft", "dots") for level, _ in PROMISED_LEVELS]
    if not all(run.in_information_units for run in runs.values()):
        levels = []
    return [
        chart(say("Which run learns faster, and further?"), say("validation loss"), "val_loss", wide=True, log=True,
              levels=levels),
        chart(say("How did their learning rates go?"), say("learning rate"), "lr", wide=False, log=True, levels=[]),
        chart(say("Whose gradients are larger?"), say("gradient norm"), "grad_norm", wide=False, log=True, levels=[]),
    ]  # fmt: skip


def _differences(runs: dict[str, Run]) -> list[tuple[str, list[str]]]:
    return differing_keys([run.config for run in runs.values()])


def _known(value: Any) -> float | None:
    as_float = number(value)
    return as_float if math.isfinite(as_float) else None
