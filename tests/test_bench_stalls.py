"""The benches of diagnosis, cure and observing: faults reach the loss, sums are right, and a bench goes on."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from adaloc.bench.command import bench_stalls
from adaloc.bench.confusion import cured_table, summarize
from adaloc.bench.cured import CURABLE, HEALTHY, NEAR, STEPS, summarize_cured, train
from adaloc.bench.fault_cases import FAULTS
from adaloc.bench.observing import Meter, measure, show, write_results
from adaloc.bench.observing import summarize as shares_of
from adaloc.bench.settings import draw_settings, of_length
from adaloc.bench.stalls import CASES, ORIGINAL, bench_config, rerank, train_and_diagnose
from adaloc.config import Config
from adaloc.data.windows import load_samples, split_samples
from adaloc.models.network import LocalizationNetwork, num_parameters
from adaloc.training.causes import CAUSES, NAMED
from adaloc.training.run import Run, batch_errors, setup
from small import small_config, small_data

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_data(tmp_path_factory.mktemp("stalls"), training={"mixture_weight": 0.1})


@pytest.fixture
def run(config: Config, tmp_path: Path) -> Run:
    changed = config.model_copy(update={"output": config.output.model_copy(update={"save_dir": tmp_path / "run"})})
    samples = [load_samples(part, changed.simulation.camera) for part in split_samples(changed.data)]
    return setup(changed, *samples, with_floor=False)


def test_there_is_a_run_for_every_cause() -> None:
    assert set(FAULTS) == set(CAUSES)


@pytest.mark.parametrize(("fault", "channel"), [("absolute_targets", 1), ("unscaled_targets", 3)])
def test_a_fault_of_the_targets_reaches_the_loss_and_the_likelihood_and_not_only_the_signals(
    run: Run, fault: str, channel: int
) -> None:
    before = batch_errors(run, run.windows[0]).detach()
    FAULTS[fault].run(run, np.random.default_rng(0))
    after = batch_errors(run, run.windows[0]).detach()
    assert float(run.loss.channels(after)[channel]) > 10 * float(run.loss.channels(before)[channel])
    assert float(run.loss.total(after)) > 3 * float(run.loss.total(before))
    assert float(after.nats) > 3 * float(before.nats) > 0
    assert torch.equal(run.loss.channels(after)[:1], run.loss.channels(before)[:1]), "the probability has no unit"


def test_the_settings_are_drawn_by_the_seed_and_the_original_stall_is_the_placeholder(tmp_path: Path) -> None:
    first, again, other = (bench_config("healthy", seed, tmp_path)[0] for seed in (3, 3, 4))
    assert first == again != other
    drawn = [bench_config("healthy", seed, tmp_path)[0].training for seed in range(40)]
    assert {t.mixture_weight for t in drawn} == {0.0, 0.1}
    assert {t.adaptive_lr_config.scheduler_type for t in drawn} > {"adaptive_plateau", "wsd"}
    raw = draw_settings(np.random.default_rng(0), tmp_path, "x", 0)
    raw["data"]["batch_size"] = 6
    assert of_length(raw, 105).training.epochs == 105 // 4, "19 of 24 samples train: four steps of six windows"
    placeholder = bench_config(ORIGINAL, 0, tmp_path)[0]

    sigma = placeholder.training.predicts_sigma
    network = LocalizationNetwork(placeholder.network, 3, predicts_sigma=sigma)
    assert num_parameters(network) < 300


def test_mended_runs_are_compared_with_the_same_run_without_the_fault() -> None:
    def result(case: str, seed: int, loss: float | None) -> dict[str, Any]:
        return {"case": case, "seed": seed, "loss": loss, "stopped": None if loss is not None else "gave up"}

    results = [*(result(case, 0, loss) for case, loss in zip(HEALTHY, (2.0, 1.0, 2.5), strict=True)),
               result(HEALTHY[0], 1, 4.0), result("rate_too_low", 0, 2.0 * NEAR),
               result("rate_too_low", 1, 4.5), result("rate_too_high", 0, None),
               result("rate_too_low", 2, 1.0)]  # fmt: skip
    summary = summarize_cured(results)
    assert summary["rate_too_low"] == {
        "runs": 2, "within_10_percent": 0.5, "loss_over_healthy": [[0, NEAR], [1, 1.125]], "stopped": 0,
    }  # fmt: skip
    assert summary["rate_too_high"]["within_10_percent"] == 0
    assert summary["rate_too_high"]["stopped"] == 1
    assert summary["healthy"]["loss_over_healthy"] == [[0, 1.0], [0, 0.5], [0, 1.25], [1, 1.0]]
    assert set(summary) == {"healthy", "rate_too_low", "rate_too_high"}, "what has no run has no row"
    QUIET.print(cured_table(summary))


@pytest.mark.parametrize(
    ("case", "mended"),
    [("clipped_every_step", "clip_raised"), ("batch_beyond_memory", "batch_split"), ("spoiled_weights", "rollback")],
)
def test_the_trainer_answers_a_curable_fault_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, mended: str
) -> None:
    steps = 150 if case == "spoiled_weights" else 64
    monkeypatch.setattr("adaloc.bench.cured.STEPS", steps)
    result = train(case, 0, tmp_path)
    assert result["stopped"] is None
    assert result["done"].get(mended, 0) >= 1, result
    assert math.isfinite(result["loss"])
    assert steps < STEPS


def test_every_curable_fault_changes_the_run(tmp_path: Path) -> None:
    for name, fault in CURABLE.items():
        changed = bool(fault.config(np.random.default_rng(0)))
        assert changed or fault.run.__name__ != "<lambda>", name


def test_the_sums_tell_what_was_named_after_the_first_cause() -> None:
    runs = [
        {"case": ORIGINAL, "expected": "inputs_targets_decoupled", "seed": s, "stopped": {"epoch": 2, "message": "x"},
         "ranking": [["inputs_targets_decoupled", 0.9], ["network_too_small", score]]}
        for s, score in ((0, 0.8), (1, 0.3))
    ]  # fmt: skip
    row = summarize(runs)["cases"][ORIGINAL]
    assert row["named_after"] == {"network_too_small": 1}
    assert row["stopped_after_epochs"] == [2, 2]


def test_the_benchmark_names_a_fault_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    bench_stalls(tmp_path, [0], [], [], "absolute_targets", 1, False, QUIET)
    results = json.loads((tmp_path / "stalls.json").read_text(encoding="utf-8"))
    assert results["cases"]["absolute_targets"]["first"] == 1.0
    assert results["cured"] == {}
    lines = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert rerank(json.loads(lines[0])) == json.loads(lines[0])["ranking"]
    bench_stalls(tmp_path, [0], [], [], "absolute_targets", 1, False, QUIET)
    assert (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines() == lines
    assert set(CASES) > set(FAULTS)


def test_shares_of_observing_add_up_and_weigh_the_search_by_its_length() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])

    def work(seconds: float) -> None:
        now[0] += seconds

    watch, outer = meter.timed("signals", work), meter.timed("diagnosis", lambda s: watch(s))
    watch(50.0)  # before the first step: of no whole
    meter.tick(True)
    for searching in (True, False, False):
        work(0.9)
        watch(0.05)
        outer(0.05)  # the outer call counts, once
        meter.tick(searching)
    work(1.8)
    watch(0.2)
    meter.tick(False)
    shares = shares_of(meter, run_steps=100)
    assert shares["steps"] == {"search": 2, "after": 2, "run": 100}
    assert shares["parts"]["signals"]["search"] == pytest.approx(0.05)
    assert shares["parts"]["diagnosis"]["search"] == pytest.approx(0.05)
    assert shares["share"]["search"] == pytest.approx(0.1)
    assert shares["share"]["after"] == pytest.approx(0.3 / 3)
    assert shares["share"]["run"] == pytest.approx((2 * 0.1 + 98 * 0.15) / (2 * 1.0 + 98 * 1.5))


def test_observing_is_measured_on_a_real_run(tmp_path: Path) -> None:
    small = small_config(tmp_path, num_threads=1, training={"epochs": 60})
    results = measure(small, 40)
    assert results["steps"]["search"] + results["steps"]["after"] == 39
    assert 0 < results["share"]["run"] < 1
    assert results["parts"]["signals"]["after"] > 0
    show(results, QUIET)
    write_results(results, "adaloc bench observing", tmp_path / "observing.json")
    assert json.loads((tmp_path / "observing.json").read_text(encoding="utf-8"))["goal"] == 0.02


def test_the_original_stall_is_named_with_the_small_network_after_it_before_epoch_five(tmp_path: Path) -> None:
    result = train_and_diagnose(ORIGINAL, 0, tmp_path)
    assert result["stopped"]["epoch"] < 5
    first, second = result["ranking"][:2]
    assert first[0] == "inputs_targets_decoupled"
    assert second[0] == "network_too_small"
    assert second[1] >= NAMED
