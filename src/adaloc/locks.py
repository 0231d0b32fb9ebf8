"""Locks between processes: one writer at a time. The system frees a lock when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaloc.errors import AdalocError
from adaloc.files import describe_write_failure

if os.name == "nt":
    import msvcrt
else:
    import fcntl

_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_FAR_BYTE = 1 << 30
"""Windows locks bytes against reading too; this one is never written."""


class LockedError(AdalocError):
    """Another process holds a lock."""


@contextmanager
def hold_lock(path: Path, what: str) -> Iterator[bool]:
    """Holds the lock file `path` for as long as the block runs. The file stays, and says who holds it or did last.

    Removing it at the end would let a third process lock a new file while a second one still waits with the old.
    The file is not handed down to child processes.

    Args:
        path: made when missing.
        what: what is protected, for the message.

    Yields:
        True; False where the file system knows no locks, so that nothing is protected.

    Raises:
        LockedError: when another process holds it; it says which.
        AdalocError: when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise AdalocError(describe_write_failure(path, error)) from error
    try:
        is_locked = _lock(descriptor, path, what)
        owner = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, owner.encode())
        except OSError as error:
            raise AdalocError(describe_write_failure(path, error)) from error
        yield is_locked
    finally:
        os.close(descriptor)  # frees the lock


def try_lock(descriptor: int) -> bool:
    """Locks an open file without waiting, until it is closed or the process ends; False where another process has it.

    Raises:
        OSError: when it cannot be locked at all; `is_unsupported` says whether the file system knows no locks.
    """
    try:
        if os.name == "nt":
            os.lseek(descriptor, _FAR_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return False
    return True


def is_unsupported(error: OSError) -> bool:
    """Whether a file system says by this error that it knows no locks."""
    return error.errno in _UNSUPPORTED


def _lock(descriptor: int, path: Path, what: str) -> bool:
    try:
        if try_lock(descriptor):
            return True
    except OSError as error:
        if not is_unsupported(error):
            raise
        return False
    os.lseek(descriptor, 0, os.SEEK_SET)
    owner = os.read(descriptor, 200).decode("utf-8", errors="replace").strip() or "an unknown process"
    raise LockedError(
        f"{what} is in use by another process: {owner}. Wait until it ends, end it, or choose another folder. "
        f"(The lock is {path}; it ends with its process.)"
    )
