"""The ablation: every option is a valid config, runs are kept, and the table compares with the default."""

import importlib.util
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from adaloc.bench import ablation
from adaloc.bench.ablation import (
    DEFAULT,
    OPTIONS,
    half_width,
    markdown,
    refused,
    run_ablation,
    summarize,
    verdict,
    write_results,
)
from adaloc.config import Config
from adaloc.config_file import dump_config, load_config, merged
from small import small_data

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_a_valid_config_and_changes_it(name: str) -> None:
    base = dump_config(load_config(ROOT / "training" / "configs" / "train_config_adaptive.json"))
    if name == "quarter_turns":  # wrong for an astigmatic PSF and pixels that are not square
        assert list(refused(Config.model_validate(base), [name])) == [name]
        psf = {"type": "gaussian", "sigma_x_nm": 130.0, "sigma_y_nm": 130.0}
        base["simulation"] |= {
            "psf": psf,
            "optics": base["simulation"]["optics"] | {"pixel_size_nm": {"x": 100, "y": 100}},
        }
        base = dump_config(Config.model_validate(base))
    changed = Config.model_validate(merged(base, OPTIONS[name]))
    assert not refused(Config.model_validate(base), [name])
    assert (dump_config(changed) == base) == (name == DEFAULT)


def test_runs_are_kept_and_compared_with_the_default(tmp_path: Path) -> None:
    config = small_data(tmp_path, training={"epochs": 2})

    def study() -> list[dict[str, object]]:
        return run_ablation(
            config, [DEFAULT, "adamw", "simple_combined"], [0], 2, tmp_path / "work", Console(quiet=True)
        )

    rows = study()
    assert rows == study(), "nothing is trained again"
    table = {line["option"]: line for line in summarize(rows)}
    assert table[DEFAULT]["ratio"] == 1.0
    assert table["adamw"]["loss"] != table[DEFAULT]["loss"]
    # Two epochs teach next to nothing: judged by the unified loss, both know about as little.
    assert table["simple_combined"]["loss"] == pytest.approx(table[DEFAULT]["loss"], rel=0.3)
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


def test_verdicts_need_a_difference_beyond_the_spread_between_seeds() -> None:
    """Losses of a known spread: an option that is 10 % better is told from one that is not."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        seeds = rng.normal(0, 0.1, 3)
        means = {DEFAULT: 1.0, "adam": 1.0, "focal": 0.9, "sgd": 1.3, "ema": 1.0, "wsd": 1.0}
        rows = [
            {"option": name, "seed": seed, "loss": mean * math.exp(seeds[seed] + rng.normal(0, 0.005)),
             "jaccard": None, "rmse_lateral_nm": 1.0, "rmse_axial_nm": 1.0, "train_s": 1.0}
            for name, mean in means.items() for seed in range(3)
        ]  # fmt: skip
        found = {line["option"]: line["verdict"] for line in summarize(rows)}
        assert (found[DEFAULT], found["focal"], found["sgd"]) == ("", "better", "worse")
        wrong += found["adam"] != "no difference shown"
    # One in twenty, and a few more: the default's chance is in all differences, which are so fewer than they seem.
    assert wrong / 200 < 0.15
    assert "no difference shown" in markdown(summarize(rows))
    assert summarize(rows[:1])[0]["verdict"] == ""


def test_the_tables_of_the_options_page_are_those_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("make_options_page", ROOT / "docs" / "make_options_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.page(text) == text, "run: python docs/make_options_page.py"
    assert "| default |" in text


def test_the_interval_is_that_of_chance_and_an_option_that_sometimes_fails_does_not_widen_it() -> None:
    rng = np.random.default_rng(0)
    sigma, num_seeds = 0.02, 3
    sound = {str(i): list(rng.normal(0, sigma, num_seeds)) for i in range(400)}
    expected = 1.96 * sigma
    assert half_width(sound) == pytest.approx(expected, rel=0.1)
    few = {name: sound[name] for name in list(sound)[:21]}
    wild = {**few, "wild": [0.1, 0.9, 0.4]}
    assert half_width(wild) == pytest.approx(half_width(few), rel=0.2)
    wrong = sum(verdict(values, half_width(sound)) != "no difference shown" for values in sound.values())
    assert 0.02 < wrong / len(sound) < 0.09  # 5 % by chance
