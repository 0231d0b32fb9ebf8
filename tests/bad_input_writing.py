"""Disks that are full, folders that cannot be written, memory that is gone, clocks that go back."""
# ruff: noqa: E501 - one row of the table a line

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from adaloc.cli_guard import errors, guarded
from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.files import write_text
from adaloc.localize.decode_file import write_decode_h5
from adaloc.localize.inference import Block
from adaloc.localize.work_file import WorkFile
from adaloc.models.model_file import save_tensors
from adaloc.monitor.log import load_run
from adaloc.monitor.report import html_report
from adaloc.simulation.camera_maps import CameraMaps, write_camera_maps
from adaloc.simulation.field_map import FieldMap, write_field_map
from adaloc.training.run_log import RunLog
from bad_input import Case, refusal
from bad_input_movies import nothing, text

_MANY = 40_000


@contextmanager
def full_disk(most_bytes: int = 8192) -> Iterator[None]:
    """Files cannot grow beyond a few KiB: the system refuses the write as it does on a full disk or over a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def on_full_disk(write: Callable[[Path], object]) -> Callable[[Path], str]:
    def act(folder: Path) -> str:
        with full_disk():
            return refusal(lambda: write(folder))

    return act


@contextmanager
def no_rights() -> Iterator[None]:
    """Another user for a moment, where this is the one whom nothing is forbidden."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def without_rights(write: Callable[[Path], object]) -> Callable[[Path], str]:
    def act(folder: Path) -> str:
        with no_rights():
            return refusal(lambda: write(folder))

    return act


def read_only(folder: Path) -> None:
    text("out", "what was there")(folder)
    folder.chmod(0o555)


def table(rows: int = _MANY) -> EmitterTable:
    values = np.random.default_rng(0).normal(size=rows)
    return EmitterTable(frame=np.arange(rows), x=values, y=values, z=values, photons=np.abs(values))


def work_file(folder: Path) -> None:
    with WorkFile(folder / "out", {"a": 1}, resume=True) as work:
        work.append(Block(10, 20, table()))


def begun_work(folder: Path) -> None:
    with WorkFile(folder / "out", {"a": 1}, resume=False) as work:
        work.append(Block(0, 10, table(3)))


def work_goes_on(folder: Path) -> str:
    before = (folder / "out").read_bytes()
    said = on_full_disk(work_file)(folder)
    with WorkFile(folder / "out", {"a": 1}, resume=True) as work:
        assert work.end == 10
        assert work.rows().num_rows == 3
    assert (folder / "out").read_bytes() == before
    return said


def maps(folder: Path) -> None:
    write_camera_maps(folder / "out", CameraMaps(*(np.ones((200, 200)) for _ in range(3))))


def decode(folder: Path) -> None:
    write_decode_h5(folder / "out", table(), PixelSize(x=100, y=100))


def through_command(error: Exception | Callable[[], object]) -> Callable[[Path], str]:
    """What a command says when something deep below it goes wrong."""

    def act(_: Path) -> str:
        def fail() -> None:
            if isinstance(error, Exception):
                raise error
            error()

        with errors.capture() as said, pytest.raises(typer.Exit) as ended:
            guarded(fail)()
        assert ended.value.exit_code == 1
        return " ".join(said.get().split())

    return act


def log_with(*events: dict[str, object] | str) -> Callable[[Path], None]:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return text("log.jsonl", "\n".join(lines) + "\n")


def _epoch(epoch: int, time_s: float, wall_s: float, loss: float = 3.0) -> dict[str, object]:
    return {"event": "epoch", "epoch": epoch, "step": epoch, "time_s": time_s, "wall_s": wall_s, "train_loss": loss,
            "val_loss": loss, "lr": 1e-3, "grad_norm": 1.0, "clipped_share": 0.0, "windows_per_s": 1.0,
            "wait_share": 0.0, "val_channels": {"x": loss}}  # fmt: skip


_START: dict[str, object] = {
    "event": "start", "time_s": 2e9, "version": "0.1.0", "seed": 0, "epochs": 9, "steps_per_epoch": 1, "device": "cpu",
    "num_parameters": 1, "no_information_loss": 5.5, "floor": None, "channels": ["x"], "channel_weights": [1.0],
    "lr_first": 1e-3, "scheduler_type": "<script>alert(1)</script>",
}  # fmt: skip


def report(folder: Path) -> str:
    page = html_report(load_run(folder), None)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    return page


def strange_config(folder: Path) -> None:
    folder = folder / "<img src=x onerror=alert(1)> $\\frac{"
    folder.mkdir()
    log_with(_START, _epoch(0, 2e9, 1.0))(folder)
    (folder / "config.json").write_text(json.dumps({"seed": "<script>alert(1)</script>"}), encoding="utf-8")


def report_of_strange(folder: Path) -> str:
    return report(next(folder.iterdir()))


W, R = "Disks, rights, memory", "Run folders"
CASES = [
    Case(W, "a full disk while text is written", text("out", "what was there"), on_full_disk(lambda f: write_text(f / "out", "a" * 10**6)), "could not be written"),
    Case(W, "a full disk while a model is written", text("out", "what was there"), on_full_disk(lambda f: save_tensors(f / "out", {"a": torch.zeros(10**5)})), "could not be written"),
    Case(W, "a full disk while localizations are written as HDF5", text("out", "what was there"), on_full_disk(decode), "could not be written"),
    Case(W, "a full disk while camera maps are written", text("out", "what was there"), on_full_disk(maps), "could not be written"),
    Case(W, "a full disk while a field map is written", text("out", "what was there"), on_full_disk(lambda f: write_field_map(f / "out", FieldMap(np.zeros((21, 64, 64)), np.zeros((4, 2)), np.zeros((4, 21))))), "could not be written"),
    Case(W, "a full disk in the middle of a localization", begun_work, work_goes_on, "could not be written", "all finished blocks; --resume goes on after them"),
    Case(W, "a full disk while a run's log is written", text("log.jsonl", "x" * 8192), on_full_disk(lambda f: RunLog(f / "log.jsonl").write("a")), "could not be written"),
    Case(W, "a folder that may not be written", read_only, without_rights(lambda f: write_text(f / "out", "new")), "No permission to write"),
    Case(W, "a file where the output folder should be", text("out", "a file"), lambda f: refusal(lambda: write_text(f / "out" / "b", "new")), "could not be written"),
    Case(W, "an output name of 300 characters", nothing, lambda f: refusal(lambda: write_text(f / ("a" * 300), "new")), "File name too long"),
    Case(W, "an output below a link that leads to itself", lambda f: (f / "l").symlink_to(f / "l"), lambda f: refusal(lambda: write_text(f / "l" / "out", "new")), "could not be written"),
    Case(W, "no memory left on the CPU, in torch", nothing, through_command(lambda: torch.empty(2**60)), "The memory does not suffice"),
    Case(W, "no memory left on the CPU, in numpy", nothing, through_command(lambda: np.empty(2**45)), "The memory does not suffice"),
    Case(W, "no memory left on the GPU", nothing, through_command(torch.cuda.OutOfMemoryError("CUDA out of memory.")), "The memory does not suffice"),
    Case(W, "a disk that fails while it is read", nothing, through_command(OSError(5, "Input/output error", "m.tif")), "m.tif: Input/output error"),
    Case(R, "a run folder that does not exist", nothing, lambda f: refusal(lambda: load_run(f / "run")), "run"),
    Case(R, "a log of noise", text("log.jsonl", bytes(range(256))), lambda f: refusal(lambda: load_run(f)), "no run"),
    Case(R, "a log whose last line is torn, and with lines nested too deeply", log_with(_START, "[" * 10**5, _epoch(0, 2e9, 1.0), '{"event": "epo'), report, "<html", "the page of what is whole"),
    Case(R, "a clock that went back by a year", log_with(_START, _epoch(0, 2e9, 2.0), _epoch(1, 2e9 - 3e7, 1.0)), report, "<html", "the page of all epochs"),
    Case(R, "NaN and infinite losses in the log", log_with(_START, _epoch(0, 2e9, 1.0, float("nan")), _epoch(1, 2e9, 2.0, float("inf"))), report, "<html", "the page of all epochs"),
    Case(R, "names that are HTML, TeX and scripts", strange_config, report_of_strange, "&lt;img src=x", "the page, with all of it escaped"),
]  # fmt: skip
