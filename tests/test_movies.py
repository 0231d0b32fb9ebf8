"""Movies of other programs: shape, orientation and values; and what broken ones are told."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from adaloc.config import PixelSize
from adaloc.errors import DataError, MovieError
from adaloc.localize.movie import ArrayMovie, JoinedMovie, find_movies, join_movies, open_movie
from adaloc.localize.movie.find import natural_key
from adaloc.localize.read import read_localizations

SharedData = Callable[[str], Path]
FRAMES = np.random.default_rng(0).integers(0, 60_000, (7, 12, 17)).astype(np.uint16)


def whole(path: Path) -> Any:
    with open_movie(path) as movie:
        return movie.read(0, movie.num_frames)


def write_raw(path: Path, frames: Any = FRAMES, **changes: Any) -> None:
    num_frames, height, width = frames.shape
    info = {
        "Byte Order": "<", "Data Type": "uint16", "Frames": num_frames, "Height": height, "Width": width,
        "Pixelsize": 130, **changes,
    }  # fmt: skip
    order = info["Byte Order"] if info["Byte Order"] in ("<", ">") else "<"
    path.write_bytes(frames.astype(f"{order}u2").tobytes())
    text = yaml.safe_dump({key: value for key, value in info.items() if value is not None})
    path.with_suffix(".yaml").write_text(text)


def write_dax(path: Path, frames: Any = FRAMES, *, claimed: int | None = None, endian: str = "big") -> None:
    num_frames, height, width = frames.shape
    path.write_bytes(frames.astype(">u2" if endian == "big" else "<u2").tobytes())
    path.with_suffix(".inf").write_text(
        f"binning = 1 x 1\ndata type = 16 bit integers (binary, {endian} endian)\n"
        f"frame dimensions = {width} x {height}\nnumber of frames = {claimed or num_frames}\n"
    )


# --- Every way to write the same movie --------------------------------------------------------------------------


def write_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for index, frame in enumerate(FRAMES):
            writer.write(frame, contiguous=False, photometric="minisblack", description=f"frame {index}", metadata=None)


WRITERS: dict[str, Callable[[Path], object]] = {
    "plain.tif": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack", metadata=None),
    "shaped.tif": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack"),
    "big.btf": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack", bigtiff=True),
    "bigendian.tif": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack", byteorder=">"),
    "imagej.tif": lambda path: tifffile.imwrite(path, FRAMES, imagej=True),
    "movie.ome.tif": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack", metadata={"axes": "TYX"}),
    "pages.tif": write_pages,
    "strips.tif": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack", rowsperstrip=5, metadata=None),
    "deflate.tif": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack", compression="zlib"),
    "tiled.tif": lambda path: tifffile.imwrite(path, FRAMES, photometric="minisblack", tile=(16, 16)),
    "little.raw": write_raw,
    "bigendian.raw": lambda path: write_raw(path, **{"Byte Order": ">"}),
    "movie.dax": write_dax,
    "little.dax": lambda path: write_dax(path, endian="little"),
    "no_suffix_that_helps.dat": lambda path: path.write_bytes(tiff_bytes()),
}


def tiff_bytes() -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, FRAMES, photometric="minisblack")
    return buffer.getvalue()


@pytest.mark.parametrize("name", WRITERS)
def test_frames_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    with open_movie(tmp_path / name) as movie:
        assert (movie.num_frames, movie.height, movie.width, movie.dtype) == (7, 12, 17, np.dtype(np.uint16))
        assert movie.dtype.isnative
        np.testing.assert_array_equal(movie.read(0, 7), FRAMES)
        np.testing.assert_array_equal(movie.read(2, 5), FRAMES[2:5])
        assert movie.read(3, 3).shape == (0, 12, 17)
        assert movie.read(6, 7).dtype.isnative
        with pytest.raises(ValueError, match="frames 5 to 8 of a movie of 7"):
            movie.read(5, 8)


def test_numbered_files_are_one_movie_in_natural_order(tmp_path: Path) -> None:
    frames = np.arange(12 * 5 * 6, dtype=np.uint16).reshape(12, 5, 6)
    for index, frame in enumerate(frames, start=1):
        tifffile.imwrite(tmp_path / f"{index}.tif", frame)
    with open_movie(tmp_path) as movie:
        np.testing.assert_array_equal(movie.read(0, 12), frames)
        assert movie.notes == ()
    (tmp_path / "5.tif").unlink()
    assert "1 numbers are missing" in open_movie(tmp_path).notes[0]
    tifffile.imwrite(tmp_path / "5.tif", frames[0][:4])
    with pytest.raises(MovieError, match=r"5\.tif has 1 frame\(s\) of 4 x 6 px"):
        whole(tmp_path)


def test_natural_order() -> None:
    assert sorted(["a10b", "a9b", "A2b", "b1", "3"], key=natural_key) == ["3", "A2b", "a9b", "a10b", "b1"]


def test_a_folder_of_movies(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cell10.tif", FRAMES[:2], photometric="minisblack")
    tifffile.imwrite(tmp_path / "cell9.tif", FRAMES[2:], photometric="minisblack")
    write_dax(tmp_path / "z.dax", FRAMES[:1])
    names = [movie.name.name for movie in find_movies([tmp_path])]
    assert names == ["cell9.tif", "cell10.tif", "z.dax"]
    with pytest.raises(MovieError, match="holds 3 movies"):
        open_movie(tmp_path)
    joined = join_movies([tmp_path])
    assert isinstance(joined, JoinedMovie)
    order = np.concatenate([FRAMES[2:], FRAMES[:2], FRAMES[:1]])
    np.testing.assert_array_equal(joined.read(0, 8), order)
    for begin, end in ((0, 5), (4, 6), (5, 7), (6, 8), (7, 8), (8, 8)):
        np.testing.assert_array_equal(joined.read(begin, end), order[begin:end])


def test_parts_of_another_size_are_no_parts() -> None:
    with pytest.raises(MovieError, match="no parts of one movie"):
        JoinedMovie([ArrayMovie(FRAMES), ArrayMovie(FRAMES[:, :5])])


def ome_in_two_files(folder: Path) -> tuple[Path, Path]:
    """An OME-TIFF of four and three frames, as Micro-Manager splits long movies."""
    names = ("a.ome.tif", "b.ome.tif")
    planes = [
        f'<TiffData FirstT="{t}" IFD="{t if t < 4 else t - 4}" PlaneCount="1">'
        f'<UUID FileName="{names[t >= 4]}">urn:uuid:0000000{int(t >= 4)}-0000-0000-0000-000000000000</UUID></TiffData>'
        for t in range(7)
    ]
    for index, (name, frames) in enumerate(zip(names, (FRAMES[:4], FRAMES[4:]), strict=True)):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:0000000{index}-0000-0000-0000-000000000000"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            'DimensionOrder="XYZCT" Type="uint16" SizeX="17" SizeY="12" SizeZ="1" SizeC="1" SizeT="7" '
            f'PhysicalSizeX="0.11" PhysicalSizeY="0.12">{"".join(planes)}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(folder / name) as writer:
            for number, frame in enumerate(frames):
                writer.write(
                    frame, contiguous=False, photometric="minisblack", metadata=None,
                    description=xml if number == 0 else None,
                )  # fmt: skip
    return folder / names[0], folder / names[1]


def test_an_ome_tiff_in_two_files_is_one_movie(tmp_path: Path) -> None:
    first, second = ome_in_two_files(tmp_path)
    (movie,) = find_movies([tmp_path])
    with movie:
        np.testing.assert_array_equal(movie.read(0, 7), FRAMES)
        np.testing.assert_array_equal(movie.read(3, 5), FRAMES[3:5])
    assert movie.pixel_size_nm == PixelSize(x=110, y=120)
    assert sorted(path.name for path in movie.files) == [first.name, second.name]
    second.unlink()
    with pytest.raises(DataError, match=r"not here|cannot be read"):
        whole(first)


# --- Pixel sizes ------------------------------------------------------------------------------------------------


def test_pixel_sizes_of_ome_imagej_and_picasso(tmp_path: Path) -> None:
    ome = {"axes": "TYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.12}
    tifffile.imwrite(tmp_path / "a.ome.tif", FRAMES, photometric="minisblack", metadata=ome)
    tifffile.imwrite(tmp_path / "b.tif", FRAMES, imagej=True, resolution=(10, 8), metadata={"unit": "um"})
    tifffile.imwrite(tmp_path / "c.tif", FRAMES, photometric="minisblack", resolution=(72, 72))
    write_raw(tmp_path / "d.raw")
    sizes = {name: open_movie(tmp_path / name).pixel_size_nm for name in ("a.ome.tif", "b.tif", "c.tif", "d.raw")}
    assert sizes == {
        "a.ome.tif": PixelSize(x=100, y=120), "b.tif": PixelSize(x=100, y=125), "c.tif": None,
        "d.raw": PixelSize(x=130, y=130),
    }  # fmt: skip


# --- Files that lie, and files that are broken ------------------------------------------------------------------


def test_more_frames_than_the_metadata_say_are_used_and_said(tmp_path: Path) -> None:
    write_dax(tmp_path / "a.dax", claimed=6)
    with open_movie(tmp_path / "a.dax") as movie:
        assert movie.num_frames == 7
        assert "a.inf says 6 frames, the file holds 7" in movie.notes[0]


BROKEN_RAW: list[tuple[dict[str, Any], str]] = [
    ({"Frames": 8}, "says 8 frames, the file holds 7"),
    ({"Frames": 10**11}, "says 100000000000 frames, the file holds 7"),
    ({"Height": 13}, "frames of 13 x 17 px and .* bytes more"),
    ({"Height": 10**9, "Width": 10**9}, "cannot be"),
    ({"Height": 10**6, "Width": 10**6}, "0 frames of 1000000 x 1000000 px"),
    ({"Height": 0}, "'Height' is 0"),
    ({"Width": "wide"}, "'Width' is 'wide'"),
    ({"Data Type": "S9"}, "cannot be"),
    ({"Data Type": "uint17"}, "uint17"),
    ({"Byte Order": "sideways"}, "cannot be used"),
    ({"Frames": None}, "'Frames' is missing"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN_RAW)
def test_metadata_that_do_not_fit_the_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_raw(tmp_path / "a.raw", **changes)
    with pytest.raises(MovieError, match=message):
        open_movie(tmp_path / "a.raw")


def test_a_dax_that_is_cut_off_or_has_no_metadata(tmp_path: Path) -> None:
    write_dax(tmp_path / "a.dax")
    data = (tmp_path / "a.dax").read_bytes()
    (tmp_path / "a.dax").write_bytes(data[: 5 * 12 * 17 * 2])
    with pytest.raises(MovieError, match="set 'number of frames' to 5 to use what is there"):
        open_movie(tmp_path / "a.dax")
    (tmp_path / "a.dax").write_bytes(data[:-1])
    with pytest.raises(MovieError, match="6 frames of 12 x 17 px and 407 bytes more"):
        open_movie(tmp_path / "a.dax")
    (tmp_path / "a.inf").write_text("nothing of use\n")
    with pytest.raises(MovieError, match="lacks 'frame dimensions'"):
        open_movie(tmp_path / "a.dax")
    (tmp_path / "a.inf").unlink()
    with pytest.raises(MovieError, match=r"needs a\.inf beside it"):
        open_movie(tmp_path / "a.dax")


@pytest.mark.parametrize("name", ["plain.tif", "shaped.tif", "big.btf", "imagej.tif", "pages.tif", "deflate.tif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_tiff_that_is_cut_off_is_said_to_be(tmp_path: Path, name: str, share: float) -> None:
    WRITERS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"cut off|cannot be read"):
        whole(tmp_path / name)


def test_a_cut_off_tiff_is_seen_also_where_another_package_silenced_tifffile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("tifffile")
    monkeypatch.setattr(logger, "level", logging.CRITICAL)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    WRITERS["plain.tif"](tmp_path / "plain.tif")
    data = (tmp_path / "plain.tif").read_bytes()
    (tmp_path / "plain.tif").write_bytes(data[: int(0.6 * len(data))])
    with pytest.raises(DataError, match="cut off"):
        whole(tmp_path / "plain.tif")
    assert logger.level == logging.CRITICAL


def test_a_tiff_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    # ImageJ's stacks above 4 GB have one page, and say in words how many frames follow it.
    tifffile.imwrite(tmp_path / "a.tif", FRAMES, imagej=True)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    next_page = 8 + 2 + 12 * int.from_bytes(data[8:10], "little")
    data[next_page : next_page + 4] = bytes(4)
    data = data[: 352 + FRAMES.nbytes]
    (tmp_path / "a.tif").write_bytes(data)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), FRAMES)
    more = bytes(data).replace(b"images=7", b"images=9").replace(b"channels=7", b"channels=9")
    (tmp_path / "a.tif").write_bytes(more)
    with pytest.raises(DataError, match="it may be cut off"):
        whole(tmp_path / "a.tif")


def test_a_movie_that_ends_while_it_is_read(tmp_path: Path) -> None:
    write_dax(tmp_path / "a.dax")
    movie = open_movie(tmp_path / "a.dax")
    with (tmp_path / "a.dax").open("rb+") as handle:
        handle.truncate(1000)
    assert movie.read(0, 2).shape == (2, 12, 17)
    with pytest.raises(MovieError, match="ended while frames 2 to 4 were read"):
        movie.read(2, 5)


def test_colour_channels_and_nan_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((4, 8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(MovieError, match="colour"):
        open_movie(tmp_path / "rgb.tif")
    tifffile.imwrite(tmp_path / "tc.tif", np.zeros((4, 2, 8, 8), np.uint16), imagej=True, metadata={"axes": "TCYX"})
    with pytest.raises(MovieError, match=r"channels, planes or positions .*T 4, C 2"):
        open_movie(tmp_path / "tc.tif")
    frames = FRAMES.astype(np.float32)
    frames[5, 3, 3] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", frames, photometric="minisblack")
    with open_movie(tmp_path / "nan.tif") as movie:
        movie.read(0, 5)
        with pytest.raises(MovieError, match="NaN or infinite pixels in frame 5"):
            movie.read(4, 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.czi", "with ZEN"), ("a.sif", "with Andor Solis"), ("a.xyz", "with Fiji"), ("a.nd2", "cannot be read|nd2")],
)
def test_other_formats_are_told_what_to_convert_to(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"something else" * 100)
    with pytest.raises(MovieError, match=message):
        open_movie(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MovieError, match="does not exist"):
        open_movie(tmp_path / "a.tif")
    with pytest.raises(MovieError, match="holds no movie"):
        open_movie(tmp_path)


def test_nd2_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nd2").write_bytes(b"nd2")
    monkeypatch.setitem(sys.modules, "nd2", None)
    with pytest.raises(MovieError, match="pip install nd2"):
        open_movie(tmp_path / "a.nd2")


class FakeND2File:
    """What of nd2.ND2File is used; no real .nd2 file is at hand."""

    sizes: dict[str, int] = {"T": 7, "Y": 12, "X": 17}  # noqa: RUF012
    dtype = np.dtype(np.uint16)

    def __init__(self, path: Path) -> None:
        self.path = path

    def voxel_size(self) -> Any:
        return types.SimpleNamespace(x=0.11, y=0.12, z=1.0)

    def read_frame(self, index: int) -> Any:
        return FRAMES[index]

    def close(self) -> None:
        self.path.touch()


def test_nd2_through_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nd2").write_bytes(b"nd2")
    monkeypatch.setitem(sys.modules, "nd2", types.SimpleNamespace(ND2File=FakeND2File))  # type: ignore[arg-type]
    with open_movie(tmp_path / "a.nd2") as movie:
        np.testing.assert_array_equal(movie.read(1, 4), FRAMES[1:4])
        assert (movie.num_frames, movie.pixel_size_nm) == (7, PixelSize(x=110, y=120))
    monkeypatch.setattr(FakeND2File, "sizes", {"T": 7, "C": 2, "Y": 12, "X": 17})
    with pytest.raises(MovieError, match="channels, planes or positions"):
        open_movie(tmp_path / "a.nd2")


# --- A long movie takes no memory -------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reading_a_part_of_a_huge_file_allocates_that_part(tmp_path: Path) -> None:
    path = tmp_path / "huge.raw"
    write_raw(path, FRAMES[:1], Frames=4_000_000)
    with path.open("rb+") as handle:
        handle.truncate(4_000_000 * 12 * 17 * 2)  # 1.6 GB, sparse
    # VmHWM and not ru_maxrss, which a child inherits from its parent.
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom adaloc.localize.movie import open_movie\n"
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\nmovie = open_movie(Path(sys.argv[1]))\n"
        "for begin in range(0, 4_000_000, 200_000): movie.read(begin, begin + 4_000)\n"
        "print(json.dumps([movie.num_frames, peak() - before]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    num_frames, kilobytes = json.loads(done.stdout)
    assert num_frames == 4_000_000
    assert kilobytes < 60_000


# --- Real movies ------------------------------------------------------------------------------------------------

REAL = [
    # name, (T, H, W), number type, least and largest value: as their README says
    ("storm-analysis-scmos/sample.dax", (11, 256, 256), "uint16", 34, 406),
    ("storm-analysis-sim/test.dax", (10, 256, 256), "uint16", None, None),
    ("storm-analysis-sim/test_300x200_dh.dax", (5, 200, 300), "uint16", None, None),
    ("storm-analysis-sim/comp.dax", (2, 256, 256), "uint16", 106, 1893),
    ("storm-analysis-sim/comp.tif", (2, 256, 256), "uint16", 106, 1893),
    ("picasso/testdata.raw", (100, 32, 32), "uint16", 184, 4023),
    ("deepstorm3d/Tetrapod_demo2_crop", (30, 297, 391), "uint16", 0, 262),
    ("deepstorm3d/telomeres1.tif", (1, 253, 197), "uint16", 291, 10001),
    ("locan/images.tif", (5, 128, 128), "uint16", 434, 1153),
    ("nairr-smlm/3DAS_LD_Validate_Frame.tif", (500, 32, 32), "uint16", 500, 932),
    ("nairr-smlm/2DGauss_LD_Validate_Frame.tif", (500, 32, 32), "uint16", 876, 2035),
    ("epfl-challenge2016/sequence-as-stack-Beads-DH-Exp.tif", (151, 150, 150), "uint16", 93, 3864),
    ("epfl-challenge2013/tubulins1_00020.tif", (1, 256, 256), "uint16", 100, 1078),
    ("deep-storm/ArtificialDataset_demo1.tif", (20, 64, 64), "uint16", 105, 2472),
    ("smap-fit3d/single_bead.tif", (201, 21, 21), "uint16", 415, 16444),
    ("vipr/TP_im.tif", (55, 80, 80), "uint16", 643, 10621),
    ("vecfit-vortex/bead180_oil.tif", (51, 31, 31), "uint16", 129, 28452),
    ("pyme/psf_astig.tif", (61, 61, 61), "float32", 0, 1),
    ("pyme/beads1.tif", (61, 61, 61), "float32", 0, 1),
    ("pyme/astig_theory.tif", (80, 58, 58), "float32", None, None),
    ("pyotf/psf_wl520nm_z300nm_x130nm_na0.85_n1.0.tif", (25, 256, 256), "uint16", 135, 46120),
]


@pytest.mark.parametrize(("name", "shape", "dtype", "least", "largest"), REAL, ids=[row[0] for row in REAL])
def test_real_movies(
    shared_data: SharedData, name: str, shape: tuple[int, int, int], dtype: str, least: int | None, largest: int | None
) -> None:
    frames = whole(shared_data(name))
    assert (frames.shape, frames.dtype.name) == (shape, dtype)
    if least is not None:
        assert (frames.min(), frames.max()) == (least, largest)


def test_the_dax_is_the_tiff(shared_data: SharedData) -> None:
    frames = whole(shared_data("storm-analysis-sim/comp.dax"))
    np.testing.assert_array_equal(frames, whole(shared_data("storm-analysis-sim/comp.tif")))
    np.testing.assert_array_equal(frames, whole(shared_data("storm-analysis-sim/comp.inf")))  # whichever is named


def test_real_files_that_lie_or_say_their_pixel(shared_data: SharedData) -> None:
    assert "says 10 frames, the file holds 11" in open_movie(shared_data("storm-analysis-scmos/sample.dax")).notes[0]
    assert open_movie(shared_data("picasso/testdata.raw")).pixel_size_nm == PixelSize(x=160, y=160)
    size = open_movie(shared_data("pyme/psf_astig.tif")).pixel_size_nm
    assert size is not None
    assert (size.x, size.y) == (pytest.approx(74), pytest.approx(72))


def test_positions_of_other_programs_lie_on_spots(shared_data: SharedData) -> None:
    """Rows, columns and origin are right: a pixel at a listed position outshines those four pixels away."""

    def contrast(frames: Any, table: Any) -> float:
        t, r, c = table.frame, np.round(table.y).astype(int), np.round(table.x).astype(int)
        inside = (r > 4) & (r < frames.shape[1] - 5) & (c > 4) & (c < frames.shape[2] - 5) & (t < len(frames))
        t, r, c = t[inside], r[inside], c[inside]
        assert len(t) >= 3
        around = np.mean([frames[t, r + 4, c], frames[t, r - 4, c], frames[t, r, c + 4], frames[t, r, c - 4]], axis=0)
        return float(np.mean(frames[t, r, c] - around) / frames.std())

    pixel = PixelSize(x=133.5, y=133.5)
    pairs = [
        ("picasso/testdata.raw", read_localizations(shared_data("picasso/testdata_locs.hdf5"))),
        ("locan/images.tif", read_localizations(shared_data("locan/rapidSTORM_from_images.txt"), pixel)),
        (
            "storm-analysis-sim/test_300x200_dh.dax",
            read_localizations(shared_data("storm-analysis-sim/test_300x200_dh_olist.bin"), pixel),
        ),
        ("storm-analysis-sim/test.dax", read_localizations(shared_data("storm-analysis-sim/test_olist.bin"), pixel)),
    ]
    for name, found in pairs:
        frames = whole(shared_data(name)).astype(float)
        assert contrast(frames, found.table) > 1, name
