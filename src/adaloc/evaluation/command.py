"""`adaloc evaluate`: two files and a table of figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.errors import DataError
from adaloc.evaluation.metrics import evaluate
from adaloc.localize.read import LocalizationFile, read_localizations


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
) -> dict[str, float | int | None]:
    """Scores one file against another; both may be any format that `read_localizations` knows.

    A pixel size that only one of the files states holds for both: a CSV in nm has no pixels of its own.

    Raises:
        DataError: when a file cannot be read, or the pixel size is needed and not known.
    """
    expected = _read(truth, pixel_size_nm, locs)
    found = _read(locs, pixel_size_nm or expected.pixel_size_nm, truth)
    size = pixel_size_nm or expected.pixel_size_nm
    result = evaluate(
        _in_pixels_of(found, size),
        _in_pixels_of(expected, size),
        pixel_size_nm=size,
        image_size_px=image_size_px or expected.image_size_px or found.image_size_px,
        lateral_tolerance_nm=lateral_nm,
        axial_tolerance_nm=axial_nm if found.is_3d and expected.is_3d else None,
        border_nm=border_nm,
        min_photons=min_photons,
    )
    return dataclasses.asdict(result)


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
    table = file.table
    return dataclasses.replace(
        table,
        x=(table.x + 0.5) * (file.pixel_size_nm.x / size.x) - 0.5,
        y=(table.y + 0.5) * (file.pixel_size_nm.y / size.y) - 0.5,
    )
