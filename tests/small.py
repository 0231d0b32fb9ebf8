"""Small configs and data for tests that train or simulate: seconds, not minutes."""

from pathlib import Path
from typing import Any

from adaloc.config import Config
from adaloc.config_file import merged
from adaloc.data.generate import generate


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
