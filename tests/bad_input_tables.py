"""Broken localizations, calibrations and models."""
# ruff: noqa: E501 - one row of the table a line

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from adaloc.config import OpticsConfig, PixelSize
from adaloc.data.generate import read_description
from adaloc.data.sample_folder import read_emitters
from adaloc.data.scaling import Scaling
from adaloc.localize.read import read_localizations
from adaloc.models.model_file import load_model, make_model
from adaloc.simulation.aberration_map import convert_aberration_map
from adaloc.simulation.camera_maps import from_storm_analysis, read_camera_maps
from adaloc.simulation.field_map import read_field_map
from adaloc.simulation.phase_mask import read_phase_mask
from adaloc.simulation.psf_file import PSFFile, read_psf_file, write_psf_file
from adaloc.simulation.smap_calibration import read_smap_calibration
from bad_input import Case, refusal
from bad_input_movies import nothing, text
from small import small_config

_CSV = '"frame","x [nm]","y [nm]","z [nm]","intensity [photon]"\n'


def by(reader: Callable[[Path], object], name: str) -> Callable[[Path], str]:
    return lambda folder: refusal(lambda: reader(folder / name))


def locs(path: Path) -> object:
    return read_localizations(path, PixelSize(x=100, y=100))


def hdf5(fill: Callable[[h5py.File], object], name: str = "f.h5") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with h5py.File(folder / name, "w") as file:
            fill(file)

    return make


def picasso(**columns: Any) -> Callable[[h5py.File], object]:
    names = {"frame": "u4", "x": "f4", "y": "f4", "photons": "f4"}
    rows = np.zeros(2, list(names.items()))
    for name, value in columns.items():
        rows[name] = value
    return lambda file: file.create_dataset("locs", data=rows)


def huge(
    name: str, shape: tuple[int, ...], dtype: Any = "f4", chunks: tuple[int, ...] | None = None
) -> Callable[[h5py.File], object]:
    """A dataset whose chunks were never written: a few hundred bytes that claim anything."""
    return lambda file: file.create_dataset(
        name, shape, dtype, chunks=chunks or (1024,) * len(shape), compression="gzip", maxshape=(None,) * len(shape)
    )


def kept_elsewhere(folder: Path) -> None:
    (folder / "secret.bin").write_bytes(bytes(64))
    with h5py.File(folder / "f.h5", "w") as file:
        layout = np.dtype([("frame", "u4"), ("x", "f4"), ("y", "f4"), ("photons", "f4")])
        file.create_dataset("locs", (4,), layout, external=[(str(folder / "secret.bin"), 0, 64)])


def linked(folder: Path) -> None:
    hdf5(picasso(), "other.h5")(folder)
    hdf5(lambda file: file.__setitem__("locs", h5py.ExternalLink("other.h5", "/locs")))(folder)


def virtual(folder: Path) -> None:
    hdf5(lambda file: file.create_dataset("phase", data=np.zeros((21, 4, 4))), "other.h5")(folder)

    def fill(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((21, 4, 4), "f8")
        layout[:] = h5py.VirtualSource("other.h5", "phase", (21, 4, 4))
        file.create_virtual_dataset("z_maps/phase", layout)
        file["coords"], file["zernike/coeff_mag"] = np.zeros((1, 2)), np.zeros((1, 21))

    hdf5(fill)(folder)


def cut_hdf5(folder: Path) -> None:
    hdf5(picasso())(folder)
    os.truncate(folder / "f.h5", 900)


def field_map(phase: Any, coords: Any, magnitude: Any) -> Callable[[h5py.File], object]:
    def fill(file: h5py.File) -> None:
        file["z_maps/phase"], file["coords"], file["zernike/coeff_mag"] = phase, coords, magnitude

    return fill


def matlab(elements: bytes) -> Callable[[Path], None]:
    return text("f.mat", b" " * 124 + b"\x00\x01IM" + elements)


def matrix(num_bytes: int, name: bytes = b"SXY") -> bytes:
    head = struct.pack("<2I2I", 6, 8, 6, 0) + struct.pack("<2I2i", 5, 8, 1, num_bytes // 8)
    head += struct.pack("<2I", 1, len(name)) + name.ljust(8, b"\0") + struct.pack("<2I", 9, num_bytes)
    return struct.pack("<2I", 14, len(head) + num_bytes) + head


def endless_heap(folder: Path) -> None:
    """The free space behind the last text says that it takes no bytes: HDF5's library steps on by 0 for ever."""
    phase = np.zeros(21)
    path = folder / "psf.h5"
    write_psf_file(path, PSFFile(OpticsConfig(), "scalar", False, None, None, 0.0, phase, phase))
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL") + 16
    while data[place : place + 2] != b"\0\0":
        place += 16 + -(-int.from_bytes(data[place + 8 : place + 16], "little") // 8) * 8
    data[place + 8 : place + 16] = bytes(8)
    path.write_bytes(data)


def npy(shape: tuple[int, ...], dtype: str = "<f8", body: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def npz_bomb(folder: Path) -> None:
    """512 MiB of zeros in half a MiB."""
    with zipfile.ZipFile(folder / "f.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for number in range(3):
            with archive.open(("offset_adu.npy", "variance_adu2.npy", "gain_e_per_adu.npy")[number], "w") as member:
                member.write(npy((2**40, 8)) + bytes(2**20))


def camera(**maps: Any) -> Callable[[Path], None]:
    values = {
        "offset_adu": np.zeros((4, 4)),
        "variance_adu2": np.ones((4, 4)),
        "gain_e_per_adu": np.ones((4, 4)),
    } | maps
    return lambda folder: np.savez(folder / "f.npz", **values)


class Evil:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def evil_pickle(folder: Path) -> None:
    (folder / "m.pth").write_bytes(pickle.dumps(Evil(folder / "hacked")))


def evil_archive(folder: Path) -> None:
    torch.save({"model": Evil(folder / "hacked")}, folder / "m.pth")


def packed_archive(folder: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(2**20)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(folder / "m.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))


def model(**changes: Any) -> Callable[[Path], None]:
    """A sound model with some of its parts replaced."""

    def make(folder: Path) -> None:
        scaling = Scaling(0.0, 1.0, 0.1, (0.0,) * 5, (1.0,) * 5, (0.0,) * 5, (1.0,) * 5)
        contents = make_model(small_config(folder), scaling).to_dict()
        for key, change in changes.items():
            contents[key] = change(contents[key])
        torch.save(contents, folder / "m.pth")

    return make


def cut_model(folder: Path) -> None:
    model()(folder)
    os.truncate(folder / "m.pth", 3000)


def poisoned(weights: dict[str, Any]) -> dict[str, Any]:
    name = next(iter(weights))
    return weights | {name: torch.full_like(weights[name], torch.nan)}


def giant(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"network": config["network"] | {"base_channels": 1024, "depth": 5}}


def emitters(**changes: Any) -> Callable[[Path], None]:
    values = {"frame_ix": np.zeros(2), "phot": np.ones(2), "xyz": np.zeros((2, 3))} | changes

    def fill(file: h5py.File) -> None:
        for name, value in values.items():
            file[f"records/{name}"] = value

    return hdf5(fill, "emitters.h5")


def psf_version_9(file: h5py.File) -> None:
    file.attrs.update({"format": "adaloc psf", "format_version": 9})


def decode_wrong(file: h5py.File) -> None:
    file["data/xyz"], file["data/phot"], file["data/frame_ix"] = np.zeros((3, 3)), np.zeros(2), np.zeros(3)


L, K, S, P = "Localizations", "Calibrations and maps", "Training data", "Models"
CASES = [
    Case(L, "localizations that do not exist", nothing, by(locs, "f.csv"), "does not exist"),
    Case(L, "an empty file", text("f.csv", ""), by(locs, "f.csv"), "is empty"),
    Case(L, "a file of binary noise", text("f.csv", bytes(range(256))), by(locs, "f.csv"), "neither HDF5 nor text"),
    Case(L, "a pipe instead of a file", lambda f: os.mkfifo(f / "f.csv"), by(locs, "f.csv"), "a pipe or a device"),
    Case(L, "a CSV of comments alone", text("f.csv", "# a\n\n"), by(locs, "f.csv"), "holds no table"),
    Case(L, "a CSV with unknown columns", text("f.csv", "a,b,c\n1,2,3\n"), by(locs, "f.csv"), "no known position columns"),
    Case(L, "a CSV without a needed column", text("f.csv", "frame,x [nm],y [nm]\n1,2,3\n"), by(locs, "f.csv"), "lacks the column(s) intensity [photon]"),
    Case(L, "a CSV cut off within a line", text("f.csv", _CSV + "1,2,3,4,5\n1,2,"), by(locs, "f.csv"), "line 3: '' in the column 'y' is no number"),
    Case(L, "text in a column of numbers", text("f.csv", _CSV + "1,2,three,4,5\n"), by(locs, "f.csv"), "'three' in the column 'y' is no number"),
    Case(L, "NaN positions", text("f.csv", _CSV + "1,nan,2,3,4\n"), by(locs, "f.csv"), "x in row 1 of the table is nan"),
    Case(L, "infinite photons", text("f.csv", _CSV + "1,1,2,3,inf\n"), by(locs, "f.csv"), "photons in row 1 of the table is inf"),
    Case(L, "negative frames", text("f.csv", _CSV + "-3,1,2,3,4\n"), by(locs, "f.csv"), "negative or no whole number"),
    Case(L, "frames beyond all numbers", text("f.csv", _CSV + "1e300,1,2,3,4\n"), by(locs, "f.csv"), "is larger than any movie"),
    Case(L, "an HDF5 cut off in the middle", cut_hdf5, by(locs, "f.h5"), "truncated or damaged"),
    Case(L, "an HDF5 of other things", hdf5(lambda f: f.create_group("photos")), by(locs, "f.h5"), "holds photos"),
    Case(L, "an HDF5 of 1 KB that claims 16 TiB", hdf5(huge("locs", (2**40,), "f4,f4,f4,u4")), by(locs, "f.h5"), "claims 16 TiB"),
    Case(L, "an HDF5 with a chunk of 2 GiB for ten rows", hdf5(huge("locs", (10,), "f4,u4", (2**28,))), by(locs, "f.h5"), "claims 2 GiB"),
    Case(L, "an HDF5 that is a link to another file", linked, by(locs, "f.h5"), "Links are not followed"),
    Case(L, "an HDF5 whose data are another file's bytes", kept_elsewhere, by(locs, "f.h5"), "lie in other files"),
    Case(L, "an HDF5 file whose only name is no text", hdf5(lambda f: f.create_dataset(b"\xff\xfe", (3,))), by(locs, "f.h5"), "holds \ufffd\ufffd: neither"),
    Case(L, "an HDF5 table with texts of any length", hdf5(lambda f: f.create_dataset("locs", (3,), h5py.string_dtype())), by(locs, "f.h5"), "and no numbers"),
    Case(L, "a Picasso file without a pixel size", hdf5(picasso()), by(lambda p: read_localizations(p), "f.h5"), "Give it with --pixel-size-nm"),
    Case(L, "a DECODE file whose columns differ in length", hdf5(decode_wrong), by(locs, "f.h5"), "has the shape (2,), frame_ix has 3 rows"),
    Case(L, "an Insight3 file that claims 2,000,000,000 rows", text("f.bin", b"M425" + bytes(8) + struct.pack("<i", 2 * 10**9)), by(locs, "f.bin"), "is cut off"),
    Case(L, "a rapidSTORM header that defines entities", text("f.txt", '# <localizations insequence="true"><!DOCTYPE a [<!ENTITY b "c">]></localizations>\n'), by(locs, "f.txt"), "cannot be read"),
    Case(K, "a calibration that is no MATLAB file", text("f.mat", "no calibration"), by(read_smap_calibration, "f.mat"), "cannot be read as a MATLAB file"),
    Case(K, "a MATLAB element that claims 4 GiB", matlab(struct.pack("<2I", 14, 2**32 - 8)), by(read_smap_calibration, "f.mat"), "an element claims 4294967288 bytes"),
    Case(K, "a MATLAB array that claims 1 GiB", matlab(matrix(2**30)), by(read_smap_calibration, "f.mat"), "an element claims"),
    Case(K, "a MATLAB file cut off in its compressed data", matlab(struct.pack("<2I", 15, 20) + zlib.compress(matrix(800) + bytes(800))[:20]), by(read_smap_calibration, "f.mat"), "cannot be read as a MATLAB file"),
    Case(K, "an aberration map of another shape", lambda f: np.save(f / "f.npy", np.zeros((3, 3, 3))), by(convert_aberration_map, "f.npy"), "has the shape (3, 3, 3)"),
    Case(K, "a field map that claims 168 TiB", hdf5(lambda f: (huge("z_maps/phase", (21, 2**20, 2**20), "f8", (1, 512, 512))(f), huge("coords", (2, 2), "f8", (2, 2))(f), huge("zernike/coeff_mag", (2, 21), "f8", (2, 21))(f))), by(read_field_map, "f.h5"), "claims 168 TiB"),
    Case(K, "a field map of another shape", hdf5(field_map(np.zeros((20, 4, 4)), np.zeros((1, 2)), np.zeros((1, 21)))), by(read_field_map, "f.h5"), "expected (21, H, W)"),
    Case(K, "a field map with NaN", hdf5(field_map(np.full((21, 4, 4), np.nan), np.zeros((1, 2)), np.zeros((1, 21)))), by(read_field_map, "f.h5"), "not finite"),
    Case(K, "a field map put together from other files", virtual, by(read_field_map, "f.h5"), "lie in other files"),
    Case(K, "camera maps in .npy that claim 24 TiB", text("f.npy", npy((3, 2**20, 2**20))), by(read_camera_maps, "f.npy"), "needs 24 TiB, and it has less"),
    Case(K, "camera maps in .npz that claim 64 TiB", npz_bomb, by(read_camera_maps, "f.npz"), "needs 64 TiB, and it has less"),
    Case(K, "a phase mask in .npy that claims 8 TiB", text("f.npy", npy((2**20, 2**20))), by(lambda p: read_phase_mask(p, ""), "f.npy"), "needs 8 TiB, and it has less"),
    Case(K, "a camera calibration that is a pickled list", lambda f: np.save(f / "f.npy", np.array([Evil(f / "hacked")], object), allow_pickle=True), by(lambda p: from_storm_analysis(p, 0.0, transpose=False), "f.npy"), "it could execute code"),
    Case(K, "camera maps with a gain of 0", camera(gain_e_per_adu=np.zeros((4, 4))), by(read_camera_maps, "f.npz"), "a gain of 0"),
    Case(K, "camera maps of different sizes", camera(offset_adu=np.zeros((5, 4))), by(read_camera_maps, "f.npz"), "all the same"),
    Case(K, "a psf.h5 of a newer version", hdf5(psf_version_9), by(read_psf_file, "f.h5"), "has format version 9"),
    Case(K, "a psf.h5 whose texts lie in a heap without an end", endless_heap, by(read_psf_file, "psf.h5"), "the texts in it are damaged"),
    Case(K, "a psf.h5 without its numbers", hdf5(lambda f: f.attrs.update({"format": "adaloc psf", "format_version": 1})), by(read_psf_file, "f.h5"), "cannot be read"),
    Case(S, "a dataset.json cut off", text("dataset.json", '{"simulation": {'), lambda f: refusal(lambda: read_description(f)), "is broken"),
    Case(S, "a dataset.json nested 100,000 levels deep", text("dataset.json", "[" * 100_000), lambda f: refusal(lambda: read_description(f)), "is broken"),
    Case(S, "positions that are infinite", emitters(xyz=np.full((2, 3), np.inf)), lambda f: refusal(lambda: read_emitters(f)), "holds NaN or infinite values"),
    Case(S, "negative photons", emitters(phot=-np.ones(2)), lambda f: refusal(lambda: read_emitters(f)), "negative frames or photons"),
    Case(S, "records of different lengths", emitters(phot=np.ones(3)), lambda f: refusal(lambda: read_emitters(f)), "expected (M,), (M,) and (M, 3)"),
    Case(S, "text where numbers belong", emitters(phot=np.array([b"a", b"b"])), lambda f: refusal(lambda: read_emitters(f)), "is not a numeric array"),
    Case(P, "a model that does not exist", nothing, by(load_model, "m.pth"), "does not exist"),
    Case(P, "a pickle that would make a file", evil_pickle, by(load_model, "m.pth"), "a bare pickle, which could execute code"),
    Case(P, "a pickle inside of a torch archive that would make a file", evil_archive, by(load_model, "m.pth"), "such a file could execute code"),
    Case(P, "a model cut off in the middle", cut_model, by(load_model, "m.pth"), "may be cut off"),
    Case(P, "a compressed archive, which could unpack to anything", packed_archive, by(load_model, "m.pth"), "claims more than the file holds"),
    Case(P, "a text named .pth", text("m.pth", "no model"), by(load_model, "m.pth"), "no model file, or is broken"),
    Case(P, "weights of another program", lambda f: torch.save({"state_dict": {}}, f / "m.pth"), by(load_model, "m.pth"), "is not a model of adaloc"),
    Case(P, "a model of a newer version", model(format_version=lambda _: 99), by(load_model, "m.pth"), "has model format 99"),
    Case(P, "a small model whose config asks for a network of 70 GB", model(config=giant), by(load_model, "m.pth"), "does not have the shape"),
    Case(P, "a model with NaN weights", model(weights=poisoned), by(load_model, "m.pth"), "not finite"),
    Case(P, "a model whose scaling has an impossible prior", model(scaling=lambda s: s | {"prior": 0.0}), by(load_model, "m.pth"), "out of range"),
]  # fmt: skip
