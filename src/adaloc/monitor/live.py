"""Watches a run in the terminal. Only reads; the training never notices."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adaloc.emitters import FloatArray
from adaloc.errors import DataError
from adaloc.monitor.advice import advise
from adaloc.monitor.analysis import Analysis, analyse, plain_number
from adaloc.monitor.facts import (
    describe_adjustment,
    describe_captured,
    describe_counts,
    describe_floor,
    metric_facts,
)
from adaloc.monitor.log import LOG_FILE, Run, load_run
from adaloc.monitor.say import Say, speaker
from adaloc.monitor.verdict import describe_duration, verdict
from adaloc.words import Language

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.-=+*#@"
_SPARKLINE_WIDTH = 60
_ADJUSTMENTS_SHOWN = 3
_QUIET_SECONDS = 300.0
_QUIET_EPOCHS = 5.0


class LogWatcher:
    """Gives the run of a folder, and reads the log again only when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, int, int] | None = None
        self._run: Run | None = None
        self.problem = ""
        """Why there is no run, when there is none."""

    def look(self) -> Run | None:
        """The run as it stands, or None while there is none."""
        try:
            status = (self._folder / LOG_FILE).stat()
        except OSError:
            self._seen, self._run = None, None
            self.problem = f"there is no {self._folder / LOG_FILE} yet"
            return None
        # Size and inode beside the time: a clock that goes back, or a new run, must not hide news.
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen != self._seen:
            try:
                self._run = load_run(self._folder)
            except DataError as error:  # the start may not be written yet
                self._run, self.problem = None, str(error)
            self._seen = seen
        return self._run

    def quiet_seconds(self) -> float:
        """Time since the log was last written, s; 0 when the clock says it lies in the future."""
        return 0.0 if self._seen is None else max(time.time() - self._seen[2] / 1e9, 0.0)


def watch(
    folder: Path,
    interval_s: float,
    once: bool = False,
    console: Console | None = None,
    language: Language = "en",
) -> None:
    """Shows a run until it ends: a live view in a terminal, plain lines elsewhere.

    Waits for a run that does not exist yet. Ctrl-C passes as KeyboardInterrupt.

    Args:
        folder: run folder.
        interval_s: time between looks, s.
        once: one look only.
        console: where to print; standard output if None.
        language: of the words.
    """
    console = console or Console()
    watcher = LogWatcher(folder)
    if console.is_terminal and not once:
        _watch_live(watcher, interval_s, console, language)
    else:
        _watch_plainly(watcher, interval_s, once, console, language)


def plain_view(run: Run, quiet_s: float = 0.0, utf8: bool = True, language: Language = "en") -> str:
    """The facts of the live view as lines of text."""
    analysis, say = analyse(run), speaker(language)
    lines = [verdict(run, language), f"  {_progress_words(run, analysis, say)}"]
    if len(run.epochs):
        lines.append(f"  {say('loss')} {sparkline(run.epochs.val_loss, utf8=utf8)}")
        lines.append(f"  {say('learning rate')} {sparkline(run.epochs.lr, utf8=utf8)} {run.epochs.lr[-1]:.2e}")
    lines.append(f"  {_limits_words(run, analysis, say)}")
    if run.adjustments:
        counts = describe_counts(analysis.adjustments, language)
        last = _adjustments(run, say)[-1]
        lines.append("  " + say("adjustments: {counts}; last: {last}", counts=counts, last=last))
    if run.metrics:
        lines.append("  " + ", ".join(f"{label} {value}" for label, value in metric_facts(run, language)))
    warning = _quiet_warning(run, analysis, quiet_s, say)
    return "\n".join([*lines, f"  {warning}"] if warning else lines)


def live_view(run: Run, quiet_s: float = 0.0, utf8: bool = True, language: Language = "en") -> RenderableType:
    """The live view as something that rich draws."""
    analysis, say = analyse(run), speaker(language)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    planned = max(run.planned_epochs or analysis.num_epochs, 1)
    table.add_row(say("progress"), ProgressBar(total=planned, completed=min(analysis.num_epochs, planned), width=40))
    table.add_row("", Text(_progress_words(run, analysis, say)))
    if len(run.epochs):
        table.add_row(say("loss"), _Sparkline(run.epochs.val_loss, utf8))
        lowest, highest = _range(run.epochs.val_loss)
        table.add_row(
            "",
            Text(
                say("{low} to {high}, logarithmic", low=plain_number(lowest), high=plain_number(highest)), style="dim"
            ),
        )
        table.add_row(say("learning rate"), _Sparkline(run.epochs.lr, utf8))
        table.add_row("", Text(f"{run.epochs.lr[-1]:.2e}"))
    table.add_row(say("limits"), Text(_limits_words(run, analysis, say)))
    changes = [describe_counts(analysis.adjustments, language), *_adjustments(run, say)]
    table.add_row(say("adjustments"), Text("\n".join(changes)))
    if run.metrics:
        table.add_row(
            say("detection"), Text(", ".join(f"{label} {value}" for label, value in metric_facts(run, language)))
        )
    advice = advise(run, language)
    if advice:
        table.add_row(say("advice"), Text(advice[0].text))
    parts: list[RenderableType] = [Text(verdict(run, language), style="bold"), Text(""), table]
    warning = _quiet_warning(run, analysis, quiet_s, say)
    if warning:
        parts.append(Text(warning, style="yellow"))
    return Panel(Group(*parts), title=Text(str(run.folder)), title_align="left")


@dataclass(frozen=True)
class _Sparkline:
    """A sparkline as wide as there is room, so that a narrow terminal does not cut off what is newest."""

    values: FloatArray
    utf8: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(sparkline(self.values, min(_SPARKLINE_WIDTH, options.max_width), self.utf8))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(_SPARKLINE_WIDTH, len(self.values)))


def sparkline(values: FloatArray, width: int = _SPARKLINE_WIDTH, utf8: bool = True) -> str:
    """A line of at most `width` blocks, logarithmic where all values are positive; "x" where none is finite.

    >>> sparkline(np.array([1.0, 2.0, 4.0, 8.0, math.nan]), utf8=False)
    '_-*@x'
    """
    blocks = _BLOCKS if utf8 else _ASCII_BLOCKS
    bins = [part[np.isfinite(part)] for part in np.array_split(values, max(min(width, len(values)), 1))]
    levels = np.array([np.median(part) if len(part) else math.nan for part in bins])
    if np.all(levels[np.isfinite(levels)] > 0):
        levels = np.log(levels)
    low, high = _range(levels)
    span = high - low if high > low else 1.0
    return "".join(
        "x" if math.isnan(level) else blocks[round((level - low) / span * (len(blocks) - 1))]
        for level in levels
    )  # fmt: skip


def _watch_live(watcher: LogWatcher, interval_s: float, console: Console, language: Language) -> None:
    utf8 = _is_utf8(console)
    with Live(Text(speaker(language)("Waiting for a run")), console=console, auto_refresh=False) as live:
        while True:
            run = watcher.look()
            view = Text(_waiting(watcher)) if run is None else live_view(run, watcher.quiet_seconds(), utf8, language)
            live.update(view, refresh=True)
            if run is not None and run.end is not None:
                return
            time.sleep(interval_s)


def _watch_plainly(watcher: LogWatcher, interval_s: float, once: bool, console: Console, language: Language) -> None:
    shown = ""
    while True:
        run = watcher.look()
        text = (
            _waiting(watcher) if run is None else plain_view(run, watcher.quiet_seconds(), _is_utf8(console), language)
        )
        if text != shown:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            shown = text
        if once or (run is not None and run.end is not None):
            return
        time.sleep(interval_s)


def _waiting(watcher: LogWatcher) -> str:
    return f"Waiting for a run: {watcher.problem}"


def _progress_words(run: Run, analysis: Analysis, say: Say) -> str:
    words = say("epoch {n} of {planned}", n=analysis.num_epochs, planned=run.planned_epochs or say("unknown"))
    if math.isfinite(analysis.seconds_per_epoch):
        words += say(", {rate:.3g} epochs/min", rate=60 / analysis.seconds_per_epoch)
    if run.end is None and analysis.seconds_left is not None:
        words += say(", {time} left", time=describe_duration(analysis.seconds_left, say.language))
    return words


def _limits_words(run: Run, analysis: Analysis, say: Say) -> str:
    line, floor = plain_number(run.no_information_loss), describe_floor(run, say)
    lines = say("no-information loss {line}, physical floor {floor}", line=line, floor=floor)
    if not len(run.epochs) or not math.isfinite(run.floor):
        return lines
    return lines + say(", captured information {share}", share=describe_captured(analysis, say))


def _adjustments(run: Run, say: Say) -> list[str]:
    described = [describe_adjustment(adjustment, say.language) for adjustment in run.adjustments[-_ADJUSTMENTS_SHOWN:]]
    return [
        say("epoch {epoch}: {kind}, {change} ({reason})", epoch=epoch, kind=kind, change=change, reason=reason)
        for epoch, kind, change, reason in described
    ]


def seems_running(run: Run, seconds_per_epoch: float, quiet_s: float) -> bool:
    """Whether a run without an end writes its log as often as its epochs last; NaN when that is not known."""
    usual = seconds_per_epoch if math.isfinite(seconds_per_epoch) else 0.0
    return run.end is None and quiet_s < max(_QUIET_SECONDS, _QUIET_EPOCHS * usual)


def _quiet_warning(run: Run, analysis: Analysis, quiet_s: float, say: Say) -> str:
    if run.end is not None or seems_running(run, analysis.seconds_per_epoch, quiet_s):
        return ""
    return say(
        "Nothing new for {time}: the training may have been stopped; go on with: python start_adaptive_training.py "
        "--resume auto",
        time=describe_duration(quiet_s, say.language),
    )


def _range(values: FloatArray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)


def _is_utf8(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
