"""`adaloc spline`: a cubic-spline PSF from bead stacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_guard import console, guarded, parse_pixel_size
from adaloc.errors import ConfigError


@guarded
def spline(
    beads: Annotated[list[Path], typer.Argument(help="Z-stacks of beads, TIFF; all with the same planes.")],
    z_step_nm: Annotated[float, typer.Option(help="Distance of two planes, nm.", min=0.1, max=10_000)],
    pixel_size_nm: Annotated[str, typer.Option(help="Camera pixel in the sample, nm: 100 or 101.11x98.83 (x, y).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The calibration; SMAP expects a name in _3dcal.mat.")],
    roi_size_px: Annotated[
        int | None, typer.Option(help="Odd side of the calibrated region. Default: a single bead's image, or 31.")
    ] = None,
    smooth_z_nm: Annotated[float, typer.Option(help="Smoothing length along z, nm; 0 for none.", min=0)] = 30.0,
    smooth_lateral_nm: Annotated[float, typer.Option(help="Smoothing length along x and y, nm.", min=0)] = 0.0,
    z0_plane: Annotated[
        int | None, typer.Option(help="Plane, from 0, at which z is 0. Default: the sharpest.", min=0)
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Also a picture of measured and modelled slices, a PNG.")] = None,
) -> None:
    """Builds a cubic-spline PSF from bead stacks, for "psf": {"type": "spline", "file": ...} in a config, and for SMAP.

    Example: adaloc spline beads.tif --z-step-nm 10 --pixel-size-nm 100 -o psf_3dcal.mat
    """
    if out.suffix.lower() != ".mat":
        raise ConfigError(f"--out {out}: the calibration is a MATLAB file; write a name that ends in _3dcal.mat.")
    if roi_size_px is not None and roi_size_px % 2 == 0:
        raise ConfigError(f"--roi-size-px {roi_size_px} must be odd, so that a bead's pixel is the middle one.")
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot {plot}: the picture is a PNG; write a name that ends in .png.")
    size = parse_pixel_size(pixel_size_nm)
    from adaloc.data.sample_folder import read_movie
    from adaloc.simulation.bead_spline import spline_from_beads
    from adaloc.simulation.smap_calibration import write_smap_calibration

    made = spline_from_beads(
        [read_movie(path) for path in beads], z_step_nm, (size.x, size.y), roi_size_px=roi_size_px,
        smooth_z_nm=smooth_z_nm, smooth_lateral_nm=smooth_lateral_nm, z0_plane=z0_plane,
    )  # fmt: skip
    write_smap_calibration(out, made.spline)
    low, high = made.spline.z_range_nm
    planes, rows, columns = made.spline.num_nodes
    console.print(f"{made.num_used} of {made.num_found} beads averaged, {planes} planes of {rows} x {columns} px")
    console.print(
        f"  depth       {low:.0f} to {high:.0f} nm, 0 at the {'sharpest' if z0_plane is None else 'given'} plane"
    )
    console.print(f"  background  {made.background:.1f}, the camera's offset included, in the unit of the stack")
    console.print(
        f"  light       the brightest plane has {made.brightest:.4g}, the darkest {made.darkest_share:.0%} of it"
    )
    console.print(f"  smoothing   took {made.smoothing_residual:.2%} of the peak, root mean square")
    console.print(f"  written     {out}", soft_wrap=True)
    if plot is not None:
        from adaloc.simulation.bead_plot import plot_bead_spline

        plot_bead_spline(plot, made)
        console.print(f"  picture     {plot}", soft_wrap=True)
