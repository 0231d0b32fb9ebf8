"""What a config would make of a movie: the same measurements on movies that are simulated from it.

Whatever density, PSF, blinking or dense light do to an estimate, they do to both, so a difference is the config's.
The spread between the simulated movies tells how far apart two movies of one config may lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from adaloc.config import CameraConfig, Config
from adaloc.data.generate import field_map_of
from adaloc.data.movie_measure import MovieFacts, PhotonTransfer, measure_movie
from adaloc.simulation.camera_maps import maps_of, uniform_camera
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import make_psf

_NUM_MOVIES = 6
_LARGEST_SIDE_PX = 64  # statistics grow no better with a wider field than the tolerances ask for
_MOST_FRAMES = 100
_FIRST_INDEX = 1_000_000  # beyond the samples of any data set of the same seed
_LEAST_SPREAD = 0.01
_EXAMPLE_FRAMES = 20
SPREAD_OF_FEW = 1.3
"""Three standard deviations of a normal variable, seen from six others, have the chance of 3.9 (Student)."""


@dataclass(frozen=True)
class Simulated:
    """One simulated movie.

    Attributes:
        facts: what was measured.
        background_photons: its true background per px, mean over the movie.
        example_THW: its first frames, ADU of the uniform camera.
    """

    facts: MovieFacts
    background_photons: float
    example_THW: npt.NDArray[np.generic]


@dataclass(frozen=True)
class Typical:
    """Mean of the logarithm of a positive number over the simulated movies, and its spread (standard deviation)."""

    log_mean: float
    log_spread: float

    @property
    def value(self) -> float:
        """The geometric mean."""
        return math.exp(self.log_mean)


@dataclass(frozen=True)
class Reference:
    """Movies of a config.

    Attributes:
        camera: uniform; its gain and baseline are the scale of all ADU.
        movies: simulated ones.
    """

    camera: CameraConfig
    movies: tuple[Simulated, ...]

    def typical(self, of: Callable[[Simulated], float | None]) -> Typical | None:
        """Of a number that every movie has; None when one has not, or has none above 0."""
        values = [of(movie) for movie in self.movies]
        known = [value for value in values if value is not None and value > 0]
        if len(known) < len(values):
            return None
        logs = np.log(known)
        return Typical(float(logs.mean()), max(SPREAD_OF_FEW * float(logs.std(ddof=1)), _LEAST_SPREAD))


def photons_per_adu(camera: CameraConfig) -> float:
    """Photons that one ADU above the baseline stands for."""
    return camera.gain_e_per_adu / camera.em_gain / camera.quantum_efficiency


def slope_of(camera: CameraConfig) -> float:
    """ADU^2 of variance for each ADU of light: ADU per electron, twice that behind a gain register."""
    return (2.0 if camera.em_gain > 1 else 1.0) * camera.em_gain / camera.gain_e_per_adu


def expected_variance(mean_adu: float, camera: CameraConfig) -> float:
    """Variance in ADU^2 that a camera gives at a mean in ADU; rounding adds 1/12."""
    light = max(mean_adu - camera.baseline_adu, 0.0)
    return light * slope_of(camera) + (camera.read_noise_e / camera.gain_e_per_adu) ** 2 + 1 / 12


def noise_ratio(transfer: PhotonTransfer, camera: CameraConfig) -> float:
    """Variance of the dark part of a movie over what the camera gives at its mean."""
    return transfer.dark_variance_adu2 / expected_variance(transfer.dark_mean_adu, camera)


def simulate_reference(config: Config, num_frames: int, size_px: tuple[int, int]) -> Reference:
    """Movies of a config, as long as the one that they are compared with and at most as large; seconds of one core.

    Args:
        config: its simulation and seed.
        num_frames: of the movie. size_px: its (height, width), at least 16.

    Raises:
        DataError: when the config's camera maps cannot be read, or are smaller than that.
    """
    return Reference(
        uniform_camera(config.simulation.camera), tuple(simulated_movies(config, num_frames, size_px, _NUM_MOVIES))
    )


def simulated_movies(
    config: Config, num_frames: int, size_px: tuple[int, int], number: int, first_index: int = _FIRST_INDEX
) -> Iterator[Simulated]:
    """Movies of a config and what is measured in them; functions of the config and their index."""
    side = min(_LARGEST_SIDE_PX, *size_px)
    # A simulated sample has at least three frames; of them as many are looked at as the movie has.
    length = min(num_frames, _MOST_FRAMES)
    simulation = config.simulation.model_copy(update={"image_size_px": side, "num_frames": max(length, 3)})
    psf, camera = make_psf(simulation.psf, simulation.optics), simulation.camera
    maps = maps_of(camera)
    with torch.inference_mode():
        for index in range(first_index, first_index + number):
            # Each with a field map of its own: which aberrations the movie's field has is not known.
            field_map = field_map_of(config.model_copy(update={"seed": (config.seed + index) % 2**32}))
            made = simulate_sample(simulation, psf, field_map, seed=config.seed, index=index)
            frames: npt.NDArray[np.generic] = made.frames_THW[:length]
            if maps is not None and made.camera_origin_px is not None:
                frames = maps.cut(made.camera_origin_px, (side, side)).to_uniform(frames, camera)
            yield Simulated(measure_movie(frames), float(made.background_T[:length].mean()), frames[:_EXAMPLE_FRAMES])
