"""What folding batch normalization into the convolutions brings: time of the default network's pass over 128 x 128 px.

    python benchmarks/folding.py

Folded and not folded in turns, one thread, processor time. Writes benchmarks/results/folding.json.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import torch

from adaloc.config_file import load_config
from adaloc.models.device import choose_device, describe_device
from adaloc.models.folding import fold_normalization
from adaloc.models.network import LocalizationNetwork

CONFIG = Path(__file__).parents[1] / "training" / "configs" / "train_config_adaptive.json"
RESULTS = Path(__file__).parent / "results" / "folding.json"
REPEATS, FRAMES, SIZE_PX = 9, 6, 128


def main() -> None:
    """Times both in turns."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = LocalizationNetwork(load_config(CONFIG).network, 3, predicts_sigma=True).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    frames = torch.randn(1, FRAMES + 2, SIZE_PX, SIZE_PX)
    with torch.inference_mode():
        for _ in range(3):  # statistics of a trained network are not those of a new one
            network.train()(torch.randn(1, 8, 40, 40))
    networks = {"plain": network.eval(), "folded": fold_normalization(network)}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        outputs = {name: net(frames) for name, net in networks.items()}
        for _ in range(REPEATS):
            for name, net in networks.items():
                begin = time.process_time()
                net(frames)
                seconds[name].append(time.process_time() - begin)
    ratios = [plain / folded for plain, folded in zip(seconds["plain"], seconds["folded"], strict=True)]
    results = {
        "command": "python benchmarks/folding.py",
        "device": describe_device(choose_device("cpu")),
        "load_average": round(os.getloadavg()[0], 1),
        "frames_per_s": {name: FRAMES / statistics.median(times) for name, times in seconds.items()},
        "times_faster": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "largest_difference": float((outputs["plain"] - outputs["folded"]).abs().max()),
        "largest_output": float(outputs["plain"].abs().max()),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
