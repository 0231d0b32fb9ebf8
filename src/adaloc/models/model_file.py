"""The model file: weights, config, scaling and a format version. Loading it executes nothing."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch

from adaloc.config import Config
from adaloc.config_file import dump_config, parse_config
from adaloc.data.scaling import Scaling
from adaloc.errors import CheckpointError, ConfigError
from adaloc.files import atomic_path
from adaloc.models.decode_network import DecodeNetwork
from adaloc.models.network import LocalizationNetwork
from adaloc.simulation.camera import to_photons

Network = LocalizationNetwork | DecodeNetwork
"""What a model can be made of: frames in, six or ten channels out, in two stages with a margin around tiles."""

MODEL_FORMAT = "adaloc-model"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Model:
    """A network and what its numbers mean."""

    network: Network
    config: Config
    scaling: Scaling

    def predict(self, adu_BTHW: torch.Tensor) -> torch.Tensor:
        """Runs of camera frames (ADU) to network outputs (B, T', 6 or 10, H, W); see `LocalizationNetwork.forward`."""
        photons = to_photons(adu_BTHW, self.config.simulation.camera)
        outputs: torch.Tensor = self.network(self.scaling.scale_input(photons))
        return outputs

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers."""
        return {
            "format": MODEL_FORMAT,
            "format_version": FORMAT_VERSION,
            "config": dump_config(self.config),
            "scaling": self.scaling.to_dict(),
            "weights": {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()},
        }


def make_model(config: Config, scaling: Scaling) -> Model:
    """A fresh model; its weights come from torch's global generator."""
    network = _make_network(config, scaling)
    return Model(network.to(memory_format=torch.channels_last), config, scaling)  # type: ignore[call-overload]


def save_model(path: Path, model: Model) -> None:
    """Writes a model file atomically."""
    save_tensors(path, model.to_dict())


def load_model(path: Path) -> Model:
    """Reads a model file, or the model inside a training checkpoint.

    Raises:
        CheckpointError: when the file is missing, broken, of another program, or of a newer format.
    """
    contents = load_tensors(path)
    if "model" in contents:
        contents = contents["model"]
    return model_from_dict(contents, path)


def model_from_dict(contents: Any, path: Path) -> Model:
    """A model from what `Model.to_dict` gave; `path` is named in errors.

    Raises:
        CheckpointError: when something is missing or does not fit together.
    """
    if not isinstance(contents, dict) or contents.get("format") != MODEL_FORMAT:
        raise CheckpointError(f"{path} is not a model of adaloc. Train one with start_adaptive_training.py.")
    if contents.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has model format {contents.get('format_version')}; this adaloc reads format {FORMAT_VERSION}. "
            "Use the adaloc that wrote it."
        )
    try:
        config, scaling = parse_config(contents["config"], str(path)), Scaling.from_dict(contents["scaling"])
        _refuse_other_shapes(config, scaling, contents["weights"])
        model = make_model(config, scaling)
        model.network.load_state_dict(contents["weights"])
    except (KeyError, RuntimeError, AttributeError, TypeError, ValueError, ConfigError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{path} does not fit together: its weights are of another network ({reason}).") from None
    return model


def _refuse_other_shapes(config: Config, scaling: Scaling, weights: dict[str, torch.Tensor]) -> None:
    """Compares shapes before a network is made: its config could ask for one of any size.

    Raises:
        ValueError: naming the first weight that is missing, surplus, of another shape, or not finite.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        expected = _make_network(config, scaling).state_dict()
    for name in expected.keys() | weights.keys():
        asked, given = expected.get(name), weights.get(name)
        if asked is None or given is None or asked.shape != given.shape:
            raise ValueError(f"{name} does not have the shape that the config asks for")
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            raise ValueError(f"{name} holds values that are not finite")


def _make_network(config: Config, scaling: Scaling) -> Network:
    frames, prior, sigma = config.data.consecutive_frames, scaling.prior, config.training.predicts_sigma
    if config.network.type == "decode":
        mean, unit = scaling.mean, scaling.unit()
        return DecodeNetwork(
            config.network,
            frames,
            prior,
            predicts_sigma=sigma,
            offset_mean_px=(mean[0], mean[1]),
            offset_unit_px=(unit[0], unit[1]),
        )
    return LocalizationNetwork(config.network, frames, prior, predicts_sigma=sigma)


def save_tensors(path: Path, contents: dict[str, Any]) -> None:
    """Writes tensors and plain containers atomically."""
    with atomic_path(path) as temporary:
        try:
            torch.save(contents, temporary)
        except RuntimeError as error:
            # torch's own file writer turns a full disk into a RuntimeError; the cause is the OSError.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise OSError(f"torch could not write it ({first_line(error)}); is the disk full?") from None


def load_tensors(path: Path) -> dict[str, Any]:
    """Reads what `save_tensors` wrote. Refuses everything but tensors and plain containers.

    Raises:
        CheckpointError: when the file is missing, broken, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(
            f"The file {path} does not exist. Check its path; a training writes best_model.pth into its run folder."
        )
    _refuse_other_archives(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} is broken, or holds more than tensors and plain values, and is not loaded: such a file could "
            "execute code."
        ) from None
    except Exception as error:  # torch takes foreign bytes for an old format, and stumbles over them in any way
        raise CheckpointError(f"{path} cannot be read; it may be cut off, or no model: {first_line(error)}") from None
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} is not a file of adaloc.")
    return contents


def _refuse_other_archives(path: Path) -> None:
    """What `save_tensors` writes is a zip archive of uncompressed parts, so it can hold no more than the file has."""
    with path.open("rb") as handle:
        start = handle.read(4)
    if not start.startswith(b"PK"):
        kind = "a bare pickle, which could execute code" if start[:1] == b"\x80" else "no model file, or is broken"
        raise CheckpointError(f"{path} is {kind}, and is not loaded.")
    try:
        with ZipFile(path) as archive:
            members = archive.infolist()
    except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} cannot be read; it may be cut off: {first_line(error)}") from None
    is_packed = any(member.compress_type != ZIP_STORED for member in members)
    if is_packed or sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path} claims more than the file holds, and is not loaded. No model of adaloc does.")


def first_line(error: Exception) -> str:
    """What an error says, in a line; its kind when it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]
