"""`adaloc bench stalls`: runs what is missing, prints the confusion matrix, writes the results."""

from __future__ import annotations

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adaloc import __version__
from adaloc.bench.confusion import confusion_matrix, confusion_table, cured_table, summarize
from adaloc.bench.cured import CURABLE, HEALTHY, summarize_cured
from adaloc.bench.cured import train as train_curable
from adaloc.bench.stalls import CASES, append_run, expected_cause, missing_jobs, read_runs, rerank, train_and_diagnose
from adaloc.errors import ConfigError
from adaloc.files import write_text
from adaloc.progress import ProgressLine

RESULTS_FILE = "stalls.json"
_RUNS_FILE, _CURED_FILE = "runs.jsonl", "cured.jsonl"
Result = dict[str, Any]


def bench_stalls(
    out: Path,
    seeds: Sequence[int],
    healthy_seeds: Sequence[int],
    cured_seeds: Sequence[int],
    causes: str,
    jobs: int,
    only_rerank: bool,
    console: Console,
    *,
    seconds: float = math.inf,
) -> None:
    """Trains and diagnoses all runs that are not in `out` yet, and reports on those that were asked for.

    Args:
        out: folder for data, runs.jsonl, cured.jsonl and stalls.json.
        seeds, healthy_seeds: of the runs with a fault, and without.
        cured_seeds: of the runs whose fault the trainer is to mend; none leaves them out.
        causes: of the runs that are diagnosed, separated by commas; all when empty.
        jobs: processes.
        only_rerank: rank the stored evidence by the rules as they are now; train nothing.
        console: where the table goes.
        seconds: after which no further run begins.

    Raises:
        ConfigError: when a cause is not known.
    """
    cases = [name.strip() for name in causes.split(",")] if causes else list(CASES)
    if unknown := [name for name in cases if name not in CASES]:
        raise ConfigError(f"--causes {', '.join(unknown)}: not known. Choose from {', '.join(CASES)}.")
    asked = {(case, seed) for case in cases for seed in (healthy_seeds if case == "healthy" else seeds)}
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    if not only_rerank:
        missing = missing_jobs(out / _RUNS_FILE, cases, seeds, healthy_seeds)
        _run("stalls", train_and_diagnose, missing, out, out / _RUNS_FILE, jobs, console, deadline)
        missing = missing_jobs(out / _CURED_FILE, [*HEALTHY, *CURABLE], cured_seeds, cured_seeds)
        _run("cured", train_curable, missing, out, out / _CURED_FILE, jobs, console, deadline)
    results = [r for r in read_runs(out / _RUNS_FILE) if (r["case"], r["seed"]) in asked]
    cured = [r for r in read_runs(out / _CURED_FILE) if r["seed"] in cured_seeds]
    if not results and not cured:
        raise ConfigError(f"{out} holds no run of these causes and seeds. Leave --rerank out to make them.")
    results = [r | {"ranking": rerank(r), "expected": expected_cause(r["case"])} for r in results]
    summary = summarize(results)
    console.print(confusion_table(summary))
    console.print(f"False alarms in healthy runs: {summary['false_alarms']} of {summary['healthy_runs']}")
    cured_summary = summarize_cured(cured)
    if cured_summary:
        console.print(cured_table(cured_summary))
    contents: Result = {
        "version": __version__,
        "machine": platform.processor() or platform.machine(),
        **summary,
        "cured": cured_summary,
        "confusion_matrix": confusion_matrix(results),
        "probe_over_train_seconds": _median_ratio(results),
        "runs": [
            {k: r[k] for k in ("case", "seed", "ranking", "stopped", "settings", "best_val_loss")} for r in results
        ],
        "cured_runs": cured,
    }
    write_text(out / RESULTS_FILE, json.dumps(contents, indent=1) + "\n")
    console.print(f"written: {out / RESULTS_FILE}", soft_wrap=True)


def _run(
    name: str,
    make: Callable[[str, int, Path], Result],
    missing: Sequence[tuple[str, int]],
    out: Path,
    results: Path,
    jobs: int,
    console: Console,
    deadline: float,
) -> None:
    with ProgressLine(console, name, len(missing), "runs") as line:
        if jobs == 1:
            torch.set_num_threads(1)
            for number, (case, seed) in enumerate(missing, start=1):
                if time.monotonic() > deadline:
                    return
                append_run(results, make(case, seed, out))
                line.update(number, case)
            return
        # One process for each run at a time; fork is unsafe with torch's threads.
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(make, case, seed, out) for case, seed in missing]
            for number, future in enumerate(waiting, start=1):
                append_run(results, future.result())
                line.update(number)
                if time.monotonic() > deadline:
                    pool.shutdown(cancel_futures=True)
                    return


def _median_ratio(results: list[Result]) -> float | None:
    ratios = [r["probe_s"] / r["train_s"] for r in results if r["train_s"] > 0 and r["stopped"] is None]
    return round(statistics.median(ratios), 3) if ratios else None
