"""Two files made comparable, and everything that is measured about them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError
from adaloc.evaluation.bounds_of_pairs import Bounds, against_bounds
from adaloc.evaluation.matching import Method
from adaloc.evaluation.metrics import Evaluation, Scored, score, summarize
from adaloc.evaluation.rmsmd import rmsmd, rmsmd_partitioned
from adaloc.evaluation.tables import (
    Bin,
    PerFrame,
    binned,
    even_edges,
    local_density_per_um2,
    per_frame,
    quantile_edges,
)
from adaloc.evaluation.wobble import without_wobble
from adaloc.localize.pixel_grid import error_wave_nm, pixel_grid_bias

_NUM_BINS = 12
_NUM_PHOTON_BINS = 8
_DENSITY_BINS = 8
CHALLENGE_QUANTILE = 0.25

Value = float | int | None


@dataclass(frozen=True)
class Rules:
    """How localizations are scored; the arguments of `score`."""

    lateral_tolerance_nm: float = 250.0
    axial_tolerance_nm: float = 500.0
    border_nm: float = 450.0
    min_photons: float = 0.0
    method: Method = "greedy"
    cut_border_first: bool = False


@dataclass(frozen=True)
class Comparison:
    """Localizations and truth in px of one camera.

    Attributes:
        localizations, truth: the tables.
        pixel_size_nm: their pixel.
        image_size_px: (H, W) of the field, or None.
        is_3d: both have a depth.
    """

    localizations: EmitterTable
    truth: EmitterTable
    pixel_size_nm: PixelSize
    image_size_px: tuple[int, int] | None
    is_3d: bool

    def scored(self, rules: Rules) -> Scored:
        """What counts under the rules."""
        options = dataclasses.asdict(rules)
        if not self.is_3d:
            options["axial_tolerance_nm"] = None
        return score(
            self.localizations,
            self.truth,
            pixel_size_nm=self.pixel_size_nm,
            image_size_px=self.image_size_px,
            **options,
        )


@dataclass(frozen=True)
class Tables:
    """Scores in parts."""

    by_depth: list[Bin]
    by_photons: list[Bin]
    by_density: list[Bin]
    frames: PerFrame


def figures_of(comparison: Comparison, scored: Scored, bounds: Bounds | None) -> dict[str, Value]:
    """All figures by name.

    They are those of `summarize`, the mean of the frames' Jaccard indices, the pixel-grid bias, and the errors over the
    bounds and over the localizations' own uncertainties (root mean square, 1 where those are right).
    """
    localizations, truth = comparison.localizations, comparison.truth
    figures: dict[str, Value] = dict(dataclasses.asdict(summarize(scored)))
    frames = per_frame(scored, localizations, truth)
    figures["jaccard_mean_of_frames"] = float(frames.jaccard.mean()) if len(frames.frame) else None
    figures["jaccard_std_of_frames"] = float(frames.jaccard.std()) if len(frames.frame) else None
    for axis, errors in (("x", scored.dx_nm), ("y", scored.dy_nm)):
        bias = pixel_grid_bias(getattr(localizations, axis))
        figures[f"pixel_grid_{axis}_amplitude"] = None if bias is None else bias.amplitude
        figures[f"pixel_grid_{axis}_p_value"] = None if bias is None else bias.p_value
        figures[f"pixel_grid_{axis}_error_nm"] = error_wave_nm(errors, getattr(truth, axis)[scored.truth])
    if bounds is not None:
        against = dataclasses.asdict(against_bounds(scored, bounds))
        figures |= {name if name != "num_pairs" else "crlb_num_pairs": value for name, value in against.items()}
    for title, values in in_sigmas(comparison, scored).items():
        figures[f"error_in_sigma_{title}"] = float(np.sqrt((values**2).mean())) if len(values) else None
    return figures


def in_sigmas(comparison: Comparison, scored: Scored) -> dict[str, FloatArray]:
    """Errors of the pairs in units of the localizations' own uncertainties, for every axis that has one."""
    localizations, size = comparison.localizations, comparison.pixel_size_nm
    columns = {
        "x": (scored.dx_nm, localizations.x_sigma, size.x),
        "y": (scored.dy_nm, localizations.y_sigma, size.y),
        "z": (scored.dz_nm, localizations.z_sigma, 1.0),
    }
    return {
        axis: errors / (sigma[scored.localization] * unit)
        for axis, (errors, sigma, unit) in columns.items()
        if errors is not None and sigma is not None
    }


def in_bounds(scored: Scored, bounds: Bounds | None) -> dict[str, FloatArray]:
    """Errors of the pairs in units of the bounds, for every axis that has one."""
    if bounds is None:
        return {}
    columns = {"x": (scored.dx_nm, bounds.x_nm), "y": (scored.dy_nm, bounds.y_nm), "z": (scored.dz_nm, bounds.z_nm)}
    return {
        axis: errors / bound[scored.truth]
        for axis, (errors, bound) in columns.items()
        if errors is not None and bound is not None
    }


def tables_of(comparison: Comparison, scored: Scored, bounds: Bounds | None) -> Tables:
    """Scores in bins of depth, photons and local density, and frame by frame."""
    localizations, truth = comparison.localizations, comparison.truth
    asked_for = np.concatenate([scored.truth, scored.false_negative])
    around_l, around_t = (local_density_per_um2(t, truth, comparison.pixel_size_nm) for t in (localizations, truth))
    depth_edges = even_edges(truth.z[asked_for], _NUM_BINS)
    photon_edges = quantile_edges(truth.photons[asked_for], _NUM_PHOTON_BINS)
    density_edges = quantile_edges(around_t[asked_for], _DENSITY_BINS)
    return Tables(
        by_depth=binned(scored, localizations.z, truth.z, depth_edges, bounds) if comparison.is_3d else [],
        by_photons=binned(scored, localizations.photons, truth.photons, photon_edges, bounds),
        by_density=binned(scored, around_l, around_t, density_edges, bounds),
        frames=per_frame(scored, localizations, truth),
    )


def challenge_rows(comparison: Comparison, rules: Rules) -> dict[str, Evaluation]:
    """The four scores of the SMLM challenge 2016, with greedy pairs and the border cut off both tables first.

    They are of all emitters and of those above the 25 % quantile of the photons, without and with the wobble taken off.
    The wobble is estimated from the pairs of all emitters (`without_wobble`).
    """
    threshold = float(np.quantile(comparison.truth.photons, CHALLENGE_QUANTILE)) if len(comparison.truth) else 0.0
    rules = dataclasses.replace(rules, method="greedy", cut_border_first=True, min_photons=0.0)
    straight = without_wobble(
        comparison.localizations, comparison.truth, comparison.scored(rules), comparison.pixel_size_nm
    )
    corrected = dataclasses.replace(comparison, localizations=straight)
    rows = {}
    for name, part in (("", comparison), (", wobble taken off", corrected)):
        for limit, least in (("all emitters", 0.0), (f"above {threshold:.0f} photons (25 %)", threshold)):
            rows[limit + name] = summarize(part.scored(dataclasses.replace(rules, min_photons=least)))
    return rows


def rmsmd_figures(comparison: Comparison) -> dict[str, Value]:
    """RMSMD and RMSMD-P of all localizations, border included; 2D data have no z in them.

    Raises:
        DataError: when the truth does not say which rows are one emitter, or one of the tables is empty.
    """
    ids = comparison.truth.emitter_id
    if ids is None:
        raise DataError("RMSMD needs to know which rows of the truth are one emitter, and the file does not say.")
    if len(comparison.localizations) == 0 or len(ids) == 0:
        raise DataError("RMSMD needs at least one localization and one emitter.")
    estimates, positions = (_positions_nm(t, comparison) for t in (comparison.localizations, comparison.truth))
    _, emitter, activations = np.unique(ids, return_inverse=True, return_counts=True)
    mean = np.stack([np.bincount(emitter, axis) / activations for axis in positions.T], axis=1)
    return {
        "rmsmd_p_nm": rmsmd_partitioned(estimates, mean, activations.astype(np.int64)),
        "rmsmd_nm": rmsmd(estimates, mean),
        "rmsmd_num_emitters": len(activations),
    }


def _positions_nm(table: EmitterTable, comparison: Comparison) -> FloatArray:
    size = comparison.pixel_size_nm
    columns: list[Any] = [table.x * size.x, table.y * size.y, *([table.z] if comparison.is_3d else [])]
    return np.column_stack(columns)
