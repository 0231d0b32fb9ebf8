"""The one owner of a run's learning rate: nothing else changes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from adaloc.config import AdaptiveLRConfig
from adaloc.training.controller import AdaptiveLRManager
from adaloc.training.decision import Decision
from adaloc.training.literal import LiteralLRManager, PlateauRule, WarmupScheduler
from adaloc.training.rate_search import OTHER_SHARE
from adaloc.training.schedules import cosine, cyclical, one_cycle, step, warm_restarts, warmup_stable_decay
from adaloc.training.trend import Trend


class LearningRate:
    """Asks the configured strategy after every step and every epoch.

    Args:
        config: the keys of `adaptive_lr_config`.
        lr_first: rate of the first stage, unless the strategy finds its own. The second stage's keeps its ratio to it.
        epochs: length of the run.
        steps_per_epoch: of the optimizer.
        step_share: of the weights' size, that a step shall change; see step_size.py.
    """

    def __init__(
        self,
        config: AdaptiveLRConfig,
        lr_first: float,
        epochs: int,
        steps_per_epoch: int,
        step_share: float = OTHER_SHARE,
    ) -> None:
        self._config = config
        self._step, self._steps_per_epoch = 0, steps_per_epoch
        self._best, self._best_epoch = math.inf, 0
        self._adaptive: AdaptiveLRManager | None = None
        self._scheduled = _Scheduled(config, lr_first, epochs)
        if config.scheduler_type == "adaptive_plateau":
            warmup = config.warmup_epochs if config.enable_warmup else 0
            self._adaptive = AdaptiveLRManager(
                epochs * steps_per_epoch,
                config,
                lr=config.search_start_lr if config.find_lr else lr_first,
                warmup_steps=warmup * steps_per_epoch,
                step_share=step_share,
            )

    @property
    def rate(self) -> float:
        """The first stage's rate for the next step."""
        if self._adaptive is not None:
            return self._adaptive.rate
        return self._scheduled.at(self._step / self._steps_per_epoch)

    @property
    def slots(self) -> set[str]:
        """Copies of the run's state that may still be asked for."""
        return self._adaptive.slots if self._adaptive is not None else set()

    @property
    def ceiling(self) -> float | None:
        """The rate above which nothing is tried, as one there has failed; None where there is none."""
        ceiling = self._adaptive.ceiling if self._adaptive is not None else math.inf
        return ceiling if math.isfinite(ceiling) else None

    @property
    def trend(self) -> Trend | None:
        """What a look at the losses said, if the latest step brought one."""
        return self._adaptive.trend if self._adaptive is not None else None

    @property
    def is_settling(self) -> bool:
        """Whether a rate is searched for or was just found: the losses then tell of the search, not of the run."""
        return self._adaptive is not None and self._adaptive.is_settling

    @property
    def is_accepted(self) -> bool:
        """Whether the run stands on a rate that was accepted: not in a warmup, a search or what follows it, or the
        trial of a higher rate, which may all be taken back."""
        if self._adaptive is None:
            return not self._scheduled.is_warming_up(self._step / self._steps_per_epoch)
        return not self._adaptive.is_settling and self._adaptive.phase in ("steady", "baseline", "anneal")

    @property
    def wants_relative_step(self) -> bool:
        """Whether the next step's size is to be measured."""
        return self._adaptive is not None and self._adaptive.phase == "search"

    def observe_step(self, loss: float, relative_step: float | None, *, steps_changed: bool = False) -> Decision:
        """Takes a step's training loss, NaN where the step was skipped, and its size where that was wanted.

        `steps_changed`: from the next step on a rate means another step (controller.py).
        """
        self._step += 1
        if self._adaptive is None:
            return Decision()
        return self._adaptive.observe(loss, relative_step, steps_changed=steps_changed)

    def observe_epoch(self, val_loss: float, epoch: int) -> Decision:
        """Takes the validation loss after epoch `epoch`, from 0."""
        if val_loss < self._best:
            self._best, self._best_epoch = val_loss, epoch
        return Decision() if self._adaptive is not None else self._scheduled.observe(val_loss, epoch)

    def should_stop(self, epoch: int) -> bool:
        """Whether the rate is at its minimum, before any planned end, and the best loss is long past."""
        if self._adaptive is not None and self._adaptive.phase != "steady":
            return False
        at_minimum = self.rate <= self._config.plateau_min_lr * 1.1
        return at_minimum and epoch - self._best_epoch > self._config.early_stop_epochs

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs, as plain containers."""
        strategy = self._adaptive if self._adaptive is not None else self._scheduled
        return {
            "step": self._step, "best": self._best, "best_epoch": self._best_epoch, "strategy": strategy.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._step = int(state["step"])
        self._best, self._best_epoch = float(state["best"]), int(state["best_epoch"])
        strategy = self._adaptive if self._adaptive is not None else self._scheduled
        strategy.load_state_dict(state["strategy"])


class _Scheduled:
    """The strategies that follow a shape, or the validation loss of each epoch."""

    def __init__(self, config: AdaptiveLRConfig, lr_first: float, epochs: int) -> None:
        self._kind = config.scheduler_type
        self._base = lr_first
        self._floor = min(config.plateau_min_lr, lr_first)
        # These bring their own.
        warmup_epochs = (
            config.warmup_epochs if config.enable_warmup and self._kind not in ("one_cycle", "cyclical") else 0
        )
        self._warmup = WarmupScheduler(warmup_epochs, min(config.warmup_start_lr, lr_first), lr_first)
        self._shape = _shape(config, warmup_epochs, epochs)
        self._literal = LiteralLRManager(config)
        self._plateau = PlateauRule(config.plateau_patience, config.plateau_factor)
        self._plateau_patience = config.plateau_patience

    def is_warming_up(self, epoch: float) -> bool:
        """Whether a warmup is not over at an epoch."""
        return self._warmup.is_warming_up(epoch)

    def at(self, epoch: float) -> float:
        """The rate at an epoch, which may be fractional."""
        if self._warmup.is_warming_up(epoch):
            return self._warmup.get_lr(epoch)
        return self._floor + (self._base - self._floor) * self._shape(epoch)

    def observe(self, loss: float, epoch: int) -> Decision:
        """Decides after an epoch, and applies it."""
        if self._warmup.is_warming_up(epoch):
            last = epoch + 1 >= self._warmup.warmup_epochs
            return Decision("warmup_done", "the warmup is over") if last else Decision()
        decision = Decision()
        if self._kind == "adaptive_plateau_literal":
            decision = self._literal.observe(loss, epoch)
        elif self._kind == "plateau" and (factor := self._plateau.observe(loss)) < 1:
            words = f"no clear improvement for over {self._plateau_patience} epochs"
            decision = Decision("plateau", words, factor)
        self._base = max(self._base * decision.factor, self._floor)
        return decision

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {
            "base": self._base, "literal": self._literal.state_dict(), "plateau": self._plateau.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._base = float(state["base"])
        self._literal.load_state_dict(state["literal"])
        self._plateau.load_state_dict(state["plateau"])


def _shape(config: AdaptiveLRConfig, warmup: int, epochs: int) -> Callable[[float], float]:
    if config.scheduler_type == "cosine":
        return lambda epoch: cosine(epoch, warmup, epochs)
    if config.scheduler_type == "warm_restarts":
        return lambda epoch: warm_restarts(epoch - warmup, config.cosine_restart_periods)
    if config.scheduler_type == "cyclical":
        return lambda epoch: cyclical(epoch - warmup, config.cycle_epochs)
    if config.scheduler_type == "step":
        return lambda epoch: step(epoch - warmup, config.step_epochs, config.step_factor)
    if config.scheduler_type == "wsd":
        return lambda epoch: warmup_stable_decay(epoch, epochs, config.anneal_fraction)
    if config.scheduler_type == "one_cycle":
        return lambda epoch: one_cycle(epoch, epochs)
    return lambda _: 1.0
