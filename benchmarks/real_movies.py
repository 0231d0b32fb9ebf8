"""Networks for the movies of others, trained from the stated parameters of their optics and cameras.

    python benchmarks/real_movies.py --data ../shared/data --work WORK

Trains what is not trained yet in --work (some minutes each on 2 cores), localizes, scores, renders, and writes
benchmarks/results/real_movies.json. The truth of the NAIRR-SMLM set is used for scoring alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from adaloc.config import Config, PixelSize
from adaloc.config_file import load_config
from adaloc.emitters import EmitterTable
from adaloc.evaluation.command import evaluate_files
from adaloc.evaluation.comparison import Comparison, rmsmd_figures
from adaloc.evaluation.matching import match
from adaloc.evaluation.metrics import evaluate
from adaloc.localize.command import LocalizeOptions, localize_movies
from adaloc.localize.grouping import group
from adaloc.localize.movie import open_movie
from adaloc.localize.read import read_localizations
from adaloc.main_job import train
from adaloc.simulation.camera_maps import from_storm_analysis, write_camera_maps

HERE = Path(__file__).parent
DONE = ("finished", "stopped_early")
RESULTS = HERE / "results" / "real_movies.json"
NAIRR_PIXEL = PixelSize(x=100, y=100)
SOURCES_OWN_COUNT = 395  # localizations in frames 0 to 9 of the sCMOS movie, by its source's own program


def trained_model(
    name: str, work: Path, console: Console, calibration: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """The model of benchmarks/config_NAME.json and its summary, trained in `work` unless it is there."""
    raw = load_config(HERE / f"config_{name}.json").model_dump(mode="json")
    if calibration is not None:
        raw["simulation"]["psf"]["calibration"] = str(calibration)
    raw["data"]["root"] = str(work / "data" / name)
    raw["output"]["save_dir"] = str(work / name)
    config = Config.model_validate(raw)
    summary = config.output.save_dir / "summary.json"
    is_done = summary.exists() and json.loads(summary.read_text(encoding="utf-8"))["status"] in DONE
    if not is_done and train(config, resume="auto", skip_checks=True, console=console) != 0:
        raise SystemExit(130)
    return config.output.save_dir / "best_model.pth", json.loads(summary.read_text(encoding="utf-8"))


def nairr(data: Path, work: Path, console: Console) -> dict[str, Any]:
    """3DAS_LD Validate: 500 frames of 32 x 32 px, 4225 emitters."""
    model, summary = trained_model("nairr_3das", work, console)
    folder = data / "nairr-smlm"
    out = work / "nairr_3das_locs.csv"
    localize(model, folder / "3DAS_LD_Validate_Frame.tif", out, work, console)
    score = evaluate_files(
        out, folder / "3DAS_LD_Validate_xyz.csv", NAIRR_PIXEL, (32, 32),
        lateral_nm=250, axial_nm=500, border_nm=450, min_photons=0,
    )  # fmt: skip
    return {"training": training_facts(summary), "score": score}


def nairr_benchmark(data: Path, work: Path, console: Console) -> dict[str, Any]:
    """3DAS_LD Benchmark: 931 of 1000 frames of 64 x 64 px, as localized and grouped into molecules."""
    model, _ = trained_model("nairr_3das", work, console)
    frames = work / "3DAS_LD_Benchmark"
    with zipfile.ZipFile(data / "nairr-smlm" / "3DAS_LD_Benchmark_Frame.zip") as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"[\w]+_\d+\.tif", name)]
        archive.extractall(frames, names)
    number_of = np.array(sorted(int(name.rsplit("_", 1)[1].removesuffix(".tif")) for name in names))
    found = localize(model, frames, work / "nairr_benchmark_locs.csv", work, console)
    truth = read_localizations(data / "nairr-smlm" / "3DAS_LD_Benchmark_xyz.csv", NAIRR_PIXEL).table
    # The movie's frames are counted without the gaps, where no emitter shines.
    found = found.with_columns(frame=number_of[found.frame] - 1)
    molecules = group(found, pixel_size_nm=NAIRR_PIXEL)

    def scored(table: EmitterTable) -> dict[str, Any]:
        return {"rows": len(table), **rmsmd_figures(Comparison(table, truth, NAIRR_PIXEL, (64, 64), True))}

    return {
        "true_rows": len(truth),
        "per_frame": dataclasses.asdict(
            evaluate(found, truth, pixel_size_nm=NAIRR_PIXEL, image_size_px=(64, 64), border_nm=0)
        ),
        "error_over_sigma": error_over_sigma(found, truth),
        "as_localized": scored(found),
        "grouped": scored(molecules.table),
        "grouped_without_single_localizations": scored(molecules.table.select(molecules.count > 1)),
        "published_rmsmd_p_nm": {"UGIA-F": 25.97, "DECODE": 32.49, "ThunderSTORM": 60.36, "3D-DAOSTORM": 76.12},
    }


def error_over_sigma(found: EmitterTable, truth: EmitterTable) -> dict[str, float]:
    """Standard deviation of the errors over the predicted uncertainties, of matched localizations; 1 is right."""
    pairs = match(found, truth, pixel_size_nm=NAIRR_PIXEL)
    got, true = found.select(pairs.localization), truth.select(pairs.truth)
    return {
        axis: float(((getattr(got, axis) - getattr(true, axis)) / getattr(got, f"{axis}_sigma")).std())
        for axis in "xyz"
    }


def scmos(data: Path, work: Path, console: Console) -> dict[str, Any]:
    """The experimental movie: the number of localizations beside the source's own."""
    model, summary = trained_model("scmos_storm", work, console)
    movie = data / "storm-analysis-scmos" / "sample.dax"
    maps = work / "scmos_maps.h5"
    calibration = movie.with_name("calib.npy")
    write_camera_maps(maps, from_storm_analysis(calibration, baseline_adu=100, transpose=True, gain_unit="e/ADU"))
    table = localize(model, movie, work / "scmos_storm_locs.csv", work, console, maps)
    first_ten = table.select(table.frame < 10)
    return {
        "training": training_facts(summary),
        "localizations_in_10_frames": len(first_ten),
        "of_them_brighter_than_photons": {str(n): int((first_ten.photons > n).sum()) for n in (100, 150, 200, 300)},
        "sources_own_in_10_frames": SOURCES_OWN_COUNT,
        "per_frame": np.bincount(table.frame, minlength=open_movie(movie).num_frames).tolist(),
    }


def localize(
    model: Path, movie: Path, out: Path, work: Path, console: Console, maps: Path | None = None
) -> EmitterTable:
    """Runs `adaloc localize` with a picture beside the table."""
    options = LocalizeOptions(camera_maps=maps)
    (done,) = localize_movies(model, [movie], out, work / f"{out.stem}.png", options, console)
    return read_localizations(done.outputs["picasso"]).table


def training_facts(summary: dict[str, Any]) -> dict[str, Any]:
    """What the docs quote of a training."""
    keys = ("epochs", "wall_s", "device", "no_information_loss", "val_loss", "metrics")
    return {key: summary[key] for key in keys}


def main() -> None:
    """Trains, localizes, scores, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with nairr-smlm and storm-analysis-scmos")
    parser.add_argument("--work", type=Path, required=True, help="folder for training data, runs and results")
    arguments = parser.parse_args()
    console = Console()
    results = {
        "command": "python benchmarks/real_movies.py --data DATA --work WORK",
        "nairr_3das_ld_validate": nairr(arguments.data, arguments.work, console),
        "nairr_3das_ld_benchmark": nairr_benchmark(arguments.data, arguments.work, console),
        "scmos_storm_experimental": scmos(arguments.data, arguments.work, console),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    console.print_json(json.dumps(results))


if __name__ == "__main__":
    main()
