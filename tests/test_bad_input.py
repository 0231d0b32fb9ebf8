"""Broken input, as a person meets it at the command line: one clear message, the right status, nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch

from adaloc.cli import main
from adaloc.config import Config
from adaloc.config_file import dump_config
from adaloc.data.sample_folder import read_movie
from small import small_config, small_data

ROOT = Path(__file__).parent.parent


def write_config(config: Config, path: Path) -> Path:
    path.write_text(json.dumps(dump_config(config)), encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status and everything that was said, in one line."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return int(ended.value.code or 0), " ".join((out + err).split())


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_data(tmp_path_factory.mktemp("healthy"))


@pytest.fixture
def copy(healthy: Config, tmp_path: Path) -> Config:
    """Data of one's own to break, with simulation switched off."""
    shutil.copytree(healthy.data.root, tmp_path / "data")
    return small_config(tmp_path, data={"simulate_if_missing": False})


def test_missing_data_with_simulation_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(small_config(tmp_path, data={"simulate_if_missing": False}), tmp_path / "c.json")
    for extra in ([], ["--skip-checks"]):
        status, said = run(capsys, "train", "--config", config, *extra)
        assert status == 1
        assert "does not exist" in said
        assert "simulate_if_missing" in said
    assert not (tmp_path / "run").exists()


def truncate_movie(folder: Path) -> None:
    path = folder / "sample_002.ome.tiff"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_records(folder: Path) -> None:
    with h5py.File(folder / "emitters.h5", "a") as file:
        del file["records"]


def empty_records(folder: Path) -> None:
    with h5py.File(folder / "emitters.h5", "a") as file:
        del file["records"]
        for name, shape in (("frame_ix", (0,)), ("phot", (0,)), ("xyz", (0, 3))):
            file[f"records/{name}"] = np.zeros(shape)


def fewer_frames(folder: Path) -> None:
    path = folder / "sample_002.ome.tiff"
    tifffile.imwrite(path, read_movie(path)[:4])


def nan_pixel(folder: Path) -> None:
    path = folder / "sample_002.ome.tiff"
    frames = read_movie(path).astype(np.float32)
    frames[3, 2, 1] = np.nan
    tifffile.imwrite(path, frames)


def truncated_hdf5(folder: Path) -> None:
    path = folder / "emitters.h5"
    path.write_bytes(path.read_bytes()[:600])


def positions_in_nm(folder: Path) -> None:
    with h5py.File(folder / "emitters.h5", "a") as file:
        file["records/xyz"][:, :2] *= 100


def nan_position(folder: Path) -> None:
    with h5py.File(folder / "emitters.h5", "a") as file:
        file["records/xyz"][0, 0] = np.nan


def wrong_shape(folder: Path) -> None:
    with h5py.File(folder / "emitters.h5", "a") as file:
        del file["records/xyz"]
        file["records/xyz"] = np.zeros((5, 2))


def no_movie(folder: Path) -> None:
    (folder / "sample_002.ome.tiff").unlink()


def no_truth(folder: Path) -> None:
    (folder / "emitters.h5").unlink()


def empty_folder(folder: Path) -> None:
    no_movie(folder)
    no_truth(folder)


def colour_movie(folder: Path) -> None:
    tifffile.imwrite(folder / "sample_002.ome.tiff", np.zeros((20, 20, 3), np.uint8), photometric="rgb")


def other_size(folder: Path) -> None:
    tifffile.imwrite(folder / "sample_002.ome.tiff", np.zeros((8, 12, 12), np.uint16))


BREAKAGES = {
    truncate_movie: "cut off",
    no_records: "lacks records/frame_ix, records/phot, records/xyz",
    empty_records: "is empty",
    fewer_frames: "its movie has 4 frames",
    nan_pixel: "NaN or infinite pixels in 1 frames, first in frame 3",
    truncated_hdf5: "cannot be read as HDF5",
    positions_in_nm: "outside of the 20 x 20 px field",
    nan_position: "records/xyz holds NaN",
    wrong_shape: "expected (M,), (M,) and (M, 3)",
    no_movie: "holds no TIFF movie",
    no_truth: "has no truth",
    empty_folder: "holds no TIFF movie",
    colour_movie: "is in colour",
    other_size: "12 x 12 px",
}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda f: f.__name__)
def test_a_broken_sample_is_named_with_what_is_wrong(
    copy: Config, breakage: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    breakage(copy.data.root / "sample_002")
    status, said = run(capsys, "train", "--skip-checks", "--config", write_config(copy, tmp_path / "c.json"))
    assert status == 1
    assert BREAKAGES[breakage] in said
    assert "sample_002" in said
    assert not (tmp_path / "run" / "latest_checkpoint.pth").exists()


def test_a_config_with_three_errors_names_all_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"data": {"batch_sise": 1}, "training": {"epochs": 0}, "seed": -1}', encoding="utf-8")
    status, said = run(capsys, "train", "--config", path)
    assert status == 2
    for part in ("3 problems", "batch_size", "training.epochs", "seed"):
        assert part in said


def test_usage_errors_have_status_two(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "train", "--no-such-option")[0] == 2
    assert run(capsys, "train", "--config", tmp_path / "missing.json")[0] == 2
    assert run(capsys, "localize", "m", "m.tif", "-o", "locs.txt")[0] == 2
    assert run(capsys, "monitor", tmp_path, "--mode", "dance")[0] == 2
    assert run(capsys, "evaluate", "a", "b", "--pixel-size-nm", "many")[0] == 2


def test_help_version_and_schema_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--help")[0] == 0
    assert run(capsys, "--version") == (0, "adaloc 0.1.0")
    with pytest.raises(SystemExit):
        main(["check", "--schema"])
    assert "adaptive_lr_config" in json.dumps(json.loads(capsys.readouterr().out))


def test_a_checkpoint_of_another_network_is_refused(
    healthy: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = healthy.data.root.parent
    first = small_config(base, output={"save_dir": str(tmp_path / "run")}, training={"epochs": 1})
    assert run(capsys, "train", "--skip-checks", "--config", write_config(first, tmp_path / "a.json"))[0] == 0
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    other = small_config(base, output={"save_dir": str(tmp_path / "run")}, network={"base_channels": 8})
    path = write_config(other, tmp_path / "b.json")
    status, said = run(capsys, "train", "--skip-checks", "--config", path, "--resume", "auto")
    assert status == 1
    assert "another network" in said
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log
    # A new run without --resume keeps the old one under another name.
    assert run(capsys, "train", "--skip-checks", "--config", write_config(first, tmp_path / "a.json"))[0] == 0
    assert (tmp_path / "run.1" / "log.jsonl").read_bytes() == log


def test_a_finished_run_resumed_is_still_finished(
    healthy: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(healthy.data.root.parent, output={"save_dir": str(tmp_path / "run")}, training={"epochs": 1})
    path = write_config(config, tmp_path / "c.json")
    assert run(capsys, "train", "--skip-checks", "--config", path)[0] == 0
    assert run(capsys, "train", "--skip-checks", "--config", path, "--resume", "auto")[0] == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["epochs"] == 1


def test_a_full_disk_ends_the_training_with_a_message(
    healthy: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(healthy.data.root.parent, output={"save_dir": str(tmp_path / "run")})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    status, said = run(capsys, "train", "--skip-checks", "--config", write_config(config, tmp_path / "c.json"))
    assert status == 1
    assert "disk is full" in said
    assert (tmp_path / "run" / "log.jsonl").exists()


def test_broken_models_and_movies_are_refused(
    healthy: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(healthy.data.root.parent, output={"save_dir": str(tmp_path / "run")}, training={"epochs": 1})
    assert run(capsys, "train", "--skip-checks", "--config", write_config(config, tmp_path / "c.json"))[0] == 0
    model = tmp_path / "run" / "best_model.pth"
    movie = healthy.data.root / "sample_000" / "sample_000.ome.tiff"
    out = tmp_path / "locs.csv"
    image = tmp_path / "image.png"
    status, said = run(capsys, "localize", model, movie, "-o", out, "--render", image, "--threshold", "0.01")
    assert status == 0, said
    assert out.exists()
    assert (tmp_path / "locs.hdf5").exists()
    assert image.exists()
    status, said = run(capsys, "evaluate", out, healthy.data.root / "sample_000", "--json")
    assert status == 0, said
    (tmp_path / "cut.tif").write_bytes(movie.read_bytes()[:3000])
    (tmp_path / "text.tif").write_text("no movie", encoding="utf-8")
    (tmp_path / "cut.pth").write_bytes(model.read_bytes()[:3000])
    for bad_model, bad_movie in (
        (model, tmp_path / "missing.tif"), (model, tmp_path / "cut.tif"), (model, tmp_path / "text.tif"),
        (tmp_path / "missing.pth", movie), (tmp_path / "cut.pth", movie), (movie, movie),
    ):  # fmt: skip
        status, said = run(capsys, "localize", bad_model, bad_movie, "-o", tmp_path / "none.csv")
        assert status == 1
        assert said.startswith("Error:")
        assert not (tmp_path / "none.csv").exists()


def interrupt(arguments: list[str], ready: Path, cwd: Path) -> tuple[int, str]:
    """Starts a command, sends SIGINT once `ready` exists, and returns its status and words."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Where these tests run in the background, a shell has told their children to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 90
    while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    return process.returncode, said


def test_ctrl_c_while_simulating_keeps_whole_samples_and_goes_on(tmp_path: Path) -> None:
    config = small_config(tmp_path, simulation={"num_samples": 400, "num_frames": 200, "image_size_px": 40})
    path = write_config(config, tmp_path / "c.json")
    arguments = ["-m", "adaloc", "simulate", "--config", str(path), "--out", str(tmp_path / "data")]
    status, said = interrupt(arguments, tmp_path / "data" / "sample_001", tmp_path)
    assert status == 130
    assert "Stopped by SIGINT" in said
    samples = sorted((tmp_path / "data").glob("sample_*"))
    assert 2 <= len(samples) < 400
    assert not list((tmp_path / "data").glob(".*"))
    for folder in samples:
        assert len(read_movie(folder / f"{folder.name}.ome.tiff")) == 200


def test_ctrl_c_while_training_saves_and_says_how_to_go_on(healthy: Config, tmp_path: Path) -> None:
    changes = {"output": {"save_dir": str(tmp_path / "run")}, "training": {"epochs": 100_000}}
    path = write_config(small_config(healthy.data.root.parent, **changes), tmp_path / "c.json")
    start = [str(ROOT / "start_adaptive_training.py"), "--skip-checks", "--config", str(path)]
    status, said = interrupt(start, tmp_path / "run" / "latest_checkpoint.pth", tmp_path)
    assert status == 130, said
    assert "--resume" in said
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["status"] for line in lines if '"event": "end"' in line] == ["interrupted"]
    epochs = [json.loads(line)["epoch"] for line in lines if '"event": "epoch"' in line]
    assert epochs == list(range(len(epochs)))
    assert (tmp_path / "run" / "report.html").exists()
