"""Drift of the stage during a movie, from the localizations themselves.

Redundant cross-correlation (Wang et al., Optics Express 22, 15982, 2014): the movie is cut into blocks of frames, each
block is drawn as an image, the shift between every two blocks is read from the peak of their cross-correlation, and
the blocks' positions that agree best with all the shifts are the drift. Axes: B blocks, F frames, P pairs of blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.errors import DataError
from adaloc.localize.frame_blocks import frame_blocks

MIN_PER_BLOCK = 50
_MAX_PIXELS = 2048  # on a side of a block's image; coarser pixels above
_NUM_PASSES = 2  # the second draws the blocks without their own drift: sharper peaks
_OUTLIER = 4.0  # pairs of blocks whose shift is off by so many robust standard deviations are left out
_HALVES_NM = 2000.0  # side of the tiles that make the two halves of the error
_TILE_NM = 200.0  # lateral tiles within which depths are compared
_Z_BIN_NM = 20.0


@dataclass(frozen=True)
class Drift:
    """Where the sample stood in each frame, relative to the mean over the frames.

    Attributes:
        shift_F3: x, y, z in nm; z is 0 where it was not asked for.
        block_frame_B: middle frame of each block.
        block_shift_B3: drift at those.
        error_nm_3: standard error of a block's drift in x, y, z, from two halves of the field that know nothing of each
            other; NaN for an axis that was not asked for. What happens within a block is not in it.
    """

    shift_F3: FloatArray
    block_frame_B: FloatArray
    block_shift_B3: FloatArray
    error_nm_3: FloatArray

    def __len__(self) -> int:
        return len(self.shift_F3)


def estimate_drift(
    table: EmitterTable,
    *,
    pixel_size_nm: PixelSize,
    num_frames: int,
    num_blocks: int = 10,
    render_pixel_nm: float = 20.0,
    max_shift_nm: float = 1000.0,
    use_z: bool = True,
) -> Drift:
    """Estimates the drift.

    Between the middles of the blocks a cubic spline is laid, and straight lines beyond the first and last.

    Args:
        table: localizations, any order.
        pixel_size_nm: camera pixel.
        num_frames: length of the movie; localizations in later frames are refused.
        num_blocks: blocks of equally many localizations. More follow faster drift and are noisier.
        render_pixel_nm: pixel of the blocks' images.
        max_shift_nm: largest drift between two blocks that is looked for.
        use_z: estimate z too.

    Raises:
        DataError: when there are too few localizations for the blocks, or no peak can be found.
    """
    if num_blocks < 2:
        raise DataError(f"Drift needs at least 2 blocks of frames, not {num_blocks}.")
    if len(table) < num_blocks * MIN_PER_BLOCK:
        raise DataError(
            f"{len(table)} localizations are too few for {num_blocks} blocks of frames: at least {MIN_PER_BLOCK} a "
            "block are needed. Ask for fewer blocks."
        )
    if table.frame.max() >= num_frames:
        raise DataError(f"There is a localization in frame {table.frame.max()}, and the movie has {num_frames}.")
    points = np.column_stack([table.x * pixel_size_nm.x, table.y * pixel_size_nm.y, table.z])
    block, middle = _blocks(table.frame, num_blocks)
    shift_F3, at_block = np.zeros((num_frames, 3)), np.zeros((len(middle), 3))
    look = _Look(render_pixel_nm, max_shift_nm, use_z)
    for _ in range(_NUM_PASSES):
        at_block = at_block + look.shifts(points - shift_F3[table.frame], block)
        shift_F3 = _interpolated(middle, at_block, num_frames)
    mean = shift_F3.mean(axis=0)
    error = _error(points - shift_F3[table.frame], block, look)
    return Drift(shift_F3 - mean, middle, at_block - mean, error)


def correct_drift(table: EmitterTable, drift: Drift, pixel_size_nm: PixelSize) -> EmitterTable:
    """The localizations where they would have been without drift.

    Raises:
        DataError: when a localization lies in a frame that the drift does not cover.
    """
    if len(table) and table.frame.max() >= len(drift):
        raise DataError(f"The drift covers {len(drift)} frames, and there is a localization in {table.frame.max()}.")
    x_nm, y_nm, z_nm = drift.shift_F3[table.frame].T
    return table.with_columns(x=table.x - x_nm / pixel_size_nm.x, y=table.y - y_nm / pixel_size_nm.y, z=table.z - z_nm)


def _blocks(frame: IntArray, num_blocks: int) -> tuple[IntArray, FloatArray]:
    """Block of each localization, and the mean frame of each block."""
    block = frame_blocks(frame, num_blocks)
    count = np.bincount(block)
    if len(count) < 2:
        raise DataError("All localizations lie in the same few frames: no drift can be estimated.")
    return block, np.bincount(block, frame) / count


@dataclass(frozen=True)
class _Look:
    """How shifts are looked for."""

    render_pixel_nm: float
    max_shift_nm: float
    use_z: bool

    def shifts(self, points_N3: FloatArray, block: IntArray) -> FloatArray:
        """(B, 3) shift of each block in nm, mean 0."""
        num = int(block.max()) + 1
        result = np.zeros((num, 3))
        result[:, :2] = _lateral(points_N3[:, :2], block, num, self.render_pixel_nm, self.max_shift_nm)
        if self.use_z:
            aligned = points_N3.copy()
            aligned[:, :2] -= result[block, :2]
            result[:, 2] = _axial(aligned, block, num, self.max_shift_nm)
        return result


def _error(points_N3: FloatArray, block: IntArray, look: _Look) -> FloatArray:
    """Half of how much two halves of the field disagree about the drift that is left.

    The halves are tiles as on a chessboard, so that all localizations of a molecule are in one.
    """
    tile = np.floor(points_N3[:, :2] / _HALVES_NM).astype(np.int64).sum(axis=1) % 2
    num = int(block.max()) + 1
    if any(np.bincount(block[tile == half], minlength=num).min() < 2 for half in (0, 1)):
        return np.full(3, np.nan)  # the sample lies in one half
    difference = look.shifts(points_N3[tile == 0], block[tile == 0]) - look.shifts(
        points_N3[tile == 1], block[tile == 1]
    )
    error = np.sqrt((difference**2).sum(axis=0) / (num - 1)) / 2
    return error if look.use_z else np.array([*error[:2], np.nan])


def _lateral(
    points_N2: FloatArray, block: IntArray, num_blocks: int, pixel_nm: float, max_shift_nm: float
) -> FloatArray:
    """(B, 2) shift of each block in x and y, nm."""
    low = points_N2.min(axis=0)
    extent = float((points_N2.max(axis=0) - low).max())
    pixel_nm = max(pixel_nm, (extent + max_shift_nm) / _MAX_PIXELS)
    # Room for the shift, so that what leaves on one side does not come back on the other.
    shape = [fft.next_fast_len(int((e + max_shift_nm) / pixel_nm) + 2, real=True) for e in np.ptp(points_N2, axis=0)]
    index = ((points_N2 - low) / pixel_nm).astype(np.int64)
    flat = index[:, 0] * shape[1] + index[:, 1]
    spectra = []
    for number in range(num_blocks):
        image = np.bincount(flat[block == number], minlength=shape[0] * shape[1]).reshape(shape).astype(np.float32)
        spectra.append(fft.rfft2(gaussian_filter(image, 1.0, mode="constant")))
    reach = max(2, min(int(max_shift_nm / pixel_nm), min(shape) // 2 - 1))
    shifts, pairs = [], list(itertools.combinations(range(num_blocks), 2))
    for first, second in pairs:
        correlation = fft.irfft2(spectra[second] * spectra[first].conj(), s=shape)
        shifts.append(np.array(_peak(_around_zero(correlation, (reach, reach)))) * pixel_nm)
    return _positions(pairs, np.array(shifts), num_blocks)


def _axial(points_N3: FloatArray, block: IntArray, num_blocks: int, max_shift_nm: float) -> FloatArray:
    """(B,) shift of each block in z, nm: depths are correlated within lateral tiles, and these are added."""
    tile = np.floor((points_N3[:, :2] - points_N3[:, :2].min(axis=0)) / _TILE_NM).astype(np.int64)
    tile = np.unique(tile[:, 0] * (int(tile[:, 1].max()) + 1) + tile[:, 1], return_inverse=True)[1]
    depth = points_N3[:, 2] - points_N3[:, 2].min()
    reach = max(2, min(int(max_shift_nm / _Z_BIN_NM), int(depth.max() / _Z_BIN_NM)))
    num_bins = fft.next_fast_len(int(depth.max() / _Z_BIN_NM) + reach + 2, real=True)
    num_tiles = int(tile.max()) + 1
    flat = tile * num_bins + (depth / _Z_BIN_NM).astype(np.int64)
    spectra = []
    for number in range(num_blocks):
        image = np.bincount(flat[block == number], minlength=num_tiles * num_bins).reshape(num_tiles, num_bins)
        smooth = gaussian_filter(image.astype(np.float32), (0.0, 1.0), mode="constant")
        spectra.append(fft.rfft(smooth, axis=1))
    correlations, pairs = [], list(itertools.combinations(range(num_blocks), 2))
    for first, second in pairs:
        product = (spectra[second] * spectra[first].conj()).sum(axis=0)
        correlations.append(_around_zero(fft.irfft(product, n=num_bins), (reach,)))
    shifts = np.array([_peak(c) for c in correlations]) * _Z_BIN_NM
    return _positions(pairs, shifts, num_blocks)[:, 0]


def _around_zero(correlation: npt.NDArray[np.float32], reach: Sequence[int]) -> FloatArray:
    """The part of a periodic correlation with shifts from -reach to +reach."""
    for axis, far in enumerate(reach):
        correlation = np.take(np.roll(correlation, far, axis), range(2 * far + 1), axis)
    return correlation.astype(np.float64)


def _peak(correlation: FloatArray) -> tuple[float, ...]:
    """Place of the maximum, relative to the middle, in bins: the centroid of what stands above half of the peak.

    A parabola through three points is biased towards whole bins; a centroid over the peak is not.
    """
    centre = np.array(np.unravel_index(int(correlation.argmax()), correlation.shape))
    size = np.array(correlation.shape)
    background = float(np.median(correlation))
    half = 1
    while half < 8:  # as wide as the peak is at half of its height
        ring = [
            correlation[tuple(np.clip(centre + half * direction, 0, size - 1))]
            for axis in range(correlation.ndim)
            for direction in (np.eye(correlation.ndim, dtype=int)[axis], -np.eye(correlation.ndim, dtype=int)[axis])
        ]
        if max(ring) - background < 0.5 * (correlation.max() - background):
            break
        half += 1
    # The window below ends long before the edge of this part.
    low, high = np.maximum(centre - 6 * half, 0), np.minimum(centre + 6 * half + 1, size)
    above = np.clip(correlation[tuple(slice(*edges) for edges in zip(low, high, strict=True))] - background, 0, None)
    offsets = np.meshgrid(*(np.arange(*edges) for edges in zip(low, high, strict=True)), indexing="ij", sparse=True)
    place = centre.astype(np.float64)
    for _ in range(20):
        # The window pulls the centroid back to where it stands: go on until both agree.
        distance_sq = sum(((o - p) / (1.5 * half)) ** 2 for o, p in zip(offsets, place, strict=True))
        weight = above * np.exp(-0.5 * distance_sq)
        moved = np.array([float((weight * o).sum()) for o in offsets]) / float(weight.sum())
        step, place = moved - place, moved
        if np.abs(step).max() < 1e-4:
            break
    return tuple(float(p) - (n - 1) / 2 for p, n in zip(place, size, strict=True))


def _positions(pairs: Sequence[tuple[int, int]], shifts_PD: FloatArray, num_blocks: int) -> FloatArray:
    """The blocks' positions with mean 0 that agree best with the shifts; pairs that disagree strongly are left out."""
    design = np.zeros((len(pairs), num_blocks))
    for row, (first, second) in enumerate(pairs):
        design[row, first], design[row, second] = -1, 1
    keep = np.ones(len(pairs), bool)
    while True:
        # The mean is free: the pseudo-inverse sets it to 0.
        positions = np.linalg.pinv(design[keep]) @ shifts_PD[keep]
        miss = np.abs(shifts_PD - design @ positions).max(axis=1)
        limit = max(_OUTLIER * 1.4826 * float(np.median(miss[keep])), 1.0)
        worst = int(np.argmax(np.where(keep, miss, -1)))
        if miss[worst] <= limit or keep.sum() <= max(num_blocks, len(pairs) // 2):
            break
        keep[worst] = False
    return np.asarray(positions)


def _interpolated(middle_B: FloatArray, shift_B3: FloatArray, num_frames: int) -> FloatArray:
    """(F, 3): a natural cubic spline through the blocks, straight on beyond the first and last."""
    frame = np.arange(num_frames, dtype=np.float64)
    if len(middle_B) == 2:
        slope = (shift_B3[1] - shift_B3[0]) / (middle_B[1] - middle_B[0])
        return np.asarray(shift_B3[0] + (frame[:, None] - middle_B[0]) * slope)
    spline = CubicSpline(middle_B, shift_B3, bc_type="natural")
    inside = np.clip(frame, middle_B[0], middle_B[-1])
    return np.asarray(spline(inside) + spline(inside, 1) * (frame - inside)[:, None])
