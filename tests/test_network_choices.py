"""The networks' choices: each keeps its law, sees no farther than it says, and the default is what it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.spatial import KDTree
from torch import nn
from torch.nn import functional as F

from adaloc.config import NetworkConfig
from adaloc.config_file import load_config
from adaloc.data.scaling import Scaling, measure_scaling
from adaloc.data.windows import load_samples, split_samples
from adaloc.localize import inference
from adaloc.localize.inference import localize_frames
from adaloc.localize.movie.interface import ArrayMovie
from adaloc.models.blocks import ChannelNorm2d, FrameAttention, LocalGate, Residual, convolution, normalized_convolution
from adaloc.models.folding import fold_normalization
from adaloc.models.model_file import Model, load_model, make_model, model_from_dict, save_model
from adaloc.models.network import LocalizationNetwork, num_parameters
from adaloc.training.run import setup
from adaloc.training.trainer import Hooks, fit, validate
from small import outputs_of_an_island, small_config, small_data

CONFIGS = Path(__file__).parents[1] / "training" / "configs"
U_NET: dict[str, Any] = {"base_channels": 4, "depth": 1}
LIGHT: dict[str, Any] = {"type": "light", "base_channels": 4, "second_stage_channels": 8, "dilations": [1, 3]}
CHOICES: dict[str, dict[str, Any]] = {
    "residual": {**U_NET, "residual": True},
    "gate": {**U_NET, "attention": "gate"},
    "frames": {**U_NET, "attention": "frames"},
    "channel": {**U_NET, "normalization": "channel"},
    "relu": {**U_NET, "activation": "relu"},
    "elu": {**U_NET, "activation": "elu"},
    "gelu": {**U_NET, "activation": "gelu"},
    "half": {**U_NET, "second_stage_channels": 8, "resolution": "half", "first_stage_depth": 0},
    "light": LIGHT,
    "light_with_all": {
        **LIGHT, "residual": True, "attention": "gate", "normalization": "channel", "activation": "elu",
        "first_stage": "independent",
    },
    "half_with_all": {
        **U_NET, "second_stage_channels": 8, "resolution": "half", "residual": True, "attention": "frames",
        "normalization": "none", "first_stage": "independent",
    },
}  # fmt: skip
every_choice = pytest.mark.parametrize("choice", CHOICES)


def network(choice: dict[str, Any], frames: int = 3) -> LocalizationNetwork:
    """With weights as training leaves them: nothing is zero or one that only starts so."""
    torch.manual_seed(0)
    net = LocalizationNetwork(NetworkConfig(**choice), frames, prior=0.007)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if isinstance(module, nn.BatchNorm2d | ChannelNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.Conv2d) and bool((module.weight == 0).all()):
            nn.init.normal_(module.weight, std=0.3)
    return net.eval()


def scaling() -> Scaling:
    columns = tuple(np.linspace(-0.5, 0.5, 7) for _ in range(5))
    return measure_scaling(input_mean=19, input_std=2, num_pixels=10, columns=columns)


# --- The default is what it was ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "margin", "digest"),
    [
        ("adaptive", 395_562, 29, "7b5270d8"),
        ("fixed", 395_302, 29, "c7140ec4"),
        ("gpu", 1_669_210, 41, "54bad175"),
        ("decode", 2_200_858, 47, "65cda9d6"),
    ],
)
def test_the_weights_of_shipped_configs_keep_their_names_and_shapes(
    name: str, parameters: int, margin: int, digest: str
) -> None:
    net = make_model(load_config(CONFIGS / f"train_config_{name}.json"), scaling()).network
    assert (num_parameters(net), net.margin_px, net.size_multiple_px) == (parameters, margin, 4)
    shapes = "\n".join(f"{key} {tuple(value.shape)}" for key, value in net.state_dict().items())
    assert hashlib.sha256(shapes.encode()).hexdigest()[:8] == digest


def test_a_model_file_of_before_these_choices_gives_the_same_outputs(tmp_path: Path) -> None:
    model = make_model(small_config(tmp_path), scaling())
    contents = model.to_dict()
    for key in ("resolution", "dilations", "activation", "residual", "attention"):
        del contents["config"]["network"][key]
    again = model_from_dict(contents, tmp_path / "old.pth")
    frames = torch.randint(100, 900, (1, 4, 16, 16)).float()
    torch.testing.assert_close(again.predict(frames), model.predict(frames), atol=0, rtol=0)


# --- The laws of the blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["silu", "relu", "elu", "gelu"])
@pytest.mark.parametrize("normalization", ["batch", "channel", "none"])
def test_a_residual_begins_as_the_identity_and_learns(normalization: str, activation: str) -> None:
    net = LocalizationNetwork(
        NetworkConfig(**U_NET, residual=True, normalization=normalization, activation=activation),  # type: ignore[arg-type]
        3,
    )
    blocks = [module for module in net.modules() if isinstance(module, Residual)]
    assert len(blocks) == 6  # two levels down and one up, in two stages
    for block in blocks:
        channels = next(m for m in block.body if isinstance(m, nn.Conv2d)).in_channels
        x = torch.randn(2, channels, 6, 6)
        torch.testing.assert_close(block(x), block.shortcut(x), atol=0, rtol=0)
        if isinstance(block.shortcut, nn.Identity):
            assert torch.equal(block(x), x)
        block(x).square().sum().backward()
        gradients = [p.grad for p in block.body[-1].parameters() if p.grad is not None]
        assert any(bool((g != 0).any()) for g in gradients), "what starts at zero does not stay there"


@pytest.mark.parametrize("attention", ["gate", "frames"])
@pytest.mark.parametrize("base", [U_NET, LIGHT], ids=["u_net", "light"])
def test_attention_begins_as_if_it_were_not_there(base: dict[str, Any], attention: str) -> None:
    torch.manual_seed(0)
    plain = LocalizationNetwork(NetworkConfig(**base), 3).eval()
    attentive = LocalizationNetwork(NetworkConfig(**base, attention=attention), 3).eval()  # type: ignore[arg-type]
    added = [m for m in attentive.modules() if isinstance(m, LocalGate | FrameAttention)]
    assert len(added) == (2 if attention == "gate" else 1)
    own = {id(parameter) for module in added for parameter in module.parameters()}
    shared = [parameter for parameter in attentive.parameters() if id(parameter) not in own]
    with torch.no_grad():
        for parameter, value in zip(shared, plain.parameters(), strict=True):
            parameter.copy_(value)
    frames = torch.randn(1, 4, 16, 16)
    torch.testing.assert_close(attentive(frames), plain(frames), atol=1e-6, rtol=1e-5)
    attentive(frames).square().sum().backward()
    for module in added:
        assert any(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())


def test_frames_that_look_alike_get_equal_attention_and_the_weights_sum_to_their_number() -> None:
    torch.manual_seed(0)
    attention = FrameAttention(8, 3)
    part = torch.randn(2, 8, 5, 5)
    alike = part.repeat(1, 3, 1, 1)
    torch.testing.assert_close(attention(alike), alike)
    assert attention.heads == 4
    ones = torch.ones(2, 24, 5, 5)
    ones[:, :8] = 2.0  # all features of a frame are equal, so that what comes out tells the weight
    factors = (attention(ones) / ones).unflatten(1, (3, 8))
    torch.testing.assert_close(factors.sum(1), torch.full((2, 8, 5, 5), 3.0))
    assert factors.std() > 0.01


def test_the_channel_norm_is_that_of_each_pixel_alone() -> None:
    torch.manual_seed(0)
    norm, x = ChannelNorm2d(6), torch.randn(2, 6, 4, 5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    reference = torch.stack(
        [F.group_norm(pixel[..., None, None], 1, norm.weight, norm.bias) for pixel in x.flatten(2).unbind(2)], dim=2
    )
    torch.testing.assert_close(norm(x), reference.reshape(x.shape), atol=1e-5, rtol=1e-5)


def test_a_gate_sees_its_window_alone() -> None:
    gate = LocalGate(4, "silu")
    nn.init.normal_(gate.body[-1].weight)  # type: ignore[arg-type]
    x = torch.randn(1, 4, 11, 11)
    other = x.clone()
    other[..., 5, 5] += 1
    changed = (gate(other) != gate(x)).any(1)[0]
    assert torch.nonzero(changed).min() == 3
    assert torch.nonzero(changed).max() == 7
    assert changed.sum() == 25


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_dilated_convolution_keeps_the_size_and_sees_that_far(dilation: int) -> None:
    layers = nn.Sequential(*normalized_convolution(1, 2, NetworkConfig(normalization="none"), dilation=dilation))
    point = torch.zeros(1, 1, 15, 15)
    point[..., 7, 7] = 1
    assert layers[0].bias is not None
    nn.init.zeros_(layers[0].bias)  # type: ignore[arg-type]
    seen = torch.nonzero(layers(point)[0, 0])
    assert layers(point).shape == (1, 2, 15, 15)
    assert seen.min() == 7 - dilation
    assert seen.max() == 7 + dilation
    assert len(seen) == 9


@pytest.mark.parametrize(("name", "kind"), [("silu", nn.SiLU), ("relu", nn.ReLU), ("elu", nn.ELU), ("gelu", nn.GELU)])
def test_the_activation_is_the_one_of_the_config_everywhere(name: str, kind: type[nn.Module]) -> None:
    assert isinstance(convolution(2, 2, NetworkConfig(activation=name))[-1], kind)  # type: ignore[arg-type]
    net = network({**U_NET, "activation": name, "attention": "gate"})
    others = {nn.SiLU, nn.ReLU, nn.ELU, nn.GELU} - {kind}
    assert not any(type(module) in others for module in net.modules())


# --- The laws of whole networks, for every choice ----------------------------------------------------------------


@every_choice
def test_a_run_of_frames_equals_its_windows_one_by_one(choice: str) -> None:
    net, frames = network(CHOICES[choice]), torch.randn(2, 6, 13, 18)
    run = net(frames)
    assert run.shape == (2, 4, 6, 13, 18)
    for t in range(4):
        torch.testing.assert_close(run[:, t : t + 1], net(frames[:, t : t + 3]), atol=1e-5, rtol=1e-4)


@every_choice
def test_nothing_beyond_the_margin_reaches_an_output(choice: str) -> None:
    net = network(CHOICES[choice])
    margin, multiple, needed = net.margin_px, net.size_multiple_px, 0
    for phase in range(multiple):
        first, last, finite = outputs_of_an_island(net, phase)
        assert finite[first:last, first:last].all()
        columns = torch.nonzero(finite.any(0))[:, 0]
        needed = max(needed, margin + last - 1 - int(columns.max()), margin + int(columns.min()) - first)
    assert 0 <= margin - needed <= 2 * multiple, "the margin is not much wider than what is seen"


@every_choice
def test_a_shift_by_the_multiple_shifts_the_outputs(choice: str) -> None:
    net = network(CHOICES[choice])
    step, size, margin = net.size_multiple_px, 72, net.margin_px
    frames = torch.randn(1, 3, size, size + step)
    here, there = net(frames[..., :size]), net(frames[..., step:])
    assert here.std() > 1e-5
    torch.testing.assert_close(
        here[..., margin + step : size - margin], there[..., margin : size - margin - step], atol=1e-5, rtol=1e-4
    )


@every_choice
def test_folding_leaves_the_outputs_as_they_are(choice: str) -> None:
    net, frames = network(CHOICES[choice]), torch.randn(1, 4, 22, 17)
    folded = fold_normalization(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        outputs, expected = folded(frames), net(frames)
    assert expected.std() > 1e-4
    torch.testing.assert_close(outputs, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


@every_choice
def test_outputs_begin_at_the_best_constant(choice: str) -> None:
    torch.manual_seed(0)
    net = LocalizationNetwork(NetworkConfig(**CHOICES[choice]), 3, prior=0.007)
    outputs = net(torch.randn(4, 3, 16, 16)).detach()
    assert float(outputs[:, :, 0].sigmoid().mean()) == pytest.approx(0.007, rel=0.05)
    assert outputs[:, :, 1:].abs().mean() < 0.05


@every_choice
def test_every_parameter_belongs_to_a_stage_and_learns(choice: str) -> None:
    net = network(CHOICES[choice]).train()
    of_stages = {id(p) for stage in (net.first_stage, net.second_stage) for p in stage.parameters()}
    assert of_stages == {id(p) for p in net.parameters()}
    net(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())] == []


@every_choice
def test_bfloat16_gives_nearly_the_same(choice: str) -> None:
    net, frames = network(CHOICES[choice]), torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        expected = net(frames)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = net(frames).float()
    assert float((outputs - expected).std() / expected.std()) < 0.1


@every_choice
def test_tiles_give_the_outputs_of_whole_frames(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"depth": 2, "base_channels": 4} | CHOICES[choice]
    model = Model(network(CHOICES[choice]), small_config(tmp_path, network=base), scaling())
    frames = np.random.default_rng(0).integers(100, 900, (3, 96, 120)).astype(np.uint16)
    movie = ArrayMovie(frames)
    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 3 * 80 * 80)
    plan = inference.plan_of(model, movie, inference.view_of(movie), torch.device("cpu"))
    assert len(plan.tiles) > 3
    adu = torch.from_numpy(frames.astype(np.float32))[None]
    with torch.inference_mode():
        whole = model.predict(adu)
        spread = float(whole.std())
        assert spread > 1e-3
        for tile in plan.tiles:
            part = model.predict(adu[..., tile.read.rows, tile.read.columns])
            expected = whole[..., tile.keep.rows, tile.keep.columns]
            torch.testing.assert_close(part[..., *tile.keep.within(tile.read)], expected, atol=1e-4 * spread, rtol=0)


@pytest.mark.parametrize("choice", ["half", "light"])
def test_tiles_give_the_localizations_of_whole_frames(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(network(CHOICES[choice]), small_config(tmp_path, network=CHOICES[choice] | {"depth": 2}), scaling())
    frames = np.random.default_rng(0).integers(100, 900, (3, 96, 120)).astype(np.uint16)
    output = model.network.second_stage[-1]
    assert isinstance(output, nn.Conv2d) and output.bias is not None
    with torch.no_grad():  # finds something everywhere
        output.weight.normal_(std=0.1)
        output.weight[1:3] *= 0.1
        output.bias[0] = -1.0
    whole = localize_frames(model, frames, threshold=0.3)
    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 3 * 80 * 80)
    tiles = localize_frames(model, frames, threshold=0.3)
    assert len(tiles) == len(whole) > 50
    points = [np.stack([1000.0 * table.frame, table.x, table.y], axis=1) for table in (tiles, whole)]
    assert KDTree(points[0]).query(points[1])[0].max() < 1e-3


# --- The light network -------------------------------------------------------------------------------------------


def test_the_light_config_has_less_arithmetic_than_the_default_and_is_otherwise_the_same() -> None:
    light, default = (load_config(CONFIGS / f"train_config_{name}.json") for name in ("light", "adaptive"))
    assert light.training.model_copy(update={"epochs": 1000}) == default.training
    assert (light.data, light.simulation) == (default.data, default.simulation)
    nets = [make_model(config, scaling()).network for config in (light, default)]
    assert num_parameters(nets[0]) < num_parameters(nets[1])
    assert multiply_adds(nets[0]) < 0.65 * multiply_adds(nets[1])


def multiply_adds(net: nn.Module) -> int:
    """Of the convolutions for one target frame of 64 x 64 px, as the shapes of their outputs say."""
    total = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        total += output.numel() * layer.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        net.eval()(torch.zeros(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    return total


def test_it_trains_and_comes_back_from_its_file(tmp_path: Path) -> None:
    rate = {"lr_first": 5e-3, "lr_second": 5e-3, "adaptive_lr_config": {"scheduler_type": "constant"}}
    config = small_data(
        tmp_path, network={**LIGHT, "depth": 2, "residual": True, "attention": "frames"},
        training={"epochs": 20, **rate},
    )  # fmt: skip
    training, validation = (load_samples(p, config.simulation.camera) for p in split_samples(config.data))
    run = setup(config, training, validation, with_floor=False)
    before = float(run.loss.objective(validate(run)))
    assert fit(run, Hooks(force=True)) == "finished"
    assert run.best_objective < before - 0.1
    save_model(tmp_path / "model.pth", run.model)
    again = load_model(tmp_path / "model.pth")
    run.model.network.eval()
    again.network.eval()
    batch = run.validation[0].adu_BTHW
    torch.testing.assert_close(again.predict(batch), run.model.predict(batch))


# --- What is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"normalization": "group"}, "a tile of a frame would get other results"),
        ({"normalization": "instance"}, 'use "channel"'),
        ({"type": "light", "depth": 3}, '"light" has no depth'),
        ({"type": "light", "resolution": "half"}, '"light" has no resolution'),
        ({"dilations": [1, 2]}, '"adaloc" has no dilations'),
        ({"type": "decode", "residual": True}, "remove residual"),
        ({"type": "light", "dilations": []}, "dilations"),
        ({"resolution": "half", "second_stage_channels": 30}, "divisible by 4"),
        ({"type": "light", "base_channels": 10}, "divisible by 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NetworkConfig(**keys)


def test_attention_across_frames_needs_frames(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="weighs the frames of a window"):
        small_config(tmp_path, network={"attention": "frames"}, data={"consecutive_frames": 1})
