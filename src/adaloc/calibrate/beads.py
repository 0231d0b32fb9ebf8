"""Beads in a through-focus stack: where they are, and square regions around them.

Axes: T planes, H and W of the camera frame, B beads, R pixels of a region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

from adaloc.emitters import FloatArray, IntArray
from adaloc.errors import DataError

_LEAST_SIGNAL_TO_NOISE = 8.0  # of a smoothed plane; noise alone reaches 5 to 6 in a large stack
_LEAST_SHARE_OF_BRIGHTEST = 0.15  # dimmer spots are debris, or add nothing but noise
_SPOT_SIGMA_PX = 1.5
_MOST_SHIFT_SHARE = 0.15  # of a region's side by which it may be moved to lie inside of the frame


@dataclass(frozen=True)
class BeadRegions:
    """What was cut out of one stack.

    Attributes:
        photons_BTRR: photons, background included.
        corner_B2: row and column of each region's first pixel in the frame.
        num_at_border: beads that were left out because they lie at the border.
        num_crowded: beads that were left out because another is near.
    """

    photons_BTRR: FloatArray
    corner_B2: IntArray
    num_at_border: int
    num_crowded: int


def cut_beads(photons_THW: FloatArray, roi_size_px: int, name: str) -> BeadRegions:
    """Finds the beads of a stack and cuts a region around each that stands alone.

    A bead is a spot that is bright against the noise in some plane; its centre is that of the light summed over the
    planes, which also engineered PSFs have.

    Args:
        photons_THW: the stack.
        roi_size_px: odd side of the regions.
        name: of the stack, for messages.

    Raises:
        DataError: when no bead is found, or none stands alone.
    """
    _, height, width = photons_THW.shape
    if min(height, width) < roi_size_px:
        raise DataError(
            f"The frames of {name} are {height} x {width} px, smaller than the region of {roi_size_px} px. "
            "Choose a smaller --roi-size-px."
        )
    centres = find_beads(photons_THW, roi_size_px)
    if len(centres) == 0:
        raise DataError(
            f"No bead was found in {name}: nothing in it is brighter than its noise by a factor of "
            f"{_LEAST_SIGNAL_TO_NOISE:g}. Check that it is the stack of beads, and that its planes come first."
        )
    half = roi_size_px // 2
    wanted = centres - half
    corner = np.clip(wanted, 0, np.array([height, width]) - roi_size_px)
    at_border = np.abs(corner - wanted).max(axis=1) > _MOST_SHIFT_SHARE * roi_size_px
    distance = np.abs(centres[:, None] - centres[None, :]).max(axis=2) + np.eye(len(centres)) * 1e9
    crowded = (distance.min(axis=1) < 0.75 * roi_size_px) & ~at_border
    keep = ~at_border & ~crowded
    if not keep.any():
        raise DataError(
            f"{name} has {len(centres)} beads, but {at_border.sum()} lie at the border and {crowded.sum()} beside "
            f"another one. Choose a smaller --roi-size-px than {roi_size_px}, or take a sparser field."
        )
    corner = corner[keep]
    regions = [photons_THW[:, r : r + roi_size_px, c : c + roi_size_px] for r, c in corner]
    return BeadRegions(np.stack(regions), corner, int(at_border.sum()), int(crowded.sum()))


def find_beads(photons_THW: FloatArray, roi_size_px: int) -> IntArray:
    """(B, 2) row and column of the beads, brightest first."""
    levelled = photons_THW - np.median(photons_THW, axis=(1, 2), keepdims=True)
    smoothed = gaussian_filter(levelled, (0, _SPOT_SIGMA_PX, _SPOT_SIGMA_PX), mode="nearest")
    signal = smoothed.max(axis=0) / _noise_of_smoothed(photons_THW)
    # The light of all planes, blurred to one blob per bead: an engineered PSF has several spots in a plane.
    blob_sigma = roi_size_px / 10
    light = gaussian_filter(levelled.mean(axis=0), blob_sigma, mode="nearest")
    light = light - minimum_filter(light, 2 * roi_size_px + 1)
    near = 2 * (roi_size_px // 4) + 1
    is_peak = (light == maximum_filter(light, near)) & (light > 0)
    bright = maximum_filter(signal, near) > _LEAST_SIGNAL_TO_NOISE
    peaks = np.argwhere(is_peak & bright)
    if len(peaks) == 0:
        return np.empty((0, 2), dtype=np.int64)
    strength = light[tuple(peaks.T)]
    peaks = peaks[np.argsort(-strength, kind="stable")]
    strong = np.sort(strength)[::-1] > _LEAST_SHARE_OF_BRIGHTEST * strength.max()
    return np.asarray(peaks[strong], dtype=np.int64)


def _noise_of_smoothed(photons_THW: FloatArray) -> float:
    """Standard deviation that noise has in a smoothed plane, from the differences between neighbouring planes."""
    difference = np.diff(photons_THW, axis=0)
    deviation = 1.4826 * float(np.median(np.abs(difference - np.median(difference)))) / np.sqrt(2)
    return float(max(deviation / (2 * np.sqrt(np.pi) * _SPOT_SIGMA_PX), 1e-9))
