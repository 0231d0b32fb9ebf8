"""Whether what a killed run left can be read, and whether it ends as a run that was never killed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tifffile
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tb_logging

from adaloc.models.model_file import load_tensors
from adaloc.training.run_log import CLOCKS, Event, read_events

_TEMPORARY = re.compile(r"\..*\.tmp(\..*)?")
_CLOCK_CAUSES = ("loader_starves",)
"""Causes of a diagnosis that rest on a clock."""
_CLOCK_CURVES = ("Throughput/windows_per_s",)
_DRAWN = (".png", ".html", ".txt")
"""Files for people. They name dates and durations, so they need only be readable."""

tb_logging.get_logger().setLevel("ERROR")  # it tells of every resume that it sees

Outcome = dict[str, str]
"""Path of a value, in words -> its digest."""


def unreadable(folder: Path) -> list[str]:
    """The files below `folder` that cannot be read, each with why. Temporary files and locks are not meant to be."""
    found = []
    for path in _files(folder):
        try:
            if (read := _READERS.get(path.suffix)) is not None:
                read(path)
        except Exception as error:  # whatever a reader raises is what is counted here
            found.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    boards = {path.parent for path in _files(folder) if path.name.startswith("events.out.tfevents")}
    for board in boards:
        EventAccumulator(str(board)).Reload()
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files below `folder`."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if _is_temporary(p.relative_to(folder)))


def outcome(folder: Path) -> Outcome:
    """Everything below `folder` that must not depend on interruptions, as digests; what clocks say is left out."""
    digests: Outcome = {}
    for path in _files(folder):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl":
            contents: Any = comparable_events(read_events(path))
        elif path.suffix == ".pth":
            contents = load_tensors(path)
        elif path.suffix == ".json":
            contents = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".h5", ".hdf5"):
            contents = _read_h5(path)
        elif path.suffix == ".tiff":
            contents = tifffile.imread(path)
        elif path.suffix in (".csv", ".yaml"):
            contents = path.read_text(encoding="utf-8")
        elif path.suffix in _DRAWN:
            contents = "is there"
        else:
            continue
        digests |= {f"{name}: {place}": digest for place, digest in _digests(contents, "")}
    for board in {path.parent for path in _files(folder) if path.name.startswith("events.out.tfevents")}:
        name = str(board.relative_to(folder))
        digests |= {f"{name}: {place}": digest for place, digest in _digests(_curves(board), "")}
    return digests


def differences(first: Outcome, second: Outcome) -> list[str]:
    """The places at which two outcomes differ."""
    return sorted(place for place in first.keys() | second.keys() if first.get(place) != second.get(place))


def comparable_events(events: list[Event]) -> list[Event]:
    """A log's events without what tells of interruptions: resumes, and the data's checks before them but for one."""
    checks = [event for event in events if event["event"] == "integrity"]
    rest = [event for event in events if event["event"] not in ("resume", "integrity")]
    for event in rest:
        if event["event"] == "diagnosis":
            event["findings"] = [f for f in event["findings"] if f["cause"] not in _CLOCK_CAUSES]
    return [*checks[-1:], *rest]


def _digests(tree: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in CLOCKS:
                yield from _digests(value, f"{place}/{key}")
    elif isinstance(tree, list | tuple):
        yield f"{place}#", str(len(tree))
        for index, value in enumerate(tree):
            yield from _digests(value, f"{place}/{index}")
    elif isinstance(tree, torch.Tensor | np.ndarray):
        array = np.ascontiguousarray(tree.numpy() if isinstance(tree, torch.Tensor) else tree)
        yield place, f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
    else:
        yield place, hashlib.sha256(repr(tree).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not _is_temporary(p.relative_to(folder)))


def _is_temporary(path: Path) -> bool:
    return any(_TEMPORARY.fullmatch(part) for part in path.parts)


def _read_h5(path: Path) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: contents.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return contents


def _curves(board: Path) -> dict[str, Any]:
    events = EventAccumulator(str(board), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    curves: dict[str, Any] = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag not in _CLOCK_CURVES
    }
    # The pictures of the final report and of a resumed one are drawn from the same numbers.
    return curves | {tag: [(e.step, e.encoded_image_string) for e in events.Images(tag)]
                     for tag in events.Tags()["images"]}  # fmt: skip


def _read_log(path: Path) -> None:
    """Whole lines are JSON; a torn one is the last, or was the last when its writer was killed."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1]):
        try:
            json.loads(line)
        except ValueError:
            following = next((entry for entry in lines[number + 1 :] if entry), b"")
            if following and json.loads(following)["event"] not in ("resume", "start"):
                raise


def _read_html(path: Path) -> None:
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("it is cut off")


_READERS: dict[str, Callable[[Path], Any]] = {
    ".pth": load_tensors,
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": _read_log,
    ".png": imread,
    ".html": _read_html,
    ".txt": lambda path: path.read_text(encoding="utf-8"),
    ".yaml": lambda path: path.read_text(encoding="utf-8"),
    ".csv": lambda path: np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2),
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".tiff": tifffile.imread,
}
