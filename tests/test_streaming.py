"""Streaming inference: tiles, blocks and views do not change the result; a killed run ends with the same files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.spatial import KDTree

from adaloc.config import NetworkConfig, PixelSize
from adaloc.data.scaling import measure_scaling
from adaloc.emitters import EmitterTable, concatenate
from adaloc.errors import AdalocError, ConfigError, MovieError
from adaloc.localize import command, inference
from adaloc.localize.command import LocalizeOptions, certain_rows, localize_movies
from adaloc.localize.inference import Block, localize_frames, localize_stream, view_of
from adaloc.localize.movie import ArrayMovie
from adaloc.localize.read import read_localizations
from adaloc.localize.tiles import Box, plan_tiles
from adaloc.localize.work_file import WorkFile
from adaloc.models.model_file import Model, make_model, save_model
from adaloc.models.network import LocalizationNetwork
from small import outputs_of_an_island, small_config

QUIET = Console(quiet=True)


def busy_model(folder: Path, **network: Any) -> Model:
    """An untrained network whose outputs vary with its input, so that it finds something everywhere."""
    torch.manual_seed(0)
    scaling = measure_scaling(
        input_mean=19, input_std=2, num_pixels=10, columns=tuple(np.arange(3.0) for _ in range(5))
    )
    model = make_model(small_config(folder, network=network), scaling)
    with torch.no_grad():
        output = model.network.second_stage[-1]
        assert isinstance(output, torch.nn.Conv2d)
        assert output.bias is not None
        output.weight.normal_(std=0.6)
        output.weight[0] *= 0.3  # no probability so near to 1 that rounding decides which of two is higher
        output.weight[1:3] *= 0.05  # offsets of less than a pixel
        output.bias[0] = -2.0
    return model


def random_frames(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint16]]:
    frames = np.random.default_rng(seed).integers(100, 900, (num_frames, height, width))
    return frames.astype(np.uint16)


def partners(found: EmitterTable, expected: EmitterTable) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The nearest row of the same frame for each expected row, and how far it is; the order within a frame is open."""
    points = [np.stack([1000.0 * table.frame, table.x, table.y], axis=1) for table in (found, expected)]
    distance, row = KDTree(points[0]).query(points[1])
    return row, distance


def assert_same(found: EmitterTable, expected: EmitterTable) -> None:
    assert len(found) == len(expected) > 20
    assert (np.diff(found.frame) >= 0).all()
    row, distance = partners(found, expected)
    assert len(set(row)) == len(found)
    assert distance.max() < 1e-3
    for name in ("x", "y", "z", "photons", "background", "probability"):
        np.testing.assert_allclose(getattr(found, name)[row], getattr(expected, name), atol=1e-3, err_msg=name)


# --- The receptive field ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first_depth", "depth"), [(1, 1), (2, 2), (1, 2)])
def test_nothing_beyond_the_margin_reaches_an_output(first_depth: int, depth: int) -> None:
    network = LocalizationNetwork(NetworkConfig(base_channels=4, depth=depth, first_stage_depth=first_depth), 3).eval()
    margin, multiple = network.margin_px, network.size_multiple_px
    widest = 0
    for phase in range(multiple):
        first, last, finite = outputs_of_an_island(network, phase)
        assert finite[first:last, first:last].all()
        rows = torch.nonzero(finite.any(1))[:, 0]
        widest = max(widest, margin - (first - int(rows.min())), margin - (int(rows.max()) - last + 1))
    # The margin wastes less than the coarsest pixel of each stage.
    assert margin - 2 * multiple < widest <= margin


# --- Tiles ------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(0, 60), st.sampled_from([1, 2, 4, 8]),
    st.integers(2_000, 200_000), st.data(),
)  # fmt: skip
def test_tiles_cover_the_region_once_with_their_margins(
    height: int, width: int, margin: int, multiple: int, pixels: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = Box(top, data.draw(st.integers(top + 1, height)), left, data.draw(st.integers(left + 1, width)))
    plan = plan_tiles(
        region, (height, width), margin_px=margin, multiple_px=multiple, context_frames=2, pixels_at_once=pixels
    )
    covered = np.zeros((height, width), int)
    for tile in plan.tiles:
        covered[tile.keep.rows, tile.keep.columns] += 1
        assert tile.read.top % multiple == tile.read.left % multiple == 0
        assert tile.read.top <= max(tile.keep.top - margin, 0)
        assert tile.read.left <= max(tile.keep.left - margin, 0)
        assert min(tile.keep.bottom + margin, height) <= tile.read.bottom <= height
        assert min(tile.keep.right + margin, width) <= tile.read.right <= width
        run = (plan.frames_at_once + 2) * (tile.read.bottom - tile.read.top) * (tile.read.right - tile.read.left)
        assert run <= pixels or plan.frames_at_once == 1
    expected = np.zeros((height, width), int)
    expected[region.rows, region.columns] = 1
    np.testing.assert_array_equal(covered, expected)


def test_a_small_movie_is_one_tile_and_a_large_one_many() -> None:
    common = {"margin_px": 41, "multiple_px": 4, "context_frames": 2, "pixels_at_once": 400_000}
    small = plan_tiles(Box(0, 64, 0, 64), (64, 64), **common)
    assert (len(small.tiles), small.frames_at_once) == (1, 400_000 // 64**2 - 2)
    large = plan_tiles(Box(0, 2048, 0, 2048), (2048, 2048), **common)
    assert len(large.tiles) > 16
    assert large.frames_at_once >= 2


def test_what_tiles_cost_does_not_grow_with_the_frame() -> None:
    """They overlap, and read frames around their own; for each pixel of the frame that has a limit."""
    costs = []
    for size in (1024, 2048, 4096):
        plan = plan_tiles(
            Box(0, size, 0, size), (size, size), margin_px=41, multiple_px=4, context_frames=2, pixels_at_once=390_625
        )
        read = sum((t.read.bottom - t.read.top) * (t.read.right - t.read.left) for t in plan.tiles)
        costs.append(read * (1 + 1 / plan.frames_at_once) / size**2)
    assert costs[0] < costs[1] < costs[2] < 1.15 * costs[0]
    assert costs[2] < 3


@pytest.mark.parametrize("size", [(131, 158), (60, 410)])
def test_tiles_agree_with_the_whole_frame(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = busy_model(tmp_path, depth=2)
    frames = random_frames(3, *size)
    whole = localize_frames(model, frames, threshold=0.6)
    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 3 * 140 * 140)
    plan = inference.plan_of(model, ArrayMovie(frames), view_of(ArrayMovie(frames)), torch.device("cpu"))
    assert len(plan.tiles) >= 2
    assert_same(localize_frames(model, frames, threshold=0.6), whole)


def test_a_missing_margin_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = busy_model(tmp_path, depth=2)
    frames = random_frames(3, 131, 158)
    whole = localize_frames(model, frames, threshold=0.6)
    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 3 * 140 * 140)
    monkeypatch.setattr(LocalizationNetwork, "margin_px", 2)
    cut = localize_frames(model, frames, threshold=0.6)
    assert partners(cut, whole)[1].max() > 1e-2


# --- Frames, regions --------------------------------------------------------------------------------------------


def test_blocks_and_views_are_parts_of_the_whole_movie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = busy_model(tmp_path)
    frames = random_frames(13, 40, 52)
    whole = localize_frames(model, frames, threshold=0.6)
    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 4 * 40 * 52)
    monkeypatch.setattr(inference, "_BLOCK_BYTES", 4 * 40 * 52 * 2)
    ends: list[int] = []
    assert_same(localize_frames(model, frames, threshold=0.6, on_progress=ends.append), whole)
    assert ends == [4, 8, 12, 13]

    movie = ArrayMovie(frames)
    view = view_of(movie, (3, 9), Box(top=7, bottom=30, left=11, right=41))
    found = concatenate([block.table for block in localize_stream(model, movie, view, threshold=0.6)])
    # A localization belongs to the pixel of its maximum, and may lie a pixel beside it.
    inside = (whole.frame >= 3) & (whole.frame < 9)
    assert partners(whole.select(inside), found)[1].max() < 1e-3
    well_inside = inside & (whole.x > 12.5) & (whole.x < 38.5) & (whole.y > 8.5) & (whole.y < 27.5)
    assert 20 < well_inside.sum() <= len(found)


def test_open_ends_and_bad_views() -> None:
    movie = ArrayMovie(random_frames(13, 40, 52))
    assert view_of(movie, (5, None)).end == 13
    with pytest.raises(ConfigError, match="it has 13 frames"):
        view_of(movie, (5, 14))
    with pytest.raises(ConfigError, match="52 px wide"):
        view_of(movie, None, Box(0, 40, 0, 53))


def test_the_ends_are_their_own_neighbours(tmp_path: Path) -> None:
    model = busy_model(tmp_path)
    frames = random_frames(3, 24, 24)
    padded = np.concatenate([frames[:1], frames, frames[-1:]])
    inner = localize_frames(model, padded, threshold=0.6)
    inner = inner.select((inner.frame > 0) & (inner.frame < 4))
    assert_same(localize_frames(model, frames, threshold=0.6), replace(inner, frame=inner.frame - 1))


def test_the_next_block_is_read_while_one_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    class Watched(ArrayMovie):
        def _read(self, begin: int, end: int) -> Any:
            threads.append((threading.current_thread().name, begin))
            return super()._read(begin, end)

    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 3 * 24 * 24)
    monkeypatch.setattr(inference, "_BLOCK_BYTES", 1)
    movie = Watched(random_frames(9, 24, 24))
    stream = localize_stream(busy_model(tmp_path), movie, view_of(movie))
    next(stream)
    stream.close()
    assert [begin for _, begin in threads] == [0, 0]  # with its context frame, the second block begins at 0 as well
    assert all(name.startswith("movie-reader") for name, _ in threads)


# --- The work file ----------------------------------------------------------------------------------------------


def make_block(begin: int, end: int, rows: int = 5, **columns: Any) -> Block:
    rng = np.random.default_rng(begin)
    x, y, z, photons = rng.uniform(0, 30, (4, rows))
    frame = np.sort(rng.integers(begin, end, rows))
    return Block(begin, end, EmitterTable(frame, x, y, z, photons, **columns))


def read_back(path: Path, settings: dict[str, Any]) -> EmitterTable:
    with WorkFile(path, settings, resume=True) as work:
        return concatenate(list(work.rows().parts()))


def test_what_is_appended_comes_back(tmp_path: Path) -> None:
    path, ids = tmp_path / "a.unfinished", np.arange(5)
    blocks = [
        make_block(0, 10, probability=np.full(5, 0.7), emitter_id=ids),
        make_block(10, 20, rows=0),
        make_block(20, 21),
    ]
    with WorkFile(path, {"a": 1}, resume=False) as work:
        for block in blocks:
            work.append(block)
        assert (work.end, work.rows().num_rows, work.rows().columns) == (21, 10, {"frame", "x", "y", "z", "photons"})
    expected, found = concatenate([block.table for block in blocks]), read_back(path, {"a": 1})
    for field in fields(EmitterTable):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_cut_anywhere_the_whole_blocks_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.unfinished"
    ends = []
    with WorkFile(path, {}, resume=False) as work:
        for begin in (0, 10, 20):
            work.append(make_block(begin, begin + 10, rows=2))
            ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for length in range(0, len(whole) + 1, 3):
        path.write_bytes(whole[:length])
        with WorkFile(path, {}, resume=True) as work:
            finished = sum(end <= length for end in ends)
            assert work.end == (10 * finished or None)
            assert work.rows().num_rows == 2 * finished
            work.append(make_block(10 * finished, 10 * finished + 10, rows=2))
        assert len(read_back(path, {})) == 2 * (finished + 1)


def test_a_flipped_bit_ends_what_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "a.unfinished"
    with WorkFile(path, {}, resume=False) as work:
        work.append(make_block(0, 10))
        middle = path.stat().st_size
        work.append(make_block(10, 20))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with WorkFile(path, {}, resume=True) as work:
        assert work.end == 10
    assert path.stat().st_size == middle


def test_another_run_is_not_continued_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.unfinished"
    with WorkFile(path, {"--threshold": 0.5, "model": "x"}, resume=False) as work:
        work.append(make_block(0, 10))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another model, movie or option: --threshold"):
        WorkFile(path, {"--threshold": 0.6, "model": "x"}, resume=True)
    with pytest.raises(ConfigError, match="Go on with it with --resume"):
        WorkFile(path, {"--threshold": 0.5, "model": "x"}, resume=False)
    assert path.read_bytes() == before


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkFile(tmp_path / "a.unfinished", {}, resume=False) as work:
        work.append(make_block(0, 10))
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(AdalocError, match="disk is full"):
            work.append(make_block(10, 20))


# --- The command ------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and a movie that is localized in seven blocks."""
    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 5 * 24 * 32)
    monkeypatch.setattr(inference, "_BLOCK_BYTES", 1)
    save_model(tmp_path / "model.pth", busy_model(tmp_path))
    tifffile.imwrite(tmp_path / "movie.tif", random_frames(20, 24, 32), photometric="minisblack")
    return tmp_path


ALL = LocalizeOptions(threshold=0.6, formats=("thunderstorm", "picasso", "smap", "decode"))
OUTPUTS = ("locs.csv", "locs.hdf5", "locs.yaml", "locs_smap.csv", "locs.h5")


def outputs_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def interrupted(blocks: int) -> Any:
    def stream(*arguments: Any, **options: Any) -> Iterator[Block]:
        for number, block in enumerate(localize_stream(*arguments, **options)):
            if number == blocks:
                raise KeyboardInterrupt
            yield block

    return stream


def test_an_interrupted_run_ends_with_the_same_files(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (job / "model.pth", [job / "movie.tif"])
    (done,) = localize_movies(*arguments, job / "a" / "locs.csv", None, ALL, QUIET)
    assert done.num_localizations > 100
    for blocks in (0, 1, 5, 7):
        out = job / f"b{blocks}" / "locs.csv"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(command, "localize_stream", interrupted(blocks))
            patch.setattr(command, "write_outputs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            localize_movies(*arguments, out, None, ALL, QUIET)
        assert [path.name for path in out.parent.iterdir()] == ["locs.unfinished"]
        localize_movies(*arguments, out, None, replace(ALL, resume=True), QUIET)
        assert outputs_of(out.parent) == outputs_of(job / "a")
        assert not (out.parent / "locs.unfinished").exists()


SLOW_JOB = """
import sys, time
from pathlib import Path
from rich.console import Console
from adaloc.localize import command, inference
from adaloc.localize.command import LocalizeOptions, localize_movies
from adaloc.localize.inference import localize_stream
inference._CPU_BYTES_AT_ONCE, inference._BLOCK_BYTES = 64 * 4 * 5 * 24 * 32, 1
def slowly(*arguments, **options):
    for block in localize_stream(*arguments, **options):
        yield block
        time.sleep(0.3)
command.localize_stream = slowly
options = LocalizeOptions(threshold=0.6, formats=("thunderstorm", "picasso", "smap", "decode"))
folder = Path(sys.argv[1])
localize_movies(folder / "model.pth", [folder / "movie.tif"], folder / "k" / "locs.csv", None, options, Console())
"""


def test_kill_minus_nine_and_resume(job: Path) -> None:
    localize_movies(job / "model.pth", [job / "movie.tif"], job / "a" / "locs.csv", None, ALL, QUIET)
    # Bit for bit, so with the threads that this process has: they decide the order of sums.
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", SLOW_JOB, str(job)], stdout=subprocess.DEVNULL, env=threads)
    work = job / "k" / "locs.unfinished"
    deadline = time.monotonic() + 180
    while (not work.exists() or work.stat().st_size < 4000) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert [path.name for path in work.parent.iterdir()] == ["locs.unfinished"]
    localize_movies(
        job / "model.pth", [job / "movie.tif"], job / "k" / "locs.csv", None, replace(ALL, resume=True), QUIET
    )
    assert outputs_of(work.parent) == outputs_of(job / "a")


def test_views_filters_and_several_movies(job: Path) -> None:
    tifffile.imwrite(job / "other.ome.tif", random_frames(6, 20, 20, seed=1), photometric="minisblack")
    movies = [job / "movie.tif", job / "other.ome.tif"]
    options = LocalizeOptions(threshold=0.6, frames=(2, 5), region=Box(4, 20, 3, 19), formats=("picasso",))
    done = localize_movies(job / "model.pth", movies, job / "out", job / "images", options, QUIET)
    assert [path.name for path in sorted((job / "out").iterdir())] == [
        "movie.hdf5", "movie.yaml", "other.hdf5", "other.yaml",
    ]  # fmt: skip
    assert [path.name for path in sorted((job / "images").iterdir())] == ["movie.png", "other.png"]
    found = read_localizations(done[0].outputs["picasso"])
    assert (found.image_size_px, found.num_frames) == ((24, 32), 20)
    table = found.table
    assert set(table.frame) == {2, 3, 4}
    assert table.x.min() > 1
    assert table.x.max() < 21.5
    # Finished movies are left out when a batch is resumed.
    assert localize_movies(job / "model.pth", movies, job / "out", None, replace(options, resume=True), QUIET) == []
    with pytest.raises(ConfigError, match="2 movies"):
        localize_movies(job / "model.pth", movies, job / "locs.csv", None, options, QUIET)
    with pytest.raises(MovieError, match="no parts of one movie"):
        localize_movies(job / "model.pth", movies, job / "locs.csv", None, options, QUIET, join=True)


def test_the_uncertainty_filter(job: Path) -> None:
    sigma = np.array([0.05, 0.3, 0.05, 0.1, 0.1])
    table = make_block(0, 9, x_sigma=sigma, y_sigma=sigma[::-1]).table
    # In nm: 10 and 20, 30 and 20, 5 and 10, 10 and 60, 10 and 10.
    kept = certain_rows(table, PixelSize(x=100, y=200), 20)
    np.testing.assert_array_equal(kept.photons, table.photons[[0, 2, 4]])
    options = LocalizeOptions(max_sigma_nm=20)
    with pytest.raises(ConfigError, match="predicts uncertainties"):
        localize_movies(job / "model.pth", [job / "movie.tif"], job / "locs.csv", None, options, QUIET)
