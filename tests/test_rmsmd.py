from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray
from adaloc.errors import DataError
from adaloc.evaluation.comparison import Comparison, rmsmd_figures
from adaloc.evaluation.rmsmd import partition, rmsmd, rmsmd_partitioned, shares
from adaloc.localize.read import read_localizations

SQUARE = PixelSize(x=100, y=100)


def partition_by_hand(estimates: FloatArray, emitters: FloatArray, shares_M: IntArray) -> list[int]:
    """The rule as it is written: the globally nearest open pair, again and again."""
    owner = [-1] * len(estimates)
    room = shares_M.tolist()
    while -1 in owner:
        if not any(room):
            room = [1] * len(emitters)
        pairs = [
            (float(((estimates[k] - emitters[m]) ** 2).sum()), k, m)
            for k in range(len(estimates))
            for m in range(len(emitters))
            if owner[k] < 0 and room[m] > 0
        ]
        _, k, m = min(pairs)
        owner[k] = m
        room[m] -= 1
    return owner


@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 5))
def test_the_partition_is_that_of_the_rule(seed: int, num_estimates: int, num_emitters: int) -> None:
    rng = np.random.default_rng(seed)
    estimates, emitters = rng.uniform(0, 100, (num_estimates, 3)), rng.uniform(0, 100, (num_emitters, 3))
    shares_M = rng.integers(0, 5, num_emitters)
    expected = partition_by_hand(estimates, emitters, shares_M)
    assert partition(estimates, emitters, shares_M).tolist() == expected


def test_shares() -> None:
    assert shares(7, np.array([1, 1, 6, 2])).tolist() == [2, 2, 2, 2]  # fewer than two an emitter: equal, 1.75 up
    assert shares(20, np.array([1, 1, 6, 2])).tolist() == [2, 2, 12, 4]
    assert shares(10, np.array([1, 3])).tolist() == [3, 8]  # 2.5 and 7.5


def test_a_hand_made_case() -> None:
    """Two emitters with shares 2 and 2; the first was found three times, so one estimate must go to the other."""
    emitters = np.array([[0.0, 0, 0], [100.0, 0, 0]])
    estimates = np.array([[1.0, 0, 0], [-2.0, 0, 0], [3.0, 0, 0], [104.0, 0, 0]])
    activations = np.array([5, 5])
    # 1, 2 go to the first; 3 is 97 from the second.
    assert partition(estimates, emitters, shares(4, activations)).tolist() == [0, 0, 1, 1]
    squares = 1 + 4 + 97**2 + 16 + 1 + 16
    assert rmsmd_partitioned(estimates, emitters, activations) == pytest.approx(math.sqrt(squares / 6))
    assert rmsmd(estimates, emitters) == pytest.approx(math.sqrt((1 + 4 + 9 + 16 + 1 + 16) / 6))


def test_an_emitter_without_a_share_takes_its_nearest_estimate() -> None:
    emitters = np.array([[0.0, 0, 0], [50.0, 0, 0]])
    estimates = np.array([[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0], [4.0, 0, 0]])
    activations = np.array([1000, 1])
    assert shares(4, activations).tolist() == [4, 0]
    squares = 1 + 4 + 9 + 16 + 1 + 46**2
    assert rmsmd_partitioned(estimates, emitters, activations) == pytest.approx(math.sqrt(squares / 6))


def test_perfect_estimates_score_zero() -> None:
    rng = np.random.default_rng(0)
    emitters, activations = rng.uniform(0, 5000, (40, 3)), rng.integers(2, 30, 40)
    estimates = np.repeat(emitters, activations, axis=0)
    assert rmsmd_partitioned(estimates, emitters, activations) == rmsmd(estimates, emitters) == 0


def test_noise_gives_what_follows_from_the_definition() -> None:
    """Emitters far apart: sqrt(K (sx^2 + sy^2 + sz^2)/(M + K)), the emitters' own part being small."""
    rng = np.random.default_rng(1)
    emitters = 2000.0 * np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3)
    activations = np.full(125, 200)
    estimates = np.repeat(emitters, activations, axis=0) + rng.normal(size=(25_000, 3)) * [15, 15, 24]
    expected = math.sqrt(25_000 / 25_125 * (2 * 15**2 + 24**2))
    assert rmsmd_partitioned(estimates, emitters, activations) == pytest.approx(expected, rel=0.01)


def test_twenty_thousand_estimates_take_seconds() -> None:
    rng = np.random.default_rng(2)
    emitters, estimates = rng.uniform(0, 6400, (500, 3)), rng.uniform(0, 6400, (20_000, 3))
    begin = time.perf_counter()
    rmsmd_partitioned(estimates, emitters, rng.integers(1, 40, 500))
    assert time.perf_counter() - begin < 20


def test_nothing_and_other_sizes_are_refused() -> None:
    some = np.zeros((3, 3))
    with pytest.raises(ValueError, match="at least one"):
        rmsmd(np.empty((0, 3)), some)
    with pytest.raises(ValueError, match="axes"):
        rmsmd(some, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="activations"):
        rmsmd_partitioned(some, some, np.ones(2, int))


def test_the_public_truth(shared_data: Callable[[str], Path]) -> None:
    """The benchmark's truth with noise, and with a tenth missing: the metric punishes uneven recall."""
    truth = read_localizations(shared_data("nairr-smlm/3DAS_LD_Benchmark_xyz.csv"), SQUARE).table
    rng = np.random.default_rng(3)

    def p(estimates: EmitterTable) -> float:
        value = rmsmd_figures(Comparison(estimates, truth, SQUARE, None, True))["rmsmd_p_nm"]
        assert isinstance(value, float)
        return value

    assert p(truth) == pytest.approx(0, abs=1e-6)
    noise = rng.normal(size=(3, len(truth))) * [[0.15], [0.15], [24.0]]
    noisy = truth.with_columns(x=truth.x + noise[0], y=truth.y + noise[1], z=truth.z + noise[2])
    # sqrt(K (15^2 + 15^2 + 24^2)/(K + M)) with K = 3195 and M = 150
    assert p(noisy) == pytest.approx(math.sqrt(3195 / 3345 * 1026), rel=0.03)
    missing = [p(truth.select(rng.random(len(truth)) > 0.1)) for _ in range(9)]
    assert 150 < np.median(missing) < 350
    assert truth.emitter_id is not None
    with pytest.raises(DataError, match="one emitter"):
        rmsmd_figures(Comparison(truth, truth.with_columns(emitter_id=None), SQUARE, None, True))
