"""Scores a model on the validation samples: detection metrics, and what the report shows of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import ValidationError

from adaloc.config import Config, PupilPSFConfig, SimulationConfig
from adaloc.data.generate import CALIBRATION_FILE, read_description
from adaloc.data.sample_folder import read_coefficients
from adaloc.data.windows import Sample
from adaloc.emitters import EmitterTable, FloatArray, IntArray, concatenate
from adaloc.errors import DataError
from adaloc.evaluation.bounds_of_pairs import Bounds, against_bounds
from adaloc.evaluation.emitter_bounds import Scene, emitter_bounds
from adaloc.evaluation.metrics import Scored, score, summarize
from adaloc.localize.inference import localize_frames
from adaloc.models.losses import left_out_channels
from adaloc.models.model_file import Model
from adaloc.monitor.plots import Example, figure_pixels, plot_examples
from adaloc.monitor.validation_file import Validation
from adaloc.simulation.camera import to_photons
from adaloc.training.recording import Score
from adaloc.validation_pictures import describe_validation

METRICS = ("jaccard", "precision", "recall", "rmse_lateral_nm", "rmse_axial_nm", "efficiency_3d")
FRAMES_WHILE_TRAINING = 20
"""Of each validation sample; all of them at the end."""
NUM_EXAMPLES = 6
_AXIAL_TOLERANCE_NM = 500.0
_MOST_BOUNDED_EMITTERS = 1500  # about 1 ms each; they are the same at every scoring


@dataclass(frozen=True)
class Light:
    """What the validation frames were made with.

    Attributes:
        simulation: of the data set's description, its calibration that of the data set.
        coefficients: of each sample's emitters; None for a PSF without them.
    """

    simulation: SimulationConfig
    coefficients: dict[str, tuple[FloatArray, FloatArray] | None]


class ValidationScorer:
    """Scores models of one run on its validation samples; bounds of emitters are computed once.

    Args:
        config: the run's.
        samples: the validation samples.
    """

    def __init__(self, config: Config, samples: Sequence[Sample]) -> None:
        self._config, self._samples = config, samples
        self._bounds: tuple[IntArray, Bounds] | None = None
        self.unknown_because: dict[str, str] = {}
        """Why there is no RMSE over CRLB ("crlb"), when there is none."""

    def score(self, model: Model, final: bool) -> tuple[Score, list[EmitterTable]]:
        """Detection metrics with a picture, and the localizations of each sample.

        Args:
            model: on the device to compute on.
            final: all frames; otherwise the first 20 of each sample.
        """
        tables, examples = [], []
        for index, sample in enumerate(self._samples):
            length = len(sample.frames_THW)
            num_frames = length if final else min(FRAMES_WHILE_TRAINING, length)
            found = localize_frames(model, sample.frames_THW[:num_frames])
            tables.append(found)
            if index < NUM_EXAMPLES:
                examples.append(example(model, sample, found, frame=num_frames // 2))
        counted = [num_frames_of(sample, final) for sample in self._samples]
        localizations, truth = joined(tables, counted), self._truth(counted)
        scored = self._scored(model, localizations, truth)
        result = summarize(scored)
        metrics: dict[str, float | None] = {name: getattr(result, name) for name in METRICS}
        metrics.update(self._against_bounds(model, tables))
        picture = figure_pixels(plot_examples(examples, self._config.simulation.optics.pixel_size_nm))
        return Score(metrics, picture), tables

    def describe(self, model: Model, tables: Sequence[EmitterTable]) -> Validation:
        """What the report shows, of the localizations of all frames of each sample."""
        counted = [num_frames_of(sample, True) for sample in self._samples]
        localizations, truth = joined(tables, counted), self._truth(counted)
        light, why = self._light()
        return describe_validation(
            self._samples, localizations, truth, self._scored(model, localizations, truth), self._config,
            simulation=None if light is None else light.simulation,
            coefficients={} if light is None else light.coefficients,
            unknown_because={**self.unknown_because, **({"psf": why} if why else {})},
        )  # fmt: skip

    def _truth(self, num_frames: Sequence[int]) -> EmitterTable:
        cut = [s.emitters.select(s.emitters.frame < num) for s, num in zip(self._samples, num_frames, strict=True)]
        return joined([_mandatory(table) for table in cut], num_frames)

    def _scored(self, model: Model, localizations: EmitterTable, truth: EmitterTable) -> Scored:
        return score(
            localizations,
            truth,
            pixel_size_nm=self._config.simulation.optics.pixel_size_nm,
            image_size_px=self._samples[0].frames_THW.shape[1:],
            axial_tolerance_nm=None if "z" in left_out_channels(model.scaling) else _AXIAL_TOLERANCE_NM,
            min_photons=self._config.data.min_photons,
        )

    def _against_bounds(self, model: Model, tables: Sequence[EmitterTable]) -> dict[str, float | None]:
        """RMSE over CRLB on some of the frames, always the same ones."""
        counted = [num_frames_of(sample, False) for sample in self._samples]
        truth = self._truth(counted)
        if self._bounds is None and "crlb" not in self.unknown_because:
            self._find_bounds(truth, counted)
        if self._bounds is None:
            return {"rmse_over_crlb_lateral": None, "rmse_over_crlb_axial": None}
        frames, bounds = self._bounds
        early = [table.select(table.frame < num) for table, num in zip(tables, counted, strict=True)]
        localizations = joined(early, counted)
        rows = np.flatnonzero(np.isin(truth.frame, frames))
        scored = self._scored(model, localizations.select(np.isin(localizations.frame, frames)), truth.select(rows))
        ratios = against_bounds(scored, bounds)
        return {
            "rmse_over_crlb_lateral": ratios.rmse_over_crlb_lateral,
            "rmse_over_crlb_axial": ratios.rmse_over_crlb_axial,
        }

    def _find_bounds(self, truth: EmitterTable, counted: Sequence[int]) -> None:
        light, why = self._light()
        if light is None:
            self.unknown_because["crlb"] = why
            return
        num_frames = sum(counted)
        share = min(1.0, _MOST_BOUNDED_EMITTERS / max(len(truth), 1))
        frames = np.unique(np.linspace(0, num_frames - 1, max(int(share * num_frames), 1)).astype(np.int64))
        first, parts = 0, []
        try:
            for sample, num in zip(self._samples, counted, strict=True):
                chosen = frames[(frames >= first) & (frames < first + num)] - first
                emitters = sample.emitters.select(np.isin(sample.emitters.frame, chosen))
                height, width = sample.frames_THW.shape[1:]
                scene = Scene(light.simulation, (height, width), sample.background_T, light.coefficients[sample.name])
                parts.append(emitter_bounds(emitters, scene))
                first += num
        except DataError as error:
            self.unknown_because["crlb"] = str(error)
            return
        depth = [part.z_nm for part in parts if part.z_nm is not None]
        bounds = Bounds(
            np.concatenate([part.x_nm for part in parts]),
            np.concatenate([part.y_nm for part in parts]),
            np.concatenate(depth) if len(depth) == len(parts) else None,
        )
        if not np.isfinite(bounds.x_nm).any():
            self.unknown_because["crlb"] = "the samples do not say what background their frames have"
            return
        self._bounds = frames, bounds

    def _light(self) -> tuple[Light | None, str]:
        """What the data set says that it was made with, or None and why that is not known."""
        root = self._config.data.root
        try:
            description = read_description(root)
            if description is None:
                return None, "the data set has no dataset.json that says how it was made"
            simulation = SimulationConfig.model_validate(description["simulation"])
            psf = simulation.psf
            if isinstance(psf, PupilPSFConfig) and psf.calibration is not None:
                psf = psf.model_copy(update={"calibration": root / CALIBRATION_FILE})
            needed = isinstance(psf, PupilPSFConfig)
            found = {s.name: read_coefficients(root / s.name) if needed else None for s in self._samples}
        except DataError as error:
            return None, str(error)
        except ValidationError as error:
            return None, f"dataset.json cannot be read ({error.error_count()} problems)"
        if needed and any(coefficients is None for coefficients in found.values()):
            return None, "some samples have no Zernike coefficients of their emitters (zernike_coeffs)"
        return Light(simulation.model_copy(update={"psf": psf}), found), ""


def example(model: Model, sample: Sample, found: EmitterTable, frame: int) -> Example:
    """A frame in photons with the emitters that were asked for and the localizations."""
    photons = to_photons(torch.from_numpy(sample.frames_THW[frame].astype(np.float32)), model.config.simulation.camera)
    truth = sample.emitters.select(
        (sample.emitters.frame == frame) & (sample.emitters.photons >= model.config.data.min_photons)
    )
    return Example(photons.double().numpy(), truth, found.select(found.frame == frame), f"{sample.name}, frame {frame}")


def num_frames_of(sample: Sample, final: bool) -> int:
    """Frames of a sample that are scored."""
    return len(sample.frames_THW) if final else min(FRAMES_WHILE_TRAINING, len(sample.frames_THW))


def joined(tables: Sequence[EmitterTable], num_frames: Sequence[int]) -> EmitterTable:
    """Tables of movies of so many frames, one behind the other in time."""
    first = np.concatenate([[0], np.cumsum(num_frames)[:-1]]).astype(np.int64)
    return concatenate([shift_frames(table, int(offset)) for table, offset in zip(tables, first, strict=True)])


def shift_frames(table: EmitterTable, offset: int) -> EmitterTable:
    """The same rows in later frames."""
    return dataclasses.replace(table, frame=table.frame + offset)


def _mandatory(table: EmitterTable) -> EmitterTable:
    return EmitterTable(table.frame, table.x, table.y, table.z, table.photons, emitter_id=table.emitter_id)
