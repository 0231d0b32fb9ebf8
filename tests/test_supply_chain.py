"""Pins have hashes, and a wheel of this tree installs and works."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np

from adaloc import __version__
from adaloc.config_file import dump_config
from small import small_config

ROOT = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("check_hashes", ROOT / "scripts" / "check_hashes.py")
assert _SPEC is not None
assert _SPEC.loader is not None
check_hashes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(check_hashes)


def test_every_needed_package_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = check_hashes.read_pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    for requirement in project["dependencies"]:
        name = requirement.split(">")[0].replace("_", "-").lower()
        assert name in pins, requirement


def test_hashes_are_of_pinned_versions_and_of_all_that_the_product_needs() -> None:
    pins = check_hashes.read_pins(check_hashes.PINS.read_text(encoding="utf-8"))
    hashes = check_hashes.read_hashes(check_hashes.HASHES.read_text(encoding="utf-8"))
    assert not [line for line in check_hashes.disagreements(pins, hashes) if line.endswith("no pin")]
    assert "://" not in check_hashes.HASHES.read_text(encoding="utf-8")


def test_a_missing_and_a_surplus_hash_are_named() -> None:
    text = "a_b==1 --hash=sha256:" + "0" * 64 + "\n"
    assert check_hashes.disagreements({"a-b": "1"}, check_hashes.read_hashes(text)) == []
    assert check_hashes.disagreements({"a-b": "2"}, check_hashes.read_hashes(text)) == [
        "a-b==2 has no hash", "a-b==1 has a hash but no pin",
    ]  # fmt: skip


def test_a_wheel_installs_into_an_empty_environment_and_checks(tmp_path: Path) -> None:
    """The environment sees this one's packages but not its adaloc: downloading torch is no test of adaloc."""
    tree = tmp_path / "tree"  # a copy: a build leaves files, and takes up what an earlier one left
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *wheels, "--wheel-dir", str(tmp_path), str(tree)], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("adaloc-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    product = ROOT / "src"
    expected = {
        path.relative_to(product).as_posix()
        for path in (product / "adaloc").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert names == expected, "all modules, pages, styles and scripts, and nothing else"
    assert {"adaloc/py.typed", "adaloc/monitor/report.html", "adaloc/monitor/page.css"} < names
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    (library,) = environment.rglob("site-packages")
    subprocess.run([*pip, "install", *wheels, "--target", str(library), str(wheel)], check=True)
    # Links of an editable adaloc in there are not followed: Python reads .pth files of its own folder alone.
    (library / "shared.pth").write_text(str(Path(np.__file__).parent.parent) + "\n", encoding="utf-8")
    config = tmp_path / "c.json"
    config.write_text(json.dumps(dump_config(small_config(tmp_path))), encoding="utf-8")
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    program = "import adaloc.cli as c, importlib.metadata as m; print(c.__file__, m.version('adaloc')); c.main()"
    done = subprocess.run(
        [str(python), "-c", program, "check", "--config", str(config)], cwd=tmp_path, env=variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[:2] == [str(library / "adaloc" / "cli.py"), __version__]
    assert "is valid, and everything it needs is here" in " ".join(done.stdout.split())
