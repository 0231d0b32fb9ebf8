"""Copies of a training state in memory, to go back to: what a controller's `save` and `restore` ask for."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Protocol

import torch
from torch import nn

from adaloc.training.controller import START
from adaloc.training.decision import Decision


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Rewind:
    """Keeps copies of a network's and its optimizer's state, each with a place in the data.

    Args:
        network: its weights and buffers.
        optimizer: anything with `state_dict` and `load_state_dict`.
        place: in the data, from which the first step comes.
    """

    def __init__(self, network: nn.Module, optimizer: _Stateful, place: int = 0) -> None:
        self._network = network
        self._optimizer = optimizer
        self._slots: dict[str, dict[str, Any]] = {}
        self.save(START, place)

    def save(self, slot: str, place: int = 0) -> None:
        """Copies the present state into a slot."""
        state = {"network": self._network.state_dict(), "optimizer": self._optimizer.state_dict(), "place": place}
        self._slots[slot] = _copy(state)

    def restore(self, slot: str) -> int:
        """Takes a slot's state back; the slot stays.

        Returns:
            The place in the data then.
        """
        # An optimizer goes on in the very tensors that it is given, so it gets a copy.
        state = _copy(self._slots[slot])
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        return int(state["place"])

    def obey(self, decision: Decision, place: int = 0) -> int:
        """Restores and saves as a decision asks.

        Args:
            decision: of the controller.
            place: of the next step's batch in the data.

        Returns:
            The place from which the data go on.
        """
        if decision.restore is not None:
            then = self.restore(decision.restore)
            place = then if decision.replay else place
        if decision.save is not None:
            self.save(decision.save, place)
        return place

    def keep(self, slots: Set[str]) -> None:
        """Drops all other slots."""
        for slot in self._slots.keys() - slots:
            del self._slots[slot]

    def state_dict(self) -> dict[str, Any]:
        """All slots, by name."""
        return dict(self._slots)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._slots = {slot: _copy(saved) for slot, saved in state.items()}


def _copy(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_copy(value) for value in tree)
    return tree
