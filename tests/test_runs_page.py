"""What is told of runs that go on: which still train, what is newest, and what is worth doing when they have ended."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from adaloc.monitor.advice import advise
from adaloc.monitor.live import live_view, seems_running
from adaloc.monitor.log import load_run
from adaloc.monitor.report import html_report
from adaloc.monitor.serve import Pages
from adaloc.training.run_log import RunLog
from monitor_runs import write_run


def status_cell(page: str, name: str) -> str:
    """The words of the second column of a run."""
    row = page.split(f'<tr data-run="{name}">', 1)[1].split("</tr>", 1)[0]
    return row.split("</td>")[1].rsplit(">", 1)[1].strip()


def served(folder: Path) -> str:
    answer = Pages(folder, 5.0, "en").answer("/content/runs")
    assert answer is not None
    return answer[1]


def test_a_run_that_writes_is_running_and_one_that_is_silent_is_not(tmp_path: Path) -> None:
    write_run(tmp_path / "on", [4.0, 3.0], status=None, start={"epochs": 100})
    write_run(tmp_path / "off", [4.0, 3.0], status=None, start={"epochs": 100})
    write_run(tmp_path / "done", [4.0, 3.0])
    old = time.time() - 3600
    os.utime(tmp_path / "off" / "log.jsonl", (old, old))
    page = served(tmp_path)
    assert [status_cell(page, name) for name in ("on", "off", "done")] == ["running", "not finished", "finished"]


def test_a_page_made_before_says_when_a_run_fell_silent(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [4.0, 3.0], status=None, start={"epochs": 100})
    write_run(tmp_path / "b", [4.0, 3.0])
    pages = Pages(tmp_path, 5.0, "en")
    first, old = pages.answer("/content/runs"), time.time() - 3600
    os.utime(tmp_path / "a" / "log.jsonl", (old, old))
    second = pages.answer("/content/runs")
    assert first is not None
    assert second is not None
    assert status_cell(first[1], "a") == "running"
    assert status_cell(second[1], "a") == "not finished"


@pytest.mark.parametrize(("quiet_s", "expected"), [(0.0, True), (299.0, True), (301.0, False)])
def test_short_epochs_allow_five_minutes_of_silence(tmp_path: Path, quiet_s: float, expected: bool) -> None:
    run = load_run(write_run(tmp_path, [4.0, 3.0], status=None))
    assert seems_running(run, 4.0, quiet_s) is expected
    assert seems_running(run, 1000.0, quiet_s)
    assert not seems_running(load_run(write_run(tmp_path / "ended", [4.0])), 1000.0, 0.0)


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_a_narrow_terminal_shows_the_newest_loss(tmp_path: Path, width: int) -> None:
    """It rises in the end alone, so the last block is the highest, at any width, and no line is cut off."""
    run = load_run(write_run(tmp_path, [1.0] * 190 + [5.0] * 10))
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(live_view(run))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    line = next(line for line in text.splitlines() if "▁" in line)
    assert line.rstrip(" │").endswith("█")
    assert "…" not in line


def test_waiting_is_no_advice_for_a_run_that_has_ended(tmp_path: Path) -> None:
    finding = {"cause": "unknown", "score": 1.0, "evidence": {}}
    texts = []
    for name, status in (("on", None), ("ended", "finished")):
        folder = write_run(tmp_path / name, [4.0] * 30, status=None, start={"epochs": 100})
        log = RunLog(folder / "log.jsonl")
        log.write("diagnosis", epoch=29, findings=[finding])
        if status is not None:
            log.write("end", epoch=30, status=status, reason="all epochs are trained")
        texts.append(" ".join(advice.text for advice in advise(load_run(folder))))
    assert "no known cause explains it" in texts[0]
    assert "no known cause explains it" not in texts[1]


def test_a_printed_report_leaves_the_whole_config_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [4.0, 3.0])
    (folder / "config.json").write_text('{"seed": 3}', encoding="utf-8")
    page = html_report(load_run(folder))
    assert '<details class="not-printed" id="whole-config">' in page
    printed = page.split("@media print", 1)[1].split("</style>", 1)[0]
    assert ".not-printed { display: none; }" in printed
