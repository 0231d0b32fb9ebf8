"""The one table of emitters and localizations.

Units: `frame` from 0; `x`, `y` in px with the centre of pixel (row r, column c) at y = r, x = c; `z` in nm;
`photons` in photons, `background` in photons per px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmitterTable:
    """Emitters (truth) or localizations (estimates), one row each; optional columns are None.

    Raises:
        ValueError: when columns differ in length.
    """

    frame: IntArray
    x: FloatArray
    y: FloatArray
    z: FloatArray
    photons: FloatArray
    background: FloatArray | None = None
    x_sigma: FloatArray | None = None
    y_sigma: FloatArray | None = None
    z_sigma: FloatArray | None = None
    photons_sigma: FloatArray | None = None
    probability: FloatArray | None = None
    emitter_id: IntArray | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            column = getattr(self, field.name)
            if column is None:
                continue
            dtype = np.int64 if field.name in ("frame", "emitter_id") else np.float64
            column = np.ascontiguousarray(column, dtype=dtype)
            if column.shape != (len(self.frame),):
                raise ValueError(f"column {field.name} has shape {column.shape}, frame has {len(self.frame)} rows")
            object.__setattr__(self, field.name, column)

    def __len__(self) -> int:
        return len(self.frame)

    def select(self, rows: npt.NDArray[np.bool_] | IntArray) -> EmitterTable:
        """The rows of a boolean mask or an index array, in that order."""
        columns: dict[str, Any] = {
            field.name: None if (column := getattr(self, field.name)) is None else column[rows]
            for field in fields(self)
        }
        return EmitterTable(**columns)

    def slice(self, begin: int, end: int) -> EmitterTable:
        """The rows from `begin` to before `end`."""
        columns: dict[str, Any] = {
            field.name: None if (column := getattr(self, field.name)) is None else column[begin:end]
            for field in fields(self)
        }
        return EmitterTable(**columns)

    def with_columns(self, **columns: FloatArray | IntArray | None) -> EmitterTable:
        """The same rows with some columns replaced, added or, as None, taken away."""
        return replace(self, **columns)  # type: ignore[arg-type]

    def sorted_by_frame(self) -> EmitterTable:
        """The same rows, frames ascending; rows of one frame keep their order."""
        return self.select(np.argsort(self.frame, kind="stable"))


def empty_table() -> EmitterTable:
    """A table without rows, with the mandatory columns only."""
    none = np.empty(0)
    return EmitterTable(frame=np.empty(0, np.int64), x=none, y=none, z=none, photons=none)


def concatenate(tables: Sequence[EmitterTable]) -> EmitterTable:
    """Joins tables; a column stays only where all of them have it."""
    if not tables:
        return empty_table()
    parts = {field.name: [getattr(table, field.name) for table in tables] for field in fields(EmitterTable)}
    columns: dict[str, Any] = {
        name: None if any(part is None for part in column) else np.concatenate(column) for name, column in parts.items()
    }
    return EmitterTable(**columns)
