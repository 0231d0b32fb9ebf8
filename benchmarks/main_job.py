"""The main job with several seeds: does it keep its promises, and how long does it take?

    python benchmarks/main_job.py --seeds 0 1 2 --work WORK

Runs what has not finished yet in --work (13 minutes a seed on 2 cores) and writes benchmarks/results/main_job.json.
All seeds share the data; the seed decides the weights and the windows.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

from adaloc.config import Config
from adaloc.config_file import load_config
from adaloc.main_job import train

HERE = Path(__file__).parent
DONE = ("finished", "stopped_early")
RESULTS = HERE / "results" / "main_job.json"


def run_seed(config_path: Path, seed: int, work: Path, console: Console) -> dict[str, Any]:
    """The summary of a seed's run, trained unless it has finished."""
    raw = load_config(config_path).model_dump(mode="json")
    raw["data"]["root"] = str(work / "data")
    raw["output"]["save_dir"] = str(work / f"seed_{seed}")
    raw["seed"] = seed
    config = Config.model_validate(raw)
    path = config.output.save_dir / "summary.json"
    is_done = path.exists() and json.loads(path.read_text(encoding="utf-8"))["status"] in DONE
    if not is_done and train(config, resume="auto", skip_checks=True, console=console) != 0:
        raise SystemExit(130)
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def main() -> None:
    """Runs the seeds and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE.parent / "training/configs/train_config_adaptive.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    console = Console()
    summaries = [run_seed(arguments.config, seed, arguments.work, console) for seed in arguments.seeds]

    def median(*path: str) -> float:
        values = []
        for summary in summaries:
            value: Any = summary
            for key in path:
                value = value[key]
            values.append(value)
        return statistics.median(values)

    results = {
        "command": "python benchmarks/main_job.py --seeds " + " ".join(map(str, arguments.seeds)) + " --work WORK",
        "median": {
            "val_loss": {key: median("val_loss", key) for key in summaries[0]["val_loss"]},
            "metrics": {key: median("metrics", key) for key in summaries[0]["metrics"]},
            "wall_s": median("wall_s"),
        },
        "seeds": summaries,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    console.print_json(json.dumps(results["median"]))


if __name__ == "__main__":
    main()
