"""MATLAB files as one tree of structures, cells and arrays, whichever of MATLAB's two formats they are in.

Versions 5 to 7.2 are read by scipy, version 7.3 is HDF5 with references and reversed axes. What a file claims about
its sizes is checked before anything of that size is allocated.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt
import scipy.io

from adaloc.errors import DataError

MOST_NUMBERS = 130_000_000
"""Numbers in one array: 2 million cells of a spline, 15 times a usual calibration; half a GiB in single precision."""
_MOST_BYTES = 2**31  # of a whole file, unpacked
_MOST_ELEMENTS = 10_000  # tiles, channels or fields
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15  # data types of version 5
_CELL, _STRUCT, _OBJECT = 1, 2, 3  # array classes of version 5
_CHUNK = 1 << 20


class Node(Protocol):
    """A structure, a cell array or an array."""

    def field(self, name: str) -> Node | None:
        """A structure's field; None where there is none, or it is empty."""
        ...

    def elements(self) -> Sequence[Node]:
        """What an array of structures or a cell array holds, in MATLAB's order; anything else is its own element."""
        ...

    def array(self) -> npt.NDArray[Any]:
        """Numbers, axes in MATLAB's order.

        Raises:
            ValueError: when it holds none, or more than `MOST_NUMBERS`.
        """
        ...


@contextmanager
def open_matlab(path: Path, variables: Sequence[str]) -> Iterator[dict[str, Node]]:
    """Opens a file and yields those of the variables that it holds.

    Raises:
        DataError: when it is no MATLAB file, is cut off, or claims more than can be.
    """
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                yield {name: _HDF5Node(file, file[name]) for name in variables if name in file}
        else:
            _refuse_large_claims(path)
            loaded = scipy.io.loadmat(path, variable_names=list(variables), struct_as_record=False, squeeze_me=True)
            yield {name: _LoadedNode(loaded[name]) for name in variables if name in loaded}
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # Broken files make scipy, zlib and h5py raise many kinds of errors; each means the same here.
        raise DataError(
            f"{path} cannot be read as a MATLAB file: {str(error)[:200]}. It may be cut off; copy or save it again."
        ) from None


class _LoadedNode:
    """A value as scipy loads it, squeezed: mat_struct, object array, or array."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def field(self, name: str) -> Node | None:
        value = getattr(self._value, name, None) if hasattr(self._value, "_fieldnames") else None
        if value is None or (isinstance(value, np.ndarray) and value.size == 0):
            return None
        return _LoadedNode(value)

    def elements(self) -> Sequence[Node]:
        if isinstance(self._value, np.ndarray) and self._value.dtype == object:
            return [_LoadedNode(value) for value in self._value.ravel(order="F")]
        return [self]

    def array(self) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.asarray(self._value)
        _refuse_other_than_numbers(array)
        return array


class _HDF5Node:
    """A value of a version 7.3 file; `value` is a group, a dataset, or one structure's fields out of an array."""

    def __init__(self, file: h5py.File, value: Any) -> None:
        self._file = file
        self._value = value

    def field(self, name: str) -> Node | None:
        if isinstance(self._value, h5py.Dataset) or name not in self._value:
            return None
        value = self._value[name]
        if isinstance(value, h5py.Dataset) and (value.attrs.get("MATLAB_empty", 0) or value.size == 0):
            return None
        return _HDF5Node(self._file, value)

    def elements(self) -> Sequence[Node]:
        if isinstance(self._value, h5py.Dataset):
            if not _holds_references(self._value):
                return [self]
            return [_HDF5Node(self._file, value) for value in self._referenced(self._value)]
        members = dict(self._value) if isinstance(self._value, h5py.Group) else {}
        # A field of an array of structures holds a reference for each of them, and is no cell array itself.
        columns = {n: v for n, v in members.items() if _holds_references(v) and "MATLAB_class" not in v.attrs}
        if not members or len(columns) < len(members):
            return [self]
        rows = zip(*(self._referenced(column) for column in columns.values()), strict=True)
        return [_HDF5Node(self._file, dict(zip(columns, row, strict=True))) for row in rows]

    def array(self) -> npt.NDArray[Any]:
        if not isinstance(self._value, h5py.Dataset):
            raise ValueError("a structure stands where numbers were expected")
        _refuse_other_than_numbers(self._value)
        return np.asarray(self._value[()]).T  # HDF5 has the axes the other way round

    def _referenced(self, dataset: h5py.Dataset) -> list[Any]:
        if dataset.size > _MOST_ELEMENTS:
            raise ValueError(f"{dataset.name} claims {dataset.size} elements")
        return [self._file[reference] for reference in dataset[()].ravel()]


def _holds_references(value: Any) -> bool:
    return isinstance(value, h5py.Dataset) and h5py.check_ref_dtype(value.dtype) is h5py.Reference


def _refuse_other_than_numbers(array: Any) -> None:
    if array.dtype.kind not in "uifb":
        raise ValueError(f"{array.dtype} stands where numbers were expected")
    if math.prod(array.shape) > MOST_NUMBERS:
        raise ValueError(f"an array of {' x '.join(map(str, array.shape))} numbers is more than any calibration has")


def _refuse_large_claims(path: Path) -> None:
    """Walks through a version 5 file: what it unpacks to, and how many elements its cells and structures claim."""
    content = path.read_bytes() if path.stat().st_size <= _MOST_BYTES else b""
    if len(content) < _HEADER_BYTES:
        raise ValueError("it has no header, or more than 2 GiB")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        raise ValueError("it is of no version from 5 on")
    left, position, view = _MOST_BYTES, _HEADER_BYTES, memoryview(content)
    while position + 8 <= len(content):
        kind, num_bytes = struct.unpack_from(f"{order}2I", view, position)
        body = view[position + 8 : position + 8 + num_bytes]
        if kind == _COMPRESSED:
            variable = _unpacked(body, left)
            left -= len(variable)
            _check_elements(memoryview(variable), order)
        elif kind == _MATRIX:
            _check_elements(view[position : position + 8 + num_bytes], order)
        position += 8 + num_bytes


def _unpacked(packed: memoryview, most: int) -> bytes:
    """Inflates a stream, and stops where it becomes larger than `most`."""
    inflater, parts, total = zlib.decompressobj(), [], 0
    pending: bytes | memoryview = packed
    while not inflater.eof:
        part = inflater.decompress(pending, _CHUNK)
        pending = inflater.unconsumed_tail
        if not part and not pending:
            raise ValueError("its compressed data end too early")
        parts.append(part)
        total += len(part)
        if total > most:
            raise ValueError("it unpacks to more than 2 GiB")
    return b"".join(parts)


def _check_elements(matrix: memoryview, order: str) -> None:
    """Every cell and field of a structure takes at least the 8 bytes of its tag: more than that cannot be there."""
    stack = [(matrix, 0)]
    while stack:
        outer, at = stack.pop()
        kind, body, _ = _element(outer, at, order)
        if kind != _MATRIX or len(body) == 0:
            continue
        _, flags, position = _element(body, 0, order)
        _, sizes, position = _element(body, position, order)
        _, _, position = _element(body, position, order)  # the name
        array_class = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
        if array_class not in (_CELL, _STRUCT, _OBJECT):
            continue
        count = math.prod(struct.unpack(f"{order}{len(sizes) // 4}i", sizes))
        if array_class == _OBJECT:
            _, _, position = _element(body, position, order)  # the class name
        if array_class != _CELL:
            _, length, position = _element(body, position, order)
            _, names, position = _element(body, position, order)
            count *= max(len(names) // max(struct.unpack_from(f"{order}i", length)[0], 1), 1)
        if count > max(len(body) // 8, _MOST_ELEMENTS):
            raise ValueError(f"a structure or cell array claims {count} elements in {len(body)} bytes")
        while position + 8 <= len(body):
            stack.append((body, position))
            _, _, position = _element(body, position, order)


def _element(data: memoryview, position: int, order: str) -> tuple[int, memoryview, int]:
    """Type and content of the element at a position, and the position of the next one."""
    kind, num_bytes = struct.unpack_from(f"{order}2I", data, position)
    if kind >> 16:  # a small element: its size and type share four bytes, its data are the other four
        kind, num_bytes = kind & 0xFFFF, kind >> 16
        return kind, data[position + 4 : position + 4 + num_bytes], position + 8
    padded = num_bytes if kind == _COMPRESSED else -(-num_bytes // 8) * 8
    return kind, data[position + 8 : position + 8 + num_bytes], position + 8 + padded
