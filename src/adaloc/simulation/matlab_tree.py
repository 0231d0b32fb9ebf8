"""MATLAB files as one tree of structures, cells and arrays, whichever of MATLAB's two formats they are in.

Version 7.3 is HDF5 with references and reversed axes. Versions 5 to 7.2 are read here and not by scipy, whose reader
ends the whole process on some damaged files (a segmentation fault) and allocates what a file claims to hold. Nothing
is unpacked before it is asked for, and no array is made before its bytes are there. The format is that of "MAT-File
Format", The MathWorks.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from adaloc.bounds import most_bytes
from adaloc.errors import DataError
from adaloc.hdf5_file import attribute, member, open_hdf5, read_numbers, require_readable

MOST_NUMBERS = 130_000_000
"""Numbers in one array: 2 million cells of a spline, 15 times a usual calibration; half a GiB in single precision."""
_MOST_BYTES = 2**31  # of a file of version 5, and of what is unpacked from it
_MOST_ELEMENTS = 10_000  # tiles, channels or fields
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_CELL, _STRUCT, _OBJECT, _DOUBLE, _LAST_INTEGER = 1, 2, 3, 6, 15  # classes of arrays
_NUMBER_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_COMPLEX = 0x800
_PEEK_BYTES = 4096  # hold the name of a compressed variable


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
def open_matlab(path: Path, variables: Sequence[str] | None) -> Iterator[dict[str, Node]]:
    """Opens a file and yields those of the variables that it holds; with None, of a version 5 file, all.

    Raises:
        DataError: when it is no MATLAB file, is cut off, or claims more than can be.
    """
    try:
        if h5py.is_hdf5(path):
            with open_hdf5(path) as file:
                found = {name: member(file, name) for name in variables or file}
                yield {name: _HDF5Node(file, value) for name, value in found.items() if value is not None}
        else:
            yield {name: _Version5Node(*content) for name, content in _variables(path, variables).items()}
    except (DataError, MemoryError):
        raise
    except Exception as error:
        # Broken files make zlib, struct and h5py raise many kinds of errors; each means the same here.
        raise DataError(
            f"{path} cannot be read as a MATLAB file: {str(error)[:200]}. It may be cut off; copy or save it again."
        ) from None


def is_real_array(node: Node) -> bool:
    """Whether `node.array()` gives numbers."""
    return isinstance(node, _Version5Node) and node.is_real_array()


class _Version5Node:
    """A value of a version 5 file: the content of its element, or one structure's fields out of an array."""

    def __init__(self, body: memoryview, order: str, fields: dict[str, memoryview] | None = None) -> None:
        self._body = body
        self._order = order
        self._fields = fields

    def field(self, name: str) -> Node | None:
        fields = self._fields
        if fields is None:
            structures = self._structures()
            fields = structures[0] if len(structures) == 1 else {}
        body = fields.get(name)
        if body is None or len(body) == 0 or math.prod(_header(body, self._order).sizes) == 0:
            return None
        return _Version5Node(body, self._order)

    def elements(self) -> Sequence[Node]:
        if self._fields is not None:
            return [self]
        header = _header(self._body, self._order)
        if header.array_class == _CELL:
            parts = self._parts(header.position, math.prod(header.sizes))
            return [_Version5Node(part, self._order) for part in parts]
        structures = self._structures()
        return [_Version5Node(self._body, self._order, fields) for fields in structures] if structures else [self]

    def is_real_array(self) -> bool:
        """Neither a structure, a cell array, a text, nor complex."""
        header = None if self._fields is not None else _header(self._body, self._order)
        return header is not None and _DOUBLE <= header.array_class <= _LAST_INTEGER and not header.flags & _COMPLEX

    def array(self) -> npt.NDArray[Any]:
        if not self.is_real_array():
            raise ValueError("something else stands where real numbers were expected")
        header = _header(self._body, self._order)
        kind, data, _ = _element(self._body, header.position, self._order)
        if kind not in _NUMBER_TYPES:
            raise ValueError(f"numbers of the unknown type {kind}")
        numbers = np.frombuffer(data, dtype=self._order + _NUMBER_TYPES[kind])
        _refuse_too_many(header.sizes)
        return numbers.reshape(header.sizes, order="F")

    def _structures(self) -> list[dict[str, memoryview]]:
        """The fields of each structure of an array; none for anything else."""
        header, order = _header(self._body, self._order), self._order
        if header.array_class not in (_STRUCT, _OBJECT):
            return []
        position = header.position
        if header.array_class == _OBJECT:
            _, _, position = _element(self._body, position, order)  # the class's name
        _, length, position = _element(self._body, position, order)
        _, names, position = _element(self._body, position, order)
        width = max(struct.unpack_from(f"{order}i", length)[0], 1)
        keys = [bytes(names[i : i + width]).split(b"\0")[0].decode("latin-1") for i in range(0, len(names), width)]
        count = math.prod(header.sizes)
        parts = iter(self._parts(position, count * len(keys))) if keys else iter(())
        return [dict(zip(keys, parts, strict=False)) for _ in range(count)] if keys else []

    def _parts(self, position: int, count: int) -> list[memoryview]:
        """The contents of so many arrays, one after the other."""
        if count > _MOST_ELEMENTS or count < 0:
            raise ValueError(f"a structure or cell array claims {count} elements")
        parts = []
        for _ in range(count):
            kind, body, position = _element(self._body, position, self._order)
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind} stands where an array was expected")
            parts.append(body)
        return parts


class _HDF5Node:
    """A value of a version 7.3 file; `value` is a group, a dataset, or one structure's fields out of an array."""

    def __init__(self, file: h5py.File, value: Any) -> None:
        self._file = file
        self._value = value

    def field(self, name: str) -> Node | None:
        if isinstance(self._value, h5py.Dataset):
            return None
        value = member(self._value, name) if isinstance(self._value, h5py.Group) else self._value.get(name)
        if value is None:
            return None
        if isinstance(value, h5py.Dataset) and (attribute(value, "MATLAB_empty") or value.size == 0):
            return None
        return _HDF5Node(self._file, value)

    def elements(self) -> Sequence[Node]:
        if isinstance(self._value, h5py.Dataset):
            if not _holds_references(self._value):
                return [self]
            return [_HDF5Node(self._file, value) for value in self._referenced(self._value)]
        members: dict[str, Any] = (
            {n: member(self._value, n) for n in self._value} if isinstance(self._value, h5py.Group) else {}
        )
        # A field of an array of structures holds a reference for each of them, and is no cell array itself.
        columns = {n: v for n, v in members.items() if _holds_references(v) and "MATLAB_class" not in v.attrs}
        if not members or len(columns) < len(members):
            return [self]
        rows = zip(*(self._referenced(column) for column in columns.values()), strict=True)
        return [_HDF5Node(self._file, dict(zip(columns, row, strict=True))) for row in rows]

    def array(self) -> npt.NDArray[Any]:
        if not isinstance(self._value, h5py.Dataset):
            raise ValueError("a structure stands where numbers were expected")
        if self._value.dtype.kind not in "uifb":
            raise ValueError("something else stands where real numbers were expected")
        _refuse_too_many(self._value.shape)
        return read_numbers(self._value).T  # HDF5 has the axes the other way round

    def _referenced(self, dataset: h5py.Dataset) -> list[Any]:
        if dataset.size > _MOST_ELEMENTS:
            raise ValueError(f"{dataset.name} claims {dataset.size} elements")
        require_readable(dataset)
        return [self._file[reference] for reference in dataset[()].ravel()]


def _holds_references(value: Any) -> bool:
    return isinstance(value, h5py.Dataset) and h5py.check_ref_dtype(value.dtype) is h5py.Reference


def _refuse_too_many(shape: Sequence[int]) -> None:
    if math.prod(shape) > MOST_NUMBERS:
        raise ValueError(f"an array of {' x '.join(map(str, shape))} numbers is more than any calibration has")


class _Header(NamedTuple):
    array_class: int
    flags: int
    sizes: tuple[int, ...]
    name: str
    position: int  # of what follows


def _header(body: memoryview, order: str) -> _Header:
    """What every array begins with: flags, sizes and name."""
    _, flags, position = _element(body, 0, order)
    word = struct.unpack_from(f"{order}I", flags)[0]
    if not _CELL <= word & 0xFF <= _LAST_INTEGER:  # objects of newer classes have another header
        return _Header(word & 0xFF, word, (0,), "", position)
    _, sizes, position = _element(body, position, order)
    _, name, position = _element(body, position, order)
    numbers = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if not numbers or min(numbers) < 0:
        raise ValueError(f"an array claims the size {numbers}")
    return _Header(word & 0xFF, word, numbers, bytes(name).decode("latin-1"), position)


def _element(data: memoryview, position: int, order: str) -> tuple[int, memoryview, int]:
    """Type and content of the element at a position, and the position of the next one."""
    kind, num_bytes = struct.unpack_from(f"{order}2I", data, position)
    if kind >> 16:  # a small element: its size and type share four bytes, its data are the other four
        kind, num_bytes = kind & 0xFFFF, kind >> 16
        return kind, data[position + 4 : position + 4 + num_bytes], position + 8
    end = position + 8 + num_bytes
    if end > len(data):
        raise ValueError(f"an element claims {num_bytes} bytes, {len(data) - position - 8} are there")
    padding = 0 if kind == _COMPRESSED else -num_bytes % 8
    return kind, data[position + 8 : end], end + padding


def _variables(path: Path, wanted: Sequence[str] | None) -> dict[str, tuple[memoryview, str]]:
    """The contents of a version 5 file's variables, and its byte order."""
    file_bytes = path.stat().st_size
    if file_bytes > _MOST_BYTES:
        raise ValueError("it has more than 2 GiB")
    content = memoryview(path.read_bytes())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))
    if order is None:
        raise ValueError("it has no header of a version from 5 on")
    found: dict[str, tuple[memoryview, str]] = {}
    left, position = min(_MOST_BYTES, most_bytes(file_bytes)), _HEADER_BYTES
    while position + 8 <= len(content):
        kind, body, position = _element(content, position, order)
        if kind == _COMPRESSED:
            if wanted is not None and _name(zlib.decompressobj().decompress(body, _PEEK_BYTES), order) not in wanted:
                continue
            inflater = zlib.decompressobj()
            variable = inflater.decompress(body, left)
            if not inflater.eof:
                raise ValueError("it unpacks to more than a file of its size may, or its compressed data end too early")
            left -= len(variable)
            kind, body, _ = _element(memoryview(variable), 0, order)
        if kind == _MATRIX:
            name = _header(body, order).name
            if wanted is None or name in wanted:
                found[name] = (body, order)
    return found


def _name(begin: bytes, order: str) -> str:
    """Of the variable whose element begins with these bytes."""
    return _header(memoryview(begin)[8:], order).name
