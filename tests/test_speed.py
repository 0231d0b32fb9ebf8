"""The speed bench on a small config: every stage is timed, shares add up, a slowdown shows; and time to quality."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from adaloc.bench import speed
from adaloc.bench.speed import changes_to, compare, reference_seconds, run_speed, show, summarize, write_results
from adaloc.bench.speed_stages import LOCALIZATION, TRAINING, Workload, make_clock, prepare, training_seconds
from adaloc.config import Config
from adaloc.errors import AdalocError, ConfigError
from adaloc.localize.candidates import find_localizations
from small import small_config

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    changes = {"data": {"fresh_share": 0.5}, "training": {"mixture_weight": 0.1}}
    return small_config(tmp_path_factory.mktemp("config"), **changes)


@pytest.fixture(scope="module")
def work(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return prepare(config, tmp_path_factory.mktemp("work"), 1)


def test_one_run_times_every_stage_of_both_configs_and_writes_json(config: Config, tmp_path: Path) -> None:
    console = Console(record=True, width=140)
    decode = small_config(tmp_path, network={"type": "decode", "base_channels": 4, "depth": 1})
    results = run_speed({"ours": config, "theirs": decode}, repeats=2, threads=1, seconds=600.0, console=console)
    for measured in results["configs"].values():
        assert tuple(measured["stages"]) == TRAINING + LOCALIZATION
        assert all(stage["per_s"] > 0 and stage["references"] > 0 for stage in measured["stages"].values())
        for group in ("training", "localization"):
            total = sum(stage["share"] for stage in measured["stages"].values() if stage["of"] == group)
            assert 0.8 < total < 1.2, "medians of shares, which need not add up exactly"
    assert results["configs"]["ours"]["stages"]["simulate"]["share"] > 0
    assert results["configs"]["theirs"]["stages"]["simulate"]["share"] == 0
    assert set(results["ratios"]["theirs"]) == {"training", "network", "localization"}
    show(results, changes_to(results, results), console)
    text = console.export_text()
    assert "encode targets" in text
    assert "times faster than theirs" in text
    assert "No stage takes over" in text
    write_results(results, "adaloc bench speed", tmp_path / "speed.json")
    kept = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert kept["threads"] == 1
    assert kept["clock"] == "processor time"


def test_the_field_holds_as_many_localizations_as_emitters_that_count(work: Workload) -> None:
    found = find_localizations(work.run.model.scaling.to_physical(work.outputs_BKHW), 0)
    density = work.config.simulation.emitters.density_per_um2 * 128 * 128 * 0.1 * 0.1 * 12
    assert 0.2 * density < len(found) < 2 * density


def test_rates_shares_and_ratios_are_those_of_the_seconds(work: Workload) -> None:
    turns = [dict.fromkeys(TRAINING + LOCALIZATION, 0.1 * times) for times in (1.0, 2.0, 4.0)]
    measured = summarize(work, turns, [0.5, 1.0, 2.0])
    forward = measured["stages"]["forward"]
    assert forward["per_s"] == pytest.approx(5.0)
    assert forward["references"] == pytest.approx(0.2), "the machine's slowness cancels"
    parts = training_seconds(work, turns[0])
    assert parts["simulate"] == pytest.approx(0.1 * work.frames_per_window)
    assert parts["validate"] == pytest.approx(0.1 * work.validation_per_target)
    assert work.frames_per_window == pytest.approx(0.5 * 8 / 6)
    assert work.validation_per_target == pytest.approx(1 * 2 / 5)  # 6 samples, 5 of them to train on
    slow = [{name: 3 * seconds for name, seconds in turn.items()} for turn in turns]
    assert compare(work, turns, work, slow)["training"]["median"] == pytest.approx(3.0)


def test_a_stage_that_became_slower_shows_against_a_baseline(work: Workload) -> None:
    turns = [dict.fromkeys(TRAINING + LOCALIZATION, 0.1)] * 3

    def results(rows: list[dict[str, float]], reference: float) -> dict[str, Any]:
        return {"configs": {"c": summarize(work, rows, [reference] * 3)}}

    slow = [{**turn, "decode": 0.125} for turn in turns]
    twice = [{name: 2 * seconds for name, seconds in turn.items()} for turn in slow]
    changes = changes_to(results(turns, 1.0), results(twice, 2.0))
    assert changes["decode"] == pytest.approx(1.25)
    assert changes["forward"] == pytest.approx(1.0), "a machine of half the speed changes nothing"
    with pytest.raises(ConfigError, match="--out"):
        changes_to({"configs": {"c": {"stages": {}}}}, results(turns, 1.0))


def test_with_one_thread_the_clock_counts_what_is_computed_alone() -> None:
    clock = make_clock(CPU, 1)
    begin = clock()
    time.sleep(0.2)
    assert clock() - begin < 0.1
    assert reference_seconds(CPU, clock) > 0
    wall = make_clock(CPU, 2)
    begin = wall()
    time.sleep(0.05)
    assert wall() - begin >= 0.05


def test_no_turn_begins_after_the_seconds_are_over(config: Config) -> None:
    results = run_speed({"ours": config}, repeats=50, threads=1, seconds=0.0, console=Console(quiet=True))
    assert results["repeats"] == 1


def test_the_reference_is_the_same_computation_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    convolve = speed.F.conv2d

    def noted(image: torch.Tensor, kernel: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append((image.sum().item(), kernel.sum().item()))
        return convolve(image, kernel, **options)

    monkeypatch.setattr(speed.F, "conv2d", noted)
    for _ in range(2):
        reference_seconds(CPU, time.perf_counter)
    assert len(set(seen)) == 1


# --- benchmarks/time_to_quality.py ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "time_to_quality.py"
    spec = importlib.util.spec_from_file_location("time_to_quality", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["time_to_quality"] = module  # which dataclasses look it up in
    spec.loader.exec_module(module)
    return module


def events(quality: ModuleType, losses: list[float]) -> list[dict[str, Any]]:
    names = quality.CHANNELS
    start = {"event": "start", "floor_channels": dict.fromkeys(names, 0.1), "floor_unknown_because": ""}
    return [start] + [
        {"event": "epoch", "wall_s": 10.0 * (i + 1), "val_channels": dict.fromkeys(names, loss)}
        for i, loss in enumerate(losses)
    ]


def test_every_method_is_a_shipped_config(quality: ModuleType, tmp_path: Path) -> None:
    for method in quality.METHODS:
        config = quality.config_of(method, 3, tmp_path, {"num_threads": 1, "device": "cpu"})
        assert (config.seed, config.num_threads) == (3, 1)
    literal = quality.config_of("literal", 0, tmp_path, {}).training.adaptive_lr_config
    assert literal.scheduler_type == "adaptive_plateau_literal"


def test_levels_are_reached_at_the_first_epoch_above_them(quality: ModuleType) -> None:
    """Knowing nothing is 1 in each channel and the floor 0.1, so 0.55 is the half."""
    points = quality.curve(events(quality, [1.0, 0.55, 0.4, 0.45, 0.2]))
    assert [captured for _, captured in points] == pytest.approx([0, 50, 66.667, 61.111, 88.889], rel=1e-4)
    row = quality.describe(points)
    assert row["seconds_to"] == {"20": 20.0, "40": 20.0, "60": 30.0, "70": 50.0, "80": 50.0, "85": 50.0}
    assert quality.describe(points[:4])["seconds_to"]["70"] is None
    unknown = events(quality, [1.0])
    unknown[0] |= {"floor_channels": None, "floor_unknown_because": "no dataset.json"}
    with pytest.raises(AdalocError, match=r"no dataset\.json"):
        quality.curve(unknown)


def test_a_level_that_a_seed_did_not_reach_has_no_median(quality: ModuleType) -> None:
    def row(method: str, *times: float | None) -> dict[str, Any]:
        return {"method": method, "seconds_to": dict(zip(("60", "70"), times, strict=True))}

    rows = [row("default", 10.0, 20.0), row("default", 12.0, 30.0)]
    rows += [row("decode", 110.0, None), row("decode", 220.0, 500.0)]
    summary = quality.summarize(rows)
    assert summary["seconds_to"]["decode"] == {"60": 165.0, "70": None}
    assert summary["default_is_sooner_by"]["decode"] == {"60": 15.0, "70": None}


def test_a_run_ends_at_the_cap_and_goes_on_with_a_higher_one(quality: ModuleType, tmp_path: Path) -> None:
    config = small_config(tmp_path, training={"epochs": 4})
    first = quality.train_until(config, 1e-6)
    assert not quality.is_over(first, 1e9)
    assert len(quality.curve(first)) < 4
    whole = quality.train_until(config, 1e9)
    assert len(quality.curve(whole)) == 4
    assert quality.is_over(whole, 1e9)
    size = (config.output.save_dir / "log.jsonl").stat().st_size
    assert quality.train_until(config, 1e9) == whole
    assert (config.output.save_dir / "log.jsonl").stat().st_size == size, "nothing was trained again"
