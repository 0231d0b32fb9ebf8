"""Progress of long work: a bar in a terminal, plain lines elsewhere, with rate and time left in both."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0


class ProgressLine:
    """Shows how far a piece of work has come. Use as a context manager.

    What was done before does not count for the rate: `done`, or where that is None what the first update says.
    """

    def __init__(self, console: Console, name: str, total: int, unit: str, done: int | None = None) -> None:
        self._console = console
        self._name, self._total, self._unit = name, total, unit
        self._begin_done = done
        self._begin = time.monotonic()
        self._last_line = 0.0
        self._last_shown = 0
        self._done = done or 0
        self._task: TaskID | None = None
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=console,
            )

    def __enter__(self) -> ProgressLine:
        self._begin = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._total, completed=self._done, rate="", text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._done != self._last_shown and kind is None:
            self._print_line("")

    def update(self, done: int, text: str = "") -> None:
        """Work is `done` of the total."""
        if self._begin_done is None:  # what was there before does not count for the rate
            self._begin_done = done
        self._done = done
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, rate=f"{self._rate():.3g} {self._unit}/s", text=text)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._print_line(text)

    def say(self, message: str) -> None:
        """A message that stays on the screen above the bar."""
        (self._bar.console if self._bar is not None else self._console).print(message, soft_wrap=True)

    def _rate(self) -> float:
        return (self._done - (self._begin_done or 0)) / max(time.monotonic() - self._begin, 1e-9)

    def _print_line(self, text: str) -> None:
        rate = self._rate()
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate > 0 and self._done < self._total else ""
        detail = f": {text}" if text else ""
        self._console.print(
            f"{self._name} {self._done}/{self._total} {self._unit}, {rate:.3g}/s{left}{detail}", soft_wrap=True
        )
        self._last_line = time.monotonic()
        self._last_shown = self._done
