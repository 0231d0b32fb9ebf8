"""Does a training mend what it can? Runs with a fault against the same runs without it, by their final loss.

The trainer is the product's, with its adaptive learning rate; each fault is put in from outside, as in faults.py.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from adaloc.bench.faults import Changes, Rng, WrappedWindows, no_warmup
from adaloc.bench.problems import final_loss
from adaloc.bench.settings import draw_settings, load_data, of_length
from adaloc.config_file import merged
from adaloc.data.windows import Batch
from adaloc.errors import AdalocError
from adaloc.training.run import Run, setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit

HEALTHY = ("healthy", "healthy_2", "healthy_3")
"""Runs without a fault, with other initial weights and another order of the data: few of 300 steps end alike."""
STEPS = 300
"""The shorter of the two budgets of `adaloc bench lr`."""
NEAR = 1.1
"""A run is cured when its final loss is at most so many times the median of those without the fault."""


@dataclass(frozen=True)
class Curable:
    """A fault that the trainer is to mend: changes of the config, and of the run after its setup."""

    config: Callable[[Rng], Changes] = lambda _: {}
    run: Callable[[Run, Rng], None] = lambda *_: None


def _rate(low: float, high: float) -> Callable[[Rng], Changes]:
    """Begins the search, and the config's rates, at a rate between `low` and `high`."""

    def change(rng: Rng) -> Changes:
        rate = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        return {"training": {"lr_first": rate, "lr_second": rate, "adaptive_lr_config": {"search_start_lr": rate}}}

    return change


def _scarce_memory(run: Run, rng: Rng) -> None:
    """More than some windows at once do not fit while training."""
    most = int(rng.integers(2, 5))

    def refuse(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module.training and torch.is_grad_enabled() and len(inputs[0]) > most:
            raise torch.OutOfMemoryError(f"{len(inputs[0])} windows do not fit")

    run.model.network.register_forward_pre_hook(refuse)


def _spoil_weights(run: Run, rng: Rng) -> None:
    """Noise as large as the weights is added to them at a step between a third and two thirds of the run."""
    at, done = int(rng.uniform(1 / 3, 2 / 3) * STEPS), [False]
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    @torch.no_grad()
    def spoil(step: int, batch: Batch) -> Batch:
        if step == at and not done[0]:
            done[0] = True
            for weight in run.model.network.parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise * weight.norm() / math.sqrt(weight.numel()))
        return batch

    run.windows = WrappedWindows(run.windows, spoil)  # type: ignore[assignment]


CURABLE: dict[str, Curable] = {
    "rate_too_low": Curable(config=_rate(1e-9, 1e-6)),
    "rate_too_high": Curable(config=_rate(0.3, 3.0)),
    "warmup_missing": Curable(
        config=lambda _: {"training": {"adaptive_lr_config": {"enable_warmup": False}}}, run=no_warmup
    ),
    "clipped_every_step": Curable(config=lambda rng: {"training": {"clip_norm": float(10 ** rng.uniform(-9, -6))}}),
    "batch_beyond_memory": Curable(run=_scarce_memory),
    "spoiled_weights": Curable(run=_spoil_weights),
}


def train(case: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run: its final loss (None where the training gave up), and what it did by itself.

    All cases of a seed have the same settings: those that the seed draws, with the adaptive learning rate.
    """
    seed_of_run = seed + 1000 * (HEALTHY.index(case) if case in HEALTHY else 0)
    fault = CURABLE.get(case, Curable())
    raw = draw_settings(np.random.default_rng([seed, 1]), folder, f"cured_{case}_{seed}", seed_of_run)
    raw["training"]["adaptive_lr_config"]["scheduler_type"] = "adaptive_plateau"
    rng = np.random.default_rng([seed, 2])
    config = of_length(merged(raw, fault.config(rng)), STEPS)
    shutil.rmtree(config.output.save_dir, ignore_errors=True)
    training, validation = load_data(config)
    run, stopped = setup(config, training, validation, with_floor=False), None
    fault.run(run, rng)
    try:
        fit(run, Hooks())
    except AdalocError as error:
        stopped = str(error)
    events = read_events(run.log.path)
    kinds = [str(event["kind"]) for event in events if event["event"] in ("lr", "cure")]
    shutil.rmtree(config.output.save_dir, ignore_errors=True)
    return {
        "case": case,
        "seed": seed,
        "loss": None if stopped is not None else final_loss(run, validation),
        "no_information": run.loss.no_information_loss,
        "stopped": stopped,
        "done": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "settings": {"kind": config.data.root.name, "optimizer": config.training.optimizer,
                     "network": config.network.model_dump(), "loss": config.training.loss_type,
                     "mixture_weight": config.training.mixture_weight},
    }  # fmt: skip


def summarize_cured(results: list[dict[str, Any]]) -> dict[str, Any]:
    """For each cause: how many runs end within a tenth of the loss of the same run without the fault.

    The first row is of the healthy runs themselves, over their median: how far runs differ that have no fault.
    """
    healthy: dict[int, list[float]] = defaultdict(list)
    for result in results:
        if result["case"] in HEALTHY and result["loss"] is not None:
            healthy[result["seed"]].append(result["loss"])
    summary: dict[str, Any] = {}
    for name, cases in {"healthy": HEALTHY, **{case: (case,) for case in CURABLE}}.items():
        runs = [r for r in results if r["case"] in cases and r["seed"] in healthy]
        if not runs:
            continue
        ratios = [None if r["loss"] is None else round(r["loss"] / statistics.median(healthy[r["seed"]]), 4)
                  for r in runs]  # fmt: skip
        summary[name] = {
            "runs": len(runs),
            "within_10_percent": statistics.fmean(ratio is not None and ratio <= NEAR for ratio in ratios),
            "loss_over_healthy": [[r["seed"], ratio] for r, ratio in zip(runs, ratios, strict=True)],
            "stopped": sum(r["stopped"] is not None for r in runs),
        }
    return summary
