from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, empty_table
from adaloc.evaluation.matching import match
from adaloc.evaluation.metrics import Evaluation, evaluate

SQUARE = PixelSize(x=100, y=100)
OBLONG = PixelSize(x=120, y=80)
FIELD = (100, 100)


def table(rows: list[tuple[float, ...]]) -> EmitterTable:
    """Rows of (frame, x px, y px, z nm[, photons])."""
    columns = np.array([(*row, 1000.0)[:5] for row in rows], float).reshape(-1, 5).T
    return EmitterTable(columns[0].astype(int), *columns[1:])


def random_table(rng: np.random.Generator, num: int, num_frames: int = 50) -> EmitterTable:
    x, y = rng.uniform(10, 90, (2, num))
    return EmitterTable(
        rng.integers(0, num_frames, num), x, y, rng.uniform(-500, 500, num), rng.uniform(500, 5000, num)
    )


def score(localizations: EmitterTable, truth: EmitterTable, **options: object) -> Evaluation:
    return evaluate(
        localizations, truth, **{"pixel_size_nm": SQUARE, "image_size_px": FIELD, "border_nm": 0.0, **options}
    )


# --- Laws -------------------------------------------------------------------------------------------------------


def test_perfect_localizations_score_100() -> None:
    truth = random_table(np.random.default_rng(0), 2000)
    result = score(truth, truth)
    assert (result.jaccard, result.precision, result.recall) == (1, 1, 1)
    assert (result.rmse_lateral_nm, result.rmse_axial_nm) == (0, 0)
    assert (result.efficiency_lateral, result.efficiency_axial, result.efficiency_3d) == (100, 100, 100)
    assert result.num_truth == result.num_localizations == result.true_positives == 2000


def test_gaussian_errors_give_the_rmse_of_their_definition() -> None:
    rng = np.random.default_rng(1)
    num = 20_000
    # One emitter a frame, so that every estimate meets its own emitter.
    truth = EmitterTable(np.arange(num), *rng.uniform(20, 80, (2, num)), np.zeros(num), np.ones(num))
    noise = rng.normal(0, 1, (3, num)) * [[20.0], [20.0], [50.0]] + [[3.0], [-4.0], [10.0]]
    estimate = EmitterTable(
        truth.frame,
        truth.x + noise[0] / OBLONG.x,
        truth.y + noise[1] / OBLONG.y,
        truth.z + noise[2],
        truth.photons,
    )
    result = score(estimate, truth, pixel_size_nm=OBLONG)
    assert result.rmse_lateral_nm == pytest.approx(math.sqrt(2 * 20**2 + 3**2 + 4**2), rel=0.02)
    assert result.rmse_axial_nm == pytest.approx(math.sqrt(50**2 + 10**2), rel=0.02)
    assert result.bias_x_nm == pytest.approx(3, abs=0.6)
    assert result.bias_y_nm == pytest.approx(-4, abs=0.6)
    assert result.bias_z_nm == pytest.approx(10, abs=1.5)


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    truth, estimate = random_table(rng, 3000, 5), random_table(rng, 3000, 5)
    shuffled = score(estimate.select(rng.permutation(3000)), truth.select(rng.permutation(3000)), min_photons=2000.0)
    first = score(estimate, truth, min_photons=2000.0)
    assert first.true_positives == shuffled.true_positives
    assert first.rmse_lateral_nm == pytest.approx(shuffled.rmse_lateral_nm, rel=1e-12)
    assert first.jaccard == shuffled.jaccard


def test_equal_distances_are_decided_by_coordinates_not_by_rows() -> None:
    truth = table([(0, 50, 50, 0, 900), (0, 52, 50, 0, 100)])
    estimate = table([(0, 51, 50, 0)])
    forward = score(estimate, truth, min_photons=500.0)
    assert forward == score(estimate, truth.select(np.array([1, 0])), min_photons=500.0)


def test_swapped_axes_are_noticed() -> None:
    truth = random_table(np.random.default_rng(3), 1000, 1000)
    swapped = EmitterTable(truth.frame, truth.y, truth.x, truth.z, truth.photons)
    assert score(swapped, truth).jaccard < 0.2
    # A shift of 2.5 px is inside 250 nm along an 80 nm pixel and outside along one of 120 nm.
    along_x = EmitterTable(truth.frame, truth.x + 2.5, truth.y, truth.z, truth.photons)
    along_y = EmitterTable(truth.frame, truth.x, truth.y + 2.5, truth.z, truth.photons)
    assert score(along_x, truth, pixel_size_nm=OBLONG).true_positives < 100
    assert score(along_y, truth, pixel_size_nm=OBLONG).true_positives > 900


# --- Reference --------------------------------------------------------------------------------------------------


def greedy_by_hand(a: EmitterTable, b: EmitterTable, size: PixelSize, axial: float | None) -> set[tuple[int, int]]:
    """The rule as one would write it without any care for time."""
    pairs: set[tuple[int, int]] = set()
    while True:
        best = None
        for i in range(len(a)):
            for j in range(len(b)):
                if any(i == p or j == q for p, q in pairs) or a.frame[i] != b.frame[j]:
                    continue
                lateral = math.hypot((a.x[i] - b.x[j]) * size.x, (a.y[i] - b.y[j]) * size.y)
                depth = 0.0 if axial is None else abs(a.z[i] - b.z[j])
                if lateral > 250 or (axial is not None and depth > axial):
                    continue
                if best is None or math.hypot(lateral, depth) < best[0]:
                    best = math.hypot(lateral, depth), (i, j)
        if best is None:
            return pairs
        pairs.add(best[1])


@st.composite
def crowded_tables(draw: st.DrawFn) -> tuple[EmitterTable, EmitterTable]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tables = []
    for _ in range(2):
        num = draw(st.integers(0, 9))
        x, y = rng.uniform(0, 5, (2, num))
        tables.append(EmitterTable(rng.integers(0, 2, num), x, y, rng.uniform(-600, 600, num), np.ones(num)))
    return tables[0], tables[1]


@settings(deadline=None, max_examples=150)
@given(crowded_tables(), st.sampled_from([None, 500.0]))
def test_matching_agrees_with_brute_force(tables: tuple[EmitterTable, EmitterTable], axial: float | None) -> None:
    found = match(*tables, pixel_size_nm=OBLONG, axial_tolerance_nm=axial)
    pairs = set(zip(found.localization.tolist(), found.truth.tolist(), strict=True))
    assert pairs == greedy_by_hand(*tables, OBLONG, axial)


def test_nearest_pairs_come_first() -> None:
    # The left emitter loses its nearest localization to the right one, which is nearer to it.
    truth = table([(0, 50.0, 50, 0), (0, 51.5, 50, 0)])
    found = match(table([(0, 51.0, 50, 0), (0, 49.0, 50, 0)]), truth, pixel_size_nm=SQUARE)
    assert dict(zip(found.truth.tolist(), found.localization.tolist(), strict=True)) == {1: 0, 0: 1}


def test_many_rows_take_seconds() -> None:
    rng = np.random.default_rng(4)
    truth, estimate = random_table(rng, 100_000, 4000), random_table(rng, 100_000, 4000)
    start = time.perf_counter()
    match(estimate, truth, pixel_size_nm=SQUARE)
    assert time.perf_counter() - start < 8


# --- Cases with known answers -----------------------------------------------------------------------------------


def test_figures_of_a_small_case() -> None:
    truth = table([(0, 30, 30, 0), (0, 60, 60, 100), (1, 30, 30, 0)])
    estimate = table([(0, 30.3, 30.4, 20), (0, 60, 60, 100), (0, 80, 80, 0), (2, 30, 30, 0)])
    result = score(estimate, truth)
    assert (result.true_positives, result.false_positives, result.false_negatives) == (2, 2, 1)
    assert result.jaccard == pytest.approx(0.4)
    assert result.precision == pytest.approx(0.5)
    assert result.recall == pytest.approx(2 / 3)
    assert result.rmse_lateral_nm == pytest.approx(math.sqrt(50**2 / 2))
    assert result.rmse_axial_nm == pytest.approx(math.sqrt(20**2 / 2))
    assert result.efficiency_lateral == pytest.approx(100 - math.sqrt(60**2 + 50**2 / 2))
    assert result.efficiency_axial == pytest.approx(100 - math.sqrt(60**2 + 0.25 * 20**2 / 2))
    assert result.efficiency_3d == pytest.approx((result.efficiency_lateral + result.efficiency_axial) / 2)


def test_tolerances_are_separate_and_inclusive() -> None:
    truth = table([(0, 50, 50, 0)])
    assert score(table([(0, 52.5, 50, 500)]), truth).true_positives == 1
    assert score(table([(0, 52.51, 50, 0)]), truth).true_positives == 0
    assert score(table([(0, 50, 50, 500.1)]), truth).true_positives == 0


def test_2d_data_have_no_axial_figures() -> None:
    result = score(table([(0, 50, 50, 0)]), table([(0, 50.1, 50, 4000)]), axial_tolerance_nm=None)
    assert result.true_positives == 1
    assert result.rmse_lateral_nm == pytest.approx(10)
    assert result.rmse_axial_nm is result.bias_z_nm is result.efficiency_axial is result.efficiency_3d is None


@pytest.mark.parametrize("missing", ["truth", "localizations", "both"])
def test_nothing_found_gives_no_errors(missing: str) -> None:
    full = table([(0, 50, 50, 0)])
    result = score(empty_table() if missing != "truth" else full, empty_table() if missing != "localizations" else full)
    assert (result.jaccard, result.precision, result.recall) == (0, 0, 0)
    assert result.rmse_lateral_nm is result.rmse_axial_nm is result.bias_x_nm is result.efficiency_3d is None


# The border line is at 450 nm: x = 4.0 px of 100 nm, pixel centres at whole numbers.
@pytest.mark.parametrize(
    ("truth_x", "estimate_x", "counts"),
    [
        (4.1, 4.2, (1, 0, 0)),
        (4.1, 3.9, (1, 0, 0)),  # found, though the estimate fell into the border
        (3.9, 4.1, (0, 0, 0)),  # not asked for, and its finding is no false positive
        (3.9, 3.8, (0, 0, 0)),
        (4.1, None, (0, 0, 1)),
        (3.9, None, (0, 0, 0)),
        (None, 4.1, (0, 1, 0)),
        (None, 3.9, (0, 0, 0)),
        (95.1, 94.9, (0, 0, 0)),
        (94.9, 95.1, (1, 0, 0)),
        (-3.0, -2.9, (0, 0, 0)),  # outside the camera
    ],
)
@pytest.mark.parametrize("axis", ["x", "y"])
def test_border(truth_x: float | None, estimate_x: float | None, counts: tuple[int, int, int], axis: str) -> None:
    def at(position: float | None) -> EmitterTable:
        if position is None:
            return empty_table()
        return table([(0, position, 50, 0) if axis == "x" else (0, 50, position, 0)])

    result = score(at(estimate_x), at(truth_x), border_nm=450.0)
    assert (result.true_positives, result.false_positives, result.false_negatives) == counts


def test_border_follows_each_side_of_an_oblong_field() -> None:
    truth = table([(0, 5, 5, 0), (0, 55, 5, 0), (0, 5, 25, 0), (0, 55, 25, 0)])
    result = score(truth, truth, image_size_px=(30, 60), border_nm=500.0, pixel_size_nm=OBLONG)
    # x: 660 and 6660 of 7200 nm; y: 440 and 2040 of 2400 nm.
    assert result.num_truth == 0
    assert score(truth, truth, image_size_px=(30, 60), border_nm=400.0, pixel_size_nm=OBLONG).num_truth == 2
    assert score(truth, truth, image_size_px=None, border_nm=500.0).num_truth == 4


def test_dim_emitters_are_neither_asked_for_nor_held_against_the_finder() -> None:
    truth = table([(0, 30, 30, 0, 1000), (0, 60, 60, 0, 100), (0, 80, 80, 0, 100)])
    estimate = table([(0, 30, 30, 0), (0, 60, 60, 0), (0, 20, 80, 0)])
    result = score(estimate, truth, min_photons=500.0)
    assert (result.true_positives, result.false_positives, result.false_negatives) == (1, 1, 0)
    assert score(estimate, truth).true_positives == 2


def test_a_dim_emitter_keeps_its_localization() -> None:
    # The estimate is the dim emitter's; giving it to the bright one would invent a find with an error of 200 nm.
    truth = table([(0, 50, 50, 0, 100), (0, 52, 50, 0, 1000)])
    result = score(table([(0, 50, 50, 0)]), truth, min_photons=500.0)
    assert (result.true_positives, result.false_positives, result.false_negatives) == (0, 0, 1)


def test_number_of_emitters_asked_for_depends_on_the_truth_alone() -> None:
    rng = np.random.default_rng(5)
    truth = random_table(rng, 2000)
    counts = {
        score(random_table(rng, num), truth, border_nm=2000.0, min_photons=1500.0).num_truth for num in (1, 500, 4000)
    }
    assert len(counts) == 1
