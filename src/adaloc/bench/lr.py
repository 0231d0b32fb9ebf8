"""`adaloc bench lr`: does the initial learning rate matter? Methods, rates, seeds and budgets in one table."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adaloc import __version__
from adaloc.bench.problems import OWN_OPTIMIZER, Task, run_task
from adaloc.config import Config
from adaloc.data.generate import generate
from adaloc.files import append_line, write_text
from adaloc.progress import ProgressLine

RATES = (1e-6, 1e-5, 1e-4, 5e-4, 2e-3, 1e-2, 1e-1)
TUNED = ("wsd", "cosine")
METHODS = (
    "adaptive_plateau", "adaptive_plateau_from_rate", "adaptive_plateau_literal", "constant", "plateau", "cosine",
    "one_cycle", "wsd", *OWN_OPTIMIZER,
)  # fmt: skip
FINER = (1 / 3, 1 / 2, 2, 3)
"""Times the best rate of the grid, whose neighbours are 5 times apart, for the tuned baseline."""


def run_study(
    config: Config,
    *,
    problem: str,
    steps: int,
    seeds: Sequence[int],
    methods: Sequence[str],
    rates: Sequence[float],
    jobs: int,
    work: Path,
    console: Console,
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Runs what `work` does not hold yet, and returns the table of what it holds then.

    Args:
        config: of the reference problem.
        problem: "reference" or "digits".
        steps: of every run; those of searches and trials are counted.
        seeds, methods, rates: all combinations are run.
        jobs: processes at once, each of one thread.
        work: folder that keeps the data and each finished run, so that a study can be interrupted.
        console: where progress goes.
        seconds: after which no further run begins; the table then has fewer rows, or losses in a row.
    """
    deadline = time.monotonic() + seconds
    work.mkdir(parents=True, exist_ok=True)
    if problem == "reference":
        for _ in generate(config, config.data.root):
            pass
    # What adaptive_plateau makes does not depend on lr_first, so it is run once a seed.
    tasks = [
        Task(problem, method, rate, seed, steps)
        for seed in seeds
        for method in methods
        for rate in (rates[:1] if method == "adaptive_plateau" else rates)
    ]
    results = _run_all(tasks, config, jobs, work, console, deadline)
    finer = []
    for method in [method for method in TUNED if method in methods]:
        best = min(rates, key=lambda rate: _median(results, Task(problem, method, rate, 0, steps), seeds))
        finer += [Task(problem, method, best * times, seed, steps) for times in FINER for seed in seeds]
    results |= _run_all(finer, config, jobs, work, console, deadline)
    about = {
        "command": f"adaloc bench lr --problem {problem} --steps {steps} --seeds {len(seeds)} --work WORK",
        "version": __version__,
        "problem": problem,
        "steps": steps,
        "seeds": list(seeds),
    }
    if problem == "reference":
        about |= {"network": config.network.model_dump(mode="json"), "image_size": config.data.image_size}
    return summarize(results, about)


def summarize(results: dict[Task, float], about: dict[str, Any]) -> dict[str, Any]:
    """The table as plain containers: losses of each method and rate, medians, and ratios to the best tuned one."""
    by_method: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for task, loss in sorted(results.items(), key=lambda item: (item[0].method, item[0].lr, item[0].seed)):
        by_method[task.method][task.lr].append(loss)
    tuned = {
        (method, rate): _worst_if_nan(statistics.median(map(_worst_if_nan, losses)))
        for method in TUNED
        for rate, losses in by_method.get(method, {}).items()
    }
    best = min(tuned, key=lambda key: tuned[key]) if tuned else None
    reference = tuned[best] if best is not None else math.nan
    rows = [
        {
            "method": method,
            "lr": rate,
            "losses": [None if math.isnan(loss) else loss for loss in losses],
            "median": _or_none(statistics.median(map(_worst_if_nan, losses))),
            "worst": _or_none(max(map(_worst_if_nan, losses))),
            "median_ratio": _or_none(statistics.median(map(_worst_if_nan, losses)) / reference),
            "worst_ratio": _or_none(max(map(_worst_if_nan, losses)) / reference),
        }
        for method, rates in by_method.items()
        for rate, losses in rates.items()
    ]
    tuned_about = None if best is None else {"method": best[0], "lr": best[1], "median": reference}
    return {**about, "best_tuned": tuned_about, "rows": rows}


def fingerprint(config: Config) -> str:
    """Of everything that the tasks do not set themselves, so that runs of another config are not taken for these."""
    parts = config.model_dump(mode="json", include={"data", "simulation", "network", "training"})
    del parts["data"]["root"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def show(table: dict[str, Any], console: Console) -> None:
    """Prints medians: a row a method, a column a rate; in brackets the ratio to the best tuned."""
    rates = sorted({row["lr"] for row in table["rows"] if row["lr"] in RATES})
    printed = Table(
        title=f"{table['problem']}, {table['steps']} steps, seeds {table['seeds']}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    printed.add_column("method")
    for rate in rates:
        printed.add_column(f"{rate:g}", justify="right", min_width=6)
    cells = {(row["method"], row["lr"]): row for row in table["rows"]}
    for method in dict.fromkeys(row["method"] for row in table["rows"]):
        values = [_cell(cells.get((method, rate))) for rate in rates]
        printed.add_row(method.replace("_", " "), *values)  # which can be broken at the spaces
    console.print(printed)
    if table["best_tuned"]:
        best = table["best_tuned"]
        console.print(f"best tuned: {best['method']} at {best['lr']:.2g}, median {best['median']:.4f}")


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return "diverged" if row["median"] is None else f"{row['median']:.3f}\n({row['median_ratio']:.2f})"


def _run_all(
    tasks: Sequence[Task], config: Config, jobs: int, work: Path, console: Console, deadline: float
) -> dict[Task, float]:
    path = work / "runs.jsonl"
    key = fingerprint(config)
    done = {task: loss for task, loss, of in _read(path) if of == key}
    left = [task for task in tasks if task not in done]
    with ProgressLine(console, "training", len(tasks), "runs", done=len(tasks) - len(left)) as line:
        for count, (task, loss) in enumerate(_train(left, config, jobs, deadline), start=len(tasks) - len(left) + 1):
            done[task] = loss
            append_line(path, json.dumps({"task": asdict(task), "loss": loss, "config": key}) + "\n")
            line.update(count, f"{task.method} at {task.lr:g}: {loss:.3f}")
    return {task: done[task] for task in tasks if task in done}


def _train(tasks: Sequence[Task], config: Config, jobs: int, deadline: float) -> Iterable[tuple[Task, float]]:
    if jobs == 1:
        for task in tasks:
            if time.monotonic() > deadline:
                return
            yield task, run_task(task, config)
        return
    # Threads of a forked torch can hang, and each process shall use one core.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for result in pool.imap_unordered(_run, [(task, config) for task in tasks]):
            yield result
            if time.monotonic() > deadline:
                return


def _run(pair: tuple[Task, Config]) -> tuple[Task, float]:
    return pair[0], run_task(*pair)


def _read(path: Path) -> list[tuple[Task, float, str]]:
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(Task(**row["task"]), float(row["loss"]), row["config"]) for row in rows]


def _median(results: dict[Task, float], task: Task, seeds: Sequence[int]) -> float:
    of_seeds = [Task(task.problem, task.method, task.lr, seed, task.steps) for seed in seeds]
    losses = [results[of_seed] for of_seed in of_seeds if of_seed in results]
    return statistics.median(map(_worst_if_nan, losses)) if losses else math.inf


def _worst_if_nan(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_results(table: dict[str, Any], path: Path) -> None:
    """Keeps the table as JSON."""
    write_text(path, json.dumps(table, indent=2, allow_nan=False) + "\n")
