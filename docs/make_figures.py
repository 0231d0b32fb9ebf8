"""Draws the figures of docs/how_it_works.md and docs/speed.md into docs/images: python docs/make_figures.py [NAME...].

Each answers the question that its caption asks, by the program's own code or by benchmarks/results. They are the same
whenever they are drawn with the same versions (constraints.txt).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from adaloc.config import CHANNELS, AdaptiveLRConfig, Config, PupilPSFConfig
from adaloc.config_file import load_config
from adaloc.figure_file import write_figure
from adaloc.simulation.crlb import (
    Window,
    covariance,
    covariance_with_prior,
    joint_information,
    single_emitter_information,
)
from adaloc.simulation.psf import make_psf
from adaloc.simulation.pupil import clear_magnitudes
from adaloc.simulation.zernike import NUM_MODES
from adaloc.training.adapter import AdaptivePlateauLR
from adaloc.training.trend import Trend, TrendTest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "images"
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#2a6f97", "#d1730f", "#3a7d44", "#b23a48", "#7a7a7a"
_CHANNEL_COLORS = ("#2a6f97", "#61a5c2", "#a9d6e5", "#3a7d44", "#d1a00f", "#a0a0a0")
_VERDICT_COLORS = {"falling": _GREEN, "stalled": _ORANGE, "diverging": _RED, "undecided": _GREY}
_FIELD_PX = 33
_AS_PNG = ("scale",)
_SCALE_STAGES = {
    "simulate": "simulation, a frame",
    "train": "training, a target",
    "localize": "localization, a frame",
    "start": "start of a training, all of it",
}
_LINEAR = "in proportion to pixels and emitters"


def channels() -> Figure:
    """Weighted loss of each channel: knowing nothing, a trained network, the floor."""
    trained = _result("main_job")["seeds"][0]["val_channels"]
    floor = _result("floor")["channels"]
    weights = _config().training.unified_loss_config.channel_weights
    bars = {
        "knowing nothing": [1.0] * 6,
        "trained, 1,000 epochs": [trained[name] for name in CHANNELS],
        "physical floor": floor,
    }
    figure, axis = _figure(1, 7.2, 2.3)
    for row, losses in enumerate(bars.values()):
        left = 0.0
        for name, color, weight, loss in zip(CHANNELS, _CHANNEL_COLORS, weights, losses, strict=True):
            axis.barh(row, weight * loss, left=left, color=color, height=0.62, label=name if row == 0 else None)
            left += weight * loss
        axis.text(left + 0.06, row, f"{left:.2f}", va="center", fontsize=10)
    axis.set_yticks(range(3), list(bars))
    axis.invert_yaxis()
    axis.set_xlim(0, 6)
    axis.set_xlabel("loss (each channel in units of its best constant, times its weight)")
    axis.legend(ncols=6, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.42, 1.0), columnspacing=1.0)
    return figure


def bound_of_one() -> Figure:
    """CRLB of one emitter against its photons, and against its depth."""
    config = _config()
    photons = np.geomspace(250, 50_000, 40)
    depth = np.linspace(-800, 800, 81)
    figure, (left, right) = _figure(2, 8.4, 3.1)
    for z, style in ((0.0, "-"), (600.0, "--")):
        sigma = _sigma_of_one(config, photons, np.full_like(photons, z))
        left.loglog(photons, sigma[:, 0], style, color=_BLUE, label=f"x, z = {z:.0f} nm")
        left.loglog(photons, sigma[:, 2], style, color=_ORANGE, label=f"z, z = {z:.0f} nm")
    left.loglog(photons, 700 / np.sqrt(photons), ":", color=_GREY, label="slope of photons$^{-1/2}$")
    left.set_xlabel("photons in the frame")
    left.set_ylabel("least standard error (nm)")
    left.legend(fontsize=8, frameon=False)
    sigma = _sigma_of_one(config, np.full_like(depth, 7000.0), depth)
    for axis_name, column, color in (("x", 0, _BLUE), ("y", 1, _GREEN), ("z", 2, _ORANGE)):
        right.plot(depth, sigma[:, column], color=color, label=axis_name)
    right.set_ylim(0)
    right.set_xlabel("z (nm), 7,000 photons")
    right.set_ylabel("least standard error (nm)")
    right.legend(fontsize=8, frameon=False)
    return figure


def bound_of_two() -> Figure:
    """Joint CRLB of an emitter whose neighbour stands at a distance, with and without a prior."""
    config = _config()
    size = config.simulation.optics.pixel_size_nm.x
    distances = np.geomspace(30, 2000, 40)
    prior = np.array([1 / np.sqrt(12), 1 / np.sqrt(12), 460.0] * 2 + [3000.0] * 2 + [10.0])  # px, px, nm; photons
    free, known = [], []
    for distance in distances:
        window = _pair(config, distance / size)
        information = joint_information(make_psf(config.simulation.psf, config.simulation.optics),
                                        config.simulation.camera, window)  # fmt: skip
        index = int(information.position_M3[0, 0])
        free.append(size * np.sqrt(covariance(information.matrix_PP)[index, index]))
        known.append(size * np.sqrt(covariance_with_prior(information.matrix_PP, prior)[index, index]))
    alone = _sigma_of_one(config, np.array([7000.0]), np.array([0.0]))[0, 0]
    figure, axis = _figure(1, 6.0, 3.1)
    axis.loglog(distances, free, color=_RED, label="nothing known beforehand")
    axis.loglog(distances, known, color=_BLUE, label="the pixel is known (the floor's form)")
    axis.axhline(alone, color=_GREY, ls=":", label="alone")
    axis.axhline(size / np.sqrt(12), color=_GREY, ls="--", label="the pixel and nothing else")
    axis.set_ylim(alone / 1.8, 20 * alone * 4)
    axis.set_xlabel("distance to the neighbour along x (nm)")
    axis.set_ylabel("least standard error of x (nm)")
    axis.legend(fontsize=8, frameon=False)
    return figure


def controller() -> Figure:
    """The controller in somebody's own loop: it starts a thousand times too low, searches, works, and anneals."""
    losses, rates, found = _own_loop(num_steps=1200)
    figure, (top, bottom) = _figure((2, 1), 7.2, 4.2)
    steps = np.arange(1, len(losses) + 1)
    top.semilogy(steps, losses, color=_BLUE, lw=0.4, alpha=0.5)
    smooth = np.exp(np.convolve(np.log(losses), np.ones(25) / 25, mode="valid"))
    top.semilogy(steps[12:-12], smooth, color=_BLUE, lw=1.6)
    top.set_ylabel("loss of a step")
    bottom.semilogy(steps, rates, color=_ORANGE, lw=1.4)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    for step, action in found:
        for axis in (top, bottom):
            axis.axvline(step, color=_GREY, lw=0.8, ls=":")
        words = {"found": "found: back to the copy\nfrom this rate", "anneal": "anneal"}.get(action, action)
        top.annotate(words, (step, 0.97), xycoords=("data", "axes fraction"), xytext=(4, 0), fontsize=8, va="top",
                     textcoords="offset points")  # fmt: skip
    bottom.annotate("search", (0, 0.05), xycoords=("data", "axes fraction"), xytext=(22, 2), fontsize=8,
                    textcoords="offset points")  # fmt: skip
    return figure


def stall_test() -> Figure:
    """Three series of losses, and what each look of the stall test says of them."""
    steps = np.arange(5000)
    noise = [0.25 * np.random.default_rng(seed).standard_normal(len(steps)) for seed in (1, 0, 2)]
    series = {
        "falls, slowly": 3 - 0.8 * steps / 3000 + noise[0],
        "has stalled": np.where(steps < 150, 4 - steps / 150, 3.0) + noise[1],
        "diverges": 3 + 0.9 * steps / 3000 + noise[2],
    }
    figure, axes = _figure((2, 3), 8.6, 4.4)
    for column, (name, losses) in enumerate(series.items()):
        top, bottom = axes[0][column], axes[1][column]
        top.plot(steps, losses, ",", color=_BLUE, alpha=0.6, rasterized=True)
        top.set_title(name, fontsize=10)
        for step, look in _looks(losses):
            color = _VERDICT_COLORS[look.verdict]
            middle = look.improvement
            bottom.errorbar(step, middle, [[middle - look.lower], [look.upper - middle]], fmt="o", ms=4, color=color,
                            capsize=3, lw=1.5)  # fmt: skip
            bottom.fill_between([step / 1.17, step * 1.17], -look.delta, look.delta, color=_GREY, alpha=0.2, lw=0)
        bottom.axhline(0, color="black", lw=0.6)
        bottom.set_xscale("log")
        bottom.set_xlim(25, 5500)
        bottom.set_ylim(-1.3, 1.3)
        bottom.set_xlabel("steps since the last change")
    axes[0][0].set_ylabel("loss")
    axes[1][0].set_ylabel("fall of the loss\nin the window")
    handles = [mpl.lines.Line2D([], [], color=color, marker="o", ms=4, lw=1.5, label=verdict)
               for verdict, color in _VERDICT_COLORS.items()]  # fmt: skip
    handles.append(mpl.patches.Patch(color=_GREY, alpha=0.2, label="too small to matter"))
    figure.legend(handles=handles, ncols=5, fontsize=8, frameon=False, loc="outside lower center")
    return figure


def scale() -> Figure:
    """Time and memory of each stage against the size of a frame, and against the density of emitters."""
    results = _result("scale")
    figure, axes = _figure(4, 12.6, 3.5)
    for axis, (against, value) in zip(
        axes, [(a, v) for a in ("size", "density") for v in ("seconds", "megabytes")], strict=True
    ):
        for (stage, label), color in zip(_SCALE_STAGES.items(), (_BLUE, _RED, _ORANGE, _GREEN), strict=True):
            points = results["stages"][stage][against]
            x = [point["size_px" if against == "size" else "density_per_um2"] for point in points]
            y = [point[value] / (point.get("batch", 1) if value == "megabytes" else 1) for point in points]
            axis.loglog(x, y, "o-", color=color, ms=3.5, lw=1.3, label=label)
        _linear_line(axis, results["stages"]["simulate"][against], against)
        axis.set_ylabel({"seconds": "processor time (s)", "megabytes": "peak memory (MB)"}[value])
        if against == "size":
            axis.set_xlabel(f"side of a frame (px), {points[0]['density_per_um2']:g} emitters per µm$^2$")
            axis.set_xticks(x := [64, 128, 256, 512, 1024, 2048], [f"{size}" for size in x], fontsize=8)
        else:
            axis.set_xlabel(f"emitters per µm$^2$, {results['density_size_px']} px")
            axis.set_xticks([0.1, 0.3, 1, 2, 5], ["0.1", "0.3", "1", "2", "5"])
        axis.minorticks_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, fontsize=8, frameon=False, loc="outside lower center")
    return figure


def _linear_line(axis: Any, points: list[dict[str, Any]], against: str) -> None:
    """In proportion to pixels plus emitters, through the middle of the axis."""
    units = np.array([point["units"] for point in points])
    x = [point["size_px" if against == "size" else "density_per_um2"] for point in points]
    low, high = axis.get_ylim()
    axis.loglog(x, units * np.sqrt(low * high / (units[0] * units[-1])), ":", color=_GREY, label=_LINEAR)
    axis.set_ylim(low, high)


FIGURES: dict[str, Callable[[], Figure]] = {
    "how_channels": channels,
    "how_bound_of_one": bound_of_one,
    "how_bound_of_two": bound_of_two,
    "how_controller": controller,
    "how_stall_test": stall_test,
    "scale": scale,
}


def write(name: str) -> Path:
    """Draws a figure into the folder of images; the file depends on nothing but the figure."""
    mpl.rcParams.update({"svg.hashsalt": name, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
    if name in _AS_PNG:
        path = FOLDER / f"{name}.png"
        write_figure(FIGURES[name](), path, dpi=130)
        return path
    path = FOLDER / f"{name}.svg"
    FIGURES[name]().savefig(path, metadata={"Date": None}, facecolor="white", dpi=200)
    return path


def _figure(layout: int | tuple[int, int], width: float, height: float) -> tuple[Figure, Any]:
    """A figure in inches with its axes: a number for a row of them, or (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    rows, columns = (1, layout) if isinstance(layout, int) else layout
    return figure, figure.subplots(rows, columns, sharex=columns == 1)


def _config() -> Config:
    return load_config(ROOT / "training" / "configs" / "train_config_adaptive.json")


def _result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def _sigma_of_one(config: Config, photons: np.ndarray[Any, Any], z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(N, 3) least standard errors of x, y, z in nm of emitters that stand alone."""
    simulation, zero = config.simulation, np.zeros_like(photons)
    background = np.full_like(photons, simulation.background.mean_photons)
    psf = make_psf(simulation.psf, simulation.optics)
    phase, magnitude = _astigmatism(config, len(photons))
    information = single_emitter_information(
        psf, simulation.camera, zero, zero, z, photons, background, phase, magnitude
    )
    size = simulation.optics.pixel_size_nm
    sigma = np.sqrt(np.diagonal(covariance(information), axis1=1, axis2=2)[:, :3])
    return np.asarray(sigma * np.array([size.x, size.y, 1.0]))


def _astigmatism(config: Config, count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Zernike phases and magnitudes of emitters with the config's astigmatism and no other aberration."""
    psf = config.simulation.psf
    assert isinstance(psf, PupilPSFConfig)
    phase = np.zeros((count, NUM_MODES))
    phase[:, 5] = 2 * np.pi * psf.astigmatism_nm_rms / config.simulation.optics.wavelength_nm  # Noll 6
    return phase, clear_magnitudes(count)


def _pair(config: Config, distance_px: float) -> Window:
    """Two emitters of 7,000 photons in focus, at a distance along x around the middle of a field."""
    middle = (_FIELD_PX - 1) / 2
    phase, magnitude = _astigmatism(config, 2)
    return Window(
        x_M=middle + distance_px * np.array([-0.5, 0.5]), y_M=np.full(2, middle), z_M=np.array([0.0, 0.0]),
        photons_MT=np.full((2, 1), 7000.0), background_T=np.array([config.simulation.background.mean_photons]),
        size_px=(_FIELD_PX, _FIELD_PX), phase_MK=phase, magnitude_MK=magnitude,
    )  # fmt: skip


def _looks(losses: np.ndarray[Any, Any]) -> list[tuple[int, Trend]]:
    """Steps with what the test says there, up to its first verdict of a stall or a divergence."""
    test, found = TrendTest(), []
    for step, loss in enumerate(losses, start=1):
        look = test.observe(float(loss))
        if look is not None:
            found.append((step, look))
    return found


def _own_loop(num_steps: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], list[tuple[int, str]]]:
    """Losses, rates and decisions of a small regression that is given a rate of 1e-5."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    teacher = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).requires_grad_(False)
    for parameter in teacher.parameters():
        parameter.mul_(3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    scheduler = AdaptivePlateauLR(optimizer, network, num_steps, AdaptiveLRConfig(anneal_fraction=0.4))
    losses, rates, decisions = [], [], []
    for step in range(1, num_steps + 1):
        inputs = torch.randn(32, 8)
        loss = (network(inputs) - teacher(inputs) - 0.1 * torch.randn(32, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        rates.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step(loss.item())
        if scheduler.last_decision.action != "none":
            decisions.append((step, scheduler.last_decision.action))
    return np.array(losses), np.array(rates), decisions


if __name__ == "__main__":
    for chosen in sys.argv[1:] or FIGURES:
        print(f"written: {write(chosen)}")
