"""The Cramer-Rao bound of each emitter of a truth, when optics, camera and background are known.

It is the bound of a single frame: all emitters of the frame and its background are unknown together, so overlap counts.
A method that reads neighbouring frames too can be better where molecules shine for several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaloc.config import GaussianPSFConfig, PupilPSFConfig, SimulationConfig
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.errors import DataError
from adaloc.evaluation.bounds_of_pairs import Bounds
from adaloc.simulation.crlb import Window, covariance_with_prior, joint_information
from adaloc.simulation.psf import make_psf

MAX_EMITTERS_PER_FRAME = 250  # the matrix has 4 rows for each, and must be inverted
MAX_FRAMES = 1500
# So wide that they change no bound of a visible emitter; they keep those of invisible ones finite.
_PRIOR_PX, _PRIOR_Z_NM, _PRIOR_FACTOR = 10.0, 3000.0, 10.0


@dataclass(frozen=True)
class Scene:
    """What a truth was imaged with.

    Attributes:
        simulation: optics, PSF and camera.
        image_size_px: (H, W) of the camera frame.
        background: photons per px, of every frame (T,) or of all.
        coefficients: Zernike phases and amplitudes by `emitter_id`, for a pupil PSF.
        light_known: photons and background are known beforehand and only positions are asked for, as the NAIRR-SMLM
            leaderboard's bound UGIA-F has it. The bound of close pairs is far lower then.
    """

    simulation: SimulationConfig
    image_size_px: tuple[int, int]
    background: FloatArray | float
    coefficients: tuple[FloatArray, FloatArray] | None = None
    light_known: bool = False


def emitter_bounds(truth: EmitterTable, scene: Scene) -> Bounds:
    """Bounds of the truth's emitters.

    Of more than 1500 frames, that many are taken, evenly; emitters of the others have NaN, and so have all emitters of
    frames that lie beyond what is known of the background.

    Args:
        truth: emitters with their photons in the frame, x and y in px of the scene's optics.
        scene: what they were imaged with.

    Raises:
        DataError: when a frame holds more than 250 emitters, or the PSF needs coefficients that are not there.
    """
    config = scene.simulation.psf
    needs_coefficients = isinstance(config, PupilPSFConfig)
    if needs_coefficients and (scene.coefficients is None or truth.emitter_id is None):
        raise DataError(
            "The bound is not known: a pupil PSF needs the Zernike coefficients of the emitters, which the sample "
            "folders of adaloc simulate hold."
        )
    is_flat = isinstance(config, GaussianPSFConfig) and config.depth_nm is None
    psf, size = make_psf(config, scene.simulation.optics), scene.simulation.optics.pixel_size_nm
    variance_N3 = np.full((len(truth), 3), np.nan)
    for rows in _frames(truth):
        frame = int(truth.frame[rows[0]])
        background = _background(scene, frame)
        if background is None:
            continue
        window = Window(
            x_M=truth.x[rows],
            y_M=truth.y[rows],
            z_M=truth.z[rows],
            photons_MT=np.maximum(truth.photons[rows], 1e-3)[:, None],
            background_T=np.array([background]),
            size_px=scene.image_size_px,
            phase_MK=_of(scene, truth, rows, 0) if needs_coefficients else None,
            magnitude_MK=_of(scene, truth, rows, 1) if needs_coefficients else None,
        )
        information = joint_information(psf, scene.simulation.camera, window)
        light = 0.0 if scene.light_known else _PRIOR_FACTOR  # a prior of 0 means known
        prior = np.full(len(information.matrix_PP), light * max(background, 1.0))
        prior[information.position_M3[:, :2]] = _PRIOR_PX
        prior[information.position_M3[:, 2]] = 0.0 if is_flat else _PRIOR_Z_NM
        prior[information.photons_MT[:, 0]] = light * np.maximum(truth.photons[rows], 1.0)
        covariance = covariance_with_prior(information.matrix_PP, prior)
        variance_N3[rows] = np.diagonal(covariance)[information.position_M3]
    sigma = np.sqrt(variance_N3)
    return Bounds(sigma[:, 0] * size.x, sigma[:, 1] * size.y, None if is_flat else sigma[:, 2])


def _frames(truth: EmitterTable) -> list[IntArray]:
    """Rows of each frame that is taken."""
    order = np.argsort(truth.frame, kind="stable")
    parts = [part for part in np.split(order, np.flatnonzero(np.diff(truth.frame[order])) + 1) if len(part)]
    most = max((len(part) for part in parts), default=0)
    if most > MAX_EMITTERS_PER_FRAME:
        raise DataError(
            f"The bound would take too long: a frame holds {most} emitters, and {MAX_EMITTERS_PER_FRAME} is the limit."
        )
    if len(parts) <= MAX_FRAMES:
        return parts
    return [parts[int(i)] for i in np.linspace(0, len(parts) - 1, MAX_FRAMES)]


def _background(scene: Scene, frame: int) -> float | None:
    if isinstance(scene.background, float | int):
        return float(scene.background)
    return float(scene.background[frame]) if frame < len(scene.background) else None


def _of(scene: Scene, truth: EmitterTable, rows: IntArray, which: int) -> FloatArray:
    assert scene.coefficients is not None and truth.emitter_id is not None
    ids, known = truth.emitter_id[rows], scene.coefficients[which]
    if ids.min() < 0 or ids.max() >= len(known):
        raise DataError("The bound is not known: some emitters have no Zernike coefficients in their sample folder.")
    return known[ids]
