"""How far a PSF by itself displaces its light from the emitter.

A tetrapod or a decentred mask has its light elsewhere than at the coordinates that it is defined by, and a network
learns that like any other shape. Only what is left beyond it is a fault of the coordinates.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import correlate2d

from adaloc.data.integrity_scores import linear_spot_filter
from adaloc.emitters import FloatArray
from adaloc.simulation.psf import PSF

_DEPTHS = 15  # between the 5th and the 95th percentile of z: steps of 250 nm over the 4 um of a tetrapod


def mean_spot(psf: PSF, z_nm: FloatArray, reach_px: int) -> FloatArray:
    """The filtered mean image of emitters at a pixel's centre, over the depths that occur.

    Args:
        psf: without the aberrations of a field map, whose mean is no displacement.
        z_nm: (N,) of the emitters.
        reach_px: of the displacements that will be asked for.

    Returns:
        (4 reach + 1, 4 reach + 1), the emitter in the middle: twice the reach, so that it can be moved.
    """
    depths = torch.from_numpy(np.quantile(z_nm, np.linspace(0.05, 0.95, _DEPTHS))).float()
    zero = torch.zeros(_DEPTHS)
    image = psf.images(zero, zero, depths).mean(dim=0).double().numpy()
    side = 4 * reach_px + 1
    around = max(side, image.shape[0] | 1)
    before = around // 2 - image.shape[0] // 2
    after = around - image.shape[0] - before
    spot = linear_spot_filter(np.pad(image, ((before, after), (before, after)))).astype(np.float64)
    cut = around // 2 - side // 2
    return spot[cut : cut + side, cut : cut + side]


def displacement(total: FloatArray, spot: FloatArray) -> tuple[float, float]:
    """Where in a map of displacements the spot lies: of highest normalized correlation, to a fraction of a pixel.

    Args:
        total: (2 reach + 1, 2 reach + 1) light at each displacement from the emitters.
        spot: of `mean_spot` for the same reach.

    Returns:
        (x, y) in px, 0 where the light lies as the PSF has it.
    """
    # The spot moved by d has at u what it has at u - d without moving: correlating the other way round gives -d.
    product = correlate2d(spot, total, mode="valid")
    power = correlate2d(spot**2, np.ones_like(total), mode="valid")
    match = (product / np.sqrt(np.maximum(power, 1e-12 * power.max())))[::-1, ::-1]
    reach = len(match) // 2
    row, column = np.unravel_index(int(np.argmax(match)), match.shape)
    x, y = (
        int(peak) + (vertex(line[peak - 1 : peak + 2]) if 0 < peak < len(line) - 1 else 0.0)
        for line, peak in ((match[row], column), (match[:, column], row))
    )
    return x - reach, y - reach


def vertex(around_3: FloatArray) -> float:
    """Of the parabola through a highest value and its two neighbours, from the middle; 0 where there is none."""
    left, middle, right = (float(value) for value in around_3)
    curvature = left - 2 * middle + right
    return 0.5 * (left - right) / curvature if curvature < 0 else 0.0
