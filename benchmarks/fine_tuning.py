"""Starting from a model for a changed PSF (`--init`), against starting from random weights, at equal steps.

    python benchmarks/fine_tuning.py MODEL WORK [--epochs 40] [--seeds 1]

The new data have an astigmatism of 90 instead of 70 nm rms and a wavelength of 680 instead of 660 nm; the rest is the
default config. From the model twice: with the controller's search for a rate, and with a given rate and no search.
Training on one thread. Writes benchmarks/results/fine_tuning.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, merged, parse_config
from adaloc.data.generate import generate
from adaloc.data.windows import load_samples, split_samples
from adaloc.models.model_file import Model, load_model
from adaloc.training.run import best_model, loss_over_samples, setup
from adaloc.training.trainer import Hooks, fit, validate

CHANGES = {"psf": {"astigmatism_nm_rms": 90}, "optics": {"wavelength_nm": 680}}
RATE = 1e-3
"""About a sixth of what the controller finds for random weights."""
RESULTS = Path("benchmarks/results/fine_tuning.json")


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    source = load_model(options.model)
    rows = [
        measure(config_of(options.work, options.epochs, seed, name), init, name)
        for seed in range(options.seeds)
        for name, init in (("init", source), ("init_given_rate", source), ("scratch", None))
    ]
    about = {"changes": CHANGES, "epochs": options.epochs, "rows": rows}
    RESULTS.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


def config_of(work: Path, epochs: int, seed: int, name: str) -> Config:
    """The config of one run."""
    base = dump_config(load_config(Path("training/configs/train_config_adaptive.json")))
    rate = {"lr_first": RATE, "lr_second": RATE, "adaptive_lr_config": {"find_lr": False, "warmup_epochs": 2}}
    recipe = {"epochs": epochs, **(rate if name == "init_given_rate" else {})}
    changes = {
        "data": {"root": str(work / "data")}, "simulation": CHANGES, "training": recipe, "seed": seed,
        "num_threads": 1, "output": {"save_dir": str(work / f"{name}_{seed}_{epochs}")},
    }  # fmt: skip
    return parse_config(merged(base, changes), "fine_tuning")


def measure(config: Config, init: Model | None, name: str) -> dict[str, Any]:
    """Trains one run."""
    for _ in generate(config, config.data.root):
        pass
    training, validation = (load_samples(p, config.simulation.camera) for p in split_samples(config.data))
    run = setup(config, training, validation, with_floor=False, init=init)
    before = float(run.loss.total(validate(run)))
    begin = time.perf_counter()
    fit(run, Hooks())
    return {
        "start": name, "seed": config.seed, "steps": run.step, "seconds": round(time.perf_counter() - begin, 1),
        "loss_before": before, "best_val_loss": run.best_val_loss,
        "loss_all_frames": loss_over_samples(run, best_model(run), validation),
    }  # fmt: skip


if __name__ == "__main__":
    main()
