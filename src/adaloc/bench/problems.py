"""Two problems on which learning-rate methods are compared: reference data, and handwritten digits as a stranger."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from adaloc.config import AdaptiveLRConfig, Config
from adaloc.data.windows import Sample, load_samples, split_samples, validation_batches
from adaloc.errors import AdalocError
from adaloc.training.adapter import AdaptivePlateauLR
from adaloc.training.learning_rate import LearningRate
from adaloc.training.run import Run, batch_errors, setup
from adaloc.training.trainer import Hooks, fit, validate

OWN_OPTIMIZER = ("schedule_free", "prodigy")
"""Methods that are optimizers; all others set the rate of the problem's own optimizer."""
_WARMUP_SHARE = 0.05
_WINDOWS_IN_THE_END = 20  # of each validation sample; while training two, as in the product
_STATISTICS_BATCHES = 50  # schedule-free's weights differ from those that gathered the statistics of normalization


@dataclass(frozen=True)
class Task:
    """One run of the comparison."""

    problem: str
    method: str
    lr: float
    seed: int
    steps: int


def run_task(task: Task, config: Config) -> float:
    """Trains, and returns the final validation loss; NaN where training could not go on."""
    return _digits(task) if task.problem == "digits" else _reference(task, config)


def rate_config(method: str, lr: float, epochs: int) -> dict[str, Any]:
    """`adaptive_lr_config` of a method whose run lasts `epochs`.

    The literal strategy keeps its published numbers. ReduceLROnPlateau has torch's default patience of 10 epochs and
    the fixed recipe's factor; constant and plateau have no warmup, as their users have none.
    """
    warmup = max(round(_WARMUP_SHARE * epochs), 1)
    base: dict[str, Any] = {"scheduler_type": method, "warmup_epochs": warmup, "warmup_start_lr": lr / 100}
    if method in ("constant", "plateau"):
        return base | {"enable_warmup": False, "plateau_patience": 10, "plateau_factor": 0.5}
    if method == "adaptive_plateau_literal":
        return {"scheduler_type": method}
    if method == "adaptive_plateau_from_rate":
        return {"scheduler_type": "adaptive_plateau", "search_start_lr": lr}
    return base


def make_own_optimizer(task: Task, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
    """Schedule-free AdamW (Defazio 2024) or Prodigy (Mishchenko 2023), from their authors' packages.

    Raises:
        AdalocError: when the package is not installed.
    """
    try:
        if task.method == "schedule_free":
            from schedulefree import AdamWScheduleFree

            warmup = round(_WARMUP_SHARE * task.steps)
            optimizer: torch.optim.Optimizer = AdamWScheduleFree(parameters, lr=task.lr, warmup_steps=warmup)
            return optimizer
        from prodigyopt import Prodigy

        # Its rate is a factor that its authors leave at 1; the starting rate is its first estimate, d0.
        kind: type[torch.optim.Optimizer] = Prodigy
        options: dict[str, Any] = {"d0": task.lr, "use_bias_correction": True, "safeguard_warmup": True}
        return kind(parameters, lr=1.0, **options)  # type: ignore[call-arg]
    except ImportError as error:
        raise AdalocError(f"{error.name} is not installed. Install it with: pip install 'adaloc[bench]'") from None


def anneal_share(task: Task, step: int) -> float:
    """Prodigy's rate as its authors advise: a cosine; schedule-free needs none."""
    return 1.0 if task.method == "schedule_free" else 0.5 * (1 + math.cos(math.pi * step / task.steps))


@functools.lru_cache(maxsize=1)
def _samples(config_json: str) -> tuple[list[Sample], list[Sample]]:
    config = Config.model_validate_json(config_json)
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    return training, validation


def _reference(task: Task, config: Config) -> float:
    training, validation = _samples(config.model_dump_json())
    steps_per_epoch = -(-len(training) // config.data.batch_size)
    epochs = task.steps // steps_per_epoch
    with tempfile.TemporaryDirectory() as folder:
        raw = config.model_dump(mode="json")
        raw["seed"] = task.seed
        raw["output"] |= {"save_dir": str(Path(folder) / "run"), "checkpoint_interval_epochs": epochs + 1}
        raw["training"] |= {"epochs": epochs, "lr_first": task.lr, "lr_second": task.lr}
        if task.method not in OWN_OPTIMIZER:
            raw["training"]["adaptive_lr_config"] = rate_config(task.method, task.lr, epochs)
        run = setup(Config.model_validate(raw), training, validation, with_floor=False)
        if task.method in OWN_OPTIMIZER:
            _train_with_own_optimizer(task, run)
        else:
            try:
                fit(run, Hooks())
            except AdalocError:  # the loss stayed not a number: that is this method's result
                return math.nan
        return final_loss(run, validation)


def final_loss(run: Run, validation: list[Sample]) -> float:
    """Validation loss of a run's last weights, over ten times the windows that are scored while training."""
    data = run.config.data.model_copy(update={"validation_windows_per_sample": _WINDOWS_IN_THE_END})
    run.validation = [batch.to(run.device) for batch in validation_batches(validation, data)]
    return float(run.loss.total(validate(run)))


def _train_with_own_optimizer(task: Task, run: Run) -> None:
    optimizer = make_own_optimizer(task, run.model.network.parameters())
    full = [group["lr"] for group in optimizer.param_groups]
    _call(optimizer, "train")
    run.model.network.train()
    for step in range(task.steps):
        for group, rate in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = rate * anneal_share(task, step)
        loss = run.loss.objective(batch_errors(run, run.windows[step].to(run.device)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(run.model.network.parameters(), run.config.training.clip_norm)
        if norm.isfinite():
            optimizer.step()
    _call(optimizer, "eval")
    if task.method == "schedule_free":
        with torch.no_grad():
            for step in range(_STATISTICS_BATCHES):
                batch_errors(run, run.windows[step].to(run.device))


def _call(optimizer: torch.optim.Optimizer, mode: str) -> None:
    """Schedule-free optimizers have two modes; others have none."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


def _digits(task: Task) -> float:
    """scikit-learn's 8 x 8 digits, shifted at random, and a small convolutional network with AdamW."""
    images, labels, test_images, test_labels = _digit_data()
    batch, steps_per_epoch = 64, len(images) // 64
    generator = torch.Generator().manual_seed(task.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip
    optimizer = (
        make_own_optimizer(task, network.parameters())
        if task.method in OWN_OPTIMIZER
        else torch.optim.AdamW(network.parameters(), lr=task.lr, weight_decay=1e-2)
    )

    def test_loss() -> float:
        with torch.no_grad():
            return float(F.cross_entropy(network(test_images), test_labels))

    control = _digit_control(task, network, optimizer, steps_per_epoch, test_loss)
    _call(optimizer, "train")
    for step in range(task.steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
        noisy = images[chosen].roll(shift, (2, 3)) + 0.3 * torch.randn(batch, 1, 8, 8, generator=generator)
        loss = F.cross_entropy(network(noisy), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        control(step, float(loss.detach()))
    _call(optimizer, "eval")
    return test_loss()


def _digit_control(
    task: Task,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps_per_epoch: int,
    test_loss: Callable[[], float],
) -> Callable[[int, float], None]:
    """What changes the rate after a step."""
    if task.method in OWN_OPTIMIZER:
        full = [group["lr"] for group in optimizer.param_groups]

        def follow(step: int, _: float) -> None:
            for group, rate in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = rate * anneal_share(task, step + 1)

        return follow
    if task.method.startswith("adaptive_plateau") and task.method != "adaptive_plateau_literal":
        if task.method == "adaptive_plateau":
            for group in optimizer.param_groups:
                group["lr"] = AdaptiveLRConfig().search_start_lr
        scheduler = AdaptivePlateauLR(optimizer, network, task.steps)
        return lambda _, loss: scheduler.step(loss)
    epochs = task.steps // steps_per_epoch
    config = AdaptiveLRConfig.model_validate(rate_config(task.method, task.lr, epochs))
    owner = LearningRate(config, task.lr, epochs, steps_per_epoch)
    optimizer.param_groups[0]["lr"] = owner.rate

    def ask(step: int, loss: float) -> None:
        owner.observe_step(loss, None)
        if (step + 1) % steps_per_epoch == 0:
            owner.observe_epoch(test_loss(), step // steps_per_epoch)
        optimizer.param_groups[0]["lr"] = owner.rate

    return ask


@functools.lru_cache(maxsize=1)
def _digit_data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise AdalocError("scikit-learn is not installed. Install it with: pip install 'adaloc[bench]'") from None
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    return images[train], labels[train], images[test], labels[test]
