"""Is what `adaloc tune` finds better than the config it began from, on seeds that it did not see?

    python benchmarks/tuning.py --work WORK [--trials 30] [--seeds 1 2 3]

A study of short trials on benchmarks/config_ablation.json (seed 0) by the command itself; then the config as it was
given and the one that was found are trained with other seeds. One thread. It goes on where it was stopped, and writes
benchmarks/results/tuning.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from adaloc import __version__
from adaloc.bench.ablation import begin_or_go_on
from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, merged, parse_config
from adaloc.integrity_check import load_data
from adaloc.main_job import ensure_data
from adaloc.training.run import best_model, loss_over_samples
from adaloc.training.trainer import Hooks, fit
from adaloc.tuning.space import load_space
from adaloc.tuning.study import finished, open_study

ROOT = Path(__file__).parents[1]
CONFIG, SPACE = ROOT / "benchmarks" / "config_ablation.json", ROOT / "benchmarks" / "tune_space.json"
RESULTS = ROOT / "benchmarks" / "results" / "tuning.json"


def main() -> None:
    """Tunes, compares, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    study = options.work / "study"
    command = [sys.executable, "-m", "adaloc", "tune", "--config", str(CONFIG), "--space", str(SPACE)]
    command += ["--trials", str(options.trials), "--epochs", str(options.epochs), "--out", str(study)]
    subprocess.run(command, check=True)
    given, found = load_config(CONFIG), load_config(study / "train_config_tuned.json")
    about = describe(given, study, options.epochs)
    # A longer study may find another config: its runs have a folder of their own.
    folder = options.work / f"trial_{about['best_trial']}"
    rows = compare({"given": given, "tuned": found}, options.seeds, options.epochs, folder)
    result = {
        "command": f"python benchmarks/tuning.py --trials {options.trials} --epochs {options.epochs}",
        "version": __version__,
        "study": about,
        "runs": rows,
        "ratio": ratio(rows),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    Console().print(f"tuned over given: {result['ratio']['median']:.3f} ({result['ratio']['pairs']})")


def compare(configs: dict[str, Config], seeds: Sequence[int], epochs: int, work: Path) -> list[dict[str, Any]]:
    """A row for each config and seed: the loss of the best model over all validation frames, and the time."""
    work.mkdir(exist_ok=True)
    path = work / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    console = Console()
    ensure_data(configs["given"], console)
    training, validation = load_data(configs["given"], console)
    for seed in seeds:
        for name, config in configs.items():
            if any((row["config"], row["seed"]) == (name, seed) for row in rows):
                continue
            changes = {
                "seed": seed,
                "training": {"epochs": epochs},
                "output": {"save_dir": str(work / f"{name}_{seed}")},
            }
            run = begin_or_go_on(parse_config(merged(dump_config(config), changes), name), training, validation)
            fit(run, Hooks(force=True))
            loss = loss_over_samples(run, best_model(run), validation)
            rows.append(
                {"config": name, "seed": seed, "loss": loss, "steps": run.step, "train_s": round(run.wall_s, 1)}
            )
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            console.print(f"{name}, seed {seed}: {loss:.4f}")
    return rows


def ratio(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Loss of the tuned config over that of the given one, seed by seed.

    >>> row = [{"config": c, "seed": s, "loss": v} for c, s, v in (("given", 1, 2.0), ("tuned", 1, 1.5))]
    >>> ratio(row)
    {'pairs': [0.75], 'median': 0.75}
    """
    losses = {(row["config"], row["seed"]): row["loss"] for row in rows}
    pairs = [losses["tuned", seed] / losses["given", seed] for name, seed in losses if name == "given"]
    return {"pairs": [round(pair, 4) for pair in pairs], "median": round(statistics.median(pairs), 4)}


def describe(base: Config, folder: Path, epochs: int) -> dict[str, Any]:
    """How the study went: its trials, and what the best one drew."""
    study = open_study(str(folder / "study.journal"), load_space(SPACE, base), base, epochs=epochs, prune=True)
    trials = finished(study)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    return {
        "trials": len(trials),
        "pruned": sum(trial.state.name == "PRUNED" for trial in trials),
        "first_loss": trials[0].value,
        "best_loss": study.best_value,
        "best_trial": study.best_trial.number,
        "best_params": study.best_params,
        "losses": [round(trial.value, 4) for trial in complete if trial.value is not None],
    }


if __name__ == "__main__":
    main()
