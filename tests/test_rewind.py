"""Going back to copies of the training state, and the controller in other people's loops."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adaloc.models.blocks import Residual
from adaloc.training.adapter import AdaptivePlateauLR
from adaloc.training.decision import Decision
from adaloc.training.rewind import Rewind
from adaloc.training.step_size import StepSize, step_share


def parts(seed: int = 0, lr: float = 1e-3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
    return network, torch.optim.AdamW(network.parameters(), lr=lr)


def train_step(network: nn.Module, optimizer: torch.optim.Optimizer, index: int) -> float:
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(32, 4, generator=generator)
    loss = F.mse_loss(network(x)[:, 0], x.prod(dim=1) + x[:, 0])
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def test_going_back_repeats_the_same_steps_to_the_bit_any_number_of_times() -> None:
    network, optimizer = parts()
    for i in range(5):
        train_step(network, optimizer, i)
    rewind = Rewind(network, optimizer, place=5)
    rewind.save("here", 5)
    expected = [train_step(network, optimizer, i) for i in range(5, 12)]
    for _ in range(2):
        assert rewind.restore("here") == 5
        assert [train_step(network, optimizer, i) for i in range(5, 12)] == expected


def test_obeying_restores_before_it_saves_and_replays_only_when_asked() -> None:
    network, optimizer = parts()
    rewind = Rewind(network, optimizer, place=3)
    before = copy.deepcopy(network.state_dict())
    train_step(network, optimizer, 0)
    assert rewind.obey(Decision(restore="start", save="other"), place=9) == 9
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert rewind.obey(Decision(restore="other", replay=True), place=20) == 9
    rewind.keep({"other"})
    with pytest.raises(KeyError):
        rewind.restore("start")


def test_the_size_of_a_step_is_relative_to_the_weights() -> None:
    network = nn.Linear(50, 50)
    size = StepSize(network.parameters())
    with torch.no_grad():
        network.weight *= 1.1
        network.bias += 100  # one dimension: does not count
    assert size.relative() == pytest.approx(0.1, rel=1e-4)


def test_the_plain_loop_of_the_docs_learns_from_any_rate() -> None:
    losses = {}
    for lr in (1e-6, 1e-3, 1e-1, 10.0):
        network, optimizer = parts(lr=lr)
        scheduler = AdaptivePlateauLR(optimizer, network, num_steps=400)
        for i in range(400):
            scheduler.step(train_step(network, optimizer, i))
        network.eval()
        x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(99_999))
        with torch.no_grad():
            losses[lr] = float(F.mse_loss(network(x)[:, 0], x.prod(dim=1) + x[:, 0]))
        assert scheduler.get_last_lr()[0] < 1e-4
    network, optimizer = parts(lr=1e-6)
    for i in range(400):
        fixed = train_step(network, optimizer, i)
    assert max(losses.values()) < 1.3 * min(losses.values()), losses
    assert max(losses.values()) < 0.8 * fixed


def deep_network(num_layers: int, seed: int = 0) -> nn.Sequential:
    """Convolutions of 8 channels in a row, which nothing normalizes."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers += [nn.Conv2d(8 if i else 1, 8, 3, padding=1), nn.SiLU()]
        nn.init.kaiming_normal_(layers[-2].weight)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Conv2d(8, 1, 1))


def test_the_share_of_a_step_falls_with_the_layers_unless_they_are_normalized() -> None:
    shallow, deep = (step_share(deep_network(n), is_orthogonal=False) for n in (3, 19))
    assert (shallow, deep) == (0.06, pytest.approx(0.3 / 20))
    normalized = nn.Sequential(deep_network(19), nn.GroupNorm(1, 1))
    assert step_share(normalized, is_orthogonal=False) == 0.03
    assert step_share(normalized, is_orthogonal=True) == 0.06
    assert (
        step_share(nn.Sequential(normalized, Residual(1, 1, nn.Sequential(nn.Conv2d(1, 1, 1)))), is_orthogonal=True)
        < 0.02
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_deep_network_without_normalization_learns(seed: int) -> None:
    """At a share of 6 % it ends at 0.90, which is to know nothing; from 0.75 to 3 % at 0.05 to 0.32."""
    network = deep_network(16, seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    scheduler = AdaptivePlateauLR(optimizer, network, num_steps=300)
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(300):
        x = torch.randn(8, 1, 12, 12, generator=generator)
        loss = F.mse_loss(network(x), F.avg_pool2d(x.abs(), 3, 1, 1) / 0.2 - 4)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step(loss.item())
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.4


def test_it_is_a_scheduler_and_continues_from_its_state() -> None:
    network, optimizer = parts(lr=1e-5)
    scheduler = AdaptivePlateauLR(optimizer, network, num_steps=200)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    for i in range(30):
        scheduler.step(train_step(network, optimizer, i))
    states = copy.deepcopy([network.state_dict(), optimizer.state_dict(), scheduler.state_dict()])
    expected = []
    for i in range(30, 200):
        expected.append(train_step(network, optimizer, i))
        scheduler.step(expected[-1])
    other, other_optimizer = parts(seed=5, lr=1e-5)
    again = AdaptivePlateauLR(other_optimizer, other, num_steps=200)
    for part, state in zip((other, other_optimizer, again), states, strict=True):
        part.load_state_dict(state)
    losses = []
    for i in range(30, 200):
        losses.append(train_step(other, other_optimizer, i))
        again.step(losses[-1])
    assert losses == expected
