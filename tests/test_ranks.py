"""Training in two processes: the same as in one, resumable in either, and it ends when one of them dies."""

import copy
import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn

from adaloc.config import Config
from adaloc.config_file import dump_config
from adaloc.data.windows import load_samples, split_samples
from adaloc.errors import ConfigError
from adaloc.main_job import train
from adaloc.models.batch_norm import BatchNorm2d, sharing
from adaloc.models.device import device_of
from adaloc.models.model_file import load_tensors
from adaloc.training import ranks as ranks_module
from adaloc.training.checkpoint import LATEST
from adaloc.training.ranks import PeerError, Ranks, join_ranks
from adaloc.training.run import Run, setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit
from ranks_worker import StalledAtOnce
from small import small_config, small_data

WORKER = Path(__file__).parent / "ranks_worker.py"
QUIET = Console(quiet=True)
EPOCHS, STEPS_PER_EPOCH = 40, 3
DIES_AFTER, STOPS_AFTER = 61, 100


def in_threads(work: Callable[[int], Any], size: int = 2) -> list[Any]:
    """Results, or exceptions, of work(rank) in as many threads."""
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


class Threads:
    """Threads in the place of processes."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=30)
        self._given: list[torch.Tensor] = [torch.empty(0)] * size

    def of(self, rank: int) -> Any:
        def gather(tensor: torch.Tensor) -> torch.Tensor:
            self._given[rank] = tensor.clone()
            self._barrier.wait()
            gathered = torch.stack(self._given)
            self._barrier.wait()
            return gathered

        def total(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.copy_(gather(tensor).sum(0))

        group: Any = type("Group", (), {})()
        group.gather, group.sum = gather, total
        return group


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_normalization_over_processes_is_that_of_the_whole_batch(cut: int) -> None:
    """Parts of unequal size, and one without any window; far from 0, where sums of squares would lose all digits."""
    generator = torch.Generator().manual_seed(0)
    x = 100 + torch.randn(5, 3, 4, 6, generator=generator)
    of_outputs = torch.randn(5, 3, 4, 6, generator=generator)
    whole = nn.BatchNorm2d(3)
    with torch.no_grad():
        whole.weight[:], whole.bias[:] = torch.randn(2, 3, generator=generator)
    parts = [BatchNorm2d(3), BatchNorm2d(3)]
    for part in parts:
        part.load_state_dict(copy.deepcopy(whole.state_dict()))
    inputs = x.clone().requires_grad_()
    expected = whole(inputs)
    expected.backward(of_outputs)
    threads = Threads(2)

    def work(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = slice(0, cut) if rank == 0 else slice(cut, 5)
        own = x[chosen].clone().requires_grad_()
        with sharing(parts[rank], threads.of(rank)):
            outputs = parts[rank](own)
            outputs.backward(of_outputs[chosen])
        assert own.grad is not None
        return outputs.detach(), own.grad

    results = in_threads(work)
    torch.testing.assert_close(torch.cat([r[0] for r in results]), expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([r[1] for r in results]), inputs.grad, rtol=1e-3, atol=1e-4)
    for name in ("weight", "bias"):
        total = sum(getattr(part, name).grad for part in parts)
        torch.testing.assert_close(total, getattr(whole, name).grad, rtol=1e-3, atol=1e-3)
    for part in parts:
        for mine, of_whole in zip(part.buffers(), whole.buffers(), strict=True):
            torch.testing.assert_close(mine, of_whole, rtol=1e-5, atol=1e-5)
        assert torch.equal(part(x).detach(), parts[0](x).detach()), "behind the block each is on its own again"


@pytest.mark.parametrize(("num", "size"), [(16, 2), (5, 3), (1, 4), (0, 2)])
def test_shares_are_a_partition(num: int, size: int) -> None:
    shares = [Ranks(rank, size).share(7, 7 + num) for rank in range(size)]
    windows = [window for low, high in shares for window in range(low, high)]
    assert windows == list(range(7, 7 + num))
    assert max(b - a for a, b in shares) - min(b - a for a, b in shares) <= 1


def test_a_meeting_waits_for_long_work_and_not_for_the_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(ranks_module, "_BEAT_S", 0.1)
    store = dist.HashStore()
    two = [Ranks(rank, 2, store=store) for rank in (0, 1)]
    begin = time.monotonic()
    assert in_threads(lambda rank: two[rank].meet(lambda: time.sleep(2.5) if rank == 0 else rank)) == [None, 1]
    assert time.monotonic() - begin > 2.4

    def fail() -> None:
        raise ValueError("mine")

    first, second = in_threads(lambda rank: two[rank].alone(fail))
    assert isinstance(first, ValueError)
    assert isinstance(second, PeerError)
    assert "Process 0 of this training has failed" in str(second)
    with pytest.raises(PeerError, match=r"Process 0 .* no longer answers.*--resume auto"):
        two[1].meet(lambda: None)


def test_what_torchrun_did_not_say_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"RANK is missing\. Start them with torchrun"), join_ranks("cpu"):
        pass
    with pytest.raises(ConfigError, match="torch sees 0 CUDA devices" if not torch.cuda.is_available() else "share"):
        device_of("cuda:0", 0)
    assert device_of("cpu", 3) == torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_data(tmp_path_factory.mktemp("ranks"))


def recipe(data: Config, folder: Path, **changes: Any) -> Config:
    """With trials of the rate; the last batch of an epoch has one window, so one process has none of it."""
    rate = {"anneal_fraction": 0.1, "find_lr": False, "warmup_epochs": 1}
    output = {"save_dir": str(folder), "checkpoint_interval_epochs": 100}
    training = {"epochs": EPOCHS, "adaptive_lr_config": rate}
    return small_config(data.data.root.parent, training=training, output=output, device="cpu", **changes)


def alone(config: Config, stop_after: int = 0) -> Run:
    """The same in one process."""
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adaloc.training.controller.TrendTest", StalledAtOnce)
        run = setup(config, training, validation)
        fit(run, Hooks(force=True, should_stop=lambda: run.step == stop_after))
    return run


@pytest.fixture(scope="module")
def whole(data: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    alone(recipe(data, folder))
    return folder


def write_config(config: Config, path: Path) -> str:
    path.write_text(json.dumps(dump_config(config)), encoding="utf-8")
    return str(path)


def assert_same_run(folder: Path, whole: Path) -> None:
    """Curves, decisions and weights, within rounding."""
    found, expected = (
        [e for e in read_events(f / "log.jsonl") if e["event"] in ("epoch", "lr")] for f in (folder, whole)
    )
    assert [(e["event"], e["epoch"], e.get("kind")) for e in found] == [
        (e["event"], e["epoch"], e.get("kind")) for e in expected
    ]
    for key in ("train_loss", "val_loss", "lr", "grad_norm"):
        curves = [[e[key] for e in events if e["event"] == "epoch"] for events in (found, expected)]
        assert curves[0] == pytest.approx(curves[1], rel=2e-4), key
    assert_same_weights(folder, whole, 2e-4)


def assert_same_weights(folder: Path, whole: Path, tolerance: float) -> None:
    found, expected = (load_tensors(f / LATEST)["model"]["weights"] for f in (folder, whole))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(WORKER), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def test_two_processes_train_as_one_does(data: Config, whole: Path, tmp_path: Path) -> None:
    config = recipe(data, tmp_path / "run")
    done = torchrun(write_config(config, tmp_path / "c.json"), "", "0")
    assert done.returncode == 0, done.stderr
    kinds = {e.get("kind") for e in read_events(whole / "log.jsonl") if e["event"] == "lr"}
    assert "trial" in kinds
    assert {"boost", "revert"} & kinds
    assert_same_run(tmp_path / "run", whole)
    assert (tmp_path / "run" / "report.html").is_file()
    events = [e["event"] for e in read_events(tmp_path / "run" / "log.jsonl")]
    assert events.count("start") == events.count("end") == 1, "one of the two writes"


def test_two_processes_go_on_where_one_stopped(data: Config, whole: Path, tmp_path: Path) -> None:
    config = recipe(data, tmp_path / "run")
    alone(config, STOPS_AFTER)
    done = torchrun(write_config(config, tmp_path / "c.json"), "auto", "0")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "run", whole)


def test_when_one_dies_the_other_saves_and_ends_and_one_process_goes_on(
    data: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies in the middle of a step, whose statistics must not be in the state."""
    config = recipe(data, tmp_path / "run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = write_config(config, tmp_path / "c.json")
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), path, "", str(DIES_AFTER)], stdout=-1, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    processes[1].wait(timeout=600)
    assert processes[1].returncode == -9
    died = time.monotonic()
    said, _ = processes[0].communicate(timeout=60)
    assert time.monotonic() - died < 60
    assert processes[0].returncode == 1, said
    assert "process 0: Another process of the 2 of this training has ended" in said
    assert "--resume auto" in said
    assert processes[1].stdout is not None
    processes[1].stdout.close()
    stopped = recipe(data, tmp_path / "stopped")
    saved = load_tensors(config.output.save_dir / LATEST)["step"]
    assert saved in (DIES_AFTER - 1, DIES_AFTER)  # the step that it died in is not one of them
    alone(stopped, saved)
    assert load_tensors(stopped.output.save_dir / LATEST)["step"] == saved
    assert_same_weights(config.output.save_dir, stopped.output.save_dir, 1e-4)
    monkeypatch.setattr("adaloc.training.controller.TrendTest", StalledAtOnce)
    assert train(config, resume="auto", skip_checks=True, console=QUIET, force=True) == 0
    assert_same_run(config.output.save_dir, whole)


def test_a_batch_in_parts_is_that_of_one_process_in_parts(data: Config, tmp_path: Path) -> None:
    """Every process has its share of every part: normalization sees the parts of a single process."""
    config = recipe(data, tmp_path / "run")
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    from adaloc.training.cures import MicroBatches

    runs = [setup(config, training, validation, with_floor=False) for _ in range(3)]
    batch = runs[0].windows[0]
    expected, _ = MicroBatches(2).backward(runs[0], batch)
    threads = Threads(2)

    def work(rank: int) -> Any:
        ranks = Ranks(rank, 2)
        group = threads.of(rank)
        monkey: Any = ranks
        monkey.sum, monkey.gather = group.sum, group.gather
        run = dataclasses.replace(runs[1 + rank], ranks=ranks)
        return MicroBatches(2).backward(run, batch)[0]

    sums = in_threads(work)
    torch.testing.assert_close(sums[0].total_K + sums[1].total_K, expected.total_K)
    for whole, first, second in zip(*(run.model.network.parameters() for run in runs), strict=True):
        assert whole.grad is not None
        torch.testing.assert_close(first.grad + second.grad, whole.grad, rtol=1e-3, atol=1e-5)
