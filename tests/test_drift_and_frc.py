from __future__ import annotations

import math

import numpy as np
import pytest

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError
from adaloc.localize.drift import correct_drift, estimate_drift
from adaloc.localize.frame_blocks import frame_blocks
from adaloc.localize.frc import THRESHOLD, fourier_ring_correlation, ring_correlation
from adaloc.localize.plots import plot_drift, plot_ring_correlation, save_png

OBLONG = PixelSize(x=120, y=80)
NUM_FRAMES = 3000


def filaments(num: int, seed: int) -> FloatArray:
    """(num, 3) points in nm on 25 straight filaments in 8 x 8 um."""
    rng = np.random.default_rng(seed)
    start, angle, depth = rng.uniform(0, 8000, (25, 2)), rng.uniform(0, math.pi, 25), rng.uniform(-300, 300, 25)
    which, along = rng.integers(0, 25, num), rng.uniform(-4000, 4000, num)
    return np.column_stack(
        [
            start[which, 0] + along * np.cos(angle[which]),
            start[which, 1] + along * np.sin(angle[which]),
            depth[which] + 0.03 * along,
        ]
    )


def drifting(drift_F3: FloatArray, num: int, seed: int) -> EmitterTable:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, len(drift_F3), num)
    point = filaments(num, seed) + drift_F3[frame] + rng.normal(size=(num, 3)) * [12, 12, 30]
    return EmitterTable(frame, point[:, 0] / 120, point[:, 1] / 80, point[:, 2], np.ones(num))


def smooth_drift() -> FloatArray:
    time = np.arange(NUM_FRAMES) / NUM_FRAMES
    drift = np.stack([150 * time + 20 * np.sin(5 * time), -90 * time**2, 50 * np.sin(3 * time)], axis=1)
    return drift - drift.mean(axis=0)


# --- Drift ------------------------------------------------------------------------------------------------------


def test_a_known_drift_is_recovered_within_the_stated_error() -> None:
    truth = smooth_drift()
    table = drifting(truth, 40_000, 0)
    drift = estimate_drift(table, pixel_size_nm=OBLONG, num_frames=NUM_FRAMES)
    rmse = np.sqrt(((drift.shift_F3 - truth) ** 2).mean(axis=0))
    assert (rmse < 3.0).all()
    assert (np.abs(drift.shift_F3 - truth).max(axis=0) < 10.0).all()
    assert (rmse < 3 * drift.error_nm_3 + 1.0).all()
    again = estimate_drift(correct_drift(table, drift, OBLONG), pixel_size_nm=OBLONG, num_frames=NUM_FRAMES)
    assert (np.sqrt((again.shift_F3**2).mean(axis=0)) < 1.0).all()


def test_no_drift_is_found_where_there_is_none() -> None:
    table = drifting(np.zeros((NUM_FRAMES, 3)), 40_000, 1)
    drift = estimate_drift(table, pixel_size_nm=OBLONG, num_frames=NUM_FRAMES)
    assert (np.abs(drift.shift_F3).max(axis=0) < 4.0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_has_its_sign(axis: int) -> None:
    """Later frames lie further along the axis, so the drift rises and the correction takes it off."""
    truth = np.zeros((NUM_FRAMES, 3))
    truth[:, axis] = np.linspace(-60, 60, NUM_FRAMES)
    drift = estimate_drift(drifting(truth, 20_000, 2), pixel_size_nm=OBLONG, num_frames=NUM_FRAMES, num_blocks=6)
    assert drift.shift_F3[-1, axis] - drift.shift_F3[0, axis] == pytest.approx(120, abs=8)
    others = np.delete(drift.shift_F3, axis, axis=1)
    assert np.abs(others).max() < 8


def test_a_jump_larger_than_the_reach_of_the_neighbours_is_found() -> None:
    truth = np.zeros((NUM_FRAMES, 3))
    truth[NUM_FRAMES // 2 :, 0] = 400.0
    drift = estimate_drift(drifting(truth, 20_000, 3), pixel_size_nm=OBLONG, num_frames=NUM_FRAMES, use_z=False)
    assert drift.block_shift_B3[-1, 0] - drift.block_shift_B3[0, 0] == pytest.approx(400, abs=8)
    assert not drift.shift_F3[:, 2].any()
    assert np.isnan(drift.error_nm_3[2])


def test_the_stated_error_is_near_the_real_one() -> None:
    """Over several movies: neither flattering nor useless."""
    real, stated = [], []
    for seed in range(4):
        table = drifting(np.zeros((NUM_FRAMES, 3)), 8000, 10 + seed)
        drift = estimate_drift(table, pixel_size_nm=OBLONG, num_frames=NUM_FRAMES)
        real.append(np.sqrt((drift.block_shift_B3**2).mean(axis=0)))
        stated.append(drift.error_nm_3)
    ratio = np.mean(real, axis=0) / np.mean(stated, axis=0)
    assert (ratio > 0.4).all()
    assert (ratio < 2.0).all()


def test_errors_say_what_to_do() -> None:
    table = drifting(np.zeros((NUM_FRAMES, 3)), 400, 4)
    with pytest.raises(DataError, match="fewer blocks"):
        estimate_drift(table, pixel_size_nm=OBLONG, num_frames=NUM_FRAMES)
    with pytest.raises(DataError, match="the movie has 10"):
        estimate_drift(table, pixel_size_nm=OBLONG, num_frames=10, num_blocks=2)
    drift = estimate_drift(table, pixel_size_nm=OBLONG, num_frames=NUM_FRAMES, num_blocks=2)
    late = table.with_columns(frame=table.frame + NUM_FRAMES)
    with pytest.raises(DataError, match="covers"):
        correct_drift(late, drift, OBLONG)


def test_blocks_hold_equally_many_and_split_no_frame() -> None:
    rng = np.random.default_rng(5)
    frame = np.concatenate([rng.integers(0, 100, 5000), rng.integers(100, 1000, 5000)])
    block = frame_blocks(frame, 10)
    assert np.bincount(block).min() > 900
    assert all(len(np.unique(block[frame == f])) == 1 for f in range(0, 1000, 37))
    order = np.argsort(frame, kind="stable")
    assert (np.diff(block[order]) >= 0).all()
    assert frame_blocks(np.array([7, 7, 7]), 5).tolist() == [0, 0, 0]
    assert frame_blocks(np.array([0, 1]), 2).tolist() == [0, 1]


# --- Fourier ring correlation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_nm", [10.0, 20.0])
@pytest.mark.parametrize("repeats", [1, 5])
def test_the_curve_of_random_points_is_the_analytic_one(sigma_nm: float, repeats: int) -> None:
    """M random points, each localized n times in either half: FRC = n g/(1 + (n-1) g), g = exp(-4 pi^2 sigma^2 q^2).

    Of one half, E|F|^2 = M (n + n (n-1) g); of the two together E[F1 F2*] = M n^2 g.
    """
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 6000, (40_000 // repeats, 2))
    point = np.repeat(place, 2 * repeats, axis=0)
    point = point + rng.normal(0, sigma_nm, point.shape)
    half = np.tile(np.arange(2 * repeats) % 2, len(place))
    table = EmitterTable(half, point[:, 0] / 120, point[:, 1] / 80, np.zeros(len(half)), np.ones(len(half)))
    curve = fourier_ring_correlation(table, pixel_size_nm=OBLONG, render_pixel_nm=4.0, num_blocks=2)
    g = np.exp(-4 * math.pi**2 * sigma_nm**2 * curve.frequency_per_nm**2)
    expected = repeats * g / (1 + (repeats - 1) * g)
    assert np.sqrt(np.mean((curve.smoothed - expected) ** 2)) < 0.02
    # n g/(1 + (n-1) g) = 1/7  <=>  g = 1/(6 n + 1)
    resolution = 2 * math.pi * sigma_nm / math.sqrt(math.log(6 * repeats + 1))
    assert curve.resolution_nm == pytest.approx(resolution, rel=0.04)


def test_equal_images_correlate_and_independent_ones_do_not() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.poisson(1.0, (2, 256, 256)).astype(float)
    same = ring_correlation(first, first, 5.0)
    assert same.correlation == pytest.approx(np.ones(len(same.correlation)))
    assert same.resolution_nm is None
    other = ring_correlation(first, second, 5.0)
    assert np.abs(other.smoothed[5:]).max() < THRESHOLD
    assert other.resolution_nm is None


@pytest.mark.parametrize("side", [64, 65])
def test_rings_agree_with_the_whole_plane(side: int) -> None:
    """Half of the Fourier plane is computed; the sums must be those of all of it."""
    first, second = np.random.default_rng(2).normal(size=(2, side, side))
    whole = [np.fft.fft2(image) for image in (first, second)]
    frequency = np.fft.fftfreq(side)
    ring = np.rint(side * np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    for number in (1, 5, side // 2 - 1):
        at = ring == number
        expected = (whole[0][at] * whole[1][at].conj()).sum().real / math.sqrt(
            (np.abs(whole[0][at]) ** 2).sum() * (np.abs(whole[1][at]) ** 2).sum()
        )
        assert ring_correlation(first, second, 1.0).correlation[number - 1] == pytest.approx(expected, abs=1e-4)


def test_drift_worsens_the_resolution_and_its_correction_brings_it_back() -> None:
    table = drifting(smooth_drift(), 40_000, 6)
    drift = estimate_drift(table, pixel_size_nm=OBLONG, num_frames=NUM_FRAMES)

    def resolution(t: EmitterTable) -> float:
        value = fourier_ring_correlation(t, pixel_size_nm=OBLONG).resolution_nm
        assert value is not None
        return value

    still = drifting(np.zeros((NUM_FRAMES, 3)), 40_000, 6)
    assert resolution(table) > 1.3 * resolution(still)
    assert resolution(correct_drift(table, drift, OBLONG)) < 1.05 * resolution(still)


def test_what_cannot_be_divided_is_refused() -> None:
    few = drifting(np.zeros((NUM_FRAMES, 3)), 50, 7)
    with pytest.raises(DataError, match="too few"):
        fourier_ring_correlation(few, pixel_size_nm=OBLONG)
    one_frame = drifting(np.zeros((1, 3)), 500, 8)
    with pytest.raises(DataError, match="same frame"):
        fourier_ring_correlation(one_frame, pixel_size_nm=OBLONG)
    with pytest.raises(DataError, match="Choose pixels"):
        fourier_ring_correlation(drifting(np.zeros((9, 3)), 500, 8), pixel_size_nm=OBLONG, render_pixel_nm=0.1)


def test_plots_are_written(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    table = drifting(np.zeros((NUM_FRAMES, 3)), 2000, 9)
    drift = estimate_drift(table, pixel_size_nm=OBLONG, num_frames=NUM_FRAMES, num_blocks=3)
    save_png(plot_drift(drift), folder / "drift.png")
    save_png(plot_ring_correlation(fourier_ring_correlation(table, pixel_size_nm=OBLONG)), folder / "frc.png")
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("drift.png", "frc.png"))
