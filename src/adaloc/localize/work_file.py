"""The append-only file that localizations go to while a movie is localized.

    one line of JSON: format, settings                                       what the run was started with
    for each block: one line of JSON: begin, end, rows, columns, crc32       then the columns, 8 bytes a number

Whatever moment a process is killed at, all blocks but the last are whole, and that the last is not shows in its length
or checksum; it is then dropped. So a run goes on at the block after the last whole one.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from adaloc.emitters import EmitterTable, concatenate
from adaloc.errors import AdalocError, ConfigError
from adaloc.files import describe_write_failure
from adaloc.localize.inference import Block
from adaloc.localize.rows import Rows

_FORMAT = "adaloc-localizations-1"
_MAX_LINE = 1 << 20
_INTEGERS = ("frame", "emitter_id")
_ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class _Entry:
    """One block in the file."""

    begin: int
    end: int
    rows: int
    columns: tuple[str, ...]
    crc32: int

    @property
    def num_bytes(self) -> int:
        return 8 * self.rows * len(self.columns)


class WorkFile:
    """Appends blocks, and gives them all back. Use as a context manager.

    Args:
        path: the file.
        settings: everything that the result depends on, JSON-able.
        resume: go on with what is there.

    Raises:
        ConfigError: when `path` holds another run, or, without `resume`, an unfinished one.
        AdalocError: when it cannot be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self._head = _line({"format": _FORMAT, "settings": settings})
        self._entries: list[tuple[int, _Entry]] = []
        self._handle: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open(resume)
        except OSError as error:
            raise AdalocError(describe_write_failure(path, error)) from error

    def __enter__(self) -> WorkFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def end(self) -> int | None:
        """The frame after the last finished block, or None where there is none yet."""
        return self._entries[-1][1].end if self._entries else None

    def append(self, block: Block) -> None:
        """Adds a finished block; it is on the disk when this returns.

        Raises:
            AdalocError: when the disk is full; what was there before stays whole.
        """
        columns = tuple(field.name for field in fields(block.table) if getattr(block.table, field.name) is not None)
        data = b"".join(
            getattr(block.table, name).astype("<i8" if name in _INTEGERS else "<f8").tobytes() for name in columns
        )
        entry = _Entry(block.begin, block.end, len(block.table), columns, zlib.crc32(data))
        head = _line({**vars(entry), "columns": list(columns)})
        assert self._handle is not None
        try:
            position = self._handle.seek(0, os.SEEK_END)
            _write_all(self._handle, head + data)
            os.fsync(self._handle.fileno())
        except OSError as error:
            raise AdalocError(describe_write_failure(self.path, error)) from error
        self._entries.append((position + len(head), entry))

    def rows(self) -> Rows:
        """All finished blocks; their parts are read from the file, some blocks at a time."""
        common = frozenset(field.name for field in fields(EmitterTable))
        for _, entry in self._entries:
            common &= frozenset(entry.columns)
        return Rows(sum(entry.rows for _, entry in self._entries), common, self._parts)

    def delete(self) -> None:
        """Closes and removes the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file and keeps it."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _open(self, resume: bool) -> None:
        if self.path.exists():
            with self.path.open("rb") as handle:
                head, entries, end = _scan(handle)
            if entries and not resume:
                raise ConfigError(
                    f"{self.path} holds an unfinished run, up to frame {entries[-1][1].end}. "
                    "Go on with it with --resume, or delete it to begin anew."
                )
            if entries and head != self._head:
                raise ConfigError(
                    f"{self.path} holds an unfinished run of another model, movie or option: "
                    f"{_difference(head, self._head)}. Repeat the command that it was begun with, or delete it to "
                    "begin anew."
                )
            if entries:
                self._entries = entries
                self._handle = self.path.open("rb+", buffering=0)
                self._handle.truncate(end)
                return
        self._handle = self.path.open("wb+", buffering=0)
        _write_all(self._handle, self._head)

    def _parts(self) -> Iterator[EmitterTable]:
        with self.path.open("rb") as handle:
            waiting: list[EmitterTable] = []
            for position, entry in self._entries:
                handle.seek(position)
                data = np.fromfile(handle, "<i8", entry.num_bytes // 8).reshape(len(entry.columns), entry.rows)
                columns: dict[str, Any] = {
                    name: column if name in _INTEGERS else column.view("<f8")
                    for name, column in zip(entry.columns, data, strict=True)
                }
                waiting.append(EmitterTable(**columns))
                if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
                    yield concatenate(waiting)
                    waiting = []
            if waiting:
                yield concatenate(waiting)


def _scan(handle: BinaryIO) -> tuple[bytes, list[tuple[int, _Entry]], int]:
    """The first line, the whole blocks with the places of their data, and where the last of them ends."""
    head = handle.readline(_MAX_LINE)
    entries: list[tuple[int, _Entry]] = []
    end = len(head)
    size = os.fstat(handle.fileno()).st_size
    while (entry := _entry(handle.readline(_MAX_LINE))) is not None:
        position = handle.tell()
        if not 0 <= entry.num_bytes <= size - position or (entries and entry.begin != entries[-1][1].end):
            break
        data = handle.read(entry.num_bytes)
        if len(data) != entry.num_bytes or zlib.crc32(data) != entry.crc32:
            break
        entries.append((position, entry))
        end = position + entry.num_bytes
    return head, entries, end


def _entry(line: bytes) -> _Entry | None:
    """A block's line, or None where the process was killed while it was written."""
    try:
        values = json.loads(line) if line.endswith(b"\n") else None
        return None if values is None else _Entry(**{**values, "columns": tuple(values["columns"])})
    except (ValueError, TypeError, KeyError):
        return None


def _write_all(handle: BinaryIO, data: bytes) -> None:
    """An unbuffered file writes what there is room for, and says how much that was."""
    view = memoryview(data)
    while view:
        view = view[handle.write(view) or 0 :]


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True).encode() + b"\n"


def _difference(theirs: bytes, ours: bytes) -> str:
    """The names of the settings that differ."""
    try:
        old, new = (json.loads(head).get("settings", {}) for head in (theirs, ours))
        return ", ".join(sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))) or "its format"
    except (ValueError, AttributeError):
        return "it is no work file of this version"
