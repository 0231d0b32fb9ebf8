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

import numpy as np
import torch

from adaloc.bench.faults import FAULTS, Fault
from adaloc.bench.faults import _noise as noise_samples
from adaloc.config import Config
from adaloc.config_file import merged
from adaloc.data.generate import generate, is_complete
from adaloc.data.windows import load_samples, split_samples
from adaloc.errors import AdalocError
from adaloc.files import append_line
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
_ORIGINAL_FAULT = Fault(config=lambda _: {"network": {"base_channels": 1, "depth": 0}}, samples=noise_samples)
_DATA_KINDS: dict[str, dict[str, Any]] = {
    "reference": {},
    "sparse": {"emitters": {"density_per_um2": 0.25}},
    "dense": {"emitters": {"density_per_um2": 1.5}},
    "dim": {"emitters": {"photons_mean": 2500, "photons_std": 800}},
}


def bench_config(case: str, seed: int, folder: Path) -> tuple[Config, np.random.Generator]:
    """The settings of a run, drawn by (case, seed), with the fault's own changes; and what draws the fault."""
    rng = np.random.default_rng([seed, CASES.index(case)])
    kind = str(rng.choice(list(_DATA_KINDS)))
    optimizer = str(rng.choice(["adamw", "adam", "muon"]))
    # Rates within a factor of two or so of the best for these networks.
    low, high = (1e-3, 4e-3) if optimizer == "muon" else (3e-3, 1e-2)
    rate = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    batch = int(rng.choice([6, 8, 10]))
    scheduler = str(rng.choice(["constant", "wsd", "cosine", "plateau"]))
    if case == HEALTHY and rng.random() < 0.4:
        scheduler = "adaptive_plateau"  # in runs with a fault the rate must stay what the fault made it
    simulation = merged({"num_samples": 24, "num_frames": 60}, _DATA_KINDS[kind])
    raw: dict[str, Any] = {
        "data": {"root": str(folder / "data" / kind), "simulate_if_missing": True, "batch_size": batch,
                 "image_size": 24, "augment_mirror": bool(rng.random() < 0.5),
                 "augment_time_reversal": bool(rng.random() < 0.5)},
        "simulation": simulation,
        "network": {"base_channels": int(rng.choice([4, 6, 8])), "depth": int(rng.choice([1, 2])),
                    "normalization": str(rng.choice(["batch", "batch", "none"]))},
        "training": {"optimizer": optimizer, "lr_first": rate, "lr_second": rate,
                     "loss_type": str(rng.choice(["unified_decode", "unified_decode", "simple_combined"])),
                     "adaptive_lr_config": {"scheduler_type": scheduler, "warmup_epochs": int(rng.choice([2, 5]))}},
        "output": {"save_dir": str(folder / "runs" / f"{case}_{seed}"), "checkpoint_interval_epochs": 1000},
        "seed": seed,
        "num_threads": 1,
    }  # fmt: skip
    raw = merged(raw, fault_of(case).config(rng))
    # As many epochs as give the steps; 19 of the 24 samples train (8 of the 10 of the small set).
    num_training = 8 if raw["data"].get("sample_subset") == 10 else 19
    raw["training"]["epochs"] = max(fault_of(case).steps // -(-num_training // raw["data"]["batch_size"]), 4)
    return Config.model_validate(raw), rng


def fault_of(case: str) -> Fault:
    """The fault of a case; none for healthy runs."""
    if case == HEALTHY:
        return Fault()
    return _ORIGINAL_FAULT if case == ORIGINAL else FAULTS[case]


def train_and_diagnose(case: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run: trained, with its fault, and diagnosed."""
    config, rng = bench_config(case, seed, folder)
    fault, run_folder = fault_of(case), config.output.save_dir
    shutil.rmtree(run_folder, ignore_errors=True)
    if not is_complete(config.data.root, config.model_copy(update={"seed": 0})):
        for _ in generate(config.model_copy(update={"seed": 0}), config.data.root):
            pass
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
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
                     "network": config.network.model_dump(), "loss": config.training.loss_type},
        "evidence": asdict(diagnosis.evidence),
    }  # fmt: skip


def missing_jobs(
    folder: Path, cases: Sequence[str], seeds: Sequence[int], healthy_seeds: Sequence[int]
) -> list[tuple[str, int]]:
    """The (case, seed) that are not in `folder` yet.

    Seeds outermost, so that an interrupted benchmark has all cases.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    done = {(r["case"], r["seed"]) for r in read_runs(folder / "runs.jsonl")}
    jobs = [(case, seed) for seed in seeds for case in cases if case != HEALTHY]
    jobs += [(HEALTHY, seed) for seed in healthy_seeds if HEALTHY in cases]
    return [job for job in jobs if job not in done]


def append_run(folder: Path, result: dict[str, Any]) -> None:
    """Keeps a finished run."""
    append_line(folder / "runs.jsonl", json.dumps(result) + "\n")


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
