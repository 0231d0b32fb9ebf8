"""How near to the Cramer-Rao bound are isolated emitters localized, and are the predicted uncertainties right?

    python benchmarks/isolated_emitters.py --work WORK

Trains benchmarks/config_isolated.json in --work unless it has finished (30 minutes on 2 cores), and localizes emitters
that it draws itself: one in each frame, of 1,000 to 10,000 photons, at any depth within 800 nm of the focus. A
maximum-likelihood fit with the true PSF, told in which pixel each emitter lies, has the same frames. Writes
benchmarks/results/isolated_emitters.json and docs/images/isolated_emitters.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mean_pupil import MeanPupil
from real_movies import trained_model
from rich.console import Console

from adaloc.config import SimulationConfig
from adaloc.data.generate import field_map_of
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.evaluation.matching import match
from adaloc.localize.inference import localize_frames
from adaloc.models.model_file import load_model
from adaloc.random_streams import Stream, numpy_stream, torch_stream
from adaloc.simulation.camera import expose
from adaloc.simulation.crlb import covariance, single_emitter_information
from adaloc.simulation.frames import draw_emitters
from adaloc.simulation.mle import fit_emitters

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "isolated_emitters.json"
PICTURE = HERE.parent / "docs" / "images" / "isolated_emitters.png"
PHOTONS = (1000, 1500, 2500, 4000, 6500, 10000)
Z_NM = (-800.0, 800.0)  # the training reaches 50 nm further, so that the ends are not the ends of what it knows
SEED = 1_000_003  # not that of any training data


@dataclass(frozen=True)
class Scene:
    """One emitter in each frame, all of the same photons."""

    frames_THW: Any
    truth: EmitterTable
    sigma_N3: FloatArray  # bounds of x, y (px) and z (nm)


def simulate_scene(simulation: SimulationConfig, psf: MeanPupil, photons: float, num: int, index: int) -> Scene:
    """Emitters in the middle half of the field, on the mean background."""
    rng, size = numpy_stream(SEED, Stream.EMITTERS, index=index), simulation.image_size_px
    truth = EmitterTable(
        frame=np.arange(num),
        x=rng.uniform(0.25 * size, 0.75 * size, num),
        y=rng.uniform(0.25 * size, 0.75 * size, num),
        z=rng.uniform(*Z_NM, num),
        photons=np.full(num, float(photons)),
    )
    background = simulation.background.mean_photons
    light = draw_emitters(psf, truth, None, None, (num, size, size), torch.device("cpu")) + background
    adu = expose(light, simulation.camera, torch_stream(SEED, Stream.CAMERA, index=index))
    information = single_emitter_information(
        psf, simulation.camera, truth.x - np.rint(truth.x), truth.y - np.rint(truth.y), truth.z, truth.photons,
        np.full(num, background),
    )  # fmt: skip
    sigma = np.sqrt(np.diagonal(covariance(information), axis1=1, axis2=2))[:, :3]
    return Scene(adu.numpy().astype(np.uint16), truth, sigma)


def fit(simulation: SimulationConfig, psf: MeanPupil, scene: Scene) -> EmitterTable:
    """Maximum-likelihood fits of the regions around the true pixels: what is told is the pixel, and no more."""
    half = psf.roi_size_px // 2
    row, column = (np.rint(v).astype(int) for v in (scene.truth.y, scene.truth.x))
    padded = np.pad(scene.frames_THW, ((0, 0), (half, half), (half, half)), mode="reflect")
    regions = np.stack([
        padded[i, r : r + psf.roi_size_px, c : c + psf.roi_size_px]
        for i, (r, c) in enumerate(zip(row, column, strict=True))
    ])  # fmt: skip
    low, high = Z_NM
    fits = fit_emitters(regions, psf, simulation.camera, (0.6 * low, 0.0, 0.6 * high), (low - 200, high + 200))
    x, y, z, photons, background = fits.parameters_NP.T
    sigma = fits.sigma_NP.T
    table = EmitterTable(
        frame=scene.truth.frame, x=column + x, y=row + y, z=z, photons=photons, background=background,
        x_sigma=sigma[0], y_sigma=sigma[1], z_sigma=sigma[2],
    )  # fmt: skip
    return table.select(fits.converged_N)


def compare(simulation: SimulationConfig, scene: Scene, found: EmitterTable, seconds: float) -> dict[str, Any]:
    """RMSE over the bound of what was found, and the spread of errors over predicted uncertainties."""
    pixel = simulation.optics.pixel_size_nm
    pairs = match(found, scene.truth, pixel_size_nm=pixel)
    got, truth, bound = found.select(pairs.localization), scene.truth.select(pairs.truth), scene.sigma_N3[pairs.truth]
    scale = np.array([pixel.x, pixel.y, 1.0])
    error = np.stack([got.x - truth.x, got.y - truth.y, got.z - truth.z], axis=1) * scale
    bound_nm = bound * scale

    def over_bound(axes: list[int]) -> float:
        return math.sqrt(float((error[:, axes] ** 2).mean() / (bound_nm[:, axes] ** 2).mean()))

    result: dict[str, Any] = {
        "recall": len(pairs) / len(scene.truth),
        "false_positives": len(found) - len(pairs),
        "rmse_lateral_nm": math.sqrt(float((error[:, :2] ** 2).sum(1).mean())),
        "crlb_lateral_nm": math.sqrt(float((bound_nm[:, :2] ** 2).sum(1).mean())),
        "rmse_axial_nm": math.sqrt(float((error[:, 2] ** 2).mean())),
        "crlb_axial_nm": math.sqrt(float((bound_nm[:, 2] ** 2).mean())),
        "lateral_over_crlb": over_bound([0, 1]),
        "axial_over_crlb": over_bound([2]),
        # Of each emitter by its own bound: no depth and no outlier counts more than another.
        "median_lateral_over_crlb": float(np.median(np.abs(error[:, :2]) / bound_nm[:, :2]) / 0.6745),
        "median_axial_over_crlb": float(np.median(np.abs(error[:, 2]) / bound_nm[:, 2]) / 0.6745),
        "seconds": seconds,
    }
    if got.x_sigma is not None and got.y_sigma is not None and got.z_sigma is not None:
        sigma = np.stack([got.x_sigma, got.y_sigma, got.z_sigma], axis=1) * scale
        for axis, name in enumerate("xyz"):
            spread = error[:, axis] / sigma[:, axis]
            result[f"error_over_sigma_{name}"] = float(spread.std())
            result[f"within_one_sigma_{name}"] = float((np.abs(spread) < 1).mean())
    return result


def by_depth(simulation: SimulationConfig, scene: Scene, found: EmitterTable) -> list[dict[str, float]]:
    """RMSE and bound in bins of 100 nm."""
    pixel = simulation.optics.pixel_size_nm
    pairs = match(found, scene.truth, pixel_size_nm=pixel)
    got, truth, bound = found.select(pairs.localization), scene.truth.select(pairs.truth), scene.sigma_N3[pairs.truth]
    lateral_sq = ((got.x - truth.x) * pixel.x) ** 2 + ((got.y - truth.y) * pixel.y) ** 2
    bound_sq = (bound[:, 0] * pixel.x) ** 2 + (bound[:, 1] * pixel.y) ** 2
    edges = np.arange(Z_NM[0], Z_NM[1] + 1, 100.0)
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (truth.z >= low) & (truth.z < high)
        columns = {
            "rmse_lateral_nm": lateral_sq, "crlb_lateral_nm": bound_sq,
            "rmse_axial_nm": (got.z - truth.z) ** 2, "crlb_axial_nm": bound[:, 2] ** 2,
        }  # fmt: skip
        values = {name: math.sqrt(float(column[inside].mean())) for name, column in columns.items()}
        rows.append({"z_nm": (low + high) / 2, **values})
    return rows


def plot(results: dict[str, Any], path: Path) -> None:
    """RMSE over the bound against photons, and against depth at 4,000 photons."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    photons = [row["photons"] for row in results["photons"]]
    for method, colour in (("network", "tab:blue"), ("fit", "tab:orange")):
        for axis, style in (("lateral", "o-"), ("axial", "s--")):
            values = [row[method][f"{axis}_over_crlb"] for row in results["photons"]]
            left.plot(photons, values, style, color=colour, label=f"{method}, {axis}", markersize=4)
    left.axhline(1, color="0.4", linewidth=0.8)
    left.set(xscale="log", xlabel="photons", ylabel="RMSE / CRLB", title="How near to the bound?", ylim=(0.95, 1.55))
    left.set_xticks(photons, [f"{p:,}" for p in photons])
    left.minorticks_off()
    left.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
    depth = results["depth_at_4000_photons"]
    z = [row["z_nm"] for row in depth]
    for axis, colour in (("lateral", "tab:blue"), ("axial", "tab:green")):
        right.plot(z, [row[f"rmse_{axis}_nm"] for row in depth], "o-", color=colour, markersize=4, label=f"{axis} RMSE")
        right.plot(z, [row[f"crlb_{axis}_nm"] for row in depth], color=colour, linewidth=0.9, label=f"{axis} CRLB")
    right.set(xlabel="z (nm)", ylabel="nm", title="At which depth? (network, 4,000 photons)", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Trains, localizes, fits, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--num", type=int, default=4000, help="emitters of each brightness")
    parser.add_argument("--num-fits", type=int, default=1000, help="of them, those that are fitted too")
    arguments = parser.parse_args()
    console = Console()
    path, summary = trained_model("isolated", arguments.work, console)
    model = load_model(path)
    field_map = field_map_of(model.config)
    assert field_map is not None
    simulation = model.config.simulation
    psf = MeanPupil(simulation, field_map)
    model.network.eval()
    rows: list[dict[str, Any]] = []
    depth: list[dict[str, float]] = []
    for index, photons in enumerate(PHOTONS):
        scene = simulate_scene(simulation, psf, photons, arguments.num, index)
        begin = time.perf_counter()
        found = localize_frames(model, scene.frames_THW)
        network = compare(simulation, scene, found, time.perf_counter() - begin)
        num = min(arguments.num_fits, arguments.num)
        part = Scene(scene.frames_THW[:num], scene.truth.slice(0, num), scene.sigma_N3[:num])
        begin = time.perf_counter()
        fitted = fit(simulation, psf, part)
        rows.append({
            "photons": photons, "network": network,
            "fit": compare(simulation, part, fitted, time.perf_counter() - begin),
        })  # fmt: skip
        console.print_json(json.dumps(rows[-1]))
        if photons == 4000:
            depth = by_depth(simulation, scene, found)
    results = {
        "command": f"python benchmarks/isolated_emitters.py --work WORK --num {arguments.num}",
        "training": {key: summary[key] for key in ("epochs", "wall_s", "device", "val_loss", "metrics")},
        "photons": rows,
        "depth_at_4000_photons": depth,
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot(results, PICTURE)


if __name__ == "__main__":
    main()
