"""Calibration files in all their layouts, broken ones, and hostile ones."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from adaloc.errors import DataError
from adaloc.simulation import matlab_tree
from adaloc.simulation.smap_calibration import read_smap_calibration, write_smap_calibration
from adaloc.simulation.spline import Spline, SplinePSF, interpolating_spline, reversed_z
from adaloc.simulation.spline_files import read_spline

Array = np.ndarray[Any, Any]


def some_spline(seed: int = 0, shape: tuple[int, int, int] = (6, 11, 11)) -> Spline:
    volume = np.random.default_rng(seed).uniform(0, 0.01, shape)
    return interpolating_spline(volume, 25.0, 2.0, pixel_size_nm=(100.0, 100.0))


def as_matlab(spline: Spline) -> Array:
    """(rows, columns, planes, 64), filled by the format's definition, one power at a time."""
    planes, rows, columns = spline.coefficients.shape[:3]
    coeff = np.zeros((rows, columns, planes, 64), np.float32)
    for power_z in range(4):
        for power_row in range(4):
            for power_column in range(4):
                ours = spline.coefficients[..., 16 * power_z + 4 * power_row + power_column]
                coeff[..., 16 * power_z + 4 * power_column + power_row] = ours.transpose(1, 2, 0)
    return coeff


def cells(*values: Any) -> Array:
    array = np.empty((1, len(values)), dtype=object)
    for i, value in enumerate(values):
        array[0, i] = value
    return array


def cspline(spline: Spline, coeff: Any = None) -> dict[str, Any]:
    coeff = cells(as_matlab(spline)) if coeff is None else coeff
    return {"coeff": coeff, "dz": spline.dz_nm, "z0": spline.z0, "x0": spline.x0 + 1, "mirror": 0.0}


def structures(*tiles: dict[str, Any]) -> Array:
    """An array of structures, one row."""
    array = np.zeros((1, len(tiles)), dtype=[("cspline", object), ("posind", object)])
    for i, tile in enumerate(tiles):
        array[0, i] = (tile, np.array([[1.0, i + 1.0]]))
    return array


def write_v73(path: Path, variables: dict[str, Any]) -> None:
    """MATLAB 7.3 as MATLAB lays it out: structures are groups, cells and arrays of structures hold references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")

        def put(group: h5py.Group, name: str, value: Any) -> Any:
            if isinstance(value, dict):
                made = group.create_group(name)
                made.attrs["MATLAB_class"] = np.bytes_("struct")
                for key, part in value.items():
                    put(made, key, part)
                return made
            array = np.atleast_2d(np.asarray(value))
            if array.dtype.names:
                made = group.create_group(name)
                made.attrs["MATLAB_class"] = np.bytes_("struct")
                for key in array.dtype.names:
                    targets = [put(refs, f"r{len(refs)}", part).ref for part in array[key].ravel(order="F")]
                    made.create_dataset(key, data=np.array(targets, h5py.ref_dtype).reshape(array.shape[::-1]))
                return made
            if array.dtype == object:
                targets = [put(refs, f"r{len(refs)}", part).ref for part in array.ravel(order="F")]
                made = group.create_dataset(name, data=np.array(targets, h5py.ref_dtype).reshape(array.shape[::-1]))
                made.attrs["MATLAB_class"] = np.bytes_("cell")
                return made
            if array.size == 0:
                made = group.create_dataset(name, data=np.array(array.shape, np.uint64))
                made.attrs["MATLAB_empty"] = np.uint8(1)
            else:
                made = group.create_dataset(name, data=array.T)
            made.attrs["MATLAB_class"] = np.bytes_("single" if array.dtype == np.float32 else "double")
            return made

        for key, value in variables.items():
            put(file, key, value)
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H2s", 0x0200, b"IM"))


def write_v5(path: Path, variables: dict[str, Any]) -> None:
    scipy.io.savemat(path, variables)


WRITERS = {"v5": write_v5, "v7.3": write_v73}
Writer = Callable[[Path, dict[str, Any]], None]


def assert_same(found: Spline, expected: Spline) -> None:
    np.testing.assert_array_equal(found.coefficients, expected.coefficients)
    assert (found.dz_nm, found.z0, found.x0, found.y0) == (expected.dz_nm, expected.z0, expected.x0, expected.y0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "psf_3dcal.mat"


# SMAP and fit3Dcspline


def test_what_is_written_is_read(path: Path) -> None:
    spline = some_spline()
    write_smap_calibration(path, spline)
    assert_same(read_spline(path), spline)
    assert read_spline(path).pixel_size_nm == spline.pixel_size_nm
    assert not list(path.parent.glob(".*"))


def test_a_written_file_is_what_other_readers_expect(path: Path) -> None:
    """Fields, axes and powers as SMAP and DECODE use them: one power after the other, rows first."""
    spline = some_spline()
    write_smap_calibration(path, spline)
    found = scipy.io.loadmat(path, struct_as_record=False, squeeze_me=True)["SXY"].cspline
    np.testing.assert_array_equal(found.coeff, as_matlab(spline))
    assert found.coeff.dtype == np.float32
    assert (found.dz, found.z0, found.x0) == (25.0, 2.0, 6.0)
    raw = scipy.io.loadmat(path)["SXY"][0, 0]["cspline"][0, 0]["coeff"]
    assert raw.dtype == object and raw.shape == (1, 1)  # a cell array, one channel


def test_two_centres_cannot_be_written(path: Path) -> None:
    spline = interpolating_spline(np.ones((5, 9, 11)), 10.0, 0.0)
    with pytest.raises(ValueError, match="one centre"):
        write_smap_calibration(path, spline)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
class TestLayouts:
    def test_with_and_without_the_level_of_tiles(self, write: Writer, path: Path) -> None:
        spline = some_spline()
        for variables in ({"SXY": {"cspline": cspline(spline)}}, {"cspline": cspline(spline)}):
            write(path, variables)
            assert_same(read_spline(path), spline)

    def test_coefficients_in_a_cell_or_plain(self, write: Writer, path: Path) -> None:
        spline = some_spline()
        for coeff in (cells(as_matlab(spline)), as_matlab(spline), as_matlab(spline).astype(np.float64)):
            write(path, {"SXY": {"cspline": cspline(spline, coeff)}})
            assert_same(read_spline(path), spline)

    def test_one_of_several_channels(self, write: Writer, path: Path) -> None:
        first, second = some_spline(0), some_spline(1)
        write(path, {"SXY": {"cspline": cspline(first, cells(as_matlab(first), as_matlab(second)))}})
        assert_same(read_spline(path), first)
        assert_same(read_spline(path, channel=1), second)
        with pytest.raises(DataError, match="2 channels"):
            read_spline(path, channel=2)

    def test_tiles_are_named_unless_there_is_a_global_one(self, write: Writer, path: Path) -> None:
        first, second, whole = (some_spline(seed) for seed in range(3))
        failed = {"coeff": np.empty((0, 0)), "dz": 1.0, "z0": 1.0, "x0": 1.0}
        tiles = structures(cspline(first), failed, cspline(second))
        write(path, {"SXY": tiles})
        assert_same(read_spline(path, tile=0), first)
        assert_same(read_spline(path, tile=2), second)
        with pytest.raises(
            DataError, match=r"2 spatial tiles \(0, 2\) and no global one; name one in simulation.psf.tile"
        ):
            read_spline(path)
        for tile in (1, 3):
            with pytest.raises(DataError, match=f"no spline in tile {tile} of 3; there is one in: 0, 2"):
                read_spline(path, tile=tile)
        write(path, {"SXY": tiles, "SXY_g": {"cspline": cspline(whole)}})
        assert_same(read_spline(path), whole)
        assert_same(read_spline(path, tile=0), first)

    def test_without_x0_the_middle_is_the_centre(self, write: Writer, path: Path) -> None:
        spline = some_spline()
        old = {key: value for key, value in cspline(spline).items() if key != "x0"}
        write(path, {"SXY": {"cspline": old}})
        assert_same(read_spline(path), spline)

    def test_pixel_sizes_come_from_the_parameters(self, write: Writer, path: Path) -> None:
        for um, expected in (([[0.1, 0.11]], (100.0, 110.0)), (0.12, (120.0, 120.0)), ([[0.0, 0.0]], None)):
            write(path, {"SXY": {"cspline": cspline(some_spline())}, "parameters": {"cam_pixelsize_um": np.array(um)}})
            found = read_spline(path).pixel_size_nm
            assert found == (None if expected is None else pytest.approx(expected))

    def test_what_is_not_a_calibration_is_said(self, write: Writer, path: Path) -> None:
        spline = some_spline()
        good = cspline(spline)
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"other": 1.0}, "neither SXY nor cspline"),
            ({"SXY": {"gausscal": 1.0}}, "no tile with a spline"),
            ({"cspline": {"dz": 1.0}}, "lacks coeff"),
            ({"cspline": {"coeff": good["coeff"], "z0": 1.0}}, "lacks dz"),
            ({"cspline": good | {"coeff": np.ones((3, 4, 64))}}, "expected"),
            ({"cspline": good | {"coeff": np.full((5, 5, 5, 64), np.nan)}}, "not all finite"),
            ({"cspline": good | {"dz": np.ones((1, 3))}}, "one number"),
            ({"cspline": good | {"dz": -5.0}}, "above 0"),
            ({"cspline": good | {"coeff": {"a": 1.0}}}, "numbers|expected"),
        ]
        for variables, message in wrong:
            write(path, variables)
            with pytest.raises(DataError, match=message) as caught:
                read_spline(path)
            assert str(path) in str(caught.value)

    def test_a_cut_off_file_is_one_clear_error(self, write: Writer, path: Path) -> None:
        write(path, {"SXY": {"cspline": cspline(some_spline())}})
        whole = path.read_bytes()
        for length in (0, 60, 200, len(whole) // 2, len(whole) - 50):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError, match=r"cannot be read|holds neither"):
                read_spline(path)

    def test_damaged_bytes_never_end_in_another_kind_of_error(self, write: Writer, path: Path) -> None:
        write(path, {"SXY": {"cspline": cspline(some_spline(shape=(4, 6, 6)))}})
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(150):
            damaged = bytearray(whole)
            for position in rng.integers(0, min(len(whole), 3000), 3):
                damaged[position] = rng.integers(256)
            path.write_bytes(bytes(damaged))
            try:
                read_spline(path)
            except DataError as error:
                assert str(path) in str(error)


# What a file claims


def matrix(array_class: int, sizes: tuple[int, ...], body: bytes) -> bytes:
    """A version 5 element by hand."""
    flags = struct.pack("<4I", 6, 8, array_class, 0)
    dimensions = struct.pack(f"<2I{len(sizes)}i", 5, 4 * len(sizes), *sizes)
    name = struct.pack("<2I8s", 1, 3, b"SXY")
    content = flags + dimensions + name + body
    return struct.pack("<2I", 14, len(content)) + content


def mat_file(element: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM") + element


@pytest.mark.parametrize("compressed", [False, True])
def test_a_claim_of_a_billion_cells_allocates_nothing(path: Path, compressed: bool) -> None:
    element = matrix(1, (40_000, 40_000), b"")
    if compressed:
        packed = zlib.compress(element)
        element = struct.pack("<2I", 15, len(packed)) + packed
    path.write_bytes(mat_file(element))
    tracemalloc.start()
    with pytest.raises(DataError, match="claims 1600000000 elements"):
        read_spline(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_stream_that_unpacks_without_end_is_stopped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab_tree, "_MOST_BYTES", 4_000_000)
    packed = zlib.compress(matrix(6, (1, 6_250_000), b"\0" * 50_000_000))
    path.write_bytes(mat_file(struct.pack("<2I", 15, len(packed)) + packed))
    tracemalloc.start()
    with pytest.raises(DataError, match="unpacks to more"):
        read_spline(path)
    assert tracemalloc.get_traced_memory()[1] < 2e7
    tracemalloc.stop()


def test_what_matlab_writes_beside_it_is_left_alone(path: Path) -> None:
    """An object of a newer class, and a large variable that nobody asked for."""
    spline = some_spline()
    write_v5(path, {"SXY": {"cspline": cspline(spline)}})
    opaque = matrix(17, (7, 7), b"\0" * 16)
    for extra in (opaque, zlib.compress(opaque), matrix(6, (2, 2), b"\0" * 16).replace(b"SXY", b"PSF")):
        kind = 15 if extra[0] == 0x78 else None
        element = extra if kind is None else struct.pack("<2I", kind, len(extra)) + extra
        content = path.read_bytes()
        path.write_bytes(content[:128] + element + content[128:])
        assert_same(read_spline(path), spline)


def test_scipys_own_reader_agrees(path: Path) -> None:
    """Of every kind of number, structure and cell that scipy writes."""
    rng = np.random.default_rng(0)
    kinds = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
    numbers = {f"n{kind}": (rng.uniform(0, 100, (2, 3, 4))).astype(kind) for kind in kinds}
    for compress in (False, True):
        scipy.io.savemat(path, {"SXY": numbers | {"cell": cells(1.5, np.arange(3.0))}}, do_compression=compress)
        with matlab_tree.open_matlab(path, ("SXY",)) as variables:
            for name, expected in numbers.items():
                found = variables["SXY"].field(name)
                assert found is not None
                np.testing.assert_array_equal(found.array(), expected)
            cell = variables["SXY"].field("cell")
            assert cell is not None
            assert [part.array().ravel().tolist() for part in cell.elements()] == [[1.5], [0, 1, 2]]


def test_structures_that_matlab_itself_wrote(shared_data: Callable[[str], Path]) -> None:
    """Version 5: optical parameters in a structure. Version 7.3: columns in structures of structures."""
    old = shared_data("dhpsfu/Microscope1_wastest.mat")
    loaded = scipy.io.loadmat(old, struct_as_record=False)["IS"][0, 0]
    with matlab_tree.open_matlab(old, ("IS",)) as variables:
        compared = 0
        for name in loaded._fieldnames:
            expected, found = getattr(loaded, name), variables["IS"].field(name)
            if found is not None and expected.dtype.kind in "uif":
                np.testing.assert_array_equal(found.array(), expected)
                compared += 1
    assert compared >= 5
    new = shared_data("locan/smap_dstorm_data.mat")
    with matlab_tree.open_matlab(new, ("saveloc",)) as variables, h5py.File(new) as file:
        loc = variables["saveloc"].field("loc")
        column = None if loc is None else loc.field("xnm")
        assert column is not None
        np.testing.assert_array_equal(column.array(), file["saveloc/loc/xnm"][()].T)


def test_hdf5_that_claims_terabytes_is_refused(path: Path, tmp_path: Path) -> None:
    huge = (64, 5000, 5000, 5000)
    with h5py.File(path, "w") as file:
        file.create_group("cspline").create_dataset("coeff", shape=huge, dtype="f4", chunks=(64, 1, 10, 10))
        for name in ("dz", "z0"):
            file["cspline"][name] = np.ones((1, 1))
    with pytest.raises(DataError, match="more than any calibration"):
        read_spline(path)
    other = tmp_path / "insitu.h5"
    with h5py.File(other, "w") as file:
        file.attrs["params"] = json.dumps({"pixel_size": {"x": 0.1, "y": 0.1, "z": 0.05}})
        file.create_dataset("locres/coeff", shape=huge, dtype="f4", chunks=(64, 1, 10, 10))
    with pytest.raises(DataError, match="expected"):
        read_spline(other)


# uiPSF


def write_uipsf(path: Path, volume: Array, *, reverse: bool = True, channels: int | None = None) -> None:
    """As uiPSF does: (64, planes, rows, columns), z along the first axis and the highest powers of 4."""

    def coeff(volume: Array) -> Array:
        one = np.moveaxis(interpolating_spline(volume, 1.0, 0.0).coefficients, -1, 0)
        return one if channels is None else np.stack([one * (k + 1) for k in range(channels)])

    with h5py.File(path, "w") as file:
        file.attrs["params"] = json.dumps({"pixel_size": {"x": 0.127, "y": 0.116, "z": 0.05}, "option": {"a": [1, 2]}})
        file["locres/coeff"] = coeff(volume)
        if reverse:
            file["locres/coeff_reverse"] = coeff(volume[::-1])
        file["res/I_model"] = volume


@pytest.mark.parametrize("planes", [20, 21])
def test_uipsf_counts_z_from_the_middle_plane_and_both_ways(tmp_path: Path, planes: int) -> None:
    volume = np.random.default_rng(0).uniform(0, 0.005, (planes, 15, 15))
    path, without = tmp_path / "both_insitu_zernike_single.h5", tmp_path / "one.h5"
    write_uipsf(path, volume)
    write_uipsf(without, volume, reverse=False)
    forward = read_spline(path)
    assert forward.pixel_size_nm == pytest.approx((127, 116)) and forward.dz_nm == 50
    assert (forward.z0, forward.x0, forward.y0) == (planes // 2, 7, 7)
    zero = torch.zeros(1)
    image = SplinePSF(forward).images(zero, zero, zero + 100)[0] * max(volume.sum((1, 2)).max(), 1)
    np.testing.assert_allclose(image, volume[planes // 2 + 2, 1:-1, 1:-1], rtol=0.02)
    # Its own reverse, and ours: cells in reverse order, and the polynomial in each.
    by_file, by_us = read_spline(path, flip_z=True), read_spline(without, flip_z=True)
    assert by_file.z0 == by_us.z0
    np.testing.assert_allclose(by_file.coefficients, by_us.coefficients, atol=1e-6)
    np.testing.assert_allclose(by_us.coefficients, reversed_z(forward).coefficients)
    wrong = by_file.coefficients - forward.coefficients[::-1]  # cells alone do not do
    assert np.abs(wrong).max() > 1e-3


def test_uipsf_with_several_channels(tmp_path: Path) -> None:
    path = tmp_path / "multi.h5"
    write_uipsf(path, np.random.default_rng(0).uniform(0, 0.005, (8, 11, 11)), channels=2)
    np.testing.assert_array_equal(read_spline(path, channel=1).coefficients, read_spline(path).coefficients * 2)
    with pytest.raises(DataError, match="2 channels"):
        read_spline(path, channel=2)
    with pytest.raises(DataError, match="without tiles"):
        read_spline(path, tile=3)


@pytest.mark.parametrize(
    "params", ["{", "{}", '{"pixel_size": {"x": 0.1}}', '{"pixel_size": {"x": 0, "y": 1, "z": 1}}', "[" * 100_000]
)
def test_uipsf_with_broken_parameters(tmp_path: Path, params: str) -> None:
    path = tmp_path / "broken.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.create("params", params)
        file["locres/coeff"] = np.zeros((64, 3, 9, 9), np.float32)
    with pytest.raises(DataError, match="cannot be read as a uiPSF"):
        read_spline(path)


def test_reading_smap_directly_gives_the_same(path: Path) -> None:
    write_smap_calibration(path, some_spline())
    assert_same(read_smap_calibration(path), read_spline(path))
