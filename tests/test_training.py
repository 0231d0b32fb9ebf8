"""The training loop on small data: it learns, it can stop anywhere and go on exactly, and it fails in words."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from adaloc.config import Config
from adaloc.data.windows import load_samples, split_samples
from adaloc.errors import AdalocError, CheckpointError
from adaloc.models.model_file import load_model, save_tensors
from adaloc.training.checkpoint import BEST, LATEST, load_checkpoint
from adaloc.training.loader import iterate_batches
from adaloc.training.run import Run, setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit, save, validate
from adaloc.training.trend import Trend, TrendTest
from small import small_config, small_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_data(tmp_path_factory.mktemp("training"))


def make_run(config: Config, folder: Path, resume: bool = False, **changes: Any) -> Run:
    config = small_config(config.data.root.parent, output={"save_dir": str(folder)}, **changes)
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    return setup(config, training, validation, load_checkpoint(folder / LATEST, config) if resume else None)


def weights(run: Run) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in run.model.network.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_run_learns_and_leaves_its_files(data: Config, tmp_path: Path) -> None:
    run = make_run(data, tmp_path, training={"epochs": 60, "lr_first": 5e-3, "lr_second": 5e-3,
                                            "adaptive_lr_config": {"find_lr": False}})  # fmt: skip
    assert fit(run, Hooks()) == "finished"
    events = read_events(tmp_path / "log.jsonl")
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["start", "initial"]
    assert kinds[-1] == "end"
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == list(range(60))
    assert events[0]["no_information_loss"] == 5.5
    assert events[1]["val_loss"] == pytest.approx(5.5, rel=0.25)
    assert min(event["val_loss"] for event in epochs) < 0.9 * events[1]["val_loss"]
    assert epochs[0]["lr"] == pytest.approx(5e-3)  # after the warmup's one epoch
    assert all(math.isfinite(event["grad_norm"]) for event in epochs)
    best = load_model(tmp_path / BEST)
    batch = run.validation[0]
    assert best.network.eval()(torch.zeros_like(batch.adu_BTHW)).isfinite().all()
    assert any((tmp_path / "tensorboard").iterdir())


def test_the_best_model_scores_the_best_loss(data: Config, tmp_path: Path) -> None:
    run = make_run(data, tmp_path, training={"epochs": 6})
    fit(run, Hooks())
    best = min(e["val_loss"] for e in read_events(tmp_path / "log.jsonl") if e["event"] == "epoch")
    loaded = dataclasses.replace(run, model=load_model(tmp_path / BEST))
    assert float(run.loss.total(validate(loaded))) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_stopped_run_goes_on_bit_identically(data: Config, tmp_path: Path, stop_after: int) -> None:
    """Stopped in the middle of an epoch, at its end, and in the next one (three steps an epoch)."""
    whole = make_run(data, tmp_path / "whole", training={"epochs": 4})
    fit(whole, Hooks())
    part = make_run(data, tmp_path / "part", training={"epochs": 4})
    assert part.windows.steps_per_epoch == 3
    assert fit(part, Hooks(should_stop=lambda: part.step >= stop_after)) == "interrupted"
    assert part.step == stop_after
    rest = make_run(data, tmp_path / "part", resume=True, training={"epochs": 4})
    assert fit(rest, Hooks()) == "finished"
    assert same(weights(whole), weights(rest))
    assert curve(tmp_path / "whole") == curve(tmp_path / "part")


class StalledAtOnce(TrendTest):
    """A test that calls the loss stalled at every look: real stalls take hundreds of steps."""

    def observe(self, loss: float) -> Trend | None:
        look = super().observe(loss)
        return None if look is None else dataclasses.replace(look, verdict="stalled")


def test_a_run_stopped_in_a_trial_goes_on_bit_identically(
    data: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the trial's two halves the checkpoint holds the states that it may go back to, and the place in the data."""
    monkeypatch.setattr("adaloc.training.controller.TrendTest", StalledAtOnce)
    recipe = {"epochs": 40, "adaptive_lr_config": {"anneal_fraction": 0.1, "find_lr": False, "warmup_epochs": 1}}
    whole = make_run(data, tmp_path / "whole", training=recipe)
    fit(whole, Hooks())
    events = read_events(tmp_path / "whole" / "log.jsonl")
    kinds = {event["kind"]: event["step"] for event in events if event["event"] == "lr"}
    assert "trial" in kinds
    assert {"boost", "revert"} & kinds.keys()
    assert whole.place < whole.step == 120, "a trial repeats batches, and its steps count"
    part = make_run(data, tmp_path / "part", training=recipe)
    for stop in (kinds["trial"] - 2, kinds["trial"] + 7, kinds["trial"] + 27):
        assert fit(part, Hooks(should_stop=lambda: part.step >= stop)) == "interrupted"  # noqa: B023
        part = make_run(data, tmp_path / "part", resume=True, training=recipe)
    assert fit(part, Hooks()) == "finished"
    assert same(weights(whole), weights(part))
    assert curve(tmp_path / "whole") == curve(tmp_path / "part")
    again = read_events(tmp_path / "part" / "log.jsonl")
    for kind in ("lr", "trend"):
        assert [e["step"] for e in events if e["event"] == kind] == [e["step"] for e in again if e["event"] == kind]


def test_the_initial_rate_does_not_matter(data: Config, tmp_path: Path) -> None:
    runs = []
    for lr in (1e-6, 1e-1):
        runs.append(make_run(data, tmp_path / str(lr), training={"epochs": 4, "lr_first": lr, "lr_second": lr}))
        fit(runs[-1], Hooks())
    assert same(weights(runs[0]), weights(runs[1]))


def curve(folder: Path) -> list[tuple[float, ...]]:
    events = [event for event in read_events(folder / "log.jsonl") if event["event"] == "epoch"]
    return [(event["epoch"], event["train_loss"], event["val_loss"], event["lr"]) for event in events]


def test_the_number_of_workers_changes_nothing(data: Config, tmp_path: Path) -> None:
    windows = make_run(data, tmp_path).windows
    alone, helped = (list(iterate_batches(windows, range(2, 7), workers)) for workers in (0, 2))
    assert len(alone) == 5
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.adu_BTHW, b.adu_BTHW)
        assert torch.equal(a.emitters.x, b.emitters.x)


def test_seeds_differ_and_repeat(data: Config, tmp_path: Path) -> None:
    runs = [make_run(data, tmp_path / str(i), seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert same(weights(runs[0]), weights(runs[1]))
    assert not same(weights(runs[0]), weights(runs[2]))


def test_the_second_stages_rate_keeps_its_ratio(data: Config, tmp_path: Path) -> None:
    run = make_run(data, tmp_path, training={"epochs": 1, "lr_first": 1e-3, "lr_second": 2e-4})
    fit(run, Hooks())
    first, second, *others = (group["lr"] for group in run.optimizer.param_groups)
    assert second == pytest.approx(first / 5)
    assert others == [first, second]


def test_metrics_are_asked_for_on_time_and_at_the_end(data: Config, tmp_path: Path) -> None:
    from adaloc.training.recording import Score

    run = make_run(data, tmp_path, training={"epochs": 5})
    fit(run, Hooks(score=lambda *_: Score({"jaccard": 0.5, "rmse_axial_nm": None})))
    assert [e["epoch"] for e in read_events(tmp_path / "log.jsonl") if e["event"] == "metrics"] == [1, 3, 4]


def test_a_poisoned_step_leaves_the_weights_alone_and_a_poisoned_run_says_so(
    data: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(data, tmp_path, training={"epochs": 40})
    batch = run.windows[0]
    batch.adu_BTHW[:] = float("nan")
    before = weights(run)
    monkeypatch.setattr(type(run.windows), "__getitem__", lambda *_: batch)
    with pytest.raises(AdalocError, match="not a number at every learning rate"):
        fit(run, Hooks(force=True))  # else it stops before, as its batches repeat
    assert same(before, weights(run))


def test_a_full_disk_keeps_the_last_checkpoint(data: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(data, tmp_path)
    save(run)
    good = (tmp_path / LATEST).read_bytes()

    def full(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(AdalocError, match="disk is full"):
        save(run)
    assert (tmp_path / LATEST).read_bytes() == good
    assert not list(tmp_path.glob("*.tmp*"))


def test_checkpoints_that_cannot_be_used_say_why(data: Config, tmp_path: Path) -> None:
    run = make_run(data, tmp_path)
    save(run)
    config, path = run.config, tmp_path / LATEST
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "missing.pth", config)
    with pytest.raises(CheckpointError, match=r"another network: network is .*'base_channels': 4"):
        load_checkpoint(path, small_config(tmp_path, network={"base_channels": 8}))
    cut = tmp_path / "cut.pth"
    cut.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="cut off"):
        load_checkpoint(cut, config)
    save_tensors(tmp_path / "other.pth", {"format": "something"})
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        load_checkpoint(tmp_path / "other.pth", config)
    evil = tmp_path / "evil.pth"
    torch.save({"format": Evil()}, evil)
    with pytest.raises(CheckpointError, match="execute code"):
        load_checkpoint(evil, config)
    assert not (tmp_path / "executed").exists()
    state = json.loads(json.dumps({"format": "adaloc-checkpoint", "format_version": 99}))
    save_tensors(tmp_path / "new.pth", state)
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path / "new.pth", config)


class Evil:
    """A pickle that would make a file when loaded."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))
