"""The network: a frame is encoded once, any field size, the outputs begin at knowing nothing."""

import pytest
import torch

from adaloc.config import NetworkConfig
from adaloc.models.network import LocalizationNetwork, num_parameters


def network(**changes: object) -> LocalizationNetwork:
    torch.manual_seed(0)
    return LocalizationNetwork(NetworkConfig(base_channels=4, **changes), 3, prior=0.007).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("first_stage", ["shared", "independent"])
def test_a_run_of_frames_equals_its_windows_one_by_one(first_stage: str) -> None:
    net = network(first_stage=first_stage)
    frames = torch.randn(2, 7, 12, 16)
    run = net(frames)
    assert run.shape == (2, 5, 6, 12, 16)
    for t in range(5):
        torch.testing.assert_close(run[:, t : t + 1], net(frames[:, t : t + 3]), atol=1e-5, rtol=1e-4)


def test_independent_first_stages_do_not_share_weights() -> None:
    shared, independent = network(), network(first_stage="independent")
    assert len(independent.first_stage) == 3
    extra = num_parameters(independent) - num_parameters(shared)
    assert extra == 2 * num_parameters(shared.first_stage)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("size", [(8, 8), (13, 21), (40, 40)])
def test_any_field_size_and_depth(depth: int, size: tuple[int, int]) -> None:
    assert network(depth=depth)(torch.randn(1, 3, *size)).shape == (1, 1, 6, *size)


def test_the_stages_have_sizes_of_their_own() -> None:
    net = network(first_stage_depth=1, second_stage_channels=6, head_channels=10)
    assert len(net.first_stage[0].down) == 2  # type: ignore[arg-type]
    assert len(net.second_stage[0].down) == 3  # type: ignore[arg-type]
    assert net.second_stage[-1].in_channels == 10
    assert net(torch.randn(1, 3, 13, 21)).shape == (1, 1, 6, 13, 21)


def test_padding_does_not_reach_far_into_the_field() -> None:
    """The same frame with other content far away: the near side does not see it."""
    net = network(depth=1)
    frames = torch.randn(1, 3, 16, 61)
    other = frames.clone()
    other[..., 50:] += 5
    torch.testing.assert_close(net(frames)[..., :20], net(other)[..., :20], atol=1e-6, rtol=1e-5)


def test_outputs_begin_at_the_best_constant() -> None:
    outputs = network()(torch.randn(2, 3, 16, 16)).detach()
    assert float(outputs[:, :, 0].sigmoid().mean()) == pytest.approx(0.007, rel=0.05)
    assert outputs[:, :, 1:].abs().mean() < 0.05


def test_one_frame_a_window() -> None:
    net = LocalizationNetwork(NetworkConfig(base_channels=4), 1)
    assert net(torch.randn(2, 5, 8, 8)).shape == (2, 5, 6, 8, 8)
