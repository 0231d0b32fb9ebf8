"""`adaloc camera-map`, `adaloc check --movie`, and the options that name a camera's maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from adaloc.cli_guard import console, escape, guarded, parse_pair
from adaloc.config import Config
from adaloc.errors import ConfigError
from adaloc.words import Language

CameraMapsOption = Annotated[
    Path | None,
    typer.Option("--camera-maps", help="Maps of the sCMOS that took the movie. Default: those of the config or model."),
]
CameraOriginOption = Annotated[
    str | None,
    typer.Option("--camera-origin", help="ROWxCOLUMN of the maps at which the movie's first pixel lies, from 0."),
]

MovieOption = Annotated[Path | None, typer.Option("--movie", help="Compare this movie with the config.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="With --movie: write its histograms, a PNG.")]


def refuse_without_movie(given: dict[str, object]) -> None:
    """Refuses options of `adaloc check` that mean something with --movie only.

    Raises:
        ConfigError: naming those that were given.
    """
    if named := [name for name, value in given.items() if value]:
        raise ConfigError(f"{', '.join(named)}: only with --movie MOVIE, which compares a movie with the config.")


def check_one_movie(
    config: Config,
    movie: Path,
    language: Language,
    plot: Path | None,
    camera_maps: Path | None,
    camera_origin: str | None,
    *,
    as_json: bool = False,
) -> None:
    """`adaloc check --movie`."""
    from adaloc.movie_command import show_movie_check

    origin = None if camera_origin is None else parse_pair(camera_origin, "--camera-origin", int)
    show_movie_check(
        config, movie, language, console, plot=plot, camera_maps=camera_maps, camera_origin_px=origin, as_json=as_json
    )


@guarded
def camera_map(
    calibration: Annotated[Path, typer.Argument(help="Calibration of storm-analysis: .npy of (3, X, Y).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 file for simulation.camera.maps and --camera-maps.")],
    transpose: Annotated[
        bool, typer.Option("--transpose", help="Exchange rows and columns, as calibrations with x first need.")
    ] = False,
    baseline_adu: Annotated[
        float, typer.Option("--baseline-adu", help="Added to the offsets, where they are counted from a baseline.")
    ] = 0.0,
    gain_unit: Annotated[str, typer.Option("--gain-unit", help="Of the file's gain: ADU/e or e/ADU.")] = "ADU/e",
) -> None:
    """Converts the camera calibration of storm-analysis to camera maps.

    Example: adaloc camera-map calib.npy -o maps.h5 --transpose --baseline-adu 100
    """
    from adaloc.simulation.camera_maps import from_storm_analysis, read_noise_looks_inverted, write_camera_maps

    if gain_unit not in ("ADU/e", "e/ADU"):
        raise ConfigError(f"--gain-unit {gain_unit} is not known. Choose ADU/e or e/ADU.")
    maps = from_storm_analysis(calibration, baseline_adu, transpose=transpose, gain_unit=gain_unit)  # type: ignore[arg-type]
    write_camera_maps(out, maps)
    height, width = maps.size_px
    offset, noise, gain = (float(np.median(v)) for v in (maps.offset_adu, maps.read_noise_e, maps.gain_e_per_adu))
    noisy = float((maps.read_noise_e > 3 * noise).mean())
    console.print(
        f"{escape(out)}: {height} x {width} px; medians: offset {offset:.4g} ADU, read noise {noise:.3g} e, gain "
        f"{gain:.4g} e/ADU; {noisy:.2%} of the pixels have over three times that noise",
        soft_wrap=True,
        highlight=False,
    )
    if read_noise_looks_inverted(maps):
        other = "e/ADU" if gain_unit == "ADU/e" else "ADU/e"
        console.print(
            f"[yellow]Warning:[/yellow] a read noise of {noise:.2g} e is not an sCMOS's, but with the inverse gain it "
            f"would be. The file's gain is probably in {other}: use --gain-unit {other}, and look at adaloc check "
            "--movie.",
            soft_wrap=True,
        )
    if offset < 10:
        console.print(
            "[yellow]Warning:[/yellow] such a small offset is usually counted from a baseline of 100 ADU. Add it with "
            "--baseline-adu 100.",
            soft_wrap=True,
        )
