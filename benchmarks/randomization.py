"""Domain randomization against a wrong calibration: two networks on movies of microscopes that are a little off.

    python benchmarks/randomization.py WORK [--epochs 60] [--seeds 2]

Both train on all samples of benchmarks/config_ablation.json, half of their windows freshly simulated, one with
the ranges of RANGES. Then each sees movies of other microscopes, which it reads with the camera of the config.
One thread. What is done is kept in WORK/rows.jsonl. Writes benchmarks/results/randomization.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from adaloc.bench.ablation import begin_or_go_on
from adaloc.config import Config, SimulationConfig
from adaloc.config_file import dump_config, load_config, merged, parse_config
from adaloc.data.fresh import sample_of
from adaloc.data.generate import FIELD_MAP_FILE, psf_of_data
from adaloc.data.windows import Sample
from adaloc.evaluation.metrics import score, summarize
from adaloc.integrity_check import load_data
from adaloc.localize.inference import localize_frames
from adaloc.main_job import ensure_data
from adaloc.simulation.field_map import FieldMap, read_field_map
from adaloc.simulation.frames import simulate_sample
from adaloc.training.run import Run, best_model, loss_over_samples
from adaloc.training.trainer import Hooks, fit
from adaloc.validation_score import joined

RESULTS = Path("benchmarks/results/randomization.json")
CONFIG = Path("benchmarks/config_ablation.json")
RANGES = {
    "brightness_fraction": 0.2, "background_fraction": 0.2, "gain_fraction": 0.15, "baseline_adu": 8.0,
    "read_noise_e": 1.0, "aberration_nm_rms": 15.0,
}  # fmt: skip
TRAININGS: dict[str, dict[str, float]] = {"as calibrated": {}, "randomized": RANGES}
# Factor of the gain, ADU on the baseline, nm rms on Noll 4 (defocus), 6 (astigmatism) and 8 (coma).
WORLDS: dict[str, dict[str, float]] = {
    "calibration right": {},
    "gain 10 % lower": {"gain": 0.9},
    "gain 10 % higher": {"gain": 1.1},
    "baseline 5 ADU lower": {"baseline": -5.0},
    "baseline 5 ADU higher": {"baseline": 5.0},
    "astigmatism 20 nm stronger": {"6": 20.0},
    "astigmatism 20 nm weaker": {"6": -20.0},
    "defocus 20 nm rms": {"4": 20.0},
    "coma 20 nm": {"8": 20.0},
    "gain, baseline, astigmatism": {"gain": 1.1, "baseline": 5.0, "6": 20.0},
}
_SAMPLES, _FRAMES, _SEED = 8, 40, 987_654_321
_AXIAL_TOLERANCE_NM = 500.0


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.work / "rows.jsonl"
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    for seed in range(options.seeds):
        for name in TRAININGS:
            if any((row["training"], row["seed"], row["epochs"]) == (name, seed, options.epochs) for row in rows):
                continue
            new = measure(config_of(options.work, options.epochs, seed, name), name)
            rows += new
            with kept.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
    chosen = [row for row in rows if row["epochs"] == options.epochs and row["seed"] < options.seeds]
    results = {"ranges": RANGES, "worlds": WORLDS, "rows": chosen, "means": means(chosen)}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def config_of(work: Path, epochs: int, seed: int, training: str) -> Config:
    """The config of one network."""
    folder = work / f"{training.replace(' ', '_')}_{seed}_{epochs}"
    changes = {
        "data": {"fresh_share": 0.5, "randomization": TRAININGS[training], "sample_subset": None},
        "training": {"epochs": epochs}, "seed": seed, "output": {"save_dir": str(folder)},
    }  # fmt: skip
    return parse_config(merged(dump_config(load_config(CONFIG)), changes), training)


def measure(config: Config, training: str) -> list[dict[str, Any]]:
    """Trains a network and judges it in every world; a row for each."""
    console = Console()
    ensure_data(config, console)
    samples, validation = load_data(config, console)
    run = begin_or_go_on(config, samples, validation)
    fit(run, Hooks(force=True))
    rows = []
    for world, changes in WORLDS.items():
        row = {"training": training, "seed": config.seed, "epochs": config.training.epochs, "world": world}
        rows.append(row | judge(run, movies(config, changes)))
        console.print(f"{training}, seed {config.seed}, {world}: loss {rows[-1]['loss']:.3f}")
    return rows


def movies(config: Config, changes: dict[str, float]) -> list[Sample]:
    """Movies of another microscope, the same molecules in all of them; as read with the config's camera."""
    simulation, field_map = other_microscope(config, changes)
    psf = psf_of_data(config.data.root, simulation)
    simulated = [simulate_sample(simulation, psf, field_map, seed=_SEED, index=i) for i in range(_SAMPLES)]
    return [sample_of(movie, f"movie {i}", config.simulation.camera) for i, movie in enumerate(simulated)]


def other_microscope(config: Config, changes: dict[str, float]) -> tuple[SimulationConfig, FieldMap]:
    """The config's microscope with another camera and other aberrations."""
    camera = config.simulation.camera
    changed = camera.model_copy(
        update={
            "gain_e_per_adu": camera.gain_e_per_adu * changes.get("gain", 1.0),
            "baseline_adu": camera.baseline_adu + changes.get("baseline", 0.0),
        }
    )
    field_map = read_field_map(config.data.root / FIELD_MAP_FILE)
    phase = field_map.phase.copy()
    for noll in ("4", "6", "8"):
        phase[int(noll) - 1] += changes.get(noll, 0.0) * 2 * math.pi / config.simulation.optics.wavelength_nm
    simulation = config.simulation.model_copy(update={"camera": changed, "num_frames": _FRAMES})
    return simulation, dataclasses.replace(field_map, phase=phase)


def judge(run: Run, samples: Sequence[Sample]) -> dict[str, float | None]:
    """Loss and detection metrics over all frames."""
    model, config = best_model(run), run.config
    lengths = [len(sample.frames_THW) for sample in samples]
    found = joined([localize_frames(model, sample.frames_THW) for sample in samples], lengths)
    truth = joined([sample.emitters for sample in samples], lengths)
    metrics = summarize(
        score(
            found, truth, pixel_size_nm=config.simulation.optics.pixel_size_nm,
            image_size_px=samples[0].frames_THW.shape[1:], axial_tolerance_nm=_AXIAL_TOLERANCE_NM,
            min_photons=config.data.min_photons,
        )
    )  # fmt: skip
    names = ("jaccard", "rmse_lateral_nm", "rmse_axial_nm", "efficiency_3d")
    return {"loss": loss_over_samples(run, model, samples), **{name: getattr(metrics, name) for name in names}}


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each world: both networks' means over the seeds."""
    table = []
    for world in dict.fromkeys(row["world"] for row in rows):
        line: dict[str, Any] = {"world": world}
        for training in TRAININGS:
            own = [row for row in rows if (row["world"], row["training"]) == (world, training)]
            for name in ("loss", "jaccard", "rmse_lateral_nm", "rmse_axial_nm"):
                if values := [row[name] for row in own if row[name] is not None]:
                    line[f"{training}: {name}"] = round(statistics.fmean(values), 4)
        table.append(line)
    return table


if __name__ == "__main__":
    main()
