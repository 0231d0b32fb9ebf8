"""What a run writes about itself while it trains: the log's events and TensorBoard."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from adaloc import __version__
from adaloc.config import CHANNELS, Config
from adaloc.errors import AdalocError
from adaloc.files import describe_write_failure
from adaloc.models.device import describe_device
from adaloc.models.losses import LossSums, left_out_channels
from adaloc.models.network import num_parameters
from adaloc.training.run import Run


@dataclass(frozen=True)
class Score:
    """Detection metrics of a model, and an optional picture.

    Attributes:
        metrics: name to value; None where there is none.
        picture_HWC: uint8 RGB.
    """

    metrics: dict[str, float | None]
    picture_HWC: Any = None


@contextmanager
def open_board(folder: Path, first_epoch: int) -> Iterator[SummaryWriter]:
    """TensorBoard's files of a run.

    Args:
        folder: for its files.
        first_epoch: what older files say from there on is hidden.

    Raises:
        AdalocError: when they cannot be written.
    """
    show = threading.excepthook

    def show_others(failure: threading.ExceptHookArgs) -> None:
        # The thread that writes keeps its error for the next call, which raises it; it need not be printed as well.
        if not isinstance(failure.exc_value, OSError):
            show(failure)

    threading.excepthook = show_others
    try:
        with SummaryWriter(str(folder), purge_step=first_epoch) as board:
            yield board
    except OSError as error:
        if error.filename is not None:  # of another file
            raise
        raise AdalocError(describe_write_failure(folder, error)) from error
    finally:
        threading.excepthook = show


def write_start(run: Run, board: SummaryWriter, initial: LossSums) -> None:
    """The events of a new run; `initial` are the validation errors before the first step."""
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
        **_floor_fields(run),
        channels=list(CHANNELS),
        channel_weights=list(run.loss.weights),
        left_out_channels=left_out_channels(run.model.scaling),
        lr_first=training.lr_first,
        scheduler_type=training.adaptive_lr_config.scheduler_type,
    )
    run.log.write(
        "initial",
        val_loss=float(run.loss.total(initial)),
        val_channels=dict(zip(CHANNELS, run.loss.channels(initial).tolist(), strict=True)),
    )
    board.add_scalar("Loss/No_Information", run.loss.no_information_loss, 0)
    if run.floor is not None and run.floor.loss is not None:
        board.add_scalar("Loss/Physical_Floor", run.floor.loss, 0)


def _floor_fields(run: Run) -> dict[str, Any]:
    if run.floor is None:
        return {"floor": None, "floor_channels": None, "floor_unknown_because": "it was not computed"}
    channels = run.floor.channels
    return {
        "floor": run.floor.loss,
        "floor_channels": None if channels is None else dict(zip(CHANNELS, channels, strict=True)),
        "floor_unknown_because": run.floor.unknown_because,
    }


def epoch_record(run: Run, epoch: int, val_loss: float, val_channels: list[float], rate: float) -> dict[str, Any]:
    """The log's record of an epoch (run_log.py names its fields)."""
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
        "lr_ceiling": run.learning_rate.ceiling,
    }


def write_epoch(run: Run, board: SummaryWriter, record: dict[str, Any]) -> None:
    """An epoch's record into the log and TensorBoard."""
    run.log.write("epoch", **record)
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


def write_score(run: Run, board: SummaryWriter, score: Score, epoch: int, *, final: bool = False) -> None:
    """Detection metrics into the log, and with the picture into TensorBoard; `final` are those of the best model."""
    run.log.write("metrics", epoch=epoch, **score.metrics, **({"final": True} if final else {}))
    # After the last epoch's, so that a run that is resumed at its end takes the place of its final curves too.
    epoch += final
    for name, value in score.metrics.items():
        if value is not None:
            board.add_scalar(f"Detection/{name}", value, epoch)
    if score.picture_HWC is not None:
        board.add_image("Validation/frames", score.picture_HWC, epoch, dataformats="HWC")


def hyperparameters(config: Config) -> dict[str, str | float | int]:
    """What TensorBoard's hyperparameter tab shows."""
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
