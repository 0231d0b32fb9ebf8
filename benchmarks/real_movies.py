"""Networks for two movies that others made, trained from the stated parameters of their optics and cameras.

    python benchmarks/real_movies.py --data ../shared/data --work WORK

Trains what is not trained yet in --work (some minutes each on 2 cores), localizes, scores, renders, and writes
benchmarks/results/real_movies.json. The truth of the NAIRR-SMLM set is used for scoring alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from adaloc.config import Config
from adaloc.config_file import load_config
from adaloc.emitters import EmitterTable
from adaloc.evaluation.command import evaluate_files
from adaloc.localize.command import LocalizeOptions, localize_movies
from adaloc.localize.movie import open_movie
from adaloc.localize.read import read_localizations
from adaloc.main_job import train

HERE = Path(__file__).parent
DONE = ("finished", "stopped_early")
RESULTS = HERE / "results" / "real_movies.json"
SOURCES_OWN_COUNT = 395  # localizations in frames 0 to 9 of the sCMOS movie, by its source's own program


def trained_model(name: str, work: Path, console: Console) -> tuple[Path, dict[str, Any]]:
    """The model of benchmarks/config_NAME.json and its summary, trained in `work` unless it is there."""
    raw = load_config(HERE / f"config_{name}.json").model_dump(mode="json")
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
    from adaloc.config import PixelSize

    score = evaluate_files(
        out, folder / "3DAS_LD_Validate_xyz.csv", PixelSize(x=100, y=100), (32, 32),
        lateral_nm=250, axial_nm=500, border_nm=450, min_photons=0,
    )  # fmt: skip
    return {"training": training_facts(summary), "score": score}


def scmos(data: Path, work: Path, console: Console) -> dict[str, Any]:
    """The experimental movie: the number of localizations beside the source's own."""
    model, summary = trained_model("scmos_storm", work, console)
    movie = data / "storm-analysis-scmos" / "sample.dax"
    table = localize(model, movie, work / "scmos_storm_locs.csv", work, console)
    first_ten = table.select(table.frame < 10)
    return {
        "training": training_facts(summary),
        "localizations_in_10_frames": len(first_ten),
        "of_them_brighter_than_photons": {str(n): int((first_ten.photons > n).sum()) for n in (500, 800, 1000)},
        "sources_own_in_10_frames": SOURCES_OWN_COUNT,
        "per_frame": np.bincount(table.frame, minlength=open_movie(movie).num_frames).tolist(),
    }


def localize(model: Path, movie: Path, out: Path, work: Path, console: Console) -> EmitterTable:
    """Runs `adaloc localize` with a picture beside the table."""
    (done,) = localize_movies(model, [movie], out, work / f"{out.stem}.png", LocalizeOptions(), console)
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
        "scmos_storm_experimental": scmos(arguments.data, arguments.work, console),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    console.print_json(json.dumps(results))


if __name__ == "__main__":
    main()
