from __future__ import annotations

import io
import json
import math
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from adaloc.config import CHANNELS, Config, PixelSize
from adaloc.emitters import EmitterTable, empty_table
from adaloc.errors import DataError
from adaloc.monitor.advice import advise, is_overfitting
from adaloc.monitor.analysis import (
    analyse,
    explained_percent,
    moving_average,
    noise_sigma,
    rate_of_change,
    seconds_per_epoch,
    slope_with_error,
    theil_sen,
    unstable_share,
)
from adaloc.monitor.command import monitor
from adaloc.monitor.facts import config_differences
from adaloc.monitor.live import LogWatcher, live_view, sparkline, watch
from adaloc.monitor.log import load_run
from adaloc.monitor.plots import Example, figure_pixels, plot_curves, plot_examples, save_figure
from adaloc.monitor.report import html_report, text_report, write_report
from adaloc.monitor.summary import build_summary, write_summary
from adaloc.monitor.verdict import verdict
from monitor_runs import write_epoch, write_realistic_run, write_run, write_start

ROOT = Path(__file__).parents[1]
DOOR = ROOT / "training" / "monitor_adaptive_training.py"


def falling(epoch: int) -> float:
    return 0.6 + 4.9 * math.exp(-epoch / 60)


def quiet_console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=terminal)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# The log


def test_a_folder_without_a_run_says_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match=r"no run in .* start one with: python start_adaptive_training.py"):
            load_run(folder)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, [5.0, 4.0, 3.0], status=None)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"event": "epoch", "epoch": 3, "val_l')
    assert load_run(tmp_path).epochs.val_loss.tolist() == [5.0, 4.0, 3.0]


def test_a_resume_replaces_the_epochs_that_are_run_again(tmp_path: Path) -> None:
    log = write_start(tmp_path, epochs=10)
    for epoch, loss in enumerate([5.0, 4.0, 9.0]):
        write_epoch(log, epoch, loss)
    log.write("end", epoch=3, status="interrupted", reason="")
    for first, loss in ((2, 3.0), (2, 2.5)):
        log.write("resume", epoch=first, step=5 * first)
        write_epoch(log, 2, loss)
    run = load_run(tmp_path)
    assert run.epochs.val_loss.tolist() == [5.0, 4.0, 2.5]
    assert run.status == "unfinished"
    assert run.num_resumes == 2
    assert build_summary(run)["num_resumes"] == 2


def test_missing_and_odd_values_are_gaps(tmp_path: Path) -> None:
    log = write_start(tmp_path)
    write_epoch(log, 0, 5.0, lr=None, wall_s="soon", val_channels=None)
    log.write("epoch", epoch=1)
    log.write("lr", epoch=1)
    run = load_run(tmp_path)
    assert run.epochs.index.tolist() == [0, 1]
    assert np.isnan(run.epochs.lr).all()
    assert np.isnan(run.epochs.val_loss[1])
    assert run.adjustments[0].kind == "unknown"
    show_everywhere(tmp_path)


# Analysis


@given(slope=st.floats(-5, 5), start=st.floats(-100, 100), window=st.integers(1, 30), length=st.integers(1, 80))
def test_the_moving_average_of_a_line_lags_by_half_the_window(
    slope: float, start: float, window: int, length: int
) -> None:
    x = np.arange(length, dtype=float)
    average = moving_average(start + slope * x, window)
    full = x >= window - 1
    np.testing.assert_allclose(average[full], start + slope * (x[full] - (window - 1) / 2), atol=1e-9)
    np.testing.assert_allclose(average[~full], start + slope * x[~full] / 2, atol=1e-9)


def test_the_moving_average_skips_what_is_not_finite() -> None:
    values = np.array([1.0, math.nan, 3.0, math.inf, math.nan, math.nan])
    np.testing.assert_array_equal(moving_average(values, 2), [1, 1, 3, 3, math.nan, math.nan])
    assert len(moving_average(np.empty(0))) == 0


@settings(max_examples=50)
@given(slope=st.floats(-3, 3), outliers=st.sets(st.integers(0, 19), max_size=5), height=st.floats(-1e4, 1e4))
def test_theil_sen_finds_a_line_through_outliers(slope: float, outliers: set[int], height: float) -> None:
    x = np.arange(20.0)
    y = 7 + slope * x
    y[list(outliers)] += height
    # 5 outliers of 20 touch 85 of 190 pairs: fewer than half.
    assert theil_sen(x, y) == pytest.approx(slope, abs=1e-6)


def test_theil_sen_of_nothing_is_unknown() -> None:
    one = np.array([1.0])
    assert math.isnan(theil_sen(np.empty(0), np.empty(0)))
    assert math.isnan(theil_sen(one, one))
    assert math.isnan(theil_sen(np.array([1.0, 1.0]), np.array([1.0, 2.0])))


def test_the_rate_of_change_is_local() -> None:
    after = np.arange(1.0, 101.0)
    losses = np.where(after <= 50, 5 - 0.02 * after, 4 + 0.01 * (after - 50))
    rates = rate_of_change(after, losses)
    assert np.isnan(rates[:4]).all()
    np.testing.assert_allclose(rates[4:50], -0.02, atol=1e-12)
    np.testing.assert_allclose(rates[70:], 0.01, atol=1e-12)


def test_noise_is_that_of_the_values_and_not_of_their_trend() -> None:
    random = np.random.default_rng(3)
    values = 100 - 0.5 * np.arange(2000) + 0.1 * random.standard_normal(2000)
    assert noise_sigma(values, window=2000) == pytest.approx(0.1, rel=0.1)


def test_the_slope_error_covers_the_slope() -> None:
    random = np.random.default_rng(4)
    after = np.arange(20.0)
    pulls = []
    for _ in range(300):
        slope, error = slope_with_error(after, 0.3 * random.standard_normal(20), noise=0.3)
        pulls.append(slope / error)
    assert np.std(pulls) == pytest.approx(1, abs=0.15)


def test_sudden_rises_are_counted() -> None:
    values = 5 - 0.01 * np.arange(100) + 0.001 * np.random.default_rng(5).standard_normal(100)
    calm = unstable_share(values)
    values[[40, 60, 80]] += 1.0
    assert calm < 0.02
    assert unstable_share(values) == pytest.approx(calm + 3 / 99, abs=0.011)


def test_explained_is_zero_at_the_no_information_line_and_hundred_at_perfection() -> None:
    assert explained_percent(5.5, 5.5) == 0
    assert explained_percent(0, 5.5) == 100
    assert explained_percent(11, 5.5) == -100
    assert math.isnan(explained_percent(1, math.nan))


def test_the_time_of_an_epoch_forgives_a_clock_that_goes_back() -> None:
    assert seconds_per_epoch(np.array([3.0, 6.0, 9.0, 1.0, 4.0])) == 3
    assert seconds_per_epoch(np.array([2.5])) == 2.5
    assert math.isnan(seconds_per_epoch(np.empty(0)))


def test_time_left_is_for_the_epochs_that_are_missing(tmp_path: Path) -> None:
    write_run(tmp_path, falling, 30, status=None, start={"epochs": 100})
    assert analyse(load_run(tmp_path)).seconds_left == pytest.approx(70 * 4.0)
    write_run(tmp_path, falling, 30, start={"epochs": 100})
    assert analyse(load_run(tmp_path)).seconds_left is None


def test_promises_say_when_a_level_was_reached(tmp_path: Path) -> None:
    losses = [4.0] * 10 + [3.4] + [3.0] * 230 + [1.9]
    analysis = analyse(load_run(write_run(tmp_path, losses, status=None, start={"epochs": 1000})))
    assert analysis.promises is not None
    assert [(p.level, p.reached_after, p.state) for p in analysis.promises] == [
        (3.5, 11, "kept"),
        (2.0, 242, "late"),
        (1.0, None, "open"),
    ]


@pytest.mark.parametrize(
    "start",
    [
        {"no_information_loss": 4.5, "channel_weights": [1, 1, 1, 0, 1, 0.5]},
        {"no_information_loss": 5.5, "channel_weights": [2, 1, 1, 0.5, 0.5, 0.5]},
        {"no_information_loss": 52114.0},
    ],
)
def test_promises_hold_for_the_default_loss_only(tmp_path: Path, start: dict[str, object]) -> None:
    assert analyse(load_run(write_run(tmp_path, [4.0, 0.5], start=start))).promises is None
    assert "apply only to the default weights" in text_report(load_run(tmp_path))


def test_adjustments_are_counted_by_kind(tmp_path: Path) -> None:
    run = load_run(write_realistic_run(tmp_path))
    assert analyse(run).adjustments == {"warmup_done": 1, "boost": 3, "decay": 11, "plateau": 1, "anneal": 1}
    rates = build_summary(run)["lr"]
    assert (rates["num_boosts"], rates["num_decays"], rates["num_plateaus"]) == (3, 11, 1)
    assert "decay (11)" in {text.get_text().split(":")[0] for text in _legend_texts(run, panel=1)}


# Advice


def advice_text(folder: Path) -> str:
    return "\n".join(f"{item.text} {item.evidence}" for item in advise(load_run(folder)))


def noisy(level: float, slope: float = 0.0, sigma: float = 0.01, length: int = 60, seed: int = 1) -> list[float]:
    random = np.random.default_rng(seed)
    return (level + slope * np.arange(length) + sigma * random.standard_normal(length)).tolist()


def test_a_loss_at_the_no_information_line_points_to_the_data(tmp_path: Path) -> None:
    write_run(tmp_path, noisy(5.49))
    assert "check that inputs and targets belong together before touching the learning rate" in advice_text(tmp_path)
    assert "learned nothing" in verdict(load_run(tmp_path))
    assert "still fell" not in advice_text(tmp_path)
    write_run(tmp_path, noisy(5.2))
    assert "learned nothing" not in advice_text(tmp_path) + verdict(load_run(tmp_path))
    write_run(tmp_path, noisy(8.0))
    assert "worse than" in advice_text(tmp_path)
    assert "worse than" in verdict(load_run(tmp_path))


def test_the_trend_decides_whether_to_wait(tmp_path: Path) -> None:
    write_run(tmp_path, noisy(2.0, slope=-0.01), status=None, start={"epochs": 100})
    assert "still falls: wait" in advice_text(tmp_path)
    assert "it falls by 0.00" in verdict(load_run(tmp_path))
    losses = [*noisy(1.5, slope=-0.02, length=20), *noisy(1.2, length=60)]
    write_run(tmp_path, losses, status=None, start={"epochs": 100})
    assert "stalls at a high learning rate" in advice_text(tmp_path)
    assert "no clear change" in verdict(load_run(tmp_path))


def test_overfitting_needs_both_trends(tmp_path: Path) -> None:
    def write(train_slope: float) -> None:
        log = write_start(tmp_path, epochs=60)
        train = noisy(1.0, slope=train_slope, sigma=0.005, seed=2)
        for epoch, loss in enumerate(noisy(1.0, slope=0.01, sigma=0.005)):
            write_epoch(log, epoch, loss, train_loss=train[epoch])

    write(train_slope=-0.01)
    assert is_overfitting(load_run(tmp_path))
    assert "by heart" in advice_text(tmp_path)
    write(train_slope=0.01)
    assert not is_overfitting(load_run(tmp_path))


def test_waiting_clipping_and_minimum_rate_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, noisy(2.0), wait_share=0.4, clipped_share=0.9, grad_norm=7.5, lr=1e-6)
    text = advice_text(tmp_path)
    assert "waits for data" in text
    assert "40 % of the time" in text
    assert "90 % of the steps" in text
    assert "median norm 7.5" in text
    assert "at its minimum" in text
    write_run(tmp_path, noisy(2.0))
    text = advice_text(tmp_path)
    assert not any(words in text for words in ("waits for data", "clipped", "at its minimum"))


def test_a_finished_anneal_is_no_collapsed_rate(tmp_path: Path) -> None:
    assert advise(load_run(write_realistic_run(tmp_path))) == []


def test_losses_that_are_not_numbers_are_named_and_never_written(tmp_path: Path) -> None:
    for losses, words in (
        ([5.0, 4.0, math.nan, math.inf], "not a finite number since epoch 3"),
        ([5.0, math.nan, 4.0], "not a finite number in 1 epoch"),
        ([math.nan, math.inf], "never a finite number"),
    ):
        write_run(tmp_path, losses)
        assert words in verdict(load_run(tmp_path))
        assert "lower training.lr_first" in advice_text(tmp_path)
        summary = json.loads(write_summary(tmp_path).read_text(), parse_constant=pytest.fail)
        assert summary["val_loss"]["final"] == (4.0 if losses[-1] == 4.0 else None)
        assert summary["val_loss"]["best"] == (4.0 if 4.0 in losses else None)
    show_everywhere(tmp_path)


# Summary


def test_the_summary_has_the_documented_keys(tmp_path: Path) -> None:
    summary = build_summary(load_run(write_realistic_run(tmp_path)))
    assert set(summary) >= {
        "version", "seed", "epochs", "steps", "wall_s", "val_loss", "no_information_loss", "num_parameters", "device",
        "lr", "metrics", "verdict", "status", "val_channels", "promises",
    }  # fmt: skip
    assert set(summary["val_loss"]) == {"initial", "epoch_50", "epoch_200", "final", "best", "all_frames"}
    assert set(summary["lr"]) >= {"initial", "final", "num_boosts", "num_decays"}
    assert set(summary["metrics"]) == {
        "jaccard", "precision", "recall", "rmse_lateral_nm", "rmse_axial_nm", "efficiency_3d",
    }  # fmt: skip
    assert set(summary["val_channels"]) == set(CHANNELS)
    assert (summary["epochs"], summary["steps"], summary["wall_s"]) == (1000, 5000, 3700.0)


@pytest.mark.parametrize(("num_epochs", "expected"), [(49, None), (50, 49.0), (51, 49.0)])
def test_epoch_50_is_the_loss_after_50_epochs(tmp_path: Path, num_epochs: int, expected: float | None) -> None:
    run = load_run(write_run(tmp_path, [float(index) for index in range(num_epochs)]))
    assert build_summary(run)["val_loss"]["epoch_50"] == expected
    assert build_summary(run)["val_loss"]["epoch_200"] is None


def test_the_summary_takes_the_last_metrics(tmp_path: Path) -> None:
    log = write_start(tmp_path)
    write_epoch(log, 0, 5.0)
    log.write("metrics", epoch=0, jaccard=0.1, rmse_lateral_nm=90.0)
    log.write("metrics", epoch=0, jaccard=0.2, rmse_lateral_nm=None, recall=math.nan)
    metrics = build_summary(load_run(tmp_path))["metrics"]
    assert metrics["jaccard"] == 0.2
    assert metrics["rmse_lateral_nm"] is None
    assert metrics["recall"] is None


# Every output of every run


def show_everywhere(folder: Path) -> None:
    run = load_run(folder)
    json.dumps(build_summary(run), allow_nan=False)
    assert verdict(run).count("\n") == 0
    assert verdict(run).endswith(".")
    assert verdict(run) in text_report(run)
    assert 'id="learning"' in html_report(run)
    assert html_report(run, "zh")
    console = quiet_console(terminal=True)
    console.print(live_view(run))
    watch(folder, 0.01, once=True, console=console)


@pytest.mark.parametrize(
    ("num_epochs", "status"), [(0, None), (0, "interrupted"), (1, None), (1, "finished"), (2, "stopped_early")]
)
def test_short_runs_go_through_every_function(tmp_path: Path, num_epochs: int, status: str | None) -> None:
    write_run(tmp_path, falling, num_epochs, status=status)
    show_everywhere(tmp_path)
    assert build_summary(load_run(tmp_path))["epochs"] == num_epochs


def test_a_start_without_facts_goes_through_every_function(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n{"event": "epoch", "epoch": 0, "val_loss": 3}\n')
    show_everywhere(tmp_path)
    summary = build_summary(load_run(tmp_path))
    assert summary["no_information_loss"] is None
    assert summary["explained_percent"] is None


# Figures


def _legend_texts(run: object, panel: int) -> list[object]:
    return list(plot_curves(run).axes[panel].get_legend().get_texts())  # type: ignore[arg-type]


def test_curves_show_the_line_the_levels_and_every_adjustment(tmp_path: Path) -> None:
    run = load_run(write_realistic_run(tmp_path))
    figure = plot_curves(run)
    losses, rates = figure.axes[0], figure.axes[1]
    assert any("no-information loss 5.5" in text.get_text() for text in losses.get_legend().get_texts())
    assert {text.get_text() for text in losses.texts} == {
        f"promised: {level:g} within {term}" for level, term in ((3.5, 50), (2, 200), (1, 1000))
    }
    marked = sum(len(line.get_xdata()) for line in rates.lines[1:])
    assert marked == len(run.adjustments)
    assert rates.get_yscale() == "log"


def test_saved_figures_are_pictures(tmp_path: Path) -> None:
    figure = plot_curves(load_run(write_run(tmp_path, falling, 40)))
    save_figure(figure, tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").std() > 0.05
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]


def example(num: int = 3, z: float = 100.0, shape: tuple[int, int] = (20, 30)) -> Example:
    places = np.linspace(2, 17, num)
    table = EmitterTable(np.zeros(num, int), places, places, z * np.arange(num), np.full(num, 1e3))
    return Example(np.random.default_rng(0).poisson(50.0, shape).astype(float), table, table, "$ample_0, frame 3")


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7])
def test_the_gallery_takes_any_number_of_frames(count: int) -> None:
    picture_HWC = figure_pixels(plot_examples([example() for _ in range(count)], PixelSize(x=100, y=110)))
    assert picture_HWC.shape[2] == 3
    assert picture_HWC.dtype == np.uint8
    assert picture_HWC.std() > 1


def test_the_gallery_keeps_pixels_in_place_and_in_proportion() -> None:
    outside = EmitterTable(np.zeros(1, int), np.array([-9.0]), np.array([99.0]), np.array([5.0]), np.array([1.0]))
    shown = Example(example().frame_HW, example().truth, outside, "")
    figure = plot_examples([shown], PixelSize(x=100, y=120))
    ax = figure.axes[0]
    assert ax.get_xlim() == (-0.5, 29.5)
    assert ax.get_ylim() == (19.5, -0.5)
    assert ax.get_aspect() == pytest.approx(1.2)
    left, right = ax.lines[0].get_xdata()
    assert right - left == pytest.approx(10)  # 1 µm in px of 100 nm
    assert [axis.get_ylabel() for axis in figure.axes[1:]] == ["photons per px", "z (nm)"]


def test_the_gallery_of_two_dimensional_data_has_no_depth() -> None:
    flat = example(z=0.0)
    figure = plot_examples([flat, Example(flat.frame_HW, empty_table(), empty_table(), "")], PixelSize(x=100, y=100))
    assert [axis.get_ylabel() for axis in figure.axes[2:] if axis.get_ylabel()] == ["photons per px"]


# Reports


def test_the_report_escapes_what_it_shows(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    log = write_start(tmp_path, device=evil)
    write_epoch(log, 0, 5.0)
    log.write("lr", epoch=0, kind="boost", reason=evil, factor=1.5, lr_before=1e-4, lr_after=1.5e-4, evidence={})
    config = Config(comments={"note": evil}).model_dump(mode="json")
    (tmp_path / "config.json").write_text(json.dumps(config))
    page = write_report(tmp_path).read_text()
    assert evil not in page
    assert page.count("<script>") == 1  # the page's own; the charts' numbers have a type
    assert page.count("&lt;script&gt;") >= 4  # device (twice), reason, comment


def test_the_report_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    write_run(tmp_path, falling, 40)
    save_figure(plot_examples([example()], PixelSize(x=100, y=100)), tmp_path / "validation_frames.png")
    page = write_report(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r"""(src|href)=["'](?!data:|#)|https?:|url\((?!#)|@import""", page)
    assert verdict(load_run(tmp_path)) in page


def test_config_differences_are_those_to_the_default() -> None:
    assert config_differences(Config().model_dump(mode="json")) == []
    changed = Config.model_validate({"data": {"batch_size": 4}, "output": {"save_dir": "elsewhere"}, "num_threads": 2})
    assert config_differences(changed.model_dump(mode="json")) == [
        ("data.batch_size", "4", "16"),
        ("num_threads", "2", "null"),
    ]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_broken_config_is_said_and_no_error(tmp_path: Path, text: str) -> None:
    write_run(tmp_path, [5.0])
    (tmp_path / "config.json").write_text(text)
    assert "no readable config.json" in text_report(load_run(tmp_path))


# The live view


def test_one_look_tells_the_facts_and_writes_nothing(tmp_path: Path) -> None:
    write_realistic_run(tmp_path, num_epochs=300, status=None)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    console = quiet_console()
    watch(tmp_path, 1.0, once=True, console=console)
    text = printed(console)
    for words in (
        "epoch 300 of 1000",
        "epochs/min",
        "43 min left",
        "learning rate",
        "boost 1, decay 1",
        "RMSE lateral",
    ):
        assert words in text, words
    assert verdict(load_run(tmp_path)) in text
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_the_view_waits_for_a_run_and_ends_with_it(tmp_path: Path) -> None:
    for terminal in (False, True):
        folder = tmp_path / str(terminal)
        console = quiet_console(terminal)
        thread = threading.Thread(target=watch, args=(folder, 0.01), kwargs={"console": console}, daemon=True)
        thread.start()
        for _ in range(500):
            if "there is no" in printed(console):
                break
            thread.join(0.01)
        assert thread.is_alive()
        assert "Waiting for a run: there is no" in printed(console)
        write_run(folder, [5.0, 4.0], status=None)
        thread.join(0.2)
        assert thread.is_alive()
        write_run(folder, [5.0, 4.0])
        thread.join(5)
        assert not thread.is_alive()
        assert "Finished after 2 epochs" in printed(console)


def test_an_unchanged_log_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, [5.0], status=None)
    reads = []
    monkeypatch.setattr("adaloc.monitor.live.load_run", lambda folder: reads.append(folder) or load_run(folder))
    watcher = LogWatcher(tmp_path)
    first = watcher.look()
    assert watcher.look() is first
    assert len(reads) == 1
    # Appended with a clock that went back.
    write_epoch(write_start(tmp_path), 0, 3.0)
    os.utime(tmp_path / "log.jsonl", (1.0, 1.0))
    changed = watcher.look()
    assert changed is not None
    assert changed.epochs.val_loss.tolist() == [3.0]
    os.utime(tmp_path / "log.jsonl", (4e9, 4e9))
    assert watcher.look() is not None
    assert watcher.quiet_seconds() == 0


def test_a_run_that_was_killed_is_noticed(tmp_path: Path) -> None:
    write_run(tmp_path, [5.0], status=None)
    os.utime(tmp_path / "log.jsonl", (1e9, 1e9))
    console = quiet_console()
    watch(tmp_path, 1.0, once=True, console=console)
    assert "the training may have been stopped" in printed(console)


@given(st.lists(st.floats(), max_size=200), st.booleans())
def test_a_sparkline_draws_anything(values: list[float], utf8: bool) -> None:
    assert len(sparkline(np.array(values), utf8=utf8)) == max(min(len(values), 60), 1)


def test_a_sparkline_falls_with_the_loss() -> None:
    assert sparkline(np.geomspace(8, 1, 8)) == "█▇▆▅▄▃▂▁"


# The command and its door


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("plot", {"training_curves.png"}),
        ("report", {"report.txt", "report.html", "summary.json"}),
        ("all", {"training_curves.png", "report.txt", "report.html", "summary.json"}),
        ("monitor", set()),
    ],
)
def test_the_modes_write_their_files(tmp_path: Path, mode: str, names: set[str]) -> None:
    write_run(tmp_path, [5.0, 4.0])
    console = quiet_console()
    written = monitor(tmp_path, mode, 0.01, console)  # type: ignore[arg-type]
    assert {path.name for path in written} == names
    assert {path.name for path in tmp_path.iterdir()} == names | {"log.jsonl"}
    assert all(str(path) in printed(console) for path in written)


@pytest.fixture(scope="module")
def door() -> Callable[[list[str]], int]:
    return runpy.run_path(str(DOOR))["main"]  # type: ignore[no-any-return]


def test_the_door_is_a_program(tmp_path: Path) -> None:
    write_run(tmp_path, [5.0, 4.0])
    arguments = ["--mode", "monitor", "--checkpoint", str(tmp_path / "latest_checkpoint.pth")]
    result = subprocess.run([sys.executable, str(DOOR), *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert "Finished after 2 epochs" in result.stdout


def test_the_door_has_the_documented_exit_status(
    tmp_path: Path,
    door: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_run(tmp_path, [5.0, 4.0], status=None)
    assert door(["--mode", "report", "--checkpoint", str(tmp_path)]) == 0
    assert door(["--mode", "report", "--checkpoint", str(tmp_path / "nowhere" / "latest_checkpoint.pth")]) == 1
    assert "start one with" in capsys.readouterr().err
    for wrong in (["--mode", "draw"], ["--interval", "0"], ["--interval", "nan"], ["--interval", "soon"]):
        with pytest.raises(SystemExit) as ended:
            door(wrong)
        assert ended.value.code == 2

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    assert door(["--mode", "monitor", "--checkpoint", str(tmp_path)]) == 130


def test_the_door_says_how_to_install(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-S", str(DOOR)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "make setup" in result.stderr
    assert "Traceback" not in result.stderr


def test_monitoring_does_not_load_torch() -> None:
    code = (
        "import sys, adaloc.monitor.command, adaloc.monitor.report; "
        "mine = {m for m in sys.modules if m.startswith('adaloc.') and not m.startswith('adaloc.monitor')}; "
        "allowed = {'adaloc.config', 'adaloc.config_simulation', 'adaloc.config_training', "
        "'adaloc.config_options', 'adaloc.emitters', "
        "'adaloc.errors', "
        "'adaloc.files', 'adaloc.training', "
        "'adaloc.training.run_log', 'adaloc.training.causes', 'adaloc.training.evidence', "
        "'adaloc.training.diagnosis_text', 'adaloc.words', 'adaloc.data', 'adaloc.data.finding', "
        "'adaloc.data.integrity_text'}; "
        "sys.exit(str(mine - allowed) if mine - allowed or 'torch' in sys.modules else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
