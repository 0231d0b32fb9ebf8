"""No number that is none reaches the weights, whatever the light, the emitters and the number format."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from adaloc.data.windows import load_samples, split_samples
from adaloc.localize.inference import localize_frames
from adaloc.models.model_file import load_model
from adaloc.training.checkpoint import BEST
from adaloc.training.run import Run, setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit
from small import small_config, small_data

EXTREMES: dict[str, dict[str, Any]] = {
    "500 emitters in a frame": {"image_size_px": 24, "emitters": {"density_per_um2": 95.0}},
    "no background": {"background": {"mean_photons": 0.0, "std_photons": 0.0}, "camera": {"read_noise_e": 0.0}},
    "one photon": {"emitters": {"photons_mean": 1.0, "photons_std": 0.5}},
    "a million photons": {"emitters": {"photons_mean": 1e6, "photons_std": 1e5}},
    "saturated pixels": {"camera": {"gain_e_per_adu": 0.001}},
}


def train(folder: Path, precision: str, **changes: Any) -> Run:
    config = small_config(folder, precision=precision, training={"epochs": 2}, **changes)
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    run = setup(config, training, validation, None)
    assert run.bfloat16 == (precision == "bfloat16")
    assert fit(run, Hooks(force=True)) == "finished"
    return run


def assert_sound(run: Run) -> None:
    for name, tensor in run.model.network.state_dict().items():
        assert bool(torch.isfinite(tensor).all()), name
    epochs = [event for event in read_events(run.log.path) if event["event"] == "epoch"]
    assert len(epochs) == 2
    assert all(np.isfinite(event["val_loss"]) for event in epochs)
    assert load_model(run.folder / BEST).network is not None  # which refuses weights that are not finite


@pytest.mark.parametrize(
    ("extreme", "precision"),
    [*((name, "float32") for name in EXTREMES), ("a million photons", "bfloat16"), ("no background", "bfloat16")],
)
def test_extreme_light_leaves_the_weights_finite(extreme: str, precision: str, tmp_path: Path) -> None:
    changes = {"simulation": EXTREMES[extreme], "data": {"min_photons": 0.0}}
    config = small_data(tmp_path, **changes)
    training = load_samples(split_samples(config.data)[0], config.simulation.camera)
    if extreme == "500 emitters in a frame":
        assert max(np.bincount(sample.emitters.frame).max() for sample in training) > 500
    if extreme == "saturated pixels":
        assert any((np.asarray(sample.frames_THW) == 65535).any() for sample in training)
    assert_sound(train(tmp_path, precision, **changes))


def test_frames_without_emitters_leave_the_weights_finite(tmp_path: Path) -> None:
    config = small_data(tmp_path)
    for path in config.data.root.glob("sample_*/emitters.h5"):
        with h5py.File(path, "r+") as file:
            frames = np.asarray(file["records/frame_ix"])
            only = frames == frames.min()
            kept = {name: np.asarray(file[f"records/{name}"])[only] for name in ("frame_ix", "id", "phot", "xyz")}
            del file["records"]
            for name, values in kept.items():
                file[f"records/{name}"] = values
    assert_sound(train(tmp_path, "bfloat16"))


def test_a_poisoned_batch_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_data(tmp_path, training={"epochs": 2})
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    run = setup(config, training, validation, None)
    sound = type(run.windows).__getitem__

    def poisoned(windows: Any, step: int) -> Any:
        batch = sound(windows, step)
        if step == 2:
            batch.adu_BTHW[:] = float("nan")
        return batch

    monkeypatch.setattr(type(run.windows), "__getitem__", poisoned)
    said: list[tuple[int, int, int]] = []
    assert fit(run, Hooks(on_skip=lambda *skipped: said.append(skipped))) == "finished"
    assert said == [(0, 3, 1)]
    skipped = [event for event in read_events(run.log.path) if event["event"] == "skipped"]
    assert [(event["epoch"], event["step"], event["in_a_row"]) for event in skipped] == said
    assert all(bool(torch.isfinite(tensor).all()) for tensor in run.model.network.state_dict().values())
    assert run.step == 2 * run.windows.steps_per_epoch


def test_a_model_on_black_and_on_saturated_frames_gives_finite_localizations(tmp_path: Path) -> None:
    small_data(tmp_path)
    model = train(tmp_path, "float32").model
    for level in (0, 65535):
        table = localize_frames(model, np.full((3, 20, 20), level, np.uint16), threshold=0.01)
        columns = (table.x, table.y, table.z, table.photons)
        assert all(bool(np.isfinite(column).all()) for column in columns)
