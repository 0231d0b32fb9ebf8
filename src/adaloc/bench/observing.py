"""`adaloc bench observing`: what watching and deciding take of a training's time.

A real training of a config's first steps, with the calls that watch and decide timed where they stand. On a CPU one
thread's processor time is read, so that other work on the machine does not count.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from adaloc import __version__
from adaloc.bench.settings import load_data
from adaloc.bench.speed_stages import Clock, make_clock
from adaloc.config import Config
from adaloc.files import write_text
from adaloc.models.device import describe_device
from adaloc.models.network import num_parameters
from adaloc.training import trainer
from adaloc.training.cures import Clip
from adaloc.training.learning_rate import LearningRate
from adaloc.training.rewind import Rewind
from adaloc.training.run import setup
from adaloc.training.signals import Observer
from adaloc.training.step_size import StepSize
from adaloc.training.trainer import Hooks, fit

GOAL = 0.02
"""Share of the time that observing may take."""
_WATCHED: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("signals", Observer, ("before_step", "after_step", "state_dict")),
    ("learning rate", LearningRate, ("observe_step", "observe_epoch")),
    ("size of the steps", StepSize, ("__init__", "relative")),
    ("copies to go back to", Rewind, ("obey", "keep")),
    ("clipping", Clip, ("observe", "state_dict")),
    ("diagnosis", trainer, ("diagnose_in_training",)),
)


@dataclass
class Meter:
    """Seconds of each part, and of all, in the search for the rate and after it.

    Attributes:
        parts: (part, whether searching) to seconds; of nested calls the outer one counts.
        whole: whether searching to seconds of all.
        steps: likewise, number of steps.
    """

    clock: Clock
    parts: dict[tuple[str, bool], float] = field(default_factory=lambda: defaultdict(float))
    whole: dict[bool, float] = field(default_factory=lambda: defaultdict(float))
    steps: dict[bool, int] = field(default_factory=lambda: defaultdict(int))
    searching: bool = True
    _last: float | None = None
    _inside: bool = False

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with its time added to a part."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return call(*args, **kwargs)
            self._inside, begin = True, self.clock()
            try:
                return call(*args, **kwargs)
            finally:
                self._inside = False
                self.parts[part, self.searching] += self.clock() - begin

        return wrapped

    def tick(self, searching: bool) -> None:
        """To be called once a step."""
        now = self.clock()
        if self._last is not None:
            self.whole[self.searching] += now - self._last
            self.steps[self.searching] += 1
        else:
            self.parts.clear()  # what came before the first tick has no whole to be a share of
        self._last, self.searching = now, searching


def measure(config: Config, steps: int) -> dict[str, Any]:
    """Trains the config's first steps, and returns the shares as plain containers.

    Args:
        config: its data are simulated where they are not there; its length is what the shares of a run are for.
        steps: to train, the search's included.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="adaloc-observing-") as folder:
        output = config.output.model_copy(update={"save_dir": Path(folder) / "run"})
        config = config.model_copy(update={"num_threads": 1, "output": output})
        run = setup(config, *load_data(config), with_floor=False)
        meter = Meter(make_clock(run.device, 1))

        def should_stop() -> bool:
            meter.tick(run.learning_rate.wants_relative_step)
            return run.step >= steps

        with _watching(meter):
            fit(run, Hooks(should_stop=should_stop))
        total = config.training.epochs * run.windows.steps_per_epoch
        return summarize(meter, total) | {
            "version": __version__,
            "device": describe_device(run.device),
            "num_parameters": num_parameters(run.model.network),
            "batch_size": config.data.batch_size,
            "image_size_px": config.data.image_size,
            "goal": GOAL,
        }


def summarize(meter: Meter, run_steps: int) -> dict[str, Any]:
    """Shares of the time in the search and after it, and of a run of `run_steps`, for each part and in all."""

    def per_step(searching: bool) -> float:
        return meter.whole[searching] / max(meter.steps[searching], 1)

    num_search = meter.steps[True]
    weight = {True: num_search, False: max(run_steps - num_search, 0)}
    whole_run = sum(weight[s] * per_step(s) for s in weight)
    parts: dict[str, dict[str, float]] = {}
    for name, _, _ in _WATCHED:
        seconds = {s: meter.parts.get((name, s), 0.0) for s in (True, False)}
        of_run = sum(weight[s] * seconds[s] / max(meter.steps[s], 1) for s in weight)
        parts[name] = {
            "search": seconds[True] / max(meter.whole[True], 1e-12),
            "after": seconds[False] / max(meter.whole[False], 1e-12),
            "run": of_run / max(whole_run, 1e-12),
        }
    shares = {period: sum(part[period] for part in parts.values()) for period in ("search", "after", "run")}
    return {
        "share": shares,
        "parts": parts,
        "steps": {"search": num_search, "after": meter.steps[False], "run": run_steps},
        "seconds_per_step": {"search": per_step(True), "after": per_step(False)},
    }


def show(results: dict[str, Any], console: Console) -> None:
    """Prints the shares in percent."""
    table = Table(title="Share of a training's time, %", title_justify="left", box=None, pad_edge=False)
    for heading in ("part", "in the search", "after it", "of a whole run"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for name, shares in {**results["parts"], "all": results["share"]}.items():
        table.add_row(name, *(f"{100 * shares[period]:.2f}" for period in ("search", "after", "run")))
    console.print(table)


def write_results(results: dict[str, Any], command: str, path: Path) -> None:
    """Keeps the shares as JSON."""
    write_text(path, json.dumps({"command": command, **results}, indent=1) + "\n")


@contextmanager
def _watching(meter: Meter) -> Iterator[None]:
    with ExitStack() as stack:
        for part, owner, names in _WATCHED:
            for name in names:
                stack.enter_context(mock.patch.object(owner, name, meter.timed(part, getattr(owner, name))))
        yield
