"""`adaloc mask`: the PSF of a phase mask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_calibrate import optics_of
from adaloc.cli_guard import console, guarded
from adaloc.errors import ConfigError


@guarded
def mask(
    source: Annotated[Path, typer.Argument(help="Phase mask in radians: a square in a .mat or .npy file.")],
    mask_pixel_um: Annotated[float, typer.Option(help="Side of the mask's pixel.", min=0.1, max=1000)],
    focal_length_mm: Annotated[float, typer.Option(help="Of the relay (4f) lens in front of the mask.", min=1)],
    magnification: Annotated[float, typer.Option(help="Of the microscope in front of the relay.", min=2)],
    pixel_size_nm: Annotated[str, typer.Option(help="Camera pixel in the sample: 100 or 101.11x98.83 (x, y).")],
    wavelength_nm: Annotated[float, typer.Option(help="Middle of the emission.")],
    na: Annotated[float, typer.Option(help="Numerical aperture.")],
    index: Annotated[float, typer.Option(help="Index of refraction of the immersion medium.")],
    sample_index: Annotated[float, typer.Option(help="Index around the emitters.", min=1, max=2.5)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PSF, HDF5.")] = Path("psf.h5"),
    variable: Annotated[str, typer.Option(help="The mask's variable in a .mat file.")] = "mask",
    focal_plane_nm: Annotated[
        float, typer.Option(help="Nominal focal plane: how far the focus was moved into the sample.", min=0)
    ] = 0.0,
    blur_nm: Annotated[float, typer.Option(help="Sigma of a Gaussian blur of the image.", min=0, max=1000)] = 0.0,
    not_inverted: Annotated[
        bool, typer.Option("--not-inverted", help="Do not turn the mask by half a turn (see docs/real_movies.md).")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Also a picture of the mask and the PSF over z, a PNG.")] = None,
    z_range_nm: Annotated[float, typer.Option(help="The picture's z, from the cover slip on.", min=10)] = 4000.0,
) -> None:
    """Makes the PSF of a phase mask, for "psf": {"type": "pupil", "calibration": ...} in a config.

    Example: adaloc mask tetrapod.mat --variable m --mask-pixel-um 30 --focal-length-mm 100 --magnification 100
    --pixel-size-nm 110 --wavelength-nm 670 --na 1.45 --index 1.518 --sample-index 1.33 -o psf.h5 --plot psf.png
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot {plot}: the picture is a PNG; write a name that ends in .png.")
    optics = optics_of(wavelength_nm, na, index, pixel_size_nm)
    from adaloc.simulation.phase_mask import Relay, psf_of_mask, read_phase_mask
    from adaloc.simulation.psf_file import write_psf_file

    made = psf_of_mask(
        read_phase_mask(source, variable), optics, Relay(mask_pixel_um, focal_length_mm, magnification),
        sample_index=sample_index, focal_plane_nm=focal_plane_nm, blur_nm=blur_nm, inverted=not not_inverted,
    )  # fmt: skip
    write_psf_file(out, made.psf)
    console.print(f"  pupil       {made.radius_px:.1f} px of the mask are the edge, NA {na:g}", highlight=False)
    console.print(
        f"  mask        reaches {made.support_px:.1f} px; the sample's index lies at {made.sample_radius_px:.1f} px",
        highlight=False,
    )
    console.print(
        f"  focus       {made.focus_depth_nm:.1f} nm above the cover slip: psf.focus_depth_nm of the config",
        highlight=False,
    )
    console.print(f"  written     {out}", soft_wrap=True)
    if plot is not None:
        from adaloc.simulation.mask_plot import plot_mask

        plot_mask(plot, made, z_range_nm)
        console.print(f"  picture     {plot}", soft_wrap=True)
