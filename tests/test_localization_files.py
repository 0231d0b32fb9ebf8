from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, empty_table
from adaloc.errors import AdalocError, DataError
from adaloc.localize.export import precision_nm, write_picasso_hdf5, write_thunderstorm_csv
from adaloc.localize.read import read_localizations

OBLONG = PixelSize(x=101.11, y=98.83)
SQUARE = PixelSize(x=100, y=100)
SharedData = Callable[[str], Path]


def make_table(num: int = 200, *, sigmas: bool = True) -> EmitterTable:
    rng = np.random.default_rng(7)
    x, y = rng.uniform(0, 39, num), rng.uniform(0, 59, num)
    return EmitterTable(
        frame=np.sort(rng.integers(0, 30, num)),
        x=x,
        y=y,
        z=rng.uniform(-700, 700, num),
        photons=rng.uniform(500, 5000, num),
        background=rng.uniform(20, 150, num),
        x_sigma=rng.uniform(0.05, 0.3, num) if sigmas else None,
        y_sigma=rng.uniform(0.05, 0.3, num) if sigmas else None,
        z_sigma=rng.uniform(10, 60, num) if sigmas else None,
        probability=rng.uniform(0.5, 1, num),
    )


def assert_same(found: EmitterTable, expected: EmitterTable, tolerances: dict[str, float]) -> None:
    """Every column that the expected table has is there, within its tolerance."""
    for field in fields(EmitterTable):
        column = getattr(expected, field.name)
        if column is not None:
            tolerance = tolerances.get(field.name, 1e-3)
            np.testing.assert_allclose(getattr(found, field.name), column, atol=tolerance, err_msg=field.name)


def write_picasso(path: Path, table: EmitterTable, size: PixelSize = OBLONG, **options: Any) -> None:
    write_picasso_hdf5(path, table, size, **{"image_size_px": (60, 40), "num_frames": 30, **options})


# --- Writing and reading back -----------------------------------------------------------------------------------


def test_picasso_round_trip(tmp_path: Path) -> None:
    table = make_table()
    write_picasso(tmp_path / "locs.hdf5", table)
    found = read_localizations(tmp_path / "locs.hdf5")
    assert_same(found.table, table, {"x": 1e-5, "y": 1e-5, "x_sigma": 1e-6, "y_sigma": 1e-6})
    assert (found.pixel_size_nm, found.image_size_px, found.num_frames, found.is_3d) == (OBLONG, (60, 40), 30, True)


def test_picasso_file_alone_is_complete(tmp_path: Path) -> None:
    write_picasso(tmp_path / "locs.hdf5", make_table())
    (tmp_path / "locs.yaml").unlink()
    assert read_localizations(tmp_path / "locs.hdf5").pixel_size_nm == OBLONG


def test_thunderstorm_round_trip(tmp_path: Path) -> None:
    table = make_table()
    # The format has one lateral uncertainty for both axes: write one that both share.
    nm = np.linspace(5, 30, len(table))
    table = EmitterTable(
        **{f.name: getattr(table, f.name) for f in fields(EmitterTable)}
        | {"x_sigma": nm / 101.11, "y_sigma": nm / 98.83}
    )
    write_thunderstorm_csv(tmp_path / "locs.csv", table, OBLONG)
    found = read_localizations(tmp_path / "locs.csv", OBLONG)
    assert_same(found.table, table, {"x": 1e-5, "y": 1e-5, "x_sigma": 1e-5, "y_sigma": 1e-5, "probability": 1e-5})
    assert found.is_3d


def test_2d_tables_leave_z_out(tmp_path: Path) -> None:
    write_thunderstorm_csv(tmp_path / "locs.csv", make_table(), OBLONG, psf_sigma_nm=130, is_3d=False)
    write_picasso(tmp_path / "locs.hdf5", make_table(), is_3d=False)
    header = (tmp_path / "locs.csv").read_text().splitlines()[0]
    assert '"sigma [nm]"' in header
    assert "z [nm]" not in header
    for name in ("locs.csv", "locs.hdf5"):
        found = read_localizations(tmp_path / name, OBLONG)
        assert not found.is_3d
        assert found.table.z_sigma is None


@pytest.mark.parametrize("rows", ["empty", "one"])
def test_tables_without_rows_round_trip(tmp_path: Path, rows: str) -> None:
    table = make_table().select(np.arange(0 if rows == "empty" else 1))
    write_thunderstorm_csv(tmp_path / "locs.csv", table, OBLONG)
    write_picasso(tmp_path / "locs.hdf5", table)
    for name in ("locs.csv", "locs.hdf5"):
        assert len(read_localizations(tmp_path / name, OBLONG).table) == len(table)


def test_rows_are_written_in_the_order_of_frames(tmp_path: Path) -> None:
    table = make_table()
    shuffled = table.select(np.random.default_rng(0).permutation(len(table)))
    write_picasso(tmp_path / "locs.hdf5", shuffled)
    write_thunderstorm_csv(tmp_path / "locs.csv", shuffled, OBLONG)
    for name in ("locs.csv", "locs.hdf5"):
        found = read_localizations(tmp_path / name, OBLONG).table
        assert (np.diff(found.frame) >= 0).all()
        np.testing.assert_allclose(np.sort(found.photons), np.sort(table.photons), atol=1e-3)


def test_first_row_of_a_thunderstorm_file(tmp_path: Path) -> None:
    table = EmitterTable(np.array([0]), np.array([0.0]), np.array([-0.5]), np.array([12.5]), np.array([1000.0]))
    write_thunderstorm_csv(tmp_path / "locs.csv", table, PixelSize(x=110, y=90))
    header, row = (tmp_path / "locs.csv").read_text().splitlines()
    assert header == '"id","frame","x [nm]","y [nm]","z [nm]","intensity [photon]"'
    # The centre of the first pixel is half a pixel from the edge; the edge itself is 0.
    assert [float(cell) for cell in row.split(",")] == [1, 1, 55, 0, 12.5, 1000]


# --- The precision that Picasso asks for ------------------------------------------------------------------------


def test_precision_formula_of_a_bright_spot() -> None:
    # Without background only the photons count: sa sqrt(16/9 / N).
    (precision,) = precision_nm(np.array([1600.0]), np.array([0.0]), 120.0, 100.0, 1e4)
    assert precision == pytest.approx(np.sqrt((120**2 + 100**2 / 12) * 16 / 9 / 1600))


def test_precision_formula_agrees_with_picasso() -> None:
    precision = pytest.importorskip("picasso.fitting.precision", exc_type=ImportError)
    photons, background = np.array([500.0, 5000.0]), np.array([20.0, 100.0])
    sigma_px = np.full(2, 1.3)
    theirs = precision.localization_precision(photons, sigma_px, sigma_px, background, em=False)
    np.testing.assert_allclose(precision_nm(photons, background, 130.0, 100.0, 1e4), 100 * theirs, rtol=1e-6)


def test_precision_is_said_to_be_computed(tmp_path: Path) -> None:
    write_picasso(tmp_path / "a.hdf5", make_table(sigmas=False), psf_sigma_nm=130)
    write_picasso(tmp_path / "b.hdf5", make_table(), psf_sigma_nm=130)
    computed, measured = ((tmp_path / name).read_text() for name in ("a.yaml", "b.yaml"))
    assert "not measured" in computed
    assert "Mortensen" in computed
    assert "Mortensen" not in measured


@pytest.mark.parametrize("lacking", ["width", "background"])
def test_precision_is_not_invented(tmp_path: Path, lacking: str) -> None:
    table = make_table(sigmas=False)
    if lacking == "background":
        table = EmitterTable(table.frame, table.x, table.y, table.z, table.photons)
    with pytest.raises(DataError, match="precision"):
        write_picasso(tmp_path / "locs.hdf5", table, psf_sigma_nm=None if lacking == "width" else 130.0)
    assert list(tmp_path.iterdir()) == []
    write_thunderstorm_csv(tmp_path / "locs.csv", table, OBLONG)
    assert "uncertainty" not in (tmp_path / "locs.csv").read_text()


# --- Picasso as judge -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picasso_io() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        return pytest.importorskip("picasso.io", exc_type=ImportError)


@pytest.mark.parametrize("size", [SQUARE, OBLONG, PixelSize(x=90, y=150)])
def test_picasso_reads_our_file(tmp_path: Path, picasso_io: Any, size: PixelSize) -> None:
    table = make_table()
    write_picasso(tmp_path / "locs.hdf5", table, size)
    locs, info = picasso_io.load_locs(str(tmp_path / "locs.hdf5"))
    assert len(locs) == len(table)
    # What Picasso takes for nm is right, whatever the shape of the pixel; its positions are pixel centres.
    nm = info[0]["Pixelsize"]
    np.testing.assert_allclose((locs["x"] + 0.5) * nm, (table.x + 0.5) * size.x, atol=0.01)
    np.testing.assert_allclose((locs["y"] + 0.5) * nm, (table.y + 0.5) * size.y, atol=0.01)
    np.testing.assert_allclose(locs["lpx"] * nm, table.x_sigma * size.x, rtol=1e-5)
    np.testing.assert_allclose(locs["lpy"] * nm, table.y_sigma * size.y, rtol=1e-5)
    np.testing.assert_allclose(locs["z"], table.z, atol=1e-3)
    np.testing.assert_array_equal(locs["frame"], table.frame)
    assert info[0]["Height"] == int(np.ceil(60 * size.y / size.x - 1e-6))
    assert (info[0]["Width"], info[0]["Frames"]) == (40, 30)


def test_picasso_finds_the_metadata_inside(tmp_path: Path, picasso_io: Any) -> None:
    write_picasso(tmp_path / "locs.hdf5", make_table())
    (tmp_path / "locs.yaml").unlink()
    _, info = picasso_io.load_locs(str(tmp_path / "locs.hdf5"))
    assert info[0]["Pixelsize"] == OBLONG.x


@pytest.mark.parametrize("is_3d", [True, False])
@pytest.mark.parametrize("sigmas", [True, False])
def test_picasso_imports_our_thunderstorm_file(tmp_path: Path, picasso_io: Any, is_3d: bool, sigmas: bool) -> None:
    table = make_table(sigmas=sigmas)
    write_thunderstorm_csv(tmp_path / "ts.csv", table, SQUARE, psf_sigma_nm=130, is_3d=is_3d)
    locs, _ = picasso_io.import_ts(str(tmp_path / "ts.csv"), 100.0)
    assert len(locs) == len(table)
    # Picasso's import takes 0 nm for the centre of a pixel.
    np.testing.assert_allclose(np.sort(locs["x"]), np.sort(table.x) + 0.5, atol=1e-5)
    np.testing.assert_allclose(np.sort(locs["y"]), np.sort(table.y) + 0.5, atol=1e-5)
    assert ("z" in locs) == is_3d
    np.testing.assert_allclose(locs["sx"], 1.3, rtol=1e-6)


def test_we_read_what_picasso_writes(tmp_path: Path, picasso_io: Any) -> None:
    import pandas as pd

    locs = pd.DataFrame({"frame": [0, 4], "x": [1.0, 2.0], "y": [3.0, 4.5], "photons": [9.0, 8.0], "bg": [1.0, 2.0]})
    locs = locs.astype({"frame": "u4"})
    info = [{"Width": 20, "Height": 30, "Frames": 5}, {"Generated by": "Picasso", "Pixelsize": 130}]
    picasso_io.save_locs(str(tmp_path / "p_locs.hdf5"), locs, info)
    found = read_localizations(tmp_path / "p_locs.hdf5")
    assert found.table.y.tolist() == [3.0, 4.5]
    assert (found.pixel_size_nm.x, found.image_size_px, found.num_frames, found.is_3d) == (130, (30, 20), 5, False)


# --- Real files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "is_3d", "first"),
    [
        # first: frame, x nm, y nm, z nm, photons of the first row, as one reads them in the file
        ("locan/Thunderstorm_dstorm_data.csv", 19, False, (2000, 1320.1097, 26344.7125, 0, 296.5584)),
        ("deep-storm/positions_demo1.csv", 4956, False, (0, 67.843, 2484.15594, 0, 2458.46515)),
        ("pyme-smlm-import/ThunderSTORM_TS3D.csv", 11195, True, (0, 24840.78095, 20471.75758, -21.8435, 4086)),
        (
            "pyme-smlm-import/U2OS_microtubules_ThunderSTORM_single_RiesLab.csv",
            2848,
            True,
            (0, 20669, 3512.6, -104.1, 1398.4),
        ),
        ("epfl-challenge2013/tubulins1_00020.csv", 49, True, (19, 25713.33, 26788.90, 192.31, 1655.48)),
        ("epfl-challenge2016/activations.csv", 906, True, (0, 2505.051088, 2037.593071, -750, 30000)),
        ("nairr-smlm/3DAS_LD_Benchmark_xyz.csv", 3195, True, (0, 6050.4979, 3438.9979, -160.4914, 2400)),
        ("nairr-smlm/3DAS_LD_Validate_xyz.csv", 4225, True, (0, 2107.6721, 2732.2606, -193.8648, 2400)),
        ("nairr-smlm/2DGauss_LD_Validate_xy.csv", 6468, False, (0, 2776.1225, 2125.9721, 0, 3000)),
        ("smap-fit3d/cme_2um_site_uncorrected_sml.csv", 4382, True, (236, 497.5575, 279.4707, -192.0546, 3159.161)),
    ],
)
def test_real_csv(shared_data: SharedData, name: str, rows: int, is_3d: bool, first: tuple[float, ...]) -> None:
    path = shared_data(name)
    size = PixelSize(x=100, y=150)
    found = read_localizations(path, size)
    table = found.table
    assert (len(table), found.is_3d, found.image_size_px, found.num_frames) == (rows, is_3d, None, None)
    nm = (table.frame[0], (table.x[0] + 0.5) * 100, (table.y[0] + 0.5) * 150, table.z[0], table.photons[0])
    np.testing.assert_allclose(nm, first, atol=1e-3)
    with pytest.raises(DataError, match="--pixel-size-nm"):
        read_localizations(path)


def test_optional_columns_of_real_csv(shared_data: SharedData) -> None:
    table = read_localizations(shared_data("locan/Thunderstorm_dstorm_data.csv"), SQUARE).table
    assert table.x_sigma is not None
    assert table.x_sigma[0] * 100 == pytest.approx(22.93255)
    assert table.background is not None
    assert table.background[0] == pytest.approx(31.3024)
    truth = read_localizations(shared_data("nairr-smlm/3DAS_LD_Validate_xyz.csv"), SQUARE).table
    assert truth.emitter_id is not None
    assert truth.emitter_id[:3].tolist() == [16, 65, 79]
    assert truth.background is None  # its Offset is the camera's


def test_a_table_without_frames_is_refused(shared_data: SharedData) -> None:
    with pytest.raises(DataError, match="lacks the column\\(s\\) frame"):
        read_localizations(shared_data("pyme-smlm-import/CaulobacterC_2_R09_MoernerLab.csv"), SQUARE)


def test_real_picasso(shared_data: SharedData) -> None:
    found = read_localizations(shared_data("picasso/testdata_locs.hdf5"))
    table = found.table
    assert (len(table), found.image_size_px, found.pixel_size_nm, found.is_3d) == (
        564,
        (32, 32),
        PixelSize(x=130, y=130),
        False,
    )
    assert (table.frame.min(), table.frame.max(), int((table.frame < 100).sum())) == (11, 990, 30)
    np.testing.assert_allclose((table.x[0], table.y[0]), (5.618027, 5.3064218), rtol=1e-6)
    assert read_localizations(shared_data("picasso/testdata_locs.hdf5"), SQUARE).pixel_size_nm == SQUARE


def test_real_pictures_and_foreign_hdf5_are_refused(shared_data: SharedData) -> None:
    with pytest.raises(DataError, match="neither HDF5 nor text"):
        read_localizations(shared_data("deep-storm/ArtificialDataset_demo1.tif"), SQUARE)
    with pytest.raises(DataError, match="neither Picasso's"):
        read_localizations(shared_data("pyme/test_hdf.hdf"), SQUARE)


# --- Sample folders ---------------------------------------------------------------------------------------------


def test_sample_folder_and_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "sample_000"
    folder.mkdir()
    with h5py.File(folder / "emitters.h5", "w") as file:
        file["records/frame_ix"] = np.array([0, 3])
        file["records/id"] = np.array([5, 6])
        file["records/phot"] = np.array([1000.0, 2000.0])
        file["records/xyz"] = np.array([[0.5, 10.5, 0.1], [20.5, 30.5, -0.2]])
    for path in (folder, folder / "emitters.h5"):
        found = read_localizations(path, OBLONG)
        assert found.table.x.tolist() == [0, 20]
        assert found.table.y.tolist() == [10, 30]
        np.testing.assert_allclose(found.table.z, [100, -200])
        assert (found.pixel_size_nm, found.is_3d) == (OBLONG, True)


# --- What people do to files ------------------------------------------------------------------------------------

HEADER = '"frame","x [nm]","y [nm]","intensity [photon]"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n# only a comment\n", "holds no table"),
        ('"frame","x [nm]","intensity [photon]"\n1,2,3\n', "lacks the column\\(s\\) y \\[nm\\]"),
        ("a,b,c\n1,2,3\n", "no known position columns among a, b, c"),
        ("1,2,3\n", "no header and 3 column"),
        (HEADER + "1,100,100,500\n2,100,oops,500\n", "line 3: 'oops' in the column 'y'"),
        (HEADER + "1,100,100,500\n2,,100,500\n", "line 3: '' in the column 'x'"),
        (HEADER + "\n1,100,100,500\n2,100", "line 4: it ends before the column 'y'"),
        (HEADER + "1,100,100,500\n2,nan,100,500\n", "x in row 2 of the table is nan"),
        (HEADER + "1,100,inf,500\n", "y in row 1 of the table is inf"),
        (HEADER + "0,100,100,500\n", "frame in row 1 of the table is negative"),
        (HEADER + "1,100,100,500\n1.5,100,100,500\n", "frame in row 2 of the table is negative or no whole"),
    ],
)
def test_bad_csv_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "locs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_localizations(path, SQUARE)


def test_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_localizations(tmp_path / "nothing.csv", SQUARE)


def test_csv_of_other_habits(tmp_path: Path) -> None:
    path = tmp_path / "data.dat"  # no suffix that helps
    path.write_bytes(b"\xef\xbb\xbf# made by hand\r\n" + HEADER.encode() + b"3, 150 ,250,500\r\n\r\n# end\r\n")
    table = read_localizations(path, SQUARE).table
    assert (table.frame.tolist(), table.x.tolist(), table.y.tolist()) == ([2], [1.0], [2.0])


def test_truncated_hdf5_is_explained(tmp_path: Path) -> None:
    write_picasso(tmp_path / "locs.hdf5", make_table(5000))
    whole = (tmp_path / "locs.hdf5").read_bytes()
    (tmp_path / "locs.hdf5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_localizations(tmp_path / "locs.hdf5")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("Width: 40\nHeight: 60\nFrames: 30\n", "--pixel-size-nm"),
        ("Pixelsize: none of your business\n", "metadata"),
        ("Pixelsize: -3\n", "metadata"),
        ("{unclosed\n", "cannot be read"),
    ],
)
def test_bad_picasso_metadata_is_explained(tmp_path: Path, metadata: str, message: str) -> None:
    write_picasso(tmp_path / "locs.hdf5", make_table())
    (tmp_path / "locs.yaml").write_text(metadata)
    with pytest.raises(DataError, match=message):
        read_localizations(tmp_path / "locs.hdf5")


def test_python_objects_in_the_yaml_are_not_built(tmp_path: Path) -> None:
    write_picasso(tmp_path / "locs.hdf5", make_table())
    text = "Pixelsize: 130\nDrift: !!python/object/apply:os.mkdir [" + str(tmp_path / "trap") + "]\n"
    (tmp_path / "locs.yaml").write_text(text)
    assert read_localizations(tmp_path / "locs.hdf5").pixel_size_nm.x == 130
    assert not (tmp_path / "trap").exists()


def test_picasso_without_positions_is_explained(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "locs.hdf5", "w") as file:
        file["locs"] = np.zeros(3, dtype=[("frame", "u4"), ("x", "f4"), ("photons", "f4")])
    with pytest.raises(DataError, match="lacks the column\\(s\\) y"):
        read_localizations(tmp_path / "locs.hdf5", SQUARE)


def test_a_full_disk_leaves_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_picasso(tmp_path / "locs.hdf5", make_table())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(AdalocError, match="disk is full"):
        write_picasso(tmp_path / "locs.hdf5", make_table(5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_numpy_numbers_are_accepted(tmp_path: Path) -> None:
    frames = np.zeros((30, 60, 40))
    num_frames, height, width = np.array(frames.shape)
    write_picasso(tmp_path / "locs.hdf5", make_table(), image_size_px=(height, width), num_frames=num_frames)
    assert read_localizations(tmp_path / "locs.hdf5").image_size_px == (60, 40)


def test_a_folder_in_the_way_is_explained(tmp_path: Path) -> None:
    (tmp_path / "locs.csv").mkdir()
    with pytest.raises(AdalocError, match=r"locs\.csv could not be written"):
        write_thunderstorm_csv(tmp_path / "locs.csv", empty_table(), SQUARE)


def test_yaml_and_inner_metadata_agree(tmp_path: Path) -> None:
    write_picasso(tmp_path / "locs.hdf5", make_table())
    with h5py.File(tmp_path / "locs.hdf5") as file:
        inner = json.loads(file["metadata"][()])
    assert inner == list(yaml.safe_load_all((tmp_path / "locs.yaml").read_text()))


# --- Speed ------------------------------------------------------------------------------------------------------


def test_100_000_rows_are_read_in_about_a_second(tmp_path: Path) -> None:
    write_thunderstorm_csv(tmp_path / "locs.csv", make_table(100_000), SQUARE)
    start = time.perf_counter()
    assert len(read_localizations(tmp_path / "locs.csv", SQUARE).table) == 100_000
    assert time.perf_counter() - start < 5


def test_torch_is_not_imported() -> None:
    modules = "adaloc.localize.read, adaloc.localize.export, adaloc.localize.render, adaloc.evaluation.metrics"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
