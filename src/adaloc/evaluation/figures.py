"""Figures of an evaluation, through matplotlib's object interface."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from adaloc.emitters import FloatArray
from adaloc.evaluation.metrics import Evaluation, Scored
from adaloc.evaluation.tables import Bin, PerFrame

# Colours of Okabe and Ito, which colour-blind people tell apart.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
_MAX_POINTS = 20_000
_RASTER_DPI = 150


def rmse_against_depth(rows: Sequence[Bin]) -> Figure:
    """Lateral and axial RMSE in bins of z, with the bound where it is known."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    _steps(ax, rows, lambda row: row.figures.rmse_lateral_nm, BLUE, "lateral RMSE")
    _steps(ax, rows, lambda row: row.figures.rmse_axial_nm, VERMILION, "axial RMSE")
    _steps(ax, rows, lambda row: row.crlb_lateral_nm, BLUE, "lateral CRLB", dashed=True)
    _steps(ax, rows, lambda row: row.crlb_axial_nm, VERMILION, "axial CRLB", dashed=True)
    ax.set(xlabel="true z (nm)", ylabel="nm", title="error against depth")
    ax.set_ylim(bottom=0)
    return _finished(figure, ax)


def rmse_against_photons(rows: Sequence[Bin]) -> Figure:
    """The same in bins of the photons, on logarithmic axes, where the bound is nearly a straight line."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    ax = figure.subplots()
    _steps(ax, rows, lambda row: row.figures.rmse_lateral_nm, BLUE, "lateral RMSE")
    _steps(ax, rows, lambda row: row.figures.rmse_axial_nm, VERMILION, "axial RMSE")
    _steps(ax, rows, lambda row: row.crlb_lateral_nm, BLUE, "lateral CRLB", dashed=True)
    _steps(ax, rows, lambda row: row.crlb_axial_nm, VERMILION, "axial CRLB", dashed=True)
    if len(rows) > 1:
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    ax.set(xlabel="photons of the emitter in the frame", ylabel="nm", title="error against photons")
    return _finished(figure, ax)


def detection(rows: Sequence[Bin], xlabel: str, title: str, *, log: bool = False) -> Figure:
    """Jaccard index, recall and precision in bins, with the number of emitters below."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    ax, count = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _steps(ax, rows, lambda row: row.figures.jaccard, BLUE, "Jaccard", width=3.5)  # recall often lies on it
    _steps(ax, rows, lambda row: row.figures.recall, GREEN, "recall")
    _steps(ax, rows, lambda row: row.figures.precision, ORANGE, "precision")
    ax.set(ylim=(0, 1.03), title=title)
    edges = np.array([rows[0].low, *(row.high for row in rows)]) if rows else np.array([0.0, 1.0])
    count.stairs([row.figures.num_truth for row in rows] or [0], edges, fill=True, color="0.75")
    count.set(xlabel=xlabel, ylabel="emitters")
    if log and len(rows) > 1:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
    count.grid(alpha=0.25, lw=0.6)
    return _finished(figure, ax)


def error_histograms(scored: Scored, normalized: dict[str, FloatArray]) -> Figure:
    """Errors along each axis with their bias, and, where bounds or uncertainties are known, in units of those.

    Args:
        scored: the pairs.
        normalized: title -> errors in standard deviations; a unit normal distribution is drawn over them.
    """
    errors = {"x": scored.dx_nm, "y": scored.dy_nm} | ({} if scored.dz_nm is None else {"z": scored.dz_nm})
    num_rows = 2 if normalized else 1
    figure = Figure(figsize=(10, 3.0 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, max(len(errors), len(normalized)), squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    for ax, (axis, values), color in zip(axes[0], errors.items(), (BLUE, GREEN, VERMILION), strict=False):
        ax.set_visible(True)
        _histogram(ax, values, color)
        ax.set(xlabel=f"{axis} error (nm)", yticks=[])
        if len(values):
            ax.axvline(float(values.mean()), color="black", lw=1)
            ax.set_title(f"bias {values.mean():+.1f}, std {values.std():.1f} nm", fontsize=10)
    for ax, (title, values) in zip(axes[-1] if normalized else [], normalized.items(), strict=False):
        ax.set_visible(True)
        known = values[np.isfinite(values)]
        inside = known[np.abs(known) < 6]
        ax.hist(inside, bins=60, range=(-6, 6), color="0.75", weights=np.full(len(inside), 5 / max(len(known), 1)))
        at = np.linspace(-6, 6, 200)
        ax.plot(at, np.exp(-0.5 * at**2) / math.sqrt(2 * math.pi), color="black", lw=1)
        ax.set(xlabel=title, yticks=[])
        if len(known):
            ax.set_title(f"root mean square {math.sqrt((known**2).mean()):.2f}", fontsize=10)
    return figure


def error_scatter(scored: Scored) -> Figure:
    """Errors in the plane, and in depth against the true depth's lateral error."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    ax = figure.subplots()
    shown = slice(None, None, max(1, len(scored.dx_nm) // _MAX_POINTS))
    ax.scatter(scored.dx_nm[shown], scored.dy_nm[shown], s=3, alpha=0.35, color=BLUE, lw=0, rasterized=True)
    far = float(np.quantile(np.hypot(scored.dx_nm, scored.dy_nm), 0.99)) if len(scored.dx_nm) else 1.0
    far = max(far * 1.1, 1e-3)
    ax.axhline(0, color="0.5", lw=0.8)
    ax.axvline(0, color="0.5", lw=0.8)
    if len(scored.dx_nm):
        ax.plot(scored.dx_nm.mean(), scored.dy_nm.mean(), "+", ms=14, mew=2, color=VERMILION, label="bias")
        ax.legend(frameon=False, loc="upper right")
    ax.set(xlim=(-far, far), ylim=(far, -far), xlabel="x error (nm)", ylabel="y error (nm), down as in the image")
    ax.set_aspect("equal")
    ax.set_title("lateral errors (the nearest 99 %)")
    return figure


def counts_per_frame(frames: PerFrame) -> Figure:
    """How many were found, missed and invented in each frame, and the Jaccard index of frames."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    ax, spread = figure.subplots(1, 2, width_ratios=[2.2, 1])
    for values, color, label in (
        (frames.true_positives, BLUE, "found"),
        (frames.false_negatives, VERMILION, "missed"),
        (frames.false_positives, ORANGE, "invented"),
    ):
        ax.plot(frames.frame + 1, values, color=color, lw=0.8, label=label, drawstyle="steps-mid")
    ax.set(xlabel="frame", ylabel="emitters", title="counts per frame")
    ax.set_ylim(bottom=0)
    spread.hist(frames.jaccard, bins=np.linspace(0, 1, 21).tolist(), color="0.75")
    spread.set(xlabel="Jaccard index of a frame", ylabel="frames", xlim=(0, 1))
    if len(frames.frame):
        spread.axvline(float(frames.jaccard.mean()), color="black", lw=1)
        spread.set_title(f"mean {frames.jaccard.mean():.3f}", fontsize=10)
    return _finished(figure, ax)


def sub_pixel(position_px: dict[str, FloatArray]) -> Figure:
    """Histograms of the sub-pixel positions; a flat one shows no preference."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots(1, len(position_px), sharey=True, squeeze=False)[0]
    for ax, (axis, values) in zip(axes, position_px.items(), strict=True):
        weights = np.full(len(values), 25 / max(len(values), 1))
        ax.hist(values - np.rint(values), bins=25, range=(-0.5, 0.5), color="0.75", weights=weights)
        ax.axhline(1, color="black", lw=0.8)
        ax.set(xlabel=f"{axis} within the pixel (px)", xlim=(-0.5, 0.5))
    figure.axes[0].set_ylabel("density")
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as SVG; clouds of points in it are pixels."""
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    # A date would make two pages of the same data differ.
    figure.savefig(buffer, format="svg", dpi=_RASTER_DPI, metadata={"Date": None})
    return buffer.getvalue()


def _steps(
    ax: Axes,
    rows: Sequence[Bin],
    value: Callable[[Bin], float | None],
    color: str,
    label: str,
    *,
    dashed: bool = False,
    width: float = 1.4,
) -> None:
    known = [(row, v) for row in rows if (v := value(row)) is not None and _has_something(row.figures)]
    if not known:
        return
    middle = [(row.low + row.high) / 2 for row, _ in known]
    ax.plot(middle, [v for _, v in known], ls="--" if dashed else "-", marker=None if dashed else "o", ms=4, lw=width,
            color=color, label=label)  # fmt: skip


def _has_something(figures: Evaluation) -> bool:
    return figures.num_truth + figures.num_localizations > 0


def _histogram(ax: Axes, values: FloatArray, color: str) -> None:
    if len(values) == 0:
        return
    far = max(float(np.quantile(np.abs(values), 0.995)), 1e-3)
    ax.hist(values, bins=61, range=(-far, far), color=color, alpha=0.75)


def _finished(figure: Figure, ax: Axes) -> Figure:
    ax.grid(alpha=0.25, lw=0.6)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=9, ncols=2)
    return figure
