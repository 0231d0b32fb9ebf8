"""Networks against the default network at equal processor time on the reference data.

    python benchmarks/ablation_networks.py --work WORK --epochs 80 --seeds 1
    python benchmarks/ablation_networks.py --work WORK --epochs 160 --seeds 3 --options default,half_64,light

First what a training target and a frame to localize cost with each network, by the stages of `adaloc bench speed` in
turns in one process (one thread, processor time). Then trainings: the default gets `--epochs`, every other network as
many as take equally long, or with `--equal-steps` as many as the default. A run is whole: it finds its rate, and
ends with its anneal. What `WORK` holds is not measured or trained again; a run that was stopped goes on.
Writes benchmarks/results/ablation_networks.json with all that WORK holds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from adaloc.bench.ablation import DEFAULT, OPTIONS, run_ablation
from adaloc.bench.speed_stages import FIELD_PX, LOCALIZATION, Workload, prepare, time_stages, training_seconds
from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, merged, parse_config
from adaloc.models.device import choose_device, describe_device
from adaloc.models.network import num_parameters

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "training" / "configs" / "train_config_adaptive.json"
RESULTS = Path(__file__).parent / "results" / "ablation_networks.json"
TURNS, TARGETS = 5, 10
NETWORKS = (DEFAULT, *(name for name, changes in OPTIONS.items() if set(changes) == {"network"}))


def config_of(name: str) -> Config:
    """The default config with an option."""
    return parse_config(merged(dump_config(load_config(CONFIG)), OPTIONS[name]), name)


def measure_costs(names: Sequence[str], folder: Path, console: Console) -> dict[str, dict[str, Any]]:
    """What each network costs; the first of the turns pays for caches and is dropped."""
    works = {name: prepare(config_of(name), folder / name, num_threads=1) for name in names}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(TURNS):
        console.print(f"timing, turn {turn + 1} of {TURNS}")
        for name, work in works.items():
            turns[name].append(time_stages(work))
    return {name: cost_of(work, turns[name][1:]) for name, work in works.items()}


def cost_of(work: Workload, turns: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Of a network: medians over the turns."""
    network = work.run.model.network
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network.eval()(torch.zeros(1, TARGETS + 2, FIELD_PX, FIELD_PX))
    return {
        "num_parameters": num_parameters(network),
        "margin_px": network.margin_px,
        "gflop_per_frame": round(counter.get_total_flops() / TARGETS / 1e9, 3),
        "train_s_per_target": statistics.median(sum(training_seconds(work, turn).values()) for turn in turns),
        "network_frames_per_s": 1 / statistics.median(turn["infer"] for turn in turns),
        "localization_frames_per_s": 1 / statistics.median(sum(turn[n] for n in LOCALIZATION) for turn in turns),
    }


def main() -> None:
    """Measures and trains what is missing, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--options", default=",".join(NETWORKS))
    parser.add_argument("--epochs", type=int, default=80, help="of the default network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--equal-steps", action="store_true")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which it stops, to go on another time")
    given, begin = parser.parse_args(), time.perf_counter()
    names, console = given.options.split(","), Console()
    given.work.mkdir(parents=True, exist_ok=True)
    costs_file = given.work / "costs.json"
    costs = json.loads(costs_file.read_text(encoding="utf-8")) if costs_file.exists() else {}
    if missing := [name for name in names if name not in costs]:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure_costs([DEFAULT, *(n for n in missing if n != DEFAULT)], Path(folder), console)
        # A network that is measured later is compared with the default of then.
        for name in missing:
            ratio = measured[name]["train_s_per_target"] / measured[DEFAULT]["train_s_per_target"]
            costs[name] = {**measured[name], "train_time_over_default": ratio}
        costs_file.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")
    for seed in given.seeds:
        for name in names:
            ratio = 1.0 if given.equal_steps else costs[name]["train_time_over_default"]
            epochs = max(round(given.epochs / ratio), 1)
            left = given.seconds - (time.perf_counter() - begin)
            run_ablation(load_config(CONFIG), [name], [seed], epochs, given.work, console, left)
    rows_file = given.work / "rows.jsonl"
    lines = rows_file.read_text(encoding="utf-8").splitlines() if rows_file.exists() else []
    results = {
        "command": "python benchmarks/ablation_networks.py",
        "device": describe_device(choose_device("cpu")),
        "options": {name: OPTIONS[name] for name in costs},
        "costs": costs,
        "rows": [json.loads(line) for line in lines],
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
