"""Simulated samples of many settings, healthy and with one known fault; for tests and benchmarks/integrity.py."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaloc.config import Config, SimulationConfig
from adaloc.config_file import load_config
from adaloc.data.windows import Sample, estimate_background
from adaloc.emitters import EmitterTable
from adaloc.random_streams import Stream, numpy_stream
from adaloc.simulation.field_map import random_field_map
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import make_psf

ROOT = Path(__file__).parent.parent
SMALL = {"num_samples": 6, "num_frames": 8, "image_size_px": 20, "psf": {"type": "pupil", "roi_size_px": 15}}
Samples = list[Sample]


def make_samples(simulation: SimulationConfig, seed: int, estimated: bool = False) -> Samples:
    """What loading the simulated folders gives; with `estimated`, as from folders that hold no background."""
    psf = make_psf(simulation.psf, simulation.optics)
    field_map = None
    if simulation.psf.type == "pupil":
        size = (simulation.image_size_px,) * 2
        field_map = random_field_map(
            simulation.psf, simulation.optics.wavelength_nm, size, numpy_stream(seed, Stream.FIELD_MAP)
        )
    samples = []
    with torch.inference_mode():
        for index in range(simulation.num_samples):
            made = simulate_sample(simulation, psf, field_map, seed=seed, index=index)
            background = made.background_T
            if estimated:
                level = estimate_background(made.frames_THW, made.emitters, simulation.camera)
                background = np.full(len(background), level)
            samples.append(sample_of(f"sample_{index:03d}", made.frames_THW, made.emitters, background))
    return samples


def sample_of(name: str, frames_THW: Any, emitters: EmitterTable, background_T: Any) -> Sample:
    """A sample with its rows sorted, those in frames that do not exist left out."""
    emitters = emitters.select((emitters.frame >= 0) & (emitters.frame < len(frames_THW))).sorted_by_frame()
    first_row = np.searchsorted(emitters.frame, np.arange(len(frames_THW) + 1))
    return Sample(name, frames_THW, emitters, first_row, background_T)


def split(samples: Samples) -> tuple[Samples, Samples]:
    """Training and validation: four fifths, and the rest."""
    num_train = max(round(0.8 * len(samples)), 1)
    return samples[:num_train], samples[num_train:]


def varied_simulation(rng: np.random.Generator) -> SimulationConfig:
    """A random healthy setting: 6 to 16 samples of 8 to 40 frames, densities 0.05 to 3 per um2, and so on."""

    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    photons, background = between(500, 10_000), between(5, 500)
    psf: dict[str, Any] = {"type": "pupil", "roi_size_px": 21}
    kind = rng.integers(3)
    # The pupil's light would repeat inside of its square with much larger pixels.
    pixel_nm = between(70, 120) if kind == 0 else between(60, 160)
    if kind == 1:
        psf = {"type": "gaussian", "sigma_x_nm": between(90, 180), "sigma_y_nm": between(90, 180)}
    elif kind == 2:
        psf = {"type": "gaussian", "sigma_x_nm": 140, "sigma_y_nm": 135, "depth_nm": 350, "focus_x_nm": -200,
               "focus_y_nm": 200}  # fmt: skip
    camera: dict[str, Any] = {"read_noise_e": between(0.5, 60), "quantum_efficiency": float(rng.uniform(0.5, 1))}
    if rng.random() < 0.3:
        camera = {"em_gain": between(20, 300), "read_noise_e": 60, "gain_e_per_adu": 15, "spurious_charge_e": 0.002}
    return SimulationConfig.model_validate(
        {
            "num_samples": int(rng.integers(6, 17)),
            "num_frames": int(rng.integers(8, 41)),
            "image_size_px": int(rng.integers(20, 41)),
            "psf": psf,
            "optics": {"pixel_size_nm": {"x": pixel_nm, "y": pixel_nm * float(rng.uniform(0.9, 1.1))}},
            "emitters": {
                "density_per_um2": between(0.05, 3), "on_time_frames": between(0.3, 10),
                "whole_frames": bool(rng.random() < 0.5), "photons_mean": photons, "photons_std": 0.4 * photons,
            },
            "background": {"mean_photons": background, "std_photons": 0.1 * background, "block_frames": 5},
            "camera": camera,
        }
    )  # fmt: skip


def shipped(name: str, num_samples: int = 8, num_frames: int = 20) -> SimulationConfig:
    """The simulation of a shipped config, fewer frames of it."""
    config: Config = load_config(ROOT / "training" / "configs" / f"train_config_{name}.json")
    return config.simulation.model_copy(update={"num_samples": num_samples, "num_frames": num_frames})


def change(samples: Samples, columns: Callable[[Sample], dict[str, Any]]) -> Samples:
    """The same samples with other emitter columns."""
    return [
        sample_of(s.name, s.frames_THW, dataclasses.replace(s.emitters, **columns(s)), s.background_T) for s in samples
    ]


def with_frames(samples: Samples, frames: Callable[[Sample], Any]) -> Samples:
    """The same samples with other frames."""
    return [dataclasses.replace(s, frames_THW=frames(s)) for s in samples]


Case = tuple[Samples, Samples, SimulationConfig]
Fault = Callable[[Samples, SimulationConfig, np.random.Generator], Case]


def _on_all(function: Callable[[Samples, SimulationConfig, np.random.Generator], Samples]) -> Fault:
    def fault(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Case:
        return *split(function(samples, simulation, rng)), simulation

    return fault


def _decoupled(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    kind = rng.integers(3)
    if kind == 0:  # the truth of the next sample
        return [dataclasses.replace(s, frames_THW=samples[i - 1].frames_THW) for i, s in enumerate(samples)]
    if kind == 1:  # frames of noise with the mean and spread of the real ones
        return with_frames(
            samples,
            lambda s: (
                rng.normal(s.frames_THW.mean(), s.frames_THW.std(), s.frames_THW.shape).clip(0, 65535).astype(np.uint16)
            ),
        )
    size = simulation.image_size_px  # random emitters
    return change(
        samples,
        lambda s: {axis: rng.uniform(-0.5, size - 0.5, len(s.emitters)) for axis in ("x", "y")},
    )


def _mirrored(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    axis = "xy"[rng.integers(2)]
    return change(samples, lambda s: {axis: simulation.image_size_px - 1 - getattr(s.emitters, axis)})


def _frame_offset(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    step = (-1, 1)[rng.integers(2)]
    return change(samples, lambda s: {"frame": s.emitters.frame + step})


def _moved(distance_px: float) -> Fault:
    return _on_all(
        lambda samples, _, rng: change(
            samples, lambda s: {"x": s.emitters.x + distance_px, "y": s.emitters.y + distance_px}
        )
    )


def _coordinates(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    size, pixel = simulation.image_size_px, simulation.optics.pixel_size_nm
    by_x, by_y = ((pixel.x, pixel.y), (pixel.x / 1000, pixel.y / 1000), (1 / size, 1 / size))[rng.integers(3)]
    return change(samples, lambda s: {"x": (s.emitters.x + 0.5) * by_x - 0.5, "y": (s.emitters.y + 0.5) * by_y - 0.5})


def _photons(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    factor = (0.2, 5.0, 300.0)[rng.integers(3)]
    return change(samples, lambda s: {"photons": s.emitters.photons * factor})


def _saturated(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    """A 12-bit camera whose gain is so high that a hundredth of the pixels is cut."""
    level = float(np.quantile(np.concatenate([s.frames_THW.ravel() for s in samples]), 0.99))
    return with_frames(
        samples, lambda s: np.minimum(s.frames_THW.astype(np.float64) / level * 4095, 4095).astype(np.uint16)
    )


def _dead(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    def blank(sample: Sample) -> Any:
        frames = sample.frames_THW.copy()
        frames[rng.integers(len(frames))] = 100
        return frames

    return with_frames(samples, blank)


def _duplicates(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    return [dataclasses.replace(samples[0], name="copy"), *samples]


def _leak(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Case:
    training, validation = split(samples)
    return training, [*validation, dataclasses.replace(training[0], name="leaked")], simulation


def _baseline(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Case:
    adu = float(np.mean([s.frames_THW.mean() for s in samples])) * 4 + 100
    camera = simulation.camera.model_copy(update={"baseline_adu": adu})
    return *split(samples), simulation.model_copy(update={"camera": camera})


def _background(samples: Samples, simulation: SimulationConfig, rng: np.random.Generator) -> Samples:
    return [dataclasses.replace(s, background_T=s.background_T * 10 + 500) for s in samples]


FAULTS: dict[str, tuple[str, Fault]] = {
    "decoupled": ("inputs_targets_decoupled", _on_all(_decoupled)),
    "axes_swapped": (
        "axes_swapped", _on_all(lambda ss, _, rng: change(ss, lambda s: {"x": s.emitters.y, "y": s.emitters.x})),
    ),
    "mirrored": ("mirrored", _on_all(_mirrored)),
    "frame_offset": ("frame_offset", _on_all(_frame_offset)),
    "half_pixel": ("pixel_offset", _moved(0.5)),
    "two_pixels": ("pixel_offset", _moved(2.0)),
    "coordinates_unit": ("coordinates_unit", _on_all(_coordinates)),
    "z_unit": ("z_unit", _on_all(lambda ss, _, rng: change(ss, lambda s: {"z": s.emitters.z * 1000}))),
    "photons_unit": ("photons_unit", _on_all(_photons)),
    "dead_frames": ("dead_frames", _on_all(_dead)),
    "saturated_frames": ("saturated_frames", _on_all(_saturated)),
    "duplicate_samples": ("duplicate_samples", _on_all(_duplicates)),
    "validation_leak": ("validation_leak", _leak),
    "baseline": ("wrong_input_scaling", _baseline),
    "background_unit": ("background_unit", _on_all(_background)),
}  # fmt: skip
"""Name of a fault: the cause that must be found, and how it is made."""
