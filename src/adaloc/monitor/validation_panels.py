"""What the report shows of a model's work on the validation frames, from validation.json."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

from adaloc.emitters import FloatArray
from adaloc.monitor.analysis import plain_number
from adaloc.monitor.chart import Bars, Chart, Curve, Level
from adaloc.monitor.picture import gray_uri
from adaloc.monitor.say import Say
from adaloc.monitor.validation_file import (
    SIGMA_RANGE,
    CameraCheck,
    Points,
    PSFCheck,
    ScoredFrame,
    SubPixelAxis,
    Validation,
)

_ARMS_PX = 0.8  # half the width of a cross
_RADIUS_PX = 1.3
_MUCH_BIAS = 0.1  # of the density, from which a preference within the pixel shows in an image
_CHANCE = 1e-3
_GOOD_CORRELATION = 0.95
_GOOD_SPREAD = 0.1


@dataclass(frozen=True)
class FramePicture:
    """One frame of the gallery: words above it, and the picture as SVG."""

    title: str
    score: str
    svg: str


def gallery(validation: Validation, say: Say) -> dict[str, list[FramePicture]]:
    """The best and the worst frames, all of one brightness scale."""
    if not validation.frames:
        return {}
    values = np.concatenate([np.array(frame.photons, dtype=np.float64).ravel() for frame in validation.frames])
    low, high = np.percentile(values, [0.5, 99.7])
    shown: dict[str, list[FramePicture]] = {"best": [], "worst": []}  # few frames may all be among the best
    for frame in validation.frames:
        rmse = "-" if frame.rmse_lateral_nm is None else f"{frame.rmse_lateral_nm:.0f} nm"
        shown[frame.rank].append(
            FramePicture(
                say("{sample}, frame {frame}", sample=frame.sample, frame=frame.frame),
                say("Jaccard {jaccard:.2f}, RMSE {rmse}", jaccard=frame.jaccard, rmse=rmse),
                _frame_svg(frame, float(low), float(high), validation.pixel_size_nm.x, say),
            )
        )
    return shown


def _frame_svg(frame: ScoredFrame, low: float, high: float, pixel_nm: float, say: Say) -> str:
    image = np.array(frame.photons, dtype=np.float64)
    height, width = image.shape
    bar_px = 1000 / pixel_nm if 1000 / pixel_nm < 0.6 * width else 200 / pixel_nm
    bar_words = "1 µm" if 1000 / pixel_nm < 0.6 * width else "200 nm"
    label = say("Camera frame with true emitters and localizations")
    return (
        f'<svg class="frame" viewBox="-0.5 -0.5 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<image x="-0.5" y="-0.5" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="{gray_uri(image, low, high)}"/>'
        f"{_truth(frame.truth, frame, say)}{_found(frame.localizations, frame, say)}"
        f'<path class="bar" d="M1.5,{height - 2.5}h{bar_px:.2f}"/>'
        f'<text class="bar-words" x="{1.5 + bar_px / 2:.2f}" y="{height - 3.6}" text-anchor="middle">{bar_words}</text>'
        "</svg>"
    )


def _truth(points: Points, frame: ScoredFrame, say: Say) -> str:
    parts = []
    for x, y, tip, paired in _placed(points, frame, say("emitter, found"), say("emitter, missed"), say):
        kind = "found" if paired else "missed"
        parts.append(
            f'<circle class="{kind}" data-tip="{tip}" cx="{x:.2f}" cy="{y:.2f}" r="{_RADIUS_PX}"><title>{tip}</title>'
            "</circle>"
        )
    return "".join(parts)


def _found(points: Points, frame: ScoredFrame, say: Say) -> str:
    parts = []
    for x, y, tip, paired in _placed(points, frame, say("localization, true"), say("localization, false"), say):
        kind = "hit" if paired else "false"
        arms = f"M{x - _ARMS_PX:.2f},{y - _ARMS_PX:.2f}l{2 * _ARMS_PX},{2 * _ARMS_PX}"
        arms += f"M{x - _ARMS_PX:.2f},{y + _ARMS_PX:.2f}l{2 * _ARMS_PX},{-2 * _ARMS_PX}"
        parts.append(f'<path class="{kind}" data-tip="{tip}" d="{arms}"><title>{tip}</title></path>')
    return "".join(parts)


def _placed(
    points: Points, frame: ScoredFrame, paired: str, alone: str, say: Say
) -> list[tuple[float, float, str, bool]]:
    """Places in the picture with words; emitters without a partner in the border count neither way, and are told so."""
    rows = []
    for x, y, z, photons, is_paired in zip(points.x, points.y, points.z, points.photons, points.paired, strict=True):
        place = say("x {x:.2f} px, y {y:.2f} px, z {z:.0f} nm", x=x, y=y, z=z)
        light = say("{n:.0f} photons", n=photons)
        tip = escape("\n".join([paired if is_paired else alone, place, light]))
        rows.append((x - frame.left, y - frame.top, tip, is_paired))
    return rows


def sub_pixel_charts(validation: Validation, say: Say) -> list[Chart]:
    """Histograms of the positions within the pixel, over uniform ones."""
    return [_sub_pixel_chart(name, axis, say) for name, axis in validation.sub_pixel.items()]


def _sub_pixel_chart(name: str, axis: SubPixelAxis, say: Say) -> Chart:
    counts, truth = np.array(axis.counts, dtype=np.float64), np.array(axis.truth_counts, dtype=np.float64)
    edges = np.linspace(-0.5, 0.5, len(counts) + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    if axis.p_value > _CHANCE:
        verdict = say("No preference beyond chance")
    elif axis.amplitude < _MUCH_BIAS:
        verdict = say("A slight preference")
    else:
        verdict = say("A preference that will show in an image: train longer, or on more samples")
    answer = say(
        "{verdict}: the density swings by {share:.1f} % about its mean, most at {peak:.2f} px (chance {p:.2g}).",
        verdict=verdict, share=100 * axis.amplitude, peak=axis.peak_px, p=axis.p_value,
    )  # fmt: skip
    curves = []
    if truth.sum() > 0:
        curves.append(Curve(say("true emitters"), middle, truth / truth.mean(), "c7", "linedots"))
    return Chart(
        say("Do localizations prefer places within a pixel? ({axis})", axis=name),
        answer,
        say("Histogram of the positions within the pixel"),
        say("{axis} within the pixel, px; 0 is its centre", axis=name),
        say("density over uniform"),
        curves=curves,
        bars=[Bars(say("localizations"), edges, counts / max(counts.mean(), 1e-9), "c1")],
        levels=[Level(say("uniform"), 1.0, "c3")],
        x_limits=(-0.5, 0.5),
    )


def uncertainty_charts(validation: Validation, say: Say) -> list[Chart]:
    """Errors over predicted uncertainties of all axes, beside the normal distribution that they shall have."""
    axes = validation.uncertainty
    if not axes:
        return []
    worst = max(axes.values(), key=lambda axis: abs(np.log(max(axis.spread, 1e-9))))
    if abs(worst.spread - 1) <= _GOOD_SPREAD:
        verdict = say("They can be trusted")
    elif worst.spread > 1:
        verdict = say("They are too small")
    else:
        verdict = say("They are too large")
    spreads = ", ".join(f"{name} {axis.spread:.2f}" for name, axis in axes.items())
    shares = ", ".join(f"{name} {100 * axis.within_one:.0f} %" for name, axis in axes.items())
    answer = say(
        "{verdict}: errors over uncertainties have a standard deviation of {spreads} (1 is right); {shares} of the "
        "errors lie within one uncertainty (68 % of a normal distribution).",
        verdict=verdict, spreads=spreads, shares=shares,
    )  # fmt: skip
    curves = []
    for (name, axis), color in zip(axes.items(), ("c1", "c2", "c4"), strict=False):
        counts = np.array(axis.counts, dtype=np.float64)
        edges = np.linspace(-SIGMA_RANGE, SIGMA_RANGE, len(counts) + 1)
        density = counts / max(counts.sum(), 1) / (edges[1] - edges[0])
        curves.append(Curve(name, (edges[1:] + edges[:-1]) / 2, density, color))
    x = np.linspace(-SIGMA_RANGE, SIGMA_RANGE, 81)
    curves.append(Curve(say("normal distribution"), x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "c7"))
    return [
        Chart(
            say("Are the predicted uncertainties right?"),
            answer,
            say("Histogram of errors over predicted uncertainties"),
            say("error over its uncertainty"),
            say("density"),
            curves=curves,
            x_limits=(-SIGMA_RANGE, SIGMA_RANGE),
        )
    ]


def camera_chart(check: CameraCheck, say: Say) -> Chart:
    """Noise against light, beside the line that the config's camera gives."""
    mean = np.array(check.mean_adu)
    ratio = check.slope_adu / check.expected_slope_adu
    answer = say(
        "Variance grows by {slope:.3g} ADU a step of 1 ADU; the config's camera gives {expected:.3g} "
        "(ratio {ratio:.2f}).",
        slope=check.slope_adu, expected=check.expected_slope_adu, ratio=ratio,
    )  # fmt: skip
    if check.slope_sigma is not None:
        answer += say(" Standard error {sigma:.2g}.", sigma=check.slope_sigma)
    order = np.argsort(mean)
    return Chart(
        say("Is the noise of the frames that of the config's camera?"),
        answer,
        say("Variance of the noise over the mean"),
        say("mean, ADU"),
        say("variance, ADU²"),
        curves=[
            Curve(say("frames"), mean, np.array(check.variance_adu2), "c1", "dots"),
            Curve(say("the config's camera"), mean[order], np.array(check.expected_adu2)[order], "c3", "dashed"),
        ],
    )


@dataclass(frozen=True)
class PSFPair:
    """Measured and described PSF at one depth, as data addresses, with words."""

    depth: str
    detail: str
    measured: str
    model: str


def psf_pairs(check: PSFCheck, say: Say) -> tuple[str, list[PSFPair]]:
    """The verdict in words, and the pictures; each depth has one brightness scale."""
    pairs = []
    for z, num, seen, expected, correlation in zip(
        check.z_nm, check.num, check.measured, check.model, check.correlation, strict=True
    ):
        measured, model = np.array(seen, dtype=np.float64), np.array(expected, dtype=np.float64)
        low, high = _common(measured, model)
        pairs.append(
            PSFPair(
                f"{z:+.0f} nm",
                say("{n} emitters, correlation {r:.3f}", n=num, r=correlation),
                gray_uri(measured, low, high),
                gray_uri(model, low, high),
            )
        )
    lowest = min(check.correlation)
    if lowest >= _GOOD_CORRELATION:
        return say("Yes: the images correlate by {r:.3f} or more at every depth.", r=lowest), pairs
    return (
        say(
            "At {z} nm they correlate by only {r:.2f}: a wrong PSF, or too few emitters that lie alone.",
            z=plain_number(check.z_nm[check.correlation.index(lowest)]), r=lowest,
        ),
        pairs,
    )  # fmt: skip


def _common(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    return float(min(first.min(), second.min(), 0.0)), float(max(first.max(), second.max()))
