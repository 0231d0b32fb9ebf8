"""Small configs and data for tests that train or simulate: seconds, not minutes."""

from pathlib import Path
from typing import Any

import torch

from adaloc.config import Config
from adaloc.config_file import merged
from adaloc.data.generate import generate
from adaloc.models.model_file import Network


def small_config(folder: Path, **changes: Any) -> Config:
    """Six samples of eight frames, a 4-channel network, three epochs. `changes` are merged section by section."""
    raw: dict[str, Any] = {
        "data": {
            "root": str(folder / "data"), "simulate_if_missing": True, "batch_size": 2, "image_size": 16,
            "validation_windows_per_sample": 2,
        },
        "simulation": {
            "num_samples": 6, "num_frames": 8, "image_size_px": 20,
            "psf": {"type": "pupil", "roi_size_px": 15},
        },
        "network": {"base_channels": 4, "depth": 1},
        "training": {"epochs": 3, "adaptive_lr_config": {"warmup_epochs": 1}},
        "output": {"save_dir": str(folder / "run"), "checkpoint_interval_epochs": 1, "metrics_interval_epochs": 2},
        "num_threads": 1,
    }  # fmt: skip
    return Config.model_validate(merged(raw, changes))


def small_data(folder: Path, **changes: Any) -> Config:
    """The same with its data simulated."""
    config = small_config(folder, **changes)
    for _ in generate(config, config.data.root):
        pass
    return config


def outputs_of_an_island(network: Network, phase: int, inner: int = 4) -> tuple[int, int, torch.Tensor]:
    """Which outputs are finite when all is NaN but a square of `inner` pixels with the network's margin around it.

    NaN spreads through every layer, so the finite outputs are exactly those that saw none of it.

    Returns:
        First pixel of the square, the one after its last, and (H, W) of the finite outputs. The square begins `phase`
        pixels after a multiple of the network's.
    """
    margin, multiple = network.margin_px, network.size_multiple_px
    first = -(-margin // multiple) * multiple + phase
    last = first + inner
    size = last + margin + 2 * multiple
    frames = torch.full((1, 3, size, size), torch.nan)
    frames[..., first - margin : last + margin, first - margin : last + margin] = 0.0
    with torch.inference_mode():
        return first, last, torch.isfinite(network(frames)[0, 0]).all(0)
