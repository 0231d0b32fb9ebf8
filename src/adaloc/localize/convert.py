"""`adaloc convert`: a localization file of one program to that of another."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.localize.outputs import FORMATS, MovieFacts, format_of, write_outputs
from adaloc.localize.read import read_localizations


def convert(
    source: Path,
    out: Path,
    console: Console,
    *,
    to: str | None = None,
    pixel_size_nm: PixelSize | None = None,
    psf_sigma_nm: float | None = None,
) -> None:
    """Reads any format of `read_localizations` and writes one of `outputs.FORMATS`.

    The field and the length of the movie, which Picasso wants, are taken from the last localization where the source
    does not say them. The whole table is in memory.

    Args:
        source: file or sample folder.
        out: the file to write.
        console: where messages go.
        to: format; None takes it from the suffix of `out`.
        pixel_size_nm: camera pixel, for sources that do not say it.
        psf_sigma_nm: sigma of the spot in focus, to compute a precision where the source has none.

    Raises:
        AdalocError: when a file cannot be read or written, or lacks what the format needs.
    """
    name = to or format_of(out)
    found = read_localizations(source, pixel_size_nm)
    table = found.table
    facts = MovieFacts(
        found.pixel_size_nm,
        found.image_size_px or (_far_end(table.y), _far_end(table.x)),
        found.num_frames or int(table.frame.max(initial=0)) + 1,
        psf_sigma_nm,
        found.is_3d,
    )
    write_outputs({name: out}, table, facts)
    size = facts.pixel_size_nm
    console.print(
        f"{len(table)} localizations ({'3D' if facts.is_3d else '2D'}, camera pixel {size.x:g} x {size.y:g} nm)\n"
        f"  {FORMATS[name]:<12} {out}",
        soft_wrap=True,
    )
    for lost in _lost(table, name):
        console.print(f"  {FORMATS[name]} has no place for: {lost}", soft_wrap=True)


def _far_end(positions_px: FloatArray) -> int:
    """Pixels of a field that holds all positions."""
    return math.floor(float(positions_px.max(initial=0.0)) + 0.5) + 1


def _lost(table: EmitterTable, name: str) -> list[str]:
    """What the source has and the format does not."""
    kept = {
        "thunderstorm": {"x_sigma", "y_sigma", "z_sigma", "background", "probability"},
        "picasso": {"x_sigma", "y_sigma", "z_sigma", "background", "probability"},
        "smap": {"x_sigma", "y_sigma", "z_sigma", "background"},
        "decode": {"x_sigma", "y_sigma", "z_sigma", "background", "probability", "photons_sigma", "emitter_id"},
    }[name]
    optional = ("background", "x_sigma", "y_sigma", "z_sigma", "photons_sigma", "probability", "emitter_id")
    return [column for column in optional if getattr(table, column) is not None and column not in kept]
