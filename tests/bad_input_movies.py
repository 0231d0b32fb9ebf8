"""Broken configs and movies."""
# ruff: noqa: E501 - one row of the table a line

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from adaloc.config_file import load_config
from adaloc.localize.movie import find_movies, open_movie
from bad_input import Case, refusal


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content if isinstance(content, bytes) else content.encode()

    def make(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return make


def nothing(folder: Path) -> None:
    pass


def config_of(name: str) -> Callable[[Path], str]:
    return lambda folder: refusal(lambda: load_config(folder / name))


def movie_of(name: str) -> Callable[[Path], str]:
    def read(folder: Path) -> None:
        with open_movie(folder / name) as movie:
            movie.read(0, movie.num_frames)

    return lambda folder: refusal(lambda: read(folder))


def loop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(folder / name)


def stack(name: str = "m.tif", **options: object) -> Callable[[Path], None]:
    frames = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(3, 8, 9)
    return lambda folder: tifffile.imwrite(folder / name, frames, photometric="minisblack", **options)  # type: ignore[arg-type]


def of_array(array: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda folder: tifffile.imwrite(folder / "m.tif", array, **options)  # type: ignore[arg-type]


def cut_tiff(folder: Path) -> None:
    stack()(folder)
    path = folder / "m.tif"
    path.write_bytes(path.read_bytes()[:-100])


def wide_tiff(folder: Path) -> None:
    stack(compression="zlib")(folder)
    path = folder / "m.tif"
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(2**31 - 1, dtype="I")


def deflate_bomb(folder: Path) -> None:
    """A frame of 8 x 9 px whose pixels unpack to 512 MiB."""
    packed = zlib.compress(bytes(2**29), 9)
    entries = [(256, 9), (257, 8), (258, 16), (259, 8), (262, 1), (273, 8), (277, 1), (278, 8), (279, len(packed))]
    ifd = struct.pack("<H", len(entries))
    ifd += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + struct.pack("<I", 0)
    (folder / "m.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed + ifd)


def circular_tiff(folder: Path) -> None:
    stack(metadata=None)(folder)
    path = folder / "m.tif"
    with tifffile.TiffFile(path) as tiff:
        first, end = tiff.pages[0].offset, tiff.pages[-1].offset + 2 + 12 * len(tiff.pages[-1].tags)
    data = bytearray(path.read_bytes())
    data[end : end + 4] = struct.pack("<I", first)
    path.write_bytes(data)


def ome(pixels: str, data: str = "", before: str = "") -> Callable[[Path], None]:
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?>{before}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:0"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="9" '
        f'SizeY="8" {pixels}>{data}</Pixels></Image></OME>'
    )
    return lambda folder: tifffile.imwrite(
        folder / "m.ome.tif",
        np.zeros((3, 8, 9), np.uint16),
        description=xml.encode(),
        metadata=None,
        photometric="minisblack",
    )


def elsewhere(name: str) -> Callable[[Path], None]:
    return ome(
        'SizeC="1" SizeZ="1" SizeT="3"',
        f'<TiffData IFD="0" PlaneCount="3"><UUID FileName="{name}">urn:uuid:1</UUID></TiffData>',
    )


def raw(yaml: str, num_bytes: int = 144) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "m.raw").write_bytes(bytes(num_bytes))
        (folder / "m.yaml").write_text(yaml, encoding="utf-8")

    return make


def dax(inf: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "m.dax").write_bytes(bytes(128))
        (folder / "m.inf").write_text(inf, encoding="utf-8")

    return make


def uneven_sequence(folder: Path) -> None:
    for number, side in ((1, 8), (2, 9)):
        tifffile.imwrite(folder / f"f{number}.tif", np.zeros((8, side), np.uint16))


def uneven_parts(folder: Path) -> None:
    for name, side in (("a", 8), ("b", 9)):
        tifffile.imwrite(folder / f"{name}.tif", np.zeros((2, 8, side), np.uint16), photometric="minisblack")


def join(folder: Path) -> str:
    from adaloc.localize.movie import join_movies

    return refusal(lambda: join_movies([folder / "a.tif", folder / "b.tif"]))


def with_loop_among(folder: Path) -> None:
    stack("a.tif")(folder)
    loop("b.tif")(folder)


_SQUARE = "Byte Order: <\nData Type: uint16\nHeight: 8\nWidth: 9\n"
C, M = "Configs", "Movies"
CASES = [
    Case(C, "a config that does not exist", nothing, config_of("c.json"), "does not exist"),
    Case(C, "an empty config", text("c.json", ""), config_of("c.json"), "is not valid JSON"),
    Case(C, "a config cut off in the middle", text("c.json", '{"data": {"batch_size": 1'), config_of("c.json"), "in line 1, column 26"),
    Case(C, "a config that is no text", text("c.json", b"\xff\xfe\x00\x01"), config_of("c.json"), "cannot be read"),
    Case(C, "a list instead of sections", text("c.json", "[1, 2]"), config_of("c.json"), "has 1 problem"),
    Case(C, "a misspelt key", text("c.json", '{"data": {"batch_sise": 4}}'), config_of("c.json"), 'did you mean "batch_size"?'),
    Case(C, "a key twice in one section", text("c.json", '{"seed": 1, "seed": 2}'), config_of("c.json"), "names seed twice"),
    Case(C, "text where a number belongs", text("c.json", '{"training": {"epochs": "many"}}'), config_of("c.json"), "training.epochs"),
    Case(C, "a negative count", text("c.json", '{"training": {"epochs": -5}}'), config_of("c.json"), "greater than or equal to 1 (it is -5)"),
    Case(C, "NaN as a rate", text("c.json", '{"training": {"lr_first": NaN}}'), config_of("c.json"), "training.lr_first"),
    Case(C, "infinity as a number of photons", text("c.json", '{"simulation": {"emitters": {"photons_mean": Infinity}}}'), config_of("c.json"), "simulation.emitters.photons_mean"),
    Case(C, "a list 100,000 levels deep", text("c.json", "[" * 100_000), config_of("c.json"), "nested too deeply"),
    Case(C, "a number of 5,000 digits", text("c.json", '{"seed": ' + "9" * 5000 + "}"), config_of("c.json"), "numbers too long"),
    Case(C, "a config of 17 MiB", lambda f: os.truncate(_touch(f / "c.json"), 17 * 2**20), config_of("c.json"), "more than 16 MiB"),
    Case(C, "an endless device as a config", nothing, lambda _: refusal(lambda: load_config(Path("/dev/zero"))), "more than 16 MiB"),
    Case(C, "a folder instead of a config", nothing, lambda f: refusal(lambda: load_config(f)), "cannot be read"),
    Case(C, "a link that leads to itself, as a config", loop("c.json"), config_of("c.json"), "cannot be read"),
    Case(C, "a path with a null character", nothing, config_of("c\0.json"), "cannot be read"),
    Case(C, "a path of 5,000 characters", nothing, config_of("c" * 5000), "cannot be read"),
    Case(M, "a movie that does not exist", nothing, movie_of("m.tif"), "does not exist"),
    Case(M, "a movie in a path of Chinese and accented letters that does not exist", nothing, movie_of("样品é/电影.tif"), "样品é/电影.tif does not exist"),
    Case(M, "an empty TIFF", text("m.tif", ""), movie_of("m.tif"), "may be cut off or not a TIFF"),
    Case(M, "text named .tif", text("m.tif", "no movie"), movie_of("m.tif"), "may be cut off or not a TIFF"),
    Case(M, "a TIFF cut off in the middle", cut_tiff, movie_of("m.tif"), "cut off"),
    Case(M, "a TIFF whose list of frames goes in a circle", circular_tiff, movie_of("m.tif"), "runs in a circle"),
    Case(M, "a movie in colour", of_array(np.zeros((8, 9, 3), np.uint8), photometric="rgb"), movie_of("m.tif"), "is in colour"),
    Case(M, "a movie with channels", of_array(np.zeros((3, 2, 8, 9), np.uint16), metadata={"axes": "TCYX"}, photometric="minisblack", imagej=True), movie_of("m.tif"), "has channels, planes or positions"),
    Case(M, "NaN pixels", of_array(np.full((2, 8, 9), np.nan, np.float32), photometric="minisblack"), movie_of("m.tif"), "NaN or infinite pixels in frame 0"),
    Case(M, "infinite pixels", of_array(np.full((2, 8, 9), np.inf, np.float32), photometric="minisblack"), movie_of("m.tif"), "NaN or infinite pixels in frame 0"),
    Case(M, "complex pixels", of_array(np.zeros((2, 8, 9), np.complex64), photometric="minisblack"), movie_of("m.tif"), "which is no brightness"),
    Case(M, "a small TIFF that claims frames of 8 EiB", wide_tiff, movie_of("m.tif"), "a frame claims 8 EiB"),
    Case(M, "a frame of 72 px that unpacks to 512 MiB", deflate_bomb, movie_of("m.tif"), "unpacks to more than the 144 bytes"),
    Case(M, "OME metadata that claim 10,000,000,000 frames", ome('SizeC="1" SizeZ="1" SizeT="10000000000"', "<TiffData/>"), movie_of("m.ome.tif"), "claim SizeT = 10000000000, which cannot be"),
    Case(M, "OME metadata that claim a plane at -1", ome('SizeC="1" SizeZ="1" SizeT="3"', '<TiffData FirstT="-1"/>'), movie_of("m.ome.tif"), "claim FirstT = -1"),
    Case(M, "OME metadata that name a file in another folder", elsewhere("../secret.tif"), movie_of("m.ome.tif"), "not a name in the same folder"),
    Case(M, "OME metadata that name a file by its full path", elsewhere("/etc/secret.tif"), movie_of("m.ome.tif"), "not a name in the same folder"),
    Case(M, "OME metadata that name a file on a Windows server", elsewhere("\\\\server\\secret.tif"), movie_of("m.ome.tif"), "not a name in the same folder"),
    Case(M, "OME metadata that define entities", ome('SizeC="1" SizeZ="1" SizeT="3"', "", '<!DOCTYPE a [<!ENTITY b "c">]>'), movie_of("m.ome.tif"), "define entities"),
    Case(M, "an OME-TIFF whose other part is missing", ome('SizeC="1" SizeZ="1" SizeT="6"', '<TiffData IFD="0" PlaneCount="3"/><TiffData FirstT="3" IFD="0" PlaneCount="3"><UUID FileName="part2.ome.tif">urn:uuid:1</UUID></TiffData>'), movie_of("m.ome.tif"), "3 of 6 frames of"),
    Case(M, "a .raw without its .yaml", text("m.raw", bytes(144)), movie_of("m.raw"), "needs m.yaml beside it"),
    Case(M, "a .raw whose .yaml is no YAML", raw("a: [1"), movie_of("m.raw"), "cannot be read"),
    Case(M, "a .raw whose .yaml merges itself", raw("a: &a {b: 1}\nc: {<<: [*a, *a]}\n"), movie_of("m.raw"), "merge keys (<<) are not read"),
    Case(M, "a .raw whose .yaml would execute code", raw("!!python/object/apply:os.system ['touch hacked']"), movie_of("m.raw"), "holds no metadata"),
    Case(M, "a .raw whose .yaml is nested 10,000 levels deep", raw("[" * 10_000), movie_of("m.raw"), "cannot be read"),
    Case(M, "a .raw that claims more frames than it has", raw(_SQUARE + "Frames: 1000000\n"), movie_of("m.raw"), "says 1000000 frames, the file holds 1"),
    Case(M, "a .raw with a negative number of frames", raw(_SQUARE + "Frames: -1\n"), movie_of("m.raw"), "expected a whole number above 0"),
    Case(M, "a .raw of Python objects", raw("Data Type: O\nHeight: 8\nWidth: 9\nFrames: 1\n"), movie_of("m.raw"), "cannot be"),
    Case(M, "a .raw that is no whole number of frames", raw(_SQUARE + "Frames: 1\n", 150), movie_of("m.raw"), "6 bytes more"),
    Case(M, "a .dax whose .inf claims too much", dax("frame dimensions = 8 x 8\nnumber of frames = 999999999999\ndata type = 16 bit integers (binary, big endian)\n"), movie_of("m.dax"), "the file holds 1"),
    Case(M, "a .dax whose .inf is empty", dax(""), movie_of("m.dax"), "is it a .inf file?"),
    Case(M, "text named .nd2", text("m.nd2", "no movie"), movie_of("m.nd2"), "m.nd2"),
    Case(M, "a movie of a camera's own format", text("m.sif", "Andor"), movie_of("m.sif"), "Export it as 16-bit grey TIFF with Andor Solis"),
    Case(M, "a folder without movies", nothing, lambda f: refusal(lambda: find_movies([f])), "holds no movie"),
    Case(M, "a folder with a link that leads to itself", with_loop_among, lambda f: refusal(lambda: find_movies([f])), "a link in the folder may lead in a circle"),
    Case(M, "a link that leads to itself, as a movie", loop("m.tif"), movie_of("m.tif"), "does not exist"),
    Case(M, "a pipe named .tif", lambda f: os.mkfifo(f / "m.tif"), movie_of("m.tif"), "does not exist"),
    Case(M, "numbered frames of different sizes", uneven_sequence, movie_of("."), "Sort out the files that do not belong"),
    Case(M, "parts of different sizes joined to one movie", uneven_parts, join, "they are no parts of one movie"),
]  # fmt: skip


def _touch(path: Path) -> Path:
    path.touch()
    return path
