"""Signals that ask a long command to stop: they set a flag, the work looks at it where it can end without loss.

Exit status: 130 after SIGINT (Ctrl-C), 143 after SIGTERM, 75 after the warning signal of a scheduler, which means
"start me again" (EX_TEMPFAIL of sysexits.h). A second SIGINT ends at once, with 130.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from adaloc.errors import AdalocError

REQUEUE_STATUS = 75
DEFAULT_WARNING = "SIGUSR1"
WARNING_SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU")

_asked: list[int] = []  # of this process, as signals are


class Stopped(AdalocError):  # noqa: N818 - no error, but what was asked for
    """Work ended early because a signal asked for it; everything finished is kept."""

    def __init__(self, number: int, what_now: str) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}. {what_now}")
        self.exit_status = exit_status(number)


def exit_status(number: int) -> int:
    """What a command ends with after a signal asked it to stop."""
    return 128 + number if number in (signal.SIGINT, signal.SIGTERM) else REQUEUE_STATUS


def asked_to_stop() -> int | None:
    """The first signal that asked to stop since `listen`, or None."""
    return _asked[0] if _asked else None


def stop_if_asked(what_now: str) -> None:
    """Ends the work here when a signal asked for it.

    Args:
        what_now: what is kept and how to go on, in a sentence.

    Raises:
        Stopped: when one did.
    """
    if _asked:
        raise Stopped(_asked[0], what_now)


@contextmanager
def listen(warning: str | None = DEFAULT_WARNING) -> Iterator[None]:
    """While the block runs, SIGINT, SIGTERM and `warning` set the flag. A second SIGINT raises KeyboardInterrupt.

    Args:
        warning: of `WARNING_SIGNALS`; None, or one that this system does not have, for none.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if warning is not None and hasattr(signal, warning):
        numbers.append(getattr(signal, warning))

    def note(number: int, _: FrameType | None) -> None:
        if _asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        _asked.append(number)  # first of all: the next signal may come while the message is written
        if len(_asked) == 1:
            # Not through rich: a handler may run in the middle of another print.
            os.write(2, b"\nStopping where nothing is lost... (Ctrl-C again ends at once)\n")

    previous = {number: signal.signal(number, note) for number in numbers}
    _asked.clear()
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def hidden_from_children() -> Iterator[None]:
    """Child processes that are started in this block never see these signals, from their first moment on.

    A terminal's Ctrl-C and a scheduler's signals reach all processes of a job; what they mean is decided by the main
    one. Blocked signals stay blocked in a process that is started anew. Does nothing where there are no signal masks.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    names = ("SIGINT", "SIGTERM", *WARNING_SIGNALS)
    numbers = {getattr(signal, name) for name in names}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # it unblocks two of them
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
