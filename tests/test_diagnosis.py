"""Observing and probing change nothing; faults are named and stopped; the command works on any run folder."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from adaloc.bench.fault_cases import FAULTS
from adaloc.bench.faults import WrappedWindows
from adaloc.cli import app
from adaloc.config import Config
from adaloc.config_file import dump_config
from adaloc.data.windows import load_samples, split_samples
from adaloc.errors import AdalocError
from adaloc.models.losses import LossSums
from adaloc.monitor.advice import advise
from adaloc.monitor.log import load_run
from adaloc.monitor.summary import build_summary
from adaloc.training import diagnosis, signals, trainer
from adaloc.training.cures import Clip, MicroBatches, joined, windows_of
from adaloc.training.probes import make_probes, overfit_fresh, settled_modes
from adaloc.training.run import Run, batch_errors, setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit
from small import small_config, small_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Config:
    # Whole frames, so that swapped axes are seen; enough windows that none repeats by itself.
    return small_data(tmp_path_factory.mktemp("diagnosis"), simulation={"num_samples": 8, "num_frames": 24})


def make_run(base: Config, folder: Path, fault: str | None = None, **changes: Any) -> Run:
    sizes = {"num_samples": 8, "num_frames": 24}
    output = {"save_dir": str(folder)}
    config = small_config(base.data.root.parent, output=output, simulation=sizes, num_threads=1, **changes)
    samples = [load_samples(part, config.simulation.camera) for part in split_samples(config.data)]
    random = np.random.default_rng(0)
    if fault is not None:
        samples = [FAULTS[fault].samples(part, random) for part in samples]
    run = setup(config, *samples)
    if fault is not None:
        FAULTS[fault].run(run, random)
    return run


def tensors(run: Run) -> list[torch.Tensor]:
    moments = [v for part in getattr(run.optimizer, "parts", [run.optimizer]) for s in part.state.values()
               for v in s.values() if isinstance(v, torch.Tensor)]  # fmt: skip
    return [t.clone() for t in [*run.model.network.state_dict().values(), *moments]]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_observed_run_is_the_unobserved_run_bit_by_bit(
    data: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "is_looked_at", lambda step: step % 3 == 0)
    observed = make_run(data, tmp_path / "observed", training={"epochs": 4})
    fit(observed, Hooks())
    assert sum(e["event"] == "signals" for e in read_events(observed.log.path)) == observed.step // 3 > 2
    monkeypatch.setattr(signals.Observer, "before_step", lambda *_: None)
    monkeypatch.setattr(signals.Observer, "after_step", lambda *_: None)
    monkeypatch.setattr(trainer, "diagnose_in_training", lambda *_, **__: None)
    alone = make_run(data, tmp_path / "alone", training={"epochs": 4})
    fit(alone, Hooks())
    assert same(tensors(observed), tensors(alone))


def test_probes_leave_the_run_bit_identical_and_repeat(data: Config, tmp_path: Path) -> None:
    run = make_run(data, tmp_path, training={"epochs": 3})
    fit(run, Hooks())
    before, random = tensors(run), torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in run.model.network.parameters()]
    first = make_probes(run)
    assert same(before, tensors(run))
    assert torch.equal(random, torch.get_rng_state())
    assert run.model.network.training
    for parameter, gradient in zip(run.model.network.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
    assert make_probes(run) == first
    assert {
        "boost_gain",
        "anneal_gain",
        "overfit_ratio",
        "gap",
        "noise_over_batch",
        "settled_difference",
    } <= first.keys()


def test_windows_that_are_joined_are_the_batch_they_were_taken_from(data: Config, tmp_path: Path) -> None:
    batch = make_run(data, tmp_path).windows[0]
    again = joined([windows_of(batch, 0, 1), windows_of(batch, 1, len(batch.adu_BTHW))])
    assert torch.equal(again.adu_BTHW, batch.adu_BTHW)
    assert torch.equal(again.background_N, batch.background_N)
    for name, column in vars(batch.emitters).items():
        order = torch.argsort(batch.emitters.window, stable=True)
        assert torch.equal(getattr(again.emitters, name), column[order]), name


@pytest.mark.parametrize(("momentum", "apart"), [(0.1, False), (1e-4, True)])
def test_a_lag_of_the_statistics_is_no_mismatch_and_statistics_that_never_adapt_are_one(
    data: Config, tmp_path: Path, momentum: float, apart: bool
) -> None:
    run = make_run(data, tmp_path, network={"normalization": "batch"})
    for module in run.model.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = momentum
    # Of a fresh network the statistics are those it began with: all of the difference is a lag.
    found = settled_modes(run)["settled_difference"]
    assert found is not None
    assert (found > 0.1) == apart
    plain = make_run(data, tmp_path, network={"normalization": "none"})
    assert settled_modes(plain)["settled_difference"] == 0


def test_a_rate_that_is_too_high_for_learning_by_heart_is_tried_lower(
    data: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(data, tmp_path)
    monkeypatch.setattr("adaloc.training.probes._OVERFIT_RATES", (10.0,))
    diverged = overfit_fresh(run)
    monkeypatch.setattr("adaloc.training.probes._OVERFIT_RATES", (10.0, 3e-3))
    assert overfit_fresh(run) < 0.7 * diverged


@pytest.mark.parametrize(
    "fault", ["inputs_targets_decoupled", "axes_swapped", "absolute_targets", "unscaled_targets", "repeated_batch"]
)
def test_what_cannot_succeed_is_stopped_within_five_epochs_unless_forced(
    data: Config, tmp_path: Path, fault: str
) -> None:
    # Whole frames, so that swapped axes are seen; crops where many windows are needed.
    size = 16 if fault == "repeated_batch" else 20
    changes: dict[str, Any] = {"data": {"image_size": size}, "training": {"epochs": 6}}
    run = make_run(data, tmp_path / "stopped", fault, **changes)
    with pytest.raises(AdalocError, match="cannot succeed"):
        fit(run, Hooks())
    assert run.epoch <= 5
    event = next(e for e in read_events(run.log.path) if e["event"] == "diagnosis")
    assert event["findings"][0]["cause"] == fault
    log = load_run(run.folder)
    summary = build_summary(log)["diagnosis"]
    assert summary["findings"][0]["cause"] == fault
    assert advise(log)[0].evidence
    told: list[diagnosis.Diagnosis] = []
    forced = make_run(data, tmp_path / "forced", fault, **changes)
    assert fit(forced, Hooks(force=True, on_diagnosis=told.append)) == "finished"
    assert told[0].findings[0].cause == fault


def test_a_healthy_run_is_not_stopped_and_has_no_diagnosis(data: Config, tmp_path: Path) -> None:
    run = make_run(data, tmp_path, training={"epochs": 6})
    assert fit(run, Hooks()) == "finished"
    assert build_summary(load_run(run.folder))["diagnosis"] is None


def test_few_windows_repeat_without_being_a_fault(data: Config, tmp_path: Path) -> None:
    run = make_run(data, tmp_path, "repeated_batch", training={"epochs": 6})
    run.windows.num_different = 5
    assert fit(run, Hooks()) == "finished"


def test_a_hard_clip_is_raised_once_and_kept_in_the_checkpoint(data: Config, tmp_path: Path) -> None:
    run = make_run(data, tmp_path, training={"epochs": 25, "clip_norm": 1e-7})
    cures: list[dict[str, Any]] = []
    fit(run, Hooks(on_cure=lambda _, cure: cures.append(cure)))
    assert [cure["kind"] for cure in cures] == ["clip_raised"]
    assert run.state()["cures"]["clip"]["norm"] == cures[0]["after"] > 1e-3
    shares = [e["clipped_share"] for e in read_events(run.log.path) if e["event"] == "signals"]
    assert shares[0] == 1.0


def test_a_limit_far_below_every_norm_is_raised_within_the_search_and_a_burst_is_waited_for() -> None:
    absurd, hard = Clip(1e-7), Clip(0.01)
    events = [absurd.observe(norm) for norm in [5.0, 3.0] * 5]
    assert [event is not None for event in events] == [False] * 9 + [True]
    assert [hard.observe(norm) is not None for norm in [50.0] * 20 + [5.0] * 30] == [False] * 49 + [True]


def test_the_usual_clipping_is_left_alone() -> None:
    clip = Clip(1.0)
    assert all(clip.observe(norm) is None for norm in [5.0, 50.0, float("inf")] * 100)
    assert clip.norm == 1.0


@pytest.mark.parametrize("parts", [2, 3])
def test_a_split_batch_has_the_gradient_of_the_whole_one(data: Config, tmp_path: Path, parts: int) -> None:
    run = make_run(data, tmp_path, network={"normalization": "none"}, data={"batch_size": 5}, precision="float32")
    batch = run.windows[0]
    sums = batch_errors(run, batch)
    run.loss.total(sums).backward()  # type: ignore[no-untyped-call]
    whole = [p.grad.clone() for p in run.model.network.parameters() if p.grad is not None]
    run.optimizer.zero_grad()
    split, cure = MicroBatches(parts).backward(run, batch)
    assert cure is None
    torch.testing.assert_close(split.total_K, sums.total_K.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(split.count_K, sums.count_K)
    for p, expected in zip(run.model.network.parameters(), whole, strict=True):
        # Sums in another order; a wrong division would be off by a factor.
        assert p.grad is not None
        torch.testing.assert_close(p.grad, expected, rtol=1e-3, atol=1e-5)


def test_a_batch_that_does_not_fit_is_split_until_it_does(
    data: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(data, tmp_path, data={"batch_size": 6}, training={"epochs": 2})
    predict = trainer.MicroBatches._backward.__globals__["predict"]

    def small_memory(run: Run, batch: Any) -> Any:
        if run.model.network.training and len(batch.adu_BTHW) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return predict(run, batch)

    monkeypatch.setitem(trainer.MicroBatches._backward.__globals__, "predict", small_memory)
    assert fit(run, Hooks()) == "finished"
    cures = [e for e in read_events(run.log.path) if e["event"] == "cure"]
    assert [(c["kind"], c["after"]) for c in cures] == [("batch_split", 4)]
    assert isinstance(batch_errors(run, run.windows[0]), LossSums)


def test_a_stalled_run_diagnoses_itself_with_probes(
    data: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "gather", stalled(diagnosis.gather))
    run = make_run(data, tmp_path, training={"epochs": 22, "lr_first": 1e-6, "lr_second": 1e-6,
                                             "adaptive_lr_config": {"scheduler_type": "constant"}})  # fmt: skip
    fit(run, Hooks())
    events = [e for e in read_events(run.log.path) if e["event"] == "diagnosis"]
    assert len(events) == 1, "probes may take a twentieth of the steps"
    assert events[0]["findings"][0]["cause"] != "healthy"
    assert events[0]["probes"]["boost_gain"] > 0


def stalled(gather: Any) -> Any:
    return lambda *arguments: dataclasses.replace(gather(*arguments), trend="stalled")


@pytest.fixture
def finished(data: Config, tmp_path: Path) -> Path:
    run = make_run(data, tmp_path / "run", training={"epochs": 2})
    fit(run, Hooks())
    (run.folder / "config.json").write_text(json.dumps(dump_config(run.config)), encoding="utf-8")
    return run.folder


def test_diagnose_works_on_a_run_folder_in_both_languages_and_as_json(finished: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    files = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    moved = finished.rename(tmp_path / "moved")
    text = runner.invoke(app, ["diagnose", str(moved)])
    assert text.exit_code == 0, text.output
    assert text.output.startswith("Diagnosis after epoch 2 (step 6)\n1. [")
    assert "What to do: " in text.output
    chinese = runner.invoke(app, ["diagnose", str(moved), "--lang", "zh", "--log-only"])
    assert chinese.exit_code == 0
    assert "诊断" in chinese.output and "建议" in chinese.output
    found = json.loads(runner.invoke(app, ["diagnose", str(moved), "--json"]).output)
    assert found["without_probes"] is None
    assert found["probes"]["overfit_ratio"] > 0
    assert {"cause", "score", "evidence", "remedy", "text", "remedy_text"} <= found["findings"][0].keys()
    assert {p.relative_to(finished) for p in files} == {p.relative_to(moved) for p in moved.rglob("*") if p.is_file()}
    assert all((moved / path.relative_to(finished)).read_bytes() == content for path, content in files.items())
    assert runner.invoke(app, ["diagnose", str(moved), "--lang", "fr"]).exit_code == 2


def test_diagnose_a_killed_run_and_broken_ones(finished: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    log = finished / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[: whole.rindex(b'{"event": "end"')] + b'{"event": "epoch", "epo')
    (finished / "latest_checkpoint.pth").write_bytes(b"cut")
    killed = runner.invoke(app, ["diagnose", str(finished)])
    assert killed.exit_code == 0
    assert "latest_checkpoint.pth" in killed.output, "why there were no trials is told"
    (finished / "config.json").unlink()
    assert runner.invoke(app, ["diagnose", str(finished)]).exit_code == 0
    log.write_text('{"event": "start"}\n', encoding="utf-8")
    assert runner.invoke(app, ["diagnose", str(finished)]).exit_code == 0
    log.write_bytes(b"\x00\xff not a log\n")
    broken = runner.invoke(app, ["diagnose", str(finished)])
    assert broken.exit_code == 1
    assert "no run" in broken.output
    assert runner.invoke(app, ["diagnose", str(tmp_path / "nowhere")]).exit_code == 1


def test_the_diagnosis_cannot_see_the_switch() -> None:
    """No module of the product knows the benchmark (the order of the layers forbids the import too)."""
    source = Path(diagnosis.__file__).parent
    assert not [p for p in source.glob("*.py") if "bench" in p.read_text(encoding="utf-8")]
    assert WrappedWindows.__module__ == "adaloc.bench.faults"
