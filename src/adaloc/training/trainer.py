"""The training loop: setup, fit, validate, save. Plain PyTorch, one state, one owner of the learning rate."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from adaloc import __version__
from adaloc.config import CHANNELS, Config
from adaloc.data.scaling import Scaling
from adaloc.data.targets import encode_targets
from adaloc.data.windows import (
    Batch,
    Sample,
    TrainingWindows,
    measure_training_scaling,
    validation_batches,
)
from adaloc.errors import AdalocError
from adaloc.models.losses import ChannelLoss, LossSums, left_out_channels, make_loss
from adaloc.models.model_file import Model, make_model, save_model
from adaloc.models.network import num_parameters
from adaloc.random_streams import Stream, torch_stream
from adaloc.training.checkpoint import BEST, LATEST, save_checkpoint
from adaloc.training.controller import Decision, LearningRate
from adaloc.training.device import choose_device, describe_device, use_bfloat16
from adaloc.training.loader import iterate_batches
from adaloc.training.run_log import RunLog

_MAX_BAD_STEPS = 20
"""Steps in a row whose gradient is not finite, after which waiting for a better batch is hopeless."""


@dataclass
class Progress:
    """What was gathered in the current epoch, so that a run can stop and go on at any step."""

    losses: list[float] = field(default_factory=list)
    channels: list[list[float]] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    train_s: float = 0.0
    wait_s: float = 0.0


@dataclass
class Run:
    """A training run: everything that `fit` works on. `state` is what a checkpoint holds."""

    config: Config
    folder: Path
    device: torch.device
    bfloat16: bool
    model: Model
    loss: ChannelLoss
    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    windows: TrainingWindows
    validation: list[Batch]
    log: RunLog
    step: int = 0
    wall_s: float = 0.0
    initial_val_loss: float = math.nan
    best_val_loss: float = math.inf
    best_epoch: int = -1
    best_model: dict[str, Any] | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, from 0."""
        return self.step // self.windows.steps_per_epoch

    @property
    def is_over(self) -> bool:
        """Whether all epochs are trained."""
        return self.epoch >= self.config.training.epochs

    def state(self) -> dict[str, Any]:
        """The whole state as tensors and plain containers."""
        return {
            "model": self.model.to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "wall_s": self.wall_s,
            "initial_val_loss": self.initial_val_loss,
            "best": {"val_loss": self.best_val_loss, "epoch": self.best_epoch, "model": self.best_model},
            "progress": vars(self.progress),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.model.network.load_state_dict(state["model"]["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        self.step, self.wall_s = int(state["step"]), float(state["wall_s"])
        self.initial_val_loss = float(state["initial_val_loss"])
        best = state["best"]
        self.best_val_loss, self.best_epoch, self.best_model = best["val_loss"], best["epoch"], best["model"]
        self.progress = Progress(**state["progress"])


@dataclass(frozen=True)
class Score:
    """Detection metrics of a model, and an optional picture.

    Attributes:
        metrics: name to value; None where there is none.
        picture_HWC: uint8 RGB.
    """

    metrics: dict[str, float | None]
    picture_HWC: Any = None


@dataclass(frozen=True)
class Hooks:
    """What the loop calls at its edges.

    Attributes:
        on_epoch: gets each epoch's log record.
        on_decision: gets each adjustment of the learning rate.
        score: detection metrics of the model, every `metrics_interval_epochs`.
        should_stop: asked after each step; True saves and ends the loop.
    """

    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None
    on_decision: Callable[[int, Decision, float, float], None] = lambda *_: None
    score: Callable[[Model], Score] | None = None
    should_stop: Callable[[], bool] = lambda: False


def setup(
    config: Config, training: Sequence[Sample], validation: Sequence[Sample], state: dict[str, Any] | None = None
) -> Run:
    """Builds a run, from scratch or from a checkpoint's state."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device = choose_device(config.device)
    scaling = (
        measure_training_scaling(training, config) if state is None else Scaling.from_dict(state["model"]["scaling"])
    )
    # The weights come from a stream of their own; the global generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_stream(config.seed, Stream.WEIGHTS).initial_seed())
        model = make_model(config, scaling)
    model.network.to(device)
    run = Run(
        config=config,
        folder=config.output.save_dir,
        device=device,
        bfloat16=use_bfloat16(config.precision, device),
        model=model,
        loss=make_loss(config.training, scaling),
        optimizer=_make_optimizer(config, model),
        learning_rate=LearningRate(
            config.training.adaptive_lr_config, config.training.lr_first, config.training.epochs
        ),
        windows=TrainingWindows(training, config),
        validation=[batch.to(device) for batch in validation_batches(validation, config.data)],
        log=RunLog(config.output.save_dir / "log.jsonl"),
    )
    if state is not None:
        run.load_state(state)
    return run


def fit(run: Run, hooks: Hooks) -> str:
    """Trains until the epochs are over, the rate is exhausted, or `hooks.should_stop`.

    Returns:
        "finished", "stopped_early" or "interrupted".

    Raises:
        AdalocError: when the loss stays not finite, or a file cannot be written. What was saved before stays.
    """
    steps_per_epoch = run.windows.steps_per_epoch
    last_step = run.config.training.epochs * steps_per_epoch
    batches = iterate_batches(run.windows, range(run.step, last_step), run.config.data.num_workers)
    status = "finished"
    with SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.epoch if run.step else None) as board:
        _write_start(run, board)
        status = _loop(run, hooks, batches, board)
        save(run)
        _final_score(run, hooks, board, status)
        board.add_hparams(_hyperparameters(run.config), {"hparam/best_val_loss": run.best_val_loss}, run_name=".")
    reasons = {
        "finished": "all epochs are trained",
        "stopped_early": "the learning rate is at its minimum and no new best loss came",
        "interrupted": "a signal asked to stop",
    }
    run.log.write("end", epoch=run.epoch, status=status, reason=reasons[status])
    return status


def validate(run: Run) -> LossSums:
    """Summed errors over the fixed validation windows."""
    run.model.network.eval()
    with torch.inference_mode():
        total: LossSums | None = None
        for batch in run.validation:
            sums = _errors(run, batch)
            total = sums if total is None else total + sums
    run.model.network.train()
    assert total is not None
    return total


def save(run: Run) -> None:
    """Writes the latest checkpoint and the best model."""
    save_checkpoint(run.folder / LATEST, run.state())
    if run.best_model is not None:
        best = make_model(run.config, run.model.scaling)
        best.network.load_state_dict(run.best_model)
        save_model(run.folder / BEST, best)


def best_model(run: Run) -> Model:
    """The model with the lowest validation loss, on the run's device; the current one before the first epoch."""
    if run.best_model is None:
        return run.model
    model = make_model(run.config, run.model.scaling)
    model.network.load_state_dict(run.best_model)
    model.network.to(run.device).eval()
    return model


def _loop(run: Run, hooks: Hooks, batches: Iterator[Batch], board: SummaryWriter) -> str:
    bad_steps = 0
    run.model.network.train()
    while not run.is_over:
        begin = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - begin
        is_finite = _train_step(run, batch)
        bad_steps = 0 if is_finite else bad_steps + 1
        if bad_steps >= _MAX_BAD_STEPS:
            raise AdalocError(
                f"The gradient was not finite in {bad_steps} steps in a row, up to step {run.step}: the loss is not a "
                "number. Lower training.lr_first, or check the data with adaloc check. The last checkpoint stays."
            )
        seconds = time.perf_counter() - begin
        run.progress.wait_s += waited
        run.progress.train_s += seconds
        run.wall_s += seconds
        run.step += 1
        if run.step % run.windows.steps_per_epoch == 0:
            _end_epoch(run, hooks, board)
            if run.learning_rate.should_stop(run.epoch - 1) and not run.is_over:
                return "stopped_early"
        if hooks.should_stop() and not run.is_over:
            return "interrupted"
    return "finished"


def _train_step(run: Run, batch: Batch) -> bool:
    rate = run.learning_rate.at(run.step / run.windows.steps_per_epoch)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["lr_ratio"]
    sums = _errors(run, batch.to(run.device))
    channels = run.loss.channels(sums)
    loss = run.loss.total(sums)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(run.model.network.parameters(), run.config.training.clip_norm)
    is_finite = bool(norm.isfinite())
    if is_finite:  # a step along a gradient that is not a number would spoil every weight
        run.optimizer.step()
    run.progress.losses.append(float(loss))
    run.progress.channels.append(channels.detach().tolist())
    run.progress.grad_norms.append(float(norm))
    return is_finite


def _errors(run: Run, batch: Batch) -> LossSums:
    with _autocast(run):
        outputs_BKHW = run.model.predict(batch.adu_BTHW).flatten(0, 1)
    height, width = batch.adu_BTHW.shape[-2:]
    targets_BKHW = encode_targets(batch.emitters, batch.background_N, (height, width), run.config.data.min_photons)
    return run.loss.sums(outputs_BKHW, targets_BKHW)


def _autocast(run: Run) -> AbstractContextManager[Any]:
    return torch.autocast(run.device.type, dtype=torch.bfloat16) if run.bfloat16 else nullcontext()


def _end_epoch(run: Run, hooks: Hooks, board: SummaryWriter) -> None:
    epoch = run.epoch - 1
    begin = time.perf_counter()
    sums = validate(run)
    val_loss = float(run.loss.total(sums))
    rate = run.learning_rate.at(run.step / run.windows.steps_per_epoch)
    decision = run.learning_rate.observe(val_loss, epoch)
    if val_loss < run.best_val_loss:
        run.best_val_loss, run.best_epoch = val_loss, epoch
        run.best_model = {
            name: tensor.detach().cpu().clone() for name, tensor in run.model.network.state_dict().items()
        }
    run.wall_s += time.perf_counter() - begin
    record = _epoch_record(run, epoch, val_loss, run.loss.channels(sums).tolist(), rate)
    run.log.write("epoch", **record)
    _board_epoch(board, record)
    if decision.action != "none":
        after = run.learning_rate.at(run.step / run.windows.steps_per_epoch)
        run.log.write(
            "lr", epoch=epoch, kind=decision.action, reason=decision.reason, factor=decision.factor,
            lr_before=rate, lr_after=after, evidence=decision.evidence,
        )  # fmt: skip
        hooks.on_decision(epoch, decision, rate, after)
    run.progress = Progress()
    interval = run.config.output.metrics_interval_epochs
    if (epoch + 1) % interval == 0 and hooks.score is not None and not run.is_over:
        _write_score(run, hooks.score(run.model), epoch, board)
        run.model.network.train()
    if (epoch + 1) % run.config.output.checkpoint_interval_epochs == 0 and not run.is_over:
        save(run)
    hooks.on_epoch(record)


def _final_score(run: Run, hooks: Hooks, board: SummaryWriter, status: str) -> None:
    if hooks.score is not None and run.best_model is not None and status != "interrupted":
        _write_score(run, hooks.score(best_model(run)), run.epoch - 1, board)


def _write_score(run: Run, score: Score, epoch: int, board: SummaryWriter) -> None:
    run.log.write("metrics", epoch=epoch, **score.metrics)
    for name, value in score.metrics.items():
        if value is not None:
            board.add_scalar(f"Detection/{name}", value, epoch)
    if score.picture_HWC is not None:
        board.add_image("Validation/frames", score.picture_HWC, epoch, dataformats="HWC")


def _epoch_record(run: Run, epoch: int, val_loss: float, val_channels: list[float], rate: float) -> dict[str, Any]:
    progress = run.progress
    training = run.config.training
    num_windows = len(run.windows)
    means = [statistics.fmean(values) for values in zip(*progress.channels, strict=True)]
    return {
        "epoch": epoch,
        "step": run.step,
        "train_loss": statistics.fmean(progress.losses),
        "val_loss": val_loss,
        "train_channels": dict(zip(CHANNELS, means, strict=True)),
        "val_channels": dict(zip(CHANNELS, val_channels, strict=True)),
        "lr": rate,
        "lr_second": rate * training.lr_second / training.lr_first,
        "grad_norm": statistics.median(progress.grad_norms),
        "clipped_share": statistics.fmean(not norm <= training.clip_norm for norm in progress.grad_norms),
        "windows_per_s": num_windows / max(progress.train_s, 1e-9),
        "wait_share": progress.wait_s / max(progress.train_s, 1e-9),
        "wall_s": run.wall_s,
    }


def _board_epoch(board: SummaryWriter, record: dict[str, Any]) -> None:
    epoch = record["epoch"]
    board.add_scalar("Loss/Train", record["train_loss"], epoch)
    board.add_scalar("Loss/Validation", record["val_loss"], epoch)
    board.add_scalar("Learning_Rate", record["lr"], epoch)
    for name, value in record["val_channels"].items():
        board.add_scalar(f"Channels_Validation/{name}", value, epoch)
    for name, value in record["train_channels"].items():
        board.add_scalar(f"Channels_Train/{name}", value, epoch)
    board.add_scalar("Gradient/norm_before_clipping", record["grad_norm"], epoch)
    board.add_scalar("Gradient/clipped_share", record["clipped_share"], epoch)
    board.add_scalar("Throughput/windows_per_s", record["windows_per_s"], epoch)


def _write_start(run: Run, board: SummaryWriter) -> None:
    if run.step > 0:
        run.log.write("resume", epoch=run.epoch, step=run.step)
        return
    training = run.config.training
    run.log.write(
        "start",
        version=__version__,
        seed=run.config.seed,
        epochs=training.epochs,
        steps_per_epoch=run.windows.steps_per_epoch,
        device=describe_device(run.device),
        precision="bfloat16" if run.bfloat16 else "float32",
        num_parameters=num_parameters(run.model.network),
        no_information_loss=run.loss.no_information_loss,
        channels=list(CHANNELS),
        channel_weights=list(run.loss.weights),
        left_out_channels=left_out_channels(run.model.scaling),
        lr_first=training.lr_first,
        scheduler_type=training.adaptive_lr_config.scheduler_type,
    )
    sums = validate(run)
    run.initial_val_loss = float(run.loss.total(sums))
    run.log.write(
        "initial",
        val_loss=run.initial_val_loss,
        val_channels=dict(zip(CHANNELS, run.loss.channels(sums).tolist(), strict=True)),
    )
    board.add_scalar("Loss/No_Information", run.loss.no_information_loss, 0)


def _make_optimizer(config: Config, model: Model) -> torch.optim.Optimizer:
    training, network = config.training, model.network
    groups = [
        {"params": list(network.first_stage.parameters()), "lr_ratio": 1.0},
        {"params": list(network.second_stage.parameters()), "lr_ratio": training.lr_second / training.lr_first},
    ]
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=training.lr_first, weight_decay=training.weight_decay, betas=(0.9, 0.999), eps=1e-8)


def _hyperparameters(config: Config) -> dict[str, str | float | int]:
    training, rate = config.training, config.training.adaptive_lr_config
    return {
        "lr_first": training.lr_first,
        "lr_second": training.lr_second,
        "weight_decay": training.weight_decay,
        "batch_size": config.data.batch_size,
        "epochs": training.epochs,
        "scheduler_type": rate.scheduler_type,
        "loss_type": training.loss_type,
        "base_channels": config.network.base_channels,
        "seed": config.seed,
    }
