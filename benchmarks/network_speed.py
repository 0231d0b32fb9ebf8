"""The default network against DECODE's, each alone: forward and backward, and inference with and without folding.

    python benchmarks/network_speed.py

In turns in one process, one thread, processor time, so that a busy machine changes little; the first turn is dropped.
Loss, optimizer, targets and post-processing are not in it: `adaloc bench speed --against` has them all, and takes
longer.
Writes benchmarks/results/network_speed.json.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaloc.config_file import load_config
from adaloc.data.scaling import measure_scaling
from adaloc.models.device import choose_device, describe_device
from adaloc.models.folding import fold_normalization
from adaloc.models.model_file import Network, make_model

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
RESULTS = Path(__file__).parent / "results" / "network_speed.json"
TURNS, BATCH, TARGET_PX, FRAMES, FIELD_PX = 4, 4, 40, 3, 128


def make_network(name: str) -> Network:
    """The untrained network of a shipped config."""
    columns = tuple(np.linspace(-0.5, 0.5, 7) for _ in range(5))
    scaling = measure_scaling(input_mean=19, input_std=2, num_pixels=10, columns=columns)
    torch.manual_seed(0)
    return make_model(load_config(CONFIGS / f"train_config_{name}.json"), scaling).network


def take_turn(networks: dict[str, Network], windows: torch.Tensor, movie: torch.Tensor) -> dict[str, float]:
    """Targets and frames a second of each network."""
    row = {}
    for name, network in networks.items():
        network.train()
        row[f"train_{name}"] = BATCH / seconds_of(lambda: backward(network, windows))  # noqa: B023
    inference: dict[str, Network] = {name: fold_normalization(network) for name, network in networks.items()}
    with torch.inference_mode():
        for name, network in {**inference, "adaptive_plain": networks["adaptive"].eval()}.items():
            row[f"infer_{name}"] = FRAMES / seconds_of(lambda: network(movie))  # noqa: B023
    return row


def backward(network: Network, windows: torch.Tensor) -> None:
    """A pass forwards and backwards."""
    network.zero_grad()
    network(windows).square().mean().backward()


def seconds_of(work: Callable[[], Any]) -> float:
    """Processor time."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def summarize(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians of the rates and of the ratios within a turn."""
    pairs = {
        "training_default_over_decode": ("train_adaptive", "train_decode"),
        "inference_default_over_decode": ("infer_adaptive", "infer_decode"),
        "inference_folded_over_plain": ("infer_adaptive", "infer_adaptive_plain"),
    }
    return {
        "rates": {name: statistics.median(row[name] for row in rows) for name in rows[0]},
        "ratios": {name: statistics.median(row[a] / row[b] for row in rows) for name, (a, b) in pairs.items()},
        "turns": list(rows),
    }


def main() -> None:
    """Measures, and writes the JSON."""
    torch.set_num_threads(1)
    networks = {name: make_network(name) for name in ("adaptive", "decode")}
    windows, movie = torch.randn(BATCH, 3, TARGET_PX, TARGET_PX), torch.randn(1, FRAMES + 2, FIELD_PX, FIELD_PX)
    rows = [take_turn(networks, windows, movie) for _ in range(TURNS)][1:]
    results = {
        "command": "python benchmarks/network_speed.py",
        "device": describe_device(choose_device("cpu")),
        "load_average": round(os.getloadavg()[0], 1),
        "train_unit": f"targets/s of {TARGET_PX} px, {BATCH} at once",
        "infer_unit": f"frames/s of {FIELD_PX} px, {FRAMES} targets at once",
        **summarize(rows),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
