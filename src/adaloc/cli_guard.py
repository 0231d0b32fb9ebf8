"""What all commands share: the consoles, and errors as one message with the documented exit status."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from adaloc.config import PixelSize
from adaloc.errors import AdalocError, ConfigError, says_out_of_memory
from adaloc.stopping import Stopped

P = ParamSpec("P")
Number = TypeVar("Number", int, float)

console = Console()
errors = Console(stderr=True)


def guarded(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turns errors into one message and the documented exit status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            status = command(*args, **kwargs) or 0
        except Stopped as stop:
            errors.print(escape(stop), soft_wrap=True, highlight=False)
            status = stop.exit_status
        except AdalocError as error:
            errors.print(f"[red]Error:[/red] {escape(error)}", soft_wrap=True, highlight=False)
            status = error.exit_status
        except KeyboardInterrupt:
            errors.print(
                "\nInterrupted. Finished files are kept. A simulation goes on by itself, a training with "
                "--resume auto, a localization with --resume."
            )
            status = 130
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            named = f"{error.filename}: " if error.filename else ""
            reason = f"{named}{error.strerror or error}. Check the disk's free space and the permissions."
            errors.print(f"[red]Error:[/red] {escape(reason)}", soft_wrap=True, highlight=False)
            status = 1
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not says_out_of_memory(error):
                raise
            errors.print("[red]Error:[/red] The memory does not suffice. Lower data.batch_size, or crop the movie.")
            status = 1
        raise typer.Exit(status)

    return run


def escape(text: Any) -> str:
    """Text that rich prints as it is."""
    return str(text).replace("[", r"\[")


def parse_pair(text: str, option: str, kind: Callable[[str], Number]) -> tuple[Number, Number]:
    """128x256 to two numbers.

    Raises:
        ConfigError: naming the option, when it is not that.
    """
    try:
        first, second = (kind(part) for part in text.lower().split("x"))
    except ValueError:
        raise ConfigError(f"{option} {text} is not understood; write for example 128x256.") from None
    return first, second


def parse_pixel_size(text: str) -> PixelSize:
    """100 or 101.11x98.83 to a pixel size in nm.

    Raises:
        ConfigError: when it is neither.
    """
    parts = text.lower().split("x")
    x, y = parse_pair(text if len(parts) == 2 else f"{text}x{text}", "--pixel-size-nm", float)
    if not (1 < x < 10_000 and 1 < y < 10_000):
        raise ConfigError(f"--pixel-size-nm {text}: a camera pixel in the sample has between 1 and 10000 nm.")
    return PixelSize(x=x, y=y)
