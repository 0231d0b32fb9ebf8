"""Reading HDF5 of others: what it may allocate is bounded, and it stays within its own file.

HDF5 can name other files from inside: external links, raw data kept elsewhere, virtual datasets. A file that was
passed around could so bring in any file of the machine, and no format that is read here needs it: they are refused.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from adaloc.bounds import array_bytes, require_plausible
from adaloc.errors import DataError

_MOST_ATTRIBUTE_BYTES = 16 * 2**20


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
    return holder.attrs[name]


def read_text(source: h5py.Dataset) -> bytes | None:
    """The text of a dataset that holds one; None where it holds something else. Raises as `read_numbers`."""
    require_readable(source)
    if source.shape is None or array_bytes(source.shape, 1) != 1:
        return None
    value = source[()]
    value = value.item() if isinstance(value, np.ndarray) else value
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    if dtype.names is None:
        return dtype.kind in "biuf" and dtype.subdtype is None
    # Tables may hold short texts beside their numbers; what has variable length is no column of a table of numbers.
    return all(_is_numeric(dtype[name]) or dtype[name].kind == "S" for name in dtype.names)
