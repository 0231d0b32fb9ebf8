"""`adaloc link`, `group`, `drift`, `frc` and `render`: from localizations to an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_guard import console, guarded, parse_pair, parse_pixel_size
from adaloc.config import PixelSize
from adaloc.errors import ConfigError

locs_app = typer.Typer()

LocsArgument = Annotated[Path, typer.Argument(help="Localizations: any file that adaloc reads.")]
TableOption = Annotated[Path, typer.Option("--out", "-o", help="ThunderSTORM .csv or Picasso .hdf5.")]
PixelSizeOption = Annotated[
    str | None, typer.Option(help="Camera pixel, nm: 100 or 101.11x98.83 (x, y), where the file does not say.")
]
SigmaOption = Annotated[float | None, typer.Option(help="Lateral uncertainty of every localization, nm.", min=0.01)]
SigmaZOption = Annotated[float | None, typer.Option(help="Axial uncertainty of every localization, nm.", min=0.01)]
PsfSigmaOption = Annotated[
    float | None,
    typer.Option(help="Sigma of the spot in focus, nm, to compute lateral uncertainties that the file lacks.", min=1),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@locs_app.command()
@guarded
def link(
    locs: LocsArgument,
    out: TableOption,
    pixel_size_nm: PixelSizeOption = None,
    radius_nm: Annotated[float, typer.Option(help="Largest step between frames, nm.", min=0.01)] = 75.0,
    radius_sigmas: Annotated[
        float | None, typer.Option(help="The same in combined uncertainties; goes before --radius-nm.", min=0.01)
    ] = None,
    max_dark_frames: Annotated[int, typer.Option(help="Frames a molecule may be dark in a blink.", min=0)] = 0,
    use_z: Annotated[bool, typer.Option("--use-z", help="Let z count in the distance.")] = False,
    sigma_nm: SigmaOption = None,
    sigma_z_nm: SigmaZOption = None,
    psf_sigma_nm: PsfSigmaOption = None,
) -> None:
    """Merges localizations of one blink in consecutive frames: photons summed, positions averaged by uncertainty.

    Example: adaloc link locs.csv -o blinks.csv --pixel-size-nm 100 --radius-nm 60 --max-dark-frames 1
    """
    from adaloc.localize.postprocess import Precision, link_file

    link_file(
        locs,
        out,
        _pixel_size(pixel_size_nm),
        radius=radius_nm if radius_sigmas is None else radius_sigmas,
        radius_unit="nm" if radius_sigmas is None else "sigma",
        max_dark_frames=max_dark_frames,
        use_z=use_z,
        precision=Precision(psf_sigma_nm, sigma_nm, sigma_z_nm),
        console=console,
    )


@locs_app.command()
@guarded
def group(
    locs: LocsArgument,
    out: TableOption,
    pixel_size_nm: PixelSizeOption = None,
    ignore_z: Annotated[bool, typer.Option("--ignore-z", help="Group by x and y alone.")] = False,
    extra_sigma_nm: Annotated[
        float, typer.Option(help="Added to every uncertainty in quadrature: residual drift, label size.", min=0)
    ] = 0.0,
    sigma_nm: SigmaOption = None,
    sigma_z_nm: SigmaZOption = None,
    psf_sigma_nm: PsfSigmaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Groups the localizations of the whole movie into molecules: position, count, first and last frame, photons.

    Example: adaloc group locs.csv -o molecules.csv --pixel-size-nm 100
    """
    from adaloc.localize.postprocess import Precision, group_file

    group_file(
        locs,
        out,
        _pixel_size(pixel_size_nm),
        use_z=not ignore_z,
        extra_sigma_nm=extra_sigma_nm,
        precision=Precision(psf_sigma_nm, sigma_nm, sigma_z_nm),
        console=console,
        as_json=as_json,
    )


@locs_app.command()
@guarded
def drift(
    locs: LocsArgument,
    out: TableOption,
    pixel_size_nm: PixelSizeOption = None,
    blocks: Annotated[
        int, typer.Option(help="Blocks of frames; more follow faster drift, and are noisier.", min=2)
    ] = 10,
    render_pixel_nm: Annotated[float, typer.Option(help="Pixel of the blocks' images, nm.", min=1)] = 20.0,
    max_shift_nm: Annotated[float, typer.Option(help="Largest drift that is looked for, nm.", min=1)] = 1000.0,
    ignore_z: Annotated[bool, typer.Option("--ignore-z", help="Correct x and y alone.")] = False,
) -> None:
    """Estimates the drift from the localizations and takes it off; writes OUT, OUT_drift.csv and OUT_drift.png.

    Example: adaloc drift locs.hdf5 -o corrected.hdf5 --blocks 20
    """
    from adaloc.localize.postprocess import drift_file

    drift_file(
        locs,
        out,
        _pixel_size(pixel_size_nm),
        num_blocks=blocks,
        render_pixel_nm=render_pixel_nm,
        max_shift_nm=max_shift_nm,
        use_z=not ignore_z,
        console=console,
    )


@locs_app.command()
@guarded
def frc(
    locs: LocsArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Curve (.csv) and plot (.png), both written.")] = None,
    pixel_size_nm: PixelSizeOption = None,
    render_pixel_nm: Annotated[float, typer.Option(help="Pixel of the images, nm.", min=0.5)] = 5.0,
    blocks: Annotated[int, typer.Option(help="Blocks of frames that the halves are made of.", min=2)] = 20,
    as_json: JsonOption = False,
) -> None:
    """States the resolution of the image by Fourier ring correlation.

    Example: adaloc frc locs.hdf5 -o frc.png
    """
    from adaloc.localize.postprocess import frc_file

    frc_file(
        locs,
        out,
        _pixel_size(pixel_size_nm),
        render_pixel_nm=render_pixel_nm,
        num_blocks=blocks,
        console=console,
        as_json=as_json,
    )


@locs_app.command()
@guarded
def render(
    locs: LocsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help=".png for the eye, .ome.tiff for the numbers.")],
    pixel_size_nm: PixelSizeOption = None,
    render_pixel_nm: Annotated[float, typer.Option(help="Pixel of the image, nm.", min=0.5, max=1000)] = 10.0,
    mode: Annotated[str, typer.Option(help="gaussian, or histogram.")] = "gaussian",
    blur_nm: Annotated[
        float | None, typer.Option(help="Sigma of every Gaussian, nm; default: each uncertainty.", min=0)
    ] = None,
    color_z: Annotated[bool | None, typer.Option("--color-z/--no-color-z", help="Default: where there is a z.")] = None,
    z_limits_nm: Annotated[str | None, typer.Option(help="z of the first and last colour, LOW:HIGH in nm.")] = None,
    image_size_px: Annotated[str | None, typer.Option(help="Camera field as HEIGHTxWIDTH px.")] = None,
) -> None:
    """Draws the super-resolved image, as PNG with colours and scale bar or as OME-TIFF with the numbers.

    Example: adaloc render locs.hdf5 -o image.png --render-pixel-nm 5
    """
    if mode not in ("gaussian", "histogram"):
        raise ConfigError(f"--mode {mode} is not known. Choose gaussian or histogram.")
    from adaloc.localize.postprocess import render_file

    render_file(
        locs,
        out,
        _pixel_size(pixel_size_nm),
        render_pixel_nm=render_pixel_nm,
        blur_nm=0.0 if mode == "histogram" else blur_nm,
        color_by_z=color_z,
        z_limits_nm=None if z_limits_nm is None else parse_limits(z_limits_nm),
        image_size_px=None if image_size_px is None else parse_pair(image_size_px, "--image-size-px", int),
        console=console,
    )


def parse_limits(text: str) -> tuple[float, float]:
    """-400:400 to two ascending numbers.

    Raises:
        ConfigError: when it is not that.
    """
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"--z-limits-nm {text} is not understood; write for example -400:400.") from None
    if low >= high:
        raise ConfigError(f"--z-limits-nm {text}: the first must be below the second.")
    return low, high


def _pixel_size(text: str | None) -> PixelSize | None:
    return None if text is None else parse_pixel_size(text)
