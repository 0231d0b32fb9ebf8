"""Nothing is lost: kill -9 anywhere, signals that ask to stop, and one trainer for a run folder. Real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from adaloc.bench.kill import CASES, run_study
from adaloc.bench.kill_compare import differences, outcome, unreadable
from adaloc.config_file import dump_config
from adaloc.files import remove_leftovers, write_text
from adaloc.locks import LockedError, hold_lock
from adaloc.main_job import train
from small import small_config, small_data

QUIET = Console(quiet=True)
ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_trainings_end_as_one_that_was_not_killed(tmp_path: Path) -> None:
    results = run_study(tmp_path / "work", 3, 1, QUIET, CASES[:1])
    assert sum(result.kills for result in results) == 3
    assert [result.lost for result in results] == [0], results


def test_the_comparison_sees_what_is_lost(tmp_path: Path) -> None:
    for name, text in (("a", '{"loss": 1.0, "wall_s": 1}'), ("b", '{"loss": 1.0, "wall_s": 2}')):
        write_text(tmp_path / name / "summary.json", text)
    assert differences(outcome(tmp_path / "a"), outcome(tmp_path / "b")) == []
    write_text(tmp_path / "b" / "summary.json", '{"loss": 1.0000000001, "wall_s": 2}')
    assert differences(outcome(tmp_path / "a"), outcome(tmp_path / "b")) == ["summary.json: /loss"]
    (tmp_path / "a" / "best_model.pth").write_bytes(b"half")
    (tmp_path / "a" / "log.jsonl").write_text('{"event": "start"}\n{"event": "ep\n{"event": "lr"}\n', encoding="utf-8")
    assert [text.split(":")[0] for text in unreadable(tmp_path / "a")] == ["best_model.pth", "log.jsonl"]


SLOW_WORK = """
import sys, time
from adaloc.stopping import Stopped, listen, stop_if_asked
try:
    with listen(sys.argv[1]):
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
            if sys.argv[2] == "polls":
                stop_if_asked("All is kept.")
except Stopped as stop:
    print(stop)
    sys.exit(stop.exit_status)
"""


@pytest.mark.parametrize(
    ("number", "warning", "status"),
    [(signal.SIGINT, "SIGUSR1", 130), (signal.SIGTERM, "SIGUSR1", 143), (signal.SIGUSR1, "SIGUSR1", 75),
     (signal.SIGUSR2, "SIGUSR2", 75)],
)  # fmt: skip
def test_each_signal_has_its_status(number: signal.Signals, warning: str, status: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW_WORK, warning, "polls"], stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert said == f"Stopped by {number.name}. All is kept.\n"


def test_a_second_ctrl_c_ends_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW_WORK, "SIGUSR1", "deaf"], stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert "Ctrl-C again" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said


def test_a_schedulers_warning_to_the_whole_group_saves_and_asks_for_a_new_start(tmp_path: Path) -> None:
    """The loader's workers get the signal too, and must not die of it."""
    data = small_data(tmp_path)
    config = small_config(tmp_path, training={"epochs": 100_000}, data={"num_workers": 1})
    assert config.data.root == data.data.root
    write_text(tmp_path / "c.json", json.dumps(dump_config(config)))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "start_adaptive_training.py"), "--skip-checks", "--config", "c.json"],
        cwd=tmp_path, env=ENVIRONMENT, stdout=-1, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    log = tmp_path / "run" / "log.jsonl"
    wait_for(lambda: log.exists() and '"event": "epoch"' in log.read_text(encoding="utf-8"), process)
    os.killpg(process.pid, signal.SIGUSR1)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert "--resume auto" in said
    assert (tmp_path / "run" / "latest_checkpoint.pth").exists()
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [event["status"] for event in events if event["event"] == "end"] == ["interrupted"]


def test_a_second_trainer_on_a_run_folder_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    with (
        hold_lock(tmp_path / ".run.lock", "The run folder"),
        pytest.raises(LockedError, match=rf"run is in use by another process: process {os.getpid()} on .*Wait until"),
    ):
        train(config, resume=None, skip_checks=True, console=QUIET)
    assert not (tmp_path / "data").exists(), "refused before anything is done"


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib, adaloc.locks as locks\n"
        "with locks.hold_lock(pathlib.Path(sys.argv[1]), 'it'):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=-1, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(LockedError, match=f"process {process.pid}"), hold_lock(tmp_path / "lock", "it"):
        pass
    process.kill()
    process.communicate()
    with hold_lock(tmp_path / "lock", "it") as is_locked:
        assert is_locked


def test_only_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".a.pth.{dead.pid}.tmp.pth", f".b.csv.{os.getppid()}.tmp.csv", ".c.csv.tmp", "d.csv"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, ["other.pth"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
