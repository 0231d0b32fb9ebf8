"""`adaloc bench ablation`: each option of the config against the config as it is, at equal samples."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.stats import chi2
from scipy.stats import t as student_t

from adaloc.config import Config
from adaloc.config_file import dump_config, merged, parse_config
from adaloc.data.windows import Sample
from adaloc.errors import ConfigError
from adaloc.files import append_line, write_text
from adaloc.integrity_check import load_data
from adaloc.main_job import ensure_data
from adaloc.models.losses import make_loss
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.run import Run, best_model, loss_over_samples, setup
from adaloc.training.trainer import Hooks, fit
from adaloc.validation_score import ValidationScorer

DEFAULT = "default"
_LIGHT = {"base_channels": 32, "second_stage_channels": 64, "head_channels": 32}
_HALF = {
    "resolution": "half", "base_channels": 32, "first_stage_depth": 0, "second_stage_channels": 64, "depth": 1,
    "head_channels": 32,
}  # fmt: skip
_RATE = 6e-3  # of Muon, where the schedule does not find it
_SCHEDULE_FREE_RATE = 5e-3  # about twice what AdamW takes, as its authors advise; not tuned


def _schedule(name: str, rate: float = _RATE, **keys: Any) -> dict[str, Any]:
    warmup = {"warmup_epochs": 6, "warmup_start_lr": rate / 100}
    return {"adaptive_lr_config": {"scheduler_type": name, **warmup, **keys}, "lr_first": rate, "lr_second": rate}


_RANDOMIZATION = {
    "brightness_fraction": 0.2, "background_fraction": 0.2, "gain_fraction": 0.15, "baseline_adu": 8.0,
    "read_noise_e": 1.0,
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
    "schedule_free": {"training": {"optimizer": "schedule_free", **_schedule("constant", _SCHEDULE_FREE_RATE)}},
    "constant": {"training": _schedule("constant")},
    "cyclical": {"training": _schedule("cyclical")},
    "one_cycle": {"training": _schedule("one_cycle")},
    "cosine": {"training": _schedule("cosine")},
    "warm_restarts": {"training": _schedule("warm_restarts", cosine_restart_periods=[20, 40, 60])},
    "step": {"training": _schedule("step", step_epochs=20, step_factor=0.6)},
    "wsd": {"training": _schedule("wsd")},
    "ema": {"training": {"ema_decay": 0.99}},
    "ema_constant": {"training": {"ema_decay": 0.99, **_schedule("constant")}},
    "focal": {"training": {"training_terms": {"focal_gamma": 2.0}}},
    "label_smoothing": {"training": {"training_terms": {"label_smoothing": 0.05}}},
    "multi_scale": {"training": {"training_terms": {"multi_scale_weight": 0.3}}},
    "adversarial": {"training": {"training_terms": {"adversarial_weight": 0.1}}},
    "simple_combined": {"training": {"loss_type": "simple_combined"}},
    "no_decay_on_norms": {"training": {"decay_biases_and_norms": False}},
    "batch_8": {"data": {"batch_size": 8}},
    "batch_32": {"data": {"batch_size": 32}},
    "accumulation_2": {"training": {"accumulation_steps": 2}},
    "fresh_half": {"data": {"fresh_share": 0.5}},
    "fresh": {"data": {"fresh_share": 1.0}},
    "fresh_reuse_4": {"data": {"fresh_share": 1.0, "fresh_reuse": 4}},
    "randomization": {"data": {"randomization": _RANDOMIZATION}},
    "quarter_turns": {"data": {"augment_quarter_turns": True}},
    "no_mirror": {"data": {"augment_mirror": False}},
    "no_time_reversal": {"data": {"augment_time_reversal": False}},
    "windows_of_2": {"data": {"targets_per_window": 2}},
    "windows_of_4": {"data": {"targets_per_window": 4}},
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
_SHOWN = {
    "option": "option", "loss": "loss", "ratio": "ratio", "Jaccard": "jaccard", "lateral": "rmse_lateral_nm",
    "axial nm": "rmse_axial_nm", "s": "train_s", "verdict": "verdict",
}  # fmt: skip


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
    scorer = ValidationScorer(config, validation)
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
            changes = merged(changes, {"training": {"epochs": epochs}})
            run = begin_or_go_on(parse_config(merged(dump_config(config), changes), name), training, validation)
            if fit(run, Hooks(force=True, should_stop=lambda: time.perf_counter() > deadline)) == "interrupted":
                console.print(f"{name}, seed {seed}: saved at epoch {run.epoch} of {epochs}")
                continue
            model = best_model(run)
            row = {
                "option": name, "seed": seed, "epochs": epochs, "steps": run.step,
                "train_s": round(run.wall_s, 1),
                "loss": loss_over_samples(judged(run), model, validation),
                **scorer.score(model, True)[0].metrics,
                "num_parameters": sum(p.numel() for p in model.network.parameters()),
            }  # fmt: skip
            rows.append(row)
            append_line(path, json.dumps(row) + "\n")
            console.print(f"{name}, seed {seed}: loss {row['loss']:.4f} in {row['train_s']:.0f} s")
    return [row for row in rows if row["epochs"] == epochs and row["seed"] in seeds and row["option"] in options]


def begin_or_go_on(config: Config, training: Sequence[Sample], validation: Sequence[Sample]) -> Run:
    """A run without a floor; from its last checkpoint, if it was killed before its end."""
    folder = config.output.save_dir
    state = load_checkpoint(folder / LATEST, config) if (folder / LATEST).exists() else None
    if state is None:
        (folder / "log.jsonl").unlink(missing_ok=True)
    return setup(config, training, validation, state, with_floor=False)


def refused(config: Config, options: Sequence[str]) -> dict[str, str]:
    """Those of the options that are wrong with this config, and why."""
    reasons = {}
    for name in options:
        try:
            parse_config(merged(dump_config(config), OPTIONS[name]), name)
        except ConfigError as error:
            reasons[name] = str(error)
    return reasons


def judged(run: Run) -> Run:
    """The same run with the loss that all options are compared by: the unified one, where it trained with another."""
    training = run.config.training
    if training.loss_type != "simple_combined":
        return run
    unified = training.model_copy(update={"loss_type": "unified_decode"})
    return dataclasses.replace(run, loss=make_loss(unified, run.model.scaling))


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
    differences = paired_differences(rows)
    interval = half_width(differences)
    for line in table:
        line["ratio"] = None if default is None else line["loss"] / default
        line["verdict"] = verdict(differences.get(line["option"], []), interval)
    return sorted(table, key=lambda line: float(line["loss"]))


def paired_differences(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Of each option but the default, the logarithm of its loss over the default's of the same seed."""
    default = {row["seed"]: row["loss"] for row in rows if row["option"] == DEFAULT}
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["option"] != DEFAULT and row["seed"] in default:
            found.setdefault(row["option"], []).append(math.log(row["loss"] / default[row["seed"]]))
    return found


def half_width(differences: dict[str, list[float]]) -> float | None:
    """Of the 95 % interval of one seed's difference; its square falls with the number of seeds.

    From the spread of all options about their means: a few seeds of one option alone say little of it. Their median
    counts, as an option that sometimes fails has a spread of its own. None where no option has two seeds.
    """
    groups = [values for values in differences.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in groups)
    if freedom == 0:
        return None
    variance = statistics.median(_unbiased_in_median(values) for values in groups)
    return float(student_t.ppf(0.975, freedom)) * math.sqrt(variance)


def _unbiased_in_median(values: Sequence[float]) -> float:
    """The variance, times what makes its median over many draws that of the distribution."""
    freedom = len(values) - 1
    return statistics.variance(values) * freedom / float(chi2.ppf(0.5, freedom))


def verdict(differences: Sequence[float], interval: float | None) -> str:
    """better or worse than the default beyond chance, or no difference shown; empty where it cannot be told."""
    if not differences or interval is None:
        return ""
    mean, half = statistics.fmean(differences), interval / math.sqrt(len(differences))
    if abs(mean) <= half:
        return "no difference shown"
    return "worse" if mean > 0 else "better"


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table for the docs."""
    names = ("option", "seeds", *_COLUMNS, "ratio", "verdict")
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(line[name]) for name in names) + " |" for line in table]
    return "\n".join(lines) + "\n"


def show(table: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints the table, in 80 columns; the rest is in the files."""
    printed = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in _SHOWN:
        printed.add_column(name, justify="left" if name in ("option", "verdict") else "right")
    for line in table:
        printed.add_row(*(_cell(line[key]).replace("no difference shown", "-") for key in _SHOWN.values()))
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
