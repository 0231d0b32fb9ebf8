"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adaloc.errors import AdalocError

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.tmp(\.[^.]*)?")
_SURELY_ABANDONED_S = 3600.0  # where a process cannot be asked for without harm


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed over `path`.

    On any failure the temporary file is removed and `path` keeps what it held.

    Raises:
        AdalocError: when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise AdalocError(describe_write_failure(path, error)) from error
    finally:
        with suppress(OSError):  # the error that matters is already on its way
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Appends a line to a text file that one process writes; all of it, or nothing.

    Args:
        path: made when missing.
        line: ends in a line feed. A last line that was torn by a kill is ended first, not to swallow this one.

    Raises:
        AdalocError: when the disk is full or the file cannot be written; it then holds what it held.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and _byte_at(descriptor, size - 1) != b"\n"
            rest = memoryview((b"\n" if torn else b"") + line.encode())
            try:
                while rest:
                    rest = rest[os.write(descriptor, rest) :]  # a disk that fills takes a part, without an error
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AdalocError(describe_write_failure(path, error)) from error


def _byte_at(descriptor: int, position: int) -> bytes:
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.read(descriptor, 1)


def remove_leftovers(folder: Path, names: Collection[str] | None = None) -> None:
    """Removes the temporary files that killed processes of this machine left in a folder.

    Args:
        folder: may be missing.
        names: of the files that they were to become; None takes all.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match is not None and (names is None or match["name"] in names) and _is_abandoned(path, int(match["pid"])):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process
        return time.time() - path.stat().st_mtime > _SURELY_ABANDONED_S
    if pid == os.getpid():  # of an earlier process of the same number, as they come in containers
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _sync_folder(folder: Path) -> None:
    """Puts a renaming itself on the disk, where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse it; the file itself is synced
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_write_failure(path: Path, error: OSError) -> str:
    """What happened to a write, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full: {path} could not be written; what was there before is unchanged. "
            "Free some space, or choose another output folder, and continue with --resume auto."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"No permission to write {path}. Choose another output folder."
    return f"{path} could not be written: {error.strerror or error}."
