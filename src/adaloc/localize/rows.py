"""Localizations that are handed on in parts, so that tables larger than memory can be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

from adaloc.emitters import EmitterTable

_ROWS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Rows:
    """Localizations by ascending frame, part by part.

    Attributes:
        num_rows: of all parts together.
        columns: names of the columns of `EmitterTable` that every part has.
        parts: gives the parts from the first on, each time it is called.
    """

    num_rows: int
    columns: frozenset[str]
    parts: Callable[[], Iterator[EmitterTable]]


def as_rows(table: EmitterTable | Rows) -> Rows:
    """A table in memory, sorted by frame, in parts of bounded size; `Rows` as they are."""
    if isinstance(table, Rows):
        return table
    ordered = table.sorted_by_frame()

    def parts() -> Iterator[EmitterTable]:
        for begin in range(0, len(ordered), _ROWS_AT_ONCE):
            yield ordered.slice(begin, begin + _ROWS_AT_ONCE)

    return Rows(len(ordered), columns_of(ordered), parts)


def columns_of(table: EmitterTable) -> frozenset[str]:
    """The columns that are there."""
    return frozenset(field.name for field in fields(table) if getattr(table, field.name) is not None)
