"""The controller for other people's training loops, in the manner of torch.optim.lr_scheduler."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from adaloc.config import AdaptiveLRConfig
from adaloc.errors import AdalocError
from adaloc.training.controller import AdaptiveLRManager
from adaloc.training.decision import Decision
from adaloc.training.rewind import Rewind
from adaloc.training.step_size import StepSize, step_share


class AdaptivePlateauLR(torch.optim.lr_scheduler.LRScheduler):
    """Finds, boosts, lowers and anneals the rate of an optimizer, and takes back what hurt.

    It is called as ReduceLROnPlateau is, with a loss, but after every step and with the training loss. Unlike torch's
    schedulers it sometimes puts earlier weights and moments back into the network and the optimizer. Trials compare
    different batches here, since it does not own the data.

    Args:
        optimizer: its groups keep the ratios of their rates. The search begins at the first group's rate.
        network: whose weights the optimizer changes.
        num_steps: of the whole training; the anneal ends there.
        config: the keys of `adaptive_lr_config`.

    Example:
        >>> network = nn.Linear(3, 1)
        >>> optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        >>> scheduler = AdaptivePlateauLR(optimizer, network, num_steps=300)
        >>> for _ in range(300):
        ...     loss = (network(torch.ones(8, 3)) - 2).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     scheduler.step(loss.item())
        >>> loss.item() < 0.01
        True
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        network: nn.Module,
        num_steps: int,
        config: AdaptiveLRConfig | None = None,
    ) -> None:
        # Not super().__init__: it takes a first step, which needs a loss here. ReduceLROnPlateau does likewise.
        self.optimizer = optimizer
        first = float(optimizer.param_groups[0]["lr"])
        self._ratios = [float(group["lr"]) / first for group in optimizer.param_groups]
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        share = step_share(network, is_orthogonal="muon" in type(optimizer).__name__.lower())
        self.manager = AdaptiveLRManager(num_steps, config, lr=first, replays=False, step_share=share)
        self.last_epoch = 0
        self.last_decision = Decision()
        self._network = network
        self._rewind = Rewind(network, optimizer)
        self._size: StepSize | None = None
        self._prepare()

    def step(self, metrics: float) -> None:  # type: ignore[override]
        """Takes the training loss of a step, after the optimizer's.

        Raises:
            AdalocError: when going back to lower rates did not help.
        """
        self.last_epoch += 1
        decision = self.manager.observe(float(metrics), self._size.relative() if self._size is not None else None)
        if decision.action == "give_up":
            raise AdalocError(f"Training cannot go on at step {self.last_epoch}: {decision.reason}.")
        self.last_decision = decision
        self._rewind.obey(decision)
        self._rewind.keep(self.manager.slots)
        self._prepare()

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """The groups' rates for the next step."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain containers."""
        return {
            "manager": self.manager.state_dict(), "rewind": self._rewind.state_dict(), "last_epoch": self.last_epoch,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`; load the network's and the optimizer's first."""
        self.manager.load_state_dict(state_dict["manager"])
        self._rewind.load_state_dict(state_dict["rewind"])
        self.last_epoch = int(state_dict["last_epoch"])
        self._prepare()

    def _prepare(self) -> None:
        for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = self.manager.rate * ratio
        self._size = StepSize(self._network.parameters()) if self.manager.phase == "search" else None
