"""`adaloc localize` and `adaloc convert`: from movies to localizations, and between the files of programs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_camera import CameraMapsOption, CameraOriginOption
from adaloc.cli_guard import console, guarded, parse_pair, parse_pixel_size
from adaloc.errors import ConfigError

PixelSizeOption = Annotated[
    str | None, typer.Option(help="Camera pixel in the sample, nm: 100 or 101.11x98.83 (x, y). Default: the model's.")
]


@guarded
def localize(
    model: Annotated[Path, typer.Argument(help="Model file (best_model.pth) or training checkpoint.")],
    movies: Annotated[
        list[Path],
        typer.Argument(
            metavar="MOVIE...",
            help="TIFF, Picasso .raw, .dax, .nd2, or a folder of them or of numbered TIFFs; of any size.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .csv, .hdf5 or .h5; a folder for several movies. Default: MOVIE_locs.csv."),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format", help="thunderstorm, picasso, smap, decode joined by commas, or all. Default: the first two."
        ),
    ] = None,
    render: Annotated[Path | None, typer.Option(help="Also write the super-resolved image, a PNG.")] = None,
    threshold: Annotated[
        float,
        typer.Option("--threshold", "--probability", help="Least probability of a localization.", min=0.01, max=1),
    ] = 0.5,
    max_sigma_nm: Annotated[
        float | None, typer.Option(help="Largest predicted uncertainty along x and along y, nm.", min=0)
    ] = None,
    frames: Annotated[
        str | None, typer.Option(help="BEGIN:END, from 0, the end not included: 100:2000, 100: or :2000.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="x0:x1,y0:y1 in px, ends not included; positions stay those of the whole movie.")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="All files are one movie, in the order given.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an interrupted run left.")] = False,
    part: Annotated[
        str | None,
        typer.Option(
            help="K/N: part K of N alone, for jobs that share a movie; the one that ends last writes the files."
        ),
    ] = None,
    pixel_size_nm: PixelSizeOption = None,
    render_pixel_nm: Annotated[float, typer.Option(help="Pixel of the image, nm.", min=0.5, max=1000)] = 10.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    camera_maps: CameraMapsOption = None,
    camera_origin: CameraOriginOption = None,
) -> None:
    """Localizes the molecules of movies of any length, in bounded memory.

    Example: adaloc localize outputs/training_results_adaptive/best_model.pth movie.tif -o locs.csv --render image.png

    Example: torchrun --nproc-per-node 4 -m adaloc localize best_model.pth movie.tif -o locs.hdf5 --resume
    """
    from adaloc.localize.command import LocalizeOptions, localize_movies
    from adaloc.localize.outputs import parse_formats
    from adaloc.localize.parts import parse_part
    from adaloc.localize.tiles import Box

    box = None
    if region is not None:
        x, y, *more = [*region.split(","), ""]
        if more != [""]:
            raise ConfigError(f"--region {region} is not understood; write for example 0:128,64:256 (x, then y).")
        left, right = _parse_span(x, "--region")
        top, bottom = _parse_span(y, "--region")
        if right is None or bottom is None:
            raise ConfigError(f"--region {region} is not understood; give both ends, for example 0:128,64:256.")
        box = Box(top=top, bottom=bottom, left=left, right=right)
    options = LocalizeOptions(
        threshold=threshold,
        pixel_size_nm=None if pixel_size_nm is None else parse_pixel_size(pixel_size_nm),
        frames=None if frames is None else _parse_span(frames, "--frames"),
        region=box,
        max_sigma_nm=max_sigma_nm,
        formats=parse_formats(file_format),
        resume=resume,
        render_pixel_nm=render_pixel_nm,
        device=device,
        camera_maps=camera_maps,
        camera_origin_px=None if camera_origin is None else parse_pair(camera_origin, "--camera-origin", int),
        part=None if part is None else parse_part(part),
    )
    localize_movies(model, movies, out, render, options, console, join=join)


@guarded
def convert(
    source: Annotated[Path, typer.Argument(help="Localizations of any program that adaloc reads.")],
    out: Annotated[Path, typer.Argument(help="File to write: .csv is ThunderSTORM, .hdf5 Picasso, .h5 DECODE.")],
    to: Annotated[str | None, typer.Option("--to", help="thunderstorm, picasso, smap or decode.")] = None,
    pixel_size_nm: Annotated[str | None, typer.Option(help="Camera pixel, nm, where the file does not say it.")] = None,
    psf_sigma_nm: Annotated[
        float | None,
        typer.Option(help="Sigma of the spot in focus, to compute a precision where there is none.", min=1),
    ] = None,
) -> None:
    """Converts localizations between Picasso, ThunderSTORM, SMAP and DECODE; reads rapidSTORM and Insight3 as well.

    Example: adaloc convert locs.hdf5 locs.csv --to smap
    """
    from adaloc.localize.convert import convert as convert_file
    from adaloc.localize.outputs import FORMATS

    if to is not None and to not in FORMATS:
        raise ConfigError(f"--to {to} is not known. Choose from {', '.join(FORMATS)}.")
    size = None if pixel_size_nm is None else parse_pixel_size(pixel_size_nm)
    convert_file(source, out, console, to=to, pixel_size_nm=size, psf_sigma_nm=psf_sigma_nm)


def _parse_span(text: str, option: str) -> tuple[int, int | None]:
    """100:2000 to two numbers; a missing begin is 0, a missing end None."""
    match = re.fullmatch(r"(\d*):(\d*)", text.strip())
    if match is None or match[0] == ":":
        example = "100:2000" if option == "--frames" else "0:128,64:256"
        raise ConfigError(f"{option} {text} is not understood; write for example {example}.")
    return int(match[1] or 0), int(match[2]) if match[2] else None
