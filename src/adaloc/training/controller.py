"""adaptive_plateau: a learning rate that is found, tried and taken back on evidence. Pure Python, a JSON-able state.

The controller sees the training loss of every step and nothing else. It asks the training loop to keep copies of its
state and to go back to them (`Decision.save`, `Decision.restore`), so it works inside long epochs and in any loop.

1. Search: the rate grows at every step until a step changes the weights by far more than is wanted, or the loss is
   hurt; the run goes on from well below that rate.
2. Steady: a trend test (trend.py) looks at the losses. A stall is answered by a trial: some steps at the present rate,
   then the same steps from the same state at a higher one. It stays if it was better; else everything goes back, that
   rate becomes a ceiling, and the rate is lowered instead. A loss that rises goes back and is lowered too.
3. Anneal: a straight line to the lowest rate over the last share of the steps.

At any time a loss that is not a number, or that jumps and stays up, goes back to a copy from before, at a lower rate.
Nothing depends on the unit of the loss. Steps of trials count like all others.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, Literal

from scipy.special import stdtrit

from adaloc.config import AdaptiveLRConfig
from adaloc.training.decision import Decision
from adaloc.training.health import Health, Illness
from adaloc.training.rate_search import CONFIRMING, COPY_SPACING, OTHER_SHARE, SAFETY, RateSearch
from adaloc.training.trend import Trend, TrendTest

Phase = Literal["search", "warmup", "steady", "baseline", "trial", "anneal"]

START = "start"
"""The slot that the loop fills with its state before the first step, unasked."""
_UNMEASURED_SAFETY = 20.0
"""The margin to harm where the size of the steps is not known, so that nothing else can end the search."""
_LOWEST_START = 1e-15
_NUM_SEARCH_SLOTS = round(math.log(_UNMEASURED_SAFETY) / math.log(COPY_SPACING)) + CONFIRMING + 2  # they reach so far
_TRIAL_SHARE, _FEWEST_TRIAL_STEPS = 0.02, 20
_TRIAL_ERROR_RATE = 0.05
_CEILING_GROWTH = 1.1  # at each look: what failed once may be tried again some looks later
_SAVES_IN_A_RUN, _FEWEST_STEPS_BETWEEN_SAVES = 200, 20
_ROLLBACK_FACTOR = 0.5
_EARLY_ROLLBACK_FACTOR, _EARLY_STEPS = 0.25, 100  # a rate that fails soon after it was found is off by more
_PROBATION_STEPS, _PROBATION_SEARCHES, _MOST_PROBATIONS = 40, 4, 2
"""Steps after which a found rate must have brought the loss below the first ones: so many, and so many searches'.

Networks without normalization can be broken by a rate that leaves no jump in the loss, in the search already, so the
run begins anew. Good rates may take long to show in noisy losses: looks after two searches' steps cost several runs of
sparse data a third of their steps for nothing. A second time, at a sixteenth of the rate, is enough: where there is
nothing to learn a low rate does not help either.
"""
_MOST_ROLLBACKS = 10


class AdaptiveLRManager:
    """The controller of adaptive_plateau.

    Args:
        num_steps: optimizer steps of the whole run, those of trials included.
        config: the keys of `adaptive_lr_config`.
        lr: where the search begins; with `config.find_lr` false the rate to work with.
        warmup_steps: length of the warmup from `config.warmup_start_lr` to `lr` when there is no search.
        replays: whether the loop goes back in the data too where a decision asks for it, so that a trial sees the
            same batches.
        step_share: change of the weights by a step, over their size, that the search looks for in a run of 300 steps;
            see step_size.py.

    Example:
        >>> manager = AdaptiveLRManager(1000, AdaptiveLRConfig(find_lr=False), lr=1e-3)
        >>> manager.observe(5.5).action, manager.rate
        ('none', 0.001)
    """

    def __init__(
        self,
        num_steps: int,
        config: AdaptiveLRConfig | None = None,
        *,
        lr: float = 1e-4,
        warmup_steps: int = 0,
        replays: bool = True,
        step_share: float = OTHER_SHARE,
    ) -> None:
        self._config = config or AdaptiveLRConfig()
        self._num_steps = num_steps
        self._anneal_start = round(num_steps * (1 - self._config.anneal_fraction))
        self._warmup_steps = warmup_steps
        self._replays, self._step_share = replays, step_share
        self._save_every = max(_FEWEST_STEPS_BETWEEN_SAVES, num_steps // _SAVES_IN_A_RUN)
        self._trial_steps = max(_FEWEST_TRIAL_STEPS, round(_TRIAL_SHARE * num_steps))
        self._phase: Phase = "search" if self._config.find_lr else "warmup"
        self._step = 0
        self._base = lr
        self._given_lr = self._search_start = lr
        self._search = RateSearch(lr, num_steps, step_share)
        self._search_rates: dict[str, float] = {}
        self._test = TrendTest()
        self._trend: Trend | None = None
        self._health = Health()
        self._good = [START]
        self._ceiling = math.inf
        self._num_rollbacks = 0
        self._found_at: int | None = None
        self._first_level = math.nan
        self._num_probations = 0
        self._at_present_rate: list[float] = []
        self._at_trial_rate: list[float] = []

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        if self._phase == "search":
            return self._search.rate
        floor = min(self._config.plateau_min_lr, self._base)
        if self._phase == "warmup" and self._step < self._warmup_steps:
            start = min(self._config.warmup_start_lr, self._base)
            return start + (self._base - start) * self._step / self._warmup_steps
        if self._phase == "trial":
            return self._base * self._config.lr_boost_factor
        if self._phase == "anneal":
            left = (self._num_steps - self._step) / max(self._num_steps - self._anneal_start, 1)
            return floor + (self._base - floor) * max(left, 0.0)
        return self._base

    @property
    def phase(self) -> Phase:
        """What the controller is doing."""
        return self._phase

    @property
    def ceiling(self) -> float:
        """The rate above which nothing is tried, as one there has failed; infinite where none has."""
        return self._ceiling

    @property
    def is_settling(self) -> bool:
        """Whether the rate is searched for, or was found so lately that losses and statistics still move with it."""
        return self._phase == "search" or (self._found_at is not None and self._step <= self._found_at + _EARLY_STEPS)

    @property
    def slots(self) -> set[str]:
        """The copies that may still be asked for; the loop can drop all others."""
        trial = {"before"} if self._phase in ("baseline", "trial") else set()
        start = {START} if self._is_on_probation() else set()
        return {*self._good, *start, *self._search_rates, *trial, *({"baseline"} if self._phase == "trial" else ())}

    @property
    def trend(self) -> Trend | None:
        """What the latest look at the losses said, if the latest step brought one."""
        return self._trend

    def observe(self, loss: float, relative_step: float | None = None, *, steps_changed: bool = False) -> Decision:
        """Takes the training loss of a step, and decides. The loop obeys before its next step.

        Args:
            loss: of the step's batch before the step; NaN or infinite where the step was skipped for that.
            relative_step: change of the weights by the step over their size, see step_size.py. Read in the search
                only; without it the search goes on until the loss is hurt.
            steps_changed: from the next step on a rate means another step, as when gradients were clipped to nothing
                and are no more. What a search saw before says nothing then.
        """
        self._step += 1
        self._trend = None
        if self._phase == "search" and steps_changed:
            return self._search_again()
        if self._phase == "search":
            return self._observe_search(loss, relative_step)
        if illness := self._health.observe(loss, patient=self.is_settling):
            return self._go_back(illness)
        if self._fails_probation():
            return self._go_back("no_progress")
        if self._phase == "baseline" or self._phase == "trial":
            return self._observe_trial(loss)
        if self._phase != "anneal" and self._step >= self._anneal_start:
            self._phase = "anneal"
            return Decision("anneal", "the final anneal begins", save=self._next_good_slot())
        if self._phase == "warmup" and self._step >= self._warmup_steps:
            self._phase = "steady"
            return Decision("warmup_done", "the warmup is over") if self._warmup_steps else Decision()
        if self._phase == "steady" and math.isfinite(loss):
            self._trend = self._test.observe(loss)
            if self._trend is not None:
                return self._answer(self._trend)
        if self._step % self._save_every == 0 and self._health.is_settled():
            return Decision(save=self._next_good_slot())
        return Decision()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs, as plain containers."""
        return {
            "phase": self._phase, "step": self._step, "base": self._base,
            "search_start": self._search_start, "search": self._search.state_dict(),
            "search_rates": dict(self._search_rates), "test": self._test.state_dict(),
            "health": self._health.state_dict(), "good": list(self._good), "ceiling": self._ceiling,
            "num_rollbacks": self._num_rollbacks, "found_at": self._found_at, "first_level": self._first_level,
            "num_probations": self._num_probations, "at_present_rate": list(self._at_present_rate),
            "at_trial_rate": list(self._at_trial_rate),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._phase, self._step, self._base = state["phase"], int(state["step"]), float(state["base"])
        self._search_start = float(state["search_start"])
        self._search = RateSearch(self._search_start, self._num_steps, self._step_share)
        self._search.load_state_dict(state["search"])
        self._search_rates = {slot: float(rate) for slot, rate in state["search_rates"].items()}
        self._test.load_state_dict(state["test"])
        self._health.load_state_dict(state["health"])
        self._good, self._ceiling = list(state["good"]), float(state["ceiling"])
        self._num_rollbacks, self._found_at = int(state["num_rollbacks"]), state["found_at"]
        self._first_level, self._num_probations = float(state["first_level"]), int(state["num_probations"])
        self._at_present_rate = [float(loss) for loss in state["at_present_rate"]]
        self._at_trial_rate = [float(loss) for loss in state["at_trial_rate"]]

    def _observe_search(self, loss: float, relative_step: float | None) -> Decision:
        rate = self._search.rate
        outcome = self._search.observe(loss, relative_step)
        if outcome == "waiting":
            return Decision()
        if outcome == "growing" and self._step < self._anneal_start:
            if self._search.num_steps % self._search.save_every:
                return Decision()
            # The copy is of the state that the next step, at the grown rate, begins from.
            slot = f"search-{self._search.num_steps // self._search.save_every % _NUM_SEARCH_SLOTS}"
            self._search_rates[slot] = self._search.rate
            return Decision(save=slot)
        evidence = {"rate": rate, **self._search.evidence()}
        if outcome == "growing":  # the anneal is due
            self._base, self._phase, self._search_rates, self._good = rate, "steady", {}, [START]
            return Decision("found", "nothing hurt the loss so far, and the anneal is due", 1.0, evidence)
        margin = SAFETY if relative_step is not None else _UNMEASURED_SAFETY
        harm = min(rate, self._search.rate_of_harm)
        wanted = min(harm / margin, self._search.wanted_rate)
        rates = self._search_rates
        if not rates or min(rates.values()) > wanted * COPY_SPACING:
            return self._search_lower(evidence)
        slot = min(rates, key=lambda name: abs(math.log(rates[name] / wanted)))
        self._base, self._ceiling, self._phase = rates[slot], harm, "steady"
        self._search_rates, self._good, self._found_at = {}, [slot], self._step
        self._health.start(*self._search.level_at(self._base))
        self._first_level = self._search.first_level
        words = {
            "hurt": f"a rate of {harm:.1e} hurt the loss; the run goes on from well below it",
            "reached": f"nothing hurt the loss up to {rate:.1e}, where steps are too large; on from well below",
            "exhausted": f"nothing hurt the loss up to an absurd rate of {rate:.1e}; on from well below",
        }[outcome]
        return Decision("found", words, self._base / rate, evidence, restore=slot)

    def _search_lower(self, evidence: dict[str, float]) -> Decision:
        self._search_start = self._search.lower_start
        self._search_rates = {}
        if self._search_start < _LOWEST_START:
            broken = evidence["not_finite_in_a_row"] > 0
            words = "the loss is not a number" if broken else "the loss is hurt"
            return Decision("give_up", f"{words} at every learning rate, however low", 1.0, evidence)
        factor = self._search_start / self._search.rate
        self._search = RateSearch(self._search_start, self._num_steps, self._step_share)
        return Decision(
            "search", "the search began at a rate that hurts; it begins again lower", factor, evidence, restore=START
        )

    def _search_again(self) -> Decision:
        factor = self._given_lr / self._search.rate
        self._search_start, self._search_rates = self._given_lr, {}
        self._search = RateSearch(self._search_start, self._num_steps, self._step_share)
        words = "steps are not what they were at this rate; the search begins again"
        return Decision("search", words, factor, {}, restore=START)

    def _answer(self, trend: Trend) -> Decision:
        self._ceiling *= _CEILING_GROWTH
        if trend.verdict == "diverging":
            return self._go_back("diverging", trend.evidence())
        if trend.verdict != "stalled":
            return Decision()
        if self._base * self._config.lr_boost_factor > self._ceiling:
            return self._lower("the loss is stalled, and a higher rate has failed before", trend.evidence())
        if self._step + 2 * self._trial_steps > self._anneal_start:
            return Decision()  # the anneal comes before a trial would end, and it answers a stall too
        self._phase, self._at_present_rate, self._at_trial_rate = "baseline", [], []
        return Decision("trial", "the loss is stalled: a higher rate is tried", 1.0, trend.evidence(), save="before")

    def _observe_trial(self, loss: float) -> Decision:
        losses = self._at_present_rate if self._phase == "baseline" else self._at_trial_rate
        losses.append(loss)
        if len(losses) < self._trial_steps:
            return Decision()
        if self._phase == "baseline":
            self._phase = "trial"
            self._health.reset()
            return Decision(save="baseline", restore="before", replay=True)
        gain, error = _gain(self._at_present_rate, self._at_trial_rate, paired=self._replays)
        evidence = {"gain": gain, "gain_needed": error, "num_steps": float(self._trial_steps)}
        factor, rate = self._config.lr_boost_factor, self.rate
        self._phase = "steady"
        self._test.reset()
        if gain > error:
            self._base *= factor
            return Decision("boost", "the higher rate lowered the loss", factor, evidence)
        self._ceiling = rate
        lowered = self._lower("the higher rate did not lower the loss", evidence)
        return Decision("revert", lowered.reason, lowered.factor, evidence, restore="baseline", replay=True)

    def _lower(self, reason: str, evidence: dict[str, float]) -> Decision:
        factor = max(self._config.plateau_factor, self._config.plateau_min_lr / self._base)
        self._base *= min(factor, 1.0)
        self._test.reset()
        return Decision("plateau", reason, min(factor, 1.0), evidence)

    def _last_of_probation(self) -> int:
        if self._found_at is None or self._num_probations >= _MOST_PROBATIONS:
            return 0
        return self._found_at + max(_PROBATION_STEPS, _PROBATION_SEARCHES * self._search.num_steps)

    def _is_on_probation(self) -> bool:
        return self._step < self._last_of_probation()

    def _fails_probation(self) -> bool:
        return self._step == self._last_of_probation() and self._health.recent_level > self._first_level

    def _go_back(
        self, illness: Illness | Literal["diverging", "no_progress"], evidence: dict[str, float] | None = None
    ) -> Decision:
        words = {
            "not_finite": "the loss is not a number",
            "spike": "the loss jumped and stayed up",
            "diverging": "the loss rises",
            "no_progress": "the rate that was found does not lower the loss",
        }
        evidence = evidence or self._health.evidence()
        self._num_rollbacks += 1
        if self._num_rollbacks > _MOST_ROLLBACKS:
            return Decision(
                "give_up", f"{words[illness]}, after {_MOST_ROLLBACKS} returns to lower rates", 1.0, evidence
            )
        self._ceiling = min(self._ceiling, self.rate)
        is_early = self.is_settling or illness == "no_progress"
        factor = _EARLY_ROLLBACK_FACTOR if is_early else _ROLLBACK_FACTOR
        self._base *= factor
        if illness == "no_progress":
            self._num_probations += 1
            self._found_at = self._step
            self._good, self._health = [START], Health(self._first_level)
        where = "the start" if self._good[0] == START else "a copy from before"
        self._good = self._good[:1]  # the older copy: the newer one may be of the run-up
        self._health.reset()
        self._test.reset()
        if self._phase != "anneal":
            self._phase = "steady"
        return Decision(
            "rollback", f"{words[illness]}: back to {where}, at a lower rate", factor, evidence, restore=self._good[0],
        )  # fmt: skip

    def _next_good_slot(self) -> str:
        slot = "good-1" if self._good[-1] == "good-0" else "good-0"
        self._good = [self._good[-1], slot]
        return slot


def _gain(before: list[float], after: list[float], *, paired: bool) -> tuple[float, float]:
    """Mean fall of the loss over the second half of a trial, and what chance allows (Student's t, Welch's)."""
    half = len(before) // 2
    before, after = before[half:], after[half:]
    n = len(before)
    gain = statistics.fmean(before) - statistics.fmean(after)
    if paired:
        variance = statistics.variance([a - b for a, b in zip(before, after, strict=True)]) / n
        freedom = n - 1.0
    else:
        parts = [statistics.variance(losses) / n for losses in (before, after)]
        variance = math.fsum(parts)
        freedom = (n - 1) * variance**2 / max(math.fsum(part**2 for part in parts), 1e-300)
    return gain, math.sqrt(variance) * float(stdtrit(max(freedom, 1.0), 1 - _TRIAL_ERROR_RATE))
