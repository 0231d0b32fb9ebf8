"""The learning rate's controller: pure Python, an immutable config, a JSON-able state, decisions with evidence.

One object, `LearningRate`, owns the rate of a run. It asks a strategy after each epoch and nothing else changes it.

adaptive_plateau_literal is the adaptive strategy as it was published, kept to be compared with: after the warmup,
a boost when the last losses vary little and do not fall, a decay for every epoch after 30 without improvement, and
otherwise reduction on a plateau. adaptive_plateau makes the same moves with three differences: after the warmup the
rate grows by boosts for as long as the loss falls, since the best rate is seldom the one that was given; an
adjustment restarts the clock, so that one bad stretch is answered once and the rate does not collapse within a few
epochs; and the run ends with a linear anneal, which is worth more than any other move.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from adaloc.config import AdaptiveLRConfig
from adaloc.training.schedules import cosine, warm_restarts, warmup_stable_decay

# The literal strategy's own numbers, from its published code.
_RECENT_LOSSES = 10
_STAGNATIONS_BEFORE_BOOST = 5
_EPOCHS_BEFORE_DECAY = 30
_SAME_RATE = 1e-6  # relative difference below which two rates are the same but for rounding
_PLATEAU_RELATIVE_IMPROVEMENT = 1e-4  # ReduceLROnPlateau's default threshold


@dataclass(frozen=True)
class Decision:
    """What the controller does after an epoch, and why.

    Attributes:
        action: none, boost, decay, plateau, anneal or warmup_done.
        reason: in words.
        factor: by which the rate is multiplied.
        evidence: the numbers that the decision rests on.
    """

    action: str
    reason: str
    factor: float = 1.0
    evidence: dict[str, float] = field(default_factory=dict)


class WarmupScheduler:
    """Linear warmup; a function of the epoch alone."""

    def __init__(self, warmup_epochs: int, start_lr: float, target_lr: float) -> None:
        self.warmup_epochs = warmup_epochs
        self.start_lr = start_lr
        self.target_lr = target_lr

    def is_warming_up(self, epoch: float) -> bool:
        """Whether `epoch` (from 0, may be fractional) lies in the warmup."""
        return epoch < self.warmup_epochs

    def get_lr(self, epoch: float) -> float:
        """The rate at an epoch; the target from the end of the warmup on."""
        if not self.is_warming_up(epoch):
            return self.target_lr
        return self.start_lr + (self.target_lr - self.start_lr) * epoch / self.warmup_epochs


class AdaptiveLRManager:
    """Boosts, decays and plateau reductions from the validation loss of each epoch.

    Args:
        config: the keys of `adaptive_lr_config`.
        literal: the published strategy to the letter; else an adjustment restarts the clock of the others.

    Example:
        >>> manager = AdaptiveLRManager(AdaptiveLRConfig())
        >>> manager.should_adjust_lr(5.5, 0)
        (False, 'improving', 1.0)
    """

    def __init__(self, config: AdaptiveLRConfig, *, literal: bool = True) -> None:
        self._config = config
        self._literal = literal
        self._losses: list[float] = []
        self._best = math.inf
        self._last_improvement = 0
        self._last_adjustment = 0
        self._stagnations = 0
        self._plateau = PlateauRule(config.plateau_patience, config.plateau_factor)

    def should_adjust_lr(self, loss: float, epoch: int) -> tuple[bool, str, float]:
        """Whether to multiply the rate, why ("stagnation", "decay", "improving", "stable"), and by which factor."""
        config = self._config
        self._losses = [*self._losses, loss][-config.loss_window_size :]
        if loss < self._best:
            self._best, self._last_improvement, self._stagnations = loss, epoch, 0
            return False, "improving", 1.0
        if len(self._losses) >= config.loss_window_size and self._is_stagnating():
            self._stagnations += 1
            if self._stagnations >= _STAGNATIONS_BEFORE_BOOST:
                self._stagnations = 0
                self._restart_clock(epoch)
                return True, "stagnation", config.lr_boost_factor
        since = self._last_improvement if self._literal else max(self._last_improvement, self._last_adjustment)
        if epoch - since > _EPOCHS_BEFORE_DECAY:
            self._restart_clock(epoch)
            return True, "decay", config.lr_decay_factor
        return False, "stable", 1.0

    def observe(self, loss: float, epoch: int) -> Decision:
        """The decision after an epoch; reduction on a plateau where the two rules above are silent."""
        adjust, reason, factor = self.should_adjust_lr(loss, epoch)
        evidence = self._evidence(epoch)
        if adjust and reason == "stagnation":
            return Decision(
                "boost",
                "the loss hardly varies and does not fall: a larger step may leave the plateau",
                factor,
                evidence,
            )
        if adjust:
            waited = epoch - self._last_improvement
            return Decision("decay", f"no new best loss for {waited} epochs: a smaller step", factor, evidence)
        reduction = self._plateau.observe(loss)
        if reduction < 1:
            patience = self._config.plateau_patience
            return Decision("plateau", f"no clear improvement for over {patience} epochs", reduction, evidence)
        return Decision("none", reason, 1.0, evidence)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs, as plain containers."""
        return {
            "losses": list(self._losses),
            "best": self._best,
            "last_improvement": self._last_improvement,
            "last_adjustment": self._last_adjustment,
            "stagnations": self._stagnations,
            "plateau": self._plateau.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._losses = [float(loss) for loss in state["losses"]]
        self._best = float(state["best"])
        self._last_improvement = int(state["last_improvement"])
        self._last_adjustment = int(state["last_adjustment"])
        self._stagnations = int(state["stagnations"])
        self._plateau.load_state_dict(state["plateau"])

    def _is_stagnating(self) -> bool:
        recent = self._losses[-_RECENT_LOSSES:]
        half = _RECENT_LOSSES // 2
        trend = math.fsum(recent[-half:]) / half - math.fsum(recent[:half]) / half
        return _variance(recent) < self._config.adaptive_threshold and trend >= 0

    def _restart_clock(self, epoch: int) -> None:
        self._last_adjustment = epoch
        if not self._literal:
            self._plateau.reset()

    def _evidence(self, epoch: int) -> dict[str, float]:
        recent = self._losses[-_RECENT_LOSSES:]
        return {
            "best_loss": self._best,
            "epochs_since_best": float(epoch - self._last_improvement),
            "recent_mean": math.fsum(recent) / len(recent),
            "recent_variance": _variance(recent),
        }


class PlateauRule:
    """Reduction when the loss has not improved for more than `patience` epochs, as torch's ReduceLROnPlateau."""

    def __init__(self, patience: int, factor: float) -> None:
        self._patience = patience
        self._factor = factor
        self._best = math.inf
        self._bad_epochs = 0

    def observe(self, loss: float) -> float:
        """The factor for the rate after an epoch with this loss."""
        if loss < self._best * (1 - _PLATEAU_RELATIVE_IMPROVEMENT):
            self._best, self._bad_epochs = loss, 0
        else:
            self._bad_epochs += 1
        if self._bad_epochs > self._patience:
            self._bad_epochs = 0
            return self._factor
        return 1.0

    def reset(self) -> None:
        """Starts waiting anew."""
        self._bad_epochs = 0

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {"best": self._best, "bad_epochs": self._bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._best, self._bad_epochs = float(state["best"]), int(state["bad_epochs"])


class GrowthRule:
    """Boosts every few epochs for as long as the loss falls; the boost that stopped the fall is taken back.

    Args:
        epochs: between boosts. The mean loss over them is compared with the mean over as many before.
        factor: of a boost.
        limit: product of all boosts, at most.
    """

    def __init__(self, epochs: int, factor: float, limit: float) -> None:
        self._epochs = epochs
        self._factor = factor
        self._limit = limit
        self._grown = 1.0
        self._recent: list[float] = []
        self._before = math.inf
        self.is_over = limit <= 1

    def observe(self, loss: float) -> Decision:
        """The decision after an epoch with this loss."""
        self._recent.append(loss)
        if len(self._recent) < self._epochs:
            return Decision("none", "growth")
        mean, before = math.fsum(self._recent) / self._epochs, self._before
        self._recent, self._before = [], mean
        evidence = {"mean_loss": mean, "mean_loss_before": before, "grown_by": self._grown}
        if not mean < before:  # also when it is not a number
            self.is_over = True
            if self._grown == 1:
                return Decision("none", "growth ends before it began", 1.0, evidence)
            return Decision(
                "decay",
                "the loss fell no further after the last boost, which is taken back",
                1 / self._factor,
                evidence,
            )
        factor = min(self._factor, self._limit / self._grown)
        self._grown *= factor
        self.is_over = self._grown >= self._limit
        return Decision("boost", "the loss falls: a larger step is tried", factor, evidence)

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "grown": self._grown, "recent": list(self._recent), "before": self._before, "is_over": self.is_over,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._grown, self._before = float(state["grown"]), float(state["before"])
        self._recent, self.is_over = [float(loss) for loss in state["recent"]], bool(state["is_over"])


class LearningRate:
    """The one owner of a run's learning rate.

    Args:
        config: the keys of `adaptive_lr_config`.
        lr_first: rate of the first stage at the end of the warmup. The second stage's rate keeps its ratio to it.
        epochs: length of the run.
    """

    def __init__(self, config: AdaptiveLRConfig, lr_first: float, epochs: int) -> None:
        self._config = config
        self._epochs = epochs
        self._base = lr_first
        self._warmup = WarmupScheduler(
            config.warmup_epochs if config.enable_warmup else 0, min(config.warmup_start_lr, lr_first), lr_first
        )
        kind = config.scheduler_type
        self._manager = AdaptiveLRManager(config, literal=kind == "adaptive_plateau_literal")
        self._plateau = PlateauRule(config.plateau_patience, config.plateau_factor)
        self._growth = GrowthRule(config.growth_epochs, config.lr_boost_factor, config.growth_limit)
        self._shape: Callable[[float], float] = _shape(config, epochs)
        self._anneals = kind == "adaptive_plateau"
        self._anneal_start = epochs * (1 - config.anneal_fraction)
        self._best, self._best_epoch = math.inf, 0
        # The rate at which growth ended: it did not help then, and a flat loss is no reason to try it again.
        self._ceiling = math.inf

    def at(self, epoch: float) -> float:
        """The first stage's rate at an epoch, which may be fractional."""
        if self._warmup.is_warming_up(epoch):
            return self._warmup.get_lr(epoch)
        floor = min(self._config.plateau_min_lr, self._base)
        if self._anneals and epoch > self._anneal_start:
            left = (self._epochs - epoch) / max(self._epochs - self._anneal_start, 1e-9)
            return floor + (self._base - floor) * max(left, 0.0)
        return floor + (self._base - floor) * self._shape(epoch)

    def observe(self, loss: float, epoch: int) -> Decision:
        """Decides after epoch `epoch` (from 0) ended with this validation loss; applies its own decision."""
        if loss < self._best:
            self._best, self._best_epoch = loss, epoch
        if self._warmup.is_warming_up(epoch):
            last = epoch + 1 >= self._warmup.warmup_epochs
            return Decision("warmup_done", "the warmup is over") if last else Decision("none", "warmup")
        if self._anneals and epoch + 1 > self._anneal_start:
            begins = epoch <= self._anneal_start
            return Decision("anneal", "the final anneal begins") if begins else Decision("none", "anneal")
        decision = self._ask(loss, epoch)
        lowest = min(self._config.plateau_min_lr, self._base)
        self._base = max(self._base * decision.factor, lowest)
        return decision

    def should_stop(self, epoch: int) -> bool:
        """Whether the rate is at its minimum and the best loss is long past."""
        at_minimum = self.at(epoch + 1) <= self._config.plateau_min_lr * 1.1
        annealing = self._anneals and epoch + 1 > self._anneal_start
        return at_minimum and not annealing and epoch - self._best_epoch > self._config.early_stop_epochs

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs, as plain containers."""
        return {
            "base": self._base,
            "best": self._best,
            "best_epoch": self._best_epoch,
            "manager": self._manager.state_dict(),
            "plateau": self._plateau.state_dict(),
            "growth": self._growth.state_dict(),
            "ceiling": self._ceiling,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._base, self._best = float(state["base"]), float(state["best"])
        self._best_epoch = int(state["best_epoch"])
        self._manager.load_state_dict(state["manager"])
        self._plateau.load_state_dict(state["plateau"])
        self._growth.load_state_dict(state["growth"])
        self._ceiling = float(state["ceiling"])

    def _ask(self, loss: float, epoch: int) -> Decision:
        kind = self._config.scheduler_type
        if kind == "adaptive_plateau" and not self._growth.is_over:
            decision = self._growth.observe(loss)
            if self._growth.is_over:
                self._ceiling = self._base * max(decision.factor, 1.0)
            return decision
        if kind in ("adaptive_plateau", "adaptive_plateau_literal"):
            decision = self._manager.observe(loss, epoch)
            if decision.action == "boost" and self._base * decision.factor > self._ceiling * (1 - _SAME_RATE):
                return Decision("none", "no boost: growth ended at that rate", 1.0, decision.evidence)
            return decision
        if kind == "plateau":
            factor = self._plateau.observe(loss)
            if factor < 1:
                return Decision(
                    "plateau", f"no clear improvement for over {self._config.plateau_patience} epochs", factor
                )
        return Decision("none", kind)


def _shape(config: AdaptiveLRConfig, epochs: int) -> Callable[[float], float]:
    warmup = config.warmup_epochs if config.enable_warmup else 0
    if config.scheduler_type == "cosine":
        return lambda epoch: cosine(epoch, warmup, epochs)
    if config.scheduler_type == "warm_restarts":
        return lambda epoch: warm_restarts(epoch - warmup, config.cosine_restart_periods)
    if config.scheduler_type == "wsd":
        return lambda epoch: warmup_stable_decay(epoch, epochs, config.anneal_fraction)
    return lambda _: 1.0


def _variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)
