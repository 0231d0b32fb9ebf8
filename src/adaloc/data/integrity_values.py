"""Checks of the samples' own numbers: dead, saturated and repeated frames, and the units of z, photons, background."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from adaloc.config import CameraConfig, SimulationConfig
from adaloc.data.finding import Finding, severity_of
from adaloc.data.windows import Sample
from adaloc.emitters import FloatArray
from adaloc.simulation.camera import to_photons

_MANY_FRAMES = 0.5
# At the camera's limit lie the cores of the brightest spots first. One pixel in 10,000 is one per six frames of
# 40 x 40 px: photon counts begin to be cut. At one in twenty, most emitters are.
_SATURATED_WARN, _SATURATED_STOP = 1e-4, 0.05
_FULL_SCALES_ADU = tuple(2**bits - 1 for bits in (8, 10, 11, 12, 13, 14, 15, 16))
# Objectives of high NA see some micrometres, engineered PSFs of low NA at most about 20.
_DEEPEST_NM = 20_000.0
_FLATTEST_NM = 2.0  # z that vary, but by less than a hundredth of any axial precision
_BEYOND_SIMULATION = 5.0  # the config's z range may differ from the data's, but hardly five times
# Spots lose up to half of their light over the border of a small field, and a PSF's tails go unseen, so ratios from
# 0.5 are healthy; nothing adds light in proportion to the photons, so the upper limit is nearer.
_PHOTONS_WARN = (0.4, 1.5)
_PHOTONS_STOP = (0.1, 10.0)  # no loss in the optics and no quantum efficiency explains a factor of ten
_SLOPE_SIGMAS = 4.0  # for light to follow photons at all
_RATIO_SIGMAS = 3.0  # healthy ratios lie well inside of the limits already
_MIN_DIFFERENCES = 20
_BACKGROUND_FACTOR = 2.0
_NEGATIVE_SHARE = 0.25  # of the pixels clearly below zero photons: the baseline cannot be right
_MAX_FRAMES_READ = 4000  # of all samples, for the checks that look at every pixel


def check_values(
    training: Sequence[Sample], validation: Sequence[Sample], simulation: SimulationConfig
) -> tuple[list[Finding], dict[str, float | str]]:
    """All of them.

    Returns:
        Findings, and what was measured where that is of interest without one.
    """
    samples = [*training, *validation]
    dead = check_dead_frames(samples)
    if dead is not None and dead.severity == "stop":
        return [dead, *check_duplicates(training, validation)], {}  # there is no light to measure
    light = measure_light(samples, simulation.camera)
    findings = [
        dead,
        check_saturation(samples),
        *check_duplicates(training, validation),
        check_z(samples, max(abs(simulation.emitters.z_min_nm), abs(simulation.emitters.z_max_nm))),
        *check_light(light, samples, simulation.camera),
    ]
    measured: dict[str, float | str] = {}
    if light.slope_sigma > 0:
        measured = {"photons_ratio": round(light.slope, 4), "photons_ratio_sigma": round(light.slope_sigma, 4)}
    return [finding for finding in findings if finding is not None], measured


def check_dead_frames(samples: Sequence[Sample]) -> Finding | None:
    """Frames of one value, frames that are not finite, and frames that repeat the one before bit by bit."""
    constant = repeated = not_finite = total = 0
    for sample in samples:
        frames = sample.frames_THW
        total += len(frames)
        constant += int((frames.max(axis=(1, 2)) == frames.min(axis=(1, 2))).sum())
        if frames.dtype.kind == "f":
            not_finite += int((~np.isfinite(frames)).any(axis=(1, 2)).sum())
        repeated += sum(np.array_equal(before, frame) for before, frame in pairwise(frames))
    bad = max(constant, repeated, not_finite)
    if bad == 0:
        return None
    severity = severity_of(bad > _MANY_FRAMES * total or not_finite > 0)
    return Finding(
        "dead_frames", severity,
        {"num_constant": constant, "num_repeated": repeated, "num_not_finite": not_finite, "num_frames": total},
    )  # fmt: skip


def check_saturation(samples: Sequence[Sample]) -> Finding | None:
    """Pixels at the largest value, when that is a camera's full scale (2^n - 1)."""
    largest = max(float(np.nanmax(sample.frames_THW)) for sample in samples)
    if largest not in _FULL_SCALES_ADU:
        return None
    step = _frame_step(samples)
    clipped = sum(int((s.frames_THW[::step] == largest).sum()) for s in samples)
    share = clipped / sum(s.frames_THW[::step].size for s in samples)
    if share < _SATURATED_WARN:
        return None
    severity = severity_of(share > _SATURATED_STOP)
    return Finding("saturated_frames", severity, {"share": round(share, 6), "full_scale_adu": largest})


def check_duplicates(training: Sequence[Sample], validation: Sequence[Sample]) -> list[Finding]:
    """Samples with the same frames bit by bit, and those that are in training and in validation."""
    by_content: dict[bytes, list[tuple[str, bool]]] = defaultdict(list)
    for part, is_validation in ((training, False), (validation, True)):
        for sample in part:
            frames = np.ascontiguousarray(sample.frames_THW)
            key = hashlib.blake2b(frames.data, digest_size=16).digest()
            by_content[key].append((sample.name, is_validation))
    findings = []
    same = [members for members in by_content.values() if len(members) > 1]
    within = [m for m in same if sum(is_validation for _, is_validation in m) != 1 or len(m) > 2]
    if within:
        total = len(training) + len(validation)
        extra = sum(len(members) - 1 for members in within)
        severity = severity_of(extra >= _MANY_FRAMES * total)
        findings.append(
            Finding(
                "duplicate_samples",
                severity,
                {"num_duplicates": extra, "num_samples": total, "samples": _names([n for m in within for n, _ in m])},
            )
        )
    leaked = [n for m in same if not all(v for _, v in m) for n, is_validation in m if is_validation]
    if leaked:
        severity = severity_of(len(leaked) >= _MANY_FRAMES * len(validation))
        findings.append(
            Finding(
                "validation_leak",
                severity,
                {"num_leaked": len(leaked), "num_validation": len(validation), "samples": _names(leaked)},
            )
        )
    return findings


def check_z(samples: Sequence[Sample], simulated_nm: float) -> Finding | None:
    """z in another unit: a range that no objective sees, none at all, or far from the config's.

    Args:
        samples: with z in nm.
        simulated_nm: largest |z| of the config's simulation.
    """
    z = np.abs(np.concatenate([s.emitters.z for s in samples]))
    typical = float(np.quantile(z, 0.9))
    evidence: dict[str, float | str] = {"z_typical_nm": float(f"{typical:.4g}"), "z_config_nm": simulated_nm}
    if typical > _DEEPEST_NM:
        return Finding("z_unit", "stop", {**evidence, "likely": "nm"})
    if 0 < typical < _FLATTEST_NM and simulated_nm > 10 * _FLATTEST_NM and float(np.std(z)) > 0:
        return Finding("z_unit", "stop", {**evidence, "likely": "mm"})
    if simulated_nm > 0 and typical > _BEYOND_SIMULATION * simulated_nm:
        return Finding("z_unit", "warn", {**evidence, "likely": "unknown"})
    return None


class Light:
    """Light in the frames against the photons of the emitters; all in photons, by the config's camera.

    Attributes:
        slope, slope_sigma: change of a frame's light per photon of its emitters, from one frame to the next; sigma 0
            when there are too few frames.
        brightness: mean light per pixel. emitters_per_px: mean photons of emitters per pixel.
        negative_share: share of the pixels clearly below zero photons.
    """

    def __init__(
        self, slope: float, slope_sigma: float, brightness: float, emitters_per_px: float, negative_share: float
    ) -> None:
        self.slope, self.slope_sigma = slope, slope_sigma
        self.brightness, self.emitters_per_px = brightness, emitters_per_px
        self.negative_share = negative_share


def measure_light(samples: Sequence[Sample], camera: CameraConfig) -> Light:
    """Regresses the change of each frame's light on the change of its emitters' photons.

    No PSF, no isolated emitters and no background are needed: what stays from frame to frame drops out.
    """
    light_change, photon_change = [], []
    light_sum = photon_sum = 0.0
    num_pixels = 0
    for sample in samples:
        frames, table = sample.frames_THW, sample.emitters
        num_frames, height, width = frames.shape
        mean_adu = frames.mean(axis=(1, 2), dtype=np.float64)
        light_T = to_photons(torch.from_numpy(mean_adu), camera).double().numpy() * (height * width)
        inside = (table.x > -0.5) & (table.x < width - 0.5) & (table.y > -0.5) & (table.y < height - 0.5)
        photons_T = np.bincount(table.frame[inside], table.photons[inside], minlength=num_frames)
        light_change.append(np.diff(light_T))
        photon_change.append(np.diff(photons_T))
        light_sum, photon_sum = light_sum + float(light_T.sum()), photon_sum + float(photons_T.sum())
        num_pixels += frames.size
    slope, sigma = _robust_slope(np.concatenate(photon_change), np.concatenate(light_change))
    step = _frame_step(samples)
    # Three standard deviations of read noise, and one photon for rounding, are no sign of a wrong baseline.
    limit = -3 * camera.read_noise_e / camera.em_gain / camera.quantum_efficiency - 1
    below = sum(
        int((to_photons(torch.from_numpy(s.frames_THW[::step].astype(np.float32)), camera) < limit).sum())
        for s in samples
    )
    share = below / sum(s.frames_THW[::step].size for s in samples)
    return Light(slope, sigma, light_sum / num_pixels, photon_sum / num_pixels, share)


def check_light(light: Light, samples: Sequence[Sample], camera: CameraConfig) -> list[Finding]:
    """The units of photons and of the background, and the camera's baseline."""
    findings = []
    if light.negative_share > _NEGATIVE_SHARE:
        findings.append(
            Finding(
                "wrong_input_scaling",
                "stop",
                {"negative_share": round(light.negative_share, 4), "baseline_adu": camera.baseline_adu},
            )
        )
    # Frames that do not follow their emitters at all are decoupled, which another check says; here light must rise.
    if light.slope_sigma <= 0 or light.slope < _SLOPE_SIGMAS * light.slope_sigma:
        return findings
    margin = _RATIO_SIGMAS * light.slope_sigma

    def outside(limits: tuple[float, float]) -> bool:
        return light.slope + margin < limits[0] or light.slope - margin > limits[1]

    if outside(_PHOTONS_WARN):
        findings.append(
            Finding(
                "photons_unit",
                severity_of(outside(_PHOTONS_STOP)),
                {"ratio": float(f"{light.slope:.4g}"), "ratio_sigma": float(f"{light.slope_sigma:.2g}")},
            )
        )
        return findings  # the background below is measured with this slope
    stated = np.concatenate([s.background_T for s in samples])
    stated = stated[np.isfinite(stated)]
    if len(stated):
        here = light.brightness - light.slope * light.emitters_per_px
        spread = light.slope_sigma * light.emitters_per_px
        # Clipping at zero ADU and a baseline that is a few ADU off move the light by about the read noise.
        tolerance = 3 * spread + 2 * camera.read_noise_e / camera.em_gain / camera.quantum_efficiency + 3
        mean = float(stated.mean())
        if mean > _BACKGROUND_FACTOR * max(here, 0) + tolerance or here > _BACKGROUND_FACTOR * mean + tolerance:
            findings.append(
                Finding(
                    "background_unit", "warn", {"stated_photons": round(mean, 2), "measured_photons": round(here, 2)}
                )
            )
    return findings


def _robust_slope(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Slope through the origin and its standard error, without the few points that lie far off; sigma 0 for too few."""
    if len(x) < _MIN_DIFFERENCES or not np.any(x):
        return 0.0, 0.0
    keep = np.ones(len(x), bool)
    for _ in range(3):  # jumps of the background between blocks of frames are outliers
        slope = float((x[keep] * y[keep]).sum() / max(float((x[keep] ** 2).sum()), 1e-300))
        residual = y - slope * x
        spread = 1.4826 * float(np.median(np.abs(residual[keep])))
        keep = np.abs(residual) <= max(5 * spread, 1e-12)
    power = float((x[keep] ** 2).sum())
    if keep.sum() < _MIN_DIFFERENCES or power == 0:
        return 0.0, 0.0
    # Successive differences share a frame: their residuals are correlated by -1/2, which this ignores on the safe side.
    return slope, float(np.sqrt((residual[keep] ** 2).sum() / (keep.sum() - 1) / power))


def _frame_step(samples: Sequence[Sample]) -> int:
    return max(1, sum(len(s.frames_THW) for s in samples) // _MAX_FRAMES_READ)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + ("..." if len(names) > 8 else "")
