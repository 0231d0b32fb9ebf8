"""The learning rate: the literal strategy's rules, one owner, references from torch, and exact continuation."""

import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaloc.config import AdaptiveLRConfig
from adaloc.training.controller import AdaptiveLRManager, LearningRate, PlateauRule, WarmupScheduler
from adaloc.training.schedules import cosine, warm_restarts


def test_warmup_is_a_line_from_start_to_target() -> None:
    warmup = WarmupScheduler(10, 1e-5, 5e-4)
    assert warmup.get_lr(0) == 1e-5
    assert warmup.get_lr(5) == pytest.approx((1e-5 + 5e-4) / 2)
    assert warmup.get_lr(10) == warmup.get_lr(500) == 5e-4


def test_a_falling_loss_is_left_alone() -> None:
    manager = AdaptiveLRManager(AdaptiveLRConfig())
    assert {manager.should_adjust_lr(5 - 0.01 * e, e) for e in range(200)} == {(False, "improving", 1.0)}


def test_a_flat_loss_is_boosted_after_the_window_and_five_stagnations() -> None:
    manager = AdaptiveLRManager(AdaptiveLRConfig(loss_window_size=20))
    answers = [manager.should_adjust_lr(4.25, e) for e in range(30)]
    assert answers.index((True, "stagnation", 1.5)) == 19 + 4
    assert all(not adjust for adjust, _, _ in answers[:23])


def test_a_noisy_loss_decays_at_every_epoch_after_the_thirtieth_in_the_literal_strategy() -> None:
    """This is the defect that collapsed the rate of the original run; the default answers once in 30 epochs."""

    def decays(literal: bool) -> list[int]:
        manager = AdaptiveLRManager(AdaptiveLRConfig(), literal=literal)
        manager.should_adjust_lr(1.0, 0)
        return [e for e in range(1, 100) if manager.should_adjust_lr(5 + math.sin(e), e)[1] == "decay"]

    assert decays(literal=True) == list(range(31, 100))
    assert decays(literal=False) == [31, 62, 93]


def test_the_literal_test_depends_on_the_unit_of_the_loss() -> None:
    """Why it is not sound: the same curve in other units is judged otherwise."""
    curve = [4 + 0.05 * math.sin(e) for e in range(60)]

    def boosts(scale: float) -> int:
        manager = AdaptiveLRManager(AdaptiveLRConfig())
        return sum(manager.should_adjust_lr(scale * loss, e)[1] == "stagnation" for e, loss in enumerate(curve))

    assert boosts(0.01) > 0
    assert boosts(100) == 0


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=120), st.integers(0, 8))
def test_plateau_equals_torchs_reduce_lr_on_plateau(losses: list[float], patience: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=patience)
    rule, rate = PlateauRule(patience, 0.7), 1.0
    for loss in losses:
        reference.step(loss)
        rate *= rule.observe(loss)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])


def test_warm_restarts_equal_torchs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5, T_mult=2)
    for epoch in range(34):
        assert warm_restarts(epoch, [5, 10, 20]) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()
    assert cosine(2, 2, 10) == 1


KINDS = ["adaptive_plateau", "adaptive_plateau_literal", "constant", "plateau", "cosine", "warm_restarts", "wsd"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_warms_up_stays_in_bounds_and_continues_exactly(kind: str) -> None:
    config = AdaptiveLRConfig(scheduler_type=kind, plateau_patience=5)  # type: ignore[arg-type]
    losses = [5 * math.exp(-e / 20) + 0.3 + 0.1 * math.sin(7 * e) for e in range(120)]
    whole, first = (LearningRate(config, 1e-3, 120) for _ in range(2))
    rates = []
    for epoch, loss in enumerate(losses):
        rates.append(whole.at(epoch))
        whole.observe(loss, epoch)
        if epoch < 60:
            first.observe(loss, epoch)
    assert rates[0] == pytest.approx(1e-5)
    assert all(b >= a for a, b in itertools.pairwise(rates[:11]))
    assert max(rates) <= 1e-3 * 1.5**20
    assert min(rates) > 0
    second = LearningRate(config, 1e-3, 120)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for epoch in range(60, 120):
        assert second.at(epoch) == rates[epoch]
        second.observe(losses[epoch], epoch)
    if kind in ("adaptive_plateau", "cosine", "wsd"):
        assert whole.at(120) == pytest.approx(1e-6)


def test_growth_boosts_while_the_loss_falls_and_its_last_rate_is_a_ceiling() -> None:
    config = AdaptiveLRConfig(warmup_epochs=0, growth_epochs=5, growth_limit=100, anneal_fraction=0)
    rate = LearningRate(config, 1e-3, 1000)
    decisions = [rate.observe(5 - 0.1 * e if e < 20 else 3.0, e) for e in range(200)]
    actions = {e: d.action for e, d in enumerate(decisions) if d.action != "none"}
    # Falls until epoch 19; the mean of epochs 25 to 29 is the first that is not below the one before.
    assert {e: a for e, a in actions.items() if e < 30} == {
        4: "boost",
        9: "boost",
        14: "boost",
        19: "boost",
        24: "boost",
        29: "decay",
    }
    assert rate.at(30) <= 1e-3 * 1.5**4 * (1 + 1e-9)
    flat = LearningRate(config, 1e-3, 1000)
    for epoch in range(100):
        flat.observe(3.0, epoch)
    assert flat.at(100) <= 1e-3 * 1.5, "a flat loss must not be boosted beyond the rate that failed"


def test_growth_stops_at_its_limit() -> None:
    rate = LearningRate(AdaptiveLRConfig(warmup_epochs=0, growth_limit=4), 1e-3, 1000)
    for epoch in range(60):
        rate.observe(5 - 0.05 * epoch, epoch)
    assert rate.at(60) == pytest.approx(4e-3)


def test_decisions_carry_their_reason_and_evidence() -> None:
    manager = AdaptiveLRManager(AdaptiveLRConfig())
    decisions = [manager.observe(4.25, e) for e in range(40)]
    boost = next(d for d in decisions if d.action == "boost")
    assert boost.factor == 1.5
    assert boost.evidence["recent_variance"] == 0
    assert boost.evidence["best_loss"] == 4.25
    assert "plateau" in boost.reason


def test_early_stop_waits_for_the_minimum_rate_and_a_long_past_best() -> None:
    rate = LearningRate(AdaptiveLRConfig(scheduler_type="adaptive_plateau_literal", early_stop_epochs=20), 5e-4, 1000)
    stopped = None
    for epoch in range(400):
        rate.observe(1.0 if epoch == 0 else 3 + math.sin(epoch), epoch)
        if rate.should_stop(epoch):
            stopped = epoch
            break
    assert stopped is not None
    assert rate.at(stopped + 1) == pytest.approx(1e-6)
    assert stopped > 40


def test_the_controller_is_importable_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import adaloc.training.controller as c; print(c.AdaptiveLRManager)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
