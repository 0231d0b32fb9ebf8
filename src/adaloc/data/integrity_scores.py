"""How well emitters and frames belong together: scores of an alignment, and what chance gives.

The frames are filtered so that a spot stands out of any background and any camera; an emitter list becomes a map of
weights per frame. The score of frame t under an alignment is the weighted sum of the filtered frame at the emitters'
pixels. Chance is the same list laid over the frames of other samples, in their order, so that emitters that live for
many frames, or structure that all samples share, do not pass for a match.

Axes: N chosen frames, h rows and w columns of the common crop, A alignments, R pairings with other frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from adaloc.config import CameraConfig
from adaloc.data.windows import Sample
from adaloc.emitters import EmitterTable, FloatArray, IntArray

FloatMaps = npt.NDArray[np.float32]
Coordinates = tuple[FloatArray, FloatArray]

_MAX_PIXELS = 1_600_000  # of all chosen frames: some 1000 frames of 40 x 40 px hold 11,000 emitters; about 2 s
_MAX_FRAMES = 1000
_FRAMES_OF_A_SAMPLE = 3  # at least; of very many samples only some are looked at
_MAX_SIDE_PX = 96  # more of a large field says nothing new
_SPOT_SIGMA_PX = 1.2  # of the matched filter: a diffraction-limited spot at 100 nm px
_BACKGROUND_SIGMA_PX = 4.0  # what is smoother than this is background
_EXPECTED_SIGMA_PX = 2.0  # wider than the focused spot: power is to be claimed cautiously for 3D PSFs
_MAX_PAIRINGS = 48


@dataclass(frozen=True)
class Alignment:
    """A way in which coordinates might have been meant.

    Attributes:
        name: for messages.
        cause: what is wrong when this alignment fits; empty for the one that is right.
        move: (x, y, width, height) to (x, y), all in px.
        frame_shift: the emitters of frame t - frame_shift are laid over frame t.
    """

    name: str
    cause: str
    move: Callable[[FloatArray, FloatArray, int, int], Coordinates]
    frame_shift: int = 0


@dataclass(frozen=True)
class Chosen:
    """Frames that stand for the data.

    Attributes:
        samples: all samples.
        sample_N: index of each chosen frame's sample.
        frame_N: its number in that sample.
        crop_hw: rows and columns of the common centre of all samples.
    """

    samples: Sequence[Sample]
    sample_N: IntArray
    frame_N: IntArray
    crop_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.frame_N)


def choose_frames(samples: Sequence[Sample]) -> Chosen:
    """Spreads the frames that are looked at evenly over all samples; the same ones every time."""
    samples = samples[:: -(-len(samples) * _FRAMES_OF_A_SAMPLE // _MAX_FRAMES)]
    height = min(_MAX_SIDE_PX, *(s.frames_THW.shape[1] for s in samples))
    width = min(_MAX_SIDE_PX, *(s.frames_THW.shape[2] for s in samples))
    total = sum(len(s.frames_THW) for s in samples)
    share = min(1.0, _MAX_FRAMES / total, _MAX_PIXELS / (total * height * width))
    sample_parts, frame_parts = [], []
    for index, sample in enumerate(samples):
        length = len(sample.frames_THW)
        count = max(round(share * length), min(length, _FRAMES_OF_A_SAMPLE))
        frames = np.unique(((np.arange(count) + 0.5) / count * length).astype(np.int64))
        sample_parts.append(np.full(len(frames), index))
        frame_parts.append(frames)
    return Chosen(samples, np.concatenate(sample_parts), np.concatenate(frame_parts), (height, width))


def filtered_frames(chosen: Chosen) -> FloatMaps:
    """(N, h, w) chosen frames, filtered."""
    height, width = chosen.crop_hw
    raw = np.zeros((len(chosen), height, width), np.float32)
    for row, (index, frame) in enumerate(zip(chosen.sample_N, chosen.frame_N, strict=True)):
        frames_THW = chosen.samples[index].frames_THW
        top, left = _corner(frames_THW.shape, chosen.crop_hw)
        raw[row] = frames_THW[frame, top : top + height, left : left + width]
    return spot_filter(raw)


def source_frames(chosen: Chosen, frame_shift: int) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """(N,) frame whose emitters are laid over each chosen frame, and (N,) whether the movie has it."""
    source = chosen.frame_N - frame_shift
    length = np.array([len(sample.frames_THW) for sample in chosen.samples])[chosen.sample_N]
    return source, (source >= 0) & (source < length)


def spot_filter(frames_NHW: FloatMaps) -> FloatMaps:
    """Spots in units of each frame's own noise, without background.

    Brightness is compressed (arcsinh of the deviation from the median in robust standard deviations), so that neither
    the camera's units nor a few very bright spots decide. Frames without any contrast become 0.
    """
    flat = frames_NHW.reshape(len(frames_NHW), -1)
    median = np.median(flat, axis=1)[:, None, None]
    spread = np.median(np.abs(frames_NHW - median).reshape(len(flat), -1), axis=1) * 1.4826
    spread = np.where(spread > 0, spread, flat.std(axis=1))[:, None, None]
    compressed = np.arcsinh((frames_NHW - median) / np.where(spread > 0, spread, 1))
    return linear_spot_filter(compressed)


def linear_spot_filter(images: npt.NDArray[np.floating]) -> FloatMaps:
    """(..., H, W) images, smoothed as a matched filter does, without what is smoother than a spot."""
    level = (0,) * (images.ndim - 2)
    spots = gaussian_filter(images, (*level, _SPOT_SIGMA_PX, _SPOT_SIGMA_PX))
    spots -= gaussian_filter(images, (*level, _BACKGROUND_SIGMA_PX, _BACKGROUND_SIGMA_PX))
    return np.asarray(spots, np.float32)


def weight_maps(chosen: Chosen, alignment: Alignment, photons: bool = False) -> FloatMaps:
    """Emitters of the chosen frames as maps of weights, split between the four nearest pixels.

    A frame whose shift leaves the movie has none.
    A weight is photons / (photons + median photons), so dim emitters count less and bright ones never more than 1,
    in any unit of photons. With `photons`, it is the photons themselves.

    Returns:
        (N, h, w).
    """
    height, width = chosen.crop_hw
    median = float(np.median(np.concatenate([s.emitters.photons for s in chosen.samples])))
    rows, xs, ys, weights = [], [], [], []
    source, exists = source_frames(chosen, alignment.frame_shift)
    for row in np.flatnonzero(exists):
        sample, frame = chosen.samples[chosen.sample_N[row]], source[row]
        table: EmitterTable = sample.emitters
        near = slice(int(sample.first_row_T[frame]), int(sample.first_row_T[frame + 1]))
        _, full_height, full_width = sample.frames_THW.shape
        top, left = _corner(sample.frames_THW.shape, chosen.crop_hw)
        x, y = alignment.move(table.x[near], table.y[near], full_width, full_height)
        value = table.photons[near]
        rows.append(np.full(len(x), row))
        xs.append(x - left)
        ys.append(y - top)
        weights.append(value if photons else value / np.maximum(value + median, 1e-30))
    if not rows:
        return np.zeros((len(chosen), height, width), np.float32)
    x, y, weight = (np.concatenate(part) for part in (xs, ys, weights))
    return _splat(len(chosen), height, width, np.concatenate(rows), x, y, weight)


def expected_frames(chosen: Chosen, photons_NHW: FloatMaps, camera: CameraConfig) -> FloatMaps:
    """Filtered frames as they would be if they showed these emitters: Gaussian spots, shot and read noise.

    Args:
        chosen: the frames.
        photons_NHW: emitters as maps of photons.
        camera: its noise.
    """
    background_N = np.array(
        [c.samples[i].background_T[t] for c in (chosen,) for i, t in zip(c.sample_N, c.frame_N, strict=True)]
    )
    background_N = np.where(np.isfinite(background_N), np.maximum(background_N, 0), 0)
    expected = gaussian_filter(photons_NHW, (0, _EXPECTED_SIGMA_PX, _EXPECTED_SIGMA_PX), mode="constant")
    electrons = (expected + background_N[:, None, None]) * camera.quantum_efficiency + camera.spurious_charge_e
    excess = 2.0 if camera.em_gain > 1 else 1.0  # multiplication doubles the variance of shot noise (Hirsch 2013)
    read_noise_e = camera.read_noise_e / camera.em_gain
    noise = np.sqrt(electrons * excess + read_noise_e**2)
    rng = np.random.default_rng(0)  # a stand-in for any noise; not part of a run's streams
    return spot_filter(np.asarray(electrons + noise * rng.standard_normal(noise.shape), np.float32))


@dataclass(frozen=True)
class Chance:
    """Scores of every emitter list over frames that are not its own.

    Attributes:
        gram_NN: score of the list of row i over the frame of row j.
        pairings_R: distances between row and frame.
    """

    gram_NN: FloatArray
    pairings_R: IntArray

    def totals(self, rows: IntArray) -> FloatArray:
        """(R,) summed scores of the rows, one for each pairing."""
        count = len(self.gram_NN)
        return np.asarray(self.gram_NN[rows[:, None], (rows[:, None] + self.pairings_R) % count].sum(axis=0))

    def mean_per_row(self) -> FloatArray:
        """(N,) mean score of each row over the pairings."""
        rows = np.arange(len(self.gram_NN))
        return np.asarray(self.gram_NN[rows[:, None], (rows[:, None] + self.pairings_R) % len(rows)].mean(axis=1))


def chance_scores(weights_NHW: FloatMaps, spots_NHW: FloatMaps, sample_N: IntArray) -> Chance:
    """Lays every list over other frames: all at once by one matrix product."""
    count = len(weights_NHW)
    gram = weights_NHW.reshape(count, -1) @ spots_NHW.reshape(count, -1).T
    longest = int(np.bincount(sample_N).max())
    # Whole samples away where there are enough of them, else any other frame.
    first, last = (longest, count - longest) if count - 2 * longest >= 15 else (1, count - 1)
    pairings = np.unique(np.linspace(first, last, _MAX_PAIRINGS).astype(np.int64))
    return Chance(gram.astype(np.float64), pairings)


def z_score(own: float, chance_R: FloatArray) -> float:
    """How far a score stands above chance, in standard deviations of chance; 0 when chance never varies."""
    spread = float(chance_R.std(ddof=1)) if len(chance_R) > 1 else 0.0
    return (own - float(chance_R.mean())) / spread if spread > 0 else 0.0


def correlation_maps(
    weights_NHW: FloatMaps, spots_NHW: FloatMaps, groups_N: IntArray, reach_px: int
) -> tuple[FloatArray, FloatArray]:
    """Mean filtered light around the emitters, by displacement.

    Args:
        weights_NHW, spots_NHW: from `weight_maps` and `filtered_frames`.
        groups_N: group of each frame, 0 to G - 1.
        reach_px: largest displacement.

    Returns:
        (G, 2 reach + 1, 2 reach + 1) sums of weight times light, rows down and columns right; and the same for
        weights laid over frames of other groups, scaled to the same number of frames: what chance gives.
    """
    _, height, width = weights_NHW.shape
    shape = (height + reach_px, width + reach_px)
    num_groups = int(groups_N.max()) + 1
    own, chance = [], []
    spots = np.fft.rfft2(spots_NHW, s=shape)
    weights = np.conj(np.fft.rfft2(weights_NHW, s=shape))
    by_group = [np.flatnonzero(groups_N == g) for g in range(num_groups)]
    all_spots = spots.sum(axis=0)
    take = np.arange(-reach_px, reach_px + 1)
    # Less of the field overlaps at larger displacements; without this the border would pull the peak inwards.
    overlap = np.outer(1 - np.abs(take) / height, 1 - np.abs(take) / width)

    def cut(spectrum: npt.NDArray[np.complex128]) -> FloatArray:
        plane = np.fft.irfft2(spectrum, s=shape)
        return np.asarray(plane[np.ix_(take % shape[0], take % shape[1])] / overlap)

    for rows in by_group:
        own.append(cut((weights[rows] * spots[rows]).sum(axis=0)))
        # The sum over all pairs of a row of this group and a frame of another.
        others = (all_spots - spots[rows].sum(axis=0)) / (len(spots) - len(rows))
        chance.append(cut(weights[rows].sum(axis=0) * others))
    return np.stack(own), np.stack(chance)


def _corner(shape_THW: tuple[int, ...], crop_hw: tuple[int, int]) -> tuple[int, int]:
    return (shape_THW[1] - crop_hw[0]) // 2, (shape_THW[2] - crop_hw[1]) // 2


def _splat(
    count: int, height: int, width: int, row: IntArray, x: FloatArray, y: FloatArray, weight: FloatArray
) -> FloatMaps:
    maps = np.zeros(count * height * width)
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    row, x, y, weight = row[inside], np.clip(x[inside], 0, width - 1), np.clip(y[inside], 0, height - 1), weight[inside]
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    for down in (0, 1):
        for right in (0, 1):
            share = (y - top if down else 1 - y + top) * (x - left if right else 1 - x + left)
            column, line = np.minimum(left + right, width - 1), np.minimum(top + down, height - 1)
            maps += np.bincount((row * height + line) * width + column, weight * share, minlength=len(maps))
    return maps.reshape(count, height, width).astype(np.float32)
