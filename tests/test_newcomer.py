"""What a newcomer does: looks at the help, mistypes a path, gives a wrong file, asks for JSON or for quiet."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import PixelSize
from adaloc.emitters import EmitterTable
from adaloc.errors import CheckpointError
from adaloc.localize.export import write_picasso_hdf5
from adaloc.models.model_file import load_tensors
from adaloc.progress import ProgressLine

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example(name: str) -> None:
    status, said, _ = run(name, "--help")
    assert status == 0
    if name == "bench":
        said = run(name, "lr", "--help")[1]
    assert "Example: " in said


def test_the_first_help_leads_on() -> None:
    said = run("--help")[1]
    for words in ("adaloc demo", "--install-completion", "--quiet", "Exit status"):
        assert words in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell's script asks the program, which answers with commands."""
    monkeypatch.setenv("_ADALOC_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "adaloc loc")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "adaloc loc")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    result = CliRunner().invoke(app, [], prog_name="adaloc")
    assert "localize" in result.output
    assert "render" not in result.output


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("localize nowhere.pth m.tif", "Check its path"),
        ("localize broken.pth m.tif", "no model"),
        ("diagnose nowhere", "Check the path"),
        ("monitor nowhere", "Check the path"),
        ("spline nowhere.tif --z-step-nm 10 --pixel-size-nm 100 -o a.mat", "Check its path"),
        ("camera-map nowhere.npy -o a.h5", "does not exist"),
        ("field-map broken.h5 -o a.h5", "copy or save it again"),
        ("check --config nowhere.json", "nowhere.json does not exist"),
        ("check --json", "--movie"),
        ("train --resume nowhere.pth --skip-checks", "--resume auto"),
        ("demo --out .", "--out"),
        ("frc nowhere.csv", "Check the path"),
    ],
)
def test_errors_name_the_next_step(line: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("broken.pth", "broken.h5"):
        Path(name).write_text("hello", encoding="utf-8")
    Path("training/configs").mkdir(parents=True)
    Path("training/configs/train_config_adaptive.json").write_text("{}", encoding="utf-8")
    status, said, errors = run(*line.split())
    assert status in (1, 2), said
    assert hint in " ".join(errors.split())


@given(content=st.binary(max_size=40))
@settings(max_examples=60)
def test_a_file_of_any_bytes_is_refused_with_one_message(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_tensors(path)


@pytest.fixture
def locs(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    place = rng.uniform(5, 45, (60, 2)).repeat(20, axis=0)
    x, y = (place + rng.normal(scale=0.1, size=place.shape)).T
    sigma, none = np.full(1200, 0.1), np.zeros(1200)
    table = EmitterTable(
        np.tile(np.arange(20), 60) * 10, x, y, none, none + 1000, none + 10, sigma, sigma,
    ).sorted_by_frame()  # fmt: skip
    path = tmp_path / "locs.hdf5"
    write_picasso_hdf5(path, table, PixelSize(x=100, y=100), image_size_px=(50, 50), num_frames=200, is_3d=False)
    return path


def test_figures_come_as_json(locs: Path, tmp_path: Path) -> None:
    frc = json.loads(run("frc", locs, "-o", tmp_path / "frc.png", "--json")[1])
    said = run("frc", locs)[1]
    assert f"{frc['frc_resolution_nm']:.1f} nm" in said
    assert frc["num_localizations"] == 1200
    assert all(Path(path).is_file() for path in frc["files"])
    grouped = json.loads(run("group", locs, "-o", tmp_path / "molecules.csv", "--json")[1])
    assert grouped["num_localizations"] == 1200
    assert 55 <= grouped["num_molecules"] <= 60
    assert 0.8 < grouped["spread_over_uncertainty"] < 1.2
    assert grouped["warnings"] == []


def test_quiet_prints_errors_and_json_alone(locs: Path) -> None:
    assert run("--quiet", "frc", locs)[1] == ""
    assert json.loads(run("--quiet", "frc", locs, "--json")[1])["num_localizations"] == 1200
    status, said, errors = run("--quiet", "frc", "nowhere.csv")
    assert (status, said) == (1, "")
    assert "nowhere.csv" in errors
    assert re.search("FRC resolution", run("frc", locs)[1]), "quiet is of one call"


def test_progress_says_its_end_once() -> None:
    import io

    from rich.console import Console

    said = io.StringIO()
    with ProgressLine(Console(file=said), "working", 3, "pieces") as line:
        line.update(3)
    assert said.getvalue().count("3/3") == 1
