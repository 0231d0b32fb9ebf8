"""Errors that a person can act on.

Every error here is shown as one message without a traceback; `exit_status` is what the command returns.
Anything else that is raised is a defect of adaloc and keeps its traceback.
"""


class AdalocError(Exception):
    """Something failed that the user can mend. The message says what happened and what to do."""

    exit_status = 1


class ConfigError(AdalocError):
    """The command line or the config is wrong."""

    exit_status = 2


class DataError(AdalocError):
    """A file or folder of data cannot be used."""


class CheckpointError(AdalocError):
    """A checkpoint or model file cannot be used."""
