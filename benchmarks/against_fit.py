"""adaloc against maximum-likelihood fits, on the same simulated movies: accuracy and speed.

    python benchmarks/against_fit.py --model MODEL --work WORK

MODEL is a best_model.pth of the default config (training/configs/train_config_adaptive.json). The movies have that
config's optics, camera, photons and field map, at three densities, with seeds of their own. Four methods:

- adaloc: `localize_frames` with its default threshold; nothing is chosen for these movies.
- picasso_widths, picasso_spline: Picasso's detection, then its two fits in 3D (benchmarks/picasso_fit.py), calibrated
  by Picasso on simulated beads of the mean PSF.
- known_psf: Picasso's detections, then `adaloc.simulation.mle.fit_emitters` with the mean PSF itself.

For each fit and density, box, smoothing before detection, least net gradient and largest misfit are those of the best
Jaccard index on another movie of that density, whose truth is known to the choice. Speed is in frames per second of
processor time of one thread, the median of three, compilation and choosing excluded. Writes
benchmarks/results/against_fit.json and docs/images/against_fit.png.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from against_fit_report import markdown, plot
from mean_pupil import MeanPupil
from picasso_fit import STEP_NM, Beads, Calibration, Fit, Found, Picasso

from adaloc.config import Config, SimulationConfig
from adaloc.config_file import load_config
from adaloc.data.generate import field_map_of
from adaloc.emitters import EmitterTable
from adaloc.evaluation.metrics import Scored, score, summarize
from adaloc.files import write_text
from adaloc.localize.inference import localize_frames
from adaloc.models.model_file import load_model
from adaloc.random_streams import Stream, numpy_stream, torch_stream
from adaloc.simulation.camera import expose
from adaloc.simulation.field_map import FieldMap
from adaloc.simulation.frames import draw_emitters, field_area_um2, simulate_sample
from adaloc.simulation.mle import fit_emitters
from adaloc.simulation.psf import PSF, make_psf

HERE = Path(__file__).parent
CONFIG = HERE.parent / "training" / "configs" / "train_config_adaptive.json"
RESULTS = HERE / "results" / "against_fit.json"
PICTURE = HERE.parent / "docs" / "images" / "against_fit.png"
SEED = 2_000_003  # not that of any training data
DENSITIES_PER_UM2 = {"sparse": 0.05, "dense": 0.7, "medium": 0.2}
SIZE_PX = 64
TUNING_EMITTERS = 800
MIN_PHOTONS = 250.0  # the config's data.min_photons
INNER_Z_NM = 400.0
PICASSO_FITS: tuple[Fit, ...] = ("widths", "spline")
BOXES = (7, 9, 13, 17)
SMOOTHING_PX = (0.0, 1.0)
NET_GRADIENTS = tuple(float(g) for g in np.geomspace(400, 12000, 11).round(-1))
MISFIT_QUANTILES = (1.0, 0.95, 0.9, 0.8)
TIMED_FRAMES, TIMED_RUNS = 100, 3
BEAD_REACH_NM, BEADS_A_SIDE, BEAD_SPACING_PX, BEAD_PHOTONS, BEAD_BACKGROUND = 1000.0, 3, 40, 50_000.0, 10.0

Frames = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Scene:
    """A movie and all emitters in it."""

    name: str
    frames_THW: Frames
    truth: EmitterTable


@dataclass(frozen=True)
class Choice:
    """What was chosen on the tuning movie."""

    box: int
    smoothing_px: float
    net_gradient: float
    misfit: float
    jaccard: float


def with_density(simulation: SimulationConfig, density_per_um2: float, num_frames: int) -> SimulationConfig:
    """The simulation with another density, length and size of field."""
    raw = simulation.model_dump(mode="json")
    raw["emitters"]["density_per_um2"] = density_per_um2
    raw |= {"num_frames": num_frames, "image_size_px": SIZE_PX}
    return SimulationConfig.model_validate(raw)


def simulate(simulation: SimulationConfig, field_map: FieldMap, name: str, index: int) -> Scene:
    """A movie at one place of the field map; a function of its arguments alone."""
    psf = make_psf(simulation.psf, simulation.optics)
    sample = simulate_sample(simulation, psf, field_map, seed=SEED, index=index)
    return Scene(name, sample.frames_THW, sample.emitters)


def simulate_beads(simulation: SimulationConfig, psf: PSF) -> Beads:
    """Nine bright beads at random places within their pixels, scanned from the highest z down."""
    z_T = np.arange(BEAD_REACH_NM, -BEAD_REACH_NM - 1, -STEP_NM)
    middle = np.arange(BEADS_A_SIDE) * BEAD_SPACING_PX + BEAD_SPACING_PX // 2
    row_N, column_N = (grid.ravel() for grid in np.meshgrid(middle, middle, indexing="ij"))
    dx_N, dy_N = numpy_stream(SEED, Stream.EMITTERS, step=1).uniform(-0.5, 0.5, (2, len(row_N)))
    num_frames, side = len(z_T), BEADS_A_SIDE * BEAD_SPACING_PX
    beads = EmitterTable(
        frame=np.repeat(np.arange(num_frames), len(row_N)),
        x=np.tile(column_N + dx_N, num_frames),
        y=np.tile(row_N + dy_N, num_frames),
        z=np.repeat(z_T, len(row_N)),
        photons=np.full(num_frames * len(row_N), BEAD_PHOTONS),
    )
    light = draw_emitters(psf, beads, None, None, (num_frames, side, side), torch.device("cpu")) + BEAD_BACKGROUND
    adu = expose(light, simulation.camera, torch_stream(SEED, Stream.CAMERA, step=1))
    return Beads(adu.numpy().astype(np.uint16), z_T, row_N, column_N)


def fit_known(simulation: SimulationConfig, psf: PSF, frames_THW: Frames, spots: Any) -> Found:
    """Fits detected spots with the PSF itself; what did not converge is left out."""
    half, side = psf.roi_size_px // 2, psf.roi_size_px
    frame, row, column = (spots[name].to_numpy(np.int64) for name in ("frame", "y", "x"))
    offset = np.arange(side) - half
    regions = frames_THW[frame[:, None, None], (row[:, None] + offset)[:, :, None], (column[:, None] + offset)[:, None]]
    low, high = simulation.emitters.z_min_nm, simulation.emitters.z_max_nm
    fits = fit_emitters(regions, psf, simulation.camera, (0.6 * low, 0.0, 0.6 * high), (low - 200, high + 200))
    x, y, z, photons, background = fits.parameters_NP.T
    table = EmitterTable(frame=frame, x=column + x, y=row + y, z=z, photons=photons, background=background)
    kept = fits.converged_N
    gradient = spots["net_gradient"].to_numpy(np.float64)
    return Found(table.select(kept), gradient[kept], fits.chi_square_N[kept])


class FitMethod:
    """Detection and one of the fits, for movies in memory."""

    def __init__(
        self, picasso: Picasso, simulation: SimulationConfig, fits: dict[int, Calibration | MeanPupil]
    ) -> None:
        self._picasso, self._simulation, self._fits = picasso, simulation, fits

    def localize(self, scene: Scene, box: int, smoothing_px: float, net_gradient: float) -> Found:
        """All that is detected, fitted. The movie is mirrored at its edges, so that no box loses scored pixels."""
        margin, fit = max(box // 2 - 3, 0), self._fits[box]
        padded = np.pad(scene.frames_THW, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        movie = self._picasso.movie(padded, scene.name)
        spots = self._picasso.detect(movie, box, smoothing_px, net_gradient)
        if isinstance(fit, Calibration):
            found = self._picasso.fit(movie, spots, fit)
        else:
            found = fit_known(self._simulation, fit, padded, spots)
        table = found.table.with_columns(x=found.table.x - margin, y=found.table.y - margin)
        return Found(table, found.net_gradient_N, found.misfit_N)

    def chosen(self, scene: Scene, choice: Choice) -> EmitterTable:
        """What is left with a choice."""
        found = self.localize(scene, choice.box, choice.smoothing_px, choice.net_gradient)
        return found.table.select(found.misfit_N <= choice.misfit)


def scored(simulation: SimulationConfig, found: EmitterTable, truth: EmitterTable) -> Scored:
    """As the SMLM challenge scores: 250 nm, 500 nm, a border of 450 nm."""
    return score(
        found, truth, pixel_size_nm=simulation.optics.pixel_size_nm, image_size_px=(SIZE_PX, SIZE_PX),
        min_photons=MIN_PHOTONS,
    )  # fmt: skip


def tune(simulation: SimulationConfig, found: dict[tuple[int, float], Found], truth: EmitterTable) -> Choice:
    """The best Jaccard index over all (box, smoothing), net gradients and misfits."""
    best: Choice | None = None
    for (box, smoothing), part in found.items():
        for net_gradient in NET_GRADIENTS:
            bright = part.net_gradient_N > net_gradient
            if not bright.any():
                continue
            for quantile in MISFIT_QUANTILES:
                misfit = float(np.quantile(part.misfit_N[bright], quantile)) if quantile < 1 else math.inf
                table = part.table.select(bright & (part.misfit_N <= misfit))
                jaccard = summarize(scored(simulation, table, truth)).jaccard
                if best is None or jaccard > best.jaccard:
                    best = Choice(box, smoothing, net_gradient, misfit, jaccard)
    if best is None:
        raise ValueError(f"nothing was found above a net gradient of {NET_GRADIENTS[0]:g}")
    return best


def figures(simulation: SimulationConfig, found: EmitterTable, scene: Scene) -> dict[str, Any]:
    """The challenge's figures, and the errors of the emitters near the focus."""
    pairs, truth = scored(simulation, found, scene.truth), scene.truth
    result = asdict(summarize(pairs))
    paired, missed = (np.abs(truth.z[rows]) <= INNER_Z_NM for rows in (pairs.truth, pairs.false_negative))
    assert pairs.dz_nm is not None
    lateral_sq = (pairs.dx_nm**2 + pairs.dy_nm**2)[paired]
    result["within_400_nm"] = {
        "recall": float(paired.sum() / max(paired.sum() + missed.sum(), 1)),
        "rmse_lateral_nm": math.sqrt(lateral_sq.mean()) if paired.any() else None,
        "rmse_axial_nm": math.sqrt((pairs.dz_nm[paired] ** 2).mean()) if paired.any() else None,
    }
    return result


def frames_per_s(localize: Callable[[Scene], EmitterTable], scene: Scene) -> float:
    """Median over runs, in processor time of one thread, so that what else runs on the machine counts little."""
    part = Scene("timed", scene.frames_THW[:TIMED_FRAMES], scene.truth)
    seconds = []
    for _ in range(TIMED_RUNS):
        begin = time.process_time()
        localize(part)
        seconds.append(time.process_time() - begin)
    return len(part.frames_THW) / statistics.median(seconds)


def main() -> None:
    """Simulates, calibrates, chooses, localizes, scores, times and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="best_model.pth of the default config")
    parser.add_argument("--work", type=Path, required=True, help="folder for temporary files")
    parser.add_argument("--num-frames", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    config: Config = load_config(CONFIG)
    simulation, field_map, model = config.simulation, field_map_of(config), load_model(arguments.model)
    assert field_map is not None
    picasso = Picasso(simulation.camera, simulation.optics.pixel_size_nm, arguments.work)
    beads = simulate_beads(simulation, MeanPupil(simulation, field_map, 33))
    calibrations = {fit: {box: picasso.calibrate(beads, fit, box) for box in BOXES} for fit in PICASSO_FITS}
    fits: dict[str, dict[int, Calibration | MeanPupil]] = {
        **{f"picasso_{fit}": dict(by_box) for fit, by_box in calibrations.items()},
        "known_psf": {box: MeanPupil(simulation, field_map, box) for box in BOXES},
    }
    methods = {name: FitMethod(picasso, simulation, by_box) for name, by_box in fits.items()}
    results: dict[str, Any] = {
        "command": "python benchmarks/against_fit.py --model MODEL --work WORK",
        "processor": platform.processor() or platform.machine(),
        "image_size_px": SIZE_PX,
        "calibrated_reach_nm": {
            fit: {box: calibration.reach_nm for box, calibration in by_box.items()}
            for fit, by_box in calibrations.items()
        },
        "movies": {},
    }
    area = field_area_um2((SIZE_PX, SIZE_PX), simulation.optics)
    for number, (name, density) in enumerate(DENSITIES_PER_UM2.items()):
        num_tuning = min(math.ceil(TUNING_EMITTERS / (density * area)), arguments.num_frames)
        tuning = simulate(with_density(simulation, density, num_tuning), field_map, "tuning", 2 * number)
        scene = simulate(with_density(simulation, density, arguments.num_frames), field_map, "scored", 2 * number + 1)

        def network(part: Scene) -> EmitterTable:
            return localize_frames(model, part.frames_THW)

        rows = {"adaloc": figures(simulation, network(scene), scene)}
        rows["adaloc"]["frames_per_s"] = frames_per_s(network, scene)
        print(name, "adaloc", rows["adaloc"], flush=True)
        for method_name, method in methods.items():
            tried = {
                (box, smoothing): method.localize(tuning, box, smoothing, NET_GRADIENTS[0])
                for box in BOXES
                for smoothing in SMOOTHING_PX
            }
            choice = tune(simulation, tried, tuning.truth)

            def chosen(part: Scene, method: FitMethod = method, choice: Choice = choice) -> EmitterTable:
                return method.chosen(part, choice)

            row = figures(simulation, chosen(scene), scene)
            row |= {"frames_per_s": frames_per_s(chosen, scene), "choice": asdict(choice)}
            if math.isinf(choice.misfit):
                row["choice"]["misfit"] = None
            rows[method_name] = row
            print(name, method_name, row, flush=True)
        results["movies"][name] = {
            "density_per_um2": density,
            "num_frames": arguments.num_frames,
            "tuning_frames": num_tuning,
            "methods": rows,
        }
        write_text(RESULTS, json.dumps(results, indent=2) + "\n")
    plot(results, PICTURE)
    print(markdown(results))


if __name__ == "__main__":
    main()
