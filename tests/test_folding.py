"""Folding: the same numbers within rounding, nothing left to normalize, and the network itself untouched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adaloc.config import NetworkConfig
from adaloc.data.scaling import measure_scaling
from adaloc.localize import inference
from adaloc.localize.inference import localize_frames
from adaloc.models.folding import fold_normalization
from adaloc.models.model_file import make_model
from adaloc.models.network import LocalizationNetwork
from small import small_config


def network(**changes: object) -> LocalizationNetwork:
    """With statistics, scales and shifts of normalization as training leaves them, not those of a new network."""
    torch.manual_seed(0)
    net = LocalizationNetwork(NetworkConfig(base_channels=6, **changes), 3)  # type: ignore[arg-type]
    _unsettle(net)
    return net


def _unsettle(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)


@pytest.mark.parametrize("changes", [{}, {"first_stage": "independent", "first_stage_depth": 1}])
def test_a_folded_network_gives_the_same_outputs(changes: dict[str, object]) -> None:
    net, frames = network(**changes).eval(), torch.randn(2, 5, 21, 16)
    folded = fold_normalization(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert (folded.margin_px, folded.size_multiple_px) == (net.margin_px, net.size_multiple_px)
    with torch.inference_mode():
        for norm in folded.modules():
            assert not norm.training
        outputs, expected = folded(frames), net(frames)
    assert outputs.std() > 1e-4, "there is something to compare"
    torch.testing.assert_close(outputs, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_the_network_itself_stays_as_it_was() -> None:
    net = network().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fold_normalization(net)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.state_dict().keys() == before.keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_without_normalization_there_is_nothing_to_fold() -> None:
    net, frames = network(normalization="none").eval(), torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(fold_normalization(net)(frames), net(frames), atol=0, rtol=0)


def test_localizations_are_those_of_the_network_that_is_not_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    columns = tuple(np.linspace(-0.5, 0.5, 7) for _ in range(5))
    model = make_model(
        small_config(tmp_path), measure_scaling(input_mean=19, input_std=2, num_pixels=10, columns=columns)
    )
    _unsettle(model.network)
    output = model.network.second_stage[-1]
    assert isinstance(output, nn.Conv2d) and output.bias is not None
    with torch.no_grad():
        output.weight.normal_(std=0.05)
        output.bias[0] = -1.0
    frames = np.random.default_rng(0).integers(100, 900, (3, 40, 40)).astype(np.uint16)
    folded = localize_frames(model, frames, threshold=0.3)
    monkeypatch.setattr(inference, "fold_normalization", lambda net: net)
    plain = localize_frames(model, frames, threshold=0.3)
    assert len(folded) == len(plain) > 20
    for name in ("frame", "x", "y", "z", "photons", "probability"):
        np.testing.assert_allclose(getattr(folded, name), getattr(plain, name), atol=1e-3, err_msg=name)
