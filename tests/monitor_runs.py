"""Synthetic run logs, written through the one log writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adaloc.config import CHANNELS
from adaloc.training.run_log import RunLog

WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 0.5)


def write_start(folder: Path, **changes: Any) -> RunLog:
    """A folder with a start event and the validation before training."""
    log = RunLog(folder / "log.jsonl")
    start = {
        "version": "0.1.0",
        "seed": 7,
        "epochs": 1000,
        "steps_per_epoch": 5,
        "device": "cpu (2 threads)",
        "precision": "float32",
        "num_parameters": 123456,
        "no_information_loss": 5.5,
        "channels": list(CHANNELS),
        "channel_weights": list(WEIGHTS),
        "lr_first": 5e-4,
        "scheduler_type": "adaptive_plateau",
    }
    log.write("start", **{**start, **changes})
    log.write("initial", val_loss=5.52, val_channels=dict.fromkeys(CHANNELS, 1.0))
    return log


def write_epoch(log: RunLog, epoch: int, val_loss: float, **changes: Any) -> None:
    """One epoch; every channel holds the same share of the loss."""
    record = {
        "step": 5 * (epoch + 1),
        "train_loss": val_loss - 0.05,
        "val_loss": val_loss,
        "train_channels": dict.fromkeys(CHANNELS, val_loss / 5.5),
        "val_channels": dict.fromkeys(CHANNELS, val_loss / 5.5),
        "lr": 5e-4,
        "lr_second": 5e-4,
        "grad_norm": 0.8,
        "clipped_share": 0.2,
        "windows_per_s": 20.0,
        "wait_share": 0.01,
        "wall_s": 4.0 * (epoch + 1),
    }
    log.write("epoch", epoch=epoch, **{**record, **changes})


def write_run(
    folder: Path,
    losses: list[float] | Callable[[int], float],
    num_epochs: int | None = None,
    status: str | None = "finished",
    start: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A whole run from its validation losses; `changes` are the same in every epoch. Returns the folder."""
    values = losses if isinstance(losses, list) else [losses(epoch) for epoch in range(num_epochs or 0)]
    log = write_start(folder, **{"epochs": len(values), **(start or {})})
    for epoch, loss in enumerate(values):
        write_epoch(log, epoch, loss, **changes)
    if status is not None:
        log.write("end", epoch=len(values), status=status, reason="all epochs are trained")
    return folder


def write_realistic_run(folder: Path, num_epochs: int = 1000, status: str | None = "finished") -> Path:
    """As the adaptive strategy makes it: warmup, boosts, decays, anneal, channels that learn at their own pace."""
    random = np.random.default_rng(0)
    log = write_start(folder, epochs=1000)
    paces = dict(zip(CHANNELS, (25.0, 60.0, 60.0, 110.0, 40.0, 12.0), strict=True))
    floors = dict(zip(CHANNELS, (0.08, 0.05, 0.05, 0.12, 0.16, 0.02), strict=True))
    rate = 5e-4
    for epoch in range(num_epochs):
        anneal = max(0.0, (epoch - 699) / 300)
        wobble = 1 + 0.04 * (1 - 0.8 * anneal) * random.standard_normal()
        channels = {
            name: float((floors[name] * (1.6 - 0.6 * anneal) + np.exp(-epoch / paces[name])) * wobble)
            for name in CHANNELS
        }
        loss = float(sum(w * channels[name] for w, name in zip(WEIGHTS, CHANNELS, strict=True)))
        lr = rate * (1 - anneal) + 1e-6 if epoch >= 10 else 1e-5 + rate * epoch / 10
        norm = float(2.5 * np.exp(-epoch / 300) * np.exp(0.2 * random.standard_normal()))
        write_epoch(
            log, epoch, loss, train_loss=loss * (0.97 + 0.02 * random.standard_normal()), val_channels=channels,
            lr=lr, grad_norm=norm, clipped_share=float(np.clip(norm - 0.5, 0, 1)), wall_s=3.7 * (epoch + 1),
        )  # fmt: skip
        kind, reason, factor = _adjustment(epoch)
        if kind:
            rate *= factor
            log.write("lr", epoch=epoch, kind=kind, reason=reason, factor=factor, lr_before=lr, lr_after=lr * factor,
                      evidence={"best_loss": loss, "epochs_since_best": 31.0})  # fmt: skip
        if (epoch + 1) % 50 == 0:
            share = 1 - np.exp(-epoch / 100)
            log.write("metrics", epoch=epoch, jaccard=0.85 * share, precision=0.95 * share, recall=0.89 * share,
                      rmse_lateral_nm=22.0 + 60 * (1 - share), rmse_axial_nm=35.0 + 90 * (1 - share),
                      efficiency_3d=78.0 * share)  # fmt: skip
    if status is not None:
        log.write("end", epoch=num_epochs, status=status, reason="all epochs are trained")
    return folder


def _adjustment(epoch: int) -> tuple[str, str, float]:
    if epoch == 9:
        return "warmup_done", "the warmup is over", 1.0
    if epoch == 700:
        return "anneal", "the final anneal begins", 1.0
    if epoch in (233, 391, 560):
        return "boost", "the loss hardly varies and does not fall: a larger step may leave the plateau", 1.5
    if 280 < epoch < 700 and epoch % 37 == 0:
        return "decay", "no new best loss for 31 epochs: a smaller step", 0.8
    if epoch in (481, 602):
        return "plateau", "no clear improvement for over 50 epochs", 0.7
    return "", "", 1.0
