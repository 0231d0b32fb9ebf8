"""Muon's laws, and that the parts of an optimizer act and continue as one."""

import copy

import pytest
import torch

from adaloc.config import TrainingConfig
from adaloc.models.network import LocalizationNetwork, NetworkConfig
from adaloc.training.optimizers import Muon, make_optimizer, orthogonalize


@pytest.mark.parametrize("shape", [(16, 144), (32, 64), (64, 16)])
def test_orthogonalized_matrices_have_singular_values_near_one_in_the_same_directions(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * 10
    found = orthogonalize(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (found * (u @ vt)).sum((1, 2)) / (found.norm(dim=(1, 2)) * (u @ vt).norm(dim=(1, 2)))
    assert cosine.min() > 0.97


def test_a_muon_step_does_not_depend_on_the_scale_of_the_loss() -> None:
    results = []
    for scale in (1e-3, 1e3):
        weight = torch.nn.Parameter(torch.zeros(4, 3, 3, 3))
        weight.grad = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * scale
        Muon([{"params": [weight]}], lr=0.01).step()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "radam", "nadam", "sgd"])
def test_every_optimizer_descends_and_continues_exactly(name: str) -> None:
    # Without moments a step is the gradient's size, which is large here; RAdam's first steps are of that kind.
    rate = 3e-2 if name in ("radam", "sgd") else 3e-3

    def make() -> tuple[LocalizationNetwork, object]:
        torch.manual_seed(0)
        network = LocalizationNetwork(NetworkConfig(base_channels=4, depth=1), 3)
        config = TrainingConfig.model_validate({"optimizer": name, "lr_first": rate, "lr_second": rate})
        return network, make_optimizer(config, network.first_stage, network.second_stage)

    frames = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def step(network: LocalizationNetwork, optimizer: object) -> float:
        loss = (network(frames) - 1).square().mean()
        optimizer.zero_grad()  # type: ignore[attr-defined]
        loss.backward()
        optimizer.step()  # type: ignore[attr-defined]
        return float(loss.detach())

    network, optimizer = make()
    losses = [step(network, optimizer) for _ in range(30)]
    assert losses[-1] < 0.85 * losses[0]
    other, continued = make()
    other.load_state_dict(network.state_dict())
    # A copy, as through a file: torch keeps the tensors that it is given.
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # type: ignore[attr-defined]
    assert [step(network, optimizer) for _ in range(3)] == [step(other, continued) for _ in range(3)]


def test_every_parameter_is_in_one_group() -> None:
    network = LocalizationNetwork(NetworkConfig(base_channels=4, depth=1), 3)
    groups = make_optimizer(TrainingConfig(), network.first_stage, network.second_stage).param_groups
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(network.parameters()))
    assert all("lr_ratio" in group for group in groups)


@pytest.mark.parametrize("name", ["muon", "adamw", "radam", "nadam", "sgd"])
def test_biases_and_norms_can_be_left_out_of_the_decay(name: str) -> None:
    """With a gradient of zero nothing but the decay moves a weight."""
    torch.manual_seed(0)
    network = LocalizationNetwork(NetworkConfig(base_channels=4, depth=1), 3)
    config = TrainingConfig.model_validate(
        {"optimizer": name, "weight_decay": 0.1, "decay_biases_and_norms": False, "lr_first": 0.1, "lr_second": 0.1}
    )
    optimizer = make_optimizer(config, network.first_stage, network.second_stage)
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(network.parameters()))
    # SGD's decay is part of the gradient, whose first Nesterov step counts it 1.9 times.
    share = 0.1 * 0.1 * (1.9 if name == "sgd" else 1)
    before = [p.detach().clone() for p in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for was, now in zip(before, network.parameters(), strict=True):
        if now.ndim == 1:
            assert torch.equal(was, now)
        else:
            torch.testing.assert_close(now.detach(), was * (1 - share))
