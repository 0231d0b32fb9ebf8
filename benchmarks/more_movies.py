"""More movies of others: a 2D set with truth, errors over the bound, low-signal dSTORM, and tetrapods.

    python benchmarks/more_movies.py --data ../shared/data --work WORK [--only nairr_2d ...]

Trains what is not trained yet in --work, localizes, scores, renders, and writes
benchmarks/results/real_movies_more.json (with --only, the other parts of that file stay). No truth, and no other
program's localizations, are trained or tuned on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from real_movies import HERE, NAIRR_PIXEL, localize, trained_model, training_facts
from rich.console import Console
from tetrapod_frames import Explained, explain, plot_explained

from adaloc.config import OpticsConfig, PixelSize
from adaloc.config_file import load_config
from adaloc.data.movie_check import check_movie
from adaloc.data.movie_text import describe
from adaloc.emitters import EmitterTable
from adaloc.evaluation.command import Extras, report_files
from adaloc.evaluation.comparison import Rules
from adaloc.evaluation.matching import match
from adaloc.localize.command import LocalizeOptions, localize_movies
from adaloc.localize.movie import open_movie
from adaloc.localize.read import read_localizations
from adaloc.simulation.mask_plot import plot_mask
from adaloc.simulation.phase_mask import MaskedPSF, Relay, psf_of_mask, read_phase_mask
from adaloc.simulation.psf_file import write_psf_file

RESULTS = HERE / "results" / "real_movies_more.json"
TETRAPOD = "deepstorm3d/Tetrapod_demo2_crop"
TETRAPOD_FRAMES = 10  # of 30
RULES = Rules(lateral_tolerance_nm=250, axial_tolerance_nm=500, border_nm=450, min_photons=0)


@dataclass(frozen=True)
class Places:
    """Where things are.

    Attributes:
        data: movies of others.
        work: what is made here.
        work_3das: where real_movies.py trained its network for the 3D set.
        unfinished: networks are taken as they are, however far their training came.
    """

    data: Path
    work: Path
    work_3das: Path
    unfinished: bool = False


def model_of(
    name: str, places: Places, console: Console, calibration: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """The trained network and the facts of its training."""
    folder = places.work / name
    if not places.unfinished:
        model, summary = trained_model(name, places.work, console, calibration)
        return model, training_facts(summary)
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    start, epochs = events[0], [event for event in events if event["event"] == "epoch"]
    return folder / "best_model.pth", {
        "stopped_after_epochs": len(epochs), "of_epochs": start["epochs"], "device": start["device"],
        "no_information_loss": start["no_information_loss"], "floor": start["floor"],
        "best_val_loss": min(event["val_loss"] for event in epochs), "wall_s": epochs[-1]["wall_s"],
    }  # fmt: skip


def scored_with_bound(name: str, model: Path, stem: str, truth: str, places: Places, console: Console) -> Any:
    """Figures of a NAIRR-SMLM Validate set, the errors over the single-frame bound among them."""
    folder = places.data / "nairr-smlm"
    out = places.work / f"{name}_bound_locs.csv"
    localize(model, folder / f"{stem}_Validate_Frame.tif", out, places.work, console)
    extras = Extras(with_crlb=True, config=HERE / f"config_{name}.json")
    return report_files(
        out, folder / f"{stem}_Validate_{truth}.csv", NAIRR_PIXEL, (32, 32), rules=RULES, extras=extras
    ).figures  # fmt: skip


def nairr_2d(places: Places, console: Console) -> dict[str, Any]:
    """2DGauss_LD Validate: 500 frames of 32 x 32 px, 6468 emitters."""
    model, training = model_of("nairr_2d", places, console)
    score = scored_with_bound("nairr_2d", model, "2DGauss_LD", "xy", places, console)
    return {"training": training, "score": score}


def nairr_3das(places: Places, console: Console) -> dict[str, Any]:
    """3DAS_LD Validate against the bound, with the network of real_movies.py."""
    model, summary = trained_model("nairr_3das", places.work_3das, console)
    score = scored_with_bound("nairr_3das", model, "3DAS_LD", "xyz", places, console)
    return {"training": training_facts(summary), "score": score}


def movie_findings(name: str, movie: Path, calibration: Path | None = None) -> dict[str, Any]:
    """What `adaloc check --movie` says, in its words."""
    config = load_config(HERE / f"config_{name}.json")
    if calibration is not None:
        psf = config.simulation.psf.model_copy(update={"calibration": calibration})
        config = config.model_copy(update={"simulation": config.simulation.model_copy(update={"psf": psf})})
    with open_movie(movie) as opened:
        frames = opened.read(0, opened.num_frames)
    check = check_movie(frames, config, None, None)
    table = {row.name: [_rounded(row.movie), _rounded(row.config)] for row in check.rows}
    return {"warnings": [describe(finding) for finding in check.findings], "movie_and_config": table}


def locan(places: Places, console: Console) -> dict[str, Any]:
    """Five dSTORM frames beside rapidSTORM's localizations, of which four lie in them."""
    movie = places.data / "locan" / "images.tif"
    pixel = PixelSize(x=133.5, y=133.5)
    model, training = model_of("locan_dstorm", places, console)
    found = localize(model, movie, places.work / "locan_dstorm_locs.csv", places.work, console)
    other = read_localizations(movie.with_name("rapidSTORM_from_images.txt"), pixel).table
    other = other.select(other.frame < open_movie(movie).num_frames)
    pairs = match(found, other, pixel_size_nm=pixel, axial_tolerance_nm=None)
    distance = _distances_nm(found, other, pairs.localization, pairs.truth, pixel)
    return {
        "training": training,
        "localizations": len(found),
        "per_frame": np.bincount(found.frame, minlength=5).tolist(),
        "rapidstorm": len(other),
        "matched": len(pairs),
        "distance_nm": sorted(round(float(d), 1) for d in distance),
        "median_distance_nm": float(np.median(distance)) if len(distance) else None,
        "photons_of_the_matched": sorted(round(float(p)) for p in found.photons[pairs.localization]),
        "photons_of_the_others": sorted(round(float(p)) for p in np.delete(found.photons, pairs.localization)),
    }


def tetrapod_psf(places: Places) -> tuple[MaskedPSF, Path]:
    """The PSF of the mask, and its file; what the source states of the optics."""
    optics = OpticsConfig(
        wavelength_nm=670, numerical_aperture=1.45, refractive_index=1.518, pixel_size_nm=PixelSize(x=110, y=110)
    )
    made = psf_of_mask(
        read_phase_mask(places.data / "deepstorm3d" / "mask_tetrapod_printed.mat", "mask_tetra_reut"), optics,
        Relay(mask_pixel_um=30, focal_length_mm=100, magnification=100),
        sample_index=1.33, focal_plane_nm=1500, blur_nm=110,
    )  # fmt: skip
    path = places.work / "tetrapod_psf.h5"
    if not path.exists():  # the training data keep a copy, and refuse a config with another file
        write_psf_file(path, made.psf)
    return made, path


def checks(places: Places, console: Console) -> dict[str, Any]:
    """What `adaloc check --movie` says of the two experimental movies and their configs."""
    _, calibration = tetrapod_psf(places)
    return {
        "locan_dstorm": movie_findings("locan_dstorm", places.data / "locan" / "images.tif"),
        "tetrapod": movie_findings("tetrapod", places.data / TETRAPOD, calibration),
    }


def tetrapod(places: Places, console: Console) -> dict[str, Any]:
    """STORM frames with a tetrapod, through the mask that they were taken with; there is no truth."""
    made, calibration = tetrapod_psf(places)
    plot_mask(places.work / "tetrapod_psf.png", made, 4000)
    model, training = model_of("tetrapod", places, console, calibration)
    options = LocalizeOptions(frames=(0, TETRAPOD_FRAMES), render_pixel_nm=40)
    out = places.work / "tetrapod_locs.csv"
    (done,) = localize_movies(model, [places.data / TETRAPOD], out, out.with_suffix(".png"), options, console)
    found = read_localizations(done.outputs["picasso"]).table
    with open_movie(places.data / TETRAPOD) as opened:
        frames = opened.read(0, TETRAPOD_FRAMES).astype(np.float64)
    raw = json.loads((places.work / "tetrapod" / "config.json").read_text(encoding="utf-8"))
    parts = explain(frames, found, raw["simulation"])
    plot_explained(places.work / "tetrapod_explained.png", parts)
    return {
        "mask": {
            "pupil_radius_px": made.radius_px, "radius_of_the_samples_index_px": made.sample_radius_px,
            "radius_of_the_mask_px": made.support_px, "focus_depth_nm": made.focus_depth_nm,
        },
        "training": training,
        "localizations": len(found),
        "per_frame": np.bincount(found.frame, minlength=len(frames)).tolist(),
        "photons_quartiles": np.percentile(found.photons, [25, 50, 75]).round().tolist(),
        "height_above_cover_slip_nm_percentiles_5_50_95":
            (np.percentile(found.z, [5, 50, 95]) + made.focus_depth_nm).round().tolist(),
        "share_of_explainable_variance": {part.name: _summary(part) for part in parts},
    }  # fmt: skip


def _summary(part: Explained) -> dict[str, Any]:
    return {
        "median_of_frames": round(float(np.median(part.share_T)), 4),
        "lowest_and_highest": [round(float(v), 4) for v in (part.share_T.min(), part.share_T.max())],
        "median_scale_of_the_light": None if part.scale_T is None else round(float(np.median(part.scale_T)), 3),
    }


def _distances_nm(a: EmitterTable, b: EmitterTable, row_a: Any, row_b: Any, pixel: PixelSize) -> Any:
    return np.hypot((a.x[row_a] - b.x[row_b]) * pixel.x, (a.y[row_a] - b.y[row_b]) * pixel.y)


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.4g}") if value is not None and np.isfinite(value) else None


PARTS: dict[str, Callable[[Places, Console], dict[str, Any]]] = {
    "nairr_2d": nairr_2d,
    "nairr_3das": nairr_3das,
    "check_movie": checks,
    "locan_dstorm": locan,
    "tetrapod": tetrapod,
}


def main() -> None:
    """Trains, localizes, scores, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the movies of others")
    parser.add_argument("--work", type=Path, required=True, help="folder for training data, runs and results")
    parser.add_argument("--work-3das", type=Path, help="--work of real_movies.py, whose network is taken")
    parser.add_argument("--unfinished", action="store_true", help="take networks as far as their training came")
    parser.add_argument("--only", choices=list(PARTS), nargs="+", default=list(PARTS))
    arguments = parser.parse_args()
    console = Console()
    places = Places(arguments.data, arguments.work, arguments.work_3das or arguments.work, arguments.unfinished)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        part = PARTS[name](places, console)
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        results |= {"command": "python benchmarks/more_movies.py --data DATA --work WORK", name: part}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        console.print_json(json.dumps(part))


if __name__ == "__main__":
    main()
