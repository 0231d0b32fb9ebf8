"""Broken inputs as cases: how each is made, what reads it, what must be said. `docs/bad_input.md` is their table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adaloc.errors import AdalocError

NOTHING_CHANGED = "all files as they were, none added"


@dataclass(frozen=True)
class Case:
    """One broken input.

    Attributes:
        area: section of the table.
        what: the input, in words; unique.
        make: makes the input in an empty folder.
        act: what reads or writes it; returns what was said.
        says: a part of what must be said.
        kept: what is kept, in words.
        skip: why the case cannot be made here; empty where it can.
    """

    area: str
    what: str
    make: Callable[[Path], None]
    act: Callable[[Path], str]
    says: str
    kept: str = NOTHING_CHANGED
    skip: str = ""


def refusal(action: Callable[[], object]) -> str:
    """What an action says when it refuses; it must refuse, and with one of adaloc's own errors."""
    try:
        action()
    except AdalocError as error:
        return str(error)
    raise AssertionError("this was taken for good")


def table(cases: list[Case]) -> str:
    """The cases as the page of the documentation."""
    lines = [
        "# Broken input",
        "",
        "What is said, and what is kept, when files, folders, disks and numbers are not what they should be. Every row",
        "is a test (`tests/test_bad_input_table.py`); this page is made from the same list",
        "(`python tests/test_bad_input_table.py`), and a test compares them. *Said* is a part of the message. Messages",
        "name the file, what is wrong, and what to do; the exit status is 1, and 2 for configs and command lines.",
        "",
        "No reader allocates what a file merely claims (`src/adaloc/bounds.py`): an array may take half of the memory,",
        "and above 256 MiB no more than 1100 times the bytes of its file, which is beyond what deflate can pack. No",
        "reader follows a link out of a file, and none executes anything.",
    ]
    for area in dict.fromkeys(case.area for case in cases):
        lines += ["", f"## {area}", "", "| input | said | kept |", "|---|---|---|"]
        rows = [case for case in cases if case.area == area]
        lines += [f"| {case.what} | {case.says.replace('|', chr(92) + '|')} | {case.kept} |" for case in rows]
    return "\n".join([*lines, "", f"{len(cases)} inputs.", ""])
