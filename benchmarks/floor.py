"""The physical floor of the reference data's validation loss, channel by channel.

    python benchmarks/floor.py --data data/reference

Writes benchmarks/results/floor.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from adaloc.config import Config
from adaloc.config_file import load_config
from adaloc.data.windows import load_samples, measure_training_scaling, split_samples
from adaloc.models.losses import make_loss
from adaloc.training.floor import physical_floor

HERE = Path(__file__).parent


def main() -> None:
    """Computes the floor and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE.parent / "training/configs/train_config_adaptive.json")
    parser.add_argument("--data", type=Path, default=Path("data/reference"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "floor.json")
    arguments = parser.parse_args()
    raw = load_config(arguments.config).model_dump(mode="json")
    raw["data"]["root"] = str(arguments.data)
    config = Config.model_validate(raw)
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    loss = make_loss(config.training, measure_training_scaling(training, config))
    floor = dataclasses.asdict(physical_floor(validation, config, loss))
    results = {"command": "python benchmarks/floor.py", "no_information_loss": loss.no_information_loss, **floor}
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
