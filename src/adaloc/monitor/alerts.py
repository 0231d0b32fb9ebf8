"""Alerts of a training: what is worth one, and bringing it to a webhook or a command without ever holding up a step.

Deliveries run in a thread of their own, one after the other, each with a time limit; a failed one is said and
forgotten. At the end of a run `close` waits for what is under way, within that limit.
"""

from __future__ import annotations

import json
import math
import queue
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.markup import escape

from adaloc.config import AlertsConfig
from adaloc.errors import AdalocError
from adaloc.training.run_log import Event, RunLog

Kind = Literal["stalled", "diverged", "recovered", "finished", "failed"]
_QUEUE = 20  # a webhook that hangs must not gather alerts without end
_STALLS = ("trial",)  # the stall test has spoken
_SETBACKS = ("rollback", "give_up")
_ENDS = ("finished", "failed")


@dataclass(frozen=True)
class Alert:
    """One alert: its kind, epochs finished, and a sentence."""

    kind: Kind
    epoch: int
    message: str


class Alerts:
    """Decides what is worth an alert, and delivers it.

    A kind is told once until the run recovers from it: when the validation loss is below its best again.

    Args:
        config: whom to tell.
        folder: the run's.
    """

    def __init__(self, config: AlertsConfig, folder: Path) -> None:
        self._config, self._folder, self._best = config, folder, math.inf
        self._open: set[Kind] = set()
        self._queue: queue.Queue[Alert | None] = queue.Queue(_QUEUE)
        self._problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def catch_up(self, events: Sequence[Event]) -> None:
        """Takes over what the log of a run that goes on says was told, and how low its validation loss has been."""
        for event in events:
            if event["event"] == "epoch" and event["val_loss"] < self._best:
                self._best = event["val_loss"]
            elif event["event"] == "alert" and event["kind"] == "recovered":
                self._open.clear()
            elif event["event"] == "alert":
                self._open.add(event["kind"])

    def after_epoch(self, epoch: int, val_loss: float) -> Alert | None:
        """Looks at a validation loss."""
        if not math.isfinite(val_loss):
            return self._once("diverged", epoch, f"the validation loss is not a finite number after epoch {epoch}")
        if val_loss >= self._best:
            return None
        self._best = val_loss
        if not self._open:
            return None
        what = " and ".join(sorted(self._open))
        self._open.clear()
        return Alert("recovered", epoch, f"the run had {what}; the validation loss has a new best, {val_loss:.4g}")

    def after_decision(self, epoch: int, action: str, reason: str) -> Alert | None:
        """Looks at a decision of the learning rate's owner."""
        if action in _SETBACKS:
            return self._once("diverged", epoch, reason)
        return self.stalled(epoch, reason) if action in _STALLS else None

    def stalled(self, epoch: int, reason: str) -> Alert | None:
        """The run stalls, by the stall test or by its diagnosis."""
        return self._once("stalled", epoch, reason)

    def ended(self, epoch: int, status: str, verdict: str) -> Alert:
        """The run has ended by itself or was asked to stop."""
        return Alert("finished", epoch, verdict if status != "interrupted" else f"interrupted: {verdict}")

    def _once(self, kind: Kind, epoch: int, message: str) -> Alert | None:
        if kind in self._open:
            return None
        self._open.add(kind)
        return Alert(kind, epoch, message)

    def deliver(self, alert: Alert) -> None:
        """Hands an alert to the thread; returns at once."""
        wanted = alert.kind in self._config.kinds and (self._config.webhook_url or self._config.command)
        if not wanted:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(alert)
        except queue.Full:
            self._problems.put(f"the alert {alert.kind} was dropped: {_QUEUE} others wait for their delivery")

    def problems(self) -> list[str]:
        """What went wrong with deliveries since the last call."""
        found = []
        while not self._problems.empty():
            found.append(self._problems.get())
        return found

    def close(self, show: Callable[[str], object]) -> None:
        """Waits for deliveries under way, within their time limit, and says what went wrong."""
        if self._thread is not None:
            # A full queue means that deliveries hang: the thread is left to end with the process.
            deadline = time.monotonic() + 2 * self._config.timeout_s + 1
            while self._queue.unfinished_tasks and time.monotonic() < deadline:
                time.sleep(0.01)
            if self._queue.unfinished_tasks:
                self._problems.put("some alerts were not delivered in time")
        for problem in self.problems():
            show(escape(f"Alert: {problem}"))

    def _work(self) -> None:
        while True:
            alert = self._queue.get()
            if alert is None:
                return
            try:
                for send in (self._post, self._run):
                    try:
                        send(alert)
                    except Exception as error:  # whatever a delivery does, the training goes on; it is said
                        self._problems.put(f"{alert.kind} could not be delivered: {type(error).__name__}: {error}")
            finally:
                self._queue.task_done()

    def _post(self, alert: Alert) -> None:
        if self._config.webhook_url is None:
            return
        body = {
            "kind": alert.kind, "epoch": alert.epoch, "message": alert.message, "run": str(self._folder),
            "text": f"adaloc {self._folder.name}: {alert.kind} (epoch {alert.epoch}): {alert.message}",
        }  # fmt: skip
        request = urllib.request.Request(
            self._config.webhook_url,
            data=json.dumps(body, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "adaloc"},
        )
        with urllib.request.urlopen(request, timeout=self._config.timeout_s):
            pass

    def _run(self, alert: Alert) -> None:
        if not self._config.command:
            return
        values = {"kind": alert.kind, "epoch": str(alert.epoch), "message": alert.message, "run": str(self._folder)}
        arguments = [_filled(part, values) for part in self._config.command]
        done = subprocess.run(
            arguments, timeout=self._config.timeout_s, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            self._problems.put(f"the command {arguments[0]} ended with status {done.returncode}")


def tell(alerts: Alerts, alert: Alert | None, log: RunLog, step: int, show: Callable[[str], object]) -> None:
    """An alert of step `step` to the log, the terminal, and whom the config names; also what went wrong with others."""
    for problem in alerts.problems():
        show(escape(f"Alert: {problem}"))
    if alert is None:
        return
    final = {"final": True} if alert.kind in _ENDS else {}
    log.write("alert", epoch=alert.epoch, step=step, kind=alert.kind, message=alert.message, **final)
    if alert.kind != "finished":  # whose verdict stands there anyway
        show(escape(f"Alert, {alert.kind} (epoch {alert.epoch}): {alert.message}"))
    alerts.deliver(alert)


@contextmanager
def told_of_failure(
    alerts: Alerts, log: RunLog, place: Callable[[], tuple[int, int]], show: Callable[[str], object]
) -> Iterator[None]:
    """An error that ends the training is told on its way; `place` gives the epochs and steps so far."""
    try:
        yield
    except Exception as error:
        epoch, step = place()
        try:
            tell(alerts, Alert("failed", epoch, str(error) or type(error).__name__), log, step, show)
        except AdalocError as second:  # a full disk, most likely; the first error is the one to raise
            show(escape(f"Alert: {second}"))
        alerts.close(show)
        raise


def _filled(part: str, values: dict[str, str]) -> str:
    # Not str.format: an argument may hold braces of its own, and a message must not be read as a template.
    for name in ("kind", "epoch", "run", "message"):
        part = part.replace("{" + name + "}", values[name])
    return part
