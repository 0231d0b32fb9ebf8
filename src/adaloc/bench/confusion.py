"""What the runs of `adaloc bench stalls` add up to: shares of right answers, and the confusion matrix."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

from rich.table import Table

from adaloc.training.causes import NAMED

Result = dict[str, Any]


def summarize(results: list[Result]) -> dict[str, Any]:
    """Shares over the runs; each result has case, expected, ranking and, when the trainer stopped, stopped.

    A healthy run is a false alarm when any fault is named.
    """
    cases: dict[str, dict[str, Any]] = {}
    for case in sorted({result["case"] for result in results}):
        runs = [result for result in results if result["case"] == case]
        expected = runs[0]["expected"]
        first = [run["ranking"][0][0] == expected for run in runs]
        cases[case] = {
            "expected": expected,
            "runs": len(runs),
            "first": statistics.fmean(first),
            "named_after": dict(Counter(run["ranking"][1][0] for run in runs if _names(run, 1)).most_common()),
            "first_two": statistics.fmean(expected in [c for c, _ in run["ranking"][:2]] for run in runs),
            "named_first": dict(Counter(run["ranking"][0][0] for run in runs).most_common()),
            "stopped_by_trainer": sum(run["stopped"] is not None for run in runs),
            "stopped_after_epochs": [run["stopped"]["epoch"] for run in runs if run["stopped"] is not None],
            "seeds": sorted(run["seed"] for run in runs),
        }
    healthy = [result for result in results if result["case"] == "healthy"]
    alarms = [run["seed"] for run in healthy if any(s >= NAMED and c not in ("healthy", "unknown")
                                                    for c, s in run["ranking"])]  # fmt: skip
    return {"cases": cases, "healthy_runs": len(healthy), "false_alarms": len(alarms), "false_alarm_seeds": alarms}


def _names(run: Result, place: int) -> bool:
    """Whether a run's ranking has a named cause at a place."""
    return len(run["ranking"]) > place and run["ranking"][place][1] >= NAMED


def confusion_table(summary: dict[str, Any]) -> Table:
    """A row for each cause that was put in: how often it was first, among the first two, and what was named instead."""
    table = Table(title="True cause, and what the diagnosis named", title_justify="left", box=None, pad_edge=False)
    for heading in ("true cause", "runs", "first", "first two", "named instead"):
        table.add_column(heading, overflow="fold")
    for case, row in summary["cases"].items():
        wrong = {name: count for name, count in row["named_first"].items() if name != row["expected"]}
        others = ", ".join(f"{name} {count}" for name, count in wrong.items())
        table.add_row(case, str(row["runs"]), f"{100 * row['first']:.0f} %", f"{100 * row['first_two']:.0f} %", others)
    return table


def cured_table(cured: dict[str, Any]) -> Table:
    """A row for each cause that the trainer is to mend: runs that end near the healthy loss, and the worst ratio."""
    table = Table(title="Final loss of mended runs, over that of healthy ones", title_justify="left", box=None,
                  pad_edge=False)  # fmt: skip
    for heading in ("fault", "runs", "within 10 %", "median", "highest"):
        table.add_column(heading, overflow="fold")
    for case, row in cured.items():
        ratios = [ratio for _, ratio in row["loss_over_healthy"] if ratio is not None]
        shown = (f"{statistics.median(ratios):.3f}", f"{max(ratios):.3f}") if ratios else ("", "")
        table.add_row(case, str(row["runs"]), f"{100 * row['within_10_percent']:.0f} %", *shown)
    return table


def confusion_matrix(results: list[Result]) -> dict[str, dict[str, int]]:
    """matrix[true][named first] = runs."""
    matrix: dict[str, Counter[str]] = {}
    for result in results:
        matrix.setdefault(result["case"], Counter())[result["ranking"][0][0]] += 1
    return {case: dict(counts) for case, counts in matrix.items()}
