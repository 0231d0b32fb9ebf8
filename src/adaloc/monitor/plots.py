"""Figures of a run: the training curves, and example frames with truth and localizations.

Figures are made through matplotlib's object interface, so that no window system and no global state is touched.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.figure_file import write_figure
from adaloc.monitor.analysis import (
    WINDOW,
    channel_reference,
    first_loss,
    moving_average,
    moving_median,
    plain_number,
    promises,
    rate_of_change,
)
from adaloc.monitor.log import Adjustment, Run

# Colours of Okabe and Ito, which colour-blind people tell apart.
_ORANGE, _SKY, _GREEN, _BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
_VERMILION, _PURPLE = "#D55E00", "#CC79A7"
_CHANNEL_COLORS = ("black", _SKY, _BLUE, _GREEN, _ORANGE, _PURPLE)
_KIND_STYLES = {
    "boost": (_GREEN, "^"),
    "decay": (_VERMILION, "v"),
    "plateau": (_PURPLE, "s"),
    "anneal": (_ORANGE, "D"),
    "warmup_done": (_SKY, "o"),
    "restart": ("black", "*"),
    "search": (_SKY, "<"),
    "found": (_SKY, "*"),
    "trial": (_BLUE, "d"),
    "revert": (_PURPLE, "v"),
    "rollback": (_VERMILION, "X"),
}
_PANEL_INCHES = 3.3
_MOST_COLUMNS = 3
# Dark ends vanish on a dark camera frame, so the depth colours are all bright; hue runs one way, blue to orange.
_DEPTH_COLORS = LinearSegmentedColormap.from_list("depth", ["#3fb7ff", "#35e0c2", "#f4f06a", "#ff8c42", "#ff4f9a"])


@dataclass(frozen=True)
class Example:
    """One frame to show.

    Attributes:
        frame_HW: camera frame in photons.
        truth: emitters of the frame.
        localizations: what the network found in it.
        title: shown above the frame.
    """

    frame_HW: FloatArray
    truth: EmitterTable
    localizations: EmitterTable
    title: str


def plot_curves(run: Run) -> Figure:
    """Losses, learning rate with its adjustments, channels, rate of change, and gradient norm over the epochs."""
    figure = Figure(figsize=(14, 10.5), layout="constrained")
    grid = figure.add_gridspec(3, 2, height_ratios=[1, 1, 0.42])
    axes = [figure.add_subplot(grid[row, column]) for row in (0, 1) for column in (0, 1)]
    bottom = figure.add_subplot(grid[2, :])
    after = run.epochs.index.astype(np.float64) + 1
    _draw_losses(axes[0], run, after)
    _draw_rate(axes[1], run, after)
    _draw_channels(axes[2], run, after)
    _draw_change(axes[3], run, after)
    _draw_gradient(bottom, run, after)
    last = max([*after[-1:], *(a.epoch + 1 for a in run.adjustments), 1])
    for ax in (*axes, bottom):
        ax.set_xlim(0, 1.02 * last)
        ax.set_xlabel("epochs", fontsize=10)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        ax.grid(alpha=0.25, lw=0.6)
        if len(after) == 0:
            ax.text(0.5, 0.45, "no epoch is finished yet", transform=ax.transAxes, ha="center", va="center")
    figure.suptitle(f"{run.folder.name}: {run.status}", fontsize=11, parse_math=False)
    return figure


def plot_examples(examples: Sequence[Example], pixel_size_nm: PixelSize) -> Figure:
    """A gallery: frames in photons (gray), truth as circles, localizations as crosses, both coloured by z in nm."""
    if not examples:
        figure = Figure(figsize=(5, 1.5))
        figure.text(0.5, 0.5, "no validation frames", ha="center", va="center", fontsize=12)
        return figure
    num_columns = min(len(examples), _MOST_COLUMNS)
    num_rows = -(-len(examples) // num_columns)
    size = (_PANEL_INCHES * num_columns + 2.1, (_PANEL_INCHES + 0.25) * num_rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    photons, depth = _photon_range(examples), _depth_range(examples)
    for ax, example in zip(axes.flat, examples, strict=False):
        _draw_example(ax, example, pixel_size_nm, photons, depth)
    for ax in axes.flat[len(examples) :]:
        ax.set_axis_off()
    figure.colorbar(ScalarMappable(photons, "gray"), ax=axes, label="photons per px", shrink=0.8, aspect=30, pad=0.01)
    if depth is not None:
        colors = ScalarMappable(depth, _DEPTH_COLORS)
        figure.colorbar(colors, ax=axes, label="z (nm)", shrink=0.8, aspect=30, pad=0.01)
    handles = [
        Line2D([], [], ls="", marker="o", mfc="none", mec="black", ms=9, label="emitter (truth)"),
        Line2D([], [], ls="", marker="x", mec="black", ms=7, label="localization"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically.

    Raises:
        AdalocError: when it cannot be written.
    """
    write_figure(figure, path, dpi=150)


def figure_pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB picture of a figure, as TensorBoard takes it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()  # type: ignore[no-untyped-call]


def _draw_losses(ax: Any, run: Run, after: FloatArray) -> None:
    train, val = _drawable(run.epochs.train_loss), _drawable(run.epochs.val_loss)
    ax.plot(after, train, color=_ORANGE, lw=0.8, alpha=0.9, marker=_dot(after), label="training")
    ax.plot(after, val, color=_SKY, lw=0.8, alpha=0.9, marker=_dot(after), label="validation")
    ax.plot(after, moving_median(val), color=_BLUE, lw=2, label=f"validation, median of the last {WINDOW}")
    line = run.no_information_loss
    if math.isfinite(line):
        ax.axhline(line, color=_VERMILION, lw=1.2, ls="--", label=f"no-information loss {plain_number(line)}")
    _draw_floor(ax, run)
    initial = first_loss(run) if run.initial is not None else math.nan
    if math.isfinite(initial):
        ax.plot(
            [0],
            [initial],
            marker="D",
            ms=5,
            color="black",
            ls="",
            label=f"before training {plain_number(initial)}",
            clip_on=False,
        )
    _set_loss_scale(ax, np.concatenate([train, val, [line, initial, run.floor]]))
    for promise in promises(run) or ():
        ax.axhline(promise.level, color="gray", lw=0.8, ls=":", alpha=0.8)
        text = f"promised: {promise.level:g} within {promise.within_epochs}"
        at_right = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
        ax.text(0.995, promise.level, text, fontsize=8, color="dimgray", **at_right)
    num_bad = int(np.count_nonzero(~np.isfinite(run.epochs.val_loss)))
    if num_bad:
        bad = after[~np.isfinite(run.epochs.val_loss)]
        ax.plot(bad, np.full(num_bad, 0.02), transform=ax.get_xaxis_transform(), ls="", marker="x", color="black",
                ms=5, label=f"not a finite number ({num_bad})")  # fmt: skip
    ax.set_title("(a) loss", loc="left", fontsize=11)
    _legend(ax)


def _draw_floor(ax: Any, run: Run) -> None:
    if math.isfinite(run.floor):
        ax.axhline(run.floor, color=_GREEN, lw=1.4, ls="-.", label=f"physical floor {plain_number(run.floor)}")
    else:
        ax.plot([], [], color=_GREEN, ls="", label="physical floor unknown")


def _draw_rate(ax: Any, run: Run, after: FloatArray) -> None:
    rates = _drawable(run.epochs.lr)
    crowded = len(run.adjustments) > 60
    ax.plot(
        after, _positive(rates), color="gray" if crowded else "black", lw=0.6 if crowded else 1.2, marker=_dot(after)
    )
    for kind in sorted({a.kind for a in run.adjustments}, key=_kind_order):
        chosen = [a for a in run.adjustments if a.kind == kind]
        color, marker = _KIND_STYLES.get(kind, ("gray", "P"))
        heights = _positive(np.array([a.lr_after for a in chosen]))
        size = {"ms": 4, "mec": "none"} if crowded else {"ms": 8, "mec": "white", "mew": 0.6}
        label = f"{kind} ({len(chosen)}): {_short_reason(chosen)}"
        places = [a.epoch + 1 for a in chosen]
        ax.plot(places, heights, ls="", marker=marker, color=color, zorder=3, label=label, **size)
    if np.any(rates > 0):
        ax.set_yscale("log")
    ax.set_title("(b) learning rate of the first stage, and what changed it", loc="left", fontsize=11)
    _legend(ax)


def _draw_channels(ax: Any, run: Run, after: FloatArray) -> None:
    weights = run.channel_weights
    drawn = []
    for (name, values), color in zip(run.epochs.val_channels.items(), itertools.cycle(_CHANNEL_COLORS)):
        reference = channel_reference(run, name)
        if weights.get(name) == 0 or not reference > 0:
            continue
        relative = _drawable(values) / reference
        drawn.append(relative)
        known = relative[np.isfinite(relative)]
        last = f" {known[-1]:.3g}" if len(known) else ""
        floor = run.floor_channels.get(name, math.nan) / reference
        if floor > 0:
            last += f" (floor {floor:.3g})"
        # x and y often coincide; dashes let the one below be seen.
        dashes = "--" if name == "y" else "-"
        smooth = moving_median(relative, 5)
        ax.plot(after, smooth, color=color, lw=1.4, ls=dashes, marker=_dot(after), label=f"{name}{last}")
    ax.axhline(1, color=_VERMILION, lw=1.2, ls="--")
    _set_loss_scale(ax, np.concatenate([*drawn, [1.0]]))
    score = "its no-information loss" if run.in_information_units else "its loss before training"
    ax.set_title(f"(c) validation loss of each channel over {score} (median of 5)", loc="left", fontsize=11)
    _legend(ax)


def _draw_change(ax: Any, run: Run, after: FloatArray) -> None:
    rates = rate_of_change(after, run.epochs.val_loss)
    for kind in {a.kind for a in run.adjustments}:
        color = _KIND_STYLES.get(kind, ("gray", "P"))[0]
        places = [a.epoch + 1 for a in run.adjustments if a.kind == kind]
        ax.vlines(
            places, 0, 1, transform=ax.get_xaxis_transform(), color=color, lw=0.8, alpha=min(0.5, 15 / len(places))
        )
    ax.plot(after, rates, color=_BLUE, lw=1.3)
    ax.axhline(0, color="black", lw=1)
    known = np.abs(rates[np.isfinite(rates) & (rates != 0)])
    meaning = "below 0: improving"
    if len(known) and known.max() > 20 * np.median(known):
        threshold = 10.0 ** math.floor(math.log10(float(np.median(known))))
        ax.set_yscale("symlog", linthresh=threshold)
        meaning += f" (axis linear within ±{threshold:g}, then log)"
    if len(known) == 0 and len(after):
        ax.text(0.5, 0.6, "no change can be told yet", transform=ax.transAxes, ha="center")
    ax.set_title(f"(d) change of the validation loss per epoch (slope over {WINDOW})", loc="left", fontsize=11)
    ax.set_ylabel(meaning, fontsize=9)


def _draw_gradient(ax: Any, run: Run, after: FloatArray) -> None:
    norms, clipped = _drawable(run.epochs.grad_norm), run.epochs.clipped_share
    ax.plot(after, _positive(norms), color=_PURPLE, lw=1, marker=_dot(after))
    if np.any(norms > 0):
        ax.set_yscale("log")
    ax.set_ylabel("norm", color=_PURPLE, fontsize=10)
    share = ax.twinx()
    share.fill_between(after, 0, 100 * np.nan_to_num(moving_average(clipped)), color=_ORANGE, alpha=0.25, lw=0)
    share.set_ylim(0, 100)
    share.set_ylabel("steps clipped (%)", color="#9a6a00", fontsize=10)
    title = f"(e) gradient norm before clipping (median of the epoch), share of clipped steps (mean of {WINDOW})"
    ax.set_title(title, loc="left", fontsize=11)


def _set_loss_scale(ax: Any, values: FloatArray) -> None:
    # A logarithmic axis shows late progress, but only where the loss has come down far.
    values = values[np.isfinite(values)]
    if len(values) == 0 or values.min() <= 0 or values.max() < 3 * values.min():
        # A cut axis would blow noise up to look like progress.
        ax.set_ylim(min(0.0, float(values.min(initial=0.0))), 1.08 * float(values.max(initial=1e-9)))
        return
    ax.set_yscale("log")
    if values.max() < 300 * values.min():
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_number(value)))


def _short_reason(adjustments: Sequence[Adjustment]) -> str:
    # The numbers differ from one adjustment to the next; the legend stands for all of them.
    reasons = Counter(re.sub(r"\d+", "n", a.reason) if len(adjustments) > 1 else a.reason for a in adjustments)
    return shorten(reasons.most_common(1)[0][0].replace("$", ""), 46, placeholder=" ...")


def _kind_order(kind: str) -> tuple[int, str]:
    return (list(_KIND_STYLES).index(kind) if kind in _KIND_STYLES else len(_KIND_STYLES)), kind


def _drawable(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)


def _positive(values: FloatArray) -> FloatArray:
    return np.where(values > 0, values, np.nan)  # a logarithmic axis shows nothing else


def _dot(after: FloatArray) -> str | None:
    return "." if len(after) < 30 else None  # a line through one point is invisible


def _legend(ax: Any) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8.5, framealpha=0.85, loc="best")


def _draw_example(
    ax: Any, example: Example, pixel_size_nm: PixelSize, photons: Normalize, depth: Normalize | None
) -> None:
    height, width = example.frame_HW.shape
    ax.imshow(example.frame_HW, cmap="gray", norm=photons, aspect=pixel_size_nm.y / pixel_size_nm.x)
    ax.set_title(example.title, fontsize=10, parse_math=False)
    ax.set_xticks([])
    ax.set_yticks([])
    points_per_px = 72 * _PANEL_INCHES / max(height, width)
    diameter = float(np.clip(2.6 * points_per_px, 8, 14))
    for table, marker in ((example.truth, "o"), (example.localizations, "x")):
        colors = (
            _DEPTH_COLORS(depth(table.z)) if depth is not None else np.tile([0.25, 0.72, 1.0, 1.0], (len(table), 1))
        )
        side = diameter if marker == "o" else 0.65 * diameter
        if marker == "o":
            ax.scatter(table.x, table.y, s=side**2, marker="o", facecolors="none", edgecolors=colors, linewidths=1.3)
        else:
            ax.scatter(table.x, table.y, s=side**2, marker="x", c=colors, linewidths=1.3)
    # Fixed limits: a localization at the border must not shift the frame.
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    _draw_scale_bar(ax, width, height, pixel_size_nm.x)


def _draw_scale_bar(ax: Any, width: int, height: int, pixel_x_nm: float) -> None:
    length_nm = next((n for n in (1000.0, 500.0, 200.0, 100.0) if n / pixel_x_nm < 0.6 * width), 100.0)
    length_px = length_nm / pixel_x_nm
    outline = [patheffects.withStroke(linewidth=3, foreground="black")]
    left, bottom = -0.5 + 0.05 * width, height - 0.5 - 0.05 * height
    ax.plot([left, left + length_px], [bottom, bottom], color="white", lw=3, solid_capstyle="butt",
            path_effects=[patheffects.withStroke(linewidth=5, foreground="black")])  # fmt: skip
    label = "1 µm" if length_nm == 1000 else f"{length_nm:.0f} nm"
    ax.text(left + length_px / 2, bottom - 0.025 * height, label, color="white", ha="center", va="bottom", fontsize=9,
            path_effects=outline)  # fmt: skip


def _photon_range(examples: Sequence[Example]) -> Normalize:
    pixels = np.concatenate([example.frame_HW.ravel() for example in examples])
    pixels = pixels[np.isfinite(pixels)]
    if len(pixels) == 0:
        return Normalize(0, 1)
    low, high = np.percentile(pixels, [0.5, 99.7])
    return Normalize(low, max(high, low + 1))


def _depth_range(examples: Sequence[Example]) -> Normalize | None:
    depths = np.concatenate([table.z for e in examples for table in (e.truth, e.localizations)])
    depths = depths[np.isfinite(depths)]
    if len(depths) == 0 or np.ptp(depths) < 1:  # a two-dimensional PSF says nothing about z
        return None
    # One wild localization must not bleach the rest.
    low, high = np.percentile(depths, [1, 99])
    return Normalize(low, max(high, low + 1), clip=True)
