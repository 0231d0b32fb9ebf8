"""Training on fresh simulation against training on sample folders: loss, speed and the share of simulating.

    python benchmarks/fresh_data.py DATA WORK [--epochs 160] [--seeds 2] [--shares 1 0]

DATA: the default config's sample folders (made where they are missing). One thread. Each run is kept as a line of
WORK/runs.jsonl. Writes benchmarks/results/fresh_data.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, merged, parse_config
from adaloc.data.fresh import MixedWindows
from adaloc.data.generate import generate
from adaloc.data.windows import load_samples, split_samples
from adaloc.training.run import best_model, loss_over_samples, setup
from adaloc.training.trainer import Hooks, fit

RESULTS = Path("benchmarks/results/fresh_data.json")


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.0])
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.work / "runs.jsonl"
    for seed in range(options.seeds):
        for share in options.shares:
            row = measure(config_of(options.data, options.work, options.epochs, seed, share))
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    RESULTS.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")


def config_of(data: Path, work: Path, epochs: int, seed: int, share: float) -> Config:
    """The config of one run."""
    base = dump_config(load_config(Path("training/configs/train_config_adaptive.json")))
    changes = {
        "data": {"root": str(data), "fresh_share": share}, "training": {"epochs": epochs}, "seed": seed,
        "num_threads": 1, "output": {"save_dir": str(work / f"{share:g}_{seed}_{epochs}")},
    }  # fmt: skip
    return parse_config(merged(base, changes), "fresh_data")


def measure(config: Config) -> dict[str, Any]:
    """Trains one run."""
    for _ in generate(config.model_copy(update={"seed": 0}), config.data.root):
        pass
    training, validation = (load_samples(p, config.simulation.camera) for p in split_samples(config.data))
    run = setup(config, training, validation, with_floor=False)
    begin = time.perf_counter()
    fit(run, Hooks())
    seconds = time.perf_counter() - begin
    simulating = run.windows.fresh.seconds if isinstance(run.windows, MixedWindows) else 0.0
    model = best_model(run)
    return {
        "share": config.data.fresh_share, "reuse": config.data.fresh_reuse, "seed": config.seed, "steps": run.step,
        "fit_s": seconds, "windows_per_s": run.step * config.data.batch_size / seconds, "sim_s": simulating,
        "best_val": run.best_val_loss, "all_frames": loss_over_samples(run, model, validation),
        "train_all": loss_over_samples(run, model, training[:20]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
