"""`adaloc bench ablation`: each option of the config against the config as it is, at equal samples."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adaloc.config import Config
from adaloc.config_file import dump_config, merged, parse_config
from adaloc.files import append_line, write_text
from adaloc.integrity_check import load_data
from adaloc.main_job import ensure_data
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.run import best_model, loss_over_samples, setup
from adaloc.training.trainer import Hooks, fit
from adaloc.validation_score import ValidationScorer

DEFAULT = "default"
_FIXED = {"adaptive_lr_config": {"scheduler_type": "cyclical"}, "lr_first": 6e-3, "lr_second": 6e-3}
_LIGHT = {"base_channels": 32, "second_stage_channels": 64, "head_channels": 32}
_HALF = {
    "resolution": "half", "base_channels": 32, "first_stage_depth": 0, "second_stage_channels": 64, "depth": 1,
    "head_channels": 32,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no_mixture": {"training": {"mixture_weight": 0.0}},
    "mixture_0.3": {"training": {"mixture_weight": 0.3}},
    "mixture_1": {"training": {"mixture_weight": 1.0}},
    "mixture_alone": {"training": {"loss_type": "gaussian_mixture", "mixture_weight": 1.0}},
    "adam": {"training": {"optimizer": "adam"}},
    "adamw": {"training": {"optimizer": "adamw"}},
    "radam": {"training": {"optimizer": "radam"}},
    "nadam": {"training": {"optimizer": "nadam"}},
    "sgd": {"training": {"optimizer": "sgd"}},
    "cyclical": {"training": _FIXED},
    "no_decay_on_norms": {"training": {"decay_biases_and_norms": False}},
    "accumulation_2": {"training": {"accumulation_steps": 2}},
    "fresh_half": {"data": {"fresh_share": 0.5}},
    "fresh": {"data": {"fresh_share": 1.0}},
    "fresh_reuse_4": {"data": {"fresh_share": 1.0, "fresh_reuse": 4}},
    "no_mirror": {"data": {"augment_mirror": False}},
    "no_time_reversal": {"data": {"augment_time_reversal": False}},
    "independent_stages": {"network": {"first_stage": "independent"}},
    "no_normalization": {"network": {"normalization": "none"}},
    "channel_normalization": {"network": {"normalization": "channel"}},
    "residual": {"network": {"residual": True}},
    "gate": {"network": {"attention": "gate"}},
    "frame_attention": {"network": {"attention": "frames"}},
    "relu": {"network": {"activation": "relu"}},
    "elu": {"network": {"activation": "elu"}},
    "gelu": {"network": {"activation": "gelu"}},
    "depth_3": {"network": {"depth": 3}},
    "first_depth_2": {"network": {"first_stage_depth": 2}},
    "width_48": {"network": {"base_channels": 24, "second_stage_channels": 48, "head_channels": 96}},
    "light": {"network": {"type": "light", "depth": 2, "first_stage_depth": None, **_LIGHT}},
    "half_48": {"network": {**_HALF, "base_channels": 24, "second_stage_channels": 48}},
    "half_64": {"network": _HALF},
    "half_64_depth_2": {"network": {**_HALF, "depth": 2}},
    "half_64_first_1": {"network": {**_HALF, "first_stage_depth": 1}},
    "half_64_residual": {"network": {**_HALF, "residual": True}},
    "half_96": {"network": {**_HALF, "second_stage_channels": 96}},
}
"""What each option changes in the config. The validation loss means the same in all of them."""
_COLUMNS = ("loss", "jaccard", "rmse_lateral_nm", "rmse_axial_nm", "efficiency_3d", "train_s")


def run_ablation(
    config: Config,
    options: Sequence[str],
    seeds: Sequence[int],
    epochs: int,
    work: Path,
    console: Console,
    seconds: float = math.inf,
) -> list[dict[str, Any]]:
    """Trains what `work` does not hold yet; a row for each option and seed.

    Args:
        config: the default to compare with, and the data.
        options: names in `OPTIONS`.
        seeds: of the weights and windows.
        epochs: of every run, so all see equally many windows.
        work: folder of the runs and of the rows that are done.
        console: where progress goes.
        seconds: after which the run in hand is saved and no other begins; called again, it goes on from there.
    """
    deadline = time.perf_counter() + seconds
    ensure_data(config, console)
    training, validation = load_data(config, console)
    path = work / "rows.jsonl"
    rows = _read(path)
    for seed in seeds:
        for name in options:
            if any((row["option"], row["seed"], row["epochs"]) == (name, seed, epochs) for row in rows):
                continue
            if time.perf_counter() > deadline:
                break
            folder = work / f"{name}_{seed}_{epochs}"
            changes = merged(OPTIONS[name], {"seed": seed, "output": {"save_dir": str(folder)}})
            own = parse_config(merged(dump_config(config), merged(changes, {"training": {"epochs": epochs}})), name)
            state = load_checkpoint(folder / LATEST, own) if (folder / LATEST).exists() else None
            if state is None:
                (folder / "log.jsonl").unlink(missing_ok=True)
            run = setup(own, training, validation, state, with_floor=False)
            before, begin = run.wall_s, time.perf_counter()
            if fit(run, Hooks(force=True, should_stop=lambda: time.perf_counter() > deadline)) == "interrupted":
                console.print(f"{name}, seed {seed}: saved at epoch {run.epoch} of {epochs}")
                continue
            model = best_model(run)
            row = {
                "option": name, "seed": seed, "epochs": epochs, "steps": run.step,
                "train_s": round(before + time.perf_counter() - begin, 1),
                "loss": loss_over_samples(run, model, validation),
                **ValidationScorer(run.config, validation).score(model, True)[0].metrics,
                "num_parameters": sum(p.numel() for p in model.network.parameters()),
            }  # fmt: skip
            rows.append(row)
            append_line(path, json.dumps(row) + "\n")
            console.print(f"{name}, seed {seed}: loss {row['loss']:.4f} in {row['train_s']:.0f} s")
    return [row for row in rows if row["epochs"] == epochs and row["seed"] in seeds and row["option"] in options]


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds of each option, the lowest loss first, and the loss's ratio to the default's."""
    table: list[dict[str, Any]] = []
    for name in dict.fromkeys(row["option"] for row in rows):
        own = [row for row in rows if row["option"] == name]
        means = {
            c: statistics.fmean(v) if (v := [r[c] for r in own if r.get(c) is not None]) else None for c in _COLUMNS
        }
        table.append({"option": name, "seeds": len(own), **means})
    default = next((line["loss"] for line in table if line["option"] == DEFAULT), None)
    for line in table:
        line["ratio"] = None if default is None else line["loss"] / default
    return sorted(table, key=lambda line: float(line["loss"]))


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table for the docs."""
    names = ("option", "seeds", *_COLUMNS, "ratio")
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(line[name]) for name in names) + " |" for line in table]
    return "\n".join(lines) + "\n"


def show(table: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints the table."""
    names = ("option", "seeds", *_COLUMNS, "ratio")
    printed = Table(*names)
    for line in table:
        printed.add_row(*(_cell(line[name]) for name in names))
    console.print(printed)


def write_results(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """The rows and means as JSON, and the docs' table beside it."""
    table = summarize(rows)
    write_text(out, json.dumps({"options": OPTIONS, "rows": list(rows), "means": table}, indent=2) + "\n")
    write_text(out.with_suffix(".md"), markdown(table))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
