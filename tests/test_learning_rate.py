"""The one owner of the rate, and the shapes of fixed schedules against torch's."""

import itertools
import json
import math
import subprocess
import sys

import pytest
import torch

from adaloc.config import AdaptiveLRConfig
from adaloc.training.learning_rate import LearningRate
from adaloc.training.schedules import cosine, one_cycle, warm_restarts

SCHEDULES = ["adaptive_plateau_literal", "constant", "plateau", "cosine", "warm_restarts", "one_cycle", "wsd"]
STEPS = 3  # of an epoch


def test_warm_restarts_equal_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5, T_mult=2)
    for epoch in range(34):
        assert warm_restarts(epoch, [5, 10, 20]) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()
    assert cosine(2, 2, 10) == 1


def test_one_cycle_equals_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=101, cycle_momentum=False)
    for step in range(101):
        # torch's peak is one step before 30 % of its steps.
        assert one_cycle(step * 30 / 29.3 if step < 29.3 else 30 + (step - 29.3) * 70 / 70.7, 100) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=1e-4
        )
        optimizer.step()
        if step < 100:
            reference.step()


def run(rate: LearningRate, losses: list[float], first_epoch: int = 0) -> list[float]:
    """Feeds epochs; returns the rate of every step."""
    rates = []
    for epoch, loss in enumerate(losses, start=first_epoch):
        for _ in range(STEPS):
            rates.append(rate.rate)
            rate.observe_step(loss, None)
        rate.observe_epoch(loss, epoch)
    return rates


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_warms_up_stays_in_bounds_and_continues_exactly(kind: str) -> None:
    config = AdaptiveLRConfig(scheduler_type=kind, plateau_patience=5)  # type: ignore[arg-type]
    losses = [5 * math.exp(-e / 20) + 0.3 + 0.1 * math.sin(7 * e) for e in range(120)]
    whole, first, second = (LearningRate(config, 1e-3, 120, STEPS) for _ in range(3))
    rates = run(whole, losses)
    run(first, losses[:60])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert run(second, losses[60:], 60) == rates[60 * STEPS :]
    assert rates[0] == pytest.approx(4.096e-5 if kind == "one_cycle" else 1e-5, rel=0.01)
    assert all(b >= a for a, b in itertools.pairwise(rates[: 10 * STEPS]))
    assert min(rates) > 0
    assert max(rates) <= 1e-3 * 1.5**20
    if kind in ("cosine", "one_cycle", "wsd"):
        assert whole.rate == pytest.approx(1e-6)


def test_the_adaptive_rate_does_not_depend_on_lr_first() -> None:
    losses = [5 * math.exp(-e / 20) + 0.3 for e in range(50)]
    low, high = (LearningRate(AdaptiveLRConfig(), lr_first, 50, STEPS) for lr_first in (1e-6, 1e-1))
    assert run(low, losses) == run(high, losses)
    believed = LearningRate(AdaptiveLRConfig(find_lr=False), 1e-1, 50, STEPS)
    assert max(run(believed, losses)) == pytest.approx(1e-1)


def test_early_stop_waits_for_the_minimum_rate_and_a_long_past_best() -> None:
    config = AdaptiveLRConfig(scheduler_type="adaptive_plateau_literal", early_stop_epochs=20)
    rate = LearningRate(config, 5e-4, 1000, 1)
    stopped = None
    for epoch in range(400):
        rate.observe_step(1.0, None)
        rate.observe_epoch(1.0 if epoch == 0 else 3 + math.sin(epoch), epoch)
        if rate.should_stop(epoch):
            stopped = epoch
            break
    assert stopped is not None
    assert rate.rate == pytest.approx(1e-6)
    assert stopped > 40


def test_cosine_ends_at_zero() -> None:
    assert cosine(2, 2, 10) == 1
    assert cosine(10, 2, 10) == 0


@pytest.mark.parametrize("module", ["controller", "learning_rate"])
def test_the_controller_is_importable_without_torch(module: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import adaloc.training.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
