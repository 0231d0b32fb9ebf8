"""The adaptive strategy exactly as it was published, kept to be compared with, and torch's plateau rule.

After a linear warmup: a boost when the last losses vary little and do not fall, a decay for every epoch after 30
without improvement, and otherwise reduction on a plateau. Its test measures noise instead of trend, so it depends on
the unit of the loss; and a noisy loss decays the rate at every epoch after the thirtieth. controller.py does better.
"""

from __future__ import annotations

import math
from typing import Any

from adaloc.config import AdaptiveLRConfig
from adaloc.training.decision import Decision

# The literal strategy's own numbers, from its published code.
_RECENT_LOSSES = 10
_STAGNATIONS_BEFORE_BOOST = 5
_EPOCHS_BEFORE_DECAY = 30
_PLATEAU_RELATIVE_IMPROVEMENT = 1e-4  # ReduceLROnPlateau's default threshold


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


class LiteralLRManager:
    """Boosts, decays and plateau reductions from the validation loss of each epoch.

    Args:
        config: the keys of `adaptive_lr_config`.

    Example:
        >>> manager = LiteralLRManager(AdaptiveLRConfig())
        >>> manager.should_adjust_lr(5.5, 0)
        (False, 'improving', 1.0)
    """

    def __init__(self, config: AdaptiveLRConfig) -> None:
        self._config = config
        self._losses: list[float] = []
        self._best = math.inf
        self._last_improvement = 0
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
                return True, "stagnation", config.lr_boost_factor
        if epoch - self._last_improvement > _EPOCHS_BEFORE_DECAY:
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
            "stagnations": self._stagnations,
            "plateau": self._plateau.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._losses = [float(loss) for loss in state["losses"]]
        self._best = float(state["best"])
        self._last_improvement = int(state["last_improvement"])
        self._stagnations = int(state["stagnations"])
        self._plateau.load_state_dict(state["plateau"])

    def _is_stagnating(self) -> bool:
        recent = self._losses[-_RECENT_LOSSES:]
        half = _RECENT_LOSSES // 2
        trend = math.fsum(recent[-half:]) / half - math.fsum(recent[:half]) / half
        return _variance(recent) < self._config.adaptive_threshold and trend >= 0

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

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {"best": self._best, "bad_epochs": self._bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._best, self._bad_epochs = float(state["best"]), int(state["bad_epochs"])


def _variance(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)
