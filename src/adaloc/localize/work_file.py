"""The append-only file that localizations go to while a movie is localized.

    one line of JSON: format, settings                                       what the run was started with
    for each block: one line of JSON: begin, end, rows, columns, crc32       then the columns, 8 bytes a number

Whatever moment a process is killed at, all blocks but the last are whole, and that the last is not shows in its length
or checksum; it is then dropped. So a run goes on at the block after the last whole one.

The process that has the file open holds its lock, so that no two of them write into it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from adaloc.emitters import EmitterTable, concatenate
from adaloc.errors import AdalocError, ConfigError
from adaloc.files import describe_write_failure
from adaloc.localize.inference import Block
from adaloc.localize.rows import Rows
from adaloc.locks import LockedError, is_unsupported, try_lock

_FORMAT = "adaloc-localizations-1"
_MAX_LINE = 1 << 20
_MOST = 1 << 53  # frames or rows; more can be of no movie
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

    Attributes:
        is_locked: no other process can open it now; False where the file system knows no locks.

    Raises:
        LockedError: when another process has it open.
        ConfigError: when `path` holds another run, or, without `resume`, an unfinished one.
        AdalocError: when it cannot be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, resume: bool) -> None:
        self.path = path
        self.is_locked = False
        self._head = _line({"format": _FORMAT, "settings": settings})
        self._entries: list[tuple[int, _Entry]] = []
        self._handle: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open(resume)
        except OSError as error:
            self.close()
            raise AdalocError(describe_write_failure(path, error)) from error
        except AdalocError:
            self.close()
            raise

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
        """Removes the file and closes it."""
        if os.name == "nt":  # which removes no open file
            self.close()
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Closes the file and keeps it."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _open(self, resume: bool) -> None:
        self._handle = self._open_and_lock()
        with _reader(self._handle) as handle:
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
            self._handle.truncate(end)
            return
        self._handle.truncate(0)
        self._handle.seek(0)
        _write_all(self._handle, self._head)

    def _open_and_lock(self) -> BinaryIO:
        while True:
            handle = open(self.path, "rb+", buffering=0, opener=_open_or_make)  # noqa: SIM115 - `close` closes it
            try:
                self.is_locked = self._lock(handle)
                if os.path.samestat(os.fstat(handle.fileno()), self.path.stat()):
                    return handle
            except FileNotFoundError:
                pass  # like another file of the name: a process removed this one, at its end, before it was locked here
            except BaseException:
                handle.close()
                raise
            handle.close()

    def _lock(self, handle: BinaryIO) -> bool:
        try:
            if try_lock(handle.fileno()):
                return True
        except OSError as error:
            if not is_unsupported(error):
                raise
            return False
        raise LockedError(
            f"Another process is localizing into {self.path}. Wait until it ends, end it, or choose another output. "
            "(The lock ends with its process.)"
        )

    def _parts(self) -> Iterator[EmitterTable]:
        assert self._handle is not None
        with _reader(self._handle) as handle:
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


def finished_until(path: Path) -> int | None:
    """The frame after the last finished block of a work file, by the blocks' first lines alone; None before the first.

    It may be open in another process.

    Raises:
        OSError: when it cannot be read.
    """
    with path.open("rb") as handle:
        entries = _scan(handle, verify=False)[1]
    return entries[-1][1].end if entries else None


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _reader(handle: BinaryIO) -> BinaryIO:
    """The same open file with a buffer, from its beginning; Windows lets no other handle read what is locked."""
    reader = os.fdopen(os.dup(handle.fileno()), "rb")
    reader.seek(0)
    return reader


def _scan(handle: BinaryIO, *, verify: bool = True) -> tuple[bytes, list[tuple[int, _Entry]], int]:
    """The first line, the whole blocks with the places of their data, and where the last of them ends.

    Without `verify` the data are not read, and not compared with their checksums.
    """
    head = handle.readline(_MAX_LINE)
    entries: list[tuple[int, _Entry]] = []
    end = len(head)
    size = os.fstat(handle.fileno()).st_size
    while (entry := _entry(handle.readline(_MAX_LINE))) is not None:
        position = handle.tell()
        if not 0 <= entry.num_bytes <= size - position or (entries and entry.begin != entries[-1][1].end):
            break
        if verify:
            data = handle.read(entry.num_bytes)
            if len(data) != entry.num_bytes or zlib.crc32(data) != entry.crc32:
                break
        else:
            handle.seek(entry.num_bytes, os.SEEK_CUR)
        entries.append((position, entry))
        end = position + entry.num_bytes
    return head, entries, end


def _entry(line: bytes) -> _Entry | None:
    """A block's line, or None where the process was killed while it was written."""
    try:
        values = json.loads(line) if line.endswith(b"\n") else None
        if values is None:
            return None
        entry = _Entry(**{**values, "columns": tuple(values["columns"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    numbers = (entry.begin, entry.end, entry.rows, entry.crc32)
    if not all(type(number) is int and 0 <= number < _MOST for number in numbers):
        return None
    known = {field.name for field in fields(EmitterTable)}
    needed = {field.name for field in fields(EmitterTable) if field.default is MISSING}
    if not needed <= set(entry.columns) <= known or len(set(entry.columns)) < len(entry.columns):
        return None
    return entry


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
