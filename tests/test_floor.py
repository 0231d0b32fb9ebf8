"""The physical floor of the validation loss: between 0 and knowing nothing, over the targets that are scored."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from adaloc.config import CHANNELS, Config
from adaloc.data.targets import encode_targets
from adaloc.data.windows import Cut, Sample, load_samples, measure_training_scaling, split_samples, validation_batches
from adaloc.models.losses import ChannelLoss, make_loss
from adaloc.monitor.analysis import analyse, captured_percent
from adaloc.monitor.live import plain_view
from adaloc.monitor.log import load_run
from adaloc.monitor.plots import plot_curves
from adaloc.monitor.report import html_report, text_report
from adaloc.monitor.summary import build_summary
from adaloc.monitor.verdict import verdict
from adaloc.simulation.crlb import JointInformation
from adaloc.training import floor as floor_module
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.floor import Floor, physical_floor
from adaloc.training.run import setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit
from monitor_runs import write_run
from small import small_data

GAUSSIAN = {"type": "gaussian", "roi_size_px": 15, "sigma_x_nm": 140, "sigma_y_nm": 140}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Six samples with enough emitters that every channel varies; the field is larger than the windows."""
    changes = {"emitters": {"density_per_um2": 2.0}, "background": {"block_frames": 2}}
    return small_data(tmp_path_factory.mktemp("floor"), simulation=changes)


def with_training(config: Config, **training: Any) -> Config:
    raw = config.model_dump(mode="json")
    raw["training"].update(training)
    return Config.model_validate(raw)


def parts(config: Config) -> tuple[list[Sample], ChannelLoss]:
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    return validation, make_loss(config.training, measure_training_scaling(training, config))


def floor_of(config: Config) -> tuple[Floor, ChannelLoss]:
    validation, loss = parts(config)
    return physical_floor(validation, config, loss), loss


def known(floor: Floor) -> tuple[float, np.ndarray[Any, Any]]:
    assert floor.loss is not None and floor.channels is not None, floor.unknown_because
    return floor.loss, np.array(floor.channels)


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"unified_loss_config": {"normalization": "raw"}},
        {"loss_type": "simple_combined"},
        {"loss_type": "simple_combined", "simple_combined_config": {"normalization": "raw"}},
    ],
    ids=["information", "raw", "absolute", "absolute_raw"],
)
def test_it_lies_between_perfection_and_knowing_nothing(data: Config, training: dict[str, Any]) -> None:
    floor, loss = floor_of(with_training(data, **training))
    total, channels = known(floor)
    references = np.array(loss.references) if loss.raw else np.ones(6)
    assert (channels > 0).all()
    assert (channels < references).all()
    assert 0 < total < loss.no_information_loss
    assert total == pytest.approx(float(np.dot(loss.weights, channels)))


def test_raw_and_information_units_are_one_floor(data: Config) -> None:
    _, channels = known(floor_of(data)[0])
    raw, loss = floor_of(with_training(data, unified_loss_config={"normalization": "raw"}))
    np.testing.assert_allclose(known(raw)[1] / loss.references, channels, rtol=1e-9)


def test_an_absolute_error_is_below_the_root_of_the_squared_one(data: Config) -> None:
    """sqrt(2/pi) of the root mean square where all variances are equal, below it where they are not (Jensen)."""
    raw = {"normalization": "raw"}
    squared = known(floor_of(with_training(data, unified_loss_config=raw))[0])[1]
    absolute, _ = floor_of(with_training(data, loss_type="simple_combined", simple_combined_config=raw))
    ratio = known(absolute)[1][1:5] / np.sqrt(squared[1:5])
    assert (ratio <= math.sqrt(2 / math.pi)).all()
    assert (ratio > 0.3).all()


def test_it_scales_with_the_weights(data: Config) -> None:
    weights = np.array([1.0, 1.0, 0.5, 2.0, 1.0, 0.5])
    one, channels = known(floor_of(with_training(data, unified_loss_config={"channel_weights": weights.tolist()}))[0])
    scaled = with_training(data, unified_loss_config={"channel_weights": (3 * weights).tolist()})
    three, same = known(floor_of(scaled)[0])
    assert three == pytest.approx(3 * one)
    np.testing.assert_allclose(same, channels)


def test_it_is_over_the_targets_that_validation_scores(data: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where light tells nothing, each target's floor is its prior: the sums count what the loss counts."""
    validation, loss = parts(data)
    joint = floor_module.joint_information

    def blind(*arguments: Any) -> JointInformation:
        information = joint(*arguments)
        return dataclasses.replace(information, matrix_PP=0 * information.matrix_PP)

    monkeypatch.setattr(floor_module, "joint_information", blind)
    physics = floor_module._read_physics(validation, data)
    sums = floor_module._bound_sums(validation, data, loss, physics)
    scored = None
    for batch in validation_batches(validation, data.data):
        size = batch.adu_BTHW.shape[-2:]
        targets = encode_targets(batch.emitters, batch.background_N, size, data.data.min_photons)
        part = loss.sums(torch.zeros_like(targets), targets)
        scored = part if scored is None else scored + part
    assert scored is not None
    assert sums.count_K[1:5].tolist() == scored.count_K[1:5].tolist()
    np.testing.assert_allclose(loss.channels(sums)[1:].numpy(), 1, rtol=1e-5)


def test_each_target_is_the_brightest_of_its_pixel(data: Config) -> None:
    validation, _ = parts(data)
    physics = floor_module._read_physics(validation, data)
    for cut in floor_module.validation_cuts(validation, data.data):
        moved, window, targets = floor_module._scored_window(cut, data, physics)
        assert (moved.first_frame, moved.top, moved.left) == (cut.first_frame, cut.top, cut.left)
        pixel = np.rint(np.stack([window.y_M, window.x_M], axis=1)).astype(int)
        photons = window.photons_MT[:, 1]
        for emitter in range(len(pixel)):
            rivals = (pixel == pixel[emitter]).all(axis=1)
            inside = ((pixel[emitter] >= 0) & (pixel[emitter] < data.data.image_size)).all()
            chosen = inside and photons[emitter] >= max(data.data.min_photons, photons[rivals].max())
            assert (emitter in targets) == chosen


def test_more_light_and_less_noise_lower_it(tmp_path: Path) -> None:
    losses = []
    for name, changes in {
        "bright": {"emitters": {"photons_mean": 7000.0}},
        "dim": {"emitters": {"photons_mean": 2000.0, "photons_std": 800.0}},
        "noisy": {"emitters": {"photons_mean": 2000.0, "photons_std": 800.0}, "camera": {"read_noise_e": 40.0}},
    }.items():
        changes = {**changes, "num_samples": 12, "num_frames": 30}
        config = small_data(tmp_path / name, simulation=changes, data={"validation_windows_per_sample": 8})
        losses.append(known(floor_of(config)[0])[0])
    assert losses[0] < losses[1] < losses[2]


def test_dense_emitters_are_harder(tmp_path: Path) -> None:
    losses = []
    for density in (0.3, 3.0):
        changes = {"emitters": {"density_per_um2": density}, "num_samples": 8, "num_frames": 30}
        config = small_data(
            tmp_path / f"{density}",
            simulation=changes,
            data={"validation_windows_per_sample": 8, "min_photons": 1000.0},
        )
        losses.append(known(floor_of(config)[0])[0])
    assert losses[0] < losses[1]


def test_channels_that_never_vary_have_no_floor(tmp_path: Path) -> None:
    """A flat PSF at one depth, every molecule alike: only x and y vary, and the rest counts as known."""
    emitters = {"z_min_nm": 0.0, "z_max_nm": 0.0, "photons_std": 0.0, "whole_frames": True}
    simulation = {"psf": GAUSSIAN, "emitters": emitters, "background": {"std_photons": 0.0}}
    floor, loss = floor_of(small_data(tmp_path, simulation=simulation))
    total, channels = known(floor)
    assert channels[3:].tolist() == [0, 0, 0]
    assert (channels[1:3] > 0).all() and (channels[1:3] < 1).all()
    assert loss.no_information_loss == 3
    assert total == pytest.approx(channels[:3].sum())


def test_a_single_frame_tells_less_than_three(data: Config) -> None:
    """The targets of one frame have no neighbours to lean on."""
    raw = data.model_dump(mode="json")
    raw["data"]["consecutive_frames"] = 1
    alone = Config.model_validate(raw)
    validation, loss = parts(data)
    three = floor_module._bound_sums(validation, data, loss, floor_module._read_physics(validation, data))
    centres = [
        dataclasses.replace(c, first_frame=c.first_frame + 1)
        for c in floor_module.validation_cuts(validation, data.data)
    ]
    physics = floor_module._read_physics(validation, alone)
    total = 0.0
    for cut in centres:
        _, window, targets = floor_module._scored_window(cut, alone, physics)
        information = floor_module.joint_information(physics.psf, physics.simulation.camera, window)
        prior = floor_module._prior(window, loss.scaling, data.data.min_photons)
        variance = np.diagonal(floor_module.covariance_with_prior(information.matrix_PP, prior))
        total += (variance[information.position_M3[targets, 0]] / loss.scaling.unit()[0] ** 2).sum()
    assert float(three.total_K[1]) < total


def test_an_emccd_has_the_higher_floor(tmp_path: Path) -> None:
    losses = []
    for gain in (1.0, 300.0):
        camera = {"em_gain": gain, "gain_e_per_adu": 0.5 if gain == 1 else 5.0, "read_noise_e": 1.0}
        config = small_data(tmp_path / f"{gain}", simulation={"camera": camera})
        losses.append(known(floor_of(config)[0])[0])
    assert losses[0] < losses[1]


def first_whole_window(data: Config) -> tuple[Config, floor_module._Physics, Cut, ChannelLoss]:
    """Windows of the whole frame, 20 px, and the first of them."""
    raw = data.model_dump(mode="json")
    raw["data"]["image_size"] = 20
    whole = Config.model_validate(raw)
    validation, loss = parts(whole)
    physics = floor_module._read_physics(validation, whole)
    return whole, physics, floor_module.validation_cuts(validation, whole.data)[0], loss


def test_large_windows_are_scored_in_their_middle(data: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets whose light the cut edge would cut are left out; those that stay keep their bound."""
    whole, physics, cut, loss = first_whole_window(data)
    _, _, all_targets = floor_module._scored_window(cut, whole, physics)
    monkeypatch.setattr(floor_module, "_LARGEST_FIELD_PX", 18)
    moved, window, targets = floor_module._scored_window(cut, whole, physics)
    assert (moved.top - cut.top, moved.left - cut.left) == (1, 1)
    assert window.size_px == (18, 18)
    assert len(targets) < len(all_targets)
    x, y = window.x_M[targets], window.y_M[targets]
    assert (np.abs(x - 8.5) <= 1.5).all() and (np.abs(y - 8.5) <= 1.5).all()
    assert loss.no_information_loss == 5.5


def test_dense_windows_are_scored_in_a_smaller_middle(data: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix of all that overlaps costs the cube of its parameters, so they are bounded, whatever the density."""
    whole, physics, cut, _ = first_whole_window(data)
    window, targets = floor_module._scored_window(cut, whole, physics)[1:]
    num_parameters = 3 * len(window.x_M) + np.count_nonzero(window.photons_MT) + 3
    monkeypatch.setattr(floor_module, "_LEAST_SCORED_PX", 1)
    monkeypatch.setattr(floor_module, "_MOST_PARAMETERS", num_parameters)
    assert floor_module._scored_window(cut, whole, physics)[1].size_px == (20, 20)
    monkeypatch.setattr(floor_module, "_MOST_PARAMETERS", num_parameters - 20)
    moved, smaller, fewer = floor_module._scored_window(cut, whole, physics)
    assert moved.top - cut.top == (20 - smaller.size_px[0]) // 2 > 0
    assert {*np.round(smaller.x_M[fewer] + moved.left, 6)} < {*np.round(window.x_M[targets] + cut.left, 6)}
    monkeypatch.setattr(floor_module, "_MOST_PARAMETERS", 1)
    assert floor_module._scored_window(cut, whole, physics)[1].size_px == (16, 16)  # 1 px more than an emitter's image


def test_what_is_too_dense_to_compute_is_unknown(data: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor_module, "_TOO_MANY_PARAMETERS", 10)
    floor, _ = floor_of(data)
    assert floor.loss is None
    assert "so dense that" in floor.unknown_because


def test_work_without_end_is_cut_evenly(data: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    validation, _ = parts(data)
    physics = floor_module._read_physics(validation, data)
    scored = [
        floor_module._scored_window(c, data, physics) for c in floor_module.validation_cuts(validation, data.data)
    ]
    assert floor_module._affordable(scored) == scored
    monkeypatch.setattr(floor_module, "_MOST_SECONDS", 1e-6)
    assert floor_module._affordable(scored) == scored[:1]


# Unknown


def copy_of(data: Config, folder: Path) -> Config:
    """The data in a folder of their own, to be spoilt."""
    shutil.copytree(data.data.root, folder / "data")
    raw = data.model_dump(mode="json")
    raw["data"]["root"] = str(folder / "data")
    return Config.model_validate(raw)


def edit(config: Config, change: Any) -> None:
    for path in sorted(config.data.root.glob("sample_*/emitters.h5")):
        with h5py.File(path, "r+") as file:
            change(file)


def swap_x_and_y(file: Any) -> None:
    file["records/xyz"][:] = file["records/xyz"][:][:, [1, 0, 2]]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda c: (c.data.root / "dataset.json").unlink(), r"no dataset\.json that says how it was made"),
        (lambda c: (c.data.root / "dataset.json").write_text("{"), "is broken"),
        (lambda c: (c.data.root / "dataset.json").write_text('{"simulation": {"psf": 3}}'), "problems"),
        (lambda c: edit(c, lambda f: f.__delitem__("zernike_coeffs")), "no Zernike coefficients"),
        (lambda c: edit(c, lambda f: f.__delitem__("records/id")), "records/id"),
        (lambda c: edit(c, lambda f: f["records/id"].__setitem__(0, 10**6)), "without Zernike coefficients"),
        (lambda c: edit(c, swap_x_and_y), r"frames are not what dataset\.json describes"),
    ],
    ids=["no description", "torn", "other keys", "no coefficients", "no ids", "foreign ids", "x and y swapped"],
)
def test_what_the_data_do_not_say_is_unknown(data: Config, tmp_path: Path, spoil: Any, reason: str) -> None:
    config = copy_of(data, tmp_path)
    spoil(config)
    floor, _ = floor_of(config)
    assert floor.loss is None
    assert floor.channels is None
    with pytest.raises(AssertionError, match=reason):
        known(floor)


def test_dim_data_have_no_targets_to_bound(data: Config) -> None:
    validation, loss = parts(data)
    raw = data.model_dump(mode="json")
    raw["data"]["min_photons"] = 1e8
    assert "no emitter" in physical_floor(validation, Config.model_validate(raw), loss).unknown_because


def test_a_gaussian_needs_no_coefficients(tmp_path: Path) -> None:
    config = small_data(tmp_path, simulation={"psf": GAUSSIAN, "num_samples": 4})
    known(floor_of(config)[0])
    (config.data.root / "dataset.json").unlink()
    assert floor_of(config)[0].loss is None


# In a run


def test_a_new_run_logs_it_and_a_resumed_one_keeps_it(data: Config, tmp_path: Path) -> None:
    raw = data.model_dump(mode="json")
    raw["output"]["save_dir"], raw["training"]["epochs"] = str(tmp_path), 2
    config = Config.model_validate(raw)
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    run = setup(config, training, validation)
    assert run.floor is not None
    total, channels = known(run.floor)
    fit(run, Hooks(should_stop=lambda: run.step >= 2))
    rest = setup(config, training, validation, load_checkpoint(tmp_path / LATEST, config))
    assert rest.floor is None
    fit(rest, Hooks())
    start = read_events(tmp_path / "log.jsonl")[0]
    assert start["floor"] == total
    assert list(start["floor_channels"]) == list(CHANNELS)
    assert list(start["floor_channels"].values()) == channels.tolist()
    assert start["floor_unknown_because"] == ""
    logged = load_run(tmp_path)
    assert logged.floor == total
    summary = build_summary(logged)
    best = summary["val_loss"]["best"]
    assert summary["captured_information"] == pytest.approx(100 * (5.5 - best) / (5.5 - total))
    assert setup(config, training, validation, with_floor=False).floor is None


# What the monitor shows


def falling(epoch: int) -> float:
    return 0.6 + 4.9 * math.exp(-epoch / 10)


def legend(folder: Path, panel: int) -> str:
    return "\n".join(t.get_text() for t in plot_curves(load_run(folder)).axes[panel].get_legend().get_texts())


def test_a_known_floor_stands_everywhere(tmp_path: Path) -> None:
    channels = dict(zip(CHANNELS, (0, 0.21, 0.22, 0.01, 0.02, 0.002), strict=True))
    write_run(tmp_path, falling, 60, start={"floor": 0.45, "floor_channels": channels})
    run = load_run(tmp_path)
    captured = 100 * (5.5 - analyse(run).best_loss) / (5.5 - 0.45)
    words = f"captures {captured:.1f} % of the information"
    assert words in verdict(run)
    for text in (verdict(run), text_report(run), html_report(run), plain_view(run)):
        assert words in text
        assert "0.45" in text
    summary = build_summary(run)
    assert summary["physical_floor"] == 0.45
    assert summary["captured_information"] == pytest.approx(captured)
    assert summary["explained_percent"] == pytest.approx(100 * (1 - analyse(run).best_loss / 5.5))
    assert "physical floor 0.45" in legend(tmp_path, 0)
    assert "(floor 0.21)" in legend(tmp_path, 2)
    lines = [line.get_ydata() for line in plot_curves(run).axes[0].lines]
    assert any(np.all(np.asarray(y) == 0.45) for y in lines if len(y))


@pytest.mark.parametrize("start", [{}, {"floor": None, "floor_unknown_because": "there is no dataset.json"}])
def test_an_unknown_floor_is_said_in_words(tmp_path: Path, start: dict[str, Any]) -> None:
    write_run(tmp_path, falling, 60, start=start)
    run = load_run(tmp_path)
    reason = start.get("floor_unknown_because", "the log does not say it")
    for text in (text_report(run), html_report(run), plain_view(run)):
        assert "unknown" in text
        assert reason in text
    assert "explains" in verdict(run)
    assert "captures" not in verdict(run)
    summary = json.loads(json.dumps(build_summary(run), allow_nan=False))
    assert summary["physical_floor"] is None
    assert summary["captured_information"] is None
    assert "physical floor unknown" in legend(tmp_path, 0)


def test_captured_information_does_not_depend_on_the_units() -> None:
    assert captured_percent(1.1, 5.5, 0.4) == pytest.approx(captured_percent(33 + 7, 165 + 7, 12 + 7))
    assert captured_percent(6.0, 5.5, 0.4) < 0
    for unknown in ((math.nan, 5.5, 0.4), (1.0, 5.5, math.nan), (1.0, math.nan, 0.4), (1.0, 5.5, 5.5)):
        assert math.isnan(captured_percent(*unknown))
