"""The picture of a checked movie: histograms, noise against light, and a frame."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaloc.config import CameraConfig
from adaloc.data.movie_check import MovieCheck
from adaloc.data.movie_reference import expected_variance, photons_per_adu
from adaloc.emitters import FloatArray
from adaloc.monitor.plots import save_figure

_BLUE, _ORANGE, _VERMILION = "#0072B2", "#E69F00", "#D55E00"  # Okabe and Ito
_NUM_BINS = 120


def write_movie_plot(path: Path, check: MovieCheck, title: str) -> None:
    """Writes a PNG with four panels: ADU, photons, photon transfer, a frame.

    Raises:
        AdalocError: when it cannot be written.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    (adu, photons), (transfer, image) = figure.subplots(2, 2)
    _plot_adu(adu, check)
    _plot_photons(photons, check)
    _plot_transfer(transfer, check)
    _plot_frame(image, check)
    save_figure(figure, path)


def _plot_adu(axes: Axes, check: MovieCheck) -> None:
    camera = check.reference.camera
    values = np.asarray(check.uniform_THW, dtype=np.float64).ravel()
    low, high = _limits(np.append(values, camera.baseline_adu))
    axes.hist(values, bins=_bins(low, high), color=_BLUE, histtype="stepfilled")
    axes.axvline(camera.baseline_adu, color=_VERMILION, label=f"baseline in the config, {camera.baseline_adu:g}")
    axes.axvline(check.facts.level_adu, color="black", ls="--", label=f"background level, {check.facts.level_adu:.0f}")
    _finish(axes, "pixel value, ADU", "pixels", "Numbers of the movie")
    axes.set_yscale("log")


def _plot_photons(axes: Axes, check: MovieCheck) -> None:
    camera = check.reference.camera
    scale = photons_per_adu(camera)
    photons = _photons_of(check.uniform_THW, camera)
    simulated = np.concatenate([_photons_of(movie.example_THW, camera) for movie in check.reference.movies])
    ends = [end / scale for values in (photons, simulated) for end in _limits(values)]
    bins = [edge * scale for edge in _bins(min(ends), max(ends))]
    axes.hist(photons, bins=bins, color=_BLUE, density=True, histtype="stepfilled", label="movie")
    axes.hist(
        simulated, bins=bins, color=_ORANGE, density=True, histtype="step", lw=1.5,
        label="simulated from the config",
    )  # fmt: skip
    _finish(axes, "photons per pixel, by the config's camera", "share per photon", "The same in photons")
    axes.set_yscale("log")


def _plot_transfer(axes: Axes, check: MovieCheck) -> None:
    camera, transfer = check.reference.camera, check.facts.transfer
    for movie in check.reference.movies:
        other = movie.facts.transfer
        axes.plot(other.mean_adu, other.variance_adu2, color=_ORANGE, lw=1, alpha=0.7)
    axes.plot([], [], color=_ORANGE, lw=1, label="simulated from the config")
    mean = np.linspace(min(camera.baseline_adu, transfer.mean_adu.min()), transfer.mean_adu.max(), 50)
    line = [expected_variance(float(m), camera) for m in mean]
    axes.plot(mean, line, color="black", ls="--", lw=1, label="the config's camera")
    axes.plot(transfer.mean_adu, transfer.variance_adu2, "o", color=_BLUE, ms=4, label="movie")
    most = 1.15 * max(float(transfer.variance_adu2.max()), max(line))
    axes.set_ylim(0, most)
    axes.set_xlim(mean[0] - 0.03 * np.ptp(mean), mean[-1] + 0.05 * np.ptp(mean))
    _finish(axes, "mean, ADU", "variance of the noise, ADU$^2$", "Noise against light (photon transfer)")


def _plot_frame(axes: Axes, check: MovieCheck) -> None:
    middle = len(check.raw_THW) // 2
    frame = np.asarray(check.raw_THW[middle], dtype=np.float64)
    low, high = np.quantile(frame, (0.01, 0.999))
    shown = axes.imshow(frame, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="nearest")
    axes.figure.colorbar(shown, ax=axes, label="ADU", shrink=0.85)
    axes.set_title(f"Frame {check.frame_ix_T[middle]} (from 0), {frame.shape[0]} x {frame.shape[1]} px", fontsize=10)
    axes.set_xlabel("column, px")
    axes.set_ylabel("row, px")


def _photons_of(frames_THW: npt.NDArray[np.generic], camera: CameraConfig) -> FloatArray:
    adu = np.asarray(frames_THW, dtype=np.float64).ravel()
    return np.asarray((adu - camera.baseline_adu) * photons_per_adu(camera))


def _limits(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, (0, 0.9995))
    margin = 0.03 * max(high - low, 1.0)
    return float(low - margin), float(high + margin)


def _bins(low: float, high: float) -> list[float]:
    # Of one width in whole ADU: others would show combs that are not in the movie.
    step = max(math.ceil((high - low) / _NUM_BINS), 1)
    first = math.floor(low) - 0.5
    return [first + step * i for i in range(math.ceil((high - first) / step) + 1)]


def _finish(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
