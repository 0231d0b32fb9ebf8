"""What `adaloc link`, `group`, `drift`, `frc` and `render` do: a file of localizations, and what comes out of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.errors import ConfigError, DataError
from adaloc.localize.combining import Combined, with_precision
from adaloc.localize.density import planes
from adaloc.localize.drift import correct_drift, estimate_drift
from adaloc.localize.frc import fourier_ring_correlation
from adaloc.localize.grouping import group, reduced_chi_square
from adaloc.localize.linking import link
from adaloc.localize.plots import plot_drift, plot_ring_correlation, save_png
from adaloc.localize.read import LocalizationFile, read_localizations
from adaloc.localize.render import colored, write_ome_tiff, write_png, z_range_nm
from adaloc.localize.tables import (
    require_table_name,
    write_combined,
    write_drift,
    write_localizations,
    write_ring_correlation,
)

# Reduced chi square beyond which uncertainties are called wrong. Cutting molecules in pieces hides most of the excess:
# uncertainties stated 15 % too small give 1.25, half as large as they are 1.5 (benchmarks/grouping.py's molecules).
_TOO_WIDE, _TOO_NARROW = 1.15, 0.75


@dataclass(frozen=True)
class Precision:
    """Where uncertainties come from when the file has none.

    Attributes:
        psf_sigma_nm: sigma of the spot, for the theoretical lateral precision (Mortensen 2010).
        lateral_nm, axial_nm: one value for all localizations, instead of what the file says.
    """

    psf_sigma_nm: float | None = None
    lateral_nm: float | None = None
    axial_nm: float | None = None


def link_file(
    locs: Path,
    out: Path,
    pixel_size_nm: PixelSize | None,
    *,
    radius: float,
    radius_unit: Literal["nm", "sigma"],
    max_dark_frames: int,
    use_z: bool,
    precision: Precision,
    console: Console,
) -> None:
    """Links the localizations of consecutive frames and writes the blinks.

    Raises:
        AdalocError: when a file cannot be read or written, or uncertainties are missing.
    """
    require_table_name(out)
    file = read_localizations(locs, pixel_size_nm)
    use_z = use_z and file.is_3d
    table = _with_uncertainties(file, precision, needed=radius_unit == "sigma", use_z=use_z)
    blinks = link(
        table,
        pixel_size_nm=file.pixel_size_nm,
        radius=radius,
        radius_unit=radius_unit,
        max_dark_frames=max_dark_frames,
        use_z=use_z,
    )
    write_combined(out, blinks, file)
    console.print(f"{len(table)} localizations are {len(blinks)} blinks. {_counts(blinks)}", soft_wrap=True)
    console.print(f"  {out}", soft_wrap=True)


def group_file(
    locs: Path,
    out: Path,
    pixel_size_nm: PixelSize | None,
    *,
    use_z: bool,
    extra_sigma_nm: float,
    precision: Precision,
    console: Console,
    as_json: bool = False,
) -> None:
    """Groups the localizations of the movie into molecules and writes the table of them.

    With `as_json` one JSON object is printed instead of sentences.

    Raises:
        AdalocError: when a file cannot be read or written, or uncertainties are missing.
    """
    require_table_name(out)
    file = read_localizations(locs, pixel_size_nm)
    use_z = use_z and file.is_3d
    table = _with_uncertainties(file, precision, needed=True, use_z=use_z)
    molecules = group(table, pixel_size_nm=file.pixel_size_nm, use_z=use_z, extra_sigma_nm=extra_sigma_nm)
    write_combined(out, molecules, file)
    spread = reduced_chi_square(table, molecules, file.pixel_size_nm, use_z)
    warning = _judge_spread(spread)
    if as_json:
        facts = {
            "num_localizations": len(table),
            "num_molecules": len(molecules),
            "median_localizations": float(np.median(molecules.count)) if len(molecules) else None,
            "largest_localizations": int(molecules.count.max()) if len(molecules) else None,
            "spread_over_uncertainty": spread,
            "warnings": [warning] if warning else [],
            "file": str(out),
        }
        print(json.dumps(facts, indent=2))
        return
    console.print(f"{len(table)} localizations are {len(molecules)} molecules. {_counts(molecules)}", soft_wrap=True)
    if spread is not None:
        console.print(
            f"Spread around the molecules over that of the stated uncertainties: {spread:.2f} (1 where they are right)",
            soft_wrap=True,
        )
    if warning:
        console.print(f"[yellow]Warning:[/yellow] {warning}", soft_wrap=True)
    console.print(f"  {out}", soft_wrap=True)


def _judge_spread(spread: float | None) -> str:
    if spread is not None and spread > _TOO_WIDE:
        return (
            "the uncertainties are stated too small, and molecules are in pieces. Correct the drift first, or add to "
            "them with --extra-sigma-nm."
        )
    if spread is not None and spread < _TOO_NARROW:
        return "the uncertainties are stated too large: near neighbours may be joined."
    return ""


def drift_file(
    locs: Path,
    out: Path,
    pixel_size_nm: PixelSize | None,
    *,
    num_blocks: int,
    render_pixel_nm: float,
    max_shift_nm: float,
    use_z: bool,
    console: Console,
) -> None:
    """Corrects the drift; writes the localizations, and beside them the drift as table and as plot.

    Raises:
        AdalocError: when a file cannot be read or written, or there are too few localizations.
    """
    require_table_name(out)
    file = read_localizations(locs, pixel_size_nm)
    num_frames = max(file.num_frames or 0, int(file.table.frame.max(initial=0)) + 1)
    drift = estimate_drift(
        file.table,
        pixel_size_nm=file.pixel_size_nm,
        num_frames=num_frames,
        num_blocks=num_blocks,
        render_pixel_nm=render_pixel_nm,
        max_shift_nm=max_shift_nm,
        use_z=use_z and file.is_3d,
    )
    write_localizations(out, correct_drift(file.table, drift, file.pixel_size_nm), file)
    curve, figure = out.with_name(f"{out.stem}_drift.csv"), out.with_name(f"{out.stem}_drift.png")
    write_drift(curve, drift)
    save_png(plot_drift(drift), figure)
    for index, axis in enumerate("xyz"):
        span, error = float(np.ptp(drift.shift_F3[:, index])), float(drift.error_nm_3[index])
        if span > 0:
            stated = "not known" if np.isnan(error) else f"{error:.1f} nm"
            console.print(f"Drift in {axis}: {span:.1f} nm from end to end, standard error of a block {stated}")
    console.print(f"  localizations {out}\n  drift         {curve}\n  plot          {figure}", soft_wrap=True)


def frc_file(
    locs: Path,
    out: Path | None,
    pixel_size_nm: PixelSize | None,
    *,
    render_pixel_nm: float,
    num_blocks: int,
    console: Console,
    as_json: bool = False,
) -> None:
    """States the resolution by Fourier ring correlation; writes curve (.csv) and plot (.png) when asked.

    With `as_json` one JSON object is printed instead of sentences.

    Raises:
        AdalocError: when a file cannot be read or written, or there are too few localizations.
    """
    if out is not None and out.suffix.lower() not in (".png", ".csv"):
        raise ConfigError(f"--out {out}: write a name that ends in .png or .csv; both files are written.")
    file = read_localizations(locs, pixel_size_nm)
    curve = fourier_ring_correlation(
        file.table, pixel_size_nm=file.pixel_size_nm, render_pixel_nm=render_pixel_nm, num_blocks=num_blocks
    )
    files = [] if out is None else [out.with_suffix(".csv"), out.with_suffix(".png")]
    if files:
        write_ring_correlation(files[0], curve)
        save_png(plot_ring_correlation(curve), files[1])
    reason = ""
    if curve.resolution_nm is None:
        above = curve.smoothed[0] >= 1 / 7
        reason = (
            "stays above 1/7: choose smaller pixels" if above else "is below 1/7 from the start: nothing is resolved"
        )
    if as_json:
        facts = {
            "frc_resolution_nm": curve.resolution_nm,
            "threshold": 1 / 7,
            "no_resolution_because": f"the curve {reason}" if reason else None,
            "num_localizations": len(file.table),
            "files": [str(path) for path in files],
        }
        print(json.dumps(facts, indent=2))
        return
    if curve.resolution_nm is None:
        console.print(f"No resolution: the curve {reason}.")
    else:
        console.print(f"FRC resolution: {curve.resolution_nm:.1f} nm (threshold 1/7)")
    for path in files:
        console.print(f"  {path}", soft_wrap=True)


def render_file(
    locs: Path,
    out: Path,
    pixel_size_nm: PixelSize | None,
    *,
    render_pixel_nm: float,
    blur_nm: float | None,
    color_by_z: bool | None,
    z_limits_nm: tuple[float, float] | None,
    image_size_px: tuple[int, int] | None,
    console: Console,
) -> None:
    """Draws the image: colours into a .png, numbers into a .tif.

    Raises:
        AdalocError: when a file cannot be read or written, or the image would be too large.
    """
    suffix = out.suffix.lower()
    if suffix not in (".png", ".tif", ".tiff"):
        raise ConfigError(f"--out {out}: write a name that ends in .png, or in .ome.tiff for the numbers.")
    file = read_localizations(locs, pixel_size_nm)
    depth = file.is_3d if color_by_z is None else color_by_z
    drawn = planes(
        file.table,
        pixel_size_nm=file.pixel_size_nm,
        image_size_px=image_size_px or file.image_size_px,
        render_pixel_nm=render_pixel_nm,
        blur_nm=blur_nm,
        with_depth=depth,
    )
    if suffix == ".png":
        limits = z_limits_nm or z_range_nm(file.table)
        write_png(out, colored(drawn, limits), render_pixel_nm, z_limits_nm=limits if depth else None)
    else:
        write_ome_tiff(out, drawn, render_pixel_nm)
    rows, columns = drawn.density.shape
    console.print(f"{columns} x {rows} px of {render_pixel_nm:g} nm from {len(file.table)} localizations\n  {out}",
                  soft_wrap=True)  # fmt: skip


def _with_uncertainties(file: LocalizationFile, precision: Precision, *, needed: bool, use_z: bool) -> EmitterTable:
    """The table with given or computed uncertainties; a clear error where some are needed and not to be had."""
    table, size = file.table, file.pixel_size_nm
    if precision.lateral_nm is not None:
        same = np.full(len(table), precision.lateral_nm)
        table = table.with_columns(x_sigma=same / size.x, y_sigma=same / size.y)
    if precision.axial_nm is not None:
        table = table.with_columns(z_sigma=np.full(len(table), precision.axial_nm))
    if (table.x_sigma is None or table.y_sigma is None) and precision.psf_sigma_nm is not None:
        if table.background is None:
            raise ConfigError(
                "--psf-sigma-nm needs a background in the file, and it has none. Give the uncertainty itself with "
                "--sigma-nm."
            )
        table = with_precision(table, size, precision.psf_sigma_nm)
    if needed and (table.x_sigma is None or table.y_sigma is None):
        raise ConfigError(
            "The file has no lateral uncertainties. Give one for all with --sigma-nm, or --psf-sigma-nm to compute "
            "them from photons and background."
        )
    if needed and use_z and table.z_sigma is None:
        raise ConfigError(
            "The file has depths without uncertainties. Give one for all with --sigma-z-nm, or use --ignore-z."
        )
    for name in ("x_sigma", "y_sigma", "z_sigma") if use_z else ("x_sigma", "y_sigma"):
        column = getattr(table, name)
        if column is not None and not (np.isfinite(column) & (column > 0)).all():
            row = int(np.argmin(np.isfinite(column) & (column > 0)))
            raise DataError(
                f"{name} in row {row + 1} of the table is {column[row]}: uncertainties must be positive. Remove such "
                "rows, or give one uncertainty for all with --sigma-nm and --sigma-z-nm."
            )
    return table


def _counts(combined: Combined) -> str:
    if len(combined) == 0:
        return ""
    return f"Localizations in each: median {np.median(combined.count):.0f}, largest {combined.count.max()}."
