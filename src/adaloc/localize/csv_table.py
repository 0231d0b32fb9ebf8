"""CSV tables of localizations and truths, as several programs write them; all in nm, frames from 1."""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from adaloc.emitters import FloatArray
from adaloc.errors import DataError


@dataclass(frozen=True)
class CsvFormat:
    """One writer's names for the columns that adaloc uses; None where the writer has no such column."""

    name: str
    x: str
    y: str
    z: str
    photons: str
    frame: str = "frame"
    background: str | None = None
    sigma_lateral: str | None = None
    sigma_axial: str | None = None
    emitter_id: str | None = None
    probability: str | None = "probability"

    def columns(self) -> dict[str, str]:
        """adaloc's name -> the writer's name."""
        return {key: value for key, value in vars(self).items() if key != "name" and value is not None}

    def required(self) -> tuple[str, ...]:
        """The writer's names of the columns that a table cannot do without."""
        return (self.frame, self.x, self.y, self.photons)


_THUNDERSTORM = CsvFormat(
    name="ThunderSTORM",
    x="x [nm]",
    y="y [nm]",
    z="z [nm]",
    photons="intensity [photon]",
    background="offset [photon]",
    sigma_lateral="uncertainty_xy [nm]",
    sigma_axial="uncertainty_z [nm]",
)
CSV_FORMATS = (
    _THUNDERSTORM,
    CsvFormat(name="SMLM challenge 2013", x="xnano", y="ynano", z="znano", photons="intensity"),
    # Its Offset column is the camera's baseline in ADU and no background.
    CsvFormat(
        name="NAIRR-SMLM",
        x="x (nm)",
        y="y (nm)",
        z="z (nm)",
        photons="Intensity (photons)",
        frame="Frame",
        emitter_id="Emitter",
    ),
    CsvFormat(
        name="SMAP",
        x="xnm",
        y="ynm",
        z="znm",
        photons="phot",
        background="bg",
        sigma_lateral="locprecnm",
        sigma_axial="locprecznm",
    ),
    # These two name no unit; both programs mean nm.
    CsvFormat(
        name="SMAP export",
        x="x",
        y="y",
        z="z",
        photons="phot",
        background="bg",
        sigma_lateral="locprec",
        sigma_axial="locprecz",
    ),
    CsvFormat(name="vLUME", x="x", y="y", z="z", photons="int"),
)
_ALIASES = {"uncertainty [nm]": "uncertainty_xy [nm]"}  # ThunderSTORM's name for it in 2D
HEADERLESS = CsvFormat(name="SMLM challenge 2016", x="x", y="y", z="z", photons="photons")
HEADERLESS_COLUMNS = ("id", "frame", "x", "y", "z", "photons")


def read_csv_columns(path: Path) -> dict[str, FloatArray]:
    """Reads the numbers as they stand in the file: nm from the outer edge of the first pixel, frames from 1.

    Args:
        path: a CSV file with a header of `CSV_FORMATS`, or without one and with `HEADERLESS_COLUMNS`. Lines that
            begin with # and blank lines do not count.

    Returns:
        Columns by the field names of `CsvFormat`: frame, x, y, photons, and those of the others that are there.

    Raises:
        DataError: when the header is unknown, a column is missing, or a cell is no number.
    """
    header, num_skipped = _header(path)
    layout = HEADERLESS if header is None else _recognise(path, header)
    positions = {name: index for index, name in enumerate(header or HEADERLESS_COLUMNS)}
    wanted = {key: positions[name] for key, name in layout.columns().items() if name in positions}
    return _numbers(path, wanted, num_skipped)


def has_known_columns(path: Path) -> bool:
    """Whether the header is that of a known format; a table without header tells too little to be sure."""
    try:
        header, _ = _header(path)
        if header is None:
            return False
        _recognise(path, header)
    except (DataError, OSError, csv.Error):
        return False
    return True


def require_columns(path: Path, kind: str, required: tuple[str, ...], present: tuple[str, ...]) -> None:
    """Raises a DataError that names the missing columns."""
    missing = [column for column in required if column not in present]
    if missing:
        raise DataError(
            f"{path} looks like a {kind} file but lacks the column(s) {', '.join(missing)}. "
            f"It has: {', '.join(present)}."
        )


def _open_text(path: Path) -> TextIO:
    # Units such as µ come in many encodings, and none of them matters here.
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _header(path: Path) -> tuple[tuple[str, ...] | None, int]:
    """The column names (None where the table begins at once) and the number of lines before the numbers."""
    with _open_text(path) as handle:
        for number, line in enumerate(handle):
            if _says_nothing(line):
                continue
            cells = next(csv.reader([line.strip()]))
            if len(cells) == 1 and "," in cells[0]:  # the whole line was quoted once more
                cells = next(csv.reader(cells))
            names = tuple(_ALIASES.get(cell.strip(), cell.strip()) for cell in cells)
            if not _is_number(names[0]):
                return names, number + 1
            if len(names) != len(HEADERLESS_COLUMNS):
                raise DataError(
                    f"{path} has no header and {len(names)} column(s). A table without header must have the columns "
                    f"of the SMLM challenge: {', '.join(HEADERLESS_COLUMNS)}."
                )
            return None, number
    raise DataError(f"{path} holds no table: there are only blank lines and comments in it.")


def _recognise(path: Path, header: tuple[str, ...]) -> CsvFormat:
    """The format that shares most of the required columns with the header."""
    # The frame is named alike in most formats and tells little: it only decides between equals.
    scores = [
        2 * sum(name in header for name in (layout.x, layout.y, layout.photons)) + (layout.frame in header)
        for layout in CSV_FORMATS
    ]
    if max(scores) < 2:
        raise DataError(
            f"{path}: no known position columns among {', '.join(header)[:300]}. Understood are the headers of "
            f"{', '.join(layout.name for layout in CSV_FORMATS)}; ThunderSTORM's, for example, has "
            f"{', '.join(_THUNDERSTORM.required())}."
        )
    layout = CSV_FORMATS[scores.index(max(scores))]
    require_columns(path, layout.name, layout.required(), header)
    return layout


def _numbers(path: Path, positions: dict[str, int], num_skipped: int) -> dict[str, FloatArray]:
    """Column name -> values, from column name -> position in the line."""
    with _open_text(path) as handle:
        lines = (line for line in itertools.islice(handle, num_skipped, None) if not _says_nothing(line))
        first = next(lines, None)
        if first is None:
            return {name: np.empty(0) for name in positions}
        try:
            cells = np.loadtxt(
                itertools.chain([first], lines),
                delimiter=",",
                quotechar='"',
                usecols=list(positions.values()),
                ndmin=2,
            )
        except (ValueError, IndexError) as error:
            raise DataError(_first_bad_cell(path, positions, num_skipped) or f"{path}: {error}") from error
    return dict(zip(positions, cells.T, strict=True))


def _first_bad_cell(path: Path, positions: dict[str, int], num_skipped: int) -> str | None:
    """Names line and column of the first cell that is no number."""
    with _open_text(path) as handle:
        for number, line in enumerate(handle, start=1):
            if number <= num_skipped or _says_nothing(line):
                continue
            cells = next(csv.reader([line.strip()]))
            for name, index in positions.items():
                if index >= len(cells):
                    return f"{path}, line {number}: it ends before the column '{name}'. Was the file cut off?"
                if not _is_number(cells[index]):
                    return f"{path}, line {number}: '{cells[index].strip()}' in the column '{name}' is no number."
    return None


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
