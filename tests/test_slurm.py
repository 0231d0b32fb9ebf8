"""The submit script, run by bash with a stub scheduler on PATH."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "slurm" / "train.sbatch"


def stub(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{folder}/calls"\n{body}\n', encoding="utf-8")
    path.chmod(0o755)


def submit(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """What sbatch does with the script: runs it with the job's variables; srun and scontrol are stubs."""
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments], stdout=-1, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "ADALOC_PYTHON": "py",
             **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("step_status", "restarts", "status", "is_requeued"),
    [(0, "0", 0, False), (75, "0", 0, True), (75, "100", 1, False), (1, "0", 1, False), (143, "0", 143, False)],
)
def test_only_a_warned_training_is_queued_again(
    tmp_path: Path, step_status: int, restarts: str, status: int, is_requeued: bool
) -> None:
    stub(tmp_path, "srun", f"exit {step_status}")
    stub(tmp_path, "scontrol", "exit 0")
    process = submit(tmp_path, "--config", "my config.json", SLURM_RESTART_COUNT=restarts)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == status, said
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert calls[0] == "srun --ntasks=1 py start_adaptive_training.py --resume auto --config my config.json"
    assert calls[1:] == (["scontrol requeue 7"] if is_requeued else [])


def test_a_preempted_script_waits_until_the_training_has_saved(tmp_path: Path) -> None:
    stub(tmp_path, "srun", f'touch "{tmp_path}/started"; sleep 1; touch "{tmp_path}/saved"; exit 143')
    process = submit(tmp_path)
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert (tmp_path / "saved").exists(), said
    assert process.returncode == 143


SRUN_OF_TWO_TASKS = """
shift 2
status=0
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & done
for job in $(jobs -p); do wait "$job"; ended=$?; [ "$ended" -gt "$status" ] && status=$ended; done
exit "$status"
"""
"""As srun does: each task with its number, and the highest of their statuses."""


def test_several_tasks_know_each_other_and_are_queued_again(tmp_path: Path) -> None:
    stub(tmp_path, "srun", SRUN_OF_TWO_TASKS)
    stub(tmp_path, "scontrol", 'if [ "$1" = show ]; then printf "node1\\nnode2\\n"; fi')
    said = 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT: $*"'
    stub(tmp_path, "py", f'{said} > "{tmp_path}/task_$RANK"; exit $((RANK == 1 ? 75 : 0))')
    process = submit(
        tmp_path, "--config", "my config.json", ADALOC_PYTHON=str(tmp_path / "py"), SLURM_NTASKS="2",
        SLURM_JOB_NODELIST="node[1-2]",
    )  # fmt: skip
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    arguments = "start_adaptive_training.py --resume auto --config my config.json\n"
    for task in (0, 1):
        found = (tmp_path / f"task_{task}").read_text(encoding="utf-8")
        assert found == f"{task} {task} 2 node1 20007: {arguments}"
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert calls[0] == "scontrol show hostnames node[1-2]"
    assert calls[1].startswith("srun --ntasks=2 --kill-on-bad-exit=0 ")
    assert calls[-1] == "scontrol requeue 7"


def test_the_script_asks_for_what_it_relies_on() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    for line in ("--requeue", "--open-mode=append", "--signal=USR1@180"):
        assert f"#SBATCH {line}\n" in text
    # Directives after the first command are not read.
    assert text.rindex("#SBATCH") < text.index("set -u")
