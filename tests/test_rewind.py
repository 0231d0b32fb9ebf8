"""Going back to copies of the training state, and the controller in other people's loops."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adaloc.training.adapter import AdaptivePlateauLR
from adaloc.training.decision import Decision
from adaloc.training.rewind import Rewind
from adaloc.training.step_size import StepSize


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
