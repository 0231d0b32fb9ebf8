"""Grouping, drift and Fourier ring correlation on simulated blinking molecules whose identities are known.

    python benchmarks/grouping.py

Grouping is compared with what scikit-learn has, where it is installed (`pip install -e .[bench]`); its methods get
positions in units of the mean uncertainty, and of the parameters tried the one with the best score on the very data.
Writes benchmarks/results/grouping.json. Takes a minute or two of one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.files import write_text
from adaloc.localize.drift import estimate_drift
from adaloc.localize.frc import fourier_ring_correlation
from adaloc.localize.grouping import group
from adaloc.localize.mixture import split_in_two

PIXEL = PixelSize(x=100, y=100)
SIGMA_NM = np.array([10.0, 10.0, 25.0])  # of a localization of 2000 photons
NUM_MOLECULES = 300
SIDES_NM = (8000, 2000, 1000, 700, 400)  # of the square that holds them
MEAN_COUNT = 20
DEPTH_NM = 800.0


def blinking_molecules(side_nm: float, seed: int) -> tuple[EmitterTable, FloatArray]:
    """Molecules at random places, localized a geometrically distributed number of times with varying photons."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 1, (NUM_MOLECULES, 3)) * [side_nm, side_nm, DEPTH_NM]
    molecule = np.repeat(np.arange(NUM_MOLECULES), rng.geometric(1 / MEAN_COUNT, NUM_MOLECULES))
    photons = rng.lognormal(math.log(2000), 0.5, len(molecule))
    sigma = np.sqrt(2000 / photons)[:, None] * SIGMA_NM
    point = place[molecule] + rng.normal(size=sigma.shape) * sigma
    table = EmitterTable(
        rng.integers(0, 5000, len(molecule)), point[:, 0] / PIXEL.x, point[:, 1] / PIXEL.y, point[:, 2], photons,
        x_sigma=sigma[:, 0] / PIXEL.x, y_sigma=sigma[:, 1] / PIXEL.y, z_sigma=sigma[:, 2], emitter_id=molecule,
    )  # fmt: skip
    return table, place


def grouping(use_z: bool, side_nm: float, seed: int) -> dict[str, Any]:
    """One case: how dense it is, and the figures of every method."""
    table, place = blinking_molecules(side_nm, seed)
    axes = 3 if use_z else 2
    neighbour = cKDTree(place[:, :axes] / SIGMA_NM[:axes]).query(place[:, :axes] / SIGMA_NM[:axes], k=2)[0][:, 1]
    points = np.column_stack([table.x * PIXEL.x, table.y * PIXEL.y, table.z])[:, :axes]
    sigmas = np.column_stack([table.x_sigma * PIXEL.x, table.y_sigma * PIXEL.y, table.z_sigma])[:, :axes]
    methods: dict[str, Any] = {}
    begin = time.process_time()
    labels = group(table, pixel_size_nm=PIXEL, use_z=use_z).member_of
    methods["adaloc"] = {
        **figures(labels, table.emitter_id, points, sigmas, place[:, :axes]),
        "seconds": time.process_time() - begin,
    }
    for name, run in rivals(points / sigmas.mean(axis=0)):
        begin = time.process_time()
        best = max(
            (figures(labels, table.emitter_id, points, sigmas, place[:, :axes]) for labels in run()),
            key=lambda f: f["adjusted_rand_index"],
        )
        methods[name] = {**best, "seconds": time.process_time() - begin}
    return {
        "dimensions": axes,
        "side_nm": side_nm,
        "median_neighbour_in_sigma": float(np.median(neighbour)),
        "num_molecules": NUM_MOLECULES,
        "num_localizations": len(table),
        "methods": methods,
    }


def wrong_uncertainties(factor: float, side_nm: float, seed: int) -> dict[str, float]:
    """What grouping makes of it when every stated uncertainty is the true one times a factor."""
    table, place = blinking_molecules(side_nm, seed)
    x, y, z = table.x_sigma, table.y_sigma, table.z_sigma
    assert x is not None and y is not None and z is not None
    stated = table.with_columns(x_sigma=factor * x, y_sigma=factor * y, z_sigma=factor * z)
    labels = group(stated, pixel_size_nm=PIXEL).member_of
    points = np.column_stack([table.x * PIXEL.x, table.y * PIXEL.y, table.z])
    sigmas = np.column_stack([x * PIXEL.x, y * PIXEL.y, z])
    return {"factor": factor, "side_nm": side_nm, **figures(labels, table.emitter_id, points, sigmas, place)}


def rivals(scaled: FloatArray) -> Iterator[tuple[str, Callable[[], Iterator[IntArray]]]]:
    """scikit-learn's methods, each over a few of its parameters; noise points become molecules of their own."""
    if importlib.util.find_spec("sklearn") is None:
        return
    from sklearn.cluster import DBSCAN, HDBSCAN, MeanShift

    def dbscan() -> Iterator[IntArray]:
        for reach in (0.75, 1.0, 1.5, 2.0, 3.0):
            yield alone(DBSCAN(eps=reach, min_samples=3).fit_predict(scaled))

    def hdbscan() -> Iterator[IntArray]:
        for least in (3, 6, 12):
            yield alone(HDBSCAN(min_cluster_size=least, copy=True).fit_predict(scaled))

    def mean_shift() -> Iterator[IntArray]:
        for width in (1.5, 2.5):
            yield alone(MeanShift(bandwidth=width, bin_seeding=True, max_iter=100).fit_predict(scaled))

    yield "DBSCAN", dbscan
    yield "HDBSCAN", hdbscan
    yield "mean shift", mean_shift


def alone(labels: IntArray) -> IntArray:
    """Gives every localization that is called noise a label of its own."""
    labels = np.asarray(labels, np.int64).copy()
    noise = np.flatnonzero(labels < 0)
    labels[noise] = labels.max(initial=-1) + 1 + np.arange(len(noise))
    return labels


def figures(
    labels: IntArray, identity: Any, points: FloatArray, sigmas: FloatArray, place: FloatArray
) -> dict[str, float]:
    """Number of groups, agreement with the identities, and errors of the positions against those expected."""
    labels = np.unique(labels, return_inverse=True)[1]
    weight = 1 / sigmas**2
    mass = np.stack([np.bincount(labels, w) for w in weight.T], axis=1)
    centre = np.stack([np.bincount(labels, w * p) for w, p in zip(weight.T, points.T, strict=True)], axis=1) / mass
    ideal = np.stack([np.bincount(identity, w, len(place)) for w in weight.T], axis=1)
    # Each molecule with the group that fits best, at most one; those without one within 5 sigma are missed.
    distance = cdist(place / SIGMA_NM[: place.shape[1]], centre / SIGMA_NM[: place.shape[1]])
    rows, columns = linear_sum_assignment(np.minimum(distance, 5.0))
    near = distance[rows, columns] < 5.0
    error = place[rows[near]] - centre[columns[near]]
    return {
        "num_groups": len(centre),
        "count_error_percent": 100 * (len(centre) / len(place) - 1),
        "adjusted_rand_index": adjusted_rand_index(labels, identity),
        "molecules_with_a_group_percent": 100 * float(near.sum()) / len(place),
        "rms_lateral_error_nm": float(np.sqrt((error[:, :2] ** 2).sum(axis=1).mean())),
        "expected_lateral_error_nm": float(np.sqrt((1 / ideal[rows[near], :2]).sum(axis=1).mean())),
    }


def adjusted_rand_index(first: IntArray, second: IntArray) -> float:
    """Agreement of two partitions: 1 is the same, 0 what chance gives (Hubert and Arabie, 1985)."""
    joint = np.unique(first.astype(np.int64) * (int(second.max()) + 1) + second, return_counts=True)[1]

    def pairs(counts: IntArray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, a, b = pairs(joint), pairs(np.bincount(first)), pairs(np.bincount(second))
    expected = a * b / (len(first) * (len(first) - 1) / 2)
    return (both - expected) / ((a + b) / 2 - expected)


def gains_of_one_molecule(num_axes: int, num: int, trials: int = 1000) -> float:
    """Gain of a second molecule that 1 % of clouds of one molecule exceed: what `mixture` demands in small clouds."""
    rng = np.random.default_rng(num)
    gains = []
    for _ in range(trials):
        sigmas = np.ones((num, num_axes)) * rng.lognormal(0, 0.25, (num, 1))
        points = rng.normal(size=(num, num_axes)) * sigmas
        centred = points - points.mean(axis=0)
        _, stretch, directions = np.linalg.svd(centred.T @ centred / num)
        step = math.sqrt(2 / math.pi * stretch[0]) * directions[0]
        gains.append(split_in_two(points, sigmas, points.mean(axis=0) - step, points.mean(axis=0) + step).gain)
    return float(np.quantile(gains, 0.99))


def filaments(num: int, rng: np.random.Generator) -> FloatArray:
    """Points on 30 filaments in 10 x 10 um, nm."""
    start, angle, depth = rng.uniform(0, 10_000, (30, 2)), rng.uniform(0, math.pi, 30), rng.uniform(-300, 300, 30)
    which, along = rng.integers(0, 30, num), rng.uniform(-5000, 5000, num)
    return np.column_stack(
        [start[which] + along[:, None] * np.stack([np.cos(angle[which]), np.sin(angle[which])], axis=1),
         depth[which] + 0.03 * along]
    )  # fmt: skip


def drift(num: int, seed: int) -> dict[str, Any]:
    """A smooth drift of 150, 90 and 60 nm over 5000 frames, recovered from `num` localizations."""
    rng = np.random.default_rng(seed)
    num_frames = 5000
    u = np.arange(num_frames) / num_frames
    truth = np.stack([150 * u + 20 * np.sin(5 * u), -90 * u**2, 60 * np.sin(3 * u)], axis=1)
    truth -= truth.mean(axis=0)
    frame = rng.integers(0, num_frames, num)
    point = filaments(num, rng) + truth[frame] + rng.normal(size=(num, 3)) * [15, 15, 35]
    table = EmitterTable(frame, point[:, 0] / PIXEL.x, point[:, 1] / PIXEL.y, point[:, 2], np.ones(num))
    begin = time.process_time()
    found = estimate_drift(table, pixel_size_nm=PIXEL, num_frames=num_frames)
    seconds = time.process_time() - begin
    miss = found.shift_F3 - truth
    return {
        "num_localizations": num,
        "num_blocks": 10,
        "rmse_nm": np.sqrt((miss**2).mean(axis=0)).tolist(),
        "largest_error_nm": np.abs(miss).max(axis=0).tolist(),
        "stated_error_nm": found.error_nm_3.tolist(),
        "seconds": seconds,
    }


def frc(sigma_nm: float, repeats: int) -> dict[str, float]:
    """Random points, each localized `repeats` times in either half, against n g/(1 + (n-1) g)."""
    rng = np.random.default_rng(0)
    point = np.repeat(rng.uniform(0, 6000, (60_000 // repeats, 2)), 2 * repeats, axis=0)
    point = point + rng.normal(0, sigma_nm, point.shape)
    half = np.tile(np.arange(2 * repeats) % 2, len(point) // (2 * repeats))
    table = EmitterTable(half, point[:, 0] / PIXEL.x, point[:, 1] / PIXEL.y, np.zeros(len(half)), np.ones(len(half)))
    curve = fourier_ring_correlation(table, pixel_size_nm=PIXEL, render_pixel_nm=4.0, num_blocks=2)
    g = np.exp(-4 * math.pi**2 * sigma_nm**2 * curve.frequency_per_nm**2)
    expected = repeats * g / (1 + (repeats - 1) * g)
    return {
        "sigma_nm": sigma_nm,
        "localizations_per_half": repeats,
        "resolution_nm": curve.resolution_nm or math.nan,
        "analytic_resolution_nm": 2 * math.pi * sigma_nm / math.sqrt(math.log(6 * repeats + 1)),
        "rms_deviation_of_curve": float(np.sqrt(np.mean((curve.smoothed - expected) ** 2))),
    }


def main() -> None:
    """Runs everything, prints a table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "grouping.json")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    cases = [grouping(use_z, side, arguments.seed) for use_z in (True, False) for side in SIDES_NM]
    for case in cases:
        print(f"{case['dimensions']}D, neighbours at {case['median_neighbour_in_sigma']:.1f} sigma")
        for name, f in case["methods"].items():
            error, expected = f["rms_lateral_error_nm"], f["expected_lateral_error_nm"]
            print(
                f"  {name:<11} {f['num_groups']:>4} of {NUM_MOLECULES}, ARI {f['adjusted_rand_index']:.3f}, "
                f"error {error:.1f} (expected {expected:.1f}) nm, {f['seconds']:.1f} s"
            )
    results = {
        "command": "python benchmarks/grouping.py",
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one process",
        "seed": arguments.seed,
        "sigma_nm": SIGMA_NM.tolist(),
        "mean_localizations_per_molecule": MEAN_COUNT,
        "grouping": cases,
        "grouping_with_wrong_uncertainties": [
            wrong_uncertainties(factor, side, arguments.seed)
            for side in SIDES_NM[:3]
            for factor in (0.7, 0.85, 1.2, 1.5)
        ],
        "gain_exceeded_by_1_percent_of_single_molecules": {
            f"{axes}D, {num} localizations": gains_of_one_molecule(axes, num) for axes in (2, 3) for num in (3, 10, 30)
        },
        "drift": [drift(num, arguments.seed) for num in (5000, 20_000, 100_000)],
        "frc": [frc(sigma, repeats) for sigma in (10.0, 20.0) for repeats in (1, 5)],
    }
    for name in ("grouping_with_wrong_uncertainties", "drift", "frc"):
        for row in results[name]:
            print(name, json.dumps(row))
    write_text(arguments.out, json.dumps(results, indent=2) + "\n")
    print(f"  {arguments.out}")


if __name__ == "__main__":
    main()
