"""The fixed, the literal and the default strategy on the reference data, three seeds each.

    python benchmarks/strategies.py DATA WORK [--only default:0] [--epochs 200] [--seeds 3] [--strategies ...]

DATA: the default config's sample folders (made where they are missing). Data, network, loss, augmentation, number of
steps and thread are the same for all; a strategy is an optimizer, its first rate and the rule that changes it. Runs
that have finished in WORK are kept, so that the command can be given again, or a run at a time with --only. When all
are there it writes benchmarks/results/strategies.json: the table of `adaloc compare`, and each run's curves.
python docs/make_comparison_page.py makes docs/comparison.md of it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, merged, parse_config
from adaloc.main_job import train
from adaloc.monitor.compare import json_table
from adaloc.monitor.log import Run, load_run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "strategies.json"
DONE = ("finished", "stopped_early")
STRATEGIES: dict[str, dict[str, Any]] = {
    # The recipe of train_config_fixed.json.
    "fixed": {
        "optimizer": "adam", "lr_first": 1e-4, "lr_second": 1e-4, "weight_decay": 0,
        "adaptive_lr_config": {
            "enable_warmup": False, "scheduler_type": "plateau", "plateau_patience": 10, "plateau_factor": 0.5,
        },
    },
    # The strategy as it was published, with its optimizer and its rate.
    "literal": {"optimizer": "adamw", "adaptive_lr_config": {"scheduler_type": "adaptive_plateau_literal"}},
    # train_config_adaptive.json as it is.
    "default": {},
    # What of the difference is the optimizer's, and what the strategy's?
    "default_adamw": {"optimizer": "adamw"},
}  # fmt: skip
SHOWN = ["fixed", "literal", "default"]


def config_of(name: str, seed: int, data: Path, work: Path, epochs: int) -> Config:
    """The config of one run: the default one, with the strategy's keys."""
    base = dump_config(load_config(HERE.parent / "training/configs/train_config_adaptive.json"))
    changes = {
        "data": {"root": str(data)}, "training": {**STRATEGIES[name], "epochs": epochs}, "seed": seed,
        "num_threads": 1, "device": "cpu", "output": {"save_dir": str(work / f"{name}_{seed}")},
    }  # fmt: skip
    return parse_config(merged(base, changes), "benchmarks/strategies.py")


def is_done(folder: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    path = folder / "summary.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["status"] in DONE


def curves(run: Run) -> dict[str, list[float | None]]:
    """Validation loss and rate after each epoch, to four digits."""

    def digits(value: float) -> float | None:
        return float(f"{value:.4g}") if math.isfinite(value) else None

    return {"val_loss": [digits(v) for v in run.epochs.val_loss], "lr": [digits(v) for v in run.epochs.lr]}


def collect(names: list[str], work: Path, command: str, epochs: int, seeds: int) -> dict[str, Any]:
    """The content of the results file, of the runs with these names."""
    runs = {name: load_run(work / name) for name in names}
    table = json.loads(json_table(runs))
    summaries = {
        key: json.loads((work / key / "summary.json").read_text(encoding="utf-8")) for key in runs
    }  # fmt: skip
    rows = [
        {**row, "group": row["name"].rsplit("_", 1)[0], "all_frames": summaries[row["name"]]["val_loss"]["all_frames"],
         "curves": curves(runs[row["name"]])}
        for row in table["runs"]
    ]  # fmt: skip
    first = runs[names[0]]
    return {
        "command": command, "device": summaries[names[0]]["device"],
        "epochs": epochs, "planned_seeds": seeds,
        "no_information_loss": first.no_information_loss, "floor": first.floor,
        "minutes_a_run": statistics.median(row["wall_s"] for row in rows) / 60, "rows": rows,
    }  # fmt: skip


def main() -> None:
    """Trains what is missing, and writes the results when all is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", help="one run: STRATEGY:SEED")
    parser.add_argument("--strategies", nargs="+", choices=[*STRATEGIES], default=SHOWN)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--partial", action="store_true", help="train nothing; write the results of what is there")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console()
    every = [(name, seed) for seed in range(options.seeds) for name in options.strategies]
    wanted = [tuple(options.only.split(":"))] if options.only else every
    wanted = [] if options.partial else wanted
    for name, seed in wanted:
        config = config_of(name, int(seed), options.data, options.work, options.epochs)
        if is_done(config.output.save_dir):
            continue
        if train(config, resume="auto", skip_checks=True, console=console) != 0:
            raise SystemExit(130)
    done = [
        f"{name}_{seed}"
        for name in options.strategies
        for seed in range(options.seeds)
        if is_done(options.work / f"{name}_{seed}")
    ]
    if len(done) < len(every) and not options.partial:
        missing = [f"{name}:{seed}" for name, seed in every if f"{name}_{seed}" not in done]
        console.print(f"Still to be trained: {', '.join(missing)}")
        return
    command = f"python benchmarks/strategies.py DATA WORK --epochs {options.epochs} --seeds {options.seeds}"
    results = collect(done, options.work, command, options.epochs, options.seeds)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.print(f"written: {options.out}, {len(done)} of {len(every)} runs", soft_wrap=True)


if __name__ == "__main__":
    main()
