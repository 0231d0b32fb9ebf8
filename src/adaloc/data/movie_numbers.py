"""Whether a movie's numbers are those of a camera: whole, of 16 bit, and with its baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaloc.config import CameraConfig
from adaloc.data.finding import Finding

_FULL_SCALES_ADU = (255, 1023, 4095, 16383, 65535)
_SATURATED_SHARE = 1e-4
_BELOW_BASELINE_SIGMAS = 6.0
_AT_ZERO_SHARE = 0.03  # of the baseline: subtracting each frame's or the movie's minimum leaves the lowest there
_FEW_PIXELS = 4096  # fewer do not show which numbers a movie holds


@dataclass(frozen=True)
class RawFacts:
    """Numbers as they are in the file.

    Attributes:
        bytes_per_pixel: of the file's number type.
        lowest, highest: ADU. dark: the 0.1 % quantile.
        is_whole: whether all are whole numbers.
        step: all are multiples of it above the lowest; 1 for a camera's own numbers, 0 when not whole.
        full_scale_share: share of the pixels at the highest value, where that is a camera's full scale; else 0.
    """

    bytes_per_pixel: int
    lowest: float
    highest: float
    dark: float
    is_whole: bool
    step: int
    full_scale_share: float


def look_at_numbers(raw_THW: npt.NDArray[np.generic]) -> RawFacts:
    """What kind of numbers a movie holds."""
    values = np.asarray(raw_THW)
    is_whole = values.dtype.kind in "ui" or bool((values == np.rint(values)).all())
    step = 0
    if is_whole:
        whole = np.unique(values).astype(np.int64)
        step = int(np.gcd.reduce(np.diff(whole))) if len(whole) > 1 else 1
    highest = float(values.max())
    at_top = float((values == values.max()).mean()) if highest in _FULL_SCALES_ADU else 0.0
    dark = float(np.quantile(values, 0.001))
    return RawFacts(values.dtype.itemsize, float(values.min()), highest, dark, is_whole, step, at_top)


def check_numbers(raw: RawFacts, num_pixels: int, camera: CameraConfig) -> list[Finding]:
    """Whether these are numbers that a camera gives, untouched; `num_pixels` were looked at."""
    findings = []
    if num_pixels >= _FEW_PIXELS and (raw.bytes_per_pixel == 1 or (raw.is_whole and raw.highest == 255)):
        findings.append(Finding("eight_bit", "warn", {"lowest_adu": raw.lowest, "highest_adu": raw.highest}))
    elif not raw.is_whole:
        findings.append(Finding("not_adu", "warn", {"lowest_adu": raw.lowest, "highest_adu": raw.highest}))
    elif num_pixels >= _FEW_PIXELS and raw.step > 1:
        findings.append(Finding("coarse_steps", "warn", {"step_adu": float(raw.step)}))
    read_noise_adu = camera.read_noise_e / camera.gain_e_per_adu
    is_scaled = any(f.cause in ("eight_bit", "not_adu") for f in findings)
    if (
        not is_scaled
        and raw.lowest <= _AT_ZERO_SHARE * camera.baseline_adu
        and raw.dark < camera.baseline_adu - _BELOW_BASELINE_SIGMAS * read_noise_adu - 1
    ):
        findings.append(
            Finding("offset_removed", "warn", {"dark_adu": raw.dark, "baseline_config_adu": camera.baseline_adu})
        )
    if raw.full_scale_share > _SATURATED_SHARE and raw.highest > 255:
        findings.append(Finding("saturated", "warn", {"share": raw.full_scale_share, "highest_adu": raw.highest}))
    return findings
