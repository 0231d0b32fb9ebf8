"""What `validation.json` holds: best and worst frames, positions within the pixel, PSF and camera beside the frames."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from scipy.spatial import cKDTree

from adaloc.config import Config, PixelSize, SimulationConfig
from adaloc.data.movie_measure import measure_movie
from adaloc.data.movie_reference import expected_variance, slope_of
from adaloc.data.windows import Sample
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.evaluation.metrics import Scored
from adaloc.localize.pixel_grid import pixel_grid_bias
from adaloc.monitor.validation_file import (
    SIGMA_RANGE,
    CameraCheck,
    Pixel,
    Points,
    PSFCheck,
    ScoredFrame,
    SigmaAxis,
    SubPixelAxis,
    Validation,
)
from adaloc.simulation.camera import to_photons
from adaloc.simulation.psf import PSF, make_psf

_NUM_FRAMES = 4  # best ones, and as many worst ones
_LEAST_EMITTERS = 3  # a frame with fewer is right or wrong by chance
_LARGEST_SIDE_PX = 64
_NUM_BINS = 20
_NUM_SIGMA_BINS = 32
_ROI_HALF_PX = 7
_ALONE_PX = 2 * _ROI_HALF_PX - 3  # a neighbour further off reaches a corner at most
_MOST_EMITTERS = 600
_LEAST_OF_GROUP = 5
_NUM_DEPTHS = 7
_LEAST_MOVIE_SIDE_PX = 16

Coefficients = dict[str, tuple[FloatArray, FloatArray] | None]


def describe_validation(
    samples: Sequence[Sample],
    localizations: EmitterTable,
    truth: EmitterTable,
    scored: Scored,
    config: Config,
    *,
    simulation: SimulationConfig | None,
    coefficients: Coefficients,
    unknown_because: dict[str, str],
) -> Validation:
    """The content of validation.json.

    Args:
        samples: the validation samples, whose frames follow each other in both tables.
        localizations: of all frames.
        truth: all emitters, with their `emitter_id` for a PSF with coefficients.
        scored: which rows are pairs.
        config: the run's.
        simulation: what the data set says that it was made with, or None.
        coefficients: of each sample's emitters.
        unknown_because: what is already known to be unknown, see `Validation`.
    """
    unknown = dict(unknown_because)
    psf = None
    if simulation is not None:
        psf = psf_check(samples, simulation, coefficients)
        if psf is None:
            unknown["psf"] = "no depth has enough emitters that lie alone"
    camera = camera_check(samples, config)
    if camera is None:
        unknown["camera"] = f"the frames are smaller than {_LEAST_MOVIE_SIDE_PX} px"
    size = config.simulation.optics.pixel_size_nm
    asked = truth.select(truth.photons >= config.data.min_photons)
    return Validation(
        pixel_size_nm=Pixel(x=size.x, y=size.y),
        num_frames=sum(len(sample.frames_THW) for sample in samples),
        num_emitters=len(scored.truth) + len(scored.false_negative),
        num_localizations=len(scored.localization) + len(scored.false_positive),
        frames=best_and_worst(samples, localizations, truth, scored, config),
        sub_pixel={} if len(localizations) == 0 else sub_pixel(localizations, asked),
        uncertainty=uncertainty(localizations, scored, config.simulation.optics.pixel_size_nm),
        psf=psf,
        camera=camera,
        unknown_because=unknown,
    )


def best_and_worst(
    samples: Sequence[Sample], localizations: EmitterTable, truth: EmitterTable, scored: Scored, config: Config
) -> list[ScoredFrame]:
    """The frames with the highest and those with the lowest Jaccard index, of those with at least 3 emitters.

    Among equal ones the more emitters go first, as a full frame is the harder one.
    """
    first = np.concatenate([[0], np.cumsum([len(sample.frames_THW) for sample in samples])]).astype(np.int64)
    num = int(first[-1])
    hits = np.bincount(truth.frame[scored.truth], minlength=num)
    missed = np.bincount(truth.frame[scored.false_negative], minlength=num)
    extra = np.bincount(localizations.frame[scored.false_positive], minlength=num)
    squares = np.bincount(truth.frame[scored.truth], weights=scored.dx_nm**2 + scored.dy_nm**2, minlength=num)
    jaccard = hits / np.maximum(hits + missed + extra, 1)
    able = np.flatnonzero(hits + missed >= _LEAST_EMITTERS)
    if len(able) == 0:
        return []
    order = able[np.lexsort((-(hits + missed)[able], -jaccard[able]))]
    worst = able[np.lexsort((-(hits + missed)[able], jaccard[able]))]
    count = min(_NUM_FRAMES, max(len(able) // 2, 1))
    chosen: list[tuple[int, Literal["best", "worst"]]] = [(int(frame), "best") for frame in order[:count]]
    chosen += [(int(frame), "worst") for frame in worst[:count] if frame not in order[:count]]
    paired_l, paired_t = np.zeros(len(localizations), bool), np.zeros(len(truth), bool)
    paired_l[scored.localization], paired_t[scored.truth] = True, True
    frames = []
    for frame, rank in chosen:
        index = int(np.searchsorted(first, frame, side="right")) - 1
        sample, own = samples[index], frame - int(first[index])
        photons = to_photons(torch.from_numpy(sample.frames_THW[own].astype(np.float32)), config.simulation.camera)
        image = photons.double().numpy()
        top, left = (max((side - _LARGEST_SIDE_PX) // 2, 0) for side in image.shape)
        shown = image[top : top + _LARGEST_SIDE_PX, left : left + _LARGEST_SIDE_PX]
        asked = (truth.frame == frame) & (truth.photons >= config.data.min_photons)
        rmse = math.sqrt(squares[frame] / hits[frame]) if hits[frame] else None
        frames.append(
            ScoredFrame(
                sample=sample.name,
                frame=own,
                rank=rank,
                top=top,
                left=left,
                photons=np.rint(np.nan_to_num(shown)).astype(int).tolist(),
                truth=_points(truth, np.flatnonzero(asked), paired_t),
                localizations=_points(localizations, np.flatnonzero(localizations.frame == frame), paired_l),
                jaccard=float(jaccard[frame]),
                rmse_lateral_nm=rmse,
            )
        )
    return frames


def _points(table: EmitterTable, rows: IntArray, paired: np.typing.NDArray[np.bool_]) -> Points:
    return Points(
        x=np.round(table.x[rows], 3).tolist(),
        y=np.round(table.y[rows], 3).tolist(),
        z=np.round(table.z[rows], 1).tolist(),
        photons=np.round(table.photons[rows], 1).tolist(),
        paired=paired[rows].tolist(),
    )


def sub_pixel(localizations: EmitterTable, truth: EmitterTable) -> dict[Literal["x", "y"], SubPixelAxis]:
    """Histograms of the positions within the pixel, of at least one localization."""
    found: dict[Literal["x", "y"], SubPixelAxis] = {}
    axes: tuple[Literal["x", "y"], ...] = ("x", "y")
    for axis in axes:
        values, true = getattr(localizations, axis), getattr(truth, axis)
        bias = pixel_grid_bias(values)
        assert bias is not None  # there is a localization
        found[axis] = SubPixelAxis(
            counts=_within_pixel(values), truth_counts=_within_pixel(true),
            amplitude=bias.amplitude, peak_px=bias.peak_px, p_value=bias.p_value,
        )  # fmt: skip
    return found


def uncertainty(
    localizations: EmitterTable, scored: Scored, pixel_size_nm: PixelSize
) -> dict[Literal["x", "y", "z"], SigmaAxis]:
    """Errors of the pairs over what the model says of them; empty without uncertainties or pairs."""
    found: dict[Literal["x", "y", "z"], SigmaAxis] = {}
    axes: tuple[tuple[Literal["x", "y", "z"], FloatArray | None, FloatArray | None, float], ...] = (
        ("x", localizations.x_sigma, scored.dx_nm, pixel_size_nm.x),
        ("y", localizations.y_sigma, scored.dy_nm, pixel_size_nm.y),
        ("z", localizations.z_sigma, scored.dz_nm, 1.0),
    )
    for axis, sigma, error_nm, unit_nm in axes:
        if sigma is None or error_nm is None or len(error_nm) == 0:
            continue
        ratio = error_nm / (sigma[scored.localization] * unit_nm)
        shown = ratio.clip(-SIGMA_RANGE, SIGMA_RANGE)
        found[axis] = SigmaAxis(
            counts=np.histogram(shown, bins=_NUM_SIGMA_BINS, range=(-SIGMA_RANGE, SIGMA_RANGE))[0].tolist(),
            spread=float(ratio.std()),
            within_one=float((np.abs(ratio) < 1).mean()),
        )
    return found


def _within_pixel(position_px: FloatArray) -> list[int]:
    offsets = position_px - np.floor(position_px + 0.5)
    return [int(count) for count in np.histogram(offsets, bins=_NUM_BINS, range=(-0.5, 0.5))[0]]


def psf_check(samples: Sequence[Sample], simulation: SimulationConfig, coefficients: Coefficients) -> PSFCheck | None:
    """Mean images of emitters without neighbours, and the described PSF at the same places; None without enough."""
    psf = make_psf(simulation.psf, simulation.optics)
    half = min(_ROI_HALF_PX, psf.roi_size_px // 2)
    measured, model, depths = [], [], []
    for sample in samples:
        rows = _alone(sample, half)[: max(_MOST_EMITTERS // len(samples), 1)]
        if len(rows) == 0:
            continue
        measured.append(_measured(sample, rows, simulation, half))
        model.append(_modelled(sample, rows, psf, coefficients[sample.name], half))
        depths.append(sample.emitters.z[rows])
    if not measured:
        return None
    measured_NRR, model_NRR, z = np.concatenate(measured), np.concatenate(model), np.concatenate(depths)
    edges = np.linspace(z.min(), z.max() + 1e-6, _NUM_DEPTHS + 1)
    groups = [np.flatnonzero((z >= low) & (z < high)) for low, high in itertools.pairwise(edges)]
    groups = [rows for rows in groups if len(rows) >= _LEAST_OF_GROUP]
    if not groups:
        return None
    pairs = [(measured_NRR[rows].mean(axis=0), model_NRR[rows].mean(axis=0)) for rows in groups]
    return PSFCheck(
        z_nm=[round(float(z[rows].mean()), 1) for rows in groups],
        num=[len(rows) for rows in groups],
        measured=[np.round(1000 * seen, 2).tolist() for seen, _ in pairs],
        model=[np.round(1000 * expected, 2).tolist() for _, expected in pairs],
        correlation=[float(np.corrcoef(seen.ravel(), expected.ravel())[0, 1]) for seen, expected in pairs],
    )


def _alone(sample: Sample, half: int) -> IntArray:
    """Rows of emitters brighter than the median, clear of the edge, and far from all others of their frame."""
    table = sample.emitters
    height, width = sample.frames_THW.shape[1:]
    inside = (np.minimum(table.x, width - 1 - table.x) >= half) & (np.minimum(table.y, height - 1 - table.y) >= half)
    known = np.isfinite(sample.background_T)[np.minimum(table.frame, len(sample.background_T) - 1)]
    bright = table.photons >= np.median(table.photons) if len(table) else inside
    # A frame is further from the next than any two places in it.
    places = np.column_stack([table.x, table.y, table.frame * (4.0 * (height + width))])
    if len(table) < 2:
        return np.flatnonzero(inside & bright & known)
    distance = cKDTree(places).query(places, k=2)[0][:, 1]
    return np.flatnonzero(inside & bright & known & (distance > _ALONE_PX))


def _measured(sample: Sample, rows: IntArray, simulation: SimulationConfig, half: int) -> FloatArray:
    """(N, R, R) shares of the photons in the pixels around emitters, background taken off."""
    table, images = sample.emitters, []
    for row in rows:
        frame = int(table.frame[row])
        photons = to_photons(torch.from_numpy(sample.frames_THW[frame].astype(np.float32)), simulation.camera)
        y, x = round(float(table.y[row])), round(float(table.x[row]))
        cut = photons.double().numpy()[y - half : y + half + 1, x - half : x + half + 1]
        images.append((cut - sample.background_T[frame]) / table.photons[row])
    return np.array(images)


def _modelled(
    sample: Sample, rows: IntArray, psf: PSF, coefficients: tuple[FloatArray, FloatArray] | None, half: int
) -> FloatArray:
    table = sample.emitters
    ids = table.emitter_id[rows] if table.emitter_id is not None else rows
    x, y = (torch.from_numpy(values[rows] - np.rint(values[rows])).float() for values in (table.x, table.y))
    with torch.inference_mode():
        images = psf.images(
            x, y, torch.from_numpy(table.z[rows]).float(),
            *([] if coefficients is None else [torch.from_numpy(part[ids]).float() for part in coefficients]),
        )  # fmt: skip
    margin = images.shape[-1] // 2 - half
    cut = images[:, margin : images.shape[-1] - margin, margin : images.shape[-1] - margin]
    return np.asarray(cut.double().numpy())


def camera_check(samples: Sequence[Sample], config: Config) -> CameraCheck | None:
    """Photon transfer of the first validation movie; None when its frames are too small to measure."""
    frames = samples[0].frames_THW
    if min(frames.shape[1:]) < _LEAST_MOVIE_SIDE_PX or len(frames) < 2:
        return None
    camera, transfer = config.simulation.camera, measure_movie(frames).transfer
    expected = [expected_variance(float(mean), camera) for mean in transfer.mean_adu]
    if not np.isfinite([*transfer.mean_adu, *transfer.variance_adu2, *expected, transfer.slope_adu]).all():
        return None
    return CameraCheck(
        mean_adu=np.round(transfer.mean_adu, 3).tolist(),
        variance_adu2=np.round(transfer.variance_adu2, 3).tolist(),
        expected_adu2=expected,
        slope_adu=transfer.slope_adu,
        slope_sigma=transfer.slope_sigma if math.isfinite(transfer.slope_sigma) else None,
        expected_slope_adu=slope_of(camera),
    )
