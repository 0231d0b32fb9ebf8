"""Errors that a person can act on.

Every error here is shown as one message without a traceback; `exit_status` is what the command returns.
Anything else that is raised is a defect of adaloc and keeps its traceback.
"""

import re

_OUT_OF_MEMORY = re.compile(r"out of memory|can.t allocate|alloc_cpu")


class AdalocError(Exception):
    """Something failed that the user can mend. The message says what happened and what to do."""

    exit_status = 1


class ConfigError(AdalocError):
    """The command line or the config is wrong."""

    exit_status = 2


class DataError(AdalocError):
    """A file or folder of data cannot be used."""


class MovieError(DataError):
    """A movie cannot be used: missing, cut off, of another kind than its name says, or at odds with its metadata."""


class UnknownPixelSizeError(DataError):
    """A file does not say how large a camera pixel is, and nobody else did.

    `is_placed`: its positions are nm from the corner of the field, so that their places are known without.
    """

    def __init__(self, message: str, *, is_placed: bool) -> None:
        super().__init__(message)
        self.is_placed = is_placed


class CheckpointError(AdalocError):
    """A checkpoint or model file cannot be used."""


class DivergenceError(AdalocError):
    """A training cannot go on with these settings: its loss or gradient stays no number, or nothing lowers it."""


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error's words are those with which torch reports exhausted memory, on the CPU and the GPU."""
    return _OUT_OF_MEMORY.search(str(error)) is not None
