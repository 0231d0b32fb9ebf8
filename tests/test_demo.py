"""The demo: its structure, and the whole way with much smaller numbers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from adaloc.config import EmittersConfig, PixelSize
from adaloc.demo import DemoSize, _claim, demo_config, run_demo
from adaloc.errors import ConfigError
from adaloc.localize.read import read_localizations
from adaloc.simulation.knot import knot_molecules, strand

TINY = DemoSize(num_samples=4, num_frames=6, epochs=2, movie_frames=6, num_molecules=40)


def test_the_strands_keep_their_distance_and_close() -> None:
    turn = np.linspace(0, 1, 500)
    one, other = (np.stack(strand(turn, which, 1200.0)) for which in (0, 1))
    middle = (one + other) / 2
    np.testing.assert_allclose(np.hypot(middle[0], middle[1]), 1200.0)
    np.testing.assert_allclose(middle[2], 0, atol=1e-9)
    # Half a twist apart: lateral and axial distance trade against each other, and never vanish together.
    lateral, axial = np.hypot(one[0] - other[0], one[1] - other[1]), one[2] - other[2]
    np.testing.assert_allclose((lateral / 360) ** 2 + (axial / 900) ** 2, 1)
    np.testing.assert_allclose(one[:, 0], one[:, -1], atol=1e-9)


def test_molecules_lie_on_the_strands_within_the_field() -> None:
    size = PixelSize(x=120, y=80)
    made = knot_molecules(EmittersConfig(), size, 40, 100, 300, np.random.default_rng(0))
    radius = 0.31 * 40 * 80
    x_nm, y_nm = (made.x - 19.5) * 120, (made.y - 19.5) * 80
    offset = np.hypot(x_nm, y_nm) - radius
    np.testing.assert_allclose((offset / 180) ** 2 + (made.z / 450) ** 2, 1)
    assert ((made.x > 0) & (made.x < 39) & (made.y > 0) & (made.y < 39)).all()
    assert ((made.start_frame >= 0) & (made.start_frame < 100)).all()
    assert (made.photons_per_frame > 0).all()


def test_the_demo_goes_the_whole_way(tmp_path: Path) -> None:
    said = io.StringIO()
    console = Console(file=said, width=200)
    assert run_demo(tmp_path / "demo", console, TINY) == 0
    folder = tmp_path / "demo"
    result = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    assert result["size"]["epochs"] == 2
    assert 0 <= result["structure"]["jaccard"] <= 1
    assert result["structure"]["num_truth"] > 0
    assert result["validation"]["epochs"] == 2
    with Image.open(folder / "before_and_after.png") as picture:
        assert picture.width > 2 * picture.height
        assert np.ptp(np.asarray(picture.convert("L"))) > 200
    locs = read_localizations(folder / "locs.csv", PixelSize(x=100, y=100))
    assert f"{len(locs.table)} localizations of {result['structure']['num_truth']} emitters" in said.getvalue()
    assert str(folder / "run" / "report.html") in said.getvalue()
    assert (folder / "run" / "report.html").is_file()
    assert (folder / "structure" / "structure.ome.tiff").is_file()
    _claim(folder)  # its own folder may be used again


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="--out"):
        run_demo(tmp_path, Console(file=io.StringIO()), TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_network_predicts_uncertainties(tmp_path: Path) -> None:
    assert demo_config(tmp_path, TINY).training.predicts_sigma
