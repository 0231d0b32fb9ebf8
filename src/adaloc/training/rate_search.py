"""The guarded search for the starting rate: grow it beyond the rate that is wanted, or until it hurts, and go back.

The rate that is wanted is the one at which a step changes the weights by a set share of their size, and it must hold a
margin to what hurts.
How much a step changes the weights, relative to them, has no unit: it means the same for every optimizer, width and
initialization, which a learning rate does not. The steps of the search are the run's warmup.
"""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any, Literal

from adaloc.training.health import NOT_FINITE_IN_A_ROW

ORTHOGONAL_SHARE, OTHER_SHARE = 0.06, 0.03
"""Share of the weights' size that a step of a good rate changes in a run of 300 steps, in networks with normalization:
of Muon's steps, which change all directions alike, and of other optimizers' (docs/strategy.md)."""
_TARGET_STEPS, _TARGET_POWER = 300, 0.3
"""Length of the runs that a step's share of the weights' size is given for, and how it falls with the length.

Longer runs want smaller steps (from annealed runs of 300 and 1500 steps; see docs/strategy.md). In shorter ones the
share falls in proportion: their search is too hasty to show what hurts, and no time is left to recover.
"""
SAFETY = 4.0
"""Margin: the highest rate that was tried over the highest that is taken; docs/strategy.md has what was measured."""
COPY_SPACING = 1.2
"""Ratio of the rates of neighbouring copies, about: small against the width of the range of good rates."""
CONFIRMING = 5
"""Steps that harm must last after the first: other batches pass, and what hurts, hurts more at the higher rates."""
_SMALLEST_TARGET = 0.005
_DECADES = 2.5  # from a rate that does not matter to the end of the search, at least
_SHARE, _LARGEST_SHARE = 0.1, 0.2  # of the run's steps: as long as a warmup
_FEWEST, _MOST = 30, 100  # steps for these decades: fewer see too little of each rate, more see nothing new
_LARGEST_RATE = 10.0
_STEPS_BEFORE_JUDGING = 10
_SMOOTHED = 5
_HURT_SIGMAS = 4.0  # of the difference of two levels; about 50 of them are judged, and the smallest is chosen
_MEDIAN_ERROR = 1.25  # of a Gaussian sample, over its mean's
_JUMP_SIGMAS, _IN_A_ROW = 10.0, 3  # a loss that leaps is seen before the level moves, if it is no odd batch
_DIFFERENCE_TO_SIGMA = 1.4826 / math.sqrt(2)

Outcome = Literal["waiting", "growing", "hurt", "reached", "exhausted"]


class RateSearch:
    """Grows the rate from `start` at every step.

    Args:
        start: first rate; one that does not matter yet.
        num_steps: of the whole run.
        share: of the weights' size that a step shall change in a run of 300 steps, see step_size.py.

    Attributes:
        rate: of the next step.
        target: the share of the weights that a step shall change.
        wanted_rate: the first at which a step did so; infinite before.
        rate_of_harm: of the first step of the present harm to the loss; infinite where there is none.
    """

    def __init__(self, start: float, num_steps: int, share: float = OTHER_SHARE) -> None:
        self.rate = start
        self._num_planned = min(max(_SHARE * num_steps, _FEWEST), _MOST, max(_LARGEST_SHARE * num_steps, 2))
        self._growth = 10 ** (_DECADES / self._num_planned)
        self._losses: list[float] = []
        self._not_finite = 0
        self._relative_step = math.nan
        self.wanted_rate = self.rate_of_harm = math.inf
        self._num_hurt = 0
        times = num_steps / _TARGET_STEPS
        target = share * (times if times < 1 else times**-_TARGET_POWER)
        self.target = max(target, _SMALLEST_TARGET)

    @property
    def num_steps(self) -> int:
        """Steps with a finite loss that were observed."""
        return len(self._losses)

    def observe(self, loss: float, relative_step: float | None) -> Outcome:
        """Takes a step at `rate`; grows the rate unless the search is over.

        Args:
            loss: of the step's batch.
            relative_step: the change of the weights over their size; None where it was not measured, then only harm
                ends the search.
        """
        if not math.isfinite(loss):
            self._not_finite += 1
            self.rate_of_harm = min(self.rate_of_harm, self.rate)
            return "hurt" if self._not_finite >= NOT_FINITE_IN_A_ROW else "waiting"
        self._not_finite = 0
        self._losses.append(loss)
        hurt = self._is_hurt()
        self._num_hurt = self._num_hurt + 1 if hurt else 0
        self.rate_of_harm = min(self.rate_of_harm, self.rate) if hurt else math.inf
        if self._num_hurt > CONFIRMING:
            return "hurt"
        if relative_step is not None and relative_step > 0:
            if math.isnan(self._relative_step):
                # A start that is lower than need be costs no more steps, and the search no care: a step's size goes
                # with the rate, so what lies further below the end than the planned decades can be left out.
                needed = self.rate * SAFETY * self.target / relative_step * 10**-_DECADES
                self.rate = max(self.rate, min(needed, _LARGEST_RATE))
            self._relative_step = relative_step
            # The rate, not the share, then grows through the margin: large steps enlarge the weights themselves.
            if relative_step >= self.target:
                self.wanted_rate = min(self.wanted_rate, self.rate)
            if self.rate >= SAFETY * self.wanted_rate:
                if relative_step >= self.target:
                    return "reached"
                self.wanted_rate = math.inf  # steps were large for another reason than the rate, as the first may be
        if self.rate >= _LARGEST_RATE:
            return "exhausted"
        self.rate *= self._growth
        return "growing"

    @property
    def save_every(self) -> int:
        """Steps between the copies that the search may go back to."""
        return max(round(math.log(COPY_SPACING) / math.log(self._growth)), 1)

    @property
    def lower_start(self) -> float:
        """Where a search begins again whose start was too high: decades below the rate that is wanted."""
        known = self._relative_step if self._relative_step > 0 else self.target  # also where it is NaN
        return float(self.rate * min(self.target / known, 1.0) * 10**-_DECADES)

    def level_at(self, rate: float) -> tuple[float, float, float]:
        """First level, level when the search came to a rate, and noise of the losses; NaN before they are known."""
        if len(self._losses) < _SMOOTHED:
            return math.nan, math.nan, math.nan
        levels = _levels(self._losses)
        back = round(math.log(self.rate / rate) / math.log(self._growth))
        return levels[0], levels[min(max(len(levels) - 1 - back, 0), len(levels) - 1)], _noise(self._losses)

    @property
    def first_level(self) -> float:
        """Median of the first losses, at rates that hardly matter; NaN without them."""
        return statistics.median(self._losses[:_STEPS_BEFORE_JUDGING]) if self._losses else math.nan

    def evidence(self) -> dict[str, float]:
        """The numbers, for the log."""
        return {
            "num_steps": float(self.num_steps),
            "relative_step": self._relative_step,
            "target_relative_step": self.target,
            "not_finite_in_a_row": float(self._not_finite),
            "last_loss": self._losses[-1] if self._losses else math.nan,
            "lowest_level": min(_levels(self._losses)) if len(self._losses) >= _SMOOTHED else math.nan,
            "noise": _noise(self._losses) if len(self._losses) > 1 else math.nan,
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "rate": self.rate, "growth": self._growth, "losses": list(self._losses), "not_finite": self._not_finite,
            "relative_step": self._relative_step, "wanted_rate": self.wanted_rate,
            "rate_of_harm": self.rate_of_harm, "num_hurt": self._num_hurt,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.rate, self._growth = float(state["rate"]), float(state["growth"])
        self._losses = [float(loss) for loss in state["losses"]]
        self._not_finite, self._relative_step = int(state["not_finite"]), float(state["relative_step"])
        self.wanted_rate = float(state["wanted_rate"])
        self.rate_of_harm, self._num_hurt = float(state["rate_of_harm"]), int(state["num_hurt"])

    def _is_hurt(self) -> bool:
        if len(self._losses) <= _STEPS_BEFORE_JUDGING:
            return False
        levels, noise = _levels(self._losses), _noise(self._losses)
        jumped = min(self._losses[-_IN_A_ROW:]) > min(levels) + _JUMP_SIGMAS * noise
        return jumped or levels[-1] > min(levels) + _HURT_SIGMAS * noise * _MEDIAN_ERROR * math.sqrt(2 / _SMOOTHED)


def _levels(losses: list[float]) -> list[float]:
    """Running medians: one odd batch does not move them."""
    return [statistics.median(losses[i : i + _SMOOTHED]) for i in range(len(losses) - _SMOOTHED + 1)]


def _noise(losses: list[float]) -> float:
    """Standard deviation of one loss, from neighbours' differences, which a slow change leaves alone."""
    differences = [abs(b - a) for a, b in itertools.pairwise(losses)]
    return _DIFFERENCE_TO_SIGMA * statistics.median(differences)
