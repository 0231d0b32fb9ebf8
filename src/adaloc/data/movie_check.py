"""The check of a movie against a config, from frames to findings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaloc.config import CameraConfig, Config, PixelSize
from adaloc.data.finding import Finding
from adaloc.data.movie_findings import judge_movie
from adaloc.data.movie_measure import MovieFacts, measure_movie
from adaloc.data.movie_numbers import look_at_numbers
from adaloc.data.movie_reference import Reference, simulate_reference
from adaloc.data.movie_table import Row, movie_table
from adaloc.emitters import IntArray
from adaloc.errors import DataError
from adaloc.simulation.camera_maps import CameraMaps

SMALLEST_SIDE_PX = 16
_LARGEST_SIDE_PX = 256
_MOST_PIXELS = 4_000_000  # about two seconds of one core
_MOST_FRAMES = 200
_GLANCE_FRAMES = 40
_RUN_FRAMES = 20  # taken together, since the noise is told from successive frames


@dataclass(frozen=True)
class MovieCheck:
    """Everything that was seen.

    Attributes:
        raw_THW: the numbers of the file that were looked at: some frames, the middle of large ones.
        frame_ix_T: which frames these are.
        uniform_THW: the same as the config's uniform camera would have given them, ADU; of a camera without maps equal.
        facts: of the movie. reference: of movies of the config.
        findings: what does not fit. rows: the numbers side by side.
        num_frames, size_px: of the whole movie.
    """

    raw_THW: npt.NDArray[np.generic]
    frame_ix_T: IntArray
    uniform_THW: npt.NDArray[np.generic]
    facts: MovieFacts
    reference: Reference
    findings: list[Finding]
    rows: list[Row]
    num_frames: int
    size_px: tuple[int, int]


def check_movie(
    movie_THW: npt.NDArray[np.generic], config: Config, maps: CameraMaps | None, pixel_nm: PixelSize | None
) -> MovieCheck:
    """Looks at some frames of a movie, and at movies of the config; some seconds of one core.

    Args:
        movie_THW: as in the file.
        config: its camera, background, emitters and PSF are asked about.
        maps: of the camera's pixels under the movie, or None.
        pixel_nm: what the movie's metadata say, or None.

    Raises:
        DataError: when the frames are too small, or the simulation cannot be made.
    """
    num_frames, height, width = movie_THW.shape
    if min(height, width) < SMALLEST_SIDE_PX:
        raise DataError(
            f"The movie has {height} x {width} px; with fewer than {SMALLEST_SIDE_PX} along a side it cannot be judged."
        )
    top, left, size = _middle(height, width)
    index = chosen_frames(num_frames, size[0] * size[1])
    raw = movie_THW[index, top : top + size[0], left : left + size[1]]
    uniform = raw if maps is None else maps.cut((top, left), size).to_uniform(raw, config.simulation.camera)
    facts = measure_movie(uniform, index)
    reference = simulate_reference(config, len(index), size)
    findings = judge_movie(look_at_numbers(raw), raw.size, facts, reference, config, pixel_nm)
    rows = movie_table(facts, reference, config, findings)
    return MovieCheck(raw, index, uniform, facts, reference, findings, rows, num_frames, (height, width))


def glance(movie_THW: npt.NDArray[np.generic], maps: CameraMaps | None, camera: CameraConfig) -> MovieFacts | None:
    """The measurements alone, of fewer frames; None for frames too small to be judged."""
    num_frames, height, width = movie_THW.shape
    if min(height, width) < SMALLEST_SIDE_PX:
        return None
    top, left, size = _middle(height, width)
    index = chosen_frames(num_frames, size[0] * size[1])[:_GLANCE_FRAMES]
    raw = movie_THW[index, top : top + size[0], left : left + size[1]]
    return measure_movie(raw if maps is None else maps.cut((top, left), size).to_uniform(raw, camera), index)


def chosen_frames(num_frames: int, num_pixels: int) -> IntArray:
    """Which frames are looked at: all of a short movie, else runs of successive ones spread evenly over it."""
    most = int(np.clip(_MOST_PIXELS // num_pixels, _RUN_FRAMES, _MOST_FRAMES))
    if num_frames <= most:
        return np.arange(num_frames)
    starts = np.linspace(0, num_frames - _RUN_FRAMES, most // _RUN_FRAMES).round().astype(np.int64)
    return np.unique(starts[:, None] + np.arange(_RUN_FRAMES))


def _middle(height: int, width: int) -> tuple[int, int, tuple[int, int]]:
    size = min(height, _LARGEST_SIDE_PX), min(width, _LARGEST_SIDE_PX)
    return (height - size[0]) // 2, (width - size[1]) // 2, size
