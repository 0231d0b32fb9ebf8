"""`adaloc bench stalls`: does the diagnosis name the fault that was put into a run? Restartable, one line a run.

Every run is a real training of a small network on a small version of the reference data, in settings drawn by the
seed. The diagnosis gets the run's log and the probes, and never the fault's name.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from adaloc.bench.fault_cases import FAULTS, ORIGINAL_FAULT
from adaloc.bench.faults import Fault
from adaloc.bench.settings import draw_settings, easy_data, load_data, of_length
from adaloc.config import Config
from adaloc.config_file import merged
from adaloc.errors import AdalocError
from adaloc.files import append_line
from adaloc.training import diagnosis as diagnosis_of_runs
from adaloc.training.causes import rank
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.diagnosis import diagnose_events
from adaloc.training.evidence import NAMES, Evidence
from adaloc.training.probes import make_probes
from adaloc.training.run import setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit, save

HEALTHY = "healthy"
ORIGINAL = "original_stall"
CASES = (*FAULTS, ORIGINAL, HEALTHY)


def bench_config(case: str, seed: int, folder: Path) -> tuple[Config, np.random.Generator]:
    """The settings of a run, drawn by (case, seed), with the fault's own changes; and what draws the fault."""
    rng = np.random.default_rng([seed, CASES.index(case)])
    raw = draw_settings(rng, folder, f"{case}_{seed}", seed)
    if case == HEALTHY and rng.random() < 0.4:
        # In runs with a fault the rate must stay what the fault made it.
        raw["training"]["adaptive_lr_config"]["scheduler_type"] = "adaptive_plateau"
    fault = fault_of(case)
    if fault.easy:
        raw = easy_data(raw, folder)
    return of_length(merged(raw, fault.config(rng)), fault.steps), rng


def fault_of(case: str) -> Fault:
    """The fault of a case; none for healthy runs."""
    if case == HEALTHY:
        return Fault()
    return ORIGINAL_FAULT if case == ORIGINAL else FAULTS[case]


def train_and_diagnose(case: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run: trained, with its fault, and diagnosed."""
    config, rng = bench_config(case, seed, folder)
    fault, run_folder = fault_of(case), config.output.save_dir
    shutil.rmtree(run_folder, ignore_errors=True)
    training, validation = load_data(config)
    training, validation = (
        fault.samples(training, rng),
        validation if case == "overfitting" else fault.samples(validation, rng),
    )
    begin = time.perf_counter()
    run, stopped = setup(config, training, validation), None
    try:
        if fault.resume:
            half = config.training.epochs // 2 * run.windows.steps_per_epoch
            fit(run, Hooks(should_stop=lambda: run.step >= half))
            save(run)
            run = setup(config, training, validation, load_checkpoint(run_folder / LATEST, config))
        fault.run(run, rng)
        # The trials on copies are made once, at the end: those on the way cost as much as the training and change
        # nothing in it.
        with mock.patch.object(diagnosis_of_runs, "make_probes", lambda _: {}):
            fit(run, Hooks())
    except AdalocError as error:
        stopped = {"epoch": run.epoch, "message": str(error)}
    trained_s = time.perf_counter() - begin
    probes = make_probes(run) if stopped is None else None
    diagnosis = diagnose_events(read_events(run.log.path), probes)
    shutil.rmtree(run_folder, ignore_errors=True)
    return {
        "case": case,
        "seed": seed,
        "stopped": stopped,
        "ranking": [[f.cause, f.score] for f in diagnosis.findings],
        "best_val_loss": run.best_val_loss,
        "steps": run.step,
        "train_s": round(trained_s, 2),
        "probe_s": round(time.perf_counter() - begin - trained_s, 2),
        "settings": {"kind": config.data.root.name, "optimizer": config.training.optimizer,
                     "rate": config.training.lr_first, "scheduler": config.training.adaptive_lr_config.scheduler_type,
                     "network": config.network.model_dump(), "loss": config.training.loss_type,
                     "mixture_weight": config.training.mixture_weight},
        "evidence": asdict(diagnosis.evidence),
    }  # fmt: skip


def missing_jobs(
    path: Path, cases: Sequence[str], seeds: Sequence[int], healthy_seeds: Sequence[int]
) -> list[tuple[str, int]]:
    """The (case, seed) that the results file `path` does not hold yet.

    Seeds outermost, so that an interrupted benchmark has all cases.
    """
    done = {(r["case"], r["seed"]) for r in read_runs(path)}
    jobs = [(case, seed) for seed in seeds for case in cases if case != HEALTHY]
    jobs += [(HEALTHY, seed) for seed in healthy_seeds if HEALTHY in cases]
    return [job for job in jobs if job not in done]


def append_run(path: Path, result: dict[str, Any]) -> None:
    """Keeps a finished run in a results file."""
    append_line(path, json.dumps(result) + "\n")


def expected_cause(case: str) -> str:
    """What the diagnosis is to name first."""
    return "inputs_targets_decoupled" if case == ORIGINAL else case


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The finished runs of a results file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def rerank(result: dict[str, Any]) -> list[list[Any]]:
    """The ranking of a finished run by the rules as they are now, from its stored evidence."""
    values = {name: value for name, value in result["evidence"].items() if name in NAMES}
    values["tried"] = tuple(values.get("tried", ()))
    return [[f.cause, f.score] for f in rank(Evidence(**values))]
