"""Pins have hashes, and a wheel of this tree installs and works."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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


@pytest.mark.skipif(
    "ADALOC_TEST_WHEEL" not in os.environ, reason="builds a wheel and an environment; set ADALOC_TEST_WHEEL=1"
)
def test_a_wheel_installs_into_an_empty_environment_and_checks(tmp_path: Path) -> None:
    """The environment sees this one's packages but not its adaloc: downloading torch is no test of adaloc."""
    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [
        sys.executable,
        *pip,
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("adaloc-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"adaloc/py.typed", "adaloc/monitor/report.html"} <= set(names)
    assert not [name for name in names if name.startswith("tests")]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    (library,) = (tmp_path / "env").rglob("site-packages")
    subprocess.run([sys.executable, *pip, "install", "--no-deps", "--target", str(library), str(wheel)], check=True)
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    (library / "shared.pth").write_text(packages + "\n", encoding="utf-8")
    config = tmp_path / "c.json"
    config.write_text(json.dumps(small_config(tmp_path).model_dump(mode="json")), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    program = [str(tmp_path / "env" / "bin" / "python"), "-c", "import adaloc.cli as c; print(c.__file__); c.main()"]
    said = subprocess.run(
        [*program, "check", "--config", str(config)], check=True, cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    assert str(library) in said
    assert "is valid, and everything it needs is here" in " ".join(said.split())
