"""Sentences of the monitor in two languages: the English template is the key, chinese.py has the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adaloc.monitor.chinese import CHINESE
from adaloc.words import Language


@dataclass(frozen=True)
class Say:
    """Says a template in a language.

    >>> speaker("zh")("{n} epochs", n=3)
    '3 轮'
    """

    language: Language

    def __call__(self, english: str, **values: Any) -> str:
        """The template with its values.

        Args:
            english: a template of str.format; with values it must stand in CHINESE, which a test guards.
            values: what stands in its braces.
        """
        return (english if self.language == "en" else CHINESE[english]).format(**values)


def speaker(language: Language) -> Say:
    """What says templates in this language."""
    return Say(language)
