"""`adaloc bench speed`: what each stage of training and localization takes, for a config and against another one.

Everything is timed in turns in one process, a fixed reference computation included, and what is compared are ratios
within a turn: whatever else the machine does slows both sides. One thread on a CPU is timed by its processor time.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from adaloc import __version__
from adaloc.bench.speed_stages import (
    FIELD_PX,
    LOCALIZATION,
    TRAINING,
    Clock,
    Workload,
    prepare,
    time_stages,
    training_seconds,
)
from adaloc.config import Config
from adaloc.errors import ConfigError
from adaloc.files import write_text
from adaloc.models.device import describe_device
from adaloc.models.network import num_parameters
from adaloc.progress import ProgressLine

SLOWER = 1.2
"""From this ratio to the baseline on a stage is called slower."""
_REFERENCE_CHANNELS, _REFERENCE_PX, _REFERENCE_ROWS = 32, 64, 512
Turn = dict[str, float]


def run_speed(
    configs: Mapping[str, Config], *, repeats: int, threads: int, seconds: float, console: Console
) -> dict[str, Any]:
    """Times all stages of each config `repeats` times, in turns.

    Args:
        configs: by the name to show; the first is compared with the second, where there is one.
        repeats: turns; what is given are medians over them.
        threads: of torch.
        seconds: after which no further turn begins, whatever `repeats` is; one is always taken.
        console: where progress goes.

    Returns:
        Plain containers, see docs/speed.md.
    """
    torch.set_num_threads(threads)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="adaloc-speed-") as folder:
        works = {
            name: prepare(config, Path(folder) / str(i), threads) for i, (name, config) in enumerate(configs.items())
        }
        references, turns = _take_turns(works, repeats, seconds, console)
        measured = {name: summarize(work, turns[name], references) for name, work in works.items()}
        device = next(iter(works.values())).run.device
    first, *others = measured
    return {
        "version": __version__,
        "device": describe_device(device),
        "threads": threads,
        "clock": "processor time" if device.type == "cpu" and threads == 1 else "wall time",
        "repeats": len(references),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "reference_s": statistics.median(references),
        "configs": measured,
        "ratios": {other: compare(works[first], turns[first], works[other], turns[other]) for other in others},
    }


def reference_seconds(device: torch.device, clock: Clock) -> float:
    """What a fixed computation takes now: a convolution forwards and backwards, and a product of matrices."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, _REFERENCE_CHANNELS, _REFERENCE_PX, _REFERENCE_PX)
    image = torch.randn(shape, generator=generator).to(device).requires_grad_()
    kernel = torch.randn((_REFERENCE_CHANNELS, _REFERENCE_CHANNELS, 3, 3), generator=generator).to(device)
    matrix = torch.randn((_REFERENCE_ROWS, _REFERENCE_ROWS), generator=generator).to(device)
    best = float("inf")
    for _ in range(3):
        begin = clock()
        F.conv2d(image, kernel.requires_grad_(), padding=1).square().sum().backward()  # type: ignore[no-untyped-call]
        for _ in range(4):
            matrix @ matrix
        best = min(best, clock() - begin)
    return best


def summarize(work: Workload, turns: Sequence[Turn], references: Sequence[float]) -> dict[str, Any]:
    """Rates, shares and times in units of the reference, as medians over the turns."""
    training = [training_seconds(work, turn) for turn in turns]
    localization = [{name: turn[name] for name in LOCALIZATION} for turn in turns]
    stages = {}
    for group, unit, parts in (("training", "targets", training), ("localization", "frames", localization)):
        for name in parts[0]:
            seconds = [turn[name] for turn in turns]
            stages[name] = {
                "of": group,
                "unit": "frames" if name == "simulate" else unit,
                "per_s": 1 / statistics.median(seconds),
                "share": statistics.median(part[name] / sum(part.values()) for part in parts),
                "references": statistics.median(s / r for s, r in zip(seconds, references, strict=True)),
            }
    data = work.config.data
    return {
        "num_parameters": num_parameters(work.run.model.network),
        "batch_size": data.batch_size,
        "target_px": data.image_size,
        "field_px": FIELD_PX,
        "training_targets_per_s": 1 / statistics.median(sum(part.values()) for part in training),
        "network_frames_per_s": stages["infer"]["per_s"],
        "localization_frames_per_s": 1 / statistics.median(sum(part.values()) for part in localization),
        "stages": stages,
    }


def compare(first: Workload, turns: Sequence[Turn], second: Workload, other: Sequence[Turn]) -> dict[str, Any]:
    """How many times faster the first is: medians and extremes of the ratios within a turn."""

    def ratios(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
        all_of_them = [y / x for x, y in zip(a, b, strict=True)]
        return {"median": statistics.median(all_of_them), "min": min(all_of_them), "max": max(all_of_them)}

    def training(work: Workload, rows: Sequence[Turn]) -> list[float]:
        return [sum(training_seconds(work, turn).values()) for turn in rows]

    def localization(rows: Sequence[Turn]) -> list[float]:
        return [sum(turn[name] for name in LOCALIZATION) for turn in rows]

    return {
        "training": ratios(training(first, turns), training(second, other)),
        "network": ratios([turn["infer"] for turn in turns], [turn["infer"] for turn in other]),
        "localization": ratios(localization(turns), localization(other)),
    }


def changes_to(baseline: dict[str, Any], results: dict[str, Any]) -> dict[str, float]:
    """Time of each stage of the first config over the baseline's, both in units of the reference computation.

    Raises:
        ConfigError: when the baseline is no result of this command, or has other stages.
    """
    now = next(iter(results["configs"].values()))["stages"]
    try:
        then = next(iter(baseline["configs"].values()))["stages"]
        return {name: stage["references"] / then[name]["references"] for name, stage in now.items()}
    except (KeyError, TypeError, StopIteration):
        raise ConfigError(
            "The baseline was not written by this version of adaloc bench speed. Write a new one with --out."
        ) from None


def show(results: dict[str, Any], changes: Mapping[str, float], console: Console) -> None:
    """Prints a table for each config, the ratios, and what is slower than the baseline."""
    low, high = results["load_average"]
    where = f"{results['device']}, {results['clock']}, load {low:g} to {high:g}"
    for index, (name, measured) in enumerate(results["configs"].items()):
        title = f"{name}: {measured['num_parameters']:,} parameters; {where}; medians of {results['repeats']}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for heading in ("stage", "a second", "unit", "share", "references", *(["baseline"] if changes else [])):
            table.add_column(heading, justify="left" if heading in ("stage", "unit") else "right")
        for stage, numbers in measured["stages"].items():
            size = measured["target_px"] if numbers["of"] == "training" else measured["field_px"]
            row = [
                stage, f"{numbers['per_s']:,.4g}", f"{numbers['unit']} of {size} px", f"{100 * numbers['share']:.1f} %",
                f"{numbers['references']:.3g}",
            ]  # fmt: skip
            if changes and index == 0:
                row.append(f"{100 * (changes[stage] - 1):+.0f} %")
            table.add_row(*row, end_section=stage == TRAINING[-1])
        console.print(table)
        console.print(
            f"training {measured['training_targets_per_s']:.4g} targets/s, network "
            f"{measured['network_frames_per_s']:.4g} frames/s, localization "
            f"{measured['localization_frames_per_s']:.4g} frames/s\n",
            soft_wrap=True,
        )
    for other, ratio in results["ratios"].items():
        words = ", ".join(f"{part} {r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for part, r in ratio.items())
        console.print(f"times faster than {other}: {words}", soft_wrap=True)
    slower = [f"{name} ({change:.2f} times its time)" for name, change in changes.items() if change > SLOWER]
    if slower:
        console.print(f"[yellow]Slower than the baseline:[/yellow] {', '.join(slower)}", soft_wrap=True)
    elif changes:
        console.print(f"No stage takes over {SLOWER:g} times what the baseline says.")


def write_results(results: dict[str, Any], command: str, path: Path) -> None:
    """Keeps the results as JSON."""
    write_text(path, json.dumps({"command": command, **results}, indent=2, allow_nan=False) + "\n")


def _take_turns(
    works: Mapping[str, Workload], repeats: int, seconds: float, console: Console
) -> tuple[list[float], dict[str, list[Turn]]]:
    """A turn of the reference and of each workload, again and again; the first turn pays for caches and is dropped."""
    references: list[float] = []
    turns: dict[str, list[Turn]] = {name: [] for name in works}
    first = next(iter(works.values()))
    began = time.monotonic()
    with ProgressLine(console, "timing", repeats + 1, "turns") as line:
        for turn in range(repeats + 1):
            if turn > 1 and time.monotonic() - began > seconds:
                break
            references.append(reference_seconds(first.run.device, first.clock))
            for name, work in works.items():
                turns[name].append(time_stages(work))
            line.update(turn + 1)
    return references[1:], {name: rows[1:] for name, rows in turns.items()}
