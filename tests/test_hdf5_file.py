"""What the guards of HDF5 must let through, and what they must not: texts, and names that go in a circle."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from adaloc.errors import DataError
from adaloc.hdf5_file import attribute, open_hdf5, read_text

VERSIONS = [None, "latest", ("v110", "v110")]
"""Of the format: names and attributes are stored in different ways."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num", [3, 20])  # many are stored outside of the header
def test_sound_texts_are_read_in_all_versions_of_the_format(tmp_path: Path, version: object, num: int) -> None:
    path = tmp_path / "f.h5"
    texts = {f"name {i}": "é" * i for i in range(num)}
    with h5py.File(path, "w", libver=version) as file:
        for name, text in texts.items():
            file.attrs[name] = text
        group = file.create_group("group")
        group.create_dataset("numbers", data=np.zeros(3)).attrs["unit"] = "nm"
        group.attrs.create("one of a list", ["q"], dtype=h5py.string_dtype())
        file["text"] = "some words"
    with open_hdf5(path) as file:
        assert {name: attribute(file, name) for name in texts} == texts
        assert attribute(file["group/numbers"], "unit") == "nm"
        assert list(attribute(file["group"], "one of a list")) == ["q"]
        assert attribute(file, "missing") is None
        assert read_text(file["text"]) == b"some words"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_text_that_claims_more_than_its_file_is_refused(tmp_path: Path, version: object) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w", libver=version) as file:
        file.attrs["about"] = "twelve bytes"
    whole = path.read_bytes()
    places = [i for i in range(len(whole) - 16) if whole[i : i + 4] == struct.pack("<I", 12)]
    refused = 0
    for place in places:
        path.write_bytes(whole[:place] + struct.pack("<I", 2**32 - 5) + whole[place + 4 :])
        try:
            with open_hdf5(path) as file:
                assert attribute(file, "about") == "twelve bytes"
        except DataError as error:
            refused += "the text of the attribute about is damaged" in str(error)
        except (OSError, KeyError, RuntimeError):
            pass  # another 12, which the library itself checks
    assert refused == (version is None)  # newer headers have a checksum, by which the library refuses them


def test_lists_and_references_are_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("lists", shape=(), dtype=h5py.vlen_dtype(np.int32))
        file.attrs["root"] = file.ref
    with open_hdf5(path) as file:
        with pytest.raises(DataError, match="the dataset /lists holds lists or references"):
            read_text(file["lists"])
        with pytest.raises(DataError, match="the attribute root holds lists or references"):
            attribute(file, "root")


def test_names_in_a_circle_are_refused_and_deleted_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        for i in range(9):
            file[f"a name {i}"] = np.arange(3)
        for i in range(0, 9, 2):
            del file[f"a name {i}"]
    with open_hdf5(path) as file:
        assert sorted(file) == [f"a name {i}" for i in range(1, 9, 2)]
    content = bytearray(path.read_bytes())
    heap = content.find(b"HEAP\0\0\0\0")
    first, segment = struct.unpack_from("<QQ", content, heap + 16)
    following = struct.unpack_from("<Q", content, segment + first)[0]
    assert following != 1  # several pieces are free
    struct.pack_into("<Q", content, segment + following, first)
    path.write_bytes(content)
    with pytest.raises(DataError, match="goes round in a circle"), open_hdf5(path):
        pass
