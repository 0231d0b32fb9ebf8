"""A study's journal that a full disk or a kill in the middle of a line does not make unreadable.

Optuna appends lines of JSON, and reads on after a torn last line only as long as nothing follows it. The next entry
would follow, and the study be lost. So whoever takes or leaves the journal's lock removes a line that is not whole:
what it was to say has been reported as failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

_STEP = 65536


def open_journal(path: Path) -> JournalFileBackend:
    """The journal file, made when missing."""
    # Windows lets few users make symbolic links.
    lock = _OpenLock(str(path)) if os.name == "nt" else _SymlinkLock(str(path))
    return JournalFileBackend(str(path), lock_obj=lock)


def drop_torn_line(path: Path) -> None:
    """Cuts off what follows the last line feed."""
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(end - _STEP, 0)
            file.seek(begin)
            last = file.read(end - begin).rfind(b"\n")
            if last >= 0:
                end = begin + last + 1
                break
            end = begin
        if end < size:
            file.truncate(end)


class _SymlinkLock(JournalFileSymlinkLock):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._journal = Path(path)

    def acquire(self) -> bool:
        return super().acquire() and _whole(self._journal, super().release)

    def release(self) -> None:
        _whole(self._journal, super().release)
        super().release()


class _OpenLock(JournalFileOpenLock):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._journal = Path(path)

    def acquire(self) -> bool:
        return super().acquire() and _whole(self._journal, super().release)

    def release(self) -> None:
        _whole(self._journal, super().release)
        super().release()


def _whole(path: Path, release: Callable[[], None]) -> bool:
    """Drops a torn line; where that fails, the lock is not kept."""
    try:
        drop_torn_line(path)
    except BaseException:
        release()
        raise
    return True
