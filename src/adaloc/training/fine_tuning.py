"""Starting a run from a model instead of from random weights: for a new PSF, camera or density.

The network keeps the scale of its input, which its weights were trained with. The targets' scales are those of the new
data, so that the loss has its usual meaning there, and the last layer is rescaled for it: before its first step the
new network predicts the very photons and nanometres that the model does.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from adaloc.config import Config
from adaloc.config_file import dump_config
from adaloc.data.scaling import Scaling
from adaloc.data.targets import SIGMAS
from adaloc.errors import CheckpointError
from adaloc.models.model_file import Model


def scaling_for(source: Model, measured: Scaling) -> Scaling:
    """Scales of a network that starts from `source` on data with the scales `measured`."""
    return dataclasses.replace(measured, input_mean=source.scaling.input_mean, input_std=source.scaling.input_std)


def start_from(source: Model, model: Model) -> None:
    """Gives a fresh model the weights of `source`, so that it predicts the same in physical units; sigmas nearly so.

    Args:
        source: a trained model.
        model: of the same network; its scaling is `scaling_for` of the source.

    Raises:
        CheckpointError: when the networks differ.
    """
    _refuse_another_network(source.config, model.config)
    weights = source.network.state_dict()
    output, source_output = _last_layer(model), _last_layer(source)
    names = [name for name in weights if name.startswith(f"second_stage.{len(model.network.second_stage) - 1}.")]
    model.network.load_state_dict({name: w for name, w in weights.items() if name not in names}, strict=False)
    old, new = source.scaling, model.scaling
    # Outputs for uncertainties that only one of the two has are left out, or stay as a fresh network has them.
    shared = min(output.out_channels, source_output.out_channels)
    assert output.bias is not None and source_output.bias is not None
    with torch.no_grad():
        output.weight[:shared], output.bias[:shared] = source_output.weight[:shared], source_output.bias[:shared]
        for channel, (mean, unit, new_mean, new_unit) in enumerate(
            zip(old.mean, old.unit(), new.mean, new.unit(), strict=True), start=1
        ):
            output.weight[channel] *= unit / new_unit
            output.bias[channel] = (output.bias[channel] * unit + mean - new_mean) / new_unit
            sigma = SIGMAS.start + channel - 1
            if sigma < min(shared, SIGMAS.stop):
                # softplus is nearly exp for uncertainties well below the targets' spread: a factor is a shift there.
                output.bias[sigma] += math.log(unit / new_unit)


def _last_layer(model: Model) -> nn.Conv2d:
    output = model.network.second_stage[-1]
    assert isinstance(output, nn.Conv2d)
    return output


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
