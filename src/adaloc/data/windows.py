"""Windows of consecutive frames with their emitters, as batches.

A batch is B runs of T frames; the first and the last frame of a run are context only, so it has T - 2 targets
(T with one frame per prediction). Everything is a function of (seed, epoch, step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adaloc.config import CameraConfig, Config, DataConfig
from adaloc.data.batch import Batch as Batch
from adaloc.data.sample_folder import (
    find_movie,
    list_samples,
    read_background,
    read_background_shape,
    read_emitters,
    read_maps_of_sample,
    read_movie,
)
from adaloc.data.scaling import Scaling, measure_scaling, stabilize
from adaloc.data.targets import EmitterRows, choose_targets
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.errors import DataError
from adaloc.random_streams import Stream, numpy_stream
from adaloc.simulation.background import BackgroundShape
from adaloc.simulation.camera import to_photons

_FREE_DISTANCE_PX = 8.0  # of a pixel to the next emitter, where only background is left
_MIN_FREE_PIXELS = 500
_EMITTERS_AT_ONCE = 4096  # of 289 px each: some 50 MB
_STRUCTURE_SAMPLES_PX = 16  # pixels along each side whose background is looked at for the scales; it is smooth


@dataclass(frozen=True)
class Sample:
    """One movie in memory.

    Attributes:
        name: folder name.
        frames_THW: ADU. Of a camera with maps: as the config's uniform camera would have given them, float32.
        emitters: sorted by frame.
        first_row_T: row of `emitters` at which each frame begins; T + 1 entries.
        background_T: photons per px, mean over the field; NaN where it is not known.
        background_shape: how it is spread over the field; None when it is uniform.
        read_noise_e_HW: of each pixel, of a camera with maps; else None.
    """

    name: str
    frames_THW: npt.NDArray[Any]
    emitters: EmitterTable
    first_row_T: IntArray
    background_T: FloatArray
    background_shape: BackgroundShape | None = None
    read_noise_e_HW: FloatArray | None = None


@dataclass(frozen=True)
class Cut:
    """A run of frames to cut out of a sample, and how to turn it.

    Attributes:
        sample: where from.
        first_frame, top, left: of the run, in frames and px.
        mirror_x, mirror_y: left becomes right, top becomes bottom.
        reverse_time: the last frame comes first.
        quarter_turns: after that, by so many times 90 degrees, which take the x axis to the y axis.
    """

    sample: Sample
    first_frame: int
    top: int
    left: int
    mirror_x: bool = False
    mirror_y: bool = False
    reverse_time: bool = False
    quarter_turns: int = 0


def load_samples(folders: Sequence[Path], camera: CameraConfig) -> list[Sample]:
    """Reads sample folders into memory.

    Raises:
        DataError: naming the folder and what is wrong with it.
    """
    return [load_sample(folder, camera) for folder in folders]


def load_sample(folder: Path, camera: CameraConfig) -> Sample:
    """Reads one sample folder; estimates the background where the folder does not hold it.

    Raises:
        DataError: when movie and truth, or the movie and the camera's maps, cannot belong together.
    """
    raw = read_movie(find_movie(folder))
    maps = read_maps_of_sample(folder, raw.shape[1:], camera)
    frames = raw if maps is None else maps.to_uniform(raw, camera)
    emitters = read_emitters(folder)
    num_frames, height, width = frames.shape
    if len(emitters) == 0:
        raise DataError(f"The sample {folder} is empty: its emitters.h5 has no records. Delete the folder.")
    if emitters.frame[-1] >= num_frames:
        raise DataError(
            f"The sample {folder} disagrees with itself: its movie has {num_frames} frames, its emitters go up to "
            f"frame {emitters.frame[-1]} (counted from 0)."
        )
    outside = (emitters.x < -1) | (emitters.x > width) | (emitters.y < -1) | (emitters.y > height)
    if outside.mean() > 0.5:
        raise DataError(
            f"The sample {folder} disagrees with itself: most emitters lie outside of the {width} x {height} px field. "
            "records/xyz must be x, y in px from the corner of the field."
        )
    background = read_background(folder)
    if background is None:
        background = np.full(num_frames, estimate_background(frames, emitters, camera))
    elif background.shape != (num_frames,):
        raise DataError(f"The sample {folder}: background/photons has {len(background)} rows for {num_frames} frames.")
    shape = read_background_shape(folder)
    if shape is not None and (shape.pattern_PHW.shape[1:] != (height, width) or len(shape.pattern_T) != num_frames):
        raise DataError(
            f"The sample {folder} disagrees with itself: background/pattern is for {len(shape.pattern_T)} frames of "
            f"{shape.pattern_PHW.shape[1]} x {shape.pattern_PHW.shape[2]} px, the movie has {num_frames} of {height} x "
            f"{width}."
        )
    return make_sample(folder.name, frames, emitters, background, shape, None if maps is None else maps.read_noise_e)


def make_sample(
    name: str,
    frames_THW: npt.NDArray[Any],
    emitters: EmitterTable,
    background_T: FloatArray,
    background_shape: BackgroundShape | None = None,
    read_noise_e_HW: FloatArray | None = None,
) -> Sample:
    """A sample from its parts, see `Sample`; `emitters` must be sorted by frame."""
    first_row = np.searchsorted(emitters.frame, np.arange(len(frames_THW) + 1))
    return Sample(name, frames_THW, emitters, first_row, background_T, background_shape, read_noise_e_HW)


def estimate_background(frames_THW: npt.NDArray[Any], emitters: EmitterTable, camera: CameraConfig) -> float:
    """Mean photons per px of the pixels far from all emitters; NaN when a crowded sample has too few of them."""
    num_frames, height, width = frames_THW.shape
    total, count = 0.0, 0
    first_row = np.searchsorted(emitters.frame, np.arange(num_frames + 1))
    for frame in range(num_frames):
        rows = slice(first_row[frame], first_row[frame + 1])
        free = ~_pixels_near(emitters.x[rows], emitters.y[rows], (height, width))
        total += float(frames_THW[frame][free].astype(np.float64).sum())
        count += int(free.sum())
    if count < _MIN_FREE_PIXELS:
        return float("nan")
    return float(to_photons(torch.tensor(total / count), camera))


def _pixels_near(x_N: FloatArray, y_N: FloatArray, size_px: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(H, W) whether an emitter is within `_FREE_DISTANCE_PX`; each looks at the pixels around it and no others."""
    height, width = size_px
    near, reach = np.zeros(size_px, dtype=bool), int(_FREE_DISTANCE_PX + 0.5)
    step = np.arange(-reach, reach + 1)
    for begin in range(0, len(x_N), _EMITTERS_AT_ONCE):
        x, y = (v[begin : begin + _EMITTERS_AT_ONCE, None, None] for v in (x_N, y_N))
        row, column = np.broadcast_arrays(np.rint(y) + step[:, None], np.rint(x) + step)
        chosen = np.hypot(column - x, row - y) <= _FREE_DISTANCE_PX
        chosen &= (row >= 0) & (row < height) & (column >= 0) & (column < width)
        near[row[chosen].astype(np.int64), column[chosen].astype(np.int64)] = True
    return near


def split_samples(data: DataConfig) -> tuple[list[Path], list[Path]]:
    """Folders for training and for validation. The split does not depend on the seed, so runs can be compared.

    Raises:
        DataError: when there are too few samples, or `sample_subset` names one that does not exist.
    """
    folders = list_samples(data.root)
    if isinstance(data.sample_subset, int):
        folders = folders[: data.sample_subset]
    elif data.sample_subset is not None:
        unknown = sorted(set(data.sample_subset) - {folder.name for folder in folders})
        if unknown:
            raise DataError(f"data.sample_subset names samples that {data.root} does not hold: {', '.join(unknown)}.")
        folders = [folder for folder in folders if folder.name in data.sample_subset]
    if len(folders) < 2:
        raise DataError(
            f"{data.root} holds {len(folders)} samples; training needs at least 2, one of them to validate with. "
            "Simulate some with: adaloc simulate --config CONFIG --out " + str(data.root)
        )
    num_train = min(max(round(len(folders) * data.train_val_split), 1), len(folders) - 1)
    order = numpy_stream(0, Stream.SPLIT).permutation(len(folders))
    chosen = sorted(order[:num_train])
    return [folders[i] for i in chosen], [folders[i] for i in sorted(order[num_train:])]


def check_sizes(samples: Sequence[Sample], data: DataConfig) -> None:
    """Refuses samples that are too small or too short for the config.

    Raises:
        DataError: naming the sample.
    """
    for sample in samples:
        num_frames, height, width = sample.frames_THW.shape
        if min(height, width) < data.image_size:
            raise DataError(
                f"The sample {sample.name} is {height} x {width} px, smaller than data.image_size {data.image_size}."
            )
        if num_frames < data.window_frames:
            raise DataError(
                f"The sample {sample.name} has {num_frames} frames, fewer than the {data.window_frames} of a training "
                "window (data.consecutive_frames, data.targets_per_window)."
            )


def validation_batches(samples: Sequence[Sample], data: DataConfig) -> list[Batch]:
    """The fixed windows of validation, `batch_size` at once."""
    cuts, length = validation_cuts(samples, data), data.consecutive_frames
    return [
        make_batch(cuts[i : i + data.batch_size], length, data.image_size, length)
        for i in range(0, len(cuts), data.batch_size)
    ]


def validation_cuts(samples: Sequence[Sample], data: DataConfig) -> list[Cut]:
    """Where these windows are: spread evenly over each movie, in its middle.

    Windows next to each other would show the same emitters again and say little more than one of them.
    """
    size, length, count = data.image_size, data.consecutive_frames, data.validation_windows_per_sample
    cuts = []
    for sample in samples:
        num_frames, height, width = sample.frames_THW.shape
        top, left = (height - size) // 2, (width - size) // 2
        cuts += [Cut(sample, int((i + 0.5) / count * (num_frames - length + 1)), top, left) for i in range(count)]
    return cuts


def make_batch(cuts: Sequence[Cut], num_frames: int, size_px: int, consecutive_frames: int) -> Batch:
    """Cuts runs of `num_frames` frames of `size_px` squared, and gathers the emitters of their targets."""
    margin = consecutive_frames // 2
    num_targets = num_frames - 2 * margin
    is_structured = any(cut.sample.background_shape is not None for cut in cuts)
    frames, window, x, y, z, photons, background = [], [], [], [], [], [], []
    for index, cut in enumerate(cuts):
        sample, start = cut.sample, cut.first_frame
        rows, columns = slice(cut.top, cut.top + size_px), slice(cut.left, cut.left + size_px)
        turns = cut.quarter_turns
        t, v, u = (slice(None, None, -1 if turn else 1) for turn in (cut.reverse_time, cut.mirror_y, cut.mirror_x))
        adu = np.rot90(sample.frames_THW[start : start + num_frames, rows, columns][t, v, u], turns, axes=(2, 1))
        frames.append(torch.from_numpy(adu.astype(np.float32)))
        first, last = start + margin, start + margin + num_targets
        of_targets = slice(int(sample.first_row_T[first]), int(sample.first_row_T[last]))
        emitters = sample.emitters
        target = emitters.frame[of_targets] - first
        window.append(index * num_targets + (num_targets - 1 - target if cut.reverse_time else target))
        across, down = emitters.x[of_targets] - cut.left, emitters.y[of_targets] - cut.top
        across = size_px - 1 - across if cut.mirror_x else across
        down = size_px - 1 - down if cut.mirror_y else down
        for _ in range(turns):
            across, down = size_px - 1 - down, across
        x.append(across)
        y.append(down)
        z.append(emitters.z[of_targets])
        photons.append(emitters.photons[of_targets])
        background.append(sample.background_T[first:last][t])
        if is_structured:
            pattern = _structured(sample, slice(first, last), rows, columns)[t, v, u]
            background[-1] = np.rot90(pattern, turns, axes=(2, 1))

    def tensor(parts: list[Any]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.float32))

    emitter_rows = EmitterRows(
        torch.from_numpy(np.concatenate(window)), tensor(x), tensor(y), tensor(z), tensor(photons)
    )
    return Batch(torch.stack(frames), emitter_rows, tensor(background))


def _structured(sample: Sample, frames: slice, rows: slice, columns: slice) -> npt.NDArray[Any]:
    """(T', H, W) background in some frames and pixels, also of a sample with a uniform one."""
    if sample.background_shape is None:
        uniform = np.ones(sample.frames_THW[frames, rows, columns].shape)
        return np.asarray(sample.background_T[frames][:, None, None] * uniform)
    return sample.background_shape.photons(sample.background_T, frames)[:, rows, columns]


def _background_column(sample: Sample, is_structured: bool) -> FloatArray:
    """Every frame's background, where it is known; where any sample is structured, at some pixels of each frame."""
    known = np.isfinite(sample.background_T)
    if not is_structured:
        return sample.background_T[known]
    rows, columns = (
        np.linspace(0, extent - 1, _STRUCTURE_SAMPLES_PX).round().astype(int) for extent in sample.frames_THW.shape[1:]
    )
    values = _structured(sample, slice(None), slice(None), slice(None))[:, rows[:, None], columns]
    return np.asarray(values[known].ravel(), dtype=np.float64)


def measure_training_scaling(samples: Sequence[Sample], config: Config) -> Scaling:
    """Scales of input and targets over all frames of the training samples."""
    columns: list[list[FloatArray]] = [[], [], [], [], []]
    num_pixels, pixel_sum, pixel_square = 0, 0.0, 0.0
    is_structured = any(sample.background_shape is not None for sample in samples)
    for sample in samples:
        photons = to_photons(torch.from_numpy(sample.frames_THW.astype(np.float32)), config.simulation.camera)
        stabilized = stabilize(photons).double()
        pixel_sum += float(stabilized.sum())
        pixel_square += float(stabilized.square().sum())
        num_pixels += stabilized.numel()
        table = sample.emitters
        rows = EmitterRows(
            torch.from_numpy(table.frame), *(torch.from_numpy(c) for c in (table.x, table.y, table.z, table.photons))
        )
        chosen, _ = choose_targets(rows, sample.frames_THW.shape[1:], config.data.min_photons)
        for column, values in zip(
            columns, (chosen.x - chosen.x.round(), chosen.y - chosen.y.round(), chosen.z, chosen.photons), strict=False
        ):
            column.append(values.numpy())
        columns[4].append(_background_column(sample, is_structured))
    mean = pixel_sum / num_pixels
    if not any(len(part) for part in columns[0]):
        raise DataError(
            f"No emitter of the training data has {config.data.min_photons:g} photons in a frame: there is nothing to "
            "learn. Lower data.min_photons, or check simulation.camera and the photons in emitters.h5."
        )
    return measure_scaling(
        input_mean=mean,
        input_std=float(np.sqrt(max(pixel_square / num_pixels - mean**2, 0.0))),
        num_pixels=num_pixels,
        columns=tuple(np.concatenate(parts) for parts in columns),
    )
