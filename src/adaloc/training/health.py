"""Whether the losses of steps are those of a healthy run: finite, and not jumped up to stay there."""

from __future__ import annotations

import math
import statistics
from typing import Any, Literal

_BLOCK = 20  # losses that a level and its noise are taken from
_LASTING = 10  # losses of a median that stands for a level: the last is compared with the ones before
_SPIKE_SIGMAS = 3.0  # of one loss; the median of ten strays by 0.4, so this is 7.6 of its own
_SPIKE_SHARE = 0.25  # of all that was learned: a small rise above little noise is no reason to go back
NOT_FINITE_IN_A_ROW = 3  # one may be the batch's fault; its step is skipped
_MAD_TO_SIGMA = 1.4826

Illness = Literal["not_finite", "spike"]


class Health:
    """Watches the losses of steps.

    Args:
        first_level: loss before anything was learned; NaN takes the first block's.
    """

    def __init__(self, first_level: float = math.nan) -> None:
        self._first_level = first_level
        self._level = self._noise = math.nan
        self._recent: list[float] = []
        self._not_finite = 0

    def observe(self, loss: float, *, patient: bool = False) -> Illness | None:
        """Takes the loss of a step; says what is wrong, if something is.

        Args:
            loss: of the step's batch.
            patient: gives any jump the time to come down again; otherwise one that lost all that was learned has none.
        """
        if not math.isfinite(loss):
            self._not_finite += 1
            return "not_finite" if self._not_finite >= NOT_FINITE_IN_A_ROW else None
        self._not_finite = 0
        self._recent = [*self._recent, loss][-_BLOCK:]
        if math.isnan(self._level) or len(self._recent) < _LASTING:
            return None
        highest = self._level + self._largest_rise()
        now = statistics.median(self._recent[-_LASTING:])
        if now <= highest:
            return None
        # What comes down again mends itself, and is better for it than a run that went back (docs/strategy.md).
        stayed = len(self._recent) == _BLOCK and statistics.median(self._recent[:_LASTING]) > highest
        return "spike" if stayed or (now > self._first_level and not patient) else None

    def is_settled(self) -> bool:
        """Whether the latest losses are as low as before: a good time to keep a copy. Takes them as the new level."""
        if len(self._recent) < _BLOCK:
            return False
        level = statistics.median(self._recent)
        if level > self._level + self._noise:  # false while the level is not known
            return False
        self._level = level
        self._noise = _MAD_TO_SIGMA * statistics.median(abs(loss - level) for loss in self._recent)
        if math.isnan(self._first_level):
            self._first_level = level
        return True

    @property
    def recent_level(self) -> float:
        """Median of the latest 20 losses; NaN without any."""
        return statistics.median(self._recent) if self._recent else math.nan

    def start(self, first_level: float, level: float, noise: float) -> None:
        """Takes a level that is known from elsewhere, so that a jump is seen from the first steps on."""
        self._first_level, self._level, self._noise = first_level, level, noise

    def reset(self) -> None:
        """Forgets the latest losses, after the run went back; their level stays."""
        self._recent, self._not_finite = [], 0

    def evidence(self) -> dict[str, float]:
        """The numbers, for the log."""
        recent = self._recent[-_LASTING:]
        return {
            "level_before": self._level,
            "noise": self._noise,
            "level_now": statistics.median(recent) if recent else math.nan,
            "not_finite_in_a_row": float(self._not_finite),
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "first_level": self._first_level, "level": self._level, "noise": self._noise,
            "recent": list(self._recent), "not_finite": self._not_finite,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._first_level, self._level = float(state["first_level"]), float(state["level"])
        self._noise, self._not_finite = float(state["noise"]), int(state["not_finite"])
        self._recent = [float(loss) for loss in state["recent"]]

    def _largest_rise(self) -> float:
        learned = max(self._first_level - self._level, 0.0)
        return max(_SPIKE_SIGMAS * self._noise, _SPIKE_SHARE * learned)
