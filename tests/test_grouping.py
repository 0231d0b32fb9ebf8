from __future__ import annotations

import math

import numpy as np
import pytest

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, FloatArray, IntArray, empty_table
from adaloc.localize.grouping import group, reduced_chi_square
from adaloc.localize.mixture import needed_gain, split_in_two

OBLONG = PixelSize(x=120, y=80)
SIGMA_NM = np.array([10.0, 10.0, 25.0])


def localized(place_M3: FloatArray, count: IntArray, seed: int) -> EmitterTable:
    """Localizations of molecules at given places (nm), with sigmas that vary by photons, in random order."""
    rng = np.random.default_rng(seed)
    molecule = np.repeat(np.arange(len(place_M3)), count)
    photons = rng.lognormal(math.log(2000), 0.5, len(molecule))
    sigma = np.sqrt(2000 / photons)[:, None] * SIGMA_NM
    point = place_M3[molecule] + rng.normal(size=sigma.shape) * sigma
    table = EmitterTable(
        rng.integers(0, 3000, len(molecule)), point[:, 0] / 120, point[:, 1] / 80, point[:, 2], photons,
        x_sigma=sigma[:, 0] / 120, y_sigma=sigma[:, 1] / 80, z_sigma=sigma[:, 2], emitter_id=molecule,
    )  # fmt: skip
    return table.select(rng.permutation(len(table)))


def pure(table: EmitterTable, member_of: IntArray) -> float:
    """Share of localizations that are in a group whose majority is their molecule's."""
    assert table.emitter_id is not None
    total = 0
    for label in np.unique(member_of):
        total += np.bincount(table.emitter_id[member_of == label]).max()
    return total / len(table)


@pytest.mark.parametrize("use_z", [True, False])
def test_distant_molecules_come_back_with_the_errors_of_their_means(use_z: bool) -> None:
    rng = np.random.default_rng(0)
    side = np.arange(20) * 300.0
    place = np.array([(x, y, 0.0) for x in side for y in side]) + rng.uniform(-30, 30, (400, 3))
    table = localized(place, rng.geometric(1 / 15, 400), 1)
    molecules = group(table, pixel_size_nm=OBLONG, use_z=use_z)
    # A single molecule is cut in two in 1 % of the cases.
    assert 400 <= len(molecules) <= 410
    assert pure(table, molecules.member_of) == 1
    assert table.emitter_id is not None
    owner = np.array([table.emitter_id[molecules.member_of == index][0] for index in range(len(molecules))])
    assert molecules.table.x_sigma is not None
    pull = (molecules.table.x * 120 - place[owner, 0]) / (molecules.table.x_sigma * 120)
    assert pull.std() == pytest.approx(1, abs=0.12)
    assert reduced_chi_square(table, molecules, OBLONG, use_z) == pytest.approx(1, abs=0.05)


def test_neighbours_at_five_sigma_are_told_apart_though_chains_join_them() -> None:
    """A row of molecules 50 nm apart: any method that joins by reach makes one of them."""
    place = np.stack([50.0 * np.arange(40), np.zeros(40), np.zeros(40)], axis=1)
    table = localized(place, np.full(40, 20), 2)
    molecules = group(table, pixel_size_nm=OBLONG)
    assert 38 <= len(molecules) <= 42
    assert pure(table, molecules.member_of) > 0.97


def test_a_pair_is_resolved_the_better_the_more_often_it_was_localized() -> None:
    def found(num: int) -> float:
        counts = [
            len(
                group(
                    localized(np.array([[0.0, 0, 0], [30.0, 0, 0]]), np.array([num, num]), seed), pixel_size_nm=OBLONG
                )
            )
            for seed in range(20)
        ]
        return float(np.mean(counts))

    few, many = found(4), found(60)
    assert few < 1.7
    assert many == pytest.approx(2, abs=0.15)


def test_a_single_molecule_stays_one_however_often_it_was_localized() -> None:
    sizes = [len(group(localized(np.zeros((1, 3)), np.array([200]), seed), pixel_size_nm=OBLONG)) for seed in range(20)]
    assert np.mean(sizes) <= 1.1


def test_depth_tells_apart_what_the_plane_does_not() -> None:
    place = np.array([[0.0, 0, 0], [0.0, 0, 200]])
    table = localized(place, np.array([10, 10]), 3)
    assert len(group(table, pixel_size_nm=OBLONG)) == 2
    assert len(group(table, pixel_size_nm=OBLONG, use_z=False)) == 1


def test_uncertainties_that_are_too_small_show_and_the_extra_mends_them() -> None:
    rng = np.random.default_rng(4)
    table = localized(rng.uniform(0, 20_000, (150, 3)), np.full(150, 10), 5)
    assert table.x_sigma is not None and table.y_sigma is not None and table.z_sigma is not None
    blurred = table.with_columns(
        x=table.x + rng.normal(0, 20 / 120, len(table)),
        y=table.y + rng.normal(0, 20 / 80, len(table)),
        z=table.z + rng.normal(0, 20, len(table)),
    )
    assert len(group(blurred, pixel_size_nm=OBLONG)) > 250
    mended = group(blurred, pixel_size_nm=OBLONG, extra_sigma_nm=20.0)
    assert len(mended) == pytest.approx(150, abs=5)
    assert mended.table.x_sigma is not None
    assert (mended.table.x_sigma * 120 > 20 / math.sqrt(12)).all()


def test_the_order_of_rows_and_the_origin_do_not_matter() -> None:
    rng = np.random.default_rng(6)
    table = localized(rng.uniform(0, 900, (60, 3)), np.full(60, 12), 7)
    moved = table.select(rng.permutation(len(table)))
    moved = moved.with_columns(x=moved.x + 1000, z=moved.z - 300)
    first, second = (len(group(t, pixel_size_nm=OBLONG)) for t in (table, moved))
    assert abs(first - second) <= 1


def test_nothing_and_one_and_missing_uncertainties() -> None:
    flat = np.empty(0)
    nothing = empty_table().with_columns(x_sigma=flat, y_sigma=flat, z_sigma=flat)
    assert len(group(nothing, pixel_size_nm=OBLONG)) == 0
    one = localized(np.zeros((1, 3)), np.array([1]), 8)
    assert len(group(one, pixel_size_nm=OBLONG)) == 1
    assert reduced_chi_square(one, group(one, pixel_size_nm=OBLONG), OBLONG, True) is None
    with pytest.raises(ValueError, match="z_sigma"):
        group(one.with_columns(z_sigma=None), pixel_size_nm=OBLONG)
    with pytest.raises(ValueError, match="x_sigma"):
        group(one.with_columns(x_sigma=None), pixel_size_nm=OBLONG)


def test_identical_localizations_are_one_molecule() -> None:
    table = localized(np.zeros((1, 3)), np.array([1]), 9).select(np.zeros(50, int))
    assert len(group(table, pixel_size_nm=OBLONG)) == 1


def test_the_gain_of_a_hand_made_split() -> None:
    """Two tight clouds far apart: one centre costs the scatter, two cost the choice between them, ln 2 each."""
    points = np.array([[0.0], [0.0], [100.0], [100.0]])
    split = split_in_two(points, np.full((4, 1), 10.0), np.array([0.0]), np.array([100.0]))
    assert split.gain == pytest.approx(4 * 5**2 / 2 - 4 * math.log(2), abs=1e-6)
    assert split.second.tolist() == [False, False, True, True]
    assert needed_gain(2, 3) == 6.0
    assert needed_gain(1000, 3) == pytest.approx(2 * math.log(1000))
