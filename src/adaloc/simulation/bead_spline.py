"""A cubic-spline PSF from z-stacks of beads: find, align, average, subtract the background, smooth, normalize.

Smoothing is that of a smoothing spline along each axis: of a structure with period P it leaves
1 / (1 + (2 pi L / P)^4), L the smoothing length (Green & Silverman 1994, sec. 2.3). No PSF has axial structure with a
period below wavelength / (n - sqrt(n^2 - NA^2)), some 700 nm at NA 1.4, so L = 30 nm takes nothing from it; laterally
the limit is wavelength / (2 NA), close to two pixels, so nothing is smoothed unless asked. fit3Dcspline does the same
with a weight of 100 / dz in units of planes, which at 10 nm is L = 18 nm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from adaloc.emitters import FloatArray, IntArray
from adaloc.errors import DataError
from adaloc.simulation.spline import Spline, interpolating_spline

DEFAULT_ROI_PX = 31
_LEAST_ROI_PX, _LEAST_PLANES = 9, 4
_ONE_BEAD_PX = 64  # a smaller image is one bead's
_BRIGHT = 0.3  # of the brightest bead
_NOISE_SIGMAS = 10.0  # of the projection, above its median, for a bead
_FOCUS_NM = 100.0  # planes so near to focus are taken for background and centre
_DARK_QUANTILE = 0.05  # of the pixels in focus, blurred so that noise does not make some of them darker than they are
_BLUR_PX = 1.5
_ROUNDS, _STEPS = 3, 10  # of the average, and of each bead's alignment to it
_WORST_RESIDUAL = 2.0  # times the median: beads that fit worse are clusters, or lie near others
_NO_LIGHT = "The stack holds no light above its background: is it a bead?"


@dataclass(frozen=True)
class BeadSpline:
    """A spline and how it came about.

    Attributes:
        spline: its brightest plane sums to 1.
        volume_ZYX: aligned mean of the beads on the same scale, centred, not smoothed.
        num_found: beads that were found.
        num_used: beads that were averaged.
        background: of the beads, median, in the stack's unit.
        brightest: sum of their brightest planes above background, median, in the stack's unit.
        darkest_share: smallest sum of a plane, over the brightest.
        smoothing_residual: root mean square of what smoothing took, over the peak.
    """

    spline: Spline
    volume_ZYX: FloatArray
    num_found: int
    num_used: int
    background: float
    brightest: float
    darkest_share: float
    smoothing_residual: float


def spline_from_beads(
    stacks: Sequence[FloatArray],
    z_step_nm: float,
    pixel_size_nm: tuple[float, float],
    *,
    roi_size_px: int | None = None,
    smooth_z_nm: float = 30.0,
    smooth_lateral_nm: float = 0.0,
    z0_plane: int | None = None,
) -> BeadSpline:
    """Builds a spline from z-stacks.

    x = y = 0 is the centroid in focus. Light is taken relative to the darkest pixels in focus, where the PSF's tails
    are lowest, and planes keep their sums: what they lack has left the region.

    Args:
        stacks: (Z, H, W) each, ADU or photons, with the same planes; a stack up to 64 px wide shows one bead.
        z_step_nm: between planes; z grows with the plane.
        pixel_size_nm: (x, y).
        roi_size_px: odd side of the calibrated region; None for all around a single bead, or 31 px.
        smooth_z_nm, smooth_lateral_nm: smoothing lengths; 0 for none.
        z0_plane: plane, from 0, whose z is 0, for beads of the mean height; None for the sharpest one.

    Raises:
        DataError: when there is no bead, or the stacks do not fit together.
    """
    if len({len(stack) for stack in stacks}) != 1 or len(stacks[0]) < _LEAST_PLANES:
        lengths = ", ".join(str(len(stack)) for stack in stacks)
        raise DataError(f"Bead stacks need the same number of planes, at least {_LEAST_PLANES}; here are {lengths}.")
    beads = _cut_beads(stacks, roi_size_px)
    reach = max(int(_FOCUS_NM / z_step_nm), 1)
    backgrounds = [float(np.quantile(_in_focus(bead, reach), _DARK_QUANTILE)) for bead in beads]
    brightest = [float((bead - dark).sum((1, 2)).max()) for bead, dark in zip(beads, backgrounds, strict=True)]
    if not min(brightest) > 0:
        raise DataError(_NO_LIGHT)
    scaled = [(bead - dark) / sum_ for bead, dark, sum_ in zip(beads, backgrounds, brightest, strict=True)]
    mean, used, lost, moved_planes = _average(scaled) if len(scaled) > 1 else (scaled[0], 1, 0, 0.0)
    focus, middle = _sharpest_plane(mean), mean.shape[1] // 2
    in_focus = _in_focus(mean, reach)
    row, column = _centroid(in_focus)
    mean = mean - np.quantile(in_focus, _DARK_QUANTILE)
    centred = ndimage.shift(mean, (0, middle - row, middle - column), order=3, mode="nearest")
    lengths_nm = (smooth_z_nm / z_step_nm, smooth_lateral_nm / pixel_size_nm[1], smooth_lateral_nm / pixel_size_nm[0])
    smooth = centred
    for axis, length in enumerate(lengths_nm):
        smooth = np.moveaxis(np.tensordot(smoother(smooth.shape[axis], length), smooth, (1, axis)), 0, axis)
    light = np.maximum(smooth, 0)
    sums = light.sum((1, 2))
    if z0_plane is not None and not 0 <= z0_plane - lost < len(mean):
        raise DataError(f"Plane {z0_plane} is not among the planes {lost} to {lost + len(mean) - 1} that can be used.")
    z0 = focus if z0_plane is None else z0_plane - lost + moved_planes
    return BeadSpline(
        spline=interpolating_spline(light / sums.max(), z_step_nm, float(z0), pixel_size_nm=pixel_size_nm),
        volume_ZYX=centred / sums.max(),
        num_found=len(beads),
        num_used=used,
        background=float(np.median(backgrounds)),
        brightest=float(np.median(brightest)),
        darkest_share=float(sums.min() / sums.max()),
        smoothing_residual=float(np.sqrt(np.mean((smooth - centred) ** 2)) / light.max()),
    )


def smoother(num_nodes: int, length: float) -> FloatArray:
    """(n, n) matrix that takes values at nodes to those of the cubic smoothing spline through them.

    The natural spline f with the least sum (y - f)^2 + length^4 integral f''^2; constants and slopes are kept.

    Args:
        num_nodes: at least 3.
        length: smoothing length in node distances; 0 gives the identity.
    """
    # f''s at the inner nodes are R^-1 Q^T f, and integral f''^2 = f^T Q R^-1 Q^T f (Green & Silverman, eq. 2.4).
    second = np.eye(num_nodes)[1:-1] * -2 + np.eye(num_nodes)[:-2] + np.eye(num_nodes)[2:]  # Q^T
    inner = num_nodes - 2
    gram = np.eye(inner) * (2 / 3) + (np.eye(inner, k=1) + np.eye(inner, k=-1)) / 6
    roughness = second.T @ np.linalg.solve(gram, second)
    return np.asarray(np.linalg.inv(np.eye(num_nodes) + length**4 * roughness))


def find_beads(stack_ZHW: FloatArray, roi_size_px: int) -> IntArray:
    """(N, 2) rows and columns of bright spots in the mean projection whose regions neither overlap nor leave the field.

    Spots within half a region of a brighter one belong to it, as the two lobes of a double helix do; the place is the
    centroid of all.

    Args:
        stack_ZHW: z-stack.
        roi_size_px: odd side of a bead's region.
    """
    projection = ndimage.gaussian_filter(stack_ZHW.mean(0, dtype=np.float64), 1.0)
    level, half = np.median(projection), roi_size_px // 2
    noise = 1.4826 * np.median(np.abs(projection - level))
    least = max(level + _NOISE_SIGMAS * noise, level + _BRIGHT * (projection.max() - level))
    peaks = (projection == ndimage.maximum_filter(projection, size=roi_size_px)) & (projection > least)
    light = np.pad(np.maximum(projection - level, 0), half)
    spots = [_recentred(light, spot, half) for spot in np.argwhere(peaks)]
    places = np.array(spots, dtype=np.int64).reshape(-1, 2)
    distance = np.abs(places[:, None] - places[None, :]).max(-1) + np.eye(len(places), dtype=np.int64) * roi_size_px
    inside = ((places >= half) & (places < np.array(projection.shape) - half)).all(1)
    return np.asarray(places[inside & (distance >= roi_size_px).all(1)])


def _recentred(padded: FloatArray, spot: IntArray, half: int) -> IntArray:
    """The centroid of a spot's surroundings in an image that is padded by half a region, as a pixel of the image."""
    for _ in range(3):
        row, column = spot
        around = padded[row : row + 2 * half + 1, column : column + 2 * half + 1]
        offset = np.rint(np.array(_centroid(around)) - half).astype(np.int64)
        spot = np.clip(spot + offset, 0, np.array(padded.shape) - 2 * half - 1)
    return spot


def _cut_beads(stacks: Sequence[FloatArray], roi_size_px: int | None) -> list[FloatArray]:
    beads: list[FloatArray] = []
    for stack in stacks:
        height, width = stack.shape[1:]
        if max(height, width) <= _ONE_BEAD_PX:
            projection = ndimage.gaussian_filter(stack.mean(0, dtype=np.float64), 1.0)
            row, column = (round(c) for c in _centroid(projection - np.quantile(projection, _DARK_QUANTILE)))
            half = min(row, column, height - 1 - row, width - 1 - column)
            half = half if roi_size_px is None else min(half, roi_size_px // 2)
            spots = np.array([[row, column]])
        else:
            half = (roi_size_px or DEFAULT_ROI_PX) // 2
            spots = find_beads(stack, 2 * half + 1)
        beads += [
            stack[:, r - half : r + half + 1, c - half : c + half + 1].astype(np.float64) for r, c in spots.tolist()
        ]
    sides = {bead.shape[1] for bead in beads}
    if not beads or min(sides) < _LEAST_ROI_PX:
        raise DataError(
            f"No bead with a region of at least {_LEAST_ROI_PX} px around it was found: beads need to be brighter than "
            "their surroundings, away from the border, and farther apart than --roi-size-px."
        )
    if roi_size_px is not None and min(sides) < roi_size_px:
        raise DataError(f"The bead lies too near to the border for --roi-size-px {roi_size_px}: {min(sides)} px fit.")
    half = min(sides) // 2
    return [b[:, m - half : m + half + 1, m - half : m + half + 1] for b in beads for m in (b.shape[1] // 2,)]


def _average(beads: list[FloatArray]) -> tuple[FloatArray, int, int, float]:
    """Mean of beads on one scale moved onto each other.

    Returns:
        The mean, how many beads it is of, the planes lost at either end, and by how many planes the beads were moved
        up on average.
    """
    focus = [_sharpest_plane(bead) for bead in beads]
    common = int(np.median(focus))
    shifts = [np.array([common - f, 0.0, 0.0]) for f in focus]
    # A median to begin with: a cluster of beads among them does not bend it.
    roughly = [ndimage.shift(bead, shift, order=1, mode="nearest") for bead, shift in zip(beads, shifts, strict=True)]
    template = np.median(roughly, axis=0)
    for _ in range(_ROUNDS):
        results = [_align(bead, template, shift) for bead, shift in zip(beads, shifts, strict=True)]
        moved, shifts = [r[0] for r in results], [r[1] for r in results]
        residuals = [r[2] for r in results]
        good = np.array(residuals) <= _WORST_RESIDUAL * np.median(residuals)
        template = np.mean([m for m, g in zip(moved, good, strict=True) if g], axis=0)
    planes = np.array([shift[0] for shift in shifts])[good]
    lost = math.ceil(np.abs(planes).max())
    if len(template) - 2 * lost < _LEAST_PLANES:
        raise DataError(f"The beads lie up to {lost} planes apart in z: no planes are left that all of them show.")
    return template[lost : len(template) - lost], int(good.sum()), lost, float(planes.mean())


def _align(bead: FloatArray, template: FloatArray, shift: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Moves a bead onto the template by Gauss-Newton steps; brightness and background are fitted along.

    Returns:
        The moved bead on the template's scale, the shift in (planes, px, px), and the relative residual.
    """
    margin = (slice(max(2, len(bead) // 10), -max(2, len(bead) // 10)), slice(2, -2), slice(2, -2))
    slopes = [np.asarray(np.gradient(template, axis=axis))[margin].ravel() for axis in range(3)]
    flat = template[margin].ravel()
    design = np.stack([flat, np.ones_like(flat), *slopes], axis=1)
    solve = np.linalg.pinv(design)
    coefficients = ndimage.spline_filter(bead, order=3, mode="nearest")
    moved, fit = bead, np.empty(0)
    for _ in range(_STEPS):
        moved = ndimage.shift(coefficients, shift, order=3, mode="nearest", prefilter=False)
        fit = solve @ moved[margin].ravel()
        step = np.clip(fit[2:] / fit[0], -1, 1)  # moved = a (T + step . grad T) + c: it lies at -step
        shift = shift + step
        if np.abs(step).max() < 1e-3:
            break
    scaled = (moved - fit[1]) / fit[0]
    return scaled, shift, float(np.linalg.norm(scaled[margin].ravel() - flat) / np.linalg.norm(flat - flat.mean()))


def _in_focus(volume_ZYX: FloatArray, reach: int) -> FloatArray:
    """Mean of the sharpest plane and so many on each side, blurred."""
    focus = _sharpest_plane(volume_ZYX)
    mean = volume_ZYX[max(focus - reach, 0) : focus + reach + 1].mean(0)
    return np.asarray(ndimage.gaussian_filter(mean, _BLUR_PX))


def _sharpest_plane(volume_ZYX: FloatArray) -> int:
    """The plane with the most concentrated light: the largest sum of squares above the median."""
    contrast = volume_ZYX - np.median(volume_ZYX, axis=(1, 2), keepdims=True)
    return int(np.argmax(ndimage.gaussian_filter1d((contrast**2).sum((1, 2)), 1.0)))


def _centroid(image_YX: FloatArray) -> tuple[float, float]:
    """(row, column) of the pixels above 30 % of the peak, weighted by what is above."""
    weight = np.maximum(image_YX - _BRIGHT * image_YX.max(), 0)
    if not weight.sum() > 0:
        raise DataError(_NO_LIGHT)
    rows, columns = np.indices(weight.shape)
    return float((weight * rows).sum() / weight.sum()), float((weight * columns).sum() / weight.sum())
