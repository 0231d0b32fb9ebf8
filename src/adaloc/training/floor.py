"""The physical floor: the loss that the joint CRLB allows on the very targets that validation scores.

For every target its variance is taken from the information of all emitters of its window (simulation/crlb.py), with
the spread of the training targets as the prior, and summed as the loss sums its errors. So

- a squared error becomes the variance, an absolute one sqrt(2/pi) sigma, the mean absolute error of a normal one;
- no channel's floor exceeds the loss of its best constant predictor;
- the emitters' number counts as known. Detection pays for the pixels that noise leaves open (detection_bound.py);
- x, y, z and photons are asked for at the true pixel, as the loss asks for them, and a local bound with a normal prior
  stands for a flat one. Where emitters are so dim that the prior decides, a real estimator may do a little better or
  worse.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import ValidationError

from adaloc.config import CHANNELS, Config, PupilPSFConfig, SimulationConfig
from adaloc.data.generate import DATASET_FILE, psf_of_data, read_description
from adaloc.data.sample_folder import read_coefficients
from adaloc.data.scaling import Scaling
from adaloc.data.targets import target_rows
from adaloc.data.windows import Cut, Sample, make_batch, validation_cuts
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.errors import DataError
from adaloc.models.losses import ChannelLoss, LossSums
from adaloc.simulation.crlb import (
    JointInformation,
    Window,
    covariance_with_prior,
    electron_statistics,
    joint_information,
)
from adaloc.simulation.psf import PSF
from adaloc.training.detection_bound import detection_bound

_MOST_SECONDS = 8.0  # of one core: a minute's worth of training must not wait longer for a line in a plot
_SECONDS_PER_EMITTER = 1e-3  # measured: images of 33 x 33 px with their derivatives
_SECONDS_PER_PARAMETER_CUBED = 2e-10  # measured: sums and two inverses of the matrix
_LARGEST_FIELD_PX = 160
"""Of larger windows the middle is taken, whose matrix has some 2,300 parameters at 0.7 emitters per square micrometre;
then targets whose images its edge cuts are left out, as if the field had no edge. Emitters do not reach further than
their region of interest."""
_MOST_PARAMETERS, _TOO_MANY_PARAMETERS = 5000, 8000
"""Of dense windows a smaller middle is taken, with about so many parameters at most: the inverse costs their cube, and
5,000 take 10 to 25 s of a core and 200 MB for each copy of the matrix. Where a window with only `_LEAST_SCORED_PX`
clear of its edges, or a smaller whole one, has too many, the floor is unknown."""
_LEAST_SCORED_PX = 16
_MOST_CHI_SQUARE = 1.5
"""Of (frame - expectation)^2 / variance, mean over the pixels of all windows. Shot noise gives 1, within a few percent
even for one window of 8 x 8 px; half as much again cannot come from the light and noise that were described."""


@dataclass(frozen=True)
class Floor:
    """What physics allows, in the units of the loss.

    Attributes:
        loss: weighted sum of the channels, or None when it is unknown.
        channels: of [probability, x, y, z, photons, background] before weighting; None when unknown.
        unknown_because: why; empty when it is known.
        seconds: what it took.
    """

    loss: float | None
    channels: tuple[float, ...] | None
    unknown_because: str
    seconds: float


class _UnknownError(Exception):
    """The data do not tell their physics; the message says what is missing."""


@dataclass(frozen=True)
class _Physics:
    """What the data set says that it was made with; coefficients by sample name, None for a PSF without them."""

    psf: PSF
    simulation: SimulationConfig
    coefficients: dict[str, tuple[FloatArray, FloatArray] | None]


def physical_floor(samples: Sequence[Sample], config: Config, loss: ChannelLoss) -> Floor:
    """The floor of the validation loss, from the data set's own description in `config.data.root`.

    Nothing is assumed: without dataset.json, or without the Zernike coefficients that its PSF needs, the floor is
    unknown. Of windows that would take too long together, some are taken, evenly.

    Args:
        samples: the validation samples.
        config: the run's.
        loss: which weighs the errors.
    """
    begin = time.perf_counter()
    try:
        sums = _bound_sums(samples, config, loss, _read_physics(samples, config))
        channels = _at_most_the_references(loss.channels(sums).tolist(), loss)
    except _UnknownError as error:
        return Floor(None, None, str(error), time.perf_counter() - begin)
    total = math.fsum(w * c for w, c in zip(loss.weights, channels, strict=True))
    return Floor(total, channels, "", time.perf_counter() - begin)


def _read_physics(samples: Sequence[Sample], config: Config) -> _Physics:
    root = config.data.root
    try:
        description = read_description(root)
        if description is None:
            raise _UnknownError(f"the data set has no {DATASET_FILE} that says how it was made")
        simulation = SimulationConfig.model_validate(description["simulation"])
        psf = psf_of_data(root, simulation)  # a spline's file may be gone since
        needs_coefficients = isinstance(simulation.psf, PupilPSFConfig)
        coefficients = {s.name: read_coefficients(root / s.name) if needs_coefficients else None for s in samples}
    except DataError as error:
        raise _UnknownError(str(error)) from None
    except ValidationError as error:
        raise _UnknownError(f"{DATASET_FILE} cannot be read ({error.error_count()} problems)") from None
    for sample in samples:
        ids, known = sample.emitters.emitter_id, coefficients[sample.name]
        if ids is None:
            raise _UnknownError(f"{sample.name} does not say which records are of one emitter (records/id)")
        if needs_coefficients and known is None:
            raise _UnknownError(f"{sample.name} has no Zernike coefficients of its emitters (zernike_coeffs)")
        if known is not None and not (ids.min() >= 0 and ids.max() < min(len(known[0]), len(known[1]))):
            raise _UnknownError(f"{sample.name} has emitters without Zernike coefficients")
    return _Physics(psf, simulation, coefficients)


def _bound_sums(samples: Sequence[Sample], config: Config, loss: ChannelLoss, physics: _Physics) -> LossSums:
    """The bounds of all validation targets, summed as `ChannelLoss.sums` sums errors."""
    total, count = np.zeros(len(CHANNELS)), np.zeros(len(CHANNELS))
    chi_square, num_pixels = 0.0, 0
    unit = np.ones(5) if loss.raw else np.array(loss.scaling.unit())
    middle = config.data.consecutive_frames // 2
    scored = [_scored_window(cut, config, physics) for cut in validation_cuts(samples, config.data)]
    for cut, window, targets in _affordable(scored):
        information = joint_information(physics.psf, physics.simulation.camera, window)
        chi_square += _chi_square(cut, physics.simulation, information.expected_THW, window.read_noise_e_HW)
        num_pixels += information.expected_THW.size
        total[0] += _least_detection_loss(window, information, targets, config, loss)
        # Of a large field's middle only the targets clear of its edge count.
        whole = window.size_px[0] == config.data.image_size
        count[0] += (window.size_px[0] - (0 if whole else physics.psf.roi_size_px)) ** 2
        prior = _prior(window, loss.scaling, config.data.min_photons)
        variance = np.diagonal(covariance_with_prior(information.matrix_PP, prior))
        of_emitters = variance[np.column_stack([information.position_M3, information.photons_MT[:, middle]])[targets]]
        of_emitters = of_emitters / unit[:4] ** 2
        total[1:5] += np.where(loss.absolute[1:5], np.sqrt(2 / math.pi * of_emitters), of_emitters).sum(axis=0)
        count[1:5] += len(targets)
        # One term for each window is the mean over the pixels, whose background is a share of the level. The shares
        # of a structured background count as known: it cannot be told better than that, and a network tells it worse.
        share = 1.0 if window.background_shape_THW is None else float((window.background_shape_THW[middle] ** 2).mean())
        total[5] += share * variance[information.background_T[middle]] / unit[4] ** 2
        count[5] += 1
    if not count[1]:
        raise _UnknownError(f"no emitter of the validation windows has {config.data.min_photons:g} photons")
    if not chi_square / num_pixels < _MOST_CHI_SQUARE:
        raise _UnknownError(
            f"the frames are not what {DATASET_FILE} describes: their squared difference to it is "
            f"{chi_square / num_pixels:.3g} times the variance of the noise"
        )
    return LossSums(torch.from_numpy(total), torch.from_numpy(count))


def _scored_window(cut: Cut, config: Config, physics: _Physics) -> tuple[Cut, Window, IntArray]:
    """A cut (of a large one the middle), all emitters whose light reaches it, and which of them are its targets."""
    sample, first, num_frames = cut.sample, cut.first_frame, config.data.consecutive_frames
    whole, roi = config.data.image_size, physics.psf.roi_size_px
    # The same rows through the same rounding as in the batches that are scored.
    emitters = make_batch([cut], num_frames, whole, num_frames).emitters
    chosen = target_rows(emitters, (whole, whole), config.data.min_photons)[0].numpy()
    begin, end = sample.first_row_T[first], sample.first_row_T[first + num_frames]
    table = sample.emitters.select(np.arange(begin, end))
    size = min(whole, _LARGEST_FIELD_PX)
    size = min(size, max(_size_within_limits(_from_middle(table, cut, whole), table, roi), roi + _LEAST_SCORED_PX))
    cut = dataclasses.replace(cut, top=cut.top + (whole - size) // 2, left=cut.left + (whole - size) // 2)
    from_middle = _from_middle(table, cut, size)
    near = table.select(from_middle <= (size + roi) / 2)
    assert table.emitter_id is not None and near.emitter_id is not None  # _read_physics has seen to it
    ids, row_of, emitter_of = np.unique(near.emitter_id, return_index=True, return_inverse=True)
    if (number := 3 * len(ids) + len(near) + num_frames) > _TOO_MANY_PARAMETERS:
        raise _UnknownError(f"{sample.name} is so dense that {number} parameters would have to be told apart together")
    photons = np.zeros((len(ids), num_frames))
    np.add.at(photons, (emitter_of, near.frame - first), near.photons)
    background = sample.background_T[first : first + num_frames]
    if not np.isfinite(background).all():
        raise _UnknownError(f"{sample.name} does not say its background (background/photons)")
    coefficients = physics.coefficients[sample.name]
    rows, columns = slice(cut.top, cut.top + size), slice(cut.left, cut.left + size)
    shape, noise = sample.background_shape, sample.read_noise_e_HW
    window = Window(
        x_M=near.x[row_of] - cut.left,
        y_M=near.y[row_of] - cut.top,
        z_M=near.z[row_of],
        photons_MT=photons,
        background_T=background,
        size_px=(size, size),
        phase_MK=None if coefficients is None else coefficients[0][ids],
        magnitude_MK=None if coefficients is None else coefficients[1][ids],
        background_shape_THW=None if shape is None else shape.in_frames(first, num_frames)[:, rows, columns],
        read_noise_e_HW=None if noise is None else noise[rows, columns],
    )
    target = int(sample.first_row_T[first + num_frames // 2] - begin) + chosen
    if size < whole:
        target = target[from_middle[target] <= (size - roi) / 2]
    return cut, window, np.searchsorted(ids, table.emitter_id[target])


def _from_middle(table: EmitterTable, cut: Cut, size: int) -> FloatArray:
    """(N,) px along the further axis from the middle of a cut of `size` px."""
    middle = (size - 1) / 2
    return np.maximum(np.abs(table.x - cut.left - middle), np.abs(table.y - cut.top - middle))


def _size_within_limits(from_middle_N: FloatArray, table: EmitterTable, roi_size_px: int) -> int:
    """Side in px of the largest middle whose emitters, and those that shine into it, have about `_MOST_PARAMETERS`."""
    order = np.argsort(from_middle_N)
    assert table.emitter_id is not None
    is_new = np.zeros(len(order), dtype=bool)
    is_new[np.unique(table.emitter_id[order], return_index=True)[1]] = True
    parameters = np.cumsum(1 + 3 * is_new)  # photons in each frame, a place once
    num = int(np.searchsorted(parameters, _MOST_PARAMETERS, side="right"))
    return _LARGEST_FIELD_PX if num == len(order) else int(2 * from_middle_N[order[num]]) - roi_size_px


def _least_detection_loss(
    window: Window, information: JointInformation, targets: IntArray, config: Config, loss: ChannelLoss
) -> float:
    """Least cross entropy of a window's targets, whose pixels are not known beforehand, in nats."""
    height, width = window.size_px
    anywhere_px = (width / math.sqrt(12), height / math.sqrt(12))
    prior = _prior(window, loss.scaling, config.data.min_photons, anywhere_px)
    covariance = covariance_with_prior(information.matrix_PP, prior)
    xy = information.position_M3[targets, :2]
    of_targets = covariance[xy[:, :, None], xy[:, None, :]]
    return detection_bound(window.x_M[targets], window.y_M[targets], of_targets, window.size_px, loss.pos_weight)


def _prior(
    window: Window, scaling: Scaling, min_photons: float, lateral_px: tuple[float, float] | None = None
) -> FloatArray:
    """(P,) spread of the parameters before the frames are seen, in the order of `joint_information`.

    `lateral_px` is that of x and y; None where the pixel is known.
    """
    x, y, z, photons, background = (s if v else 0.0 for s, v in zip(scaling.std, scaling.varies[1:], strict=True))
    x, y = lateral_px or (x, y)
    lit = window.photons_MT > 0
    # Emitters too dim to be targets are known to have between 0 and min_photons.
    of_photons = np.where(window.photons_MT[lit] < min_photons, min_photons / math.sqrt(12), photons)
    return np.concatenate(
        [np.tile([x, y, z], len(window.x_M)), of_photons, np.full(len(window.background_T), background)]
    )


def _chi_square(
    cut: Cut, simulation: SimulationConfig, expected_THW: FloatArray, read_noise_e_HW: FloatArray | None
) -> float:
    """Sum over the pixels of the squared difference to the frames over its variance."""
    camera, (length, height, width) = simulation.camera, expected_THW.shape
    frames, rows, columns = (
        slice(begin, begin + extent)
        for begin, extent in ((cut.first_frame, length), (cut.top, height), (cut.left, width))
    )
    electrons_per_adu = camera.gain_e_per_adu / camera.em_gain
    electrons = (cut.sample.frames_THW[frames, rows, columns] - camera.baseline_adu) * electrons_per_adu
    mean, variance = electron_statistics(expected_THW, camera, read_noise_e_HW)
    return float(((electrons - mean) ** 2 / (variance + electrons_per_adu**2 / 12)).sum())  # 1/12: rounding to ADU


def _affordable(windows: Sequence[tuple[Cut, Window, IntArray]]) -> list[tuple[Cut, Window, IntArray]]:
    """As many of the windows as the time allows, evenly; at least one. A function of the data, not of the clock."""
    seconds = 0.0
    for _, window, _ in windows:
        num_emitters, num_frames = window.photons_MT.shape
        num_parameters = 3 * num_emitters + np.count_nonzero(window.photons_MT) + num_frames
        seconds += _SECONDS_PER_EMITTER * num_emitters + _SECONDS_PER_PARAMETER_CUBED * num_parameters**3
    share = min(_MOST_SECONDS / max(seconds, 1e-9), 1.0)
    chosen = np.linspace(0, len(windows) - 1, max(int(share * len(windows)), 1)).round().astype(int)
    return [windows[i] for i in chosen]


def _at_most_the_references(channels: Sequence[float], loss: ChannelLoss) -> tuple[float, ...]:
    # With absolute errors a prior of the right variance may still have a larger mean deviation than the targets.
    highest = loss.references if loss.raw else (1.0,) * len(channels)
    return tuple(min(c, h) if w > 0 else 0.0 for c, h, w in zip(channels, highest, loss.weights, strict=True))
