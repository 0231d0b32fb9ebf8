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


def one_line(cause: str, words: Words, numbers: str, language: Language) -> str:
    """A finding as one line: its id, what is wrong, the numbers behind it, and what to do."""
    if language == "zh":
        return f"{cause}：{words.what[1]}（{numbers}）。{words.remedy[1]}"
    return f"{cause}: {words.what[0]} ({numbers}). {words.remedy[0]}"
