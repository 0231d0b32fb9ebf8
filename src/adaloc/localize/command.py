"""`adaloc localize`: a model, movies, and the files that come out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from adaloc import __version__
from adaloc.config import GaussianPSFConfig, PixelSize, SimulationConfig
from adaloc.data.movie_check import glance
from adaloc.data.movie_findings import quick_findings
from adaloc.data.movie_text import describe
from adaloc.data.targets import BACKGROUND, Z
from adaloc.emitters import EmitterTable, concatenate
from adaloc.errors import ConfigError
from adaloc.files import remove_leftovers
from adaloc.localize.inference import View, localize_stream, plan_of, view_of
from adaloc.localize.movie import Movie, find_movies, join_movies
from adaloc.localize.names import check_names, image_names, output_names
from adaloc.localize.outputs import DEFAULT_FORMATS, FORMATS, MovieFacts, output_paths, write_outputs
from adaloc.localize.parts import Part, Split, number_of_parts, parts_begun, spans_of
from adaloc.localize.pixel_grid import PixelGridWave, describe_pixel_grid
from adaloc.localize.render import render, write_png, z_range_nm
from adaloc.localize.rows import Rows
from adaloc.localize.tiles import Box
from adaloc.models.device import choose_device, device_of
from adaloc.models.model_file import Model, load_model
from adaloc.processes import place_of_this_process
from adaloc.progress import ProgressLine
from adaloc.simulation.camera_maps import CameraMaps, maps_of_movie, uniform_camera
from adaloc.stopping import listen, stop_if_asked

_SIGMA_PER_WAVELENGTH_OVER_NA = 0.21  # Gaussian that fits the in-focus Airy disk best (Zhang et al. 2007)
_PIXEL_SIZE_TOLERANCE = 0.02
_SAMPLED_FRAMES, _SAMPLED_BYTES = 40, 64_000_000


@dataclass(frozen=True)
class LocalizeOptions:
    """How to localize; the same for all movies of a command.

    Attributes:
        threshold: least probability of a localization.
        pixel_size_nm: camera pixel; None takes the model's.
        frames: first frame and the frame after the last (None: the movie's end); None takes all.
        region: pixels of the frame; None takes all.
        max_sigma_nm: largest predicted uncertainty along x and along y.
        formats: of `outputs.FORMATS`.
        resume: go on with unfinished runs, and leave out movies whose files are there.
        render_pixel_nm: pixel of the image.
        device: name of a device.
        camera_maps: of an sCMOS; None takes those that the model was trained with, if any.
        camera_origin_px: (row, column) of the maps at which the movie's first pixel lies; None: maps and movie have one
            size.
        part: the part of each movie that this process localizes; None for all of it, or, where torchrun has started
            several processes, for this one's share.
    """

    threshold: float = 0.5
    pixel_size_nm: PixelSize | None = None
    frames: tuple[int, int | None] | None = None
    region: Box | None = None
    max_sigma_nm: float | None = None
    formats: tuple[str, ...] = DEFAULT_FORMATS
    resume: bool = False
    render_pixel_nm: float = 10.0
    device: str = "auto"
    camera_maps: Path | None = None
    camera_origin_px: tuple[int, int] | None = None
    part: Part | None = None


@dataclass(frozen=True)
class Localized:
    """What came of a movie: its files by format, and the number of localizations."""

    movie: Path
    outputs: dict[str, Path]
    num_localizations: int


def localize_movies(
    model_path: Path,
    movie_paths: Sequence[Path],
    out: Path | None,
    render_path: Path | None,
    options: LocalizeOptions,
    console: Console,
    *,
    join: bool = False,
) -> list[Localized]:
    """Localizes movies one after the other; each gets its own files.

    Args:
        model_path: model file or checkpoint.
        movie_paths: files and folders, see `movie.find_movies`.
        out: for one movie a file ending in .csv, .hdf5 or .h5; else, and always if it has no such ending, a folder.
            None puts `MOVIE_locs` beside each movie.
        render_path: the image, a PNG; a folder of images for several movies; None draws none. The image alone needs
            memory that grows with the number of localizations.
        options: the rest.
        console: where messages go.
        join: all paths together are one movie.

    Returns:
        What was written; without movies that were finished before, and those of which other parts are missing.

    Raises:
        AdalocError: when a file cannot be read or written.
    """
    check_names(out, render_path)
    place = place_of_this_process()
    if place.size > 1:
        if options.part is not None:
            raise ConfigError("Each of the processes that torchrun starts has its own part; leave --part out.")
        options = replace(options, part=Part(place.rank + 1, place.size))
    model = load_model(model_path)
    model.network.to(choose_device(options.device) if place.size == 1 else device_of(options.device, place.local_rank))
    movies = [join_movies(movie_paths)] if join else find_movies(movie_paths)
    try:
        names = output_names(movies, out)
        images = image_names(movies, names, render_path)
        done = []
        for movie, name, image in zip(movies, names, images, strict=True):
            paths = output_paths(name, options.formats)
            files = [*paths.values(), *([image] if image else [])]
            if options.resume and _is_finished(name, files, model_path):
                console.print(f"{movie.name}: {name} is there already; delete it to localize again.", soft_wrap=True)
                continue
            view = view_of(movie, options.frames, options.region)
            total = number_of_parts(name, options.part, resume=options.resume)
            run_length = plan_of(model, movie, view, next(model.network.parameters()).device).frames_at_once
            split = Split(name, _settings(model_path, movie, view, options), spans_of(view, total, run_length))
            with listen():
                for number in range(1, total + 1) if options.part is None else (options.part.number,):
                    # One of the processes speaks, at the beginning; the one that ends last speaks at the end.
                    speaker = console if place.rank == 0 else Console(quiet=True)
                    _localize(model, movie, view, split, number, options, speaker)
                if options.part is not None and not _is_last(split, options.part, console):
                    continue
                with split.whole() as rows:
                    if rows is not None:
                        for path in files:
                            remove_leftovers(path.parent, (path.name, path.with_suffix(".yaml").name))
                        done.append(_write(model, movie, view, rows, paths, image, options, console))
            movie.close()
        return done
    finally:
        for movie in movies:
            movie.close()


def _localize(
    model: Model, movie: Movie, view: View, split: Split, number: int, options: LocalizeOptions, console: Console
) -> None:
    """Fills the work file of a part."""
    begin, end = split.spans[number - 1]
    if begin == end:
        return
    total = len(split.spans)
    what = movie.name.name if total == 1 else f"{movie.name.name} (part {number} of {total})"
    with split.open(number, resume=options.resume) as work:
        if not work.is_locked:
            console.print("[yellow]Warning:[/yellow] the file system knows no locks: start no second process for this.")
        maps = maps_of_movie(
            model.config.simulation.camera, options.camera_maps, options.camera_origin_px, (movie.height, movie.width)
        )
        sample = sample_frames(movie, view)
        seen = None if maps is None else maps.cut((view.region.top, view.region.left), sample.shape[1:])
        for warning in [*movie.notes, *mismatches(model, sample, movie.pixel_size_nm, options.pixel_size_nm, seen)]:
            console.print(f"[yellow]Warning:[/yellow] {warning}", soft_wrap=True)
        pixel_size = options.pixel_size_nm or model.config.simulation.optics.pixel_size_nm
        first = begin if work.end is None else work.end
        if done := first - begin:
            console.print(f"Going on at frame {first}; {done} frames were finished before.", soft_wrap=True)
        with ProgressLine(console, f"localizing {what}", end - begin, "frames", done) as line:
            for block in localize_stream(
                model, movie, view, threshold=options.threshold, maps=maps, first_frame=first, last_frame=end
            ):
                table = block.table
                if options.max_sigma_nm is not None:
                    table = certain_rows(table, pixel_size, options.max_sigma_nm)
                work.append(replace(block, table=table))
                line.update(block.end - begin)
                stop_if_asked("Finished blocks are kept; go on with the same command and --resume.")


def _is_last(split: Split, part: Part, console: Console) -> bool:
    """Whether all parts are finished and nobody else has begun to put them together; else says what comes of it."""
    begin, end = split.spans[part.number - 1]
    missing = split.missing()
    if not missing:
        return True
    own = f"Part {part.number} of {part.total} (frames {begin} to {end - 1}) is finished."
    if begin == end:
        own = f"Part {part.number} of {part.total} has no frames: the movie is too short for so many parts."
    elif split.is_taken(part.number):
        console.print(f"{own} All are, and another process writes {split.name}.", soft_wrap=True)
        return False
    numbers = ", ".join(map(str, missing))
    console.print(f"{own} The one that ends last writes {split.name}; still open: {numbers}.", soft_wrap=True)
    return False


def _write(
    model: Model,
    movie: Movie,
    view: View,
    rows: Rows,
    paths: dict[str, Path],
    image_path: Path | None,
    options: LocalizeOptions,
    console: Console,
) -> Localized:
    """Writes the final files, and says what is in them."""
    facts = MovieFacts(
        options.pixel_size_nm or model.config.simulation.optics.pixel_size_nm,
        (movie.height, movie.width),
        movie.num_frames,
        spot_sigma_nm(model.config.simulation),
        is_3d=bool(model.scaling.varies[Z]),
    )
    write_outputs(paths, rows, facts)
    console.print(f"{rows.num_rows} localizations in {len(view)} frames ({rows.num_rows / len(view):.1f} a frame)")
    grid_x, grid_y = PixelGridWave(), PixelGridWave()
    for part in rows.parts():
        grid_x.add(part.x)
        grid_y.add(part.y)
    if (sentence := describe_pixel_grid(grid_x.bias(), grid_y.bias())) is not None:
        console.print(sentence, soft_wrap=True)
    for name, path in paths.items():
        console.print(f"  {FORMATS[name]:<12} {path}", soft_wrap=True)
    if image_path is not None:
        table = concatenate(list(rows.parts()))
        _write_image(image_path, table, facts, options.render_pixel_nm)
        console.print(f"  {'image':<12} {image_path}", soft_wrap=True)
    return Localized(movie.name, paths, rows.num_rows)


def certain_rows(table: EmitterTable, pixel_size_nm: PixelSize, max_sigma_nm: float) -> EmitterTable:
    """The localizations whose predicted uncertainties along x and along y are at most `max_sigma_nm`.

    Raises:
        ConfigError: when the model predicts no uncertainties.
    """
    if table.x_sigma is None or table.y_sigma is None:
        raise ConfigError(
            "--max-sigma-nm needs a model that predicts uncertainties, and this one does not. Leave the option out, "
            "filter by --probability, or train a model with predicted uncertainties."
        )
    largest = np.maximum(table.x_sigma * pixel_size_nm.x, table.y_sigma * pixel_size_nm.y)
    return table.select(largest <= max_sigma_nm)


def _is_finished(name: Path, files: Sequence[Path], model_path: Path) -> bool:
    """All files are there and none is older than the model, which may have been trained further."""
    if parts_begun(name) or not all(path.is_file() for path in files):
        return False
    return min(path.stat().st_mtime for path in files) >= model_path.stat().st_mtime


def _settings(model_path: Path, movie: Movie, view: View, options: LocalizeOptions) -> dict[str, Any]:
    """Everything that the localizations depend on."""
    with model_path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    size, box = options.pixel_size_nm, view.region
    return {
        "adaloc": __version__,
        "model": digest,
        "movie": [movie.name.name, movie.num_frames, movie.height, movie.width, str(movie.dtype)],
        "movie files": sum(path.stat().st_size for path in movie.files),
        "--frames": [view.begin, view.end],
        "--region": [box.left, box.right, box.top, box.bottom],
        "--threshold": options.threshold,
        "--max-sigma-nm": options.max_sigma_nm,
        "--camera-maps": None if options.camera_maps is None else str(options.camera_maps),
        "--camera-origin": None if options.camera_origin_px is None else list(options.camera_origin_px),
        "--pixel-size-nm": None if size is None else [size.x, size.y],
    }


def sample_frames(movie: Movie, view: View) -> npt.NDArray[Any]:
    """Successive frames from the middle of the view, as many as bounded memory allows, cut to its region."""
    count = max(1, min(_SAMPLED_FRAMES, len(view), _SAMPLED_BYTES // movie.bytes_per_frame))
    begin = view.begin + (len(view) - count) // 2
    return movie.read(begin, begin + count)[:, view.region.rows, view.region.columns]


def _write_image(path: Path, table: EmitterTable, facts: MovieFacts, render_pixel_nm: float) -> None:
    limits = z_range_nm(table) if facts.is_3d else None
    image = render(
        table,
        pixel_size_nm=facts.pixel_size_nm,
        image_size_px=facts.image_size_px,
        render_pixel_nm=render_pixel_nm,
        color_by_z=facts.is_3d,
        z_limits_nm=limits,
    )
    write_png(path, image, render_pixel_nm, z_limits_nm=limits)


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
