from __future__ import annotations

import ast
import html
import json
import math
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from string import Formatter

import numpy as np
import pytest
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import Config, PixelSize
from adaloc.emitters import EmitterTable
from adaloc.errors import AdalocError, DataError
from adaloc.evaluation.metrics import Scored
from adaloc.monitor.axes import Scale, linear_ticks, log_ticks
from adaloc.monitor.chart import Band, Chart, Curve, draw, thinned
from adaloc.monitor.chinese import CHINESE
from adaloc.monitor.compare import find_runs, json_table, load_runs, make_row, markdown_table
from adaloc.monitor.log import load_run
from adaloc.monitor.panels import moving_noise
from adaloc.monitor.report import html_report, text_report, write_report
from adaloc.monitor.serve import make_server
from adaloc.monitor.validation_file import VALIDATION_FILE, Validation, read_validation, write_validation
from adaloc.monitor.verdict import verdict
from adaloc.validation_pictures import uncertainty
from monitor_runs import write_epoch, write_realistic_run, write_run, write_start

MONITOR = Path(__file__).parents[1] / "src" / "adaloc" / "monitor"


def validation() -> Validation:
    points = {"x": [3.0, 5.0], "y": [2.0, 6.0], "z": [10.0, -20.0], "photons": [900.0, 800.0], "paired": [True, False]}
    frame = {
        "sample": "sample_001", "frame": 4, "top": 0, "left": 0, "photons": [[5] * 10] * 8, "truth": points,
        "localizations": points, "jaccard": 0.33, "rmse_lateral_nm": None,
    }  # fmt: skip
    axis = {"counts": [5] * 20, "truth_counts": [4] * 20, "amplitude": 0.01, "peak_px": 0.1, "p_value": 0.5}
    image = [[0.0, 1.0, 0.0]] * 3
    return Validation.model_validate(
        {
            "pixel_size_nm": {"x": 100, "y": 100}, "num_frames": 10, "num_emitters": 30, "num_localizations": 25,
            "frames": [{**frame, "rank": "best"}, {**frame, "rank": "worst"}], "sub_pixel": {"x": axis, "y": axis},
            "uncertainty": {"x": {"counts": [3] * 32, "spread": 1.4, "within_one": 0.5}},
            "psf": {"z_nm": [0.0], "num": [9], "measured": [image], "model": [image], "correlation": [1.0]},
            "camera": {"mean_adu": [100.0, 200.0], "variance_adu2": [3.0, 203.0], "expected_adu2": [2.0, 202.0],
                       "slope_adu": 2.0, "slope_sigma": 0.1, "expected_slope_adu": 2.0},
            "unknown_because": {"crlb": "the data do not say"},
        }
    )  # fmt: skip


# Charts


def test_ticks_are_round_and_within() -> None:
    for low, high in ((0.0, 1.0), (-3.7, 812.0), (1e-6, 2e-6)):
        ticks = linear_ticks(low, high, 6)
        assert 2 <= len(ticks) <= 8
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    for low, high in ((0.5, 6.0), (1e-7, 1e-1), (3.0, 4.0)):
        assert all(low <= tick <= high for tick in log_ticks(low, high, 6))
    assert log_ticks(0.0, 1.0, 5) == linear_ticks(math.nan, 1.0, 5) == []


def test_a_scale_maps_its_ends() -> None:
    for log in (False, True):
        scale = Scale(0.1, 10.0, 50.0, 450.0, log=log)
        assert (scale(0.1), scale(10.0)) == pytest.approx((50.0, 450.0))
    assert scale(1.0) == pytest.approx(250.0)


def test_thinning_keeps_the_extremes() -> None:
    x = np.arange(10_000.0)
    y = np.sin(x / 50)
    y[4321] = 99.0
    few, heights = thinned(x, y, 200)
    assert len(few) <= 400
    assert heights.max() == 99.0
    assert np.all(np.diff(few) > 0)


def test_a_curve_has_gaps_where_it_is_not_finite() -> None:
    y = np.array([1.0, 2.0, math.nan, 3.0, math.inf, 4.0, 5.0])
    drawing = draw(Chart("q", "", "l", "x", "y", curves=[Curve("<c>", np.arange(7.0), y, "c1")]))
    path = re.search(r'<path class="line" d="([^"]+)"', drawing)
    assert path is not None
    assert path[1].count("M") == 3
    assert "nan" not in path[1]
    assert "<c>" not in drawing


def test_the_band_is_as_wide_as_the_noise() -> None:
    noise = moving_noise(1.0 + 0.1 * np.random.default_rng(0).standard_normal(4000))
    assert float(np.median(noise[100:])) == pytest.approx(0.1, rel=0.1)


def test_a_band_that_reaches_below_zero_ends_below_a_logarithmic_picture() -> None:
    x = np.arange(1.0, 4.0)
    band = Band("b", x, np.array([0.5, -1.0, 0.4]), np.array([2.0, 3.0, 2.0]), "c1")
    figure = draw(Chart("q", "", "l", "x", "y", [Curve("c", x, np.ones(3), "c1")], bands=[band], log=True))
    assert "nan" not in figure.lower()


# Languages


def templates() -> set[str]:
    found = set()
    for path in MONITOR.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            direct = isinstance(node.func, ast.Name) and node.func.id == "say"
            made = isinstance(node.func, ast.Call) and getattr(node.func.func, "id", "") == "speaker"
            if direct or made:
                for part in ast.walk(node.args[0]):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        found.add(part.value)
    for path in MONITOR.glob("*.html"):
        found |= set(re.findall(r"say\('([^']*)'", path.read_text(encoding="utf-8")))
    return found


def test_every_sentence_is_there_in_chinese_with_the_same_values() -> None:
    used = templates()
    assert len(used) > 300
    assert not used - CHINESE.keys()
    for english in used:
        fields = [
            sorted(name for _, name, _, _ in Formatter().parse(text) if name) for text in (english, CHINESE[english])
        ]
        assert fields[0] == fields[1], english


def test_the_chinese_report_says_the_same_in_chinese(tmp_path: Path) -> None:
    write_realistic_run(tmp_path)
    run = load_run(tmp_path)
    page, text = html_report(run, "zh"), text_report(run, "zh")
    assert '<html lang="zh-CN">' in page
    assert verdict(run, "zh") in page
    assert "已 31 轮没有新的最佳损失：减小步长" in page  # a logged reason with its number
    assert "Is it learning" not in page
    assert "Promised levels" not in text


# The report


def test_the_report_shows_every_decision_with_what_why_and_evidence(tmp_path: Path) -> None:
    run = load_run(write_realistic_run(tmp_path))
    page = html.unescape(html_report(run))
    for words in ("why: no new best loss for 31 epochs: a smaller step", "rate 5.01e-04 → 7.51e-04",
                  "epochs since the best: 31"):  # fmt: skip
        assert words in page
    # Each decision stands in two charts, each drawn wide and narrow.
    assert page.count('class="mark ') == 4 * len(run.adjustments)


def test_the_report_is_small_and_has_every_section(tmp_path: Path) -> None:
    write_realistic_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(Config().model_dump(mode="json")))
    write_validation(tmp_path, validation())
    path = write_report(tmp_path)
    assert path.stat().st_size < 1_500_000
    page = path.read_text()
    assert page.count('<svg class="frame"') == 2
    for question in ("Which channel lags behind?", "Do the molecules look like the PSF", "Is the noise of the frames",
                     "Do localizations prefer places", "Are the predicted uncertainties right?", "They are too small",
                     "Is the machine kept busy?"):  # fmt: skip
        assert question in page
    assert "RMSE over CRLB: the data do not say" in page


def test_errors_drawn_from_their_uncertainties_have_a_spread_of_one() -> None:
    rng = np.random.default_rng(0)
    num = 20_000
    sigma_px, sigma_z = rng.uniform(0.05, 0.5, num), rng.uniform(10, 80, num)
    found = EmitterTable(
        frame=np.arange(num), x=np.zeros(num), y=np.zeros(num), z=np.zeros(num), photons=np.ones(num),
        x_sigma=sigma_px, y_sigma=2 * sigma_px, z_sigma=sigma_z,
    )  # fmt: skip
    rows, none = rng.permutation(num), np.empty(0, np.int64)
    scored = Scored(
        rows, np.arange(num), none, none, dx_nm=(110 * sigma_px * rng.normal(size=num))[rows],
        dy_nm=(90 * sigma_px * rng.normal(size=num))[rows], dz_nm=(sigma_z * rng.normal(size=num))[rows],
    )  # fmt: skip
    axes = uncertainty(found, scored, PixelSize(x=110, y=90))
    assert axes["x"].spread == pytest.approx(1, abs=0.02)
    assert axes["y"].spread == pytest.approx(0.5, abs=0.01)
    assert axes["z"].within_one == pytest.approx(0.683, abs=0.015)
    assert sum(axes["x"].counts) == num
    plain = found.with_columns(x_sigma=None, y_sigma=None, z_sigma=None)
    assert uncertainty(plain, scored, PixelSize(x=90, y=90)) == {}


@pytest.mark.parametrize("text", ["", "{", '{"format": "other"}', "[1]"])
def test_a_damaged_validation_file_is_said_and_the_report_is_made(tmp_path: Path, text: str) -> None:
    write_run(tmp_path, [5.0, 4.0])
    (tmp_path / VALIDATION_FILE).write_text(text)
    assert read_validation(tmp_path)[0] is None
    assert "validation.json is damaged" in write_report(tmp_path).read_text()


def test_the_validation_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_validation(tmp_path, validation())
    assert read_validation(tmp_path) == (validation(), "")


# Comparison


def test_the_table_has_the_strategys_figures(tmp_path: Path) -> None:
    row = make_row("a", load_run(write_realistic_run(tmp_path / "a")))
    assert row.initial_rate == 5e-4
    assert row.epochs_to["3.5"] is not None
    assert row.epochs_to["2"] is not None
    assert row.epochs_to["3.5"] < row.epochs_to["2"]
    assert row.interventions == 15  # boosts, decays and reductions on a plateau; neither warmup nor anneal
    assert (row.epochs, row.wall_s) == (1000, 3700.0)


def test_the_comparison_is_written_in_every_form(tmp_path: Path) -> None:
    write_realistic_run(tmp_path / "a")
    write_run(tmp_path / "b", [5.0, 3.0, math.nan], status=None)
    for name, size in (("a", 16), ("b", 4)):
        config = Config.model_validate({"data": {"batch_size": size}}).model_dump(mode="json")
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    folders, page = [str(tmp_path / name) for name in "ab"], tmp_path / "page.html"
    table = json.loads(CliRunner().invoke(app, ["compare", *folders, "--json"]).stdout, parse_constant=pytest.fail)
    assert [run["name"] for run in table["runs"]] == ["a", "b"]
    assert table["config_differences"] == [{"key": "data.batch_size", "values": {"a": "16", "b": "4"}}]
    shown = CliRunner().invoke(app, ["compare", *folders, "--html", str(page)])
    assert shown.exit_code == 0
    assert "data.batch_size" in shown.stdout
    assert 'data-run="b"' in page.read_text()
    markdown = markdown_table(load_runs([tmp_path / "a", tmp_path / "b"]))
    assert {line.count("|") for line in markdown.splitlines()} == {18}
    json.loads(json_table(load_runs([tmp_path / "b"])), parse_constant=pytest.fail)


def test_a_run_is_compared_once_and_named_apart(tmp_path: Path) -> None:
    for name in ("x/run", "y/run"):
        write_run(tmp_path / name, [5.0])
    assert list(load_runs([tmp_path / "x/run", tmp_path / "y/run"])) == ["x/run", "y/run"]
    with pytest.raises(DataError, match="twice"):
        load_runs([tmp_path / "x/run", tmp_path / "x/../x/run"])
    assert list(find_runs(tmp_path)) == ["x/run", "y/run"]


# The served page


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path) -> str:
        server = make_server(folder, 0, 0.2)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fetch(url: str, **headers: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers.get("ETag", "")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), ""


def test_the_page_follows_the_log_and_forgives_a_torn_line(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    log = write_start(tmp_path)
    url = serve(tmp_path) + f"/content/run/{tmp_path.name}"
    assert "No epoch is finished yet" in fetch(url)[1]
    write_epoch(log, 0, 4.321)
    status, body, tag = fetch(url)
    assert (status, "4.321" in body) == (200, True)
    assert fetch(url, **{"If-None-Match": tag})[0] == 304
    with (tmp_path / "log.jsonl").open("a") as handle:
        handle.write('{"event": "epoch", "epoch": 1, "val')
    assert fetch(url)[0] == 200
    write_epoch(log, 1, 3.987)
    assert "3.987" in fetch(url)[1]
    write_run(tmp_path, [2.5], status=None)  # a new run in the same folder
    assert "2.5" in fetch(url)[1]


def test_a_folder_of_runs_is_served_and_nothing_else(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    root = tmp_path / "runs"
    write_run(root / "a b", [5.0, 4.0])
    (root / "starting").mkdir()
    (root / "starting" / "log.jsonl").write_text("")
    (tmp_path / "secret.txt").write_text("secret")
    url = serve(root)
    assert 'href="/run/a%20b"' in fetch(url + "/content/runs")[1]
    assert fetch(url + "/run/a%20b")[0] == 200
    assert fetch(url + "/run/starting")[0] == 200
    assert [run["name"] for run in json.loads(fetch(url + "/api/runs")[1])["runs"]] == ["a b"]
    for path in ("/run/..", "/run/..%2F..%2Fsecret.txt", "/content/run/%2e%2e/secret.txt", "/../secret.txt",
                 "/secret.txt", "/run/a%20b/config.json", "/run/%00", "/run//etc/passwd"):  # fmt: skip
        status, body, _ = fetch(url + path)
        assert (status, "secret" in body) == (404, False), path
    assert fetch(url + "/", Host="evil.example:80")[0] == 403


def test_what_cannot_be_served_is_said(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    with pytest.raises(AdalocError, match="no folder"):
        make_server(tmp_path / "nowhere", 0, 1.0)
    port = int(serve(tmp_path).rsplit(":", 1)[1])
    with pytest.raises(AdalocError, match="--port"):
        make_server(tmp_path, port, 1.0)


def test_the_page_fills_itself_in_a_browser(tmp_path: Path, serve: Callable[[Path], str]) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed")
    write_run(tmp_path / "one", [5.0, 4.0], status=None)
    write_run(tmp_path / "two", [5.0, 3.0])
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=3000", "--dump-dom", serve(tmp_path)],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert 'data-run="one"' in done.stdout
    assert 'data-run="two"' in done.stdout
    assert "as of " in done.stdout  # the script has fetched the content
