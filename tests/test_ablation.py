"""The ablation: every option is a valid config, runs are kept, and the table compares with the default."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from adaloc.bench import ablation
from adaloc.bench.ablation import DEFAULT, OPTIONS, run_ablation, summarize, write_results
from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, merged
from small import small_data

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_a_valid_config_and_changes_it(name: str) -> None:
    base = dump_config(load_config(ROOT / "training" / "configs" / "train_config_adaptive.json"))
    changed = Config.model_validate(merged(base, OPTIONS[name]))
    assert (dump_config(changed) == base) == (name == DEFAULT)


def test_runs_are_kept_and_compared_with_the_default(tmp_path: Path) -> None:
    config = small_data(tmp_path, training={"epochs": 2})

    def study() -> list[dict[str, object]]:
        return run_ablation(config, [DEFAULT, "adamw"], [0], 2, tmp_path / "work", Console(quiet=True))

    rows = study()
    assert rows == study(), "nothing is trained again"
    table = {line["option"]: line for line in summarize(rows)}
    assert table[DEFAULT]["ratio"] == 1.0
    assert table["adamw"]["loss"] != table[DEFAULT]["loss"]
    write_results(rows, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["rows"] == rows
    assert "| adamw |" in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_a_run_that_was_stopped_goes_on_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, console = small_data(tmp_path, training={"epochs": 3}), Console(quiet=True)
    option = "half_48"
    whole = run_ablation(config, [option], [0], 3, tmp_path / "whole", console)
    ticks = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(ablation, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
        assert run_ablation(config, [option], [0], 3, tmp_path / "parts", console, seconds=5) == []
    assert (tmp_path / "parts" / f"{option}_0_3" / "latest_checkpoint.pth").exists()
    parts = run_ablation(config, [option], [0], 3, tmp_path / "parts", console)
    assert parts[0]["steps"] == whole[0]["steps"] > 3
    assert {**parts[0], "train_s": 0} == {**whole[0], "train_s": 0}
