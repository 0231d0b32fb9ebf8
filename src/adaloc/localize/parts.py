"""One movie localized in parts, each by a process of its own, and put together by the one that ends last.

The processes do not talk, so they may run at any time on any machine that sees the folder. Each has a work file
beside the output and writes its part of the frames into it. Whoever has finished looks at the files of the others; when
all are whole, it writes the output. Nothing waits for a process that died: the others keep what they have finished.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaloc.errors import AdalocError, ConfigError
from adaloc.localize.inference import View
from adaloc.localize.rows import Rows
from adaloc.localize.work_file import WorkFile, finished_until
from adaloc.locks import LockedError

_LOOK_S = 0.2
_SETTING = "--part, or kind of device"


@dataclass(frozen=True)
class Part:
    """One of `total` parts; `number` counts from 1."""

    number: int
    total: int


def parse_part(text: str) -> Part:
    """2/4 to the second of four parts.

    Raises:
        ConfigError: when it is not that.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part {text} is not understood; write for example 2/4 for the second of four parts.")
    return Part(int(match[1]), int(match[2]))


def spans_of(view: View, total: int, run_length: int) -> tuple[tuple[int, int], ...]:
    """The frames of each part, (begin, end): whole runs of frames, about equally many; none where there are too few.

    >>> from adaloc.localize.tiles import Box
    >>> spans_of(View(100, 117, Box(0, 1, 0, 1)), 3, 5)
    ((100, 105), (105, 110), (110, 117))
    """
    runs = -(-len(view) // run_length)
    edges = [min(view.begin + run_length * (runs * number // total), view.end) for number in range(total + 1)]
    return tuple(itertools.pairwise(edges))


def parts_begun(name: Path) -> list[int]:
    """In how many parts work on an output was begun, by the work files beside it; 1 for one process. Ascending."""
    if not name.parent.is_dir():
        return []
    pattern = re.compile(re.escape(name.stem) + r"(?:\.\d+of(\d+))?\.unfinished", re.ASCII)
    matches = [pattern.fullmatch(path.name) for path in name.parent.iterdir()]
    return sorted({int(match[1] or 1) for match in matches if match is not None})


def number_of_parts(name: Path, part: Part | None, *, resume: bool) -> int:
    """In how many parts an output is to be made, as far as what was begun before allows.

    Args:
        name: of the output.
        part: that was asked for; None for a single process, which goes on with whatever number was begun.
        resume: whether to go on.

    Raises:
        ConfigError: when it was begun in another number of parts.
    """
    total = 1 if part is None else part.total
    others = [number for number in parts_begun(name) if number != total]
    if not others:
        return total
    if part is None and resume and len(others) == 1 and 1 not in parts_begun(name):
        return others[0]
    begun = " and ".join(f"{number} parts" if number > 1 else "one part" for number in others)
    raise ConfigError(
        f"{name} was begun in {begun}, and is not finished ({name.stem}.*unfinished beside it). Go on with --resume "
        "and the same number of parts, or without --part, in one process that does what is missing. Or delete these "
        "files to begin anew."
    )


@dataclass(frozen=True)
class Split:
    """The parts of an output.

    Attributes:
        name: of the output.
        settings: everything that the localizations depend on, JSON-able.
        spans: the frames of each part, (begin, end).
    """

    name: Path
    settings: dict[str, Any]
    spans: tuple[tuple[int, int], ...]

    def path(self, number: int) -> Path:
        """The work file of a part, counted from 1."""
        total = len(self.spans)
        return self.name.with_suffix(".unfinished" if total == 1 else f".{number}of{total}.unfinished")

    def open(self, number: int, *, resume: bool) -> WorkFile:
        """A part's work file, locked; see `WorkFile`."""
        settings = self.settings
        if len(self.spans) > 1:
            settings = {**settings, _SETTING: [number, len(self.spans), *self.spans[number - 1]]}
        return WorkFile(self.path(number), settings, resume=resume)

    def missing(self) -> list[int]:
        """The numbers of the parts that are not finished."""
        return [
            number
            for number, (begin, end) in enumerate(self.spans, 1)
            if begin < end and _end_of(self.path(number)) != end
        ]

    def is_taken(self, number: int) -> bool:
        """Whether another process is putting a finished part together with the rest, or has done so."""
        if not self.path(number).exists():
            return True
        try:
            with self.open(number, resume=True) as work:
                if work.end is None:  # it was removed after the look at it, and made anew
                    work.delete()
                    return True
        except LockedError:
            return True
        return False

    @contextmanager
    def whole(self) -> Iterator[Rows | None]:
        """The localizations of all parts, which must be finished. Without an error their work files are then removed.

        While it lasts no other process can do the same.

        Yields:
            All rows; None where another process has written the output meanwhile.

        Raises:
            AdalocError: when a work file has been damaged.
        """
        numbers = [number for number, (begin, end) in enumerate(self.spans, 1) if begin < end]
        with ExitStack() as stack:
            works: list[WorkFile] = []
            for number in reversed(numbers):  # the last part is never empty; who has its lock goes first
                work = self._wait_for(number)
                if work is None:
                    yield None
                    return
                works.append(stack.enter_context(work))
                if work.end != self.spans[number - 1][1]:
                    raise AdalocError(
                        f"{work.path} has been damaged: it is whole up to frame {work.end} alone. Run this part again, "
                        "with --resume."
                    )
            yield _joined([work.rows() for work in reversed(works)])
            for work in reversed(works):
                work.delete()

    def _wait_for(self, number: int) -> WorkFile | None:
        """A finished part's work file, once other processes have let go of it; None where one has removed it."""
        while self.path(number).exists():
            try:
                work = self.open(number, resume=True)
            except LockedError:
                time.sleep(_LOOK_S)
                continue
            if work.end is not None:
                return work
            work.delete()  # it was removed after the look at it, and made anew
        return None


def _end_of(path: Path) -> int | None:
    try:
        return finished_until(path)
    except FileNotFoundError:
        return None


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(
        sum(part.num_rows for part in parts),
        frozenset.intersection(*(part.columns for part in parts)),
        lambda: itertools.chain.from_iterable(part.parts() for part in parts),
    )
