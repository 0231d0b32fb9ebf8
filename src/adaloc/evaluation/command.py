"""`adaloc evaluate`: two files, a table of figures, and a page of plots."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaloc.config import PixelSize, SimulationConfig
from adaloc.config_file import load_config
from adaloc.emitters import EmitterTable
from adaloc.errors import AdalocError, ConfigError, DataError
from adaloc.evaluation.bounds_of_pairs import Bounds
from adaloc.evaluation.comparison import (
    Comparison,
    Rules,
    Value,
    challenge_rows,
    figures_of,
    rmsmd_figures,
    tables_of,
)
from adaloc.evaluation.metrics import Evaluation
from adaloc.files import write_text
from adaloc.localize.read import LocalizationFile, read_localizations

_SAME_SIZE = 0.01


@dataclass(frozen=True)
class Extras:
    """What is asked for beyond the figures.

    Attributes:
        with_rmsmd: RMSMD and RMSMD-P of the NAIRR-SMLM leaderboard.
        with_challenge: the four scores of the SMLM challenge.
        with_crlb: errors against the bound. A config or a page ask for it too.
        config: a config whose simulation describes optics and camera, for the bound.
        page: HTML file for the plots.
    """

    with_rmsmd: bool = False
    with_challenge: bool = False
    with_crlb: bool = False
    config: Path | None = None
    page: Path | None = None


@dataclass(frozen=True)
class Report:
    """Figures by name, the challenge's scores by name, and what could not be said and why."""

    figures: dict[str, Value]
    challenge: dict[str, Evaluation]
    notes: list[str]


def evaluate_files(
    locs: Path,
    truth: Path,
    pixel_size_nm: PixelSize | None,
    image_size_px: tuple[int, int] | None,
    *,
    lateral_nm: float,
    axial_nm: float,
    border_nm: float,
    min_photons: float,
) -> dict[str, Value]:
    """The figures of `report_files` alone."""
    rules = Rules(lateral_nm, axial_nm, border_nm, min_photons)
    return report_files(locs, truth, pixel_size_nm, image_size_px, rules=rules).figures


def report_files(
    locs: Path,
    truth: Path,
    pixel_size_nm: PixelSize | None,
    image_size_px: tuple[int, int] | None,
    *,
    rules: Rules,
    photon_quantile: float | None = None,
    extras: Extras | None = None,
) -> Report:
    """Scores one file against another; both may be any format that `read_localizations` knows.

    A pixel size that only one of the files states holds for both: a CSV in nm has no pixels of its own. The bound is
    computed where the truth is a sample of a simulated data set, or a config is given.

    Args:
        locs, truth: the files.
        pixel_size_nm, image_size_px: of the camera, where the files do not say.
        rules: how to score.
        photon_quantile: ask for emitters above this quantile of the photons instead of `rules.min_photons`.
        extras: what else to do.

    Raises:
        DataError: when a file cannot be read, or the pixel size is needed and not known.
        ConfigError: when the config does not fit the files.
    """
    extras = extras or Extras()
    comparison = read_comparison(locs, truth, pixel_size_nm, image_size_px)
    if photon_quantile is not None and len(comparison.truth):
        least = float(np.quantile(comparison.truth.photons, photon_quantile))
        rules = dataclasses.replace(rules, min_photons=least)
    notes: list[str] = []
    wanted = extras.with_crlb or extras.config is not None or extras.page is not None
    bounds = _bounds(comparison, truth, extras.config, notes) if wanted else None
    scored = comparison.scored(rules)
    figures = figures_of(comparison, scored, bounds)
    if extras.with_rmsmd:
        figures |= rmsmd_figures(comparison)
    challenge = challenge_rows(comparison, rules) if extras.with_challenge else {}
    if extras.page is not None:
        from adaloc.evaluation.page import html_page  # matplotlib is slow to import

        tables = tables_of(comparison, scored, bounds)
        title = f"{locs.name} against {truth.name}"
        write_text(extras.page, html_page(title, comparison, rules, scored, figures, tables, challenge, bounds, notes))
    return Report(figures, challenge, notes)


def read_comparison(
    locs: Path, truth: Path, pixel_size_nm: PixelSize | None, image_size_px: tuple[int, int] | None
) -> Comparison:
    """Reads both files and brings them to px of one camera.

    Raises:
        DataError: when a file cannot be read, or the pixel size is needed and not known.
    """
    expected = _read(truth, pixel_size_nm, locs)
    found = _read(locs, pixel_size_nm or expected.pixel_size_nm, truth)
    size = pixel_size_nm or expected.pixel_size_nm
    return Comparison(
        _in_pixels_of(found, size),
        _in_pixels_of(expected, size),
        size,
        image_size_px or expected.image_size_px or found.image_size_px,
        found.is_3d and expected.is_3d,
    )


def _bounds(comparison: Comparison, truth: Path, config: Path | None, notes: list[str]) -> Bounds | None:
    """The emitters' bounds; None, with a note why, where the truth says too little and no config was given."""
    # Imported here: without a description of the optics nothing of the simulation is needed.
    from adaloc.data.generate import read_description
    from adaloc.data.sample_folder import read_background, read_coefficients
    from adaloc.evaluation.emitter_bounds import Scene, emitter_bounds

    folder = truth if truth.is_dir() else truth.parent if truth.name == "emitters.h5" else None
    try:
        if config is not None:
            simulation = load_config(config).simulation
        elif folder is not None and (description := read_description(folder.resolve().parent)) is not None:
            simulation = SimulationConfig.model_validate(description["simulation"])
        else:
            notes.append("No bound (CRLB): neither the truth nor a config says what the movie was taken with.")
            return None
        optics = simulation.optics.pixel_size_nm
        size = comparison.pixel_size_nm
        if max(abs(optics.x / size.x - 1), abs(optics.y / size.y - 1)) > _SAME_SIZE:
            raise ConfigError(
                f"The optics have pixels of {optics.x:g} x {optics.y:g} nm, the files of {size.x:g} x {size.y:g} nm. "
                "Give the config that fits, or --pixel-size-nm."
            )
        known = None if folder is None else read_background(folder)
        side = simulation.image_size_px
        scene = Scene(
            simulation=simulation,
            image_size_px=comparison.image_size_px or (side, side),
            background=simulation.background.mean_photons if known is None else known,
            coefficients=None if folder is None else read_coefficients(folder),
        )
        return emitter_bounds(comparison.truth, scene)
    except (AdalocError, ValueError) as error:
        if config is not None:
            raise
        notes.append(str(error))
        return None


def _read(path: Path, pixel_size_nm: PixelSize | None, other: Path) -> LocalizationFile:
    try:
        return read_localizations(path, pixel_size_nm)
    except DataError:
        if pixel_size_nm is not None:
            raise
        # The other file may say the pixel size; if it does not either, this file's error stands.
        try:
            size = read_localizations(other).pixel_size_nm
        except DataError:
            size = None
        if size is None:
            raise
        return read_localizations(path, size)


def _in_pixels_of(file: LocalizationFile, size: PixelSize) -> EmitterTable:
    """The table with x, y in px of another size; the outer edge of the field is where both begin."""
    table, ratio_x, ratio_y = file.table, file.pixel_size_nm.x / size.x, file.pixel_size_nm.y / size.y
    return table.with_columns(
        x=(table.x + 0.5) * ratio_x - 0.5,
        y=(table.y + 0.5) * ratio_y - 0.5,
        x_sigma=None if table.x_sigma is None else table.x_sigma * ratio_x,
        y_sigma=None if table.y_sigma is None else table.y_sigma * ratio_y,
    )
