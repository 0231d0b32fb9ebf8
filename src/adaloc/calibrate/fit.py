"""Poisson maximum likelihood of beads: Zernike pupil, positions, photons and backgrounds together.

Levenberg-Marquardt with the Fisher information as curvature (Laurence and Chromy, Nature Methods 7, 338, 2010): it
needs no scaling of radians against nanometres, and its information gives the standard errors. The derivatives of the
images come from the differentiable PSF in forward mode.

Axes: B beads, T planes, R pixels of a region, Q parameters of one bead's shape, P all parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import solve

from adaloc.calibrate.model import BeadModel, Layout
from adaloc.emitters import FloatArray
from adaloc.errors import DataError
from adaloc.simulation.pupil import clear_magnitudes
from adaloc.simulation.zernike import NUM_MODES

BoolArray = npt.NDArray[np.bool_]

_LEAST_VARIANCE_NM2 = 1.0  # a blur of 1 nm is none
_JACOBIAN_CHUNK = 8  # directions at once: more need memory and are not faster
_FIRST_DAMPING = 1e-2
_MOST_DAMPING = 1e8
_CONVERGED = 1e-6  # relative change of the deviance
_LARGEST_STEP = (0.5, 0.8, 150.0)  # rad or amplitude, px, nm in one iteration: farther the slopes mean nothing


@dataclass(frozen=True)
class BeadParameters:
    """Where a fit stands.

    Attributes:
        shared_S: as in `Layout`.
        position_B3: x, y in px to the middle of the region, z in nm to the middle plane.
        photons_BL, background_BL: per bead (L = 1) or per plane (L = T); photons, and photons per px.
    """

    shared_S: FloatArray
    position_B3: FloatArray
    photons_BL: FloatArray
    background_BL: FloatArray

    @property
    def num_levels(self) -> int:
        """L."""
        return int(self.photons_BL.shape[1])

    def vector(self) -> FloatArray:
        """All parameters: the shared ones, then bead by bead position, photons, backgrounds."""
        beads = np.concatenate([self.position_B3, self.photons_BL, self.background_BL], axis=1)
        return np.asarray(np.concatenate([self.shared_S, beads.ravel()]))

    def with_vector(self, vector_P: FloatArray) -> BeadParameters:
        """The parameters of another vector, kept within what is possible."""
        num_shared, levels = len(self.shared_S), self.num_levels
        shared = vector_P[:num_shared].copy()
        shared[-2] = max(shared[-2], _LEAST_VARIANCE_NM2)
        beads = vector_P[num_shared:].reshape(len(self.position_B3), -1)
        photons, background = beads[:, 3 : 3 + levels], beads[:, 3 + levels :]
        return BeadParameters(shared, beads[:, :3], np.maximum(photons, 1.0), np.maximum(background, 1e-3))


@dataclass(frozen=True)
class BeadFit:
    """The result.

    Attributes:
        parameters: the best ones.
        layout: of their shared part.
        sigma_S: standard errors of the shared parameters, widened by the root of the reduced chi-square above 1, as
            model errors make them too small; 0 for what was held.
        fitted_BTRR: expected photons.
        deviance: twice the log-likelihood ratio to a perfect model.
        reduced_chi_square_B: mean of squared residuals over variance, per bead.
        relative_residual_B: root of squared residuals over squared light without background, per bead.
        num_iterations: of Levenberg-Marquardt.
    """

    parameters: BeadParameters
    layout: Layout
    sigma_S: FloatArray
    fitted_BTRR: FloatArray
    deviance: float
    reduced_chi_square_B: FloatArray
    relative_residual_B: FloatArray
    num_iterations: int

    @property
    def blur_nm(self) -> float:
        """Sigma of the blur; 0 where the fit found none."""
        variance = float(self.parameters.shared_S[self.layout.blur])
        return 0.0 if variance <= _LEAST_VARIANCE_NM2 else float(variance**0.5)

    def phase(self) -> tuple[FloatArray, FloatArray]:
        """(21,) phase coefficients and (21,) standard errors, radians."""
        rows, values, errors = list(self.layout.phase_modes), np.zeros(NUM_MODES), np.zeros(NUM_MODES)
        values[rows], errors[rows] = self.parameters.shared_S[: len(rows)], self.sigma_S[: len(rows)]
        return values, errors

    def magnitude(self) -> FloatArray:
        """(21,) amplitude coefficients."""
        values = np.asarray(clear_magnitudes(1)[0])
        values[list(self.layout.magnitude_modes)] = self.parameters.shared_S[self.layout.magnitude_places]
        return values


def fit_beads(
    photons_BTRR: FloatArray,
    model: BeadModel,
    start: BeadParameters,
    *,
    held: tuple[int, ...],
    read_noise_e: float = 0.0,
    max_iterations: int = 40,
    tolerance: float = _CONVERGED,
    report: Callable[[int, float], None] = lambda iteration, chi_square: None,
) -> BeadFit:
    """Fits all beads together.

    Args:
        photons_BTRR: measured photons; the variance is photons + read noise^2.
        model: of one bead.
        start: where to begin.
        held: places in the shared parameters that are not fitted.
        read_noise_e: electrons rms.
        max_iterations: at most so many.
        tolerance: relative change of the deviance at which it is done.
        report: called after each iteration with its number and the reduced chi-square.

    Raises:
        DataError: when the fit finds no better place than numbers that are not finite.
    """
    extra = read_noise_e**2
    data = np.maximum(photons_BTRR, 0) + extra
    free = np.ones(len(start.vector()), dtype=bool)
    free[list(held)] = False
    here, shares = start, _shares(model, start)
    deviance = _deviance(data, here, shares, extra)
    if not np.isfinite(deviance):
        raise DataError(
            "The fit of the beads began at numbers that are not finite. Check wavelength, NA and pixel size."
        )
    damping, iteration = _FIRST_DAMPING, 0
    gradient, curvature = _normal_equations(data, here, shares, _slopes(model, here), extra)
    while iteration < max_iterations and damping < _MOST_DAMPING:
        iteration += 1
        step = _step(gradient, curvature, damping, free)
        trial = here.with_vector(here.vector() + _limited(step, here))
        trial_shares = _shares(model, trial)
        trial_deviance = _deviance(data, trial, trial_shares, extra)
        if not trial_deviance < deviance:
            damping *= 8
            continue
        change = (deviance - trial_deviance) / deviance
        here, shares, deviance, damping = trial, trial_shares, trial_deviance, max(damping / 6, 1e-9)
        report(iteration, deviance / data.size)
        if change < tolerance:
            break
        gradient, curvature = _normal_equations(data, here, shares, _slopes(model, here), extra)
    return _result(data, here, shares, model.layout, curvature, free, deviance, extra, iteration)


def _shares(model: BeadModel, parameters: BeadParameters) -> FloatArray:
    """(B, T, R, R) images of all beads."""
    with torch.no_grad():
        images = [model.images(vector) for vector in _shape_vectors(parameters)]
    return torch.stack(images).double().numpy()


def _slopes(model: BeadModel, parameters: BeadParameters) -> FloatArray:
    """(B, Q, T, R, R) derivatives of the images by the shape parameters."""
    slopes = []
    with torch.no_grad():
        for vector in _shape_vectors(parameters):

            def slope(direction_Q: torch.Tensor, vector: torch.Tensor = vector) -> torch.Tensor:
                return torch.func.jvp(model.images, (vector,), (direction_Q,))[1]  # type: ignore[no-any-return]

            directions = torch.eye(len(vector), dtype=vector.dtype)
            slopes.append(torch.func.vmap(slope, chunk_size=_JACOBIAN_CHUNK)(directions))
    return torch.stack(slopes).double().numpy()


def _shape_vectors(parameters: BeadParameters) -> list[torch.Tensor]:
    return [
        torch.from_numpy(np.concatenate([parameters.shared_S, position])).float() for position in parameters.position_B3
    ]


def expected_photons(parameters: BeadParameters, shares_BTRR: FloatArray) -> FloatArray:
    """(B, T, R, R) photons with background."""
    photons, background = (v[:, :, None, None] for v in (parameters.photons_BL, parameters.background_BL))
    return np.asarray(photons * shares_BTRR + background)


def _deviance(data: FloatArray, parameters: BeadParameters, shares: FloatArray, extra: float) -> float:
    mean = expected_photons(parameters, shares) + extra
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.where(data > 0, data * np.log(data / mean), 0.0)
    return float(2 * (mean - data + logarithm).sum())


def _normal_equations(
    data: FloatArray, parameters: BeadParameters, shares: FloatArray, slopes: FloatArray, extra: float
) -> tuple[FloatArray, FloatArray]:
    """Gradient (P,) of the log-likelihood and Fisher information (P, P)."""
    num_shared, levels = len(parameters.shared_S), parameters.num_levels
    per_bead = 3 + 2 * levels
    size = num_shared + len(shares) * per_bead
    gradient, curvature = np.zeros(size), np.zeros((size, size))
    mean = expected_photons(parameters, shares) + extra
    for bead in range(len(shares)):
        columns = _columns(parameters, shares, slopes, bead)
        weighted = columns / mean[bead].ravel()
        information, score = weighted @ columns.T, weighted @ (data[bead] - mean[bead]).ravel()
        own = np.arange(num_shared + bead * per_bead, num_shared + (bead + 1) * per_bead)
        place = np.concatenate([np.arange(num_shared), own])
        gradient[place] += score
        curvature[np.ix_(place, place)] += information
    return gradient, curvature


def _columns(parameters: BeadParameters, shares: FloatArray, slopes: FloatArray, bead: int) -> FloatArray:
    """(Q + 2 L, pixels) derivatives of the expected photons of one bead."""
    photons = parameters.photons_BL[bead][:, None, None]
    of_shape = (slopes[bead] * photons).reshape(len(slopes[bead]), -1)
    share, ones = shares[bead], np.ones_like(shares[bead])
    if parameters.num_levels == 1:
        return np.concatenate([of_shape, share.reshape(1, -1), ones.reshape(1, -1)])
    planes = np.eye(len(share))[:, :, None, None]
    of_levels = [(planes * part).reshape(len(share), -1) for part in (share, ones)]
    return np.concatenate([of_shape, *of_levels])


def _step(gradient: FloatArray, curvature: FloatArray, damping: float, free: BoolArray) -> FloatArray:
    diagonal = np.maximum(np.diagonal(curvature)[free], 1e-12)
    scale = 1 / np.sqrt(diagonal)  # units differ by many orders of magnitude
    matrix = curvature[np.ix_(free, free)] * scale[:, None] * scale[None, :] + damping * np.eye(len(scale))
    step = np.zeros(len(gradient))
    step[free] = scale * solve(matrix, scale * gradient[free], assume_a="sym")
    return step


def _limited(step: FloatArray, parameters: BeadParameters) -> FloatArray:
    """The step, shortened until no coefficient and no position moves farther than slopes tell."""
    num_shared = len(parameters.shared_S)
    beads = np.abs(step[num_shared:].reshape(len(parameters.position_B3), -1))
    coefficient, lateral, axial = _LARGEST_STEP
    excess = max(
        float(np.abs(step[: num_shared - 2]).max(initial=0.0)) / coefficient,
        float(beads[:, :2].max()) / lateral,
        float(beads[:, 2].max()) / axial,
        1.0,
    )
    return step / excess


def _result(
    data: FloatArray, parameters: BeadParameters, shares: FloatArray, layout: Layout, curvature: FloatArray,
    free: BoolArray, deviance: float, extra: float, num_iterations: int,
) -> BeadFit:  # fmt: skip
    fitted = expected_photons(parameters, shares)
    residual = data - extra - fitted
    dof = 1 - free.sum() / data.size
    chi_square = (residual**2 / (fitted + extra)).mean(axis=(1, 2, 3)) / dof
    light = data - extra - parameters.background_BL[:, :, None, None]
    relative = np.sqrt((residual**2).sum(axis=(1, 2, 3)) / (light**2).sum(axis=(1, 2, 3)))
    scale = np.zeros(len(free))
    scale[free] = 1 / np.sqrt(np.maximum(np.diagonal(curvature)[free], 1e-12))
    inner = curvature[np.ix_(free, free)] * scale[free][:, None] * scale[free][None, :]
    variance = np.zeros(len(free))
    variance[free] = np.diagonal(np.linalg.pinv(inner, hermitian=True)) * scale[free] ** 2
    widening = max(1.0, float(chi_square.mean())) ** 0.5
    sigma = np.sqrt(np.maximum(variance[: len(parameters.shared_S)], 0)) * widening
    return BeadFit(parameters, layout, sigma, fitted, deviance, chi_square, relative, num_iterations)
