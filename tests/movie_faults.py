"""Movies of many settings, as their config makes them and with one known fault; for tests and benchmarks."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaloc.config import Config
from adaloc.config_file import load_config, merged
from adaloc.data.generate import field_map_of
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import make_psf

ROOT = Path(__file__).parent.parent
SIZE, LENGTH = 64, 100
Raw = dict[str, Any]


@functools.cache
def setting(name: str) -> str:
    """A config's simulation as JSON: three that ship, and settings around the default."""
    files = {
        "default": "training/configs/train_config_adaptive.json",
        "crowded_noisy": "training/configs/train_config_dense.json",
        "gaussian": "benchmarks/config_nairr_3das.json",
    }
    changes: dict[str, Raw] = {
        "emccd": {
            "camera": {"em_gain": 200, "gain_e_per_adu": 40, "read_noise_e": 50},
            "background": {"mean_photons": 20, "std_photons": 2},
            "emitters": {"photons_mean": 2000, "photons_std": 800},
        },
        "dense": {"emitters": {"density_per_um2": 3}},
        "sparse": {"emitters": {"density_per_um2": 0.05}},
        "long": {"emitters": {"on_time_frames": 5}},
        "structured": {"background": {"perlin_rms_fraction": 0.2, "perlin_scale_nm": 1500}},
    }
    raw = load_config(ROOT / files.get(name, files["default"])).simulation.model_dump(mode="json")
    return json.dumps(merged(raw, changes.get(name, {})))


def config_of(simulation: Raw, seed: int = 0) -> Config:
    return Config.model_validate({"simulation": simulation, "seed": seed})


def movie(simulation: Raw, seed: int, length: int = LENGTH) -> np.ndarray[Any, Any]:
    config = config_of(simulation, seed)
    one = config.simulation.model_copy(update={"image_size_px": SIZE, "num_frames": length})
    with torch.inference_mode():
        made = simulate_sample(one, make_psf(one.psf, one.optics), field_map_of(config), seed=seed, index=0)
    return made.frames_THW


# Where the movie's light varies too little to tell gain from baseline, that is said, with the values of either.
GAIN, BASELINE = {"camera_gain", "camera_unclear"}, {"camera_baseline", "camera_unclear"}
FAULTS: dict[str, tuple[Callable[[Raw], Raw], set[str]]] = {
    "gain twice": (lambda s: {"camera": {"gain_e_per_adu": 2 * s["camera"]["gain_e_per_adu"]}}, GAIN),
    "gain half": (lambda s: {"camera": {"gain_e_per_adu": s["camera"]["gain_e_per_adu"] / 2}}, GAIN),
    "baseline above": (lambda s: {"camera": {"baseline_adu": s["camera"]["baseline_adu"] + 50}}, BASELINE),
    "baseline below": (lambda s: {"camera": {"baseline_adu": s["camera"]["baseline_adu"] - 50}}, BASELINE),
    "background": (lambda s: {"background": {"mean_photons": 3 * s["background"]["mean_photons"]}}, {"background"}),
    "density": (lambda s: {"emitters": {"density_per_um2": 5 * s["emitters"]["density_per_um2"]}}, {"density"}),
    "photons": (
        lambda s: {
            "emitters": {k: s["emitters"][k] / 5 for k in ("photons_mean", "photons_std")},
        },
        {"photons"},
    ),
    "pixel size": (
        lambda s: {
            "optics": {"pixel_size_nm": {k: 1.5 * v for k, v in s["optics"]["pixel_size_nm"].items()}},
            # The light would repeat in a larger region.
            "psf": {"roi_size_px": min(s["psf"]["roi_size_px"], 21)},
        },
        {"psf_width"},
    ),
}  # fmt: skip
