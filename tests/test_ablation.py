"""The ablation: every option is a valid config, runs are kept, and the table compares with the default."""

import json
from pathlib import Path

import pytest
from rich.console import Console

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
