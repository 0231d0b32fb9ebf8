"""`adaloc bench kill`: kill -9 at many moments, resume, and compare with a run that was never killed."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from rich.console import Console
from rich.table import Table

from adaloc import __version__
from adaloc.bench.kill_compare import Outcome, differences, leftovers, outcome, unreadable
from adaloc.bench.kill_jobs import (
    LOCALIZE,
    LOCALIZE_AIMS,
    SIMULATE,
    SIMULATE_AIMS,
    TRAIN,
    TRAIN_AIMS,
    Aim,
    kill_at,
    prepare,
    start,
)
from adaloc.errors import AdalocError
from adaloc.files import write_text
from adaloc.progress import ProgressLine

_KILLS_A_RUN = 10
"""Then a run is left alone to end, and compared."""
_MOVIE_FRAMES = 400


@dataclass(frozen=True)
class Case:
    """A command to be killed: its arguments, its moments, and the share of all kills that it gets."""

    name: str
    arguments: tuple[str, ...]
    aims: tuple[Aim, ...]
    share: float
    num_workers: int = 0


CASES = (
    Case("train, 0 loader workers", TRAIN, TRAIN_AIMS, 0.6),
    Case("train, 2 loader workers", TRAIN, TRAIN_AIMS, 0.16, num_workers=2),
    Case("simulate", SIMULATE, SIMULATE_AIMS, 0.12),
    Case("localize", LOCALIZE, LOCALIZE_AIMS, 0.12),
)


@dataclass
class Count:
    """What came of the kills of a case at one kind of moment."""

    kills: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What came of a case. `differences` are those of finished runs to the one that was never killed."""

    case: str
    moments: dict[str, Count]
    runs: int = 0
    differences: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """At all moments."""
        return sum(count.kills for count in self.moments.values())

    @property
    def lost(self) -> int:
        """Files that could not be read, values that differ, and temporary files left at the end."""
        broken = sum(len(count.unreadable) for count in self.moments.values())
        return broken + len(self.differences) + len(self.leftovers)


def run_study(work: Path, kills: int, seed: int, console: Console, cases: Sequence[Case] = CASES) -> list[Result]:
    """Kills every case its share of `kills` times.

    Args:
        work: a new folder for all runs.
        kills: in all.
        seed: of the moments. Events in the folder decide too, so a study repeats only in kind.
        console: where progress goes.
        cases: what to kill.

    Raises:
        AdalocError: when `work` is not new, or a command fails by itself.
    """
    if work.exists() and any(work.iterdir()):
        raise AdalocError(f"{work} is not empty. Name a new folder for the killed runs.")
    whole: Outcome | None = None
    results = []
    shares = sum(case.share for case in cases)
    done = 0
    with ProgressLine(console, "killing", kills, "kills") as line:
        for number, case in enumerate(cases):
            rng = np.random.default_rng([seed, number])
            folder = work / f"case_{number}"
            reference, seconds = _whole_run(case, folder / "whole", work)
            if case.arguments == TRAIN:
                weights = {k: v for k, v in reference.items() if k.startswith("run/best_model.pth: /weights")}
                if whole is not None and weights != whole:
                    raise AdalocError("The number of loader workers changes the weights.")
                whole = weights
            wanted = round(kills * case.share / shares) if case is not cases[-1] else kills - done
            result = Result(case.name, {aim.name: Count() for aim in case.aims})
            for _ in _kill(case, folder, work, reference, seconds, wanted, rng, result):
                line.update(done + result.kills, case.name)
            done += result.kills
            results.append(result)
    return results


def _kill(
    case: Case,
    folder: Path,
    work: Path,
    reference: Outcome,
    seconds: float,
    wanted: int,
    rng: np.random.Generator,
    result: Result,
) -> Iterator[None]:
    """Runs the case again and again, with kills in between, until there were enough; yields after each kill."""
    aims: list[Aim] = []
    while result.kills < wanted:
        run = folder / f"run_{result.runs:03d}"
        _make(case, run, work)
        killed = 0
        while killed < min(_KILLS_A_RUN, wanted - result.kills + killed):
            if not aims:
                aims = [case.aims[i] for i in rng.permutation(len(case.aims))]
            # Moments of the beginning come no more in a run that is far: the next of those that are left then.
            aim = aims.pop()
            process = start(case.arguments, run)
            if not kill_at(process, aim, run, seconds, rng):
                _check_end(process.exitcode, run)
                break
            killed += 1
            count = result.moments[aim.name]
            count.kills += 1
            count.unreadable += [f"run {result.runs}: {text}" for text in unreadable(run)]
            yield
        _finish(case, run)
        result.differences += [f"run {result.runs}: {place}" for place in differences(reference, outcome(run))]
        result.leftovers += [f"run {result.runs}: {name}" for name in leftovers(run)]
        result.runs += 1
        if not result.differences and not result.leftovers:
            shutil.rmtree(run)


def _whole_run(case: Case, folder: Path, work: Path) -> tuple[Outcome, float]:
    """What the case gives when nothing kills it, and the seconds that it takes."""
    _make(case, folder, work)
    begin = time.monotonic()
    _finish(case, folder)
    seconds = time.monotonic() - begin
    if case.arguments == TRAIN:
        shutil.copy(folder / "run" / "best_model.pth", work / "model.pth")
        frames = tifffile.imread(folder / "data" / "sample_000" / "sample_000.ome.tiff")
        movie = np.concatenate([frames] * (_MOVIE_FRAMES // len(frames)))
        tifffile.imwrite(work / "movie.tiff", movie, photometric="minisblack")
    return outcome(folder), seconds


def _make(case: Case, folder: Path, work: Path) -> None:
    prepare(folder, case.num_workers)
    if case.arguments == LOCALIZE:
        for name in ("model.pth", "movie.tiff"):
            if not (work / name).is_file():
                raise AdalocError("A training comes before what localizes with its model.")
            shutil.copy(work / name, folder / name)


def _finish(case: Case, folder: Path) -> None:
    process = start(case.arguments, folder)
    process.join()
    _check_end(process.exitcode, folder)


def _check_end(status: int | None, folder: Path) -> None:
    if status != 0:
        raise AdalocError(f"A command ended with status {status} by itself; its words are in {folder / 'output.log'}.")


def show(results: Sequence[Result], console: Console) -> None:
    """Prints what was tried, how often, and what was lost."""
    table = Table(box=None, title="kill -9", title_justify="left")
    for heading in ("command", "killed at", "kills", "unreadable"):
        table.add_column(heading, justify="left" if heading in ("command", "killed at") else "right")
    for result in results:
        for name, count in result.moments.items():
            table.add_row(result.case, name, str(count.kills), str(len(count.unreadable)))
    console.print(table)
    for result in results:
        console.print(
            f"{result.case}: {result.kills} kills in {result.runs} runs; {len(result.differences)} values differ from "
            f"the run without kills, {len(result.leftovers)} temporary files are left.",
            soft_wrap=True,
        )
        for text in [*result.differences[:10], *result.leftovers[:10]]:
            console.print(f"  {text}", soft_wrap=True, markup=False)
        for count in result.moments.values():
            for text in count.unreadable[:10]:
                console.print(f"  {text}", soft_wrap=True, markup=False)
    kills, lost = sum(r.kills for r in results), sum(r.lost for r in results)
    console.print(f"In all {kills} kills; lost: {lost or 'nothing'}.")


def write_results(results: Sequence[Result], seed: int, path: Path) -> None:
    """Writes the table as JSON."""
    contents: dict[str, Any] = {
        "version": __version__,
        "machine": platform.processor() or platform.machine(),
        "seed": seed,
        "kills": sum(r.kills for r in results),
        "lost": sum(r.lost for r in results),
        "cases": [asdict(result) | {"kills": result.kills, "lost": result.lost} for result in results],
    }
    write_text(path, json.dumps(contents, indent=1) + "\n")
