"""Training windows that are simulated while the network trains, and never seen again.

The fresh windows of a run are one long sequence. It is made a block at a time: some short movies, whose windows are
all used, in random order, `data.fresh_reuse` times each, before the next block is simulated. Block number b, and with
it every window, is a function of (seed, b) alone, so a run that goes on from a checkpoint or back to an earlier place
makes the same windows again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from adaloc.config import CameraConfig, Config
from adaloc.data.generate import FIELD_MAP_FILE, field_map_of, psf_of_data, read_description
from adaloc.data.randomization import random_microscope
from adaloc.data.training_windows import TrainingWindows, draw_quarter_turns
from adaloc.data.windows import Cut, Sample, make_sample
from adaloc.emitters import IntArray
from adaloc.errors import DataError
from adaloc.random_streams import Stream, numpy_stream
from adaloc.simulation.camera_maps import maps_of
from adaloc.simulation.field_map import read_field_map
from adaloc.simulation.frames import SimulatedSample, simulate_sample

_MOVIES, _MOVIE_FRAMES = 8, 50
"""Of a block: eight places of the field map, and so many frames that little is lost at a movie's ends."""
_BLOCKS_KEPT = 2  # a batch may need two, and a trial of the learning rate goes back a few steps


class FreshWindows:
    """The sequence of freshly simulated windows of a run.

    Args:
        config: its `simulation`, `data` and `seed`. A field map and a calibration are those of the data in
            `data.root`, where there are some.
        device: where movies are simulated.

    Attributes:
        seconds: spent on simulating so far.

    Raises:
        DataError: when the data in `data.root` say that they were simulated with another microscope.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        frames = min(max(_MOVIE_FRAMES, config.data.window_frames), config.simulation.num_frames)
        self._simulation = config.simulation.model_copy(update={"num_frames": frames})
        self._data, self._seed, self._device = config.data, config.seed, device
        root = config.data.root
        _refuse_other_microscope(config)
        self._psf = psf_of_data(root, self._simulation)
        if hasattr(self._psf, "to"):
            self._psf.to(device)
        described = (root / FIELD_MAP_FILE).is_file()
        self._field_map = read_field_map(root / FIELD_MAP_FILE) if described else field_map_of(config)
        self._windows = (frames - config.data.consecutive_frames + 1) // config.data.targets_per_window
        self._blocks: dict[int, list[Cut]] = {}
        self.seconds = 0.0

    @property
    def windows_per_block(self) -> int:
        """Windows that a block gives, each as often as it is used."""
        return _MOVIES * self._windows * self._data.fresh_reuse

    @property
    def frames_per_window(self) -> float:
        """Simulated frames for each window that is trained on."""
        return _MOVIES * self._simulation.num_frames / self.windows_per_block

    def cuts(self, first: int, last: int) -> list[Cut]:
        """Windows first, ..., last - 1 of the sequence."""
        found = []
        for position in range(first, last):
            block, place = divmod(position, self.windows_per_block)
            if block not in self._blocks:
                self._make_block(block)
            found.append(self._blocks[block][place])
        return found

    def _make_block(self, block: int) -> None:
        begin = time.perf_counter()
        rng = numpy_stream(self._seed, Stream.FRESH, step=block)
        seed = int(rng.integers(2**32))  # so that movies differ from those of the sample folders
        with torch.inference_mode():
            movies = [self._simulate(seed, index) for index in range(_MOVIES)]
        samples = [sample_of(movie, f"fresh {block}.{i}", self._simulation.camera) for i, movie in enumerate(movies)]
        while len(self._blocks) >= _BLOCKS_KEPT:
            # Of what is kept, the block that is farthest from the new one will not be asked for soon.
            del self._blocks[max(self._blocks, key=lambda other: abs(other - block))]
        self._blocks[block] = self._order(samples, rng)
        self.seconds += time.perf_counter() - begin

    def _simulate(self, seed: int, index: int) -> SimulatedSample:
        simulation, field_map = self._simulation, self._field_map
        if self._data.randomization.is_on:
            rng = numpy_stream(seed, Stream.RANDOMIZATION, index=index)
            simulation, field_map = random_microscope(simulation, field_map, self._data.randomization, rng)
        return simulate_sample(simulation, self._psf, field_map, seed=seed, index=index, device=self._device)

    def _order(self, samples: Sequence[Sample], rng: np.random.Generator) -> list[Cut]:
        num = len(samples) * self._windows
        order: IntArray = np.concatenate([rng.permutation(num) for _ in range(self._data.fresh_reuse)])
        place = rng.random((len(order), 2))
        turned = rng.random((len(order), 3)) < 0.5
        turned &= np.array([self._data.augment_mirror, self._data.augment_mirror, self._data.augment_time_reversal])
        turns = draw_quarter_turns(self._data, len(order), rng)
        free = self._simulation.image_size_px - self._data.image_size + 1
        corner = (place * free).astype(int)
        targets = self._data.targets_per_window
        cuts = []
        for i, (top, left), flips, quarter in zip(order, corner, turned, turns, strict=True):
            movie, window = divmod(int(i), self._windows)
            mirror_x, mirror_y, reverse = (bool(flip) for flip in flips)
            where = window * targets, int(top), int(left)
            cuts.append(Cut(samples[movie], *where, mirror_x, mirror_y, reverse, int(quarter)))
        return cuts


class MixedWindows(TrainingWindows):
    """Windows of sample folders of which a share, `data.fresh_share`, is replaced by fresh ones.

    The number of windows in an epoch stays that of the sample folders, so that epochs can be compared.
    """

    def __init__(self, samples: Sequence[Sample], config: Config, fresh: FreshWindows) -> None:
        super().__init__(samples, config)
        self.fresh = fresh
        self._share = config.data.fresh_share
        self.num_different = 2**62  # without an end

    def cuts(self, step: int) -> list[Cut]:
        """The windows of a step; the fresh ones come last."""
        cuts = super().cuts(step)
        first, last = self._fresh_of(step, len(cuts))
        return cuts[: len(cuts) - (last - first)] + self.fresh.cuts(first, last)

    def num_recorded(self, step: int, num: int) -> int:
        """How many of the `num` windows of a step are from the sample folders."""
        first, last = self._fresh_of(step, num)
        return num - (last - first)

    def _fresh_of(self, step: int, num: int) -> tuple[int, int]:
        before, _ = self._numbers(step)
        return fresh_positions(self._share, before, before + num)


def fresh_positions(share: float, first: int, last: int) -> tuple[int, int]:
    """Which fresh windows, from and to, are among windows first, ..., last - 1 of a run: the share holds at any length.

    >>> fresh_positions(0.25, 0, 16), fresh_positions(0.25, 16, 18), fresh_positions(0.25, 18, 20)
    ((0, 4), (4, 4), (4, 5))
    """
    return math.floor(share * first + 1e-9), math.floor(share * last + 1e-9)


def make_windows(samples: Sequence[Sample], config: Config, device: torch.device) -> TrainingWindows:
    """The training windows that a config asks for."""
    if config.data.fresh_share == 0:
        return TrainingWindows(samples, config)
    return MixedWindows(samples, config, FreshWindows(config, device))


def sample_of(movie: SimulatedSample, name: str, camera: CameraConfig) -> Sample:
    """A simulated movie as if it had been written into a sample folder and read again."""
    frames, maps = movie.frames_THW, maps_of(camera)
    truth = movie.emitters, movie.background_T, movie.background_shape
    if maps is None or movie.camera_origin_px is None:
        return make_sample(name, frames, *truth)
    maps = maps.cut(movie.camera_origin_px, frames.shape[1:])
    return make_sample(name, maps.to_uniform(frames, camera), *truth, maps.read_noise_e)


def _refuse_other_microscope(config: Config) -> None:
    description = read_description(config.data.root)
    if description is None:
        return
    there, here = description["simulation"], config.simulation.model_dump(mode="json")
    parts = ("optics", "psf", "emitters", "background", "camera")
    if differing := [part for part in parts if part in there and not _agree(there[part], here[part])]:
        raise DataError(
            f"{config.data.root} was simulated with other {', '.join(differing)} than the config's simulation, which "
            "fresh windows are made with. Make them agree, or set data.fresh_share to 0."
        )


def _agree(there: dict[str, object], here: dict[str, object]) -> bool:
    """Whether all keys that the older description has say the same."""
    return all(here.get(key) == value for key, value in there.items())
