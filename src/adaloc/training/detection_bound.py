"""What even a perfect detector pays in cross entropy: noise leaves open in which pixel an emitter lies."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from adaloc.emitters import FloatArray

_NUM_DRAWS = 16
_STRIDE = 7  # coprime to it: x and y errors together fill the plane evenly (a rank-1 lattice)
_LEAST_SHARE = 1e-17
_LEAST_SIGMA_PX = 1e-6  # keeps the quotients finite; an emitter that sharp costs nothing unless it sits on an edge


def detection_bound(
    x_M: FloatArray, y_M: FloatArray, covariance_M22: FloatArray, size_px: tuple[int, int], pos_weight: float = 1.0
) -> float:
    """Least expected cross entropy of the emitter pixels of one frame, in nats.

    The detector is told everything but the positions: how many targets there are, and of each the posterior, a normal
    distribution of the given covariance around a truth that it misses by a draw from the same distribution. A
    correlated covariance S is narrowed to (1 - |correlation|) diag(S): the rest, which is a covariance too, is told as
    well. Both only help it, so no real detector's expected loss is lower, as far as posteriors are normal and
    independent between emitters.

    Args:
        x_M, y_M: true positions of the targets, px.
        covariance_M22: of their x and y, px^2, as the joint CRLB gives it without knowing the pixel.
        size_px: (height, width) of the frame.
        pos_weight: weight of emitter pixels in the cross entropy.

    Returns:
        The sum over the frame's pixels, averaged over the draws.
    """
    variance_M2 = np.diagonal(covariance_M22, axis1=1, axis2=2)
    correlation_M = covariance_M22[:, 0, 1] / np.sqrt(variance_M2.prod(axis=1))
    sigma_M2 = np.sqrt(variance_M2 * (1 - np.abs(correlation_M))[:, None]).clip(_LEAST_SIGMA_PX)
    order = np.arange(_NUM_DRAWS)
    error_D2 = ndtri((np.stack([order, order * _STRIDE % _NUM_DRAWS], axis=1) + 0.5) / _NUM_DRAWS)
    total = 0.0
    for error_2 in error_D2:
        across = _pixel_shares(x_M + error_2[0] * sigma_M2[:, 0], sigma_M2[:, 0], size_px[1])
        down = _pixel_shares(y_M + error_2[1] * sigma_M2[:, 1], sigma_M2[:, 1], size_px[0])
        total += float(_least_cross_entropy(1 - _no_emitter(down, across), pos_weight).sum())
    return total / _NUM_DRAWS


def _pixel_shares(centre_M: FloatArray, sigma_M: FloatArray, num_pixels: int) -> FloatArray:
    """(M, num_pixels) share of each normal distribution that lies in each pixel of a row."""
    edges = np.arange(num_pixels + 1) - 0.5
    cumulative = ndtr((edges[None, :] - centre_M[:, None]) / sigma_M[:, None])
    return np.asarray(np.diff(cumulative, axis=1))


def _no_emitter(down_MH: FloatArray, across_MW: FloatArray) -> FloatArray:
    """(H, W) probability that no emitter lies in a pixel, from the shares of each in the rows and in the columns.

    Every emitter is looked for where it may be: all emitters times all pixels grow with the square of the field.
    """
    empty = np.ones((down_MH.shape[1], across_MW.shape[1]))
    for of_rows, of_columns in zip(down_MH, across_MW, strict=True):
        rows, columns = _extent(of_rows), _extent(of_columns)
        empty[rows, columns] *= 1 - of_rows[rows, None] * of_columns[columns]
    return empty


def _extent(share: FloatArray) -> slice:
    """From the first to the last pixel that holds a share; 1 less any smaller one is 1."""
    there = np.flatnonzero(share > _LEAST_SHARE)
    return slice(there[0], there[-1] + 1) if len(there) else slice(0)


def _least_cross_entropy(probability: FloatArray, pos_weight: float) -> FloatArray:
    """Expected weighted cross entropy of the best prediction of an event of this probability, nats."""
    p = np.clip(probability, 0.0, 1.0)
    positive = pos_weight * p
    total = positive + 1 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        both = positive * np.log(positive / total) + (1 - p) * np.log((1 - p) / total)
    return np.where((p > 0) & (p < 1), -both, 0.0)
