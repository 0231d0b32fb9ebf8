"""SMAP and DECODE files both ways, those of rapidSTORM and Insight3 as they are, and what converts between them."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable, concatenate
from adaloc.errors import AdalocError, ConfigError, DataError
from adaloc.localize.decode_file import write_decode_h5
from adaloc.localize.export import write_picasso_hdf5, write_smap_csv, write_thunderstorm_csv
from adaloc.localize.outputs import MovieFacts, output_paths, parse_formats, write_outputs
from adaloc.localize.read import read_localizations
from adaloc.localize.rows import Rows, as_rows, columns_of

OBLONG = PixelSize(x=101.11, y=98.83)
SQUARE = PixelSize(x=100, y=100)
SharedData = Callable[[str], Path]


def make_table(num: int = 200, *, sigmas: bool = True) -> EmitterTable:
    rng = np.random.default_rng(7)
    return EmitterTable(
        frame=np.sort(rng.integers(0, 30, num)),
        x=rng.uniform(0, 39, num),
        y=rng.uniform(0, 59, num),
        z=rng.uniform(-700, 700, num),
        photons=rng.uniform(500, 5000, num),
        background=rng.uniform(20, 150, num),
        x_sigma=rng.uniform(0.05, 0.3, num) if sigmas else None,
        y_sigma=rng.uniform(0.05, 0.3, num) if sigmas else None,
        z_sigma=rng.uniform(10, 60, num) if sigmas else None,
        photons_sigma=rng.uniform(10, 90, num) if sigmas else None,
        probability=rng.uniform(0.5, 1, num),
        emitter_id=rng.integers(0, 50, num),
    )


# --- DECODE -----------------------------------------------------------------------------------------------------


def test_decode_keeps_everything(tmp_path: Path) -> None:
    table = make_table()
    write_decode_h5(tmp_path / "locs.h5", table, OBLONG)
    found = read_localizations(tmp_path / "locs.h5")
    assert columns_of(found.table) == columns_of(table)
    for field in fields(EmitterTable):
        np.testing.assert_allclose(getattr(found.table, field.name), getattr(table, field.name), rtol=1e-5, atol=1e-5)
    assert found.is_3d
    assert found.pixel_size_nm == OBLONG


@pytest.mark.parametrize("sigmas", [True, False])
@pytest.mark.parametrize("num", [0, 1, 50])
def test_decode_files_have_the_structure_of_a_real_one(
    tmp_path: Path, shared_data: SharedData, sigmas: bool, num: int
) -> None:
    write_decode_h5(tmp_path / "locs.h5", make_table(num, sigmas=sigmas), OBLONG)

    def structure(path: Path) -> dict[str, Any]:
        with h5py.File(path) as file:
            found: dict[str, Any] = {group: dict(file[group].attrs).keys() for group in file}
            found |= {f"data/{name}": (d.dtype.kind, d.ndim if d.shape else 0) for name, d in file["data"].items()}
            found["unit"], found["version"] = file["meta"].attrs["xy_unit"], file["decode"].attrs["version"]
            # SMAP takes groups and attributes by their position.
            found["order"] = [list(file), list(file["meta"].attrs), list(file["data"])]
        return found

    ours = structure(tmp_path / "locs.h5")
    theirs = structure(shared_data("locan/decode_dstorm_data.h5"))
    optional = ("data/xyz_sig", "data/phot_sig")  # empty where there are none
    assert {k: v for k, v in ours.items() if k not in optional} == {
        k: v for k, v in theirs.items() if k not in optional
    }
    for name in optional:
        assert ours[name] == (theirs[name] if sigmas else ("f", 0))


def test_decode_x_runs_along_the_rows(tmp_path: Path) -> None:
    table = EmitterTable(np.array([3]), np.array([7.0]), np.array([2.0]), np.array([50.0]), np.array([900.0]))
    write_decode_h5(tmp_path / "locs.h5", table, OBLONG)
    with h5py.File(tmp_path / "locs.h5") as file:
        assert file["data/xyz"][0].tolist() == [2, 7, 50]
        np.testing.assert_allclose(file["meta"].attrs["px_size"], [98.83, 101.11], rtol=1e-6)
        assert (file["data/frame_ix"][0], file["data/prob"][0], file["data/id"][0]) == (3, 1, -1)
        assert np.isnan(file["data/bg"][0])
    found = read_localizations(tmp_path / "locs.h5").table
    assert columns_of(found) == {"frame", "x", "y", "z", "photons", "probability"}


def test_real_decode(shared_data: SharedData) -> None:
    found = read_localizations(shared_data("locan/decode_dstorm_data.h5"))
    table = found.table
    assert (len(table), found.is_3d, found.pixel_size_nm) == (96, True, PixelSize(x=117, y=127))
    assert table.frame[:5].tolist() == [294, 370, 1896, 1943, 2485]
    np.testing.assert_allclose((table.y[0], table.x[0], table.z[0]), (-0.149208, 138.894745, 111.926346), rtol=1e-5)
    assert table.x_sigma is not None
    assert table.y_sigma is not None
    np.testing.assert_allclose((table.y_sigma[0], table.x_sigma[0]), (0.22134583, 0.35857463), rtol=1e-6)
    assert table.photons[0] == pytest.approx(1056.9473)
    assert table.background is not None
    assert table.background[0] == pytest.approx(191.74039)
    assert table.emitter_id is None  # all are -1
    assert len(read_localizations(shared_data("locan/decode_dstorm_data_empty.h5")).table) == 0


def test_a_real_decode_file_is_written_as_it_was(tmp_path: Path, shared_data: SharedData) -> None:
    source = shared_data("locan/decode_dstorm_data.h5")
    found = read_localizations(source)
    write_decode_h5(tmp_path / "again.h5", found.table, found.pixel_size_nm)
    with h5py.File(source) as theirs, h5py.File(tmp_path / "again.h5") as ours:
        order = np.argsort(theirs["data/frame_ix"][()], kind="stable")
        for name in theirs["data"]:
            if theirs["data"][name].shape is None:
                assert ours["data"][name].shape is None
            else:
                np.testing.assert_array_equal(ours["data"][name][()], theirs["data"][name][()][order], err_msg=name)
        np.testing.assert_array_equal(ours["meta"].attrs["px_size"], theirs["meta"].attrs["px_size"])


@pytest.mark.parametrize("sigmas", [True, False])
def test_locan_reads_our_decode_file(tmp_path: Path, sigmas: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        locan_io = pytest.importorskip("locan.locan_io", exc_type=ImportError)
    table = make_table(sigmas=sigmas)
    write_decode_h5(tmp_path / "locs.h5", table, OBLONG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = locan_io.load_decode_file(tmp_path / "locs.h5").data
    assert len(data) == len(table)
    # locan calls DECODE's first coordinate x.
    for name, column in (
        ("position_x", table.y), ("position_y", table.x), ("position_z", table.z), ("intensity", table.photons),
        ("local_background", table.background), ("frame", table.frame), ("prob", table.probability),
        ("original_index", table.emitter_id),
    ):  # fmt: skip
        np.testing.assert_allclose(data[name], column, rtol=1e-5, atol=1e-5, err_msg=name)
    assert ("x_sig" in data) == sigmas
    if sigmas:
        np.testing.assert_allclose(data["x_sig"], table.y_sigma, rtol=1e-5)


@pytest.mark.parametrize("kind", ["thunderstorm", "smap"])
def test_locan_reads_our_csv(tmp_path: Path, kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        locan_io = pytest.importorskip("locan.locan_io", exc_type=ImportError)
    table = make_table()
    facts = MovieFacts(OBLONG, (60, 40), 30, 130.0, is_3d=True)
    write_outputs({kind: tmp_path / "locs.csv"}, table, facts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "thunderstorm":
            data = locan_io.load_thunderstorm_file(tmp_path / "locs.csv").data
            names = ("position_x", "position_y", "position_z", "intensity", "frame")
        else:
            names = ("xnm", "ynm", "znm", "phot", "frame")
            data = locan_io.load_txt_file(tmp_path / "locs.csv", sep=",", convert=False).data
    x, y, z, photons, frame = (np.asarray(data[name], float) for name in names)
    np.testing.assert_allclose(x, (table.x + 0.5) * OBLONG.x, atol=1e-4)
    np.testing.assert_allclose(y, (table.y + 0.5) * OBLONG.y, atol=1e-4)
    np.testing.assert_allclose(z, table.z, atol=1e-4)
    np.testing.assert_allclose(photons, table.photons, atol=1e-4)
    assert set(frame - table.frame) <= {0.0, 1.0}  # locan counts ThunderSTORM's frames from 0
    assert len(set(frame - table.frame)) == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("xyz", None, "neither Picasso"), ("phot", None, "lacks phot"), ("xyz", np.zeros((4, 2)), "xyz has the shape"),
        ("phot", np.zeros(3), "phot has the shape"), ("xyz", np.full((4, 3), np.nan), "x in row 1 .* is nan"),
        ("frame_ix", np.array([-1, 0, 0, 0]), "negative"),
    ],
)  # fmt: skip
def test_broken_decode_files_are_explained(tmp_path: Path, name: str, value: Any, message: str) -> None:
    write_decode_h5(tmp_path / "locs.h5", make_table(4), OBLONG)
    with h5py.File(tmp_path / "locs.h5", "a") as file:
        del file["data"][name]
        if value is not None:
            file["data"][name] = value
    with pytest.raises(DataError, match=message):
        read_localizations(tmp_path / "locs.h5")


# --- SMAP -------------------------------------------------------------------------------------------------------


def test_smap_round_trip(tmp_path: Path) -> None:
    nm = np.linspace(5, 30, 200)
    table = replace(make_table(), x_sigma=nm / OBLONG.x, y_sigma=nm / OBLONG.y)  # SMAP has one for both axes
    write_smap_csv(tmp_path / "locs.csv", table, OBLONG)
    lines = (tmp_path / "locs.csv").read_text().splitlines()
    assert lines[0] == "ID,frame,xnm,ynm,znm,phot,bg,locprecnm,locprecznm"
    first = [float(cell) for cell in lines[1].split(",")]
    assert first[:4] == pytest.approx([1, table.frame[0] + 1, (table.x[0] + 0.5) * 101.11, (table.y[0] + 0.5) * 98.83])
    found = read_localizations(tmp_path / "locs.csv", OBLONG)
    for name in ("frame", "x", "y", "z", "photons", "background", "x_sigma", "y_sigma", "z_sigma"):
        np.testing.assert_allclose(getattr(found.table, name), getattr(table, name), atol=1e-3, err_msg=name)


def test_smap_in_2d_without_sigmas(tmp_path: Path) -> None:
    table = make_table(3, sigmas=False)
    write_smap_csv(tmp_path / "a.csv", table, SQUARE, is_3d=False)
    write_smap_csv(tmp_path / "b.csv", table, SQUARE, is_3d=False, psf_sigma_nm=130)
    headers = [(tmp_path / name).read_text().splitlines()[0] for name in ("a.csv", "b.csv")]
    assert headers == ["ID,frame,xnm,ynm,phot,bg", "ID,frame,xnm,ynm,phot,bg,locprecnm"]


def test_real_smap_mat(shared_data: SharedData) -> None:
    found = read_localizations(shared_data("locan/smap_dstorm_data.mat"))
    table = found.table
    assert (len(table), found.image_size_px, found.num_frames, found.is_3d) == (4884, (256, 256), 1000, True)
    assert found.pixel_size_nm == PixelSize(x=104, y=104)
    nm = ((table.x[0] + 0.5) * 104, (table.y[0] + 0.5) * 104, table.z[0], table.photons[0])
    np.testing.assert_allclose(nm, (1459.3857, 11584.353, 509.80817, 1077.7972), rtol=1e-6)
    assert (table.frame.min(), table.frame[0]) == (0, 0)
    assert table.x_sigma is not None
    assert table.x_sigma[0] * 104 == pytest.approx(27.280209)


# --- rapidSTORM and Insight3 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "is_3d", "first"),
    [
        # first: frame, x nm, y nm, z nm, amplitude, as one reads them in the file
        ("locan/rapidSTORM_from_images.txt", 12, False, (1, 11135.1, 4757.58, 0, 2213.93)),
        ("locan/rapidSTORM_dstorm_data.txt", 14, False, (0, 9657.4, 24533.5, 0, 33290.1)),
        ("locan/rapidSTORM_dstorm_track_data.txt", 14, False, (1, 5417.67, 8439.85, 0, 4339.29)),
        ("palm-siever/FtsZ-Dendra2_live_3D_10ms.RapidStorm.txt", 20990, True, (0, 4245.51, 11911.2, 158.534, 142.225)),
    ],
)
def test_real_rapidstorm(shared_data: SharedData, name: str, rows: int, is_3d: bool, first: tuple[float, ...]) -> None:
    found = read_localizations(shared_data(name), PixelSize(x=100, y=150))
    table = found.table
    assert (len(table), found.is_3d) == (rows, is_3d)
    nm = (table.frame[0], table.x[0] * 100, table.y[0] * 150, table.z[0], table.photons[0])
    np.testing.assert_allclose(nm, first, rtol=1e-6)
    with pytest.raises(DataError, match="--pixel-size-nm"):
        read_localizations(shared_data(name))


def test_tracked_rapidstorm_has_uncertainties_inside_only(shared_data: SharedData) -> None:
    table = read_localizations(shared_data("locan/rapidSTORM_dstorm_track_data.txt"), SQUARE).table
    assert columns_of(table) == {"frame", "x", "y", "z", "photons"}


def test_broken_rapidstorm_is_explained(tmp_path: Path, shared_data: SharedData) -> None:
    text = shared_data("locan/rapidSTORM_from_images.txt").read_text()
    path = tmp_path / "a.txt"
    for broken, message in (
        (text.replace("</localizations>", ""), "header"),
        (text.replace("Position-1-0", "Position-9-0"), "lacks the fields y"),
        (text.replace("nanometer", "pixel"), "in pixel"),
        (text[:-60] + "\n5 6", "cut off"),
        (text.replace("11135.1", "eleven"), "cannot be read"),
    ):
        path.write_text(broken)
        with pytest.raises(DataError, match=message):
            read_localizations(path, SQUARE)
    path.write_text(text.splitlines()[0] + "\n")
    assert len(read_localizations(path, SQUARE).table) == 0


def test_real_insight3(shared_data: SharedData, tmp_path: Path) -> None:
    source = shared_data("storm-analysis-sim/test_olist.bin")
    table = read_localizations(source, SQUARE).table
    assert len(table) == 2000
    assert np.bincount(table.frame).tolist() == [200] * 10
    np.testing.assert_allclose((table.x[0], table.y[0], table.photons[0]), (62.344547, 187.02545, 10000), rtol=1e-6)
    (tmp_path / "cut.bin").write_bytes(source.read_bytes()[:5000])
    with pytest.raises(DataError, match="says 2000 localizations, it holds 69"):
        read_localizations(tmp_path / "cut.bin", SQUARE)


# --- Parts, so that a table larger than memory can be written ---------------------------------------------------


def test_parts_give_the_file_of_the_whole(tmp_path: Path) -> None:
    table = make_table(1000)
    parts = [table.slice(i, i + 77) for i in range(0, 1000, 77)]
    assert len(concatenate(parts)) == 1000
    rows = Rows(1000, columns_of(table), lambda: iter(parts))
    facts = MovieFacts(OBLONG, (60, 40), 30, 130.0, is_3d=True)
    names = {"thunderstorm": "a.csv", "smap": "b.csv", "picasso": "c.hdf5", "decode": "d.h5"}
    for folder, source in (("whole", table), ("parts", rows)):
        (tmp_path / folder).mkdir()
        write_outputs({kind: tmp_path / folder / name for kind, name in names.items()}, source, facts)
    for name in (*names.values(), "c.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_rows_of_a_table_are_sorted() -> None:
    shuffled = make_table().select(np.random.default_rng(0).permutation(200))
    assert (np.diff(concatenate(list(as_rows(shuffled).parts())).frame) >= 0).all()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_decode_h5(tmp_path / "locs.h5", make_table(), SQUARE)
    before = (tmp_path / "locs.h5").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(AdalocError, match="disk is full"):
        write_decode_h5(tmp_path / "locs.h5", make_table(5), SQUARE)
    assert (tmp_path / "locs.h5").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["locs.h5"]


# --- Names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "formats", "names"),
    [
        ("locs.csv", None, {"thunderstorm": "locs.csv", "picasso": "locs.hdf5"}),
        ("locs.hdf5", None, {"thunderstorm": "locs.csv", "picasso": "locs.hdf5"}),
        ("locs.h5", None, {"thunderstorm": "locs.csv", "picasso": "locs.h5"}),
        ("locs.csv", "smap", {"smap": "locs.csv"}),
        ("locs.csv", "decode,smap", {"decode": "locs.h5", "smap": "locs.csv"}),
        (
            "a.b.h5",
            "all",
            {"thunderstorm": "a.b.csv", "picasso": "a.b.hdf5", "smap": "a.b_smap.csv", "decode": "a.b.h5"},
        ),
    ],
)
def test_file_names(out: str, formats: str | None, names: dict[str, str]) -> None:
    paths = output_paths(Path(out), parse_formats(formats))
    assert {kind: path.name for kind, path in paths.items()} == names


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="The format nature is not known"):
        parse_formats("smap,nature")
    with pytest.raises(ConfigError, match="ends in"):
        output_paths(Path("locs.txt"), ("smap",))


# --- The command ------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_convert_there_and_back(tmp_path: Path) -> None:
    table = make_table()
    write_picasso_hdf5(tmp_path / "a.hdf5", table, OBLONG, image_size_px=(60, 40), num_frames=30)
    assert run("convert", tmp_path / "a.hdf5", tmp_path / "b.h5").exit_code == 0
    assert run("convert", tmp_path / "b.h5", tmp_path / "c.csv", "--to", "smap").exit_code == 0
    done = run("convert", tmp_path / "c.csv", tmp_path / "d.csv", "--pixel-size-nm", "101.11x98.83")
    assert done.exit_code == 0
    assert "200 localizations (3D" in done.output
    assert run("convert", tmp_path / "d.csv", tmp_path / "e.hdf5", "--pixel-size-nm", "101.11x98.83").exit_code == 0
    found = read_localizations(tmp_path / "e.hdf5")
    for name in ("frame", "x", "y", "z", "photons", "background", "z_sigma"):
        np.testing.assert_allclose(getattr(found.table, name), getattr(table, name), atol=2e-3, err_msg=name)
    assert found.num_frames == 30


def test_convert_says_what_is_lost_and_what_is_missing(tmp_path: Path) -> None:
    write_decode_h5(tmp_path / "a.h5", make_table(), SQUARE)
    assert "no place for: photons_sigma" in run("convert", tmp_path / "a.h5", tmp_path / "b.csv").output
    write_thunderstorm_csv(tmp_path / "c.csv", make_table(sigmas=False), SQUARE)
    options = ("--pixel-size-nm", "100")
    assert run("convert", tmp_path / "c.csv", tmp_path / "d.hdf5", *options).exit_code == 1
    assert not (tmp_path / "d.hdf5").exists()
    assert run("convert", tmp_path / "c.csv", tmp_path / "d.hdf5", *options, "--psf-sigma-nm", 130).exit_code == 0
    assert run("convert", tmp_path / "c.csv", tmp_path / "d.txt", *options).exit_code == 2
    assert run("convert", tmp_path / "c.csv", tmp_path / "d.txt", "--to", "nature", *options).exit_code == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [("--frames", "5"), ("--frames", ":"), ("--frames", "a:b"), ("--region", "0:5"), ("--region", "0:5,1:"),
     ("--region", "0:5,1:2,3:4"), ("--format", "nature")],
)  # fmt: skip
def test_bad_options_of_localize_are_bad_usage(tmp_path: Path, option: str, value: str) -> None:
    done = run("localize", tmp_path / "m.pth", tmp_path / "a.tif", "-o", tmp_path / "l.csv", option, value)
    assert done.exit_code == 2
