"""Zernike polynomials in the order and normalization of Noll, J. Opt. Soc. Am. 66, 207 (1976)."""

from __future__ import annotations

from math import factorial

import numpy as np

from adaloc.emitters import FloatArray

NUM_MODES = 21
"""Noll 1 (piston) to 21, as in field maps and sample folders."""


def noll_to_radial_azimuthal(noll_index: int) -> tuple[int, int]:
    """(n, m) of a Noll index from 1; m is negative for sine modes.

    >>> [noll_to_radial_azimuthal(j) for j in (1, 2, 3, 4, 5, 6, 11)]
    [(0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (4, 0)]
    """
    if noll_index < 1:
        raise ValueError(f"Noll indices start at 1, not {noll_index}")
    n, rest = 0, noll_index - 1
    while rest > n:
        n += 1
        rest -= n
    magnitude = n % 2 + 2 * ((rest + (n + 1) % 2) // 2)
    return n, magnitude if noll_index % 2 == 0 else -magnitude


def zernike_modes(rho: FloatArray, theta: FloatArray, num_modes: int = NUM_MODES) -> FloatArray:
    """Orthonormal Zernike polynomials: the mean of Z_i Z_j over the unit disk is 1 for i = j, else 0.

    Args:
        rho: radius in the pupil, 1 at its edge; any shape. Values above 1 are evaluated, not masked.
        theta: angle in radians, from the x axis towards y; the same shape.
        num_modes: how many, from Noll 1 on.

    Returns:
        (num_modes, *rho.shape).
    """
    modes = []
    for noll_index in range(1, num_modes + 1):
        n, m = noll_to_radial_azimuthal(noll_index)
        radial = sum(
            (-1) ** k
            * factorial(n - k)
            / (factorial(k) * factorial((n + abs(m)) // 2 - k) * factorial((n - abs(m)) // 2 - k))
            * rho ** (n - 2 * k)
            for k in range((n - abs(m)) // 2 + 1)
        )
        angular = np.cos(m * theta) if m >= 0 else np.sin(-m * theta)
        modes.append(np.sqrt((n + 1) * (1 if m == 0 else 2)) * radial * angular)
    return np.stack(modes)
