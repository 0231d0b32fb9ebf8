"""Maximum-likelihood fit of single emitters with any differentiable PSF: what a network is measured against.

Fisher scoring damped as Levenberg and Marquardt do (Laurence & Chromy, Nature Methods 7, 338, 2010), for all emitters
at once. The likelihood is that of a camera pixel whose variance is F mu + r^2 (`crlb.electron_statistics`): Poisson
for F = 1 and r = 0; with read noise the shifted Poisson of Huang et al., Nature Methods 10, 653 (2013).

Axes: N emitters, R pixels of the region of interest, P parameters x, y, z, photons, background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from adaloc.config import CameraConfig
from adaloc.emitters import FloatArray
from adaloc.simulation.camera import to_photons
from adaloc.simulation.crlb import covariance, electron_statistics, share_with_derivatives
from adaloc.simulation.psf import PSF

NUM_PARAMETERS = 5
_Z = 2
_AT_ONCE = 256  # emitters; their slopes stay in the cache
_DONE = 0.01  # of its standard error: a step below it changes nothing that could be seen
_DAMPING, _DAMPING_UP, _DAMPING_DOWN, _MOST_DAMPING = 1e-2, 8.0, 0.2, 1e9
_LEAST_PHOTONS, _LEAST_BACKGROUND = 1.0, 1e-3
_DARK_QUANTILE = 0.2  # of a region's pixels, for a first guess of the background


@dataclass(frozen=True)
class Fits:
    """Estimates, one row per emitter.

    Attributes:
        parameters_NP: x, y in px from the middle pixel, z in nm, photons, background in photons per px.
        sigma_NP: their Cramer-Rao bounds at the estimate; 0 for a z that was not fitted.
        chi_square_N: mean over the pixels of (measured - expected)^2 / variance; 1 where the model is right.
        log_likelihood_N: up to a constant that depends on the pixels alone.
        converged_N: the last step was small, and z is not at the end of its range.
    """

    parameters_NP: FloatArray
    sigma_NP: FloatArray
    chi_square_N: FloatArray
    log_likelihood_N: FloatArray
    converged_N: npt.NDArray[np.bool_]


def fit_emitters(
    adu_NRR: npt.NDArray[np.generic],
    psf: PSF,
    camera: CameraConfig,
    z_starts_nm: Sequence[float],
    z_range_nm: tuple[float, float],
    *,
    fit_z: bool = True,
    max_iterations: int = 100,
) -> Fits:
    """Fits position, photons and background of one emitter in each region.

    Args:
        adu_NRR: regions around emitters, ADU; their side is the PSF's `roi_size_px`.
        psf: the PSF.
        camera: what the regions were taken with.
        z_starts_nm: depths to start from; the likeliest end is kept. Two or three across the range keep astigmatic and
            other engineered PSFs from ending in a mirror image.
        z_range_nm: z stays between these.
        fit_z: false keeps z at the first start, for PSFs that do not depend on it.
        max_iterations: evaluations of the PSF for each start.

    Raises:
        ValueError: when the regions do not have the PSF's size.
    """
    side = psf.roi_size_px
    if adu_NRR.ndim != 3 or adu_NRR.shape[1:] != (side, side):
        raise ValueError(f"the regions have shape {adu_NRR.shape}; the PSF needs (N, {side}, {side})")
    if not z_starts_nm or not all(z_range_nm[0] <= z <= z_range_nm[1] for z in z_starts_nm):
        raise ValueError(f"z_starts_nm {tuple(z_starts_nm)} must be at least one depth within {z_range_nm} nm")
    if len(adu_NRR) == 0:
        none = np.empty((0, NUM_PARAMETERS))
        return Fits(none, none, np.empty(0), np.empty(0), np.empty(0, dtype=bool))
    free = [p for p in range(NUM_PARAMETERS) if fit_z or p != _Z]
    fits: list[Fits] = []
    for begin in range(0, len(adu_NRR), _AT_ONCE):
        adu = torch.from_numpy(adu_NRR[begin : begin + _AT_ONCE].astype(np.float32))
        photons = to_photons(adu, camera).double().numpy()
        problem = _Problem(psf, camera, photons, free, z_range_nm)
        best = _fit_from(problem, _first_guess(photons, z_starts_nm[0]), max_iterations)
        for z in z_starts_nm[1:] if fit_z else ():
            other = _fit_from(problem, _first_guess(photons, z), max_iterations)
            best = _choose(other.log_likelihood_N > best.log_likelihood_N, other, best)
        fits.append(best)
    return Fits(*(np.concatenate([getattr(f, field.name) for f in fits]) for field in fields(Fits)))


@dataclass(frozen=True)
class _Problem:
    psf: PSF
    camera: CameraConfig
    photons_NRR: FloatArray
    free: list[int]
    z_range_nm: tuple[float, float]

    def state(self, parameters_NP: FloatArray, rows: npt.NDArray[np.intp]) -> _State:
        """Likelihood, score and information of some emitters' parameters."""
        x, y, z, photons, background = parameters_NP.T
        share, *slopes = share_with_derivatives(self.psf, x, y, z)
        light = photons[:, None, None]
        expected = light * share + background[:, None, None]
        jacobian = np.stack([*(light * s for s in slopes), share, np.ones_like(share)], axis=1)
        jacobian = jacobian[:, self.free].reshape(len(share), len(self.free), -1) * self.camera.quantum_efficiency
        mean, variance = electron_statistics(expected.reshape(len(share), -1), self.camera)
        dark = self.camera.spurious_charge_e
        measured = self.photons_NRR[rows].reshape(len(share), -1) * self.camera.quantum_efficiency + dark
        # The integral of the score (measured - mean) / variance over the mean, as variance = excess * mean + read.
        excess = 2.0 if self.camera.em_gain > 1 else 1.0
        read = (self.camera.read_noise_e / self.camera.em_gain) ** 2
        weight = np.maximum(excess * measured + read, 0)
        likelihood = (weight * np.log(variance) - excess * mean).sum(1) / excess**2
        return _State(
            likelihood=likelihood,
            score=np.einsum("npx,nx->np", jacobian, (measured - mean) / variance),
            information=(jacobian / variance[:, None]) @ jacobian.transpose(0, 2, 1),
            chi_square=((measured - mean) ** 2 / variance).mean(1),
        )

    def bounded(self, parameters_NP: FloatArray) -> FloatArray:
        half = self.psf.roi_size_px / 2
        low = [-half, -half, self.z_range_nm[0], _LEAST_PHOTONS, _LEAST_BACKGROUND]
        high = [half, half, self.z_range_nm[1], np.inf, np.inf]
        return np.clip(parameters_NP, low, high)


@dataclass
class _State:
    likelihood: FloatArray
    score: FloatArray
    information: FloatArray
    chi_square: FloatArray

    def replace(self, rows: npt.NDArray[np.intp], new: _State, chosen: npt.NDArray[np.bool_]) -> None:
        for field in fields(self):
            getattr(self, field.name)[rows[chosen]] = getattr(new, field.name)[chosen]


def _fit_from(problem: _Problem, start_NP: FloatArray, max_iterations: int) -> Fits:
    parameters = problem.bounded(start_NP)
    every = np.arange(len(parameters))
    state = problem.state(parameters, every)
    damping, done = np.full(len(every), _DAMPING), np.zeros(len(every), dtype=bool)
    for _ in range(max_iterations):
        rows = np.flatnonzero(~done)
        if len(rows) == 0:
            break
        information, score = state.information[rows], state.score[rows]
        # In units of each parameter's own standard error; one without influence here stays where it is.
        scale = np.sqrt(np.maximum(np.diagonal(information, axis1=1, axis2=2), 1e-300))
        scaled = information / (scale[:, :, None] * scale[:, None, :])
        scaled += np.eye(len(problem.free)) * (damping[rows, None, None] + 1e-12)
        step = np.linalg.solve(scaled, (score / scale)[:, :, None])[:, :, 0] / scale
        trial = parameters[rows].copy()
        trial[:, problem.free] += step
        trial = problem.bounded(trial)
        taken = (trial - parameters[rows])[:, problem.free]
        new = problem.state(trial, rows)
        better = new.likelihood >= state.likelihood[rows]
        parameters[rows[better]] = trial[better]
        state.replace(rows, new, better)
        damping[rows] *= np.where(better, _DAMPING_DOWN, _DAMPING_UP)
        small = (np.abs(taken) * scale < _DONE).all(1)
        done[rows] = small | (damping[rows] > _MOST_DAMPING)
    low, high = problem.z_range_nm
    inside = (parameters[:, _Z] > low) & (parameters[:, _Z] < high) if _Z in problem.free else True
    sigma = np.zeros_like(parameters)
    sigma[:, problem.free] = np.sqrt(np.diagonal(covariance(_invertible(state.information)), axis1=1, axis2=2))
    return Fits(parameters, sigma, state.chi_square, state.likelihood, done & inside)


def _first_guess(photons_NRR: FloatArray, z_nm: float) -> FloatArray:
    """Background from the darker pixels, photons from what is above it, x and y from the centroid of the brightest."""
    num, side = photons_NRR.shape[:2]
    background = np.quantile(photons_NRR.reshape(num, -1), _DARK_QUANTILE, axis=1)
    light = np.maximum(photons_NRR - background[:, None, None], 0)
    bright = np.maximum(light - 0.3 * light.max((1, 2), keepdims=True), 1e-12)
    offset = np.arange(side) - side // 2
    total = bright.sum((1, 2))
    x, y = ((bright.sum(axis) * offset).sum(1) / total for axis in (1, 2))
    return np.stack([x, y, np.full(num, z_nm), light.sum((1, 2)), background], axis=1)


def _invertible(information_NPP: FloatArray) -> FloatArray:
    """A parameter without influence at the estimate, as z at the end of its range, is as good as unknown."""
    tiny = np.eye(information_NPP.shape[1]) * 1e-20
    return information_NPP + tiny


def _choose(first: npt.NDArray[np.bool_], one: Fits, other: Fits) -> Fits:
    columns = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(Fits)]
    return Fits(*(np.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in columns))
