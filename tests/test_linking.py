from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, empty_table
from adaloc.localize.combining import combine, with_precision
from adaloc.localize.linking import link
from adaloc.localize.pairing import take_in_order

OBLONG = PixelSize(x=120, y=80)


def rows(*values: tuple[float, ...]) -> EmitterTable:
    """(frame, x nm, y nm, z nm, photons, sigma nm along every axis)."""
    frame, x, y, z, photons, sigma = np.array(values, float).T
    return EmitterTable(
        frame.astype(int), x / 120, y / 80, z, photons, x_sigma=sigma / 120, y_sigma=sigma / 80, z_sigma=sigma
    )


def blinking(num: int, spacing_nm: float, seed: int) -> tuple[EmitterTable, np.ndarray]:
    """Molecules on a grid, far apart; each shines once for a few frames. Returns the table and where they are."""
    rng = np.random.default_rng(seed)
    side = math.ceil(math.sqrt(num))
    place = spacing_nm * np.stack([np.arange(num) % side, np.arange(num) // side, np.zeros(num)], axis=1)
    length = rng.geometric(0.3, num)
    molecule = np.repeat(np.arange(num), length)
    frame = np.repeat(rng.integers(0, 200, num), length) + np.concatenate([np.arange(n) for n in length])
    sigma = rng.uniform(5, 20, len(molecule))
    point = place[molecule] + rng.normal(size=(len(molecule), 3)) * sigma[:, None]
    table = EmitterTable(
        frame, point[:, 0] / 120, point[:, 1] / 80, point[:, 2], rng.uniform(500, 2000, len(molecule)),
        np.full(len(molecule), 10.0), sigma / 120, sigma / 80, sigma, emitter_id=molecule,
    )  # fmt: skip
    return table.select(rng.permutation(len(table))), place


# --- Combining --------------------------------------------------------------------------------------------------


def test_a_hand_made_row() -> None:
    table = rows((3, 0, 0, 0, 100, 10), (4, 30, 60, 90, 300, 20))
    joined = combine(table, np.zeros(2, int))
    # Weights 4 : 1, so a fifth of the way; 1/sqrt(1/100 + 1/400).
    assert joined.table.x[0] * 120 == pytest.approx(6)
    assert joined.table.y[0] * 80 == pytest.approx(12)
    assert joined.table.z[0] == pytest.approx(18)
    assert joined.table.z_sigma is not None
    assert joined.table.z_sigma[0] == pytest.approx(math.sqrt(80))
    assert (joined.table.photons[0], joined.table.frame[0], joined.last_frame[0], joined.count[0]) == (400, 3, 4, 2)


def test_without_uncertainties_photons_weigh_and_no_error_is_claimed() -> None:
    table = rows((3, 0, 0, 0, 100, 1), (4, 40, 0, 0, 300, 1)).with_columns(x_sigma=None, y_sigma=None, z_sigma=None)
    joined = combine(table, np.zeros(2, int))
    assert joined.table.x[0] * 120 == pytest.approx(30)
    assert joined.table.x_sigma is None


def test_photons_are_kept_and_members_point_to_their_row() -> None:
    table, _ = blinking(300, 1000, 0)
    joined = combine(table, np.random.default_rng(0).integers(5, 40, len(table)))
    assert joined.table.photons.sum() == pytest.approx(table.photons.sum())
    assert joined.count.sum() == len(table)
    assert (np.diff(joined.table.frame) >= 0).all()
    for index in range(len(joined)):
        mine = table.frame[joined.member_of == index]
        assert (mine.min(), mine.max(), len(mine)) == (
            joined.table.frame[index], joined.last_frame[index], joined.count[index],
        )  # fmt: skip


def test_the_standard_error_is_the_scatter_of_the_mean() -> None:
    rng = np.random.default_rng(1)
    sigma = rng.uniform(5, 40, (2000, 6))
    point = rng.normal(size=sigma.shape) * sigma
    flat = np.zeros(sigma.size)
    table = EmitterTable(
        flat.astype(int), point.ravel() / 120, flat, flat, flat + 1, x_sigma=sigma.ravel() / 120, y_sigma=flat + 1
    )
    joined = combine(table, np.repeat(np.arange(2000), 6))
    assert joined.table.x_sigma is not None
    assert (joined.table.x / joined.table.x_sigma).std() == pytest.approx(1, abs=0.05)


def test_zero_uncertainty_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        combine(rows((0, 0, 0, 0, 1, 0)), np.zeros(1, int))


def test_precision_from_theory_is_mortensens() -> None:
    table = rows((0, 0, 0, 0, 1000, 1)).with_columns(x_sigma=None, background=np.array([10.0]))
    computed = with_precision(table, PixelSize(x=100, y=100), 130.0)
    sa_sq = 130**2 + 100**2 / 12
    expected = math.sqrt(sa_sq / 1000 * (16 / 9 + 8 * math.pi * sa_sq * 10 / (1000 * 100**2)))
    assert computed.x_sigma is not None
    assert computed.x_sigma[0] * 100 == pytest.approx(expected)


# --- Pairs ------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30, unique=True))
def test_pairs_in_order_agree_with_a_loop(pairs: list[tuple[int, int]]) -> None:
    left, right = (np.array([p[i] for p in pairs], int) for i in (0, 1))
    used: tuple[set[int], set[int]] = (set(), set())
    expected = []
    for a, b in pairs:
        expected.append(a not in used[0] and b not in used[1])
        if expected[-1]:
            used[0].add(a)
            used[1].add(b)
    assert take_in_order(left, right).tolist() == expected


# --- Linking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "radius"), [("nm", 120.0), ("sigma", 5.0)])
def test_blinks_of_distant_molecules_come_back(unit: str, radius: float) -> None:
    table, place = blinking(400, 1000, 2)
    blinks = link(table, pixel_size_nm=OBLONG, radius=radius, radius_unit=unit, use_z=True)  # type: ignore[arg-type]
    assert len(blinks) == 400
    assert table.emitter_id is not None
    members = [set(table.emitter_id[blinks.member_of == index]) for index in range(400)]
    assert all(len(ids) == 1 for ids in members)
    owner = np.array([ids.pop() for ids in members])
    assert blinks.table.x_sigma is not None
    pull = (blinks.table.x * 120 - place[owner, 0]) / (blinks.table.x_sigma * 120)
    assert pull.std() == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize(("dark", "expected"), [(0, 3), (1, 2), (2, 1)])
def test_dark_frames(dark: int, expected: int) -> None:
    table = rows((0, 0, 0, 0, 1, 1), (2, 1, 0, 0, 1, 1), (5, 2, 0, 0, 1, 1))
    assert len(link(table, pixel_size_nm=OBLONG, radius=10, max_dark_frames=dark)) == expected


def test_two_in_one_frame_stay_two() -> None:
    table = rows((0, 0, 0, 0, 1, 1), (0, 5, 0, 0, 1, 1), (1, 1, 0, 0, 1, 1), (1, 6, 0, 0, 1, 1))
    blinks = link(table, pixel_size_nm=OBLONG, radius=10)
    assert blinks.count.tolist() == [2, 2]
    assert sorted(blinks.table.x * 120) == pytest.approx([0.5, 5.5])


def test_radius_is_inclusive_and_in_nm_on_both_axes() -> None:
    for step in ((50.0, 0.0), (0.0, 50.0), (30.0, 40.0)):
        table = rows((0, 0, 0, 0, 1, 1), (1, *step, 900, 1, 1))
        assert len(link(table, pixel_size_nm=OBLONG, radius=50.0)) == 1
        assert len(link(table, pixel_size_nm=OBLONG, radius=49.9)) == 2
        assert len(link(table, pixel_size_nm=OBLONG, radius=50.0, use_z=True)) == 2


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    num = 400
    table = rows(
        *zip(*(rng.integers(0, 20, num), *rng.uniform(0, 600, (2, num)), *rng.uniform(1, 5, (3, num))), strict=True)
    )
    shuffled = table.select(rng.permutation(num))
    first, second = (link(t, pixel_size_nm=OBLONG, radius=60, max_dark_frames=2) for t in (table, shuffled))
    assert len(first) == len(second)
    np.testing.assert_allclose(np.sort(first.table.x), np.sort(second.table.x), rtol=1e-12)


def test_missing_sigmas_are_refused_and_nothing_gives_nothing() -> None:
    with pytest.raises(ValueError, match="uncertainty"):
        link(rows((0, 0, 0, 0, 1, 1)).with_columns(x_sigma=None), pixel_size_nm=OBLONG, radius=3, radius_unit="sigma")
    assert len(link(empty_table(), pixel_size_nm=OBLONG, radius=50)) == 0


def test_a_hundred_thousand_take_seconds() -> None:
    rng = np.random.default_rng(4)
    num = 100_000
    table = EmitterTable(rng.integers(0, 5000, num), *rng.uniform(0, 128, (2, num)), np.zeros(num), np.ones(num))
    begin = time.perf_counter()
    link(table, pixel_size_nm=OBLONG, radius=75, max_dark_frames=2)
    assert time.perf_counter() - begin < 10


def test_links_agree_with_a_loop() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        num = 12
        frame, x = rng.integers(0, 4, num), rng.uniform(0, 200, num)
        table = EmitterTable(frame, x / 120, np.zeros(num), np.zeros(num), np.ones(num))
        candidates = sorted(
            (frame[b] - frame[a], abs(x[a] - x[b]), a, b)
            for a, b in itertools.permutations(range(num), 2)
            if 1 <= frame[b] - frame[a] <= 2 and abs(x[a] - x[b]) <= 50
        )
        after, before = {}, {}
        for _, _, a, b in candidates:
            if a not in after and b not in before:
                after[a], before[b] = b, a
        assert len(link(table, pixel_size_nm=OBLONG, radius=50, max_dark_frames=1)) == num - len(after)
