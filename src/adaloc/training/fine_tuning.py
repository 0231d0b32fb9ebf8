"""Starting a run from a model instead of from random weights: for a new PSF, camera or density.

The network keeps the scale of its input, which its weights were trained with. The targets' scales are those of the new
data, so that the loss has its usual meaning there, and the last layer is rescaled for it: before its first step the
new network predicts the very photons and nanometres that the model does.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from adaloc.config import CHANNELS, Config
from adaloc.config_file import dump_config
from adaloc.data.scaling import Scaling
from adaloc.errors import CheckpointError
from adaloc.models.model_file import Model


def scaling_for(source: Model, measured: Scaling) -> Scaling:
    """Scales of a network that starts from `source` on data with the scales `measured`."""
    return dataclasses.replace(measured, input_mean=source.scaling.input_mean, input_std=source.scaling.input_std)


def start_from(source: Model, model: Model) -> None:
    """Gives a fresh model the weights of `source`, so that it predicts the same in physical units.

    Args:
        source: a trained model.
        model: of the same network; its scaling is `scaling_for` of the source.

    Raises:
        CheckpointError: when the networks differ.
    """
    _refuse_another_network(source.config, model.config)
    model.network.load_state_dict(source.network.state_dict())
    output = model.network.second_stage[-1]
    if not isinstance(output, nn.Conv2d) or output.bias is None or output.out_channels != len(CHANNELS):
        raise CheckpointError("The model's last layer is not one output for each channel, and cannot be rescaled.")
    old, new = source.scaling, model.scaling
    with torch.no_grad():
        for channel, (mean, unit, new_mean, new_unit) in enumerate(
            zip(old.mean, old.unit(), new.mean, new.unit(), strict=True), start=1
        ):
            output.weight[channel] *= unit / new_unit
            output.bias[channel] = (output.bias[channel] * unit + mean - new_mean) / new_unit


def _refuse_another_network(there: Config, here: Config) -> None:
    first, second = dump_config(there), dump_config(here)
    differing = [
        f"network.{key} is {first['network'].get(key)} there and {value} in the config"
        for key, value in second["network"].items()
        if first["network"].get(key) != value
    ]
    if there.data.consecutive_frames != here.data.consecutive_frames:
        differing.append(f"data.consecutive_frames is {there.data.consecutive_frames} there")
    if differing:
        raise CheckpointError(
            f"The model to start from has another network: {'; '.join(differing)}. Use the network that it was trained "
            "with, or train from scratch."
        )
