"""One movie in several parts: the same files as of one process, whoever ends last and whatever is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from adaloc.errors import AdalocError, ConfigError
from adaloc.localize import inference, work_file
from adaloc.localize.command import Localized, LocalizeOptions, localize_movies
from adaloc.localize.inference import View
from adaloc.localize.parts import Part, Split, parse_part, spans_of
from adaloc.localize.rows import Rows
from adaloc.localize.tiles import Box
from adaloc.localize.work_file import WorkFile, finished_until
from adaloc.locks import LockedError
from adaloc.models.model_file import save_model
from test_streaming import busy_model, make_block, outputs_of, random_frames

FORMATS = "thunderstorm,picasso,smap,decode"
OPTIONS = LocalizeOptions(threshold=0.6, formats=("thunderstorm", "picasso", "smap", "decode"))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, a movie of seven runs of three frames (the last of two), and its outputs from one process in `one`."""
    monkeypatch.setattr(inference, "_CPU_BYTES_AT_ONCE", 64 * 4 * 5 * 24 * 32)
    monkeypatch.setattr(inference, "_BLOCK_BYTES", 1)
    save_model(tmp_path / "model.pth", busy_model(tmp_path))
    tifffile.imwrite(tmp_path / "movie.tif", random_frames(20, 24, 32), photometric="minisblack")
    localize(tmp_path, "one", OPTIONS)
    return tmp_path


def localize(job: Path, folder: str, options: LocalizeOptions) -> tuple[list[Localized], str]:
    """What was written, and what was said."""
    said = Console(file=StringIO(), width=200)
    out = job / folder / "locs.csv"
    done = localize_movies(job / "model.pth", [job / "movie.tif"], out, job / folder / "locs.png", options, said)
    assert isinstance(said.file, StringIO)
    return done, said.file.getvalue()


def files_of(folder: Path) -> dict[str, bytes]:
    return {**outputs_of(folder), "locs.png": (folder / "locs.png").read_bytes()}


def of_part(number: int, total: int, **changes: object) -> LocalizeOptions:
    return replace(OPTIONS, part=Part(number, total), **changes)  # type: ignore[arg-type]


@given(st.integers(0, 50), st.integers(1, 200), st.integers(1, 40), st.integers(1, 20))
def test_parts_are_a_partition_into_whole_runs(begin: int, length: int, total: int, run: int) -> None:
    spans = spans_of(View(begin, begin + length, Box(0, 1, 0, 1)), total, run)
    assert len(spans) == total
    assert [frame for first, last in spans for frame in range(first, last)] == list(range(begin, begin + length))
    assert all((first - begin) % run == 0 for first, last in spans if first < last)
    runs = [-(-(last - first) // run) for first, last in spans]
    assert max(runs) - min(runs) <= 1
    assert runs[-1] > 0


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "2/", "-1/2", "1/0", "a/b", "²/3", "1/2/3"])
def test_a_part_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write for example 2/4"):
        parse_part(text)
    assert parse_part("2/4") == Part(2, 4)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_give_the_files_of_one_process(job: Path, order: tuple[int, ...]) -> None:
    for number in order[:-1]:
        done, said = localize(job, "parts", of_part(number, 3))
        assert done == []
        assert f"Part {number} of 3" in said
        assert "The one that ends last writes" in said
        assert not (job / "parts" / "locs.csv").exists()
    (done,), said = localize(job, "parts", of_part(order[-1], 3))
    assert done.num_localizations > 100
    assert f"{done.num_localizations} localizations in 20 frames" in said
    assert files_of(job / "parts") == files_of(job / "one")
    assert not list((job / "parts").glob("*unfinished"))
    _, said = localize(job, "parts", of_part(1, 3, resume=True))
    assert "is there already" in said


def test_more_parts_than_runs(job: Path) -> None:
    said = [localize(job, "many", of_part(number, 9))[1] for number in range(1, 10)]
    assert "Part 1 of 9 has no frames: the movie is too short" in said[0]
    assert files_of(job / "many") == files_of(job / "one")


def test_one_process_does_what_the_parts_left(job: Path) -> None:
    localize(job, "left", of_part(2, 4))
    with pytest.raises(ConfigError, match=r"begun in 4 parts.*Go on with --resume"):
        localize(job, "left", OPTIONS)
    with pytest.raises(ConfigError, match="begun in 4 parts"):
        localize(job, "left", of_part(1, 3, resume=True))
    with pytest.raises(ConfigError, match="holds an unfinished run, up to frame 9"):
        localize(job, "left", of_part(2, 4))
    with pytest.raises(ConfigError, match="another model, movie or option: --threshold"):
        localize(job, "left", of_part(2, 4, resume=True, threshold=0.7))
    localize(job, "left", replace(OPTIONS, resume=True))
    assert files_of(job / "left") == files_of(job / "one")


def test_parts_with_other_options_are_not_put_together(job: Path) -> None:
    localize(job, "mixed", of_part(1, 2))
    with pytest.raises(ConfigError, match="another model, movie or option: --threshold"):
        localize(job, "mixed", of_part(2, 2, threshold=0.7))
    assert not (job / "mixed" / "locs.csv").exists()


def test_a_damaged_part_is_named_and_made_again(job: Path) -> None:
    localize(job, "hurt", of_part(1, 2))
    path = job / "hurt" / "locs.1of2.unfinished"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert finished_until(path) == 9
    with pytest.raises(AdalocError, match=r"1of2.unfinished has been damaged: it is whole up to frame 6 alone"):
        localize(job, "hurt", of_part(2, 2))
    localize(job, "hurt", of_part(1, 2, resume=True))
    assert files_of(job / "hurt") == files_of(job / "one")


def test_when_two_end_together_one_writes(tmp_path: Path) -> None:
    split = Split(tmp_path / "a.csv", {}, ((0, 10), (10, 20)))
    for number, (begin, end) in enumerate(split.spans, 1):
        with split.open(number, resume=False) as work:
            work.append(make_block(begin, end))
        assert split.missing() == list(range(number + 1, 3))
    second: list[Rows | None] = []

    def join() -> None:
        with split.whole() as rows:
            second.append(rows)

    assert not split.is_taken(1)
    with split.whole() as rows:
        assert rows is not None
        assert (rows.num_rows, sum(map(len, rows.parts()))) == (10, 10)
        assert split.is_taken(1)
        thread = threading.Thread(target=join)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive(), "it waits, since the first one may yet fail"
    thread.join(20)
    assert second == [None]
    assert split.is_taken(1)
    assert list(tmp_path.iterdir()) == []


def test_when_the_first_of_two_fails_the_second_writes(tmp_path: Path) -> None:
    split = Split(tmp_path / "a.csv", {}, ((0, 10),))
    with split.open(1, resume=False) as work:
        work.append(make_block(0, 10))
    with pytest.raises(AdalocError, match="disk"), split.whole():
        raise AdalocError("the disk is full")
    with split.whole() as rows:
        assert rows is not None
        assert rows.num_rows == 5


def torchrun(job: Path, folder: str) -> subprocess.CompletedProcess[str]:
    worker = Path(__file__).parent / "parts_worker.py"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(worker), str(job / "model.pth"),
        str(job / "movie.tif"), "-o", str(job / folder / "locs.csv"), "--threshold", "0.6", "--format", FORMATS,
        "--render", str(job / folder / "locs.png"), "--device", "cpu",
    ]  # fmt: skip
    # Bit for bit, so with the threads that this process has: they decide the order of sums.
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=threads)


def test_two_processes_of_which_one_is_killed_and_then_resumed_give_the_files_of_one(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = torchrun(job, "two")
    assert died.returncode == 1, died.stderr
    left = {path.name: finished_until(path) for path in (job / "two").iterdir()}
    assert left == {"locs.1of2.unfinished": 6, "locs.2of2.unfinished": 12}, "finished blocks and nothing else"
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    _, said = localize(job, "two", replace(OPTIONS, resume=True, device="cpu"))
    assert "Part 2 of 2" in said
    monkeypatch.setenv("RANK", "0")
    _, said = localize(job, "two", replace(OPTIONS, resume=True, device="cpu"))
    assert "localizations in 20 frames" in said
    assert files_of(job / "two") == files_of(job / "one")
    assert not list((job / "two").glob("*unfinished"))


def test_torchrun_gives_the_parts_itself(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="leave --part out"):
        localize(job, "both", of_part(1, 2))
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ConfigError, match="RANK is 2, but WORLD_SIZE is 2"):
        localize(job, "both", OPTIONS)


# --- One process at a time ----------------------------------------------------------------------------------------


def test_two_processes_do_not_write_into_one_work_file(job: Path) -> None:
    path = job / "one" / "other.unfinished"
    with WorkFile(path, {}, resume=False) as work:
        work.append(make_block(0, 10))
        before = path.read_bytes()
        for resume in (False, True):
            with pytest.raises(LockedError, match=r"Another process is localizing into .*other\.unfinished"):
                WorkFile(path, {}, resume=resume)
        with pytest.raises(LockedError, match="Wait until it ends"):
            localize_movies(
                job / "model.pth", [job / "movie.tif"], path.with_suffix(".csv"), None, OPTIONS, Console(quiet=True)
            )
        assert path.read_bytes() == before
        work.append(make_block(10, 20))
    with WorkFile(path, {}, resume=True) as work:
        assert work.end == 20


def test_a_work_file_removed_before_it_is_locked_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process ends, and removes its file, between the opening and the locking of it."""
    path = tmp_path / "a.unfinished"
    tries = []

    def slow_lock(descriptor: int) -> bool:
        tries.append(descriptor)
        if len(tries) == 1:
            path.unlink()
        elif len(tries) == 2:
            path.unlink()
            path.write_bytes(b"of a third process")
        return try_lock(descriptor)

    try_lock = work_file.try_lock
    monkeypatch.setattr(work_file, "try_lock", slow_lock)
    with WorkFile(path, {}, resume=False) as work:
        work.append(make_block(0, 10))
        assert len(tries) == 3
        assert finished_until(path) == 10


def test_without_locks_it_works_and_says_so(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lock(_: int) -> bool:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(work_file, "try_lock", no_lock)
    _, said = localize(job, "unlocked", OPTIONS)
    assert "the file system knows no locks" in said
    assert files_of(job / "unlocked") == files_of(job / "one")
