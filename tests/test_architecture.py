"""The order of the layers: a part imports only from the parts before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "adaloc"
# Single files of the package's root that every part may use come first; those that compose everything come last.
ORDER = (
    "errors", "words", "files", "figure_file", "bounds", "hdf5_file", "yaml_file", "locks", "stopping", "processes",
    "config_simulation", "config_training", "config_options", "config",
    "config_file", "emitters", "random_streams", "progress",
    "simulation", "data", "calibrate", "models", "localize", "evaluation", "training", "monitor",
    "checks", "movie_command", "integrity_check", "validation_pictures", "validation_score", "main_job",
    "napari_plugin", "demo", "diagnose", "bench", "cli_guard", "tuning", "cli_bench", "cli_calibrate", "cli_camera",
    "cli_evaluate", "cli_files", "cli_locs", "cli_mask", "cli_monitor", "cli_demo", "cli_panels", "cli_psf",
    "cli_speed", "cli_tune", "cli", "__main__",
)  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """Parts of adaloc that a file imports."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "adaloc" else [f"adaloc.{a.name}" for a in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("adaloc.")}
    return parts - {"__version__"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(p for p in PACKAGE.rglob("*.py") if part_of(p) != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_part_imports_only_from_the_parts_before_it(path: Path) -> None:
    here = part_of(path)
    assert here in ORDER, f"{path} is in no known part; add it to the order in this test"
    later = {name for name in imports_of(path) if ORDER.index(name) > ORDER.index(here)}
    assert not later, f"{path} imports from later parts: {later}"


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from adaloc.training.trainer import fit\nfrom adaloc import monitor\n", encoding="utf-8")
    assert imports_of(wrong) == {"training", "monitor"}


def test_no_file_is_a_drawer_for_everything() -> None:
    assert not [p for p in PACKAGE.rglob("*.py") if p.stem in ("utils", "helpers", "misc", "common")]
    too_long = {str(p): n for p in FILES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not too_long


_LIGHT_TRAINING = ("controller.py", "schedules.py", "run_log.py", "evidence.py", "causes.py", "diagnosis_text.py")


def test_the_controller_and_the_monitor_do_not_import_torch() -> None:
    light = [*(PACKAGE / "monitor").glob("*.py"), *(PACKAGE / "evaluation").glob("*.py")]
    light += [PACKAGE / "training" / name for name in _LIGHT_TRAINING]
    for path in light:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top_level = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {a.name for n in top_level for a in n.names} | {
            n.module or "" for n in top_level if isinstance(n, ast.ImportFrom)
        }
        assert not any(name.split(".")[0] == "torch" for name in names), path
