"""The docs tell the truth: commands exist, marked blocks run, generated pages are those of the code, links lead on."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from adaloc.cli import app
from adaloc.cli_panels import PANELS
from adaloc.config import Config
from adaloc.training.causes import CAUSES

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])
UsageError = typer.BadParameter.__base__  # typer brings its own click in newer versions
COMMAND: Any = typer.main.get_command(app)
_RUN_MARK = re.compile(r"<!-- run -->\n```(bash|python)\n(.*?)```", re.DOTALL)
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```|((?:^    [^\n]*\n)+)", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(adaloc [a-z][^`]*)`")


def generator(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands_in(text: str) -> list[str]:
    """Lines of code blocks that call adaloc, continued lines joined, comments, pipes and brackets taken off."""
    found = []
    for fenced, indented in _BLOCK.findall(text):
        for line in (fenced or indented).replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*$", "", line.strip().removeprefix("$ "))
            line = re.split(r"\s(?:\||&&|>|2>)\s", line)[0]
            if line.startswith(("adaloc ", "python start_adaptive_training.py")):
                found.append(re.sub(r"[\[\]]", "", line))
    return found


def parse(line: str) -> None:
    """Parses a command as the program would; runs nothing.

    Raises:
        UsageError: when a command, option or argument does not exist, or one is missing.
    """
    program, *arguments = shlex.split(line)
    if program == "python":
        arguments = ["train", *arguments[1:]]
    command, name = COMMAND, "adaloc"
    while hasattr(command, "commands"):
        while arguments and arguments[0] in ("--quiet", "-q"):
            arguments = arguments[1:]
        if not arguments or arguments[0].startswith("--"):
            command.make_context(name, arguments, resilient_parsing=True)
            return
        name, *arguments = arguments
        if name not in command.commands:
            raise typer.BadParameter(f"no command {name}")
        command = command.commands[name]
    command.make_context(name, arguments)


EVERY_COMMAND = sorted({line for page in PAGES for line in commands_in(page.read_text(encoding="utf-8"))})
INLINE = sorted({line for page in PAGES for line in _INLINE.findall(page.read_text(encoding="utf-8"))})


def test_there_are_commands_to_look_at() -> None:
    assert len(EVERY_COMMAND) > 30
    assert len(INLINE) > 20


@pytest.mark.parametrize("line", EVERY_COMMAND)
def test_commands_in_blocks_can_be_given_as_they_stand(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    "wrong", ["adaloc forget", "adaloc check --movee m.tif", "adaloc render locs.csv", "adaloc frc"]
)
def test_the_parser_refuses_what_does_not_exist(wrong: str) -> None:
    with pytest.raises(UsageError):
        parse(wrong)


@pytest.mark.parametrize("line", INLINE)
def test_commands_in_sentences_exist_with_their_options(line: str) -> None:
    words = [word.strip("[],.;:") for word in line.split()[1:]]
    command: Any = COMMAND
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        if name == "COMMAND":
            return
        assert name in command.commands
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h"}
    assert {word for word in words if word.startswith("--")} <= known


def test_options_of_the_monitoring_script_exist() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "training" / "monitor_adaptive_training.py", "--help"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    for page in PAGES:
        for line in re.findall(r"monitor_adaptive_training\.py([^\n`#]*)", page.read_text(encoding="utf-8")):
            for option in re.findall(r"--[a-z-]+", line):
                assert option in done.stdout, (page.name, option)


MARKED = [
    pytest.param(kind, code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (kind, code) in enumerate(_RUN_MARK.findall(page.read_text(encoding="utf-8")))
]


def test_some_blocks_are_marked() -> None:
    assert len(MARKED) >= 2


@pytest.mark.parametrize(("kind", "code"), MARKED)
def test_marked_blocks_run(kind: str, code: str, tmp_path: Path) -> None:
    """In a folder with the repository's configs beside, as a reader would."""
    (tmp_path / "training").symlink_to(ROOT / "training")
    shim = tmp_path / "bin" / "adaloc"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m adaloc "$@"\n', encoding="utf-8")
    shim.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    program = ["bash", "-euc", code] if kind == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_of_the_config_is_that_of_the_code() -> None:
    module = generator("make_config_page")
    page = module.page()
    assert page == module.PAGE.read_text(encoding="utf-8"), "run: python docs/make_config_page.py"
    for section in ("training.adaptive_lr_config", "simulation.camera", "output.alerts"):
        assert f"## `{section}`" in page
    for key in Config.model_fields["training"].annotation.model_fields:  # type: ignore[union-attr]
        assert f"`{key}`" in page or f"`training.{key}`" in page


def test_the_page_of_the_strategies_is_that_of_the_results() -> None:
    module = generator("make_comparison_page")
    results = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    page = module.page(results)
    assert page == module.PAGE.read_text(encoding="utf-8"), "run: python docs/make_comparison_page.py"
    assert f"{results['epochs']} epochs" in page
    assert ("Not complete" in page) == (len(results["rows"]) < 3 * len({row["group"] for row in results["rows"]}))
    for row in results["rows"]:
        assert f"| {row['name']} |" in page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_guide_to_stalls_is_that_of_the_diagnosis(language: str) -> None:
    module = generator("make_stall_page")
    page = module.page(language)
    written = (module.FOLDER / module.NAMES[language]).read_text(encoding="utf-8")
    assert page == written, "run: python docs/make_stall_page.py"
    assert set(module.SIGNATURES) == set(CAUSES)
    assert re.findall(r"^### `(\w+)`$", page, re.MULTILINE) == [
        cause for stage in module.STAGES for cause in CAUSES if module.RULES[CAUSES.index(cause)].stage == stage
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_map_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [
        page.name
        for page in (ROOT / "docs").glob("*.md")
        if page.name not in (*re.findall(r"\((\S+?\.md)\)", index), "index.md")
    ]
    assert not missing


def test_every_command_stands_in_a_panel_of_the_help() -> None:
    shown = [name for names in PANELS.values() for name in names]
    assert shown == list(COMMAND.commands)
    assert {command.rich_help_panel for command in COMMAND.commands.values()} == set(PANELS)


def test_every_key_of_the_config_says_what_it_means() -> None:
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    keys = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*)\|$", page, re.MULTILINE)
    assert len(keys) > 120
    assert not [key for key, meaning in keys if len(meaning.strip()) < 8]
