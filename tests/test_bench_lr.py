"""The learning-rate benchmark: its table, its restart, and both of its problems in small."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from adaloc.bench.lr import METHODS, fingerprint, run_study, show, summarize
from adaloc.bench.problems import OWN_OPTIMIZER, Task, rate_config, run_task
from adaloc.config import AdaptiveLRConfig
from small import small_data


def test_ratios_are_to_the_best_tuned_median_and_a_run_that_is_lost_is_the_worst() -> None:
    losses = {
        Task("reference", "wsd", 1e-3, 0, 300): 2.0, Task("reference", "wsd", 1e-3, 1, 300): 4.0,
        Task("reference", "wsd", 1e-3, 2, 300): 2.5, Task("reference", "wsd", 1e-2, 0, 300): math.nan,
        Task("reference", "constant", 1e-3, 0, 300): 5.0, Task("reference", "constant", 1e-1, 0, 300): math.nan,
    }  # fmt: skip
    table = summarize(losses, {"problem": "reference", "steps": 300, "seeds": [0, 1, 2]})
    assert table["best_tuned"] == {"method": "wsd", "lr": 1e-3, "median": 2.5}
    rows = {(row["method"], row["lr"]): row for row in table["rows"]}
    assert rows["wsd", 1e-3]["worst_ratio"] == 1.6
    assert rows["constant", 1e-3]["median_ratio"] == 2.0
    assert rows["constant", 1e-1] == {
        "method": "constant", "lr": 1e-1, "losses": [None], "median": None, "worst": None, "median_ratio": None,
        "worst_ratio": None,
    }  # fmt: skip
    json.dumps(table, allow_nan=False)
    console = Console(width=160, record=True, quiet=True)
    show(table, console)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in OWN_OPTIMIZER])
def test_every_method_has_a_valid_config(method: str) -> None:
    AdaptiveLRConfig.model_validate(rate_config(method, 1e-3, 60))


def test_a_study_goes_on_where_it_stopped_and_does_not_mix_configs(tmp_path: Path) -> None:
    config = small_data(tmp_path, num_threads=1)
    console = Console(quiet=True)

    def study(methods: list[str]) -> dict[str, object]:
        return run_study(
            config, problem="reference", steps=12, seeds=[0], methods=methods, rates=[1e-3], jobs=1,
            work=tmp_path / "work", console=console,
        )  # fmt: skip

    study(["wsd"])
    runs = (tmp_path / "work" / "runs.jsonl").read_text(encoding="utf-8")
    assert len(runs.splitlines()) == 1 + 4  # the grid's one rate, and four finer ones
    assert study(["wsd"]) == study(["wsd"])
    assert (tmp_path / "work" / "runs.jsonl").read_text(encoding="utf-8") == runs
    other = config.model_copy(update={"network": config.network.model_copy(update={"base_channels": 5})})
    assert fingerprint(other) != fingerprint(config)


def test_digits_are_learned_from_a_rate_that_a_constant_one_cannot_learn_with(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed; it comes with adaloc[bench]")
    config = small_data(tmp_path)
    adaptive, constant = (
        run_task(Task("digits", method, 1e-6, 0, 200), config) for method in ("adaptive_plateau_from_rate", "constant")
    )
    assert adaptive < 0.5 < 2 < constant
