"""The commands that `adaloc bench kill` kills, as processes, and the moments that it aims at."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "data": {
        "root": "data", "simulate_if_missing": True, "batch_size": 2, "image_size": 16,
        "validation_windows_per_sample": 2, "min_photons": 100,
    },
    "simulation": {
        "num_samples": 5, "num_frames": 8, "image_size_px": 20,
        "psf": {"type": "pupil", "roi_size_px": 11},
    },
    "network": {"base_channels": 2, "depth": 1},
    "training": {"epochs": 50, "adaptive_lr_config": {"anneal_fraction": 0.1}},
    "output": {"save_dir": "run", "checkpoint_interval_epochs": 4, "metrics_interval_epochs": 10},
    "num_threads": 1,
    "device": "cpu",
}  # fmt: skip
"""A small training with everything in it: simulation, search, trials, validation, metrics, saves, report."""
TRAIN = ("train", "--config", "config.json", "--resume", "auto", "--skip-checks", "--force")
SIMULATE = ("simulate", "--config", "config.json", "--out", "simulated")
LOCALIZE = (
    "localize",
    "model.pth",
    "movie.tiff",
    "--out",
    "locs/locs.csv",
    "--format",
    "all",
    "--resume",
    "--threshold",
    "0.02",
)
_POLL_S = 0.0005


def start(arguments: tuple[str, ...], folder: Path) -> BaseProcess:
    """Starts an adaloc command in a process of its own, with `folder` as current directory.

    Where there is a fork server the libraries are loaded once, in it; the command is the same.
    """
    process: BaseProcess
    if "forkserver" in multiprocessing.get_all_start_methods():
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(["adaloc.main_job", "adaloc.cli", "adaloc.localize.command"])
        process = server.Process(target=_run, args=(arguments, str(folder)))
    else:
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(arguments, str(folder)))
    process.start()
    return process


def _run(arguments: tuple[str, ...], folder: str) -> None:
    os.chdir(folder)
    output = os.open("output.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from adaloc.localize import inference
    from adaloc.training import controller

    setattr(controller, "TrendTest", _stalled_at_once())  # noqa: B010 - a class in place of a class
    inference._CPU_BYTES_AT_ONCE, inference._BLOCK_BYTES = 64 * 4 * 5 * 24 * 32, 1  # many blocks in a small movie
    import_module("adaloc.cli").main(list(arguments))  # by name: this process is a command line of its own


def _stalled_at_once() -> type:
    """A stall test that says "stalled" at every look: real stalls take thousands of steps, and trials are wanted."""
    import dataclasses

    from adaloc.training.trend import Trend, TrendTest

    class StalledAtOnce(TrendTest):
        def observe(self, loss: float) -> Trend | None:
            look = super().observe(loss)
            return None if look is None else dataclasses.replace(look, verdict="stalled")

    return StalledAtOnce


@dataclass(frozen=True)
class Aim:
    """A moment to kill at: some time after something has happened in the folder.

    Attributes:
        name: what is going on then.
        happened: (folder, what `state` said at the start) -> whether it has; None for the start itself.
        delay_s: the longest time to wait from then on; the wait is uniform. 0 takes the whole length of the command.
    """

    name: str
    happened: Callable[[Path, dict[str, Any]], bool] | None
    delay_s: float


def kill_at(process: BaseProcess, aim: Aim, folder: Path, whole_s: float, rng: np.random.Generator) -> bool:
    """Waits for the moment, and kills.

    Returns:
        Whether the process was killed; False when it ended before.
    """
    before = {"sizes": _sizes(folder), "begin": time.monotonic()}
    wait = float(rng.uniform(0, aim.delay_s or whole_s))
    while aim.happened is not None and not aim.happened(folder, before):
        if not process.is_alive():
            return False
        time.sleep(_POLL_S)
    process.join(wait)
    if not process.is_alive():
        return False
    process.kill()
    process.join()
    return True


def _sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and age of the files that aims look at."""
    sizes = {}
    for name in ("run/log.jsonl", "run/latest_checkpoint.pth", "locs/locs.unfinished"):
        try:
            facts = (folder / name).stat()
        except FileNotFoundError:
            continue
        sizes[name] = (facts.st_size, facts.st_mtime_ns)
    return sizes


def _changed(name: str, times: int = 1) -> Callable[[Path, dict[str, Any]], bool]:
    """Whether a file has changed so many times since the start."""

    def happened(folder: Path, before: dict[str, Any]) -> bool:
        now = _sizes(folder).get(name)
        if now is not None and now != before["sizes"].get(name):
            before["sizes"][name] = now
            before["times"] = before.get("times", 0) + 1
        return bool(before.get("times", 0) >= times)

    return happened


def _there_is(where: str, pattern: str) -> Callable[[Path, dict[str, Any]], bool]:
    return lambda folder, _: any((folder / where).glob(pattern)) if (folder / where).is_dir() else False


def _logged(words: str, times: int = 1) -> Callable[[Path, dict[str, Any]], bool]:
    """Whether the log has got lines with `words` since the start."""

    def happened(folder: Path, before: dict[str, Any]) -> bool:
        try:
            with (folder / "run" / "log.jsonl").open("rb") as log:
                log.seek(before["sizes"].get("run/log.jsonl", (0, 0))[0])
                return log.read().count(words.encode()) >= times
        except FileNotFoundError:
            return False

    return happened


TRAIN_AIMS = (
    Aim("any moment", None, 0.0),
    Aim("simulation", _there_is("data", ".sample_*.tmp"), 0.03),
    Aim("start of a run", _changed("run/log.jsonl"), 0.2),
    Aim("log write", _changed("run/log.jsonl", 5), 0.0005),
    Aim("checkpoint being written", _there_is("run", ".latest_checkpoint*"), 0.002),
    Aim("checkpoint just written", _changed("run/latest_checkpoint.pth"), 0.0005),
    Aim("best model being written", _there_is("run", ".best_model*"), 0.002),
    Aim("trial", _logged('"kind": "trial"'), 0.4),
    Aim("between epochs, validation", _logged('"event": "epoch"', 2), 0.05),
    Aim("detection metrics", _logged('"event": "metrics"'), 0.05),
    Aim("last metrics and end", _logged('"final": true'), 0.1),
    Aim("summary, report and curves", _logged('"event": "end"'), 1.5),
)
SIMULATE_AIMS = (
    Aim("any moment", None, 0.0),
    Aim("field map, dataset.json", _there_is("simulated", "*"), 0.005),
    Aim("sample being written", _there_is("simulated", ".sample_*.tmp"), 0.03),
)
LOCALIZE_AIMS = (
    Aim("any moment", None, 0.0),
    Aim("block being written", _changed("locs/locs.unfinished", 3), 0.001),
    Aim("tables being written", _there_is("locs", ".locs*"), 0.02),
)


def prepare(folder: Path, num_workers: int) -> None:
    """Makes a folder with the config that the commands read."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "data": {**CONFIG["data"], "num_workers": num_workers}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
