"""What a file may make the program allocate: the one rule for all readers, asked before anything is made.

A file is a claim: a few bytes of header can name terabytes, and compressed data can unpack to them. Two bounds hold
for every array that is made because a file says so:

- it must not take more than half of the memory that the process can have, and
- above 256 MiB, it must not take more than 1100 times the file's own bytes. Deflate, the strongest compression in
  common scientific files, packs at most 1032 bytes into one (RFC 1951), so nothing that was ever written is refused.

Smaller arrays are made whatever the file's size: constant maps and empty frames pack well, and they hurt nobody.
"""

from __future__ import annotations

import functools
import lzma
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from adaloc.errors import DataError

FREE_BYTES = 256 * 2**20
"""Arrays up to this size are made whatever the size of the file."""
MOST_FACTOR = 1100
"""Bytes in memory for each byte of a file."""
_SHARE_OF_MEMORY = 0.5
_UNKNOWN_MEMORY = 8 * 2**30  # of a small laptop, where the system does not say
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@functools.cache
def memory_bytes() -> int:
    """The memory that the process can have: the machine's, or the container's where that is less."""
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        limits = [_UNKNOWN_MEMORY]
    for name in _CGROUP_LIMITS:
        try:
            limits.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no Linux, no such group, or "max"
            continue
    return min(limit for limit in limits if limit > 0)


def most_bytes(file_bytes: int) -> int:
    """The largest array that a file of so many bytes may ask for."""
    return min(int(_SHARE_OF_MEMORY * memory_bytes()), max(FREE_BYTES, MOST_FACTOR * file_bytes))


def require_plausible(num_bytes: int, file_bytes: int, source: Path | str, what: str) -> None:
    """Refuses an array that its file cannot hold, or that the memory cannot.

    Args:
        num_bytes: of the array in memory.
        file_bytes: of the file that asks for it.
        source: the file, for the message.
        what: the array, for the message.

    Raises:
        DataError: saying how much it claims and what is there.
    """
    if num_bytes <= most_bytes(file_bytes):
        return
    if num_bytes > max(FREE_BYTES, MOST_FACTOR * file_bytes):
        raise DataError(
            f"{source}: {what} claims {in_words(num_bytes)}, and the whole file has {in_words(file_bytes)}. It is "
            "damaged, or made to exhaust the memory, and is not read."
        )
    raise DataError(
        f"{source}: {what} needs {in_words(num_bytes)}; files may fill half of the {in_words(memory_bytes())} of "
        "memory here. Cut it into parts, or use a machine with more memory."
    )


def array_bytes(shape: Sequence[int], itemsize: int) -> int:
    """Bytes of an array, in integers that do not overflow.

    >>> array_bytes((2**40, 2**40), 8) == 2**83
    True
    """
    return math.prod(int(side) for side in shape) * itemsize


def require_file(path: Path, what: str) -> None:
    """Refuses what can be opened but has no end: pipes, devices, sockets.

    Raises:
        DataError: when the path exists and is no regular file.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise DataError(f"{path} is {kind}, not {what}. Give a file.")


def read_text(path: Path, most: int, what: str, *, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a small file, of which no more than `most` bytes are read.

    Raises:
        DataError: when there is more, which no `what` has.
        OSError: when it cannot be read.
        UnicodeDecodeError: when it is no text.
    """
    with path.open("rb") as handle:
        content = handle.read(most + 1)
    if len(content) > most:
        raise DataError(f"{path} has more than {in_words(most)}: it is no {what}.")
    return content.decode(encoding, errors)


def load_npy(path: Path) -> npt.NDArray[Any]:
    """The array of an .npy file; nothing in it is executed.

    Raises:
        DataError: when the file claims more than it holds.
        ValueError: when it is no such file, or holds Python objects.
        OSError: when it cannot be read.
    """
    with path.open("rb") as handle:
        return _read_npy(handle, path.stat().st_size, path)


def load_npz(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Those of the named arrays that an .npz file holds.

    Raises:
        DataError: when the file claims more than it can hold.
        ValueError: when a member is no array of numbers.
        OSError, zipfile.BadZipFile: when it cannot be read.
    """
    file_bytes = path.stat().st_size
    arrays: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        present = set(archive.namelist())
        for name in names:
            if (member := f"{name}.npy") in present:
                # The module unpacks at most the size that the directory names, so this bounds what follows.
                size = archive.getinfo(member).file_size
                require_plausible(size, file_bytes, path, name)
                try:
                    with archive.open(member) as handle:
                        arrays[name] = _read_npy(handle, size, path)
                except (zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
                    # What it was packed with is damaged, unknown, or asks for a password.
                    raise ValueError(f"{name} cannot be unpacked ({error})") from None
    return arrays


def in_words(num_bytes: int) -> str:
    """1536 to 1.5 KiB.

    >>> in_words(1536), in_words(3 * 2**40), in_words(2**83)
    ('1.5 KiB', '3 TiB', '8 YiB')
    """
    for power, unit in reversed(list(enumerate(("byte", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")))):
        if num_bytes >= 1024**power and power:
            return f"{num_bytes / 1024**power:.3g} {unit}"
    return f"{num_bytes} byte{'' if num_bytes == 1 else 's'}"


def _read_npy(handle: BinaryIO | Any, present: int, path: Path) -> npt.NDArray[Any]:
    version = np.lib.format.read_magic(handle)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it has .npy version {version[0]}.{version[1]}; 1.0 and 2.0 are read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read(handle)
    except (SyntaxError, TypeError, RecursionError, tokenize.TokenError) as error:  # NumPy parses Python's literals
        raise ValueError(f"its header is damaged ({error})") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which could execute code")
    if dtype.kind not in "biuf" or any(side < 0 for side in shape):
        raise ValueError(f"it holds {dtype} of shape {shape}, and no real numbers")
    needed = array_bytes(shape, dtype.itemsize)
    if needed > present:  # .npy is not compressed
        raise DataError(f"{path} is cut off: its array of shape {shape} needs {in_words(needed)}, and it has less.")
    content = handle.read(needed)
    if len(content) != needed:
        raise ValueError(f"it ends after {len(content)} of {needed} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
