"""Settings of the small real trainings behind `adaloc bench stalls`, drawn at random, and their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adaloc.config import Config
from adaloc.config_file import merged
from adaloc.data.generate import generate, is_complete
from adaloc.data.windows import Sample, load_samples, split_samples

_SAMPLES, _FRAMES = 24, 60
_DATA_KINDS: dict[str, dict[str, Any]] = {
    "reference": {},
    "sparse": {"emitters": {"density_per_um2": 0.25}},
    "dense": {"emitters": {"density_per_um2": 1.5}},
    "dim": {"emitters": {"photons_mean": 2500, "photons_std": 800}},
}
_EASY: dict[str, Any] = {
    "psf": {"type": "gaussian", "sigma_x_nm": 130, "sigma_y_nm": 130, "depth_nm": None},
    "emitters": {"density_per_um2": 0.4, "on_time_frames": 0.2, "whole_frames": True, "photons_mean": 1500,
                 "photons_std": 0, "z_min_nm": 0, "z_max_nm": 0},
    "background": {"mean_photons": 50, "std_photons": 0},
}  # fmt: skip
"""Emitters of one brightness and height on an even background: there is little to learn but where they are."""


def easy_data(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings with data whose floor a small network reaches in some hundred steps."""
    data = {"root": str(folder / "data" / "easy"), "min_photons": 750}
    return merged(raw, {"data": data, "simulation": _EASY})


def draw_settings(rng: np.random.Generator, folder: Path, name: str, seed: int) -> dict[str, Any]:
    """A config as a dictionary: data, network, optimizer, rate, schedule and loss as `rng` draws them.

    Args:
        rng: what draws.
        folder: of the data sets, which runs share, and of the runs.
        name: of the run's folder.
        seed: of the training.
    """
    kind = str(rng.choice(list(_DATA_KINDS)))
    optimizer = str(rng.choice(["adamw", "adam", "muon"]))
    # Rates within a factor of two or so of the best for these networks.
    low, high = (1e-3, 4e-3) if optimizer == "muon" else (3e-3, 1e-2)
    rate = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    scheduler = str(rng.choice(["constant", "wsd", "cosine", "plateau"]))
    # Half of the networks have the default's shape, two thirds its likelihood.
    width, widening = int(rng.choice([4, 6, 8])), int(rng.choice([1, 2]))
    return {
        "data": {"root": str(folder / "data" / kind), "simulate_if_missing": True,
                 "batch_size": int(rng.choice([6, 8, 10])), "image_size": 24,
                 "augment_mirror": bool(rng.random() < 0.5), "augment_time_reversal": bool(rng.random() < 0.5)},
        "simulation": merged({"num_samples": _SAMPLES, "num_frames": _FRAMES}, _DATA_KINDS[kind]),
        "network": {"base_channels": width, "second_stage_channels": widening * width, "depth": int(rng.choice([1, 2])),
                    "normalization": str(rng.choice(["batch", "batch", "none"]))},
        "training": {"optimizer": optimizer, "lr_first": rate, "lr_second": rate,
                     "loss_type": str(rng.choice(["unified_decode", "unified_decode", "simple_combined"])),
                     "mixture_weight": float(rng.choice([0.0, 0.1, 0.1])),
                     "adaptive_lr_config": {"scheduler_type": scheduler, "warmup_epochs": int(rng.choice([2, 5]))}},
        "output": {"save_dir": str(folder / "runs" / name), "checkpoint_interval_epochs": 1000},
        "seed": seed,
        "num_threads": 1,
    }  # fmt: skip


def of_length(raw: dict[str, Any], steps: int) -> Config:
    """The config with as many epochs as give about so many steps."""
    data = Config.model_validate(raw).data
    num = data.sample_subset if isinstance(data.sample_subset, int) else raw["simulation"]["num_samples"]
    training = round(data.train_val_split * num)
    epochs = max(steps // -(-training // data.batch_size), 4)
    return Config.model_validate(merged(raw, {"training": {"epochs": epochs}}))


def load_data(config: Config) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples, simulated where they are not there yet; those of one kind are the same."""
    same = config.model_copy(update={"seed": 0})
    if not is_complete(config.data.root, same):
        for _ in generate(same, config.data.root):
            pass
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    return training, validation
