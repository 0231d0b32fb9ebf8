"""Messages in two languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]
Pair = tuple[str, str]
"""English, Chinese."""


@dataclass(frozen=True)
class Words:
    """Of one cause.

    Attributes:
        what: what is wrong.
        remedy: what to do.
    """

    what: Pair
    remedy: Pair
