"""Fourier ring correlation: the resolution of a localization image, from the image alone.

The localizations are divided into two halves; how well their images agree at a spatial frequency says whether there
is structure or noise (Nieuwenhuizen et al., Nature Methods 10, 557, 2013; Banterle et al., J. Struct. Biol. 183, 363).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError
from adaloc.localize.frame_blocks import frame_blocks

THRESHOLD = 1 / 7
MAX_SIDE_PX = 8192
_TAPER = 1 / 8  # of the side; a sharp edge would be structure of its own


@dataclass(frozen=True)
class RingCorrelation:
    """The curve and what it says.

    Attributes:
        frequency_per_nm: middle of each ring, 1/nm.
        correlation: of each ring, -1 to 1.
        smoothed: the same, averaged over neighbouring rings.
        resolution_nm: 1 over the frequency at which the smoothed curve first falls below 1/7; None where it does
            not, or was never above.
    """

    frequency_per_nm: FloatArray
    correlation: FloatArray
    smoothed: FloatArray
    resolution_nm: float | None


def fourier_ring_correlation(
    table: EmitterTable,
    *,
    pixel_size_nm: PixelSize,
    render_pixel_nm: float = 5.0,
    num_blocks: int | None = 20,
    seed: int = 0,
) -> RingCorrelation:
    """Correlates the images of two halves of the localizations.

    The halves are made of whole blocks of frames, drawn at random: localizations of one blink stay in the same half.
    Molecules that come back later are in both halves, and make the image look sharper than its structure is sampled;
    group them before (`adaloc group`) where that matters.

    Args:
        table: localizations.
        pixel_size_nm: camera pixel.
        render_pixel_nm: pixel of the images; resolutions below 4 of them are not trustworthy.
        num_blocks: blocks of equally many frames; None draws localizations one by one.
        seed: of the draw.

    Raises:
        DataError: when there are too few localizations, or the image would be too large.
    """
    if len(table) < 100:
        raise DataError(f"{len(table)} localizations are too few for a Fourier ring correlation.")
    first = _random_half(table, num_blocks, np.random.default_rng(seed))
    points = np.column_stack([table.x * pixel_size_nm.x, table.y * pixel_size_nm.y])
    low, extent = points.min(axis=0), float(np.ptp(points, axis=0).max())
    side = fft.next_fast_len(int(extent / render_pixel_nm) + 1, real=True)
    if side > MAX_SIDE_PX:
        raise DataError(
            f"The image would have {side} px on a side, and {MAX_SIDE_PX} is the limit. Choose pixels of "
            f"{math.ceil(extent / MAX_SIDE_PX)} nm or more, or a part of the field."
        )
    window = _window(side)
    images = [_image(points[half] - low, side, render_pixel_nm) * window for half in (first, ~first)]
    return ring_correlation(images[0], images[1], render_pixel_nm)


def ring_correlation(first: FloatArray, second: FloatArray, pixel_nm: float) -> RingCorrelation:
    """Fourier ring correlation of two square images of the same side.

    Raises:
        ValueError: when they are not square and alike.
    """
    side = first.shape[0]
    if first.shape != (side, side) or second.shape != first.shape:
        raise ValueError(f"two square images of one size are needed, not {first.shape} and {second.shape}")
    spectra = [fft.rfft2(image.astype(np.float32)) for image in (first, second)]
    rows, columns = fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None, :]
    ring = np.rint(side * np.hypot(rows, columns)).astype(np.int64)
    num_rings = side // 2  # beyond that the rings are cut by the corners
    # The transform of a real image keeps half of the plane: all columns but the first and last stand for two.
    twice = np.full(ring.shape, 2.0)
    twice[:, 0] = 1.0
    if side % 2 == 0:
        twice[:, -1] = 1.0
    sums = [
        np.bincount(ring.ravel(), (twice * part).ravel())[1:num_rings]
        for part in ((spectra[0] * spectra[1].conj()).real, np.abs(spectra[0]) ** 2, np.abs(spectra[1]) ** 2)
    ]
    power = np.sqrt(sums[1] * sums[2])
    correlation = np.divide(sums[0], power, out=np.zeros_like(power), where=power > 0)
    frequency = np.arange(1, num_rings) / (side * pixel_nm)
    smoothed = _smoothed(correlation, max(1, num_rings // 40))
    return RingCorrelation(frequency, correlation, smoothed, _resolution_nm(frequency, smoothed))


def _random_half(table: EmitterTable, num_blocks: int | None, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    if num_blocks is None:
        return rng.random(len(table)) < 0.5
    block = frame_blocks(table.frame, num_blocks)
    num = int(block.max()) + 1
    if num < 2:
        raise DataError("All localizations lie in the same frame: they cannot be divided by frames.")
    chosen = rng.permutation(num)[: num // 2]
    return np.isin(block, chosen)


def _image(points_nm: FloatArray, side: int, pixel_nm: float) -> FloatArray:
    index = (points_nm / pixel_nm).astype(np.int64)
    return np.bincount(index[:, 0] * side + index[:, 1], minlength=side * side).reshape(side, side).astype(np.float64)


def _window(side: int) -> FloatArray:
    """Tukey's window in two dimensions."""
    from scipy.signal.windows import tukey  # slow to import

    profile = tukey(side, 2 * _TAPER)
    return np.asarray(profile[:, None] * profile[None, :])


def _smoothed(values: FloatArray, half_width: int) -> FloatArray:
    """Mean over 2 half_width + 1 neighbours, fewer at the ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half_width, 0), np.minimum(at + half_width + 1, len(values))
    return np.asarray((total[high] - total[low]) / (high - low))


def _resolution_nm(frequency: FloatArray, smoothed: FloatArray) -> float | None:
    below = np.flatnonzero(smoothed < THRESHOLD)
    if len(below) == 0 or below[0] == 0:
        return None
    after = int(below[0])
    share = (smoothed[after - 1] - THRESHOLD) / (smoothed[after - 1] - smoothed[after])
    crossing = frequency[after - 1] + share * (frequency[after] - frequency[after - 1])
    return float(1 / crossing)
