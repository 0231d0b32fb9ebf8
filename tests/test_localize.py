"""Candidates and inference: the right positions, in the right units, for any field size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adaloc.data.scaling import measure_scaling
from adaloc.data.targets import EmitterRows, encode_targets
from adaloc.localize.candidates import find_localizations
from adaloc.localize.inference import localize_frames
from adaloc.models.model_file import make_model
from small import small_config

SCALING = measure_scaling(input_mean=100, input_std=30, num_pixels=10, columns=(np.arange(3.0),) * 5)


def dense(x: list[float], y: list[float]) -> torch.Tensor:
    n = len(x)
    rows = EmitterRows(
        torch.zeros(n, dtype=torch.long),
        torch.tensor(x),
        torch.tensor(y),
        torch.arange(n) * 100.0,
        torch.full((n,), 800.0),
    )
    return encode_targets(rows, torch.tensor([50.0]), (12, 16), 0.0)


def test_certain_targets_come_back_as_localizations() -> None:
    x, y = [2.3, 9.8, 10.6, 0.1], [3.4, 5.0, 5.2, 11.4]  # two of them in neighbouring pixels, one at the edge
    table = find_localizations(dense(x, y), first_frame=7)
    assert set(table.frame) == {7}
    order = np.argsort(table.x)
    np.testing.assert_allclose(table.x[order], sorted(x), atol=1e-5)
    np.testing.assert_allclose(table.y[order], [y[i] for i in np.argsort(x)], atol=1e-5)
    np.testing.assert_allclose(table.photons, 800)
    assert table.background is not None
    np.testing.assert_allclose(table.background, 50)


def test_an_emitter_between_two_pixels_is_one_localization_at_their_weighted_mean() -> None:
    outputs = torch.zeros(1, 6, 9, 9)
    outputs[0, 0, 4, 4], outputs[0, 0, 4, 5] = 0.45, 0.4
    outputs[0, 1, 4, 4], outputs[0, 1, 4, 5] = 0.45, -0.5
    table = find_localizations(outputs, 0)
    assert len(table) == 1
    assert table.x[0] == pytest.approx((0.45 * 4.45 + 0.4 * 4.5) / 0.85)
    assert table.y[0] == pytest.approx(4)
    assert table.probability is not None
    assert table.probability[0] == pytest.approx(0.85)


def test_two_emitters_whose_pixels_are_unsure_are_two() -> None:
    """A probability of 2 spread over pixels of which none is sure; each pixel knows which of the two it speaks of."""
    outputs = torch.zeros(1, 6, 9, 9)
    for row, column, p, x, y in (
        (4, 3, 0.55, 3.1, 4.3), (4, 4, 0.25, 3.2, 4.3), (5, 3, 0.2, 3.1, 4.4),
        (3, 5, 0.45, 4.6, 3.4), (3, 4, 0.4, 4.5, 3.3), (4, 5, 0.1, 4.6, 3.5),
    ):  # fmt: skip
        outputs[0, :3, row, column] = torch.tensor([p, x - column, y - row])
    table = find_localizations(outputs, 0)
    assert len(table) == 2
    np.testing.assert_allclose(np.sort(table.x), [3.1, 4.57], atol=0.08)
    assert table.probability is not None
    np.testing.assert_allclose(table.probability, [1.0, 0.95], atol=0.06)


def test_no_localization_is_made_of_more_than_the_probability_that_is_there() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 6, 40, 40, generator=generator)
    outputs[:, 0] = torch.rand(3, 40, 40, generator=generator) ** 6
    table = find_localizations(outputs, 0, threshold=0.3)
    assert table.probability is not None
    for frame in range(3):
        assert 0.5 * outputs[frame, 0].sum() < table.probability[table.frame == frame].sum() <= outputs[frame, 0].sum()
    assert len(np.unique(np.stack([table.frame, table.x, table.y]), axis=1).T) == len(table)


def test_weak_pixels_are_nothing_and_the_threshold_counts_the_sum() -> None:
    outputs = torch.zeros(1, 6, 9, 9)
    outputs[0, 0, 2, 2] = 0.3
    assert len(find_localizations(outputs, 0)) == 0
    outputs[0, 0, 2, 3] = 0.25
    assert len(find_localizations(outputs, 0)) == 1
    assert len(find_localizations(outputs, 0, threshold=0.6)) == 0


def test_wrapping_around_the_edge_does_not_happen() -> None:
    outputs = torch.zeros(1, 6, 5, 5)
    outputs[0, 0, 2, 0], outputs[0, 0, 2, 4] = 0.4, 0.4
    assert len(find_localizations(outputs, 0)) == 0


def test_a_movie_of_one_frame_works(tmp_path: Path) -> None:
    scaling = measure_scaling(
        input_mean=100, input_std=30, num_pixels=10, columns=tuple(np.arange(3.0) for _ in range(5))
    )
    model = make_model(small_config(tmp_path), scaling)
    localize_frames(model, np.full((1, 16, 16), 300, np.uint16))
