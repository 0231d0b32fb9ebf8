"""Which of several processes this one is, as torchrun's environment variables say."""

from __future__ import annotations

import os
from dataclasses import dataclass

from adaloc.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """A process among those that were started together.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number on this machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def place_of_this_process() -> Place:
    """RANK, WORLD_SIZE and LOCAL_RANK; one alone where WORLD_SIZE is missing or 1.

    Raises:
        ConfigError: when the environment is incomplete.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Place()
    place = Place(_from_environment("RANK"), _from_environment("WORLD_SIZE"), _from_environment("LOCAL_RANK"))
    if place.rank >= place.size:
        raise ConfigError(f"RANK is {place.rank}, but WORLD_SIZE is {place.size}. Start the processes with torchrun.")
    return place


def _from_environment(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise ConfigError(
            f"WORLD_SIZE says that this is one of {os.environ['WORLD_SIZE']} processes, but {name} is "
            f"{value or 'missing'}. Start them with torchrun, or unset WORLD_SIZE."
        )
    return int(value)
