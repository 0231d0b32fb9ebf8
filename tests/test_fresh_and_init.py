"""Fresh windows: what a run draws is a function of its place. Fine-tuning: it starts as the very model it is given."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaloc.config import Config
from adaloc.data.fresh import FreshWindows, MixedWindows, make_windows
from adaloc.data.training_windows import TrainingWindows
from adaloc.data.windows import Sample, load_samples, split_samples
from adaloc.errors import CheckpointError, DataError
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.learning_rate import LearningRate
from adaloc.training.run import Run, setup
from adaloc.training.trainer import Hooks, fit
from small import small_config, small_data

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_data(tmp_path_factory.mktemp("fresh"))


def config_of(data: Config, folder: Path, share: float, reuse: int = 1, **changes: Any) -> Config:
    fresh = {"fresh_share": share, "fresh_reuse": reuse}
    output = {"save_dir": str(folder)}
    return small_config(data.data.root.parent, data=fresh, output=output, **changes)


def samples_of(config: Config) -> tuple[list[Sample], list[Sample]]:
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    return training, validation


def make_run(data: Config, folder: Path, share: float, resume: bool = False, **changes: Any) -> Run:
    config = config_of(data, folder, share, **changes)
    return setup(config, *samples_of(config), load_checkpoint(folder / LATEST, config) if resume else None)


def test_a_block_uses_each_of_its_windows_as_often_as_said_and_no_other_block_has_them(
    data: Config, tmp_path: Path
) -> None:
    fresh = FreshWindows(config_of(data, tmp_path, 1.0, reuse=3), CPU)
    size = fresh.windows_per_block
    assert size == 3 * 8 * 6  # three uses, eight movies, six windows of three frames in eight
    first, second = fresh.cuts(0, size), fresh.cuts(size, 2 * size)
    assert set(Counter((id(cut.sample), cut.first_frame) for cut in first).values()) == {3}
    frames = [np.stack([cut.sample.frames_THW for cut in part]) for part in (first, second)]
    assert not (frames[0][:, None, 0] == frames[1][None, :, 0]).all(axis=(2, 3)).any()


def test_windows_are_a_function_of_seed_and_place(data: Config, tmp_path: Path) -> None:
    config = config_of(data, tmp_path, 1.0)
    forward, other = FreshWindows(config, CPU), FreshWindows(config, CPU)
    size = forward.windows_per_block
    for place in (0, size, 3 * size, size, 0):  # goes back over more blocks than are kept
        forward.cuts(place, place + 1)
    for place in (size + 5, 0, 2 * size):
        (a,), (b,) = forward.cuts(place, place + 1), other.cuts(place, place + 1)
        assert np.array_equal(a.sample.frames_THW, b.sample.frames_THW)
        assert dataclasses.replace(a, sample=b.sample) == b
    changed = FreshWindows(config.model_copy(update={"seed": 1}), CPU).cuts(0, 1)[0]
    assert not np.array_equal(changed.sample.frames_THW, forward.cuts(0, 1)[0].sample.frames_THW)


def test_the_share_holds_and_no_share_is_the_sample_folders_alone(data: Config, tmp_path: Path) -> None:
    training, _ = samples_of(data)
    plain = make_windows(training, config_of(data, tmp_path, 0.0), CPU)
    assert type(plain) is TrainingWindows
    mixed = make_windows(training, config_of(data, tmp_path, 0.3), CPU)
    assert isinstance(mixed, MixedWindows)
    cuts = [cut for step in range(60) for cut in mixed.cuts(step)]  # 20 epochs of 5 windows
    assert len(cuts) == 100
    assert sum(cut.sample.name.startswith("fresh") for cut in cuts) == 30
    for step in range(9):
        kept = [cut for cut in mixed.cuts(step) if not cut.sample.name.startswith("fresh")]
        assert kept == plain.cuts(step)[: len(kept)]


def test_fresh_data_are_like_those_of_the_sample_folders(data: Config, tmp_path: Path) -> None:
    fresh = FreshWindows(config_of(data, tmp_path, 1.0), CPU)
    movies = {id(cut.sample): cut.sample for cut in fresh.cuts(0, fresh.windows_per_block)}.values()
    training, _ = samples_of(data)
    new, old = (np.concatenate([s.frames_THW.ravel() for s in part]).astype(float) for part in (movies, training))
    assert new.mean() == pytest.approx(old.mean(), rel=0.05)
    assert np.median(new) == pytest.approx(np.median(old), rel=0.05)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_run_on_fresh_data_goes_on_bit_identically(data: Config, tmp_path: Path, share: float) -> None:
    whole = make_run(data, tmp_path / "whole", share, training={"epochs": 14})
    fit(whole, Hooks())  # 70 windows: more than a block
    part = make_run(data, tmp_path / "part", share, training={"epochs": 14})
    fit(part, Hooks(should_stop=lambda: part.step >= 32))
    part = make_run(data, tmp_path / "part", share, resume=True, training={"epochs": 14})
    fit(part, Hooks())
    a, b = whole.model.network.state_dict(), part.model.network.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_data_of_another_microscope_and_loader_processes_are_refused(data: Config, tmp_path: Path) -> None:
    other = config_of(data, tmp_path, 1.0, simulation={"emitters": {"density_per_um2": 2.0}})
    with pytest.raises(DataError, match="emitters"):
        FreshWindows(other, CPU)
    with pytest.raises(ValueError, match="num_workers"):
        small_config(tmp_path, data={"fresh_share": 0.5, "num_workers": 2})


def test_a_fine_tuned_network_starts_as_the_model_it_is_given(data: Config, tmp_path: Path) -> None:
    """On data of another density, background and depth, whose scales differ, it predicts the same photons and nm."""
    source = make_run(data, tmp_path / "source", 0.0)
    fit(source, Hooks())
    changes = {"emitters": {"z_min_nm": -300, "z_max_nm": 500}, "background": {"mean_photons": 60}}
    other = small_data(tmp_path / "other", simulation=changes)
    run = setup(other, *samples_of(other), init=source.model)
    assert run.model.scaling.std != source.model.scaling.std
    assert run.loss.no_information_loss == 5.5
    batch = run.validation[0].adu_BTHW
    predicted = []
    for model in (source.model, run.model):
        model.network.eval()
        with torch.inference_mode():
            predicted.append(model.scaling.to_physical(model.predict(batch).flatten(0, 1)))
    torch.testing.assert_close(predicted[0], predicted[1], rtol=1e-4, atol=1e-3)
    assert run.step == 0
    assert not any(state for state in run.optimizer.state_dict()["parts"][0]["state"].values()), "no old moments"


def test_a_model_of_another_network_is_refused(data: Config, tmp_path: Path) -> None:
    source = make_run(data, tmp_path, 0.0)
    wider = small_config(data.data.root.parent, network={"base_channels": 5})
    with pytest.raises(CheckpointError, match=r"network\.base_channels is 4 there and 5"):
        setup(wider, *samples_of(wider), init=source.model)


def test_a_batch_in_parts_makes_the_step_of_the_whole_batch(data: Config, tmp_path: Path) -> None:
    """Without batch normalization, which sees the parts."""
    results = []
    for parts in (1, 2):
        recipe = {"epochs": 1, "accumulation_steps": parts, "optimizer": "sgd"}
        run = make_run(data, tmp_path / str(parts), 0.0, training=recipe, network={"normalization": "none"})
        fit(run, Hooks(should_stop=lambda: run.step >= 1))  # noqa: B023
        results.append(run)
    assert results[0].progress.losses == pytest.approx(results[1].progress.losses, rel=1e-5)
    assert results[0].progress.grad_norms == pytest.approx(results[1].progress.grad_norms, rel=1e-4)
    for a, b in zip(*(run.model.network.parameters() for run in results), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_cyclical_rate_goes_from_the_lowest_to_the_full_rate_and_back(data: Config) -> None:
    settings = {"scheduler_type": "cyclical", "cycle_epochs": 4, "plateau_min_lr": 1e-5}
    config = data.training.adaptive_lr_config.model_copy(update=settings)
    rate = LearningRate(config, 1e-3, epochs=8, steps_per_epoch=1)
    rates = []
    for _ in range(8):
        rates.append(rate.rate)
        rate.observe_step(1.0, None)
    assert rates == pytest.approx([1e-5, 5.05e-4, 1e-3, 5.05e-4] * 2)
