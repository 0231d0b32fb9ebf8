"""The strategy as it was published, with its faults, and torch's plateau rule."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaloc.config import AdaptiveLRConfig
from adaloc.training.literal import LiteralLRManager, PlateauRule, WarmupScheduler


def test_warmup_is_a_line_from_start_to_target() -> None:
    warmup = WarmupScheduler(10, 1e-5, 5e-4)
    assert warmup.get_lr(0) == 1e-5
    assert warmup.get_lr(5) == pytest.approx((1e-5 + 5e-4) / 2)
    assert warmup.get_lr(10) == warmup.get_lr(500) == 5e-4


def test_a_falling_loss_is_left_alone() -> None:
    manager = LiteralLRManager(AdaptiveLRConfig())
    assert {manager.should_adjust_lr(5 - 0.01 * e, e) for e in range(200)} == {(False, "improving", 1.0)}


def test_a_flat_loss_is_boosted_after_the_window_and_five_stagnations() -> None:
    manager = LiteralLRManager(AdaptiveLRConfig(loss_window_size=20))
    answers = [manager.should_adjust_lr(4.25, e) for e in range(30)]
    assert answers.index((True, "stagnation", 1.5)) == 19 + 4
    assert all(not adjust for adjust, _, _ in answers[:23])


def test_the_literal_test_depends_on_the_unit_of_the_loss() -> None:
    """Why it is not sound: the same curve in other units is judged otherwise."""
    curve = [4 + 0.05 * math.sin(e) for e in range(60)]

    def boosts(scale: float) -> int:
        manager = LiteralLRManager(AdaptiveLRConfig())
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


def test_decisions_carry_their_reason_and_evidence() -> None:
    manager = LiteralLRManager(AdaptiveLRConfig())
    decisions = [manager.observe(4.25, e) for e in range(40)]
    boost = next(d for d in decisions if d.action == "boost")
    assert boost.factor == 1.5
    assert boost.evidence["recent_variance"] == 0
    assert boost.evidence["best_loss"] == 4.25
    assert "plateau" in boost.reason


def test_a_noisy_loss_decays_at_every_epoch_after_the_thirtieth() -> None:
    """This is the defect that collapsed the rate of the original run."""
    manager = LiteralLRManager(AdaptiveLRConfig())
    manager.should_adjust_lr(1.0, 0)
    decays = [e for e in range(1, 100) if manager.should_adjust_lr(5 + math.sin(e), e)[1] == "decay"]
    assert decays == list(range(31, 100))


def test_a_restored_manager_goes_on_the_same() -> None:
    losses = [5 * math.exp(-e / 20) + 0.3 + 0.1 * math.sin(7 * e) for e in range(200)]
    whole, first, second = (LiteralLRManager(AdaptiveLRConfig(plateau_patience=5)) for _ in range(3))
    decisions = [whole.observe(loss, e) for e, loss in enumerate(losses)]
    for e in range(77):
        first.observe(losses[e], e)
    second.load_state_dict(first.state_dict())
    assert [second.observe(losses[e], e) for e in range(77, 200)] == decisions[77:]
