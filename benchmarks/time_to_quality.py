"""Seconds to a captured information of 60, 70, 80 and 85 %: the default against the recipes that it is compared with.

    python benchmarks/time_to_quality.py --work WORK --seeds 0 1 2 --cap 3600 --threads 2

Trains what WORK does not hold yet, one run after the other, each until it reached the highest level, its epochs are
over or it took --cap seconds; writes benchmarks/results/time_to_quality.json. Stop it and start it again with the same
arguments: it goes on where it was. A run that ended at a lower cap goes on to the new one.

All runs are judged alike, by the default's channel weights on the same validation windows with the same physical floor.
The clock is that of the run: training and validation, no start-up, no reports. Nothing else should run meanwhile. With
--threads 1 --clock processor it is the processor time of the process, which hardly depends on what else runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from adaloc import __version__
from adaloc.config import CHANNELS, Config
from adaloc.config_file import dump_config, load_config, merged, parse_config
from adaloc.data.generate import generate
from adaloc.data.windows import Sample, load_samples, split_samples
from adaloc.errors import AdalocError
from adaloc.files import write_text
from adaloc.models.device import choose_device, describe_device
from adaloc.stopping import asked_to_stop, exit_status, listen
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.run import setup
from adaloc.training.run_log import Event, read_events
from adaloc.training.trainer import Hooks, fit

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
RESULTS = Path(__file__).parent / "results" / "time_to_quality.json"
LEVELS = (20.0, 40.0, 60.0, 70.0, 80.0, 85.0)
"""Percent of the captured information."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
DEFAULT = "default"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    DEFAULT: ("train_config_adaptive.json", {}),
    "decode": ("train_config_decode.json", {}),
    "decode_batch_64": ("train_config_decode.json", {"data": {"batch_size": 64}}),
    "fixed": ("train_config_fixed.json", {}),
    "literal": (
        "train_config_adaptive.json",
        {"training": {"adaptive_lr_config": {"scheduler_type": "adaptive_plateau_literal"}}},
    ),
}
"""A shipped config, and what is changed in it."""


def main() -> None:
    """Trains, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the data and the runs; goes on from there")
    parser.add_argument("--methods", default="default,decode,fixed,literal", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cap", type=float, default=3600.0, help="seconds after which a run ends")
    parser.add_argument("--threads", type=int, default=2, help="of torch on the CPU")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="what the seconds are")
    parser.add_argument("--only-finished", action="store_true", help="trains nothing, takes the runs that ended")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.clock == "processor" and (options.threads, options.device) != (1, "cpu"):
        parser.error("--clock processor compares runs of one thread of a CPU: add --threads 1 --device cpu")
    methods = options.methods.split(",")
    if unknown := sorted(set(methods) - set(METHODS)):
        parser.error(f"--methods: {', '.join(unknown)} is not known; choose from {', '.join(METHODS)}")
    console, rows = Console(), []
    machine = {"num_threads": options.threads, "device": options.device}
    with listen():
        for seed, method in itertools.product(options.seeds, methods):
            config = config_of(method, seed, options.work, machine)
            if options.only_finished and not is_over(read_events(config.output.save_dir / "log.jsonl"), options.cap):
                console.print(f"not there, or not at its end: {method}, seed {seed}")
                continue
            events = train_until(config, options.cap, CLOCKS[options.clock])
            if (number := asked_to_stop()) is not None:
                raise SystemExit(exit_status(number))
            rows.append({"method": method, "seed": seed, **describe(curve(events))})
            console.print(rows[-1], soft_wrap=True)
    results = {
        "command": f"python benchmarks/time_to_quality.py --work WORK --methods {options.methods} "
        f"--seeds {' '.join(map(str, options.seeds))} --cap {options.cap:g} --threads {options.threads} "
        f"--device {options.device} --clock {options.clock}",
        "version": __version__,
        "device": describe_device(choose_device(options.device)),
        "load_average_at_the_end": round(os.getloadavg()[0], 1),
        "cap_s": options.cap,
        "medians": summarize(rows),
        "runs": rows,
    }
    write_text(options.out, json.dumps(results, indent=2, allow_nan=False) + "\n")
    console.print_json(json.dumps(results["medians"]))


def config_of(method: str, seed: int, work: Path, machine: dict[str, Any]) -> Config:
    """The config of one run. All share the data, which do not depend on the seed."""
    name, changes = METHODS[method]
    places = {
        "data": {"root": str(work / "data"), "simulate_if_missing": True},
        "output": {"save_dir": str(work / f"{method}_{seed}")},
        "seed": seed,
        **machine,
    }
    return parse_config(merged(merged(dump_config(load_config(CONFIGS / name)), changes), places), method)


def train_until(config: Config, cap_s: float, clock: Callable[[], float] = time.perf_counter) -> list[Event]:
    """Trains a run until the highest level or the cap, unless it did so before; its log.

    Raises:
        AdalocError: when data or checkpoint cannot be used.
    """
    log = config.output.save_dir / "log.jsonl"
    events = read_events(log)
    if is_over(events, cap_s):
        return events
    training, validation = samples_of(config)
    path = config.output.save_dir / LATEST
    if not path.is_file():
        log.unlink(missing_ok=True)  # of a run that was stopped before its first checkpoint
    highest = Highest(log)
    run = setup(config, training, validation, load_checkpoint(path, config) if path.is_file() else None)
    run.clock = clock

    def should_stop() -> bool:
        return asked_to_stop() is not None or run.wall_s >= cap_s or highest.percent >= LEVELS[-1]

    fit(run, Hooks(on_epoch=highest.note, should_stop=should_stop, force=True))
    return read_events(log)


@dataclass
class Highest:
    """The most information that a run captured since it was started or resumed.

    Attributes:
        log: of the run; its first event holds the floor.
        start: that event, once there is one.
        percent: of the captured information.
    """

    log: Path
    start: Event | None = None
    percent: float = 0.0

    def note(self, record: dict[str, Any]) -> None:
        """Takes an epoch's record."""
        if self.start is None:
            self.start = read_events(self.log)[0]
        ((_, captured),) = curve([self.start, {"event": "epoch", **record}])
        self.percent = max(self.percent, captured)


def samples_of(config: Config) -> tuple[list[Sample], list[Sample]]:
    """Samples for training and validation, simulated when missing, with the seed of the reference data."""
    for _ in generate(config.model_copy(update={"seed": 0}), config.data.root):
        pass
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    return training, validation


def is_over(events: Sequence[Event], cap_s: float) -> bool:
    """Whether a log holds all that is asked for: the highest level, the end of its epochs, or `cap_s` seconds."""
    if not events:
        return False
    points = curve(events)
    reached = bool(points) and max(captured for _, captured in points) >= LEVELS[-1]
    ended = any(event["event"] == "end" and event["status"] != "interrupted" for event in events)
    return reached or ended or (bool(points) and points[-1][0] >= cap_s)


def curve(events: Sequence[Event]) -> list[tuple[float, float]]:
    """(seconds, captured information in percent) of each epoch, by the default's weights.

    Raises:
        AdalocError: when the floor is not known.
    """
    weights = dict(zip(CHANNELS, Config().training.unified_loss_config.channel_weights, strict=True))
    start = next(event for event in events if event["event"] == "start")
    if start["floor_channels"] is None:
        raise AdalocError(f"The physical floor is unknown: {start['floor_unknown_because']}")
    floor = math.fsum(weights[name] * value for name, value in start["floor_channels"].items())
    nothing = math.fsum(weights.values())
    return [
        (
            event["wall_s"],
            100 * (nothing - math.fsum(weights[c] * v for c, v in event["val_channels"].items())) / (nothing - floor),
        )
        for event in events
        if event["event"] == "epoch"
    ]


def describe(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """When each level was reached first, or null; and how far the run came."""
    return {
        "epochs": len(points),
        "wall_s": round(points[-1][0], 1),
        "best_captured_percent": round(max(captured for _, captured in points), 2),
        "seconds_to": {
            f"{level:g}": next((round(seconds, 1) for seconds, captured in points if captured >= level), None)
            for level in LEVELS
        },
    }


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the seeds, null where a seed did not get there; and how many times sooner the default is."""
    medians: dict[str, dict[str, float | None]] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        times = [row["seconds_to"] for row in rows if row["method"] == method]
        medians[method] = {level: median_or_none([own[level] for own in times]) for level in times[0]}
    default = medians.get(DEFAULT, {})
    sooner = {
        method: {
            level: None if value is None or (own := default.get(level)) is None else round(value / own, 2)
            for level, value in levels.items()
        }
        for method, levels in medians.items()
    }
    return {"seconds_to": medians, "default_is_sooner_by": sooner}


def median_or_none(values: Sequence[float | None]) -> float | None:
    """The median where all are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


if __name__ == "__main__":
    main()
