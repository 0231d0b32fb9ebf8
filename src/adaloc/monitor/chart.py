"""Charts as inline SVG: drawn here, so that a page needs no library, prints as vectors, and shows without scripts.

Every chart is drawn twice, wide and narrow; the page's style shows the one that fits, so that words keep their size on
a phone. Colours are classes, which the page's style sets for light and dark. What a chart holds is also given as JSON,
from which the page's script shows values under the pointer.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from adaloc.emitters import FloatArray
from adaloc.monitor.analysis import plain_number
from adaloc.monitor.axes import Scale, linear_ticks, log_ticks

WIDE, NARROW = (760, 300), (370, 270)
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 52, 14, 10, 38
_POINTS_IN_TIPS = 400
_SHAPES = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "up": "M0,-5.5L5,4H-5z",
    "down": "M0,5.5L5,-4H-5z",
    "diamond": "M0,-5.5L5.5,0L0,5.5L-5.5,0z",
    "square": "M-4,-4H4V4H-4z",
    "cross": "M-4.5,-3L-3,-4.5L0,-1.5L3,-4.5L4.5,-3L1.5,0L4.5,3L3,4.5L0,1.5L-3,4.5L-4.5,3L-1.5,0z",
}


@dataclass(frozen=True)
class Curve:
    """A line through points; gaps where y is not finite.

    Attributes:
        name: in the legend.
        x, y: (N,) each.
        color: class of the page's style, c0 to c7.
        style: line, thin, dashed, dots, or linedots.
        run: of which run it is, where a chart compares runs; the page shows and hides them together.
    """

    name: str
    x: FloatArray
    y: FloatArray
    color: str
    style: str = "line"
    run: str = ""


@dataclass(frozen=True)
class Level:
    """A horizontal line with its words."""

    name: str
    value: float
    color: str
    style: str = "dashed"


@dataclass(frozen=True)
class Band:
    """A filled area between two lines over x (N,)."""

    name: str
    x: FloatArray
    low: FloatArray
    high: FloatArray
    color: str


@dataclass(frozen=True)
class Span:
    """An interval of x, shaded over the whole height."""

    name: str
    low: float
    high: float
    color: str


@dataclass(frozen=True)
class Mark:
    """A symbol that says more when pointed at.

    Attributes:
        x, y: where.
        kind: in the legend; one entry for all marks of a kind.
        shape: key of the shapes: circle, up, down, diamond, square, cross.
        color: class of the page's style.
        tip: lines that are shown.
    """

    x: float
    y: float
    kind: str
    shape: str
    color: str
    tip: tuple[str, ...]


@dataclass(frozen=True)
class Bars:
    """A histogram: (N + 1,) edges and (N,) heights."""

    name: str
    edges: FloatArray
    heights: FloatArray
    color: str


@dataclass(frozen=True)
class Chart:
    """What one picture shows.

    Attributes:
        question: which it answers; the heading.
        answer: one or two sentences below the heading; empty where the picture says all.
        label: what it shows, for those who do not see it.
        x_label, y_label: with units.
        log: whether the y axis is logarithmic.
        y_limits: of the axis; None: those of what is shown.
        wide: over the whole width of the page.
    """

    question: str
    answer: str
    label: str
    x_label: str
    y_label: str
    curves: Sequence[Curve] = ()
    levels: Sequence[Level] = ()
    bands: Sequence[Band] = ()
    spans: Sequence[Span] = ()
    marks: Sequence[Mark] = ()
    bars: Sequence[Bars] = ()
    log: bool = False
    y_limits: tuple[float, float] | None = None
    x_limits: tuple[float, float] | None = None
    wide: bool = False
    height: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        has_line = any(np.isfinite(curve.y).any() for curve in self.curves)
        return not (has_line or self.bars or self.marks)


def draw(chart: Chart) -> str:
    """The chart as HTML: legend, the wide and the narrow picture, and its numbers as JSON."""
    wide = (1240 if chart.wide else WIDE[0], chart.height or (360 if chart.wide else WIDE[1]))
    pictures = "".join(
        f'<div class="{name}">{_svg(chart, width, height)}</div>'
        for name, (width, height) in (("wide", wide), ("narrow", NARROW))
    )
    return f'<div class="chart">{_legend(chart)}{pictures}{_numbers(chart)}</div>'


def _svg(chart: Chart, width: int, height: int) -> str:
    x_scale, y_scale = _scales(chart, width, height)
    clip = f"clip{zlib.crc32(f'{chart.question}{chart.label}{width}'.encode()):08x}"
    left, right = x_scale.start, x_scale.end
    top, bottom = y_scale.end, y_scale.start
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(chart.label)}" '
        f'data-plot="{left} {right} {top} {bottom} {x_scale.low:.8g} {x_scale.high:.8g}">',
        f'<clipPath id="{clip}"><rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/></clipPath>',
        _grid(chart, x_scale, y_scale, width, height),
        f'<g clip-path="url(#{clip})">',
        *(_span(span, x_scale, top, bottom) for span in chart.spans),
        *(_band(band, x_scale, y_scale) for band in chart.bands),
        *(_bars(bars, x_scale, y_scale) for bars in chart.bars),
        *(_curve(curve, x_scale, y_scale, index) for index, curve in enumerate(chart.curves)),
        "</g>",
        *_levels(chart.levels, x_scale, y_scale),
        f'<line class="cursor" x1="0" x2="0" y1="{top}" y2="{bottom}"/>',
        *(_mark(mark, x_scale, y_scale) for mark in chart.marks),
        "</svg>",
    ]
    return "".join(parts)


def _scales(chart: Chart, width: int, height: int) -> tuple[Scale, Scale]:
    x_values = [c.x for c in chart.curves] + [b.edges for b in chart.bars] + [np.array([m.x for m in chart.marks])]
    y_values = [c.y for c in chart.curves] + [b.heights for b in chart.bars] + [band.high for band in chart.bands]
    y_values += [np.array([level.value for level in chart.levels])]
    low, high = chart.x_limits or _range(x_values)
    y_low, y_high = chart.y_limits or _range(y_values, log=chart.log)
    if chart.y_limits is None and not chart.log:
        y_low, y_high = min(y_low, 0.0), y_high + 0.06 * (y_high - min(y_low, 0.0))
    if chart.y_limits is None and chart.log:
        y_low, y_high = y_low / 1.12, y_high * 1.12
    return (
        Scale(low, high, _MARGIN_LEFT, width - _MARGIN_RIGHT),
        Scale(y_low, y_high, height - _MARGIN_BOTTOM, _MARGIN_TOP, log=chart.log),
    )


def _range(parts: Sequence[FloatArray], log: bool = False) -> tuple[float, float]:
    values = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]) if parts else np.empty(0)
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if len(values) == 0:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if high > low:
        return low, high
    return (low / 2, high * 2) if log else (low - 0.5, high + 0.5)


def _grid(chart: Chart, x_scale: Scale, y_scale: Scale, width: int, height: int) -> str:
    parts = []
    most = max(3, int((y_scale.start - y_scale.end) / 40))
    y_ticks = (log_ticks if chart.log else linear_ticks)(y_scale.low, y_scale.high, most)
    for tick in y_ticks:
        y = y_scale(tick)
        parts.append(f'<line class="grid" x1="{x_scale.start}" x2="{x_scale.end}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{x_scale.start - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick)}</text>'
        )
    for tick in linear_ticks(x_scale.low, x_scale.high, max(3, int((x_scale.end - x_scale.start) / 90))):
        x = x_scale(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y_scale.start}" y2="{y_scale.start + 4}"/>')
        anchor = "end" if x > width - 24 else "middle"
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{y_scale.start + 17}" text-anchor="{anchor}">{_tick(tick)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{x_scale.start}" x2="{x_scale.end}" y1="{y_scale.start}" y2="{y_scale.start}"/>'
        f'<text class="tick" x="{(x_scale.start + x_scale.end) / 2:.0f}" y="{height - 5}" text-anchor="middle">'
        f"{escape(chart.x_label)}</text>"
        f'<text class="tick" transform="translate(12 {(y_scale.start + y_scale.end) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(chart.y_label)}</text>'
    )
    return "".join(parts)


def _tick(value: float) -> str:
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def _curve(curve: Curve, x_scale: Scale, y_scale: Scale, index: int) -> str:
    drawable = np.isfinite(curve.x) & np.isfinite(curve.y) & ((curve.y > 0) | (not y_scale.log))
    group = f'<g class="curve {curve.color}" data-series="{index}" data-run="{escape(curve.run)}">'
    if curve.style == "dots":
        return group + _dots(curve, drawable, x_scale, y_scale) + "</g>"
    pieces = []
    for part in np.split(np.arange(len(curve.x)), np.flatnonzero(np.diff(drawable.astype(int))) + 1):
        if len(part) and drawable[part[0]]:
            x, y = x_scale.of(curve.x[part]), y_scale.of(curve.y[part])
            x, y = thinned(x, y, int(x_scale.end - x_scale.start))
            pieces.append("M" + "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)))
    dots = _dots(curve, drawable, x_scale, y_scale) if curve.style == "linedots" or drawable.sum() < 30 else ""
    return f'{group}<path class="{curve.style}" d="{"".join(pieces)}"/>{dots}</g>'


def thinned(x: FloatArray, y: FloatArray, columns: int) -> tuple[FloatArray, FloatArray]:
    """A line of at most about 2 points a column: each column keeps its lowest and its highest point.

    Args:
        x: (N,) ascending, px. y: (N,) px.
        columns: of the picture.
    """
    if len(x) <= 2 * columns:
        return x, y
    groups = np.array_split(np.arange(len(x)), columns)
    kept = sorted({int(g[np.argmin(y[g])]) for g in groups} | {int(g[np.argmax(y[g])]) for g in groups})
    return x[kept], y[kept]


def _dots(curve: Curve, drawable: np.typing.NDArray[np.bool_], x_scale: Scale, y_scale: Scale) -> str:
    x, y = x_scale.of(curve.x[drawable]), y_scale.of(curve.y[drawable])
    return "".join(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in zip(x, y, strict=True))


def _band(band: Band, x_scale: Scale, y_scale: Scale) -> str:
    known = np.isfinite(band.low) & np.isfinite(band.high)
    if not known.any():
        return ""
    x = x_scale.of(band.x[known])
    edges = band.low[known], band.high[known]
    if y_scale.log:  # where the noise reaches below zero, the band reaches below the picture
        edges = np.maximum(edges[0], y_scale.low / 10), np.maximum(edges[1], y_scale.low / 10)
    low, high = y_scale.of(edges[0]), y_scale.of(edges[1])
    columns = int(x_scale.end - x_scale.start) // 2
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), columns)).astype(int))
    there = "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[chosen], high[chosen], strict=True))
    back = "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[chosen][::-1], low[chosen][::-1], strict=True))
    return f'<path class="band {band.color}" d="M{there}L{back}z"/>'


def _span(span: Span, x_scale: Scale, top: float, bottom: float) -> str:
    left, right = x_scale(span.low), x_scale(span.high)
    return (
        f'<rect class="band {span.color}" x="{left:.1f}" y="{top}" width="{max(right - left, 1.5):.1f}" '
        f'height="{bottom - top}"><title>{escape(span.name)}</title></rect>'
    )


def _bars(bars: Bars, x_scale: Scale, y_scale: Scale) -> str:
    parts = []
    for left, right, height in zip(bars.edges[:-1], bars.edges[1:], bars.heights, strict=True):
        x, end, y = x_scale(left), x_scale(right), y_scale(height)
        base = y_scale(max(0.0, y_scale.low)) if not y_scale.log else y_scale.start
        parts.append(
            f'<rect x="{x:.1f}" y="{min(y, base):.1f}" width="{max(end - x - 1, 0.5):.1f}" '
            f'height="{abs(base - y):.1f}"/>'
        )
    return f'<g class="bars {bars.color}">{"".join(parts)}</g>'


def _levels(levels: Sequence[Level], x_scale: Scale, y_scale: Scale) -> list[str]:
    """The lines; words that would lie on those of another line go below their own."""
    parts, taken = [], list[float]()
    for level in sorted(levels, key=lambda one: -one.value):
        if not (y_scale.low <= level.value <= y_scale.high):
            continue
        y = y_scale(level.value)
        words = y - 5 if y - 16 > y_scale.end and all(abs(y - 5 - other) > 13 for other in taken) else y + 14
        taken.append(words)
        parts.append(
            f'<g class="level {level.color}"><line class="{level.style}" x1="{x_scale.start}" x2="{x_scale.end}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/><text class="words" x="{x_scale.end - 4}" y="{words:.1f}" '
            f'text-anchor="end">{escape(level.name)}</text></g>'
        )
    return parts


def _mark(mark: Mark, x_scale: Scale, y_scale: Scale) -> str:
    if not (math.isfinite(mark.x) and math.isfinite(mark.y)) or (y_scale.log and mark.y <= 0):
        return ""
    y = y_scale(min(max(mark.y, y_scale.low), y_scale.high))
    tip = escape("\n".join(mark.tip))
    place = f"translate({x_scale(mark.x):.1f} {y:.1f})"
    return (
        f'<g class="mark {mark.color}" tabindex="0" data-tip="{tip}" transform="{place}">'
        f'<title>{tip}</title><path d="{_SHAPES[mark.shape]}"/></g>'
    )


def _legend(chart: Chart) -> str:
    entries = [
        f'<button type="button" class="key {curve.color} {curve.style}" data-series="{index}" '
        f'data-run="{escape(curve.run)}" aria-pressed="true"><i></i>{escape(curve.name)}</button>'
        for index, curve in enumerate(chart.curves)
    ]
    shaded = [(b.name, b.color) for b in chart.bands] + [(s.name, s.color) for s in chart.spans]
    areas = dict.fromkeys(shaded)
    entries += [f'<span class="key {color} area"><i></i>{escape(name)}</span>' for name, color in areas]
    entries += [f'<span class="key {bars.color} area"><i></i>{escape(bars.name)}</span>' for bars in chart.bars]
    kinds = {mark.kind: mark for mark in chart.marks}
    entries += [
        f'<span class="key {mark.color}"><svg viewBox="-6 -6 12 12"><path d="{_SHAPES[mark.shape]}"/></svg>'
        f"{escape(kind)}</span>"
        for kind, mark in kinds.items()
    ]
    return f'<div class="legend">{"".join(entries)}</div>' if len(entries) > 1 else ""


def _numbers(chart: Chart) -> str:
    """What the pointer shows, thinned; strings, so that the script need not know how numbers are written."""
    if not chart.curves:
        return ""
    series = []
    for curve in chart.curves:
        chosen = np.unique(np.linspace(0, len(curve.x) - 1, min(len(curve.x), _POINTS_IN_TIPS)).astype(int))
        if len(curve.x) == 0:
            chosen = np.empty(0, dtype=int)
        series.append(
            {
                "name": curve.name,
                "color": curve.color,
                "x": [float(f"{value:.6g}") for value in curve.x[chosen]],
                "y": [plain_number(float(value)) if np.isfinite(value) else "-" for value in curve.y[chosen]],
            }
        )
    text = json.dumps({"x": chart.x_label, "series": series}, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'
