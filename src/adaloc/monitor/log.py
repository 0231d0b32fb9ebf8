"""A run as its log tells it: numpy columns for the epochs, plain events for the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adaloc.config import CHANNELS
from adaloc.emitters import FloatArray, IntArray
from adaloc.errors import DataError
from adaloc.training.run_log import Event, read_events

LOG_FILE = "log.jsonl"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Epochs:
    """What was logged at the end of each epoch, ascending; NaN where the log has no number.

    Attributes:
        index: (E,) epoch from 0.
        step: (E,) optimizer steps done so far.
        wall_s: (E,) seconds of training and validation so far, over all resumes.
        train_loss, val_loss: (E,) weighted sums of the channels.
        lr: (E,) learning rate of the first network stage.
        grad_norm: (E,) median norm of the gradient before clipping.
        clipped_share: (E,) share of the steps that were clipped, 0 to 1.
        windows_per_s: (E,) training speed.
        wait_share: (E,) share of the training time spent waiting for data, 0 to 1.
        lr_ceiling: (E,) rate above which the controller does not try; NaN where there is none.
        val_channels: name to (E,) validation loss of that channel before weighting.
    """

    index: IntArray
    step: FloatArray
    wall_s: FloatArray
    train_loss: FloatArray
    val_loss: FloatArray
    lr: FloatArray
    grad_norm: FloatArray
    clipped_share: FloatArray
    windows_per_s: FloatArray
    wait_share: FloatArray
    lr_ceiling: FloatArray
    val_channels: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Adjustment:
    """A change of the learning rate, or of its course, in epoch `epoch` (from 0)."""

    epoch: int
    kind: str
    reason: str
    factor: float
    lr_before: float
    lr_after: float
    step: float = math.nan
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """Everything that the run folder says about a run.

    Attributes:
        folder: the run folder.
        start: the start event.
        initial: the validation before the first step, or None.
        epochs: the finished epochs.
        adjustments: changes of the learning rate, in order.
        metrics: events with detection metrics, in order.
        diagnosis: the last diagnosis that the run made of itself, or None.
        integrity: what was found in the data before the first step, or None.
        cures: what the loop mended by itself, in order.
        alerts: what was told to the user, in order.
        end: the end event, or None while the run goes on (or after it was killed).
        num_resumes: how often the run was continued from a checkpoint.
        last_time_s: when the last event was written, seconds since 1970; NaN when not known.
        config: config.json as plain containers, or None when it is missing or broken.
    """

    folder: Path
    start: Event
    initial: Event | None
    epochs: Epochs
    adjustments: tuple[Adjustment, ...]
    metrics: tuple[Event, ...]
    diagnosis: Event | None
    end: Event | None
    num_resumes: int
    last_time_s: float
    config: dict[str, Any] | None
    integrity: Event | None = None
    cures: tuple[Event, ...] = ()
    alerts: tuple[Event, ...] = ()

    @property
    def status(self) -> str:
        """finished, stopped_early, interrupted; or unfinished when the log has no end event."""
        return "unfinished" if self.end is None else str(self.end.get("status", "finished"))

    @property
    def planned_epochs(self) -> int | None:
        """Epochs that the run is meant to have."""
        planned = number(self.start.get("epochs"))
        return int(planned) if math.isfinite(planned) else None

    @property
    def no_information_loss(self) -> float:
        """Loss of the best constant predictor; NaN when the log does not say."""
        return number(self.start.get("no_information_loss"))

    @property
    def floor(self) -> float:
        """Loss that physics allows; NaN when it is unknown."""
        return number(self.start.get("floor"))

    @property
    def floor_channels(self) -> dict[str, float]:
        """Floor of each channel before weighting; empty when unknown."""
        channels = self.start.get("floor_channels")
        return {str(name): number(v) for name, v in channels.items()} if isinstance(channels, dict) else {}

    @property
    def floor_unknown_because(self) -> str:
        """Why the floor is unknown."""
        return str(self.start.get("floor_unknown_because") or "the log does not say it")

    @property
    def channel_weights(self) -> dict[str, float]:
        """Weight of each channel in the loss; empty when the log does not say."""
        names, weights = self.start.get("channels"), self.start.get("channel_weights")
        if not isinstance(names, list) or not isinstance(weights, list) or len(names) != len(weights):
            return {}
        return {str(name): number(weight) for name, weight in zip(names, weights, strict=True)}

    @property
    def in_information_units(self) -> bool:
        """Whether each channel is divided by the loss of its best constant predictor."""
        weights = self.channel_weights
        return bool(weights) and math.isclose(math.fsum(weights.values()), self.no_information_loss, rel_tol=1e-6)


def load_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        DataError: when there is no run in it, or the log cannot be read.
    """
    path = folder / LOG_FILE
    try:
        events = read_events(path)
        num_resumes = _count_resumes(path)
    except OSError as error:
        raise DataError(f"The log {path} cannot be read: {error.strerror or error}.") from None
    if not any(event["event"] == "start" for event in events):
        raise DataError(
            f"There is no run in {folder} yet (no log.jsonl). Check the path, or start one with: "
            "python start_adaptive_training.py"
        )
    return make_run(folder, events, num_resumes, _read_config(folder / CONFIG_FILE))


def make_run(folder: Path, events: Sequence[Event], num_resumes: int, config: dict[str, Any] | None) -> Run:
    """A run from its events, of which one is the start."""

    def of_kind(kind: str) -> list[Event]:
        return [event for event in events if event["event"] == kind]

    starts, initials, ends = of_kind("start"), of_kind("initial"), of_kind("end")
    diagnoses = of_kind("diagnosis")
    return Run(
        folder=folder,
        start=starts[-1],
        initial=initials[-1] if initials else None,
        epochs=_epoch_columns(of_kind("epoch")),
        adjustments=tuple(_adjustment(event) for event in of_kind("lr") if _has_epoch(event)),
        metrics=tuple(of_kind("metrics")),
        diagnosis=diagnoses[-1] if diagnoses else None,
        end=ends[-1] if ends else None,
        num_resumes=num_resumes,
        last_time_s=number(events[-1].get("time_s")),
        config=config,
        integrity=next(iter(of_kind("integrity")[-1:]), None),
        cures=tuple(of_kind("cure")),
        alerts=tuple(of_kind("alert")),
    )


def number(value: Any) -> float:
    """A logged number as float; NaN for anything else, so that an old or foreign log shows gaps and no crash."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # JSON has whole numbers of any length
        return math.nan


def _epoch_columns(events: Iterable[Event]) -> Epochs:
    by_epoch = {event["epoch"]: event for event in events if _has_epoch(event)}
    rows = [by_epoch[epoch] for epoch in sorted(by_epoch)]

    def column(name: str) -> FloatArray:
        return np.array([number(row.get(name)) for row in rows], dtype=np.float64)

    channels = [row["val_channels"] if isinstance(row.get("val_channels"), dict) else {} for row in rows]
    names = {name for values in channels for name in values}
    in_order = [name for name in CHANNELS if name in names] + sorted(names.difference(CHANNELS))
    return Epochs(
        index=np.array(sorted(by_epoch), dtype=np.int64),
        step=column("step"),
        wall_s=column("wall_s"),
        train_loss=column("train_loss"),
        val_loss=column("val_loss"),
        lr=column("lr"),
        grad_norm=column("grad_norm"),
        clipped_share=column("clipped_share"),
        windows_per_s=column("windows_per_s"),
        wait_share=column("wait_share"),
        lr_ceiling=column("lr_ceiling"),
        val_channels={name: np.array([number(values.get(name)) for values in channels]) for name in in_order},
    )


def _adjustment(event: Event) -> Adjustment:
    return Adjustment(
        epoch=event["epoch"],
        kind=str(event.get("kind", "unknown")),
        reason=str(event.get("reason", "")),
        factor=number(event.get("factor")),
        lr_before=number(event.get("lr_before")),
        lr_after=number(event.get("lr_after")),
        step=number(event.get("step")),
        evidence=event["evidence"] if isinstance(event.get("evidence"), dict) else {},
    )


def _has_epoch(event: Event) -> bool:
    return isinstance(event.get("epoch"), int) and event["epoch"] >= 0


def _count_resumes(path: Path) -> int:
    # read_events drops a resume that a later, earlier-reaching resume made void; here each one counts.
    count = 0
    if not path.exists():
        return count
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"start"' not in line and '"resume"' not in line:
            continue
        try:
            kind = json.loads(line).get("event")
        except (ValueError, RecursionError, AttributeError):
            continue
        count = 0 if kind == "start" else count + (kind == "resume")
    return count


def _read_config(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None
