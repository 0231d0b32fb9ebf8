"""How many molecules a cloud of localizations comes from, when each localization's uncertainty is known.

A molecule is a point; its localizations are normally distributed around it, each with its own standard deviation
along each axis. So a set of molecules is a mixture of Gaussians whose widths are known, and only the centres and
shares are to be found (expectation maximization). The logarithm of the likelihood decides between one and two
molecules. Axes: N localizations, D axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaloc.emitters import FloatArray

_MAX_ITERATIONS = 60
_TOLERANCE = 1e-2  # nats
_WIDE = 6.0  # a cloud that is so many times as wide as its uncertainties cannot be one molecule
_LEAST_GAIN = {1: 3.4, 2: 5.0, 3: 6.0}
"""By number of axes: gains that 1 % of the clouds of one molecule exceed (`benchmarks/grouping.py` measures them)."""


@dataclass(frozen=True)
class Split:
    """A cloud cut in two.

    Attributes:
        gain: log likelihood of two molecules minus that of one, nats.
        second: True for the localizations that more likely belong to the second molecule.
    """

    gain: float
    second: npt.NDArray[np.bool_]


def needed_gain(num_localizations: int | npt.NDArray[np.int64], num_axes: int) -> FloatArray:
    """Gain in nats from which two molecules are believed.

    The Bayesian information criterion asks for (D + 1)/2 ln N, for one more centre and share. In small clouds that is
    less than chance gives; there the gain must be one that a single molecule shows in 1 % of cases.
    """
    criterion = (num_axes + 1) / 2 * np.log(num_localizations)
    return np.maximum(criterion, _LEAST_GAIN[num_axes])


def split_in_two(points_ND: FloatArray, sigmas_ND: FloatArray, first: FloatArray, second: FloatArray) -> Split:
    """Fits two molecules to a cloud, from two starting points.

    Args:
        points_ND: localizations, nm.
        sigmas_ND: their standard deviations along each axis, nm.
        first, second: (D,) where the search for the two centres starts.
    """
    weights_ND = 1 / sigmas_ND**2
    centres = np.stack([first, second])
    shares = np.array([0.5, 0.5])
    total = weights_ND.sum(axis=0)
    mean = (weights_ND * points_ND).sum(axis=0) / total
    one = -0.5 * (weights_ND * (points_ND - mean) ** 2).sum()
    before = -math.inf
    belongs = np.empty(0)
    for _ in range(_MAX_ITERATIONS):
        # The normalization of the Gaussians is the same for both centres and for one: it is left out everywhere.
        log_N2 = np.log(shares) - 0.5 * np.stack(
            [(weights_ND * (points_ND - centre) ** 2).sum(axis=1) for centre in centres], axis=1
        )
        highest = log_N2.max(axis=1)
        ratio = np.exp(log_N2 - highest[:, None])
        norm = ratio.sum(axis=1)
        two = float((highest + np.log(norm)).sum())
        belongs = ratio[:, 1] / norm
        if two - before < _TOLERANCE:
            break
        before = two
        of_each = np.stack([1 - belongs, belongs])
        mass = of_each @ weights_ND
        if not (mass > 1e-3 * total / len(points_ND)).all():
            break  # one centre has lost all of its localizations
        centres = (of_each @ (weights_ND * points_ND)) / mass
        shares = np.clip(of_each.mean(axis=1), 1e-12, 1)
    return Split(two - float(one), belongs > 0.5)


def split_cloud(points_ND: FloatArray, sigmas_ND: FloatArray) -> list[npt.NDArray[np.int64]]:
    """Cuts a cloud in two again and again, as long as two molecules are more likely than one.

    The cut starts along the direction in which the cloud is widest (as in G-means; Hamerly and Elkan, NIPS 2003). It
    may go through a molecule, so neighbouring parts must be compared afterwards.

    Returns:
        The rows of each part.
    """
    parts, open_parts = [], [np.arange(len(points_ND))]
    while open_parts:
        rows = open_parts.pop()
        second = _cut(points_ND[rows], sigmas_ND[rows])
        if second is None:
            parts.append(rows)
        else:
            open_parts += [rows[~second], rows[second]]
    return parts


def _cut(points_ND: FloatArray, sigmas_ND: FloatArray) -> npt.NDArray[np.bool_] | None:
    """Which rows are the second molecule's; None where one molecule explains them all."""
    num, num_axes = points_ND.shape
    if num == 1:
        return None
    unit = np.median(sigmas_ND, axis=0)
    weights = 1 / sigmas_ND**2
    mean = (weights * points_ND).sum(axis=0) / weights.sum(axis=0)
    scaled = (points_ND - mean) / unit
    _, stretch, directions = np.linalg.svd(scaled.T @ scaled / num)
    width = math.sqrt(float(stretch[0]))
    along = scaled @ directions[0]
    if width > _WIDE:
        second = np.asarray(along > np.median(along))
        return second if second.any() else np.asarray(along >= along.max())
    step = math.sqrt(2 / math.pi) * width * directions[0] * unit  # the mean of either half of a normal distribution
    split = split_in_two(points_ND, sigmas_ND, mean - step, mean + step)
    if split.gain <= needed_gain(num, num_axes) or split.second.all() or not split.second.any():
        return None
    return split.second
