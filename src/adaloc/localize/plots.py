"""Figures of the drift and of the ring correlation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from adaloc.figure_file import write_figure
from adaloc.localize.drift import Drift
from adaloc.localize.frc import THRESHOLD, RingCorrelation

# Colours of Okabe and Ito, which colour-blind people tell apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73")
_DPI = 130


def plot_drift(drift: Drift) -> Figure:
    """The drift over the frames, with the blocks it was estimated from, and its path in the plane."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    over_time, path = figure.subplots(1, 2, width_ratios=[1.5, 1])
    frame = np.arange(1, len(drift) + 1)
    for index, axis in enumerate("xyz"):
        if np.isnan(drift.error_nm_3[index]) and not drift.block_shift_B3[:, index].any():
            continue
        over_time.plot(frame, drift.shift_F3[:, index], color=_COLORS[index], lw=1.5, label=axis)
        over_time.errorbar(
            drift.block_frame_B + 1, drift.block_shift_B3[:, index], np.nan_to_num(drift.error_nm_3[index]),
            fmt="o", ms=4, color=_COLORS[index], capsize=2, lw=1,
        )  # fmt: skip
    over_time.set(xlabel="frame", ylabel="drift (nm)", title="drift; points: blocks with their standard error")
    over_time.legend(frameon=False, ncols=3)
    over_time.grid(alpha=0.25, lw=0.6)
    drawn = path.scatter(drift.shift_F3[:, 0], drift.shift_F3[:, 1], c=frame, s=4, cmap="viridis", rasterized=True)
    figure.colorbar(drawn, ax=path, label="frame")
    path.set(xlabel="x (nm)", ylabel="y (nm)", title="path, as in the image")
    path.set_aspect("equal", adjustable="datalim")
    path.invert_yaxis()
    path.grid(alpha=0.25, lw=0.6)
    return figure


def plot_ring_correlation(curve: RingCorrelation) -> Figure:
    """The curve, its smoothed form, the threshold, and where they cross."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    per_um = 1000 * curve.frequency_per_nm
    ax.plot(per_um, curve.correlation, color="0.75", lw=0.8, label="rings")
    ax.plot(per_um, curve.smoothed, color=_COLORS[0], lw=1.8, label="smoothed")
    ax.axhline(THRESHOLD, color=_COLORS[1], lw=1, ls="--", label="1/7")
    if curve.resolution_nm is not None:
        at = 1000 / curve.resolution_nm
        ax.axvline(at, color="0.3", lw=0.8, ls=":")
        ax.annotate(f"{curve.resolution_nm:.1f} nm", (at, 0.5), xytext=(5, 0), textcoords="offset points")
        ax.set_xlim(0, min(float(per_um[-1]), 4 * at))
    ax.set(xlabel="spatial frequency (1/µm)", ylabel="Fourier ring correlation", ylim=(-0.15, 1.05))
    ax.legend(frameon=False)
    ax.grid(alpha=0.25, lw=0.6)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically.

    Raises:
        AdalocError: when it cannot be written.
    """
    write_figure(figure, path, dpi=_DPI)
