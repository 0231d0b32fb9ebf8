"""`adaloc demo`: a small network learns in a minute or two, and shows a structure that the camera cannot resolve."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from rich.console import Console

from adaloc.config import Config, PixelSize
from adaloc.data.generate import FIELD_MAP_FILE
from adaloc.data.sample_folder import find_movie, write_sample
from adaloc.emitters import EmitterTable
from adaloc.errors import ConfigError
from adaloc.evaluation.metrics import Evaluation, evaluate
from adaloc.files import write_text
from adaloc.localize.export import write_thunderstorm_csv
from adaloc.localize.inference import localize_frames
from adaloc.localize.render import RGBArray, depth_palette, render
from adaloc.main_job import train
from adaloc.models.model_file import load_model
from adaloc.monitor.plots import save_figure
from adaloc.random_streams import Stream, numpy_stream
from adaloc.simulation.camera import to_photons
from adaloc.simulation.field_map import read_field_map
from adaloc.simulation.frames import SimulatedSample, simulate_sample
from adaloc.simulation.knot import knot_molecules
from adaloc.simulation.psf import make_psf
from adaloc.training.checkpoint import BEST
from adaloc.words import Language

RESULT_FILE, PICTURE_FILE, LOCS_FILE = "demo.json", "before_and_after.png", "locs.csv"
_MOVIE_SIZE_PX = 40
_MOVIE_INDEX = 1_000_000  # of the random streams: no training sample has it
_RENDER_PIXEL_NM = 10.0
_DEPTH_LIMITS_NM = (-500.0, 500.0)


@dataclass(frozen=True)
class DemoSize:
    """How much is simulated and trained.

    Attributes:
        num_samples, num_frames: movies for the training and validation, and frames in each.
        epochs: of the training.
        movie_frames, num_molecules: of the movie of the structure.
    """

    num_samples: int = 64
    num_frames: int = 60
    epochs: int = 200
    movie_frames: int = 800
    num_molecules: int = 2000


def demo_config(folder: Path, size: DemoSize) -> Config:
    """The demo's run: bright molecules with room around them, a small network."""
    return Config.model_validate({
        "data": {
            "root": str(folder / "data"), "simulate_if_missing": True, "image_size": 32, "batch_size": 16,
            "augment_mirror": True,
        },
        "simulation": {
            "num_samples": size.num_samples, "num_frames": size.num_frames, "image_size_px": 32,
            "optics": {"pixel_size_nm": {"x": 100, "y": 100}},
            "psf": {"type": "pupil", "roi_size_px": 27, "astigmatism_nm_rms": 70, "field_aberration_nm_rms": 0},
            "emitters": {
                "density_per_um2": 0.4, "photons_mean": 6000, "photons_std": 1500, "z_min_nm": -600, "z_max_nm": 600,
            },
            "background": {"mean_photons": 20, "std_photons": 2},
        },
        "network": {"base_channels": 12, "first_stage_depth": 1, "second_stage_channels": 24, "head_channels": 48},
        "training": {"epochs": size.epochs, "mixture_weight": 0.1},
        "output": {"save_dir": str(folder / "run"), "metrics_interval_epochs": max(size.epochs // 2, 1)},
        "comments": "Written by adaloc demo.",
    })  # fmt: skip


def run_demo(folder: Path, console: Console, size: DemoSize | None = None, language: Language = "en") -> int:
    """Simulates, trains, localizes a movie of a known structure, and draws it before and after.

    Args:
        folder: gets the training data, the run, the movie, the localizations and the picture.
        console: where messages go.
        size: how much; default: what takes under three minutes on two cores.
        language: of the report.

    Returns:
        The exit status, as that of a training.

    Raises:
        ConfigError: when the folder holds files of others.
        AdalocError: when something cannot be written.
    """
    begin, size = time.monotonic(), size or DemoSize()
    _claim(folder)
    config = demo_config(folder, size)
    console.print(
        f"1. A network of {config.network.base_channels} to {config.network.second_stage_channels} channels learns "
        f"from simulated movies, {size.epochs} epochs",
        soft_wrap=True,
    )
    if status := train(config, resume=None, skip_checks=True, console=console, language=language):
        return status
    console.print(
        f"\n2. It localizes a movie that it has never seen: {size.num_molecules} molecules on two strands that wind "
        "around each other",
        soft_wrap=True,
    )
    movie = _simulate_structure(config, size)
    shutil.rmtree(folder / "structure", ignore_errors=True)
    write_sample(folder / "structure", movie, config.simulation.optics)
    model = load_model(config.output.save_dir / BEST)
    found = localize_frames(model, movie.frames_THW)
    pixel_size = config.simulation.optics.pixel_size_nm
    write_thunderstorm_csv(folder / LOCS_FILE, found, pixel_size)
    asked = movie.emitters.select(movie.emitters.photons >= config.data.min_photons)
    scores = evaluate(
        found, movie.emitters, pixel_size_nm=pixel_size, image_size_px=(_MOVIE_SIZE_PX, _MOVIE_SIZE_PX),
        min_photons=config.data.min_photons,
    )  # fmt: skip
    save_figure(plot_before_and_after(movie, found, asked, config), folder / PICTURE_FILE)
    summary = json.loads((config.output.save_dir / "summary.json").read_text(encoding="utf-8"))
    seconds = round(time.monotonic() - begin, 1)
    result = {"seconds": seconds, "size": asdict(size), "structure": asdict(scores), "validation": summary}
    write_text(folder / RESULT_FILE, json.dumps(result, indent=2) + "\n")
    _show(folder, config, scores, len(found), seconds, console)
    return 0


def plot_before_and_after(movie: SimulatedSample, found: EmitterTable, truth: EmitterTable, config: Config) -> Figure:
    """One frame, the mean of all frames, the localizations and the truth, at the same scale; colour is depth.

    Args:
        movie: of the structure.
        found: localizations.
        truth: emitters that were asked for.
        config: optics and camera.
    """
    camera, pixel_size = config.simulation.camera, config.simulation.optics.pixel_size_nm
    photons_THW = to_photons(torch.from_numpy(movie.frames_THW.astype(np.float32)), camera).numpy()
    one = photons_THW[len(photons_THW) // 2]
    figure = Figure(figsize=(12.2, 3.3), layout="constrained")
    axes = figure.subplots(1, 4)
    side_um = _MOVIE_SIZE_PX * np.array([pixel_size.x, pixel_size.y]) / 1000
    extent = (0.0, float(side_um[0]), float(side_um[1]), 0.0)
    _show_image(axes[0], one, extent, "one camera frame")
    _show_image(axes[1], photons_THW.mean(axis=0), extent, f"before: mean of {len(photons_THW)} frames")
    _show_image(axes[2], _rendered(found, pixel_size), extent, f"after: {len(found)} localizations")
    _show_image(axes[3], _rendered(truth, pixel_size), extent, "the truth")
    axes[0].plot([side_um[0] - 1.3, side_um[0] - 0.3], [side_um[1] - 0.3] * 2, color="white", lw=3)
    axes[0].text(side_um[0] - 0.8, side_um[1] - 0.4, "1 µm", color="white", ha="center", va="bottom")
    depth = ScalarMappable(Normalize(*_DEPTH_LIMITS_NM), ListedColormap(depth_palette() / 255))
    figure.colorbar(depth, ax=axes[3], label="z (nm)", shrink=0.72)
    return figure


def _show_image(ax: Axes, image: Any, extent: tuple[float, float, float, float], title: str) -> None:
    ax.imshow(image, cmap="gray", extent=extent, interpolation="nearest")
    ax.set_title(title, fontsize=11)
    ax.set_xticks([])
    ax.set_yticks([])


def _rendered(table: EmitterTable, pixel_size: PixelSize) -> RGBArray:
    return render(
        table, pixel_size_nm=pixel_size, image_size_px=(_MOVIE_SIZE_PX, _MOVIE_SIZE_PX),
        render_pixel_nm=_RENDER_PIXEL_NM, color_by_z=True, z_limits_nm=_DEPTH_LIMITS_NM,
    )  # fmt: skip


def _claim(folder: Path) -> None:
    """Marks the folder as the demo's, so that it overwrites nothing of others when it is started again."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / RESULT_FILE).is_file())):
        raise ConfigError(f"{folder} holds other files. Name a new folder with --out.")
    write_text(folder / RESULT_FILE, "{}\n")


def _simulate_structure(config: Config, size: DemoSize) -> SimulatedSample:
    simulation = config.simulation.model_copy(update={"num_frames": size.movie_frames, "image_size_px": _MOVIE_SIZE_PX})
    molecules = knot_molecules(
        simulation.emitters, simulation.optics.pixel_size_nm, _MOVIE_SIZE_PX, size.movie_frames, size.num_molecules,
        numpy_stream(config.seed, Stream.EMITTERS, index=_MOVIE_INDEX),
    )  # fmt: skip
    with torch.inference_mode():
        return simulate_sample(
            simulation, make_psf(simulation.psf, simulation.optics), read_field_map(config.data.root / FIELD_MAP_FILE),
            seed=config.seed, index=_MOVIE_INDEX, molecules=molecules,
        )  # fmt: skip


def _show(folder: Path, config: Config, scores: Evaluation, num_found: int, seconds: float, console: Console) -> None:
    run, movie = config.output.save_dir, find_movie(folder / "structure")
    errors = ""
    if scores.rmse_lateral_nm is not None and scores.rmse_axial_nm is not None:
        errors = f", RMSE lateral {scores.rmse_lateral_nm:.0f} nm, axial {scores.rmse_axial_nm:.0f} nm"
    lines = [
        f"{num_found} localizations of {scores.num_truth} emitters: Jaccard index {scores.jaccard:.2f}, precision "
        f"{scores.precision:.2f}, recall {scores.recall:.2f}{errors}",
        f"  before and after  {folder / PICTURE_FILE}",
        f"  report            {run / 'report.html'}",
        f"  localizations     {folder / LOCS_FILE}",
        f"Done in {seconds:.0f} s. What to try next:",
        f"  adaloc localize {run / BEST} {movie} -o {folder / 'again.csv'} --render {folder / 'again.png'}",
        f"  adaloc evaluate {folder / LOCS_FILE} {folder / 'structure'} --page {folder / 'evaluation.html'}",
        f"  adaloc diagnose {run}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
