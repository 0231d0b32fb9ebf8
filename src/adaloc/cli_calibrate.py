"""`adaloc calibrate` and `adaloc field-map`: the PSF of a microscope, from beads and from other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_guard import console, guarded, parse_pair

calibrate_app = typer.Typer()


@calibrate_app.command("field-map")
@guarded
def field_map(
    source: Annotated[Path, typer.Argument(help="aber_map.mat of FD-DeepLoc, or a map of uiPSF (.mat, .npy, .h5).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Field map for --zmap, HDF5.")],
    image_size_px: Annotated[
        str | None, typer.Option(help="Field as HEIGHTxWIDTH px, for uiPSF's coarse zernike_map.")
    ] = None,
    transposed: Annotated[
        bool, typer.Option("--transposed", help="The first axis of the map runs along the columns of the image.")
    ] = False,
) -> None:
    """Converts the aberration map of another program to a field map; says what a field map cannot hold.

    Example: adaloc field-map aber_map.mat -o map.h5
    """
    from adaloc.simulation.aberration_map import convert_aberration_map
    from adaloc.simulation.field_map import write_field_map

    size = None if image_size_px is None else parse_pair(image_size_px, "--image-size-px", int)
    converted = convert_aberration_map(source, size, transposed=transposed)
    write_field_map(out, converted.field_map)
    height, width = converted.field_map.size_px
    console.print(
        f"{converted.source} map of {height} x {width} px: {converted.kept_rad_rms:.3f} rad rms in Noll 1 to 21 "
        f"over the field. Written: {out}",
        soft_wrap=True,
    )
    if converted.lost_rad_rms > 0:
        console.print(
            f"[yellow]Left out:[/yellow] {converted.lost_rad_rms:.3f} rad rms in modes beyond Noll 21.", soft_wrap=True
        )
    if converted.has_blur:
        console.print(
            "[yellow]Left out:[/yellow] the blur of planes 22 and 23; simulation.psf.blur_nm is for the whole field.",
            soft_wrap=True,
        )
