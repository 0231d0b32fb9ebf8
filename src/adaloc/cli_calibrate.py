"""`adaloc calibrate` and `adaloc field-map`: the PSF of a microscope, from beads and from other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from adaloc.cli_guard import console, guarded, parse_pair
from adaloc.config import OpticsConfig
from adaloc.errors import ConfigError

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


@calibrate_app.command()
@guarded
def calibrate(
    beads: Annotated[list[Path], typer.Argument(help="TIFF stacks of beads through the focus: planes, rows, columns.")],
    z_step_nm: Annotated[
        float, typer.Option(help="Distance of the planes; negative where the focus moves into the sample.")
    ],
    pixel_size_nm: Annotated[str, typer.Option(help="Camera pixel in the sample: 100 or 101.11x98.83 (x, y).")],
    wavelength_nm: Annotated[float, typer.Option(help="Middle of the emission.")],
    na: Annotated[float, typer.Option(help="Numerical aperture.")],
    index: Annotated[float, typer.Option(help="Index of refraction of the immersion medium.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The measured PSF, HDF5.")] = Path("psf.h5"),
    baseline_adu: Annotated[
        float | None, typer.Option(help="Camera's offset; not given, the background has it.")
    ] = None,
    gain_e_per_adu: Annotated[float | None, typer.Option(help="Camera's gain; not given, an ADU is a photon.")] = None,
    read_noise_e: Annotated[float, typer.Option(min=0, help="Camera's read noise, rms.")] = 0.0,
    bead_diameter_nm: Annotated[float, typer.Option(min=0, max=1000, help="0: points.")] = 0.0,
    vectorial: Annotated[bool, typer.Option("--vectorial", help="Fit the vectorial model.")] = False,
    sample_index: Annotated[float | None, typer.Option(help="Vectorial: index around the beads.")] = None,
    cover_slip_index: Annotated[float | None, typer.Option(help="Vectorial: index of the cover slip.")] = None,
    roi_size_px: Annotated[int, typer.Option(min=9, max=129, help="Odd side of the region around a bead.")] = 31,
    amplitude: Annotated[
        str, typer.Option(help="Modes of the pupil's amplitude: none, radial (Noll 4 and 11) or full (4 to 11).")
    ] = "radial",
    per_plane: Annotated[
        bool, typer.Option("--per-plane", help="Photons and background of each plane: lamp or beads are not steady.")
    ] = False,
    max_planes: Annotated[int, typer.Option(min=5, help="Planes that are fitted, spread evenly.")] = 41,
    pixelwise: Annotated[
        bool, typer.Option("--pixelwise", help="Engineered PSFs: retrieve the phase sample by sample, of one bead.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Page of plots, PNG; default: beside the PSF.")] = None,
) -> None:
    """Measures the PSF with beads: finds them, aligns them, and fits the pupil by maximum likelihood.

    Example: adaloc calibrate beads.tif --z-step-nm 50 --pixel-size-nm 100 --wavelength-nm 660 --na 1.4 --index 1.518
    """
    from adaloc.calibrate.command import calibrate_files
    from adaloc.calibrate.recipe import Recipe

    if z_step_nm == 0:
        raise ConfigError("--z-step-nm 0: the planes of a stack are apart. Give their distance in nm.")
    if roi_size_px % 2 == 0:
        raise ConfigError(f"--roi-size-px {roi_size_px} is even; a region has a middle pixel. Take {roi_size_px + 1}.")
    if not vectorial and (sample_index is not None or cover_slip_index is not None):
        raise ConfigError("--sample-index and --cover-slip-index have no meaning in the scalar model; add --vectorial.")
    if amplitude not in ("none", "radial", "full"):
        raise ConfigError(f"--amplitude {amplitude} is not known. Choose none, radial or full.")
    if baseline_adu is None or gain_e_per_adu is None:
        console.print(
            "[yellow]Note:[/yellow] without --baseline-adu and --gain-e-per-adu the numbers of photons, and so the "
            "chi-square and the standard errors, are not to be trusted; the pupil is little affected.",
            soft_wrap=True,
        )
    recipe = Recipe(
        optics_of(wavelength_nm, na, index, pixel_size_nm), z_step_nm, bead_diameter_nm,
        model="vectorial" if vectorial else "scalar", sample_index=sample_index, cover_slip_index=cover_slip_index,
        roi_size_px=roi_size_px, amplitude=amplitude,  # type: ignore[arg-type]
        per_plane=per_plane, read_noise_e=read_noise_e, max_planes=max_planes, pixelwise=pixelwise,
    )  # fmt: skip
    page = out.with_suffix(".png") if plot is None else plot
    calibrate_files(beads, recipe, baseline_adu or 0.0, gain_e_per_adu or 1.0, out, page, console)


def optics_of(wavelength_nm: float, na: float, index: float, pixel_size_nm: str) -> OpticsConfig:
    """The optics that options of a command say.

    Raises:
        ConfigError: naming the options, when there can be no such optics.
    """
    parts = pixel_size_nm.lower().split("x")
    x, y = parse_pair(
        pixel_size_nm if len(parts) == 2 else f"{pixel_size_nm}x{pixel_size_nm}", "--pixel-size-nm", float
    )
    try:
        return OpticsConfig.model_validate({
            "wavelength_nm": wavelength_nm, "numerical_aperture": na, "refractive_index": index,
            "pixel_size_nm": {"x": x, "y": y},
        })  # fmt: skip
    except ValidationError as error:
        problems = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise ConfigError(f"--wavelength-nm, --na, --index or --pixel-size-nm cannot be: {problems}") from None
