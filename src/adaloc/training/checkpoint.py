"""The run's whole state in one dictionary of tensors and plain containers, saved atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaloc.config import Config
from adaloc.errors import CheckpointError
from adaloc.models.model_file import load_tensors, save_tensors

CHECKPOINT_FORMAT = "adaloc-checkpoint"
FORMAT_VERSION = 1
LATEST = "latest_checkpoint.pth"
BEST = "best_model.pth"
_KEYS = {"model", "optimizer", "learning_rate", "epoch", "step", "best", "progress", "wall_s", "initial_val_loss"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint; a reader, or a kill, never sees half of one.

    Raises:
        AdalocError: when it cannot be written; the file that was there stays.
    """
    save_tensors(path, {"format": CHECKPOINT_FORMAT, "format_version": FORMAT_VERSION, **state})


def load_checkpoint(path: Path, config: Config) -> dict[str, Any]:
    """Reads a checkpoint that a run with this config can go on from.

    Raises:
        CheckpointError: when it is missing, broken, no checkpoint, or of another network.
    """
    state = load_tensors(path)
    if state.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} is not a training checkpoint of adaloc. A run writes {LATEST} into its output.save_dir."
        )
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {state.get('format_version')}; this adaloc reads format {FORMAT_VERSION}."
        )
    if missing := sorted(_KEYS - state.keys()):
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it is not a whole checkpoint.")
    there = state["model"].get("config", {})
    for section, here in (
        ("network", config.network.model_dump(mode="json")),
        ("data.consecutive_frames", config.data.consecutive_frames),
    ):
        found: Any = there
        for part in section.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != here:
            raise CheckpointError(
                f"{path} is of another network: {section} is {found} there and {here} in the config. "
                "Use the config that it was trained with, or start a new run in another output.save_dir."
            )
    return state
