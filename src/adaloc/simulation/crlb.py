"""Fisher information and Cramer-Rao bounds (CRLB) of emitters, one by one and all of a window together.

A camera pixel expects mu electrons and has the variance F mu + r^2: shot noise (F = 1), and read noise r in
electrons before the EM gain. The information of parameters a and b is the sum over the pixels of
(dmu/da) (dmu/db) / (F mu + r^2): exact for r = 0, where the counts are Poisson; with read noise it is the
approximation of Huang et al., Nature Methods 10, 653 (2013). An EMCCD's gain register doubles the variance of the
counts, F = 2, in the limit of high gain (Mortensen et al., Nature Methods 7, 377, 2010). Rounding to ADU is left out.

Axes: N or M emitters, R pixels of the region of interest, T frames, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from adaloc.config import CameraConfig
from adaloc.emitters import FloatArray, IntArray
from adaloc.simulation.psf import PSF

_EM_EXCESS_NOISE = 2.0  # squared excess noise factor of a long register at high gain
_DARKEST_VARIANCE = 1e-6  # without light and noise nothing varies: keeps the quotient finite, weighs nothing else


@dataclass(frozen=True)
class Window:
    """Emitters that shine in a few frames of one field, at the same place in all of them.

    Attributes:
        x_M, y_M: px; may lie outside of the field, whose light there gives nothing.
        z_M: nm.
        photons_MT: photons in each frame; 0 where an emitter is dark.
        background_T: photons per px, mean over the field.
        size_px: (height, width) of the field.
        phase_MK, magnitude_MK: Zernike coefficients as in `ScalarPupilPSF.images`, or None.
        background_shape_THW: share of the frame's background in each pixel, known beforehand; None: 1 everywhere.
        read_noise_e_HW: read noise of each pixel, of an sCMOS with maps; None: the camera's.
    """

    x_M: FloatArray
    y_M: FloatArray
    z_M: FloatArray
    photons_MT: FloatArray
    background_T: FloatArray
    size_px: tuple[int, int]
    phase_MK: FloatArray | None = None
    magnitude_MK: FloatArray | None = None
    background_shape_THW: FloatArray | None = None
    read_noise_e_HW: FloatArray | None = None


@dataclass(frozen=True)
class JointInformation:
    """Fisher information of all emitters and backgrounds of a window.

    Attributes:
        matrix_PP: information in 1/(px, nm, photons or photons per px)^2.
        position_M3: parameter of each emitter's x, y and z.
        photons_MT: parameter of its photons in each frame; -1 where it is dark.
        background_T: parameter of each frame's background.
        expected_THW: photons per pixel.
    """

    matrix_PP: FloatArray
    position_M3: IntArray
    photons_MT: IntArray
    background_T: IntArray
    expected_THW: FloatArray


def electron_statistics(
    photons: FloatArray, camera: CameraConfig, read_noise_e: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of the electrons that enter the gain register, for expected photons per pixel of any shape.

    `read_noise_e` is that of each pixel, of a camera with maps; without it the config's holds.
    """
    mean = photons * camera.quantum_efficiency + camera.spurious_charge_e
    excess = _EM_EXCESS_NOISE if camera.em_gain > 1 else 1.0
    noise = camera.read_noise_e if read_noise_e is None else read_noise_e
    variance = excess * mean + (noise / camera.em_gain) ** 2
    return mean, np.maximum(variance, _DARKEST_VARIANCE)


def share_with_derivatives(
    psf: PSF,
    x_N: FloatArray,
    y_N: FloatArray,
    z_N: FloatArray,
    phase_NK: FloatArray | None = None,
    magnitude_NK: FloatArray | None = None,
) -> FloatArray:
    """Images of emitters and how they change, by forward differentiation of the PSF.

    Args:
        psf: the PSF.
        x_N, y_N: offsets to the middle pixel, px.
        z_N: nm.
        phase_NK, magnitude_NK: Zernike coefficients, or None.

    Returns:
        (4, N, R, R): share of the photons in each pixel, its derivatives by x and y (1/px) and by z (1/nm).
    """
    position = tuple(torch.from_numpy(np.asarray(v, dtype=np.float32)) for v in (x_N, y_N, z_N))
    phase, magnitude = (None if c is None else torch.from_numpy(c).float() for c in (phase_NK, magnitude_NK))
    if len(x_N) == 0:
        return np.zeros((4, 0, psf.roi_size_px, psf.roi_size_px))

    def images(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return psf.images(x, y, z, phase, magnitude)

    parts: list[torch.Tensor] = []
    for axis in range(3):
        # Emitters do not touch each other's images, so one direction for all of them gives each one's derivative.
        direction = tuple(torch.full_like(v, float(i == axis)) for i, v in enumerate(position))
        share, derivative = torch.func.jvp(images, position, direction)[:2]
        parts = [share, *parts[1:], derivative]
    return torch.stack(parts).double().numpy()


def single_emitter_information(
    psf: PSF,
    camera: CameraConfig,
    x_N: FloatArray,
    y_N: FloatArray,
    z_N: FloatArray,
    photons_N: FloatArray,
    background_N: FloatArray,
    phase_NK: FloatArray | None = None,
    magnitude_NK: FloatArray | None = None,
) -> FloatArray:
    """Information on x, y (px), z (nm), photons and background (photons per px) of emitters, each one alone.

    Args:
        psf, camera: what the image is taken with.
        x_N, y_N: offsets to the middle of the psf's region of interest, px; the region is all that is seen.
        z_N: nm.
        photons_N: photons in the frame.
        background_N: photons per px.
        phase_NK, magnitude_NK: Zernike coefficients, or None.

    Returns:
        (N, 5, 5); `covariance` makes the bound of it.
    """
    share, *slopes = share_with_derivatives(psf, x_N, y_N, z_N, phase_NK, magnitude_NK)
    photons = np.asarray(photons_N, dtype=np.float64)[:, None, None]
    expected = photons * share + np.asarray(background_N, dtype=np.float64)[:, None, None]
    jacobian_N5P = np.stack([*(photons * s for s in slopes), share, np.ones_like(share)], axis=1)
    jacobian_N5P = jacobian_N5P.reshape(len(share), 5, -1) * camera.quantum_efficiency
    _, variance = electron_statistics(expected, camera)
    weighted = jacobian_N5P / variance.reshape(len(share), 1, -1)
    return np.asarray(weighted @ jacobian_N5P.transpose(0, 2, 1))


def covariance(information: FloatArray) -> FloatArray:
    """The bound on the covariance of any unbiased estimate: the inverse of (..., P, P) information.

    Raises:
        ValueError: when a parameter has no influence on the image, as z has none on a two-dimensional PSF.
    """
    diagonal = np.diagonal(information, axis1=-2, axis2=-1)
    if not (diagonal > 0).all():
        raise ValueError("A parameter has no influence on the image: its bound is infinite. Leave it out.")
    scale = 1 / np.sqrt(diagonal)  # to like sizes: those of z and background differ by many orders
    scale_PP = scale[..., :, None] * scale[..., None, :]
    return np.asarray(np.linalg.inv(information * scale_PP) * scale_PP)


def covariance_with_prior(information_PP: FloatArray, prior_std_P: FloatArray) -> FloatArray:
    """(P, P) covariance when the parameters are known beforehand to `prior_std_P`: (information + 1/prior^2)^-1.

    This is the form of van Trees' bound on Bayesian errors (Detection, Estimation, and Modulation Theory I, 1968,
    sec. 2.4) at given true values; the mean over emitters is then what an efficient estimator reaches. A prior of 0
    means known: such a parameter has the variance 0 and takes nothing from the others. No variance exceeds prior^2.
    """
    scale_PP = prior_std_P[:, None] * prior_std_P[None, :]
    # In units of the prior the matrix is at least the identity: it can always be inverted.
    return np.asarray(np.linalg.inv(np.eye(len(prior_std_P)) + information_PP * scale_PP) * scale_PP)


def joint_information(psf: PSF, camera: CameraConfig, window: Window) -> JointInformation:
    """Information on all emitters of a window together, which is what overlap and blinking allow.

    An emitter's x, y, z are shared between the frames, its photons of each frame are not, and each frame has one
    background, which scales its shape over the field where it has one. Emitters outside of the field and dim ones are
    parameters like all others.
    """
    height, width = window.size_px
    num_molecules, num_frames = window.photons_MT.shape
    position = np.arange(3 * num_molecules, dtype=np.int64).reshape(-1, 3)
    lit = window.photons_MT > 0
    photons_index = np.where(lit, 3 * num_molecules + np.cumsum(lit).reshape(lit.shape) - 1, -1)
    background_index = 3 * num_molecules + int(lit.sum()) + np.arange(num_frames)
    num_parameters = 3 * num_molecules + int(lit.sum()) + num_frames
    share_4MRR = _shares(psf, window)
    pixel_MRR, inside_MRR = _pixels(window, psf.roi_size_px)
    matrix = np.zeros((num_parameters, num_parameters))
    read_noise = None if window.read_noise_e_HW is None else window.read_noise_e_HW.ravel()
    expected_THW = np.empty((num_frames, height, width))
    for frame in range(num_frames):
        on = np.flatnonzero(lit[:, frame])
        inside, pixel = inside_MRR[on], pixel_MRR[on][inside_MRR[on]]
        photons = window.photons_MT[on, frame][:, None, None]
        slopes = [*(photons * share_4MRR[1:, on]), share_4MRR[0, on]]
        light = (photons * share_4MRR[0, on])[inside]
        shape = 1.0 if window.background_shape_THW is None else window.background_shape_THW[frame].ravel()
        expected = window.background_T[frame] * shape + np.bincount(pixel, light, minlength=height * width)
        # Slopes of the electrons in units of their noise: their products are the information.
        per_noise = camera.quantum_efficiency / np.sqrt(electron_statistics(expected, camera, read_noise)[1])
        parameter = [*position[on].T, photons_index[on, frame]]
        values = np.concatenate([slope[inside] * per_noise[pixel] for slope in slopes])
        rows = np.concatenate([np.broadcast_to(p[:, None, None], inside.shape)[inside] for p in parameter])
        size = (num_parameters, height * width)
        jacobian = csr_array((values, (rows, np.tile(pixel, len(slopes)))), shape=size)
        matrix += (jacobian @ jacobian.T).toarray()
        of_background = background_index[frame]
        of_level = per_noise * shape
        matrix[of_background] += jacobian @ of_level
        matrix[:, of_background] = matrix[of_background]
        matrix[of_background, of_background] = of_level @ of_level
        expected_THW[frame] = expected.reshape(height, width)
    return JointInformation(matrix, position, photons_index, background_index, expected_THW)


def _shares(psf: PSF, window: Window) -> FloatArray:
    x, y = window.x_M - np.rint(window.x_M), window.y_M - np.rint(window.y_M)
    return share_with_derivatives(psf, x, y, window.z_M, window.phase_MK, window.magnitude_MK)


def _pixels(window: Window, roi_size_px: int) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Flat pixel of the field under each pixel of each region, and whether it lies in the field."""
    height, width = window.size_px
    roi = np.arange(roi_size_px) - roi_size_px // 2
    row = np.rint(window.y_M).astype(np.int64)[:, None, None] + roi[:, None]
    column = np.rint(window.x_M).astype(np.int64)[:, None, None] + roi
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return row * width + column, inside
