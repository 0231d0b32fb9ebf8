"""adaptive_plateau on a problem of known answer: a noisy quadratic, descended with normalized steps."""

import itertools
import json
import math
import random
import statistics
from dataclasses import dataclass, field

import pytest

from adaloc.config import AdaptiveLRConfig
from adaloc.training.controller import START, AdaptiveLRManager
from adaloc.training.decision import Decision
from adaloc.training.rate_search import ORTHOGONAL_SHARE, RateSearch


@dataclass
class Quadratic:
    """Loss 0.5 sum(h w^2) + noise; a step moves every weight against the sign of its noisy gradient, as Adam's do."""

    seed: int = 0
    unit: float = 1.0
    poisoned: range = range(0)
    weights: list[float] = field(default_factory=lambda: [1.0] * 10)
    slots: dict[str, tuple[list[float], int]] = field(default_factory=dict)
    place: int = 0
    decisions: list[Decision] = field(default_factory=list)

    def step(self, rate: float) -> tuple[float, float]:
        """The loss before the step, and the step's size relative to the weights."""
        rng = random.Random(self.seed * 100_003 + self.place)
        self.place += 1
        curvature = [2.0 ** -(i % 4) for i in range(10)]
        pairs = list(zip(curvature, self.weights, strict=True))
        loss = 0.5 * math.fsum(h * w * w for h, w in pairs) + 0.1 * rng.gauss(0, 1)
        before = self.weights
        self.weights = [w - rate * math.tanh((h * w + 0.3 * rng.gauss(0, 1)) / 0.1) for h, w in pairs]
        size = math.dist(before, self.weights) / max(math.hypot(*before), 1e-12)
        if self.place in self.poisoned:
            self.weights = [math.nan] * 10
        return self.unit * loss, size

    def obey(self, decision: Decision) -> None:
        if decision.restore is not None:
            weights, place = self.slots[decision.restore]
            self.weights = list(weights)
            self.place = place if decision.replay else self.place
        if decision.save is not None:
            self.slots[decision.save] = (list(self.weights), self.place)

    def level(self) -> float:
        """The loss without its noise."""
        curvature = [2.0 ** -(i % 4) for i in range(10)]
        return 0.5 * math.fsum(h * w * w for h, w in zip(curvature, self.weights, strict=True))


def train(manager: AdaptiveLRManager, problem: Quadratic, steps: int) -> list[float]:
    """The rates of all steps."""
    problem.slots.setdefault(START, (list(problem.weights), problem.place))
    rates = []
    for _ in range(steps):
        rates.append(manager.rate)
        loss, size = problem.step(manager.rate)
        decision = manager.observe(loss if math.isfinite(loss) else math.nan, size)
        problem.obey(decision)
        assert manager.slots <= problem.slots.keys(), "a copy that may be asked for was never saved"
        problem.slots = {name: slot for name, slot in problem.slots.items() if name in manager.slots}
        problem.decisions.append(decision)
    return rates


def kinds(problem: Quadratic) -> list[str]:
    return [d.action for d in problem.decisions if d.action != "none"]


@pytest.mark.parametrize("start", [1e-6, 1e-4, 1e-2, 1e-1, 10.0])
def test_it_ends_equally_well_from_any_start(start: float) -> None:
    """Lines from 0.005, 0.01, 0.02, 0.1 and 0.2, annealed likewise, end at 0.067, 0.014, 0.004, 0.013 and 0.015."""
    losses = []
    for seed in range(3):
        problem = Quadratic(seed)
        rates = train(AdaptiveLRManager(600, lr=start), problem, 600)
        losses.append(problem.level())
        assert rates[-1] < 0.01 * max(rates[-400:])
        assert "found" in kinds(problem)
    assert max(losses) < 0.014


def test_the_unit_of_the_loss_does_not_matter() -> None:
    def rates(unit: float) -> list[float]:
        return train(AdaptiveLRManager(500), Quadratic(unit=unit), 500)

    assert rates(1.0) == rates(2.0**-10) == rates(2.0**10)


def test_without_the_size_of_steps_only_harm_ends_the_search() -> None:
    manager, problem = AdaptiveLRManager(600), Quadratic()
    problem.slots[START] = (list(problem.weights), 0)
    while manager.phase == "search":
        loss, _ = problem.step(manager.rate)
        decision = manager.observe(loss)
        problem.obey(decision)
    assert decision.action == "found"
    assert "hurt" in decision.reason
    assert manager.rate < decision.evidence["rate"] / 10


def test_a_run_that_becomes_nan_goes_back_and_on_at_a_lower_rate() -> None:
    problem = Quadratic(poisoned=range(300, 301))
    train(AdaptiveLRManager(600), problem, 600)
    assert kinds(problem).count("rollback") == 1
    rollback = next(d for d in problem.decisions if d.action == "rollback")
    assert rollback.factor == 0.5
    assert "not a number" in rollback.reason
    assert problem.level() < 0.01


def test_one_loss_that_is_not_a_number_is_let_pass() -> None:
    manager = AdaptiveLRManager(1000, AdaptiveLRConfig(find_lr=False))
    for step in range(600):
        decision = manager.observe(math.nan if step % 50 == 25 else 3 + math.sin(step))
        assert decision.action in ("none", "anneal")


def test_a_loss_that_is_never_a_number_is_given_up_in_words() -> None:
    manager = AdaptiveLRManager(1000)
    decisions = [manager.observe(math.nan) for _ in range(60)]
    assert decisions[-1].action == "give_up" or "give_up" in {d.action for d in decisions}
    assert any("not a number" in d.reason for d in decisions)


def test_a_lasting_jump_goes_back_and_a_short_one_does_not() -> None:
    rng = random.Random(0)
    for length, expected in ((4, 0), (9, 0), (60, 1)):
        manager = AdaptiveLRManager(4000, AdaptiveLRConfig(find_lr=False, warmup_epochs=0))
        actions = []
        for step in range(500):
            jump = 3.0 if 300 <= step < 300 + length else 0.0
            loss = 5 * math.exp(-step / 50) + 1 + jump + 0.05 * rng.gauss(0, 1)
            decision = manager.observe(loss)
            actions.append(decision.action)
            if decision.action == "rollback":
                assert decision.restore is not None
                break
        assert actions.count("rollback") == expected


def stall(better_at_higher: bool) -> tuple[list[Decision], AdaptiveLRManager]:
    """A flat loss, until a higher rate is tried, which lowers it or not."""
    manager = AdaptiveLRManager(20_000, AdaptiveLRConfig(find_lr=False), lr=1e-3)
    rng, decisions = random.Random(1), []
    for step in range(5000):
        helped = better_at_higher and manager.rate > 1.2e-3
        fall = 4 * math.exp(-step / 10)
        decisions.append(manager.observe(2 + fall - (0.5 if helped else 0.0) + 0.1 * rng.gauss(0, 1)))
        if decisions[-1].action in ("boost", "revert"):
            break
    return decisions, manager


def test_a_stall_is_answered_by_a_trial_that_stays_where_it_helped() -> None:
    decisions, manager = stall(better_at_higher=True)
    actions = [d for d in decisions if d.action != "none"]
    assert [d.action for d in actions] == ["trial", "boost"]
    assert manager.rate == pytest.approx(1.5e-3)
    assert actions[0].evidence["upper"] < actions[0].evidence["delta"]
    again = [d for d in decisions if d.restore == "before"]
    assert len(again) == 1
    assert again[0].replay, "the trial must see the same batches"


def test_a_trial_that_did_not_help_is_taken_back_and_becomes_a_ceiling() -> None:
    decisions, manager = stall(better_at_higher=False)
    last = decisions[-1]
    assert last.action == "revert"
    assert last.restore == "baseline"
    assert manager.rate == pytest.approx(0.7e-3)
    assert last.evidence["gain"] < last.evidence["gain_needed"]


@pytest.mark.parametrize("stop", [5, 33, 100, 250, 420])
def test_a_restored_controller_goes_on_the_same(stop: int) -> None:
    whole, parted = Quadratic(), Quadratic()
    expected = train(AdaptiveLRManager(600), whole, 600)
    first, second = AdaptiveLRManager(600), AdaptiveLRManager(600)
    rates = train(first, parted, stop)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert rates + train(second, parted, 600 - stop) == expected
    assert parted.weights == whole.weights


def test_false_moves_are_rare_in_healthy_runs() -> None:
    """50 runs of a loss that falls and flattens, with white noise: no rollback, and the rate keeps its order."""
    rollbacks = []
    for seed in range(50):
        problem = Quadratic(seed)
        train(AdaptiveLRManager(400), problem, 400)
        rollbacks.append(kinds(problem).count("rollback"))
    assert sum(count > 0 for count in rollbacks) <= 2
    assert statistics.fmean(rollbacks) < 0.1


@pytest.mark.parametrize("start", [1e-12, 1e-9, 1e-6])
def test_a_search_that_begins_far_too_low_is_neither_longer_nor_hastier(start: float) -> None:
    """It leaves out what is decades below the end, where steps are too small to tell anything."""

    def search(first: float) -> tuple[RateSearch, list[float]]:
        found, rates = RateSearch(first, 3000, ORTHOGONAL_SHARE), []
        outcome = "growing"
        while outcome == "growing":
            rates.append(found.rate)
            outcome = found.observe(1.0, 3.0 * found.rate)
        assert outcome == "reached"
        return found, rates

    (usual, rates), (low, low_rates) = search(1e-4), search(start)
    assert abs(len(rates) - len(low_rates)) <= 5
    assert low.wanted_rate == pytest.approx(usual.wanted_rate, rel=0.1)
    steps = [later / earlier for earlier, later in itertools.pairwise(low_rates[1:])]
    assert max(steps) == pytest.approx(rates[2] / rates[1]), "after the first step it grows as any search does"


def test_a_search_whose_steps_change_under_way_begins_again_and_ends_as_if_nothing_had_been() -> None:
    """Gradients clipped to nothing, for an optimizer that heeds their size, and then no more."""
    found = {}
    for is_clipped in (False, True):
        manager, problem = AdaptiveLRManager(600, AdaptiveLRConfig()), Quadratic()
        problem.slots[START] = (list(problem.weights), 0)
        for step in range(200):
            rate = manager.rate * (1e-5 if is_clipped and step < 10 else 1.0)
            loss, size = problem.step(rate)
            decision = manager.observe(loss, size, steps_changed=is_clipped and step == 9)
            problem.obey(decision)
            if is_clipped and step == 9:
                assert (decision.action, decision.restore) == ("search", START)
                assert manager.rate == pytest.approx(1e-4)
            if decision.action == "found":
                found[is_clipped] = manager.rate
    assert found[True] == pytest.approx(found[False], rel=0.5)
    assert AdaptiveLRManager(600, AdaptiveLRConfig(find_lr=False)).observe(1.0, steps_changed=True) == Decision()


def searched(losses: list[float]) -> tuple[list[str], RateSearch]:
    """What a search says to losses, of steps that are far smaller than what is looked for."""
    search, outcomes = RateSearch(1e-4, 300), []
    for loss in losses:
        outcomes.append(search.observe(loss, 1e-3))
        if outcomes[-1] != "growing":
            break
    return outcomes, search


def test_other_batches_are_no_harm_and_a_rise_that_stays_is() -> None:
    """Before anything is learned the losses hardly vary, and a few batches in a row can all lie a little higher."""
    quiet = [2.300 + 0.002 * (-1) ** i for i in range(12)]
    passing, _ = searched([*quiet, *[2.31] * 7, *quiet])
    assert set(passing) == {"growing"}
    lasting, search = searched([*quiet, *[2.31] * 20])
    assert lasting[-1] == "hurt"
    first_seen = 1e-4 * (search.rate / 1e-4) ** ((len(lasting) - 6) / (len(lasting) - 1))
    assert search.rate_of_harm == pytest.approx(first_seen), "the margin is taken from where the rise began"


def test_steps_that_are_large_for_another_reason_than_the_rate_do_not_end_the_search() -> None:
    """As the first ones of a loop that multiplies the rate without a word."""
    found = []
    for factor in (0.0, 30.0):
        search = RateSearch(1e-4, 300)
        while search.observe(1.0, 5 * search.rate * (1 + factor * 0.5 ** max(search.num_steps - 6, 0))) == "growing":
            pass
        found.append(search.wanted_rate)
    assert found[1] == pytest.approx(found[0], rel=0.25)


@pytest.mark.parametrize("learns", [True, False])
def test_a_rate_that_brings_nothing_is_taken_back_to_the_start_twice(learns: bool) -> None:
    manager, rng, returns = AdaptiveLRManager(1000), random.Random(0), []
    for step in range(1000):
        is_searching = manager.phase == "search"
        level = 5.0 if is_searching else 4.0 if learns else 5.1
        decision = manager.observe(level + 0.1 * rng.gauss(0, 1), 5 * manager.rate)
        if decision.action == "found":
            found_at = step
        if decision.action == "rollback" and "does not lower" in decision.reason:
            assert decision.restore == START, "the copy may be of weights that were broken in the search"
            returns.append(decision.factor)
        if not is_searching and step < found_at + 40:
            assert START in manager.slots
    assert returns == ([] if learns else [0.25, 0.25])
