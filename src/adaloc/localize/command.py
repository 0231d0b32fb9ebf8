"""`adaloc localize`: a model, a movie, and the files that come out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy.typing as npt
from rich.console import Console

from adaloc.config import GaussianPSFConfig, PixelSize, SimulationConfig
from adaloc.data.movie_check import glance
from adaloc.data.movie_findings import quick_findings
from adaloc.data.movie_text import describe
from adaloc.data.sample_folder import find_movie, movie_pixel_size, read_movie
from adaloc.data.targets import BACKGROUND, Z
from adaloc.emitters import EmitterTable
from adaloc.errors import ConfigError
from adaloc.localize.export import write_picasso_hdf5, write_thunderstorm_csv
from adaloc.localize.inference import localize_frames
from adaloc.localize.render import render, write_png, z_range_nm
from adaloc.models.device import choose_device
from adaloc.models.model_file import Model, load_model
from adaloc.progress import ProgressLine
from adaloc.simulation.camera_maps import CameraMaps, maps_of_movie, uniform_camera

_SIGMA_PER_WAVELENGTH_OVER_NA = 0.21  # Gaussian that fits the in-focus Airy disk best (Zhang et al. 2007)
_PIXEL_SIZE_TOLERANCE = 0.02


def localize_movie(
    model_path: Path,
    movie_path: Path,
    out: Path,
    render_path: Path | None,
    threshold: float,
    pixel_size_nm: PixelSize | None,
    render_pixel_nm: float,
    device: str,
    console: Console,
    camera_maps: Path | None = None,
    camera_origin_px: tuple[int, int] | None = None,
) -> EmitterTable:
    """Localizes a movie and writes ThunderSTORM CSV, Picasso HDF5 and, when asked, the rendered image.

    Args:
        model_path: model file or checkpoint.
        movie_path: TIFF, or a sample folder.
        out: .csv or .hdf5; the other one is written beside it under the same name.
        render_path: PNG, or None.
        threshold: least probability of a localization.
        pixel_size_nm: camera pixel; None takes the model's.
        render_pixel_nm: pixel of the image.
        device: name of a device.
        console: where messages go.
        camera_maps: of an sCMOS; None takes those that the model was trained with, if any.
        camera_origin_px: (row, column) of the maps at which the movie's first pixel lies; None: maps and movie have one
            size.

    Raises:
        AdalocError: when movie and camera maps do not fit, or a file cannot be read or written.
    """
    if out.suffix.lower() not in (".csv", ".hdf5", ".h5"):
        raise ConfigError(f"--out {out}: write a name that ends in .csv or .hdf5; both files are written.")
    if render_path is not None and render_path.suffix.lower() != ".png":
        raise ConfigError(f"--render {render_path}: the image is a PNG; write a name that ends in .png.")
    model = load_model(model_path)
    model.network.to(choose_device(device))
    movie_path = find_movie(movie_path) if movie_path.is_dir() else movie_path
    frames = read_movie(movie_path)
    maps = maps_of_movie(model.config.simulation.camera, camera_maps, camera_origin_px, frames.shape[1:])
    for warning in mismatches(model, frames, movie_pixel_size(movie_path), pixel_size_nm, maps):
        console.print(f"[yellow]Warning:[/yellow] {warning}", soft_wrap=True)
    pixel_size = pixel_size_nm or model.config.simulation.optics.pixel_size_nm
    with ProgressLine(console, "localizing", len(frames), "frames") as line:
        table = localize_frames(model, frames, threshold=threshold, maps=maps, on_progress=line.update)
    is_3d = model.scaling.varies[Z]
    sigma = spot_sigma_nm(model.config.simulation)
    csv = out if out.suffix.lower() == ".csv" else out.with_suffix(".csv")
    hdf5 = out if out.suffix.lower() != ".csv" else out.with_suffix(".hdf5")
    write_thunderstorm_csv(csv, table, pixel_size, psf_sigma_nm=sigma, is_3d=is_3d)
    height, width = frames.shape[1:]
    write_picasso_hdf5(
        hdf5, table, pixel_size, image_size_px=(height, width), num_frames=len(frames), psf_sigma_nm=sigma, is_3d=is_3d
    )
    per_frame = len(table) / len(frames)
    console.print(f"{len(table)} localizations in {len(frames)} frames ({per_frame:.1f} a frame)")
    console.print(f"  ThunderSTORM {csv}\n  Picasso      {hdf5}", soft_wrap=True)
    if render_path is not None:
        limits = z_range_nm(table) if is_3d else None
        image = render(
            table,
            pixel_size_nm=pixel_size,
            image_size_px=(height, width),
            render_pixel_nm=render_pixel_nm,
            color_by_z=is_3d,
            z_limits_nm=limits,
        )
        write_png(render_path, image, render_pixel_nm, z_limits_nm=limits)
        console.print(f"  image        {render_path}", soft_wrap=True)
    return table


def spot_sigma_nm(simulation: SimulationConfig) -> float:
    """Sigma of the spot in focus, nm."""
    if isinstance(simulation.psf, GaussianPSFConfig):
        return (simulation.psf.sigma_x_nm + simulation.psf.sigma_y_nm) / 2
    return _SIGMA_PER_WAVELENGTH_OVER_NA * simulation.optics.wavelength_nm / simulation.optics.numerical_aperture


def mismatches(
    model: Model,
    frames_THW: npt.NDArray[Any],
    movie_nm: PixelSize | None,
    asked_nm: PixelSize | None,
    maps: CameraMaps | None = None,
) -> list[str]:
    """What about a movie does not fit the model, in words."""
    warnings = []
    trained = model.config.simulation.optics.pixel_size_nm
    for other, source in ((movie_nm, "the movie's metadata say"), (asked_nm, "--pixel-size-nm says")):
        if (
            other is not None
            and max(abs(other.x / trained.x - 1), abs(other.y / trained.y - 1)) > _PIXEL_SIZE_TOLERANCE
        ):
            warnings.append(
                f"{source} a pixel of {other.x:g} x {other.y:g} nm, the model was trained for {trained.x:g} x "
                f"{trained.y:g} nm: its PSF does not fit."
            )
    camera = model.config.simulation.camera
    facts = glance(frames_THW, maps, camera)
    if facts is None:
        return warnings
    # Networks that were not told a background in training have a mean of 0 and expect none.
    expected = model.scaling.mean[BACKGROUND - 1] if model.scaling.varies[BACKGROUND] else math.nan
    found = quick_findings(facts, uniform_camera(camera, maps), expected)
    warnings += [describe(finding) for finding in found]
    if found:
        warnings.append("adaloc check --movie MOVIE --config CONFIG says more.")
    return warnings
