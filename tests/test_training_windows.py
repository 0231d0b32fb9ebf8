"""Windows with several targets: each frame read once, every sample in its turn, and the numbers of single windows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from adaloc.config import Config
from adaloc.data.fresh import FreshWindows
from adaloc.data.training_windows import TrainingWindows
from adaloc.data.windows import Cut, Sample, check_sizes, make_batch, make_sample
from adaloc.errors import DataError
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import make_psf
from adaloc.training.batch_signals import light_contrast, shuffle_gap
from adaloc.training.run import batch_errors, batch_targets, predict, setup
from small import small_config

TARGETS = 4


def config_with(folder: Path, targets: int = TARGETS, batch: int = 8, **data: object) -> Config:
    return small_config(
        folder,
        simulation={"num_frames": 12, "image_size_px": 20},
        data={"batch_size": batch, "targets_per_window": targets, **data},
    )


def simulated(config: Config, num: int) -> list[Sample]:
    psf = make_psf(config.simulation.psf, config.simulation.optics)
    samples = []
    for index in range(num):
        movie = simulate_sample(config.simulation, psf, None, seed=5, index=index)
        samples.append(make_sample(str(index), movie.frames_THW, movie.emitters, movie.background_T))
    return samples


def test_a_step_has_as_many_targets_as_with_single_windows_and_an_epoch_as_many_steps(tmp_path: Path) -> None:
    samples = simulated(config_with(tmp_path), 10)
    single = TrainingWindows(samples, config_with(tmp_path, targets=1))
    shared = TrainingWindows(samples, config_with(tmp_path))
    assert (len(single), len(shared)) == (10, 3)
    assert single.steps_per_epoch == shared.steps_per_epoch == 2
    assert shared[0].adu_BTHW.shape == (2, TARGETS + 2, 16, 16)
    assert len(shared[0].background_N) == len(single[0].background_N) == 8
    assert len(shared.cuts(1)) == 1  # what is left of the epoch's three


def test_every_sample_has_its_turn(tmp_path: Path) -> None:
    samples = simulated(config_with(tmp_path), 10)
    windows = TrainingWindows(samples, config_with(tmp_path))
    seen = [cut.sample.name for step in range(20) for cut in windows.cuts(step)]  # ten epochs of three windows
    assert set(Counter(seen).values()) == {3}
    assert all(len(set(seen[turn : turn + 10])) == 10 for turn in (0, 10, 20))
    starts = {cut.first_frame for step in range(40) for cut in windows.cuts(step)}
    assert starts == set(range(12 - (TARGETS + 2) + 1))


@pytest.mark.parametrize("reverse", [False, True])
def test_its_errors_are_those_of_the_windows_that_it_replaces(tmp_path: Path, reverse: bool) -> None:
    config = config_with(tmp_path)
    samples = simulated(config, 3)
    run = setup(config, samples[:2], samples[2:], with_floor=False)
    run.model.network.eval()
    place = {"top": 2, "left": 3, "mirror_x": True, "reverse_time": reverse}
    shared = make_batch([Cut(samples[0], 4, **place)], TARGETS + 2, 16, 3)
    starts = range(4 + TARGETS - 1, 3, -1) if reverse else range(4, 4 + TARGETS)
    single = make_batch([Cut(samples[0], start, **place) for start in starts], 3, 16, 3)
    assert torch.equal(batch_targets(run, shared), batch_targets(run, single))
    with torch.inference_mode():
        torch.testing.assert_close(predict(run, shared), predict(run, single), rtol=1e-4, atol=1e-4)
        a, b = batch_errors(run, shared), batch_errors(run, single)
    torch.testing.assert_close(a.total_K, b.total_K, rtol=1e-4, atol=1e-5)
    assert torch.equal(a.count_K, b.count_K)


def test_fresh_windows_of_a_movie_share_no_target(tmp_path: Path) -> None:
    config = config_with(tmp_path, fresh_share=1.0)
    fresh = FreshWindows(config, torch.device("cpu"))
    cuts = fresh.cuts(0, fresh.windows_per_block)
    assert {cut.first_frame for cut in cuts} == {0, 4}  # of twelve frames, ten are targets and eight are used
    assert len({(id(cut.sample), cut.first_frame) for cut in cuts}) == len(cuts) == 16


def test_shuffled_inputs_and_the_light_elsewhere_are_of_other_windows() -> None:
    # Two windows of two targets; both targets of a window show the same.
    targets = torch.zeros(4, 6, 20, 20)
    targets[:2, 0, 5, 5] = targets[2:, 0, 14, 14] = 1
    light = torch.zeros(4, 20, 20)
    light[:2, 5, 5] = light[2:, 14, 14] = 100.0
    near, far = light_contrast(light, targets).signals(), light_contrast(light, targets, 2).signals()
    assert far["contrast"] == pytest.approx(2 * near["contrast"])  # half of the neighbours were the same window
    assert light_contrast(light[:2], targets[:2], 2).signals() == {}
    assert shuffle_gap(None, targets[:2], targets[:2], 2) is None  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="make batch_size a multiple of it"):
        config_with(tmp_path, targets=3)
    samples = simulated(config_with(tmp_path), 1)
    config = config_with(tmp_path, targets=16, batch=16)
    with pytest.raises(DataError, match="12 frames, fewer than the 18 of a training window"):
        check_sizes(samples, config.data)
