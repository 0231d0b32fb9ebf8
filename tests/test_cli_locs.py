"""The commands from localizations to an image, end to end on a small simulated movie."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.localize.density import planes
from adaloc.localize.export import write_picasso_hdf5, write_thunderstorm_csv
from adaloc.localize.read import read_localizations
from adaloc.localize.render import write_ome_tiff

OBLONG = PixelSize(x=120, y=80)
NUM_FRAMES = 600


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def movie() -> EmitterTable:
    """100 molecules on a grid, 500 nm apart, each blinking 8 times; the stage drifts by 100 nm in x and 40 in z."""
    rng = np.random.default_rng(0)
    place = 500.0 * np.stack(np.meshgrid(np.arange(1, 11), np.arange(1, 11), [0.0]), axis=-1).reshape(-1, 3)
    place += rng.uniform(-150, 150, place.shape)
    molecule = np.repeat(np.arange(100), 16)
    start = np.repeat(rng.integers(0, NUM_FRAMES - 1, 800), 2)
    frame = start + np.tile([0, 1], 800)
    sigma = np.tile([10.0, 10.0, 25.0], (len(frame), 1))
    drift = np.outer(frame / NUM_FRAMES, [100.0, 0.0, 40.0])
    point = place[molecule] + drift + rng.normal(size=sigma.shape) * sigma
    return EmitterTable(
        frame, point[:, 0] / 120, point[:, 1] / 80, point[:, 2], rng.uniform(500, 2000, len(frame)),
        np.full(len(frame), 20.0), sigma[:, 0] / 120, sigma[:, 1] / 80, sigma[:, 2],
    )  # fmt: skip


@pytest.fixture
def locs(movie: EmitterTable, tmp_path: Path) -> Path:
    path = tmp_path / "locs.hdf5"
    write_picasso_hdf5(path, movie, OBLONG, image_size_px=(75, 50), num_frames=NUM_FRAMES)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_from_drift_to_molecules(locs: Path, tmp_path: Path) -> None:
    corrected, molecules = tmp_path / "corrected.hdf5", tmp_path / "molecules.csv"
    said = run("drift", locs, "-o", corrected, "--blocks", 5)
    assert "Drift in x" in said
    curve = rows_of(tmp_path / "corrected_drift.csv")
    assert len(curve) == NUM_FRAMES
    span = {axis: float(curve[-1][f"{axis} [nm]"]) - float(curve[0][f"{axis} [nm]"]) for axis in "xyz"}
    assert span["x"] == pytest.approx(100, abs=8)
    assert span["y"] == pytest.approx(0, abs=8)
    assert span["z"] == pytest.approx(40, abs=15)
    assert (tmp_path / "corrected_drift.png").is_file()

    said = run("group", corrected, "-o", molecules)
    rows = rows_of(molecules)
    # Blinks of one frame pair share a little drift, so a few molecules are cut.
    assert len(rows) == pytest.approx(100, abs=6)
    assert f"{len(rows)} molecules" in said
    assert sum(int(row["detections"]) for row in rows) == 1600
    assert all(int(row["frame"]) <= int(row["last_frame"]) for row in rows)
    assert float(rows[0]["uncertainty_xy [nm]"]) < 10
    # Its own reader and ThunderSTORM's columns: nm, frames from 1.
    table = read_localizations(molecules, OBLONG).table
    assert table.x[0] == pytest.approx(float(rows[0]["x [nm]"]) / 120 - 0.5)


def test_link_and_frc(locs: Path, tmp_path: Path) -> None:
    blinks = tmp_path / "blinks.csv"
    said = run("link", locs, "-o", blinks, "--radius-sigmas", 5, "--use-z")
    assert "1600 localizations are" in said
    rows = rows_of(blinks)
    assert 700 < len(rows) < 830
    photons = sum(float(row["intensity [photon]"]) for row in rows)
    assert photons == pytest.approx(read_localizations(locs).table.photons.sum(), rel=1e-4)
    assert "FRC resolution" in run("frc", locs, "-o", tmp_path / "frc.png")
    assert (tmp_path / "frc.png").is_file()
    assert (tmp_path / "frc.csv").is_file()


def test_uncertainties_given_computed_or_missing(movie: EmitterTable, tmp_path: Path) -> None:
    bare = movie.with_columns(x_sigma=None, y_sigma=None, z_sigma=None)
    path, out = tmp_path / "bare.csv", tmp_path / "molecules.csv"
    write_thunderstorm_csv(path, bare, OBLONG)
    common = ("group", path, "-o", out, "--pixel-size-nm", "120x80")
    assert "--sigma-nm" in run(*common, status=2)
    assert "--sigma-z-nm" in run(*common, "--sigma-nm", 10, status=2)
    run(*common, "--sigma-nm", 10, "--sigma-z-nm", 25)
    assert "uncertainty_z [nm]" in rows_of(out)[0]
    run(*common, "--psf-sigma-nm", 130, "--ignore-z")
    assert float(rows_of(out)[0]["uncertainty_x [nm]"]) < 30
    write_thunderstorm_csv(path, bare.with_columns(background=None), OBLONG)
    assert "needs a background" in run(*common, "--psf-sigma-nm", 130, status=2)


def test_wrong_uncertainties_are_said_to_be(movie: EmitterTable, tmp_path: Path) -> None:
    still = movie.with_columns(
        x=movie.x - movie.frame / NUM_FRAMES * 100 / 120, z=movie.z - movie.frame / NUM_FRAMES * 40
    )
    path, out = tmp_path / "locs.csv", tmp_path / "molecules.csv"
    write_thunderstorm_csv(path, still, OBLONG)
    common = ("group", path, "-o", out, "--pixel-size-nm", "120x80")
    assert "Warning" not in run(*common)
    assert "too small" in run(*common, "--sigma-nm", 6, "--sigma-z-nm", 15)
    assert "too large" in run(*common, "--sigma-nm", 15, "--sigma-z-nm", 38)


def test_wrong_names_and_values(locs: Path, tmp_path: Path) -> None:
    for command in ("link", "group", "drift"):
        assert ".csv" in run(command, locs, "-o", tmp_path / "x.txt", status=2)
    assert ".png" in run("frc", locs, "-o", tmp_path / "x.txt", status=2)
    assert ".png" in run("render", locs, "-o", tmp_path / "x.jpg", status=2)
    assert "gaussian" in run("render", locs, "-o", tmp_path / "x.png", "--mode", "best", status=2)
    assert "below" in run("render", locs, "-o", tmp_path / "x.png", "--z-limits-nm", "5:5", status=2)
    assert "fewer blocks" in run("drift", locs, "-o", tmp_path / "x.csv", "--blocks", 100, status=1)
    with_zero = read_localizations(locs)
    sigma = np.full(len(with_zero.table), 10.0)
    sigma[3] = 0.0
    broken = tmp_path / "zero.csv"
    write_thunderstorm_csv(broken, with_zero.table.with_columns(z_sigma=sigma), OBLONG)
    assert "row 4" in run("group", broken, "-o", tmp_path / "x.csv", "--pixel-size-nm", "120x80", status=1)


def test_images(locs: Path, tmp_path: Path) -> None:
    run("render", locs, "-o", tmp_path / "image.png", "--render-pixel-nm", 20)
    with Image.open(tmp_path / "image.png") as image:
        assert image.size == (300, 300)
    run("render", locs, "-o", tmp_path / "image.ome.tiff", "--render-pixel-nm", 20, "--mode", "histogram")
    with tifffile.TiffFile(tmp_path / "image.ome.tiff") as tiff:
        channels = tiff.asarray()
        metadata = ElementTree.fromstring(tiff.ome_metadata or "")
    assert channels.shape == (2, 300, 300)
    assert channels[0].sum() == 1600
    pixels = next(e for e in metadata.iter() if e.tag.endswith("}Pixels"))
    assert (pixels.attrib["PhysicalSizeX"], pixels.attrib["PhysicalSizeXUnit"]) == ("20.0", "nm")
    assert pixels.attrib["SizeC"] == "2"
    run("render", locs, "-o", tmp_path / "flat.tif", "--no-color-z")
    assert tifffile.imread(tmp_path / "flat.tif").ndim == 2


def test_the_numbers_in_the_tiff_are_those_of_the_planes(tmp_path: Path) -> None:
    two = EmitterTable(
        np.zeros(2, int), np.array([5.0, 20.0]), np.array([7.0, 7.0]), np.array([-100.0, 300.0]), np.ones(2)
    )
    drawn = planes(two, pixel_size_nm=OBLONG, image_size_px=(20, 30), blur_nm=0, with_depth=True)
    write_ome_tiff(tmp_path / "planes.ome.tiff", drawn, 10.0)
    density, depth = tifffile.imread(tmp_path / "planes.ome.tiff")
    # x = 5 px is 660 nm from the edge, y = 7 px is 600.
    assert np.argwhere(density).tolist() == [[60, 66], [60, 246]]
    assert (depth[60, 66], depth[60, 246]) == (-100, 300)
    assert np.isnan(depth).sum() == density.size - 2


def test_gaussians_have_the_weight_one(tmp_path: Path) -> None:
    spot = EmitterTable(np.zeros(1, int), np.array([15.0]), np.array([10.0]), np.zeros(1), np.ones(1))
    drawn = planes(spot, pixel_size_nm=OBLONG, image_size_px=(20, 30), blur_nm=40.0)
    assert drawn.density.sum() == pytest.approx(1, rel=1e-3)
    assert drawn.depth_nm is None


def test_a_real_file_of_another_program(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """Picasso's own localizations go through every command."""
    source = shared_data("picasso/raw_movie_locs.hdf5")
    run("drift", source, "-o", tmp_path / "corrected.hdf5", "--blocks", 4)
    run("link", tmp_path / "corrected.hdf5", "-o", tmp_path / "blinks.hdf5", "--max-dark-frames", 1)
    said = run("group", tmp_path / "blinks.hdf5", "-o", tmp_path / "molecules.csv")
    num = len(rows_of(tmp_path / "molecules.csv"))
    assert 1 <= num < len(read_localizations(tmp_path / "blinks.hdf5").table)
    assert f"{num} molecules" in said
    run("frc", tmp_path / "corrected.hdf5")
    run("render", tmp_path / "molecules.csv", "-o", tmp_path / "image.png", "--pixel-size-nm", 130)
