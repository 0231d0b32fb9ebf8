"""HDF5. Reading that of others: what it may allocate is bounded, and it stays within its own file.

HDF5 can name other files from inside: external links, raw data kept elsewhere, virtual datasets. A file that was
passed around could so bring in any file of the machine, and no format that is read here needs it: they are refused.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from adaloc.bounds import array_bytes, require_plausible
from adaloc.errors import DataError

_MOST_ATTRIBUTE_BYTES = 16 * 2**20
_MOST_TEXTS = 10_000_000
_HEAP_HEADER_BYTES = 16
_NAMES_SIGNATURE = b"HEAP\0\0\0\0"  # of a local heap, which holds the names of a group's members; version 0
_END_OF_FREE_SPACE = 1
_VARIABLE_LENGTH, _IS_TEXT, _TEXT_TYPE_BYTES = 9, 1, 20  # class and kind of a type, and what it takes with its letters'
_UNSIGNED = {2: "<H", 4: "<I", 8: "<Q"}


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file to read, in which the library does not look for names for ever.

    Raises:
        DataError: when the names in it go round in a circle.
        OSError, RuntimeError: when it cannot be opened.
    """
    with h5py.File(path, "r") as file:
        _require_sound_names(file)
        yield file


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to be written, which is put together in memory.

    Raises:
        OSError: when it cannot be written.
    """
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)


@contextmanager
def new_large_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that may be larger than memory.

    Raises:
        OSError: when it cannot be written. HDF5 says so by a RuntimeError where it notices as the file is closed.
    """
    try:
        with h5py.File(path, "w") as file:
            yield file
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """The dataset or group at a path below a group; None where there is none.

    Raises:
        DataError: when the path leads over a link, which may end in another file or in a circle.
        KeyError, OSError, RuntimeError: when the file is damaged.
    """
    current: Any = group
    for part in name.split("/"):
        if not isinstance(current, h5py.Group):
            return None
        link = current.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            where = f"{link.filename}, another file" if isinstance(link, h5py.ExternalLink) else link.path
            raise DataError(
                f"{group.file.filename}: {name} is a link to {where}. Links are not followed; copy the data to its "
                "place."
            )
        current = current[part]
    return current if isinstance(current, h5py.Group | h5py.Dataset) else None


def dataset(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """The dataset at a path below a group; None where there is none, or something else."""
    found = member(group, name)
    return found if isinstance(found, h5py.Dataset) else None


def require_dataset(group: h5py.Group, name: str) -> npt.NDArray[Any]:
    """The numbers at a path below a group; raises as `read_numbers`, and a ValueError where there is no dataset."""
    found = dataset(group, name)
    if found is None:
        raise ValueError(f"it lacks the array {name}")
    return read_numbers(found)


def read_numbers(source: h5py.Dataset, selection: Any = ()) -> npt.NDArray[Any]:
    """The numbers of a dataset, or of a selection of it; compound tables of numbers too.

    Raises:
        DataError: when it claims more than its file can hold or the memory can, or its data lie in other files.
        ValueError: when it holds something else than numbers.
        OSError: when it is damaged.
    """
    require_readable(source)
    if not _is_numeric(source.dtype):
        raise ValueError(f"{source.name} holds {source.dtype}, and no numbers")
    return np.asarray(source[selection])


def require_readable(source: h5py.Dataset) -> None:
    """Refuses a dataset that is too large, or that is not in its own file; raises as `read_numbers`."""
    path = source.file.filename
    if source.external or source.is_virtual:
        raise DataError(
            f"{path}: the data of {source.name} lie in other files. Files of data must hold their data themselves; "
            "copy them in."
        )
    itemsize = max(source.dtype.itemsize, 1)
    if itemsize > _MOST_ATTRIBUTE_BYTES:
        raise DataError(f"{path}: one element of {source.name} claims {itemsize} bytes. It is damaged.")
    file_bytes = source.file.id.get_filesize()
    claimed = array_bytes(source.shape or (), itemsize)
    # A chunk is unpacked as a whole, whatever part of it belongs to the array.
    chunk = array_bytes(source.chunks, itemsize) if source.chunks else 0
    require_plausible(max(claimed, chunk), file_bytes, path, f"the dataset {source.name}")


def attribute(holder: h5py.Group | h5py.Dataset, name: str) -> Any:
    """An attribute's value; None where there is none.

    Raises:
        DataError: when it is larger than any attribute of the formats that are read.
    """
    if name not in holder.attrs:
        return None
    value = holder.attrs.get_id(name)
    count = array_bytes(value.shape or (), 1)
    # Elements of variable length may all point to the same long text, and would be copied out once each.
    is_variable = value.dtype.hasobject and count > 1
    if is_variable or count * max(value.dtype.itemsize, 1) > _MOST_ATTRIBUTE_BYTES:
        raise DataError(f"{holder.file.filename}: the attribute {name} claims {count} values of {value.dtype}.")
    if value.dtype.hasobject:
        _require_text_type(holder.file, value.dtype, f"attribute {name}")
        _require_sound_heaps(holder.file)
        _require_plausible_attribute(holder.file, name)
    return holder.attrs[name]


def read_text(source: h5py.Dataset) -> bytes | None:
    """The text of a dataset that holds one; None where it holds something else. Raises as `read_numbers`."""
    require_readable(source)
    if source.shape is None or array_bytes(source.shape, 1) != 1:
        return None
    if source.dtype.hasobject:
        _require_text_type(source.file, source.dtype, f"dataset {source.name}")
        _require_sound_heaps(source.file)
        _require_plausible_text(source)
    value = source[()]
    value = value.item() if isinstance(value, np.ndarray) else value
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None


def _require_text_type(file: h5py.File, dtype: np.dtype[Any], what: str) -> None:
    """Refuses all objects but texts: of a damaged list of lists the library follows any address (a fuzzer found it)."""
    if h5py.check_string_dtype(dtype) is None:
        raise DataError(f"{file.filename}: the {what} holds lists or references where a text belongs. It is not read.")


def _require_plausible_text(source: h5py.Dataset) -> None:
    """Refuses a text of variable length that claims more than its file, for which the library would make room."""
    path = Path(source.file.filename)
    place = source.id.get_offset()  # of the descriptor: length, address of the heap, number in it
    if place is None:
        raise DataError(f"{path}: the text {source.name} is not stored in one piece. It is not read.")
    with path.open("rb") as handle:
        handle.seek(place)
        head = handle.read(4)
    if len(head) < 4 or struct.unpack("<I", head)[0] > path.stat().st_size:
        raise DataError(f"{path}: the text {source.name} claims more than the file holds. It is damaged.")


def _require_plausible_attribute(file: h5py.File, name: str) -> None:
    """Refuses a text attribute that claims more than its file, for which the library would make room, up to 4 GB.

    The library does not tell where an attribute lies. It is looked for by its name, behind which its type, its shape
    and the descriptor of its text follow: length, address of the heap, number in it (HDF5 file format, IV.A.2.m).

    Raises:
        DataError: also when no attribute of that name is found stored like this.
    """
    path = Path(file.filename)
    address, length = (int(size) for size in file.id.get_create_plist().get_sizes())
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        claims = list(_text_lengths(content, name.encode() + b"\0", address, length))
        if not claims or max(claims) > len(content):
            raise DataError(
                f"{path}: the text of the attribute {name} is damaged, or stored in a way that is not read."
            )


def _text_lengths(content: mmap.mmap, name: bytes, address_bytes: int, length_bytes: int) -> Iterator[int]:
    """What the text attributes of a name claim, wherever the bytes look like one. Older headers fill up to 8 bytes."""
    place = content.find(name)
    while place >= 0:
        for align in (1, 8):
            kind = place + -(-len(name) // align) * align
            head = content[kind : kind + 8]
            if len(head) < 8 or head[0] & 15 != _VARIABLE_LENGTH or head[1] & 15 != _IS_TEXT:
                continue
            if struct.unpack_from("<I", head, 4)[0] != 8 + address_bytes:
                continue
            shape = kind + -(-_TEXT_TYPE_BYTES // align) * align
            version, rank, flags = content[shape : shape + 3].ljust(3, b"\0")
            sides = rank * length_bytes * (1 + (flags & 1))
            text = shape + -(-((8 if version == 1 else 4) + sides) // align) * align
            if text + 4 <= len(content):
                yield struct.unpack_from("<I", content, text)[0]
        place = content.find(name, place + 1)


def _require_sound_names(file: h5py.File) -> None:
    """Refuses a file in which the list of the free space between a group's names leads back to itself.

    The library follows it without an end, and takes memory at each step (a fuzzer found it). Where a deleted group left
    the remains of such a list the file is refused too, though other programs may read it.
    """
    path = Path(file.filename)
    status = path.stat()
    sizes = tuple(int(size) for size in file.id.get_create_plist().get_sizes())
    _walk_free_space(path, status.st_size, status.st_mtime_ns, sizes, int(file.userblock_size))


@functools.lru_cache(maxsize=8)
def _walk_free_space(path: Path, size: int, changed_ns: int, sizes: tuple[int, int], origin: int) -> None:
    """Once for each state of a file. `sizes`: bytes of an address and of a length; `origin`: where addresses begin."""
    address, length = (struct.Struct(_UNSIGNED[number]) for number in sizes)
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        heap = content.find(_NAMES_SIGNATURE)
        while 0 <= heap <= size - len(_NAMES_SIGNATURE) - 2 * length.size - address.size:
            place = heap + len(_NAMES_SIGNATURE) + length.size
            free = length.unpack_from(content, place)[0]
            segment = origin + address.unpack_from(content, place + length.size)[0]
            seen = set()
            while free != _END_OF_FREE_SPACE and segment + free + length.size <= size:
                if free in seen:
                    raise DataError(
                        f"{path}: the list of names at byte {heap} goes round in a circle. The file is damaged; if "
                        "other programs read it, write it anew with h5repack."
                    )
                seen.add(free)
                free = length.unpack_from(content, segment + free)[0]
            heap = content.find(_NAMES_SIGNATURE, heap + 1)


def _require_sound_heaps(file: h5py.File) -> None:
    """Refuses a file in which the HDF5 library would read texts of variable length for ever.

    Such texts lie in heaps: a header and objects, one after the other. The library steps from one to the next by the
    size that it reads there, and does not notice when that is 0 (a fuzzer found it). A heap is found by its signature.

    Raises:
        DataError: when a heap reaches beyond the file, or an object of it ends where it begins or outside of the heap.
        OSError: when the file cannot be read.
    """
    path = Path(file.filename)
    status = path.stat()
    _, length_bytes = file.id.get_create_plist().get_sizes()
    _walk_heaps(path, status.st_size, status.st_mtime_ns, int(length_bytes))


@functools.lru_cache(maxsize=8)
def _walk_heaps(path: Path, size: int, changed_ns: int, length_bytes: int) -> None:
    """Once for each state of a file."""
    number = struct.Struct(_UNSIGNED[length_bytes])
    objects = 0
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        heap = content.find(b"GCOL\x01")
        while 0 <= heap <= size - _HEAP_HEADER_BYTES:
            end = heap + number.unpack_from(content, heap + 8)[0]
            if end > size:  # the library makes room for all that a heap claims
                raise DataError(f"{path}: the texts in it are damaged (a heap at byte {heap}). It is not read.")
            place = heap + _HEAP_HEADER_BYTES
            while place + _HEAP_HEADER_BYTES <= end:
                taken = number.unpack_from(content, place + 8)[0]
                if content[place : place + 2] != b"\0\0":  # number 0 is free space, whose size counts its header
                    taken = _HEAP_HEADER_BYTES + -(-taken // 8) * 8
                objects += 1
                if taken < 8 or place + taken > end or objects > _MOST_TEXTS:
                    raise DataError(f"{path}: the texts in it are damaged (a heap at byte {heap}). It is not read.")
                place += taken
            heap = content.find(b"GCOL\x01", heap + 1)


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    if dtype.names is None:
        return dtype.kind in "biuf" and dtype.subdtype is None
    # Tables may hold short texts beside their numbers; what has variable length is no column of a table of numbers.
    return all(_is_numeric(dtype[name]) or dtype[name].kind == "S" for name in dtype.names)
