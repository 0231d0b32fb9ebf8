"""Averaged weights: their laws, what is kept of them, and that runs with every new option go on bit by bit."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adaloc.config import Config
from adaloc.data.windows import load_samples, split_samples
from adaloc.models.batch_norm import BatchNorm2d
from adaloc.models.model_file import load_model
from adaloc.training.averaging import MovingAverage, ScheduleFree, averaged_weights
from adaloc.training.checkpoint import BEST, LATEST, load_checkpoint
from adaloc.training.run import Run, setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit, validate
from small import small_config, small_data
from test_ranks import assert_same_run, torchrun, write_config
from test_training import StalledAtOnce

CONSTANT = {"scheduler_type": "constant", "warmup_epochs": 1}
SCHEDULE_FREE = {"optimizer": "schedule_free", "adaptive_lr_config": CONSTANT, "lr_first": 5e-3, "lr_second": 5e-3}
TERMS = {"focal_gamma": 1.0, "label_smoothing": 0.05, "multi_scale_weight": 0.3, "adversarial_weight": 0.2}
RANDOMIZATION = {
    "brightness_fraction": 0.2, "background_fraction": 0.2, "gain_fraction": 0.1, "baseline_adu": 5.0,
    "read_noise_e": 1.0,
}  # fmt: skip


def average_of(values: list[float], decay: float) -> float:
    """The moving average of weights that had these values after each step, as a sum with the weights of all steps."""
    decays = [min(decay, (1 + t) / (10 + t)) for t in range(1, len(values))]
    weights = [math.prod(decays)] + [(1 - d) * math.prod(decays[t + 1 :]) for t, d in enumerate(decays)]
    assert math.fsum(weights) == pytest.approx(1)
    return math.fsum(w * v for w, v in zip(weights, values, strict=True))


def test_the_average_of_constant_weights_is_the_weights() -> None:
    weight = nn.Parameter(torch.randn(5))
    optimizer = MovingAverage(torch.optim.SGD([weight], lr=0.0), 0.9)
    for _ in range(20):
        weight.grad = torch.randn(5)
        optimizer.step()
    assert torch.equal(optimizer.averages()[0], weight)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_average_of_a_known_sequence_has_its_closed_form(decay: float) -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = MovingAverage(torch.optim.SGD([weight], lr=1.0), decay)
    values = [0.0]
    for t in range(1, 40):
        weight.grad = torch.full_like(weight, -float(t))
        optimizer.step()
        values.append(float(weight.detach()))
        assert float(optimizer.averages()[0]) == pytest.approx(average_of(values, decay), rel=1e-12)


def test_averaged_weights_have_their_own_statistics_and_all_comes_back() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 1), BatchNorm2d(3))
    optimizer = MovingAverage(torch.optim.SGD(network.parameters(), lr=0.5), 0.9)
    batches = torch.randn(4, 8, 1, 6, 6) * 3 + 1
    for batch in batches:
        network(batch).square().mean().backward()
        optimizer.step()
    before = copy.deepcopy(network.state_dict())
    with averaged_weights(network, optimizer, lambda: [network(batch) for batch in batches]):
        assert not network.training
        weight, bias = optimizer.averages()[:2]
        assert torch.equal(network[0].weight, weight)
        assert not torch.equal(weight, before["0.weight"])
        outputs = nn.functional.conv2d(batches.flatten(0, 1), weight, bias)
        torch.testing.assert_close(network[1].running_mean, outputs.mean((0, 2, 3)))
        variances = torch.stack([nn.functional.conv2d(b, weight, bias).var((0, 2, 3)) for b in batches])
        torch.testing.assert_close(network[1].running_var, variances.mean(0))
    assert network.training
    assert network[1].momentum == 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_schedule_free_averages_are_the_packages_and_asking_changes_nothing() -> None:
    def make() -> tuple[nn.Parameter, ScheduleFree]:
        weight = nn.Parameter(torch.linspace(-1, 1, 7))
        return weight, ScheduleFree([{"params": [weight], "lr_ratio": 1.0}], 0.1, (0.9, 0.999), 1e-8, 0.01)

    (asked, first), (silent, second) = make(), make()
    for _ in range(10):
        for weight, optimizer in ((asked, first), (silent, second)):
            weight.grad = weight.detach() - 3
            optimizer.step()
        average = first.averages()[0]
    assert torch.equal(asked, silent)
    second.parts[0].eval()  # type: ignore[attr-defined]
    assert torch.equal(average, silent)
    assert not torch.equal(average, asked)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_data(tmp_path_factory.mktemp("averaging"))


def make_run(base: Config, folder: Path, resume: bool = False, **changes: Any) -> Run:
    config = small_config(base.data.root.parent, output={"save_dir": str(folder)}, **changes)
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    return setup(config, training, validation, load_checkpoint(folder / LATEST, config) if resume else None)


@pytest.mark.parametrize("recipe", [{"ema_decay": 0.8}, SCHEDULE_FREE], ids=["ema", "schedule_free"])
def test_the_best_model_has_the_averaged_weights_and_their_loss(
    data: Config, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    run = make_run(data, tmp_path, training={"epochs": 6, **recipe})
    fit(run, Hooks())
    best = min(e["val_loss"] for e in read_events(tmp_path / "log.jsonl") if e["event"] == "epoch")
    model = load_model(tmp_path / BEST)
    assert float(run.loss.total(validate(dataclasses.replace(run, model=model)))) == pytest.approx(best, rel=1e-5)
    kept, trained = (list(m.network.parameters()) for m in (model, run.model))
    assert not any(torch.equal(a, b) for a, b in zip(kept, trained, strict=True))


def weights(run: Run) -> list[torch.Tensor]:
    best = run.best_model
    assert best is not None
    return [tensor.clone() for tensor in (*run.model.network.state_dict().values(), *best.values())]


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"ema_decay": 0.9}},
        {"training": SCHEDULE_FREE},
        {"training": {"training_terms": TERMS, "ema_decay": 0.9, "accumulation_steps": 2}},
        {"data": {"randomization": RANDOMIZATION, "fresh_share": 0.5}},
    ],
    ids=["ema", "schedule_free", "terms", "randomization"],
)
def test_runs_with_options_go_on_bit_identically(data: Config, tmp_path: Path, changes: dict[str, Any]) -> None:
    """In the middle of an epoch, and in the next but one."""
    changes = {**changes, "training": {"epochs": 4, **changes.get("training", {})}}
    whole = make_run(data, tmp_path / "whole", **changes)
    fit(whole, Hooks())
    part = make_run(data, tmp_path / "part", **changes)
    for stop in (4, 8):
        assert fit(part, Hooks(should_stop=lambda: part.step >= stop)) == "interrupted"  # noqa: B023
        part = make_run(data, tmp_path / "part", resume=True, **changes)
    assert fit(part, Hooks()) == "finished"
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(part), strict=True))


def test_what_a_trial_takes_back_it_takes_from_average_and_adversary_too(
    data: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaloc.training.controller.TrendTest", StalledAtOnce)
    rate = {"anneal_fraction": 0.1, "find_lr": False, "warmup_epochs": 1}
    recipe = {"epochs": 40, "adaptive_lr_config": rate, "ema_decay": 0.9, "training_terms": {"adversarial_weight": 0.1}}
    run = make_run(data, tmp_path, training=recipe)
    steps: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def watch() -> bool:
        state = run.optimizer.state_dict()
        average, critic = state["inner"]["averages"][0], state["adversary"]["network"]["0.bias"]
        steps.append((run.place, average.clone(), critic.clone()))
        return len(steps) > 1 and run.place < steps[-2][0]

    assert fit(run, Hooks(should_stop=watch)) == "interrupted"
    trial = next(e["step"] for e in read_events(tmp_path / "log.jsonl") if e["event"] == "lr" and e["kind"] == "trial")
    place, average, critic = steps[trial - 1]
    assert steps[-1][0] == place, "the trial's second half begins where its first began"
    assert torch.equal(steps[-1][1], average)
    assert torch.equal(steps[-1][2], critic)
    assert not torch.equal(steps[-2][1], average)
    assert not torch.equal(steps[-2][2], critic)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="averages its weights in place of a schedule, and adaptive_plateau would"):
        small_config(tmp_path, training={"optimizer": "schedule_free"})
    with pytest.raises(ValueError, match="averages its weights itself; set ema_decay to 0"):
        small_config(tmp_path, training={**SCHEDULE_FREE, "ema_decay": 0.9})
    with pytest.raises(ValueError, match="the loss gaussian_mixture does not have"):
        small_config(tmp_path, training={"loss_type": "gaussian_mixture", "training_terms": {"focal_gamma": 1.0}})


def test_two_processes_train_with_average_and_terms_as_one_does(data: Config, tmp_path: Path) -> None:
    """The last batch of an epoch has one window, so one process has none of it."""
    training = {
        "epochs": 6, "ema_decay": 0.9, "training_terms": TERMS, "adaptive_lr_config": {"find_lr": False},
    }  # fmt: skip
    changes: dict[str, Any] = {"training": training, "device": "cpu", "data": {"randomization": RANDOMIZATION}}
    run = make_run(data, tmp_path / "whole", **changes)
    fit(run, Hooks(force=True))
    config = small_config(data.data.root.parent, output={"save_dir": str(tmp_path / "run")}, **changes)
    done = torchrun(write_config(config, tmp_path / "c.json"), "", "0")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", tmp_path / "whole")
