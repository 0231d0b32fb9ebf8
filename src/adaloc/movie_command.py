"""`adaloc check --movie`: whether a movie fits a config, as a table, warnings and a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adaloc.config import Config
from adaloc.data.movie_check import MovieCheck, check_movie
from adaloc.data.movie_text import FITS, HEADER, WARNING, describe, table_line
from adaloc.errors import ConfigError
from adaloc.localize.movie import open_movie
from adaloc.simulation.camera_maps import maps_of_movie
from adaloc.words import Language

_MOST_BYTES = 1_000_000_000  # of a longer movie the middle is looked at


def show_movie_check(
    config: Config,
    movie: Path,
    language: Language,
    console: Console,
    *,
    plot: Path | None = None,
    camera_maps: Path | None = None,
    camera_origin_px: tuple[int, int] | None = None,
    as_json: bool = False,
) -> MovieCheck:
    """Compares a movie with a config and shows what was found; warnings do not end the command.

    Args:
        config: what the movie is compared with.
        movie: a file of any kind that `open_movie` reads, or a folder.
        language: of the words.
        console: where they go.
        plot: PNG to write, or None.
        camera_maps, camera_origin_px: of an sCMOS; see `maps_of_movie`.
        as_json: print one JSON object, and nothing else.

    Raises:
        AdalocError: when a file cannot be read or written, or movie and maps do not fit.
    """
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot {plot}: the picture is a PNG; write a name that ends in .png.")
    opened = open_movie(movie)
    path = opened.name
    count = max(1, min(opened.num_frames, _MOST_BYTES // opened.bytes_per_frame))
    first = (opened.num_frames - count) // 2
    frames = opened.read(first, first + count)
    pixel_nm = opened.pixel_size_nm
    opened.close()
    if count < opened.num_frames and not as_json:
        console.print(f"{path}: frames {first} to {first + count - 1} of {opened.num_frames} are looked at.")
    size = (frames.shape[1], frames.shape[2])
    maps = maps_of_movie(config.simulation.camera, camera_maps, camera_origin_px, size)
    if camera_maps is not None:  # the config's movies are then simulated with them as well
        camera = config.simulation.camera.model_copy(update={"maps": camera_maps})
        simulation = config.simulation.model_copy(update={"camera": camera})
        config = config.model_copy(update={"simulation": simulation})
    check = check_movie(frames, config, maps, pixel_nm)
    if as_json:
        print(json.dumps(_as_json(check, path, language, plot), indent=2, ensure_ascii=False))
    else:
        _show(check, path, language, console)
    if plot is not None:
        from adaloc.monitor.movie_plot import write_movie_plot

        write_movie_plot(plot, check, f"{path.name}: {len(check.frame_ix_T)} of {check.num_frames} frames")
        if not as_json:
            console.print(f"  {plot}", soft_wrap=True, highlight=False)
    return check


def _as_json(check: MovieCheck, path: Path, language: Language, plot: Path | None) -> dict[str, Any]:
    def known(value: float | str) -> float | str | None:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "movie": str(path),
        "num_frames": check.num_frames,
        "size_px": list(check.size_px),
        "num_frames_looked_at": len(check.frame_ix_T),
        "fits": not check.findings,
        "measured": {
            row.name: {"movie": known(row.movie), "config": known(row.config), "is_off": row.is_off}
            for row in check.rows
        },
        "findings": [
            {
                "cause": finding.cause,
                "evidence": {name: known(value) for name, value in finding.evidence.items()},
                "text": describe(finding, language),
            }
            for finding in check.findings
        ],
        "plot": None if plot is None else str(plot),
    }


def _show(check: MovieCheck, path: Path, language: Language, console: Console) -> None:
    at = 0 if language == "en" else 1
    height, width = check.size_px
    looked = len(check.frame_ix_T)
    facts = (
        f"{path}: {check.num_frames} frames of {height} x {width} px, {looked} looked at",
        f"{path}：{check.num_frames} 帧，{height} x {width} 像素，检查了其中 {looked} 帧",
    )
    console.print(facts[at], soft_wrap=True, highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for column, (title, justify) in enumerate(zip(HEADER, ("left", "right", "right", "left"), strict=True)):
        table.add_column(title[at], justify=justify, style="yellow" if column == 3 else None)  # type: ignore[arg-type]
    for row in check.rows:
        table.add_row(*table_line(row, language))
    console.print(table, highlight=False)
    for finding in check.findings:
        text = describe(finding, language).replace("[", r"\[")
        console.print(f"[yellow]{WARNING[at]}[/yellow] {text}", soft_wrap=True, highlight=False)
    if not check.findings:
        console.print(FITS[at])
