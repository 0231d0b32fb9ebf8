"""The run's whole state in one dictionary of tensors and plain containers, saved atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaloc.config import Config
from adaloc.config_file import dump_config, merged
from adaloc.errors import CheckpointError
from adaloc.models.model_file import load_tensors, save_tensors

CHECKPOINT_FORMAT = "adaloc-checkpoint"
FORMAT_VERSION = 3
LATEST = "latest_checkpoint.pth"
BEST = "best_model.pth"
_MUST_AGREE = (
    "network", "seed", "data.consecutive_frames", "data.batch_size", "data.image_size", "data.sample_subset",
    "data.train_val_split", "data.min_photons", "data.augment_mirror", "data.augment_time_reversal",
    "data.validation_windows_per_sample", "data.fresh_share", "data.fresh_reuse", "simulation.camera",
    "training.optimizer", "training.lr_first", "training.lr_second", "training.weight_decay",
    "training.decay_biases_and_norms", "training.accumulation_steps", "training.loss_type",
    "training.loss_weights", "training.unified_loss_config", "training.simple_combined_config",
    "data.augment_quarter_turns", "data.randomization", "training.ema_decay", "training.training_terms",
    "data.targets_per_window",
)  # fmt: skip
"""What cannot change within a run: its curve would mean something else before and after."""
_KEYS = {
    "model", "optimizer", "learning_rate", "rewind", "place", "epoch", "step", "best", "progress", "wall_s",
}  # fmt: skip


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
            f"{path} has checkpoint format {state.get('format_version')}; this adaloc reads format {FORMAT_VERSION}. "
            "Go on with the version that wrote it, or begin a new run. Its best_model.pth is read by all versions."
        )
    if missing := sorted(_KEYS - state.keys()):
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it is not a whole checkpoint.")
    written = state["model"].get("config", {}) if isinstance(state["model"], dict) else None
    if not isinstance(written, dict):
        raise CheckpointError(f"{path} holds no config of its model; it is damaged.")
    # Keys that are newer than the checkpoint had their defaults.
    there, asked = merged(dump_config(Config()), written), dump_config(config)
    for section in _MUST_AGREE:
        found, here = _at(there, section), _at(asked, section)
        if found != here:
            what = "another network" if section == "network" else "another run"
            raise CheckpointError(
                f"{path} is of {what}: {section} is {found} there and {here} in the config. "
                "Use the config that it was trained with, or start a new run in another output.save_dir."
            )
    return state


def _at(tree: Any, section: str) -> Any:
    for part in section.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
