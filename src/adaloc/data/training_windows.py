"""Which windows a training sees: item `step` is the batch of that step, a function of the seed and the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaloc.config import Config, DataConfig
from adaloc.data.batch import Batch
from adaloc.data.randomization import randomized
from adaloc.data.windows import Cut, Sample, make_batch
from adaloc.emitters import FloatArray, IntArray
from adaloc.random_streams import Stream, numpy_stream


class TrainingWindows:
    """The batches of a run: item `step` is the batch of that step, counted from the start of the run.

    An epoch has a target frame for each sample. With one target a window, every sample gives one window at a random
    start frame and a random place; with n targets, every sample gives one in n epochs. `num_different` is how many
    different windows there are, mirror images not counted.
    """

    def __init__(self, samples: Sequence[Sample], config: Config) -> None:
        self._samples = samples
        self._data, self._camera = config.data, config.simulation.camera
        self._seed = config.seed
        self._per_epoch = -(-len(samples) // config.data.targets_per_window)
        self.steps_per_epoch = -(-self._per_epoch // config.data.windows_per_batch)
        size, length = config.data.image_size, config.data.window_frames
        extents = [np.array(sample.frames_THW.shape) - (length, size, size) + 1 for sample in samples]
        self.num_different = int(sum(extent.prod() for extent in extents))

    def __len__(self) -> int:
        """Windows in an epoch."""
        return self._per_epoch

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        data, ranges = self._data, self._data.randomization
        cuts = self.cuts(step)
        batch = make_batch(cuts, data.window_frames, data.image_size, data.consecutive_frames)
        if not ranges.changes_recorded:
            return batch
        rng = numpy_stream(self._seed, Stream.RANDOMIZATION, step=step)
        return randomized(batch, self.num_recorded(step, len(cuts)), ranges, self._camera, rng)

    def num_recorded(self, step: int, num: int) -> int:
        """How many of the `num` windows of a step are from the sample folders; they come first."""
        return num

    def cuts(self, step: int) -> list[Cut]:
        """The windows of a step."""
        first, last = self._numbers(step)
        turns: dict[int, _Turn] = {}
        found = []
        for number in range(first, last):
            turn, place = divmod(number, len(self._samples))
            if turn not in turns:
                turns[turn] = self._turn(turn)
            found.append(turns[turn].cut(self._samples, place, self._data))
        return found

    def _numbers(self, step: int) -> tuple[int, int]:
        """Which windows of the run, from and to, are those of a step."""
        epoch, part = divmod(step, self.steps_per_epoch)
        first = part * self._data.windows_per_batch
        last = min(first + self._data.windows_per_batch, len(self))
        return epoch * len(self) + first, epoch * len(self) + last

    def _turn(self, turn: int) -> _Turn:
        num, data = len(self._samples), self._data
        rng = numpy_stream(self._seed, Stream.WINDOWS, step=turn)
        order, place = rng.permutation(num), rng.random((num, 3))
        # Drawn last, so that switching one on does not move the windows.
        flips = rng.random((num, 3)) < 0.5
        flips &= np.array([data.augment_mirror, data.augment_mirror, data.augment_time_reversal])
        return _Turn(order, place, flips, draw_quarter_turns(data, num, rng))


@dataclass(frozen=True)
class _Turn:
    """What was drawn for one window of every sample: their order; then for each sample, by its number, the rest."""

    order_S: IntArray
    place_S3: FloatArray
    flips_S3: npt.NDArray[np.bool_]
    quarters_S: IntArray

    def cut(self, samples: Sequence[Sample], place: int, data: DataConfig) -> Cut:
        """The window at a place in the order."""
        index = self.order_S[place]
        window = (data.window_frames, data.image_size, data.image_size)
        extents = np.array(samples[index].frames_THW.shape) - window
        start, top, left = (self.place_S3[index] * (extents + 1)).astype(int)
        mirror_x, mirror_y, reverse = (bool(flip) for flip in self.flips_S3[index])
        where = int(start), int(top), int(left)
        return Cut(samples[index], *where, mirror_x, mirror_y, reverse, int(self.quarters_S[index]))


def draw_quarter_turns(data: DataConfig, num: int, rng: np.random.Generator) -> IntArray:
    """(num,) how often each window is turned by 90 degrees: 0 to 3, or 0 where the config asks for no turns."""
    return rng.integers(0, 4, num) if data.augment_quarter_turns else np.zeros(num, dtype=np.int64)
