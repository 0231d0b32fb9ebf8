"""Does time or memory grow faster than the number of pixels plus emitters?

    python benchmarks/scale.py --work WORK [--sizes 64,...,2048] [--densities 0.1,...,5] [--stages ...] [--keep]

Frames of 64 to 2048 px at the default config's density, and densities of 0.1 to 5 per square micrometre at 256 px. Each
point of each stage is measured in a process of its own, by the product's own code on one thread:

- simulate: `generate`, frames with their files; the field map, which is made once for a data set, apart;
- start: what comes before the first step of a training, for six samples: loading, checks, scales, the physical floor;
- train: a step on windows of the size of the frame, up to 1024 px: those of 2048 px would need some 30 GB;
- localize: a movie from the disk to the files of localizations. The network is untrained; its bias is set so that it
  finds as many localizations as there are emitters.

The clock is the processor time of the process; times are medians. Memory is the most that was resident, less what was
resident after the same stage on frames of 32 px: libraries and weights are left out. The size of a problem is its
pixels and the pixels that its emitters' images cover. With --keep, points that the results hold already are not
measured again. Writes benchmarks/results/scale.json; docs/make_figures.py draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from rich.console import Console

from adaloc import __version__
from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, merged, parse_config
from adaloc.data.generate import FIELD_MAP_FILE, generate, psf_of_data
from adaloc.data.sample_folder import list_samples, read_emitters
from adaloc.data.windows import load_samples, measure_training_scaling
from adaloc.integrity_check import load_data, refuse_hopeless
from adaloc.localize.command import LocalizeOptions, localize_movies
from adaloc.localize.inference import localize_frames
from adaloc.models.device import choose_device, describe_device
from adaloc.models.model_file import make_model, save_model
from adaloc.simulation.field_map import read_field_map
from adaloc.simulation.frames import simulate_sample
from adaloc.training.run import batch_targets, predict, setup

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "scale.json"
CONFIG = ROOT / "training" / "configs" / "train_config_adaptive.json"
SIZES, DENSITIES = (64, 128, 256, 512, 1024, 2048), (0.1, 0.3, 1.0, 2.0, 5.0)
STAGES = ("simulate", "start", "train", "localize")
DENSITY_SIZE_PX, WARM_PX = 256, 32
REPEATS, LEAST_SECONDS = 3, 1.0
NUM_FRAMES, NUM_SAMPLES = 4, 6  # of the simulated data; a larger batch needs more samples
BATCH, BATCH_PX = 16, 2**18
MOVIE_PX, LEAST_MOVIE_FRAMES, MOST_MOVIE_FRAMES = 2**21, 3, 400
SLOPE_LIMIT, GROWTH_LIMIT = 1.1, 1.15
"""Above these the growth is called faster than linear: the exponent over the last three sizes, and the time or memory
at the largest density over that of the straight line through the others."""
_QUIET = Console(quiet=True)
Times = dict[str, Any]


# --- what the numbers say ------------------------------------------------------------------------------------------


def units_of(size_px: int, emitters_per_frame: float, roi_px: int) -> float:
    """Pixels of a frame and pixels under the images of its emitters, together."""
    return size_px**2 + roi_px**2 * emitters_per_frame


def exponents(units: Sequence[float], values: Sequence[float]) -> list[float]:
    """d log(value) / d log(units) between successive points; 1 is linear, 2 quadratic."""
    return (np.diff(np.log(values)) / np.diff(np.log(units))).tolist()  # type: ignore[no-any-return]


def last_slope(units: Sequence[float], values: Sequence[float], last: int = 3) -> float:
    """The exponent over the last points, by least squares."""
    return float(np.polyfit(np.log(units[-last:]), np.log(values[-last:]), 1)[0])


def growth_over_line(emitters: Sequence[float], values: Sequence[float]) -> float:
    """The last value over what a + b * emitters, fitted to the points before it, has there; 1 where it is linear.

    The line never falls: noise of a stage that emitters hardly cost must not lower what is expected.
    """
    slope, start = np.polyfit(emitters[:-1], values[:-1], 1)
    line = start + slope * emitters[-1] if slope > 0 else np.mean(values[:-1])
    return float(values[-1] / line)


def of_unit(point: Times, value: str) -> float:
    """Seconds are those of a frame or target already; the memory of a training step is that of all its targets."""
    return float(point[value]) / (point.get("batch", 1) if value == "megabytes" else 1)


def against_size(points: Sequence[Times], value: str) -> dict[str, Any]:
    """The exponents of a stage's points, in the order of their sizes, and whether it stays linear."""
    units, values = [p["units"] for p in points], [max(of_unit(p, value), 1e-9) for p in points]
    slope = last_slope(units, values)
    return {
        "exponents": [round(e, 3) for e in exponents(units, values)],
        "exponent_of_the_last_three": round(slope, 3),
        "no_faster_than_linear": slope <= SLOPE_LIMIT,
    }


def against_density(points: Sequence[Times], value: str) -> dict[str, Any]:
    """The same for points in the order of their densities."""
    values = [of_unit(p, value) for p in points]
    growth = growth_over_line([p["emitters_per_frame"] for p in points], values)
    return {
        "exponents": [round(e, 3) for e in exponents([p["units"] for p in points], values)],
        "largest_over_line": round(growth, 3),
        "no_faster_than_linear": growth <= GROWTH_LIMIT,
    }


def verdicts(stages: dict[str, dict[str, list[Times]]]) -> dict[str, Any]:
    """Of every stage with at least three points, for time and memory."""
    found: dict[str, Any] = {}
    for stage, series in stages.items():
        for axis, judge in (("size", against_size), ("density", against_density)):
            if len(points := series[axis]) >= 3:
                found[f"{stage}, {axis}"] = {v: judge(points, v) for v in ("seconds", "megabytes")}
    return found


# --- one point, in a process of its own ----------------------------------------------------------------------------


def config_of(size_px: int, density: float, folder: Path) -> Config:
    """The default config for windows as large as the frame; a step holds about as many pixels as 16 of 128 x 128."""
    batch = 1 if size_px == WARM_PX else max(min(BATCH, BATCH_PX // size_px**2), 1)
    changes = {
        "data": {
            "root": str(folder / "data"), "image_size": size_px, "batch_size": batch, "fresh_share": 0.0,
            "num_workers": 0, "train_val_split": 0.8,
        },
        "simulation": {
            "num_samples": max(NUM_SAMPLES, batch + batch // 4), "num_frames": NUM_FRAMES, "image_size_px": size_px,
            "emitters": {"density_per_um2": density},
        },
        "output": {"save_dir": str(folder / "run")}, "num_threads": 1, "device": "cpu",
    }  # fmt: skip
    return parse_config(merged(dump_config(load_config(CONFIG)), changes), "scale")


def simulate(config: Config, folder: Path) -> Times:
    """Seconds for each frame; the first sample, which fits the field map's splines, is left out of the median."""
    shutil.rmtree(config.data.root, ignore_errors=True)
    samples = generate(config, config.data.root)
    once, seconds = seconds_of(lambda: next(samples)), []
    for _ in range(config.simulation.num_samples):
        seconds.append(seconds_of(lambda: next(samples)) / NUM_FRAMES)
    return {"seconds": statistics.median(seconds[1:]), "repeats": len(seconds) - 1, "field_map_s": once}


def start(config: Config, folder: Path) -> Times:
    """Seconds before the first step, in all."""
    config = parse_config(merged(dump_config(config), {"data": {"sample_subset": NUM_SAMPLES}}), "scale")

    def once() -> None:
        training, validation = load_data(config, _QUIET)
        refuse_hopeless(training, validation, config, _QUIET, force=True)
        setup(config, training, validation)

    return {**repeated(once), "samples": NUM_SAMPLES}


def train(config: Config, folder: Path) -> Times:
    """Seconds for each target of a step."""
    training, validation = load_data(config, _QUIET)
    run = setup(config, training, validation, with_floor=False)
    run.model.network.train()
    batch_size, step = config.data.batch_size, 0

    def once() -> None:
        nonlocal step
        batch = run.windows[step].to(run.device)
        step += run.windows.steps_per_epoch  # the first batch of an epoch is full
        targets = batch_targets(run, batch)
        run.optimizer.zero_grad(set_to_none=True)
        run.loss.objective(run.loss.sums(predict(run, batch), targets)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.model.network.parameters(), config.training.clip_norm)
        run.optimizer.step()

    return {**repeated(once, per=batch_size, dropped=1), "batch": batch_size}


def localize(config: Config, folder: Path) -> Times:
    """Seconds for each frame of the movie that `make_movie` made."""
    movie, out = folder / "movie.tif", folder / "locs.csv"
    found: list[int] = []

    def once() -> None:
        out.unlink(missing_ok=True)
        options = LocalizeOptions(device="cpu")
        (done,) = localize_movies(folder / "model.pth", [movie], out, None, options, _QUIET)
        found.append(done.num_localizations)

    frames = movie_frames(config.data.image_size)
    return {**repeated(once, per=frames), "frames": frames, "localizations_per_frame": found[-1] / frames}


def make_movie(config: Config, folder: Path) -> Times:
    """The movie and the model that `localize` reads; no measurement."""
    root, frames = config.data.root, movie_frames(config.data.image_size)
    simulation = config.simulation.model_copy(update={"num_frames": frames})
    psf, field_map = psf_of_data(root, config.simulation), read_field_map(root / FIELD_MAP_FILE)
    with torch.inference_mode():
        sample = simulate_sample(simulation, psf, field_map, seed=config.seed, index=10**6)
    tifffile.imwrite(folder / "movie.tif", sample.frames_THW, photometric="minisblack")  # three frames are no colours
    samples = load_samples(list_samples(root)[:2], config.simulation.camera)
    torch.manual_seed(0)
    model = make_model(config, measure_training_scaling(samples, config))
    output = model.network.second_stage[-1]
    side = min(config.data.image_size, 128)
    part = sample.frames_THW[:3, :side, :side]
    seen = sample.emitters.select((sample.emitters.frame < 3) & (sample.emitters.photons > config.data.min_photons))
    wanted = ((seen.x < side) & (seen.y < side)).sum()
    low, high = -40.0, 20.0
    with torch.inference_mode():
        output.weight.normal_(std=0.5)
        output.weight[1:3] *= 0.05  # offsets of less than a pixel
        for _ in range(14):  # the more probable everything is, the more is found
            output.bias[0] = (low + high) / 2
            too_many = len(localize_frames(model, part)) > wanted
            low, high = (low, float(output.bias[0])) if too_many else (float(output.bias[0]), high)
    save_model(folder / "model.pth", model)
    return {}


def movie_frames(size_px: int) -> int:
    """So many that a movie holds about as many pixels whatever its size, as far as that is possible."""
    most = LEAST_MOVIE_FRAMES if size_px == WARM_PX else MOST_MOVIE_FRAMES
    return max(min(most, MOVIE_PX // size_px**2), LEAST_MOVIE_FRAMES)


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time of one call, of all threads of the process."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def repeated(work: Callable[[], object], per: int = 1, dropped: int = 0) -> Times:
    """Median over at least `REPEATS` calls and `LEAST_SECONDS`; the first `dropped` pay for caches."""
    for _ in range(dropped):
        work()
    seconds: list[float] = []
    while len(seconds) < REPEATS or (sum(seconds) < LEAST_SECONDS and len(seconds) < 5 * REPEATS):
        seconds.append(seconds_of(work))
    return {"seconds": statistics.median(seconds) / per, "repeats": len(seconds)}


def resident_megabytes(name: str) -> float:
    """VmRSS, what is resident now, or VmHWM, the most that was; Linux alone."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


WORK: dict[str, Callable[[Config, Path], Times]] = {
    "simulate": simulate, "start": start, "train": train, "localize": localize, "movie": make_movie,
}  # fmt: skip


def measure(stage: str, size_px: int, density: float, folder: Path) -> Times:
    """The stage on small frames, then, with memory counted from there, on those of the point."""
    torch.set_num_threads(1)
    small = config_of(WARM_PX, 1.0, folder / "warm")
    if stage != "movie":
        for name in dict.fromkeys(("simulate", *(["movie"] if stage == "localize" else []), stage)):
            WORK[name](small, folder / "warm")
    before = resident_megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    measured = WORK[stage](config_of(size_px, density, folder), folder)
    return {**measured, "megabytes": round(resident_megabytes("VmHWM") - before, 2)}


# --- all of them ---------------------------------------------------------------------------------------------------


def emitters_per_frame(folder: Path) -> float:
    """Of the simulated data."""
    samples = list_samples(folder / "data")[:NUM_SAMPLES]
    return sum(len(read_emitters(sample)) for sample in samples) / (len(samples) * NUM_FRAMES)


def measured_points(
    size_px: int, density: float, stages: Sequence[str], work: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Simulates first, as the other stages need its data; its folder is deleted at the end."""
    folder = work / f"{size_px}_{density:g}"
    (folder / "warm").mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(("simulate", *(["movie"] if "localize" in stages else []), *stages)):
        command = [sys.executable, __file__, "--work", str(folder), "--point", name, str(size_px), str(density)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        if name in stages:
            emitters = emitters_per_frame(folder)
            roi = config_of(size_px, density, folder).simulation.psf.roi_size_px
            assert roi is not None
            units = units_of(size_px, emitters, roi)
            point = {"size_px": size_px, "density_per_um2": density, "emitters_per_frame": round(emitters, 1)}
            yield name, {**point, "units": round(units), **found, "load_average": round(os.getloadavg()[0], 1)}
    shutil.rmtree(folder)


def main() -> None:
    """Measures every point, judges, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, movies and localizations")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="sides of a frame, px")
    parser.add_argument("--densities", default=",".join(f"{d:g}" for d in DENSITIES), help="per square micrometre")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--most-train-px", type=int, default=1024, help="larger windows are not trained on")
    parser.add_argument("--keep", action="store_true", help="keep the points that the results hold already")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--point", nargs=3, metavar=("STAGE", "SIZE", "DENSITY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point is not None:
        stage, size, density = arguments.point
        print(json.dumps(measure(stage, int(size), float(density), arguments.work)))
        return
    default = load_config(CONFIG).simulation.emitters.density_per_um2
    sizes = [int(part) for part in arguments.sizes.split(",")]
    densities = [float(part) for part in arguments.densities.split(",")]
    wanted = [("size", size, default) for size in sizes]
    wanted += [("density", DENSITY_SIZE_PX, density) for density in densities]
    kept = json.loads(arguments.out.read_text(encoding="utf-8"))["stages"] if arguments.keep else {}
    chosen = arguments.stages.split(",")
    stages: dict[str, dict[str, list[Times]]] = {**{name: {"size": [], "density": []} for name in chosen}, **kept}
    for axis, size, density in wanted:
        missing = [
            name
            for name in chosen
            if not any((p["size_px"], p["density_per_um2"]) == (size, density) for p in stages[name][axis])
            and not (name == "train" and size > arguments.most_train_px)
        ]
        for name, point in measured_points(size, density, missing, arguments.work) if missing else ():
            print(name, point, file=sys.stderr)
            stages[name][axis].append(point)
            stages[name][axis].sort(key=lambda p: (p["size_px"], p["density_per_um2"]))
            write(stages, arguments)
    write(stages, arguments)  # judged anew also where nothing was measured


def write(stages: dict[str, dict[str, list[Times]]], arguments: argparse.Namespace) -> None:
    """After every point, so that a run that is stopped can go on."""
    torch.set_num_threads(1)
    loads = [p["load_average"] for series in stages.values() for points in series.values() for p in points]
    results = {
        "command": f"python benchmarks/scale.py --work WORK --sizes {arguments.sizes} --densities "
        f"{arguments.densities} --stages {arguments.stages} --most-train-px {arguments.most_train_px}",
        "version": __version__,
        "device": describe_device(choose_device("cpu")),
        "threads": 1,
        "clock": "processor time",
        "load_average": [min(loads), max(loads)],
        "density_size_px": DENSITY_SIZE_PX,
        "limits": {"exponent": SLOPE_LIMIT, "over_line": GROWTH_LIMIT},
        "verdicts": (found := verdicts(stages)),
        "stages": stages,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for name, judged in found.items():
        print(name, judged, file=sys.stderr)


if __name__ == "__main__":
    main()
