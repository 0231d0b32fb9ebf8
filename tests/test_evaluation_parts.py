"""Optimal matching, tables, bounds, pixel grid, wobble, the challenge's rules and the page."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import CameraConfig, GaussianPSFConfig, OpticsConfig, PixelSize, SimulationConfig
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.errors import DataError
from adaloc.evaluation.bounds_of_pairs import Bounds, against_bounds
from adaloc.evaluation.comparison import Comparison, Rules, challenge_rows, figures_of, in_sigmas, tables_of
from adaloc.evaluation.emitter_bounds import Scene, emitter_bounds
from adaloc.evaluation.matching import match
from adaloc.evaluation.metrics import score, summarize
from adaloc.evaluation.tables import binned, even_edges, local_density_per_um2, per_frame, quantile_edges
from adaloc.evaluation.wobble import without_wobble
from adaloc.localize.export import write_picasso_hdf5
from adaloc.localize.pixel_grid import PixelGridWave, describe_pixel_grid, error_wave_nm, pixel_grid_bias
from adaloc.localize.read import read_localizations
from adaloc.simulation.crlb import covariance, single_emitter_information
from adaloc.simulation.psf import make_psf
from small import small_data

SQUARE = PixelSize(x=100, y=100)
OBLONG = PixelSize(x=120, y=80)


def table(rows: list[tuple[float, ...]]) -> EmitterTable:
    """Rows of (frame, x px, y px, z nm[, photons])."""
    columns = np.array([(*row, 1000.0)[:5] for row in rows], float).reshape(-1, 5).T
    return EmitterTable(columns[0].astype(int), *columns[1:])


def crowd(seed: int, num: int, frames: int = 1, side_px: float = 5.0) -> EmitterTable:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, side_px, (2, num))
    return EmitterTable(rng.integers(0, frames, num), x, y, rng.uniform(-600, 600, num), rng.uniform(100, 5000, num))


# --- Optimal matching -------------------------------------------------------------------------------------------


def best_by_hand(a: EmitterTable, b: EmitterTable, axial: float | None) -> tuple[int, float]:
    """Most pairs, and the least sum of squares among those, over every assignment there is."""
    allowed = {}
    for i, j in itertools.product(range(len(a)), range(len(b))):
        lateral = math.hypot((a.x[i] - b.x[j]) * OBLONG.x, (a.y[i] - b.y[j]) * OBLONG.y)
        depth = 0.0 if axial is None else abs(a.z[i] - b.z[j])
        if a.frame[i] == b.frame[j] and lateral <= 250 and (axial is None or depth <= axial):
            allowed[i, j] = lateral**2 + depth**2
    best = (0, 0.0)
    for order in itertools.permutations(range(max(len(a), len(b)))):
        pairs = [(i, j) for i, j in zip(range(len(a)), order, strict=False) if (i, j) in allowed]
        best = min(best, (-len(pairs), sum(allowed[p] for p in pairs)))
    return -best[0], best[1]


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 5), st.sampled_from([None, 500.0]))
def test_optimal_matching_agrees_with_all_assignments(seed: int, num_a: int, num_b: int, axial: float | None) -> None:
    a, b = crowd(seed, num_a, 2), crowd(seed + 1, num_b, 2)
    found = match(a, b, pixel_size_nm=OBLONG, axial_tolerance_nm=axial, method="optimal")
    assert len(set(found.localization.tolist())) == len(set(found.truth.tolist())) == len(found)
    assert (a.frame[found.localization] == b.frame[found.truth]).all()
    total = ((a.x[found.localization] - b.x[found.truth]) * OBLONG.x) ** 2
    total += ((a.y[found.localization] - b.y[found.truth]) * OBLONG.y) ** 2
    if axial is not None:
        total += (a.z[found.localization] - b.z[found.truth]) ** 2
    number, least = best_by_hand(a, b, axial)
    assert len(found) == number
    assert total.sum() == pytest.approx(least)


def test_greedy_and_optimal_differ_where_the_nearest_pair_blocks_two() -> None:
    # At 0, 100 | 90, 300 nm the nearest pair (100, 90) leaves 0 and 300 too far apart.
    truth, estimate = table([(0, 0, 0, 0), (0, 1.0, 0, 0)]), table([(0, 0.9, 0, 0), (0, 3.0, 0, 0)])
    assert len(match(estimate, truth, pixel_size_nm=SQUARE)) == 1
    best = match(estimate, truth, pixel_size_nm=SQUARE, method="optimal")
    assert dict(zip(best.truth.tolist(), best.localization.tolist(), strict=True)) == {0: 0, 1: 1}


def test_optimal_never_finds_fewer() -> None:
    for seed in range(20):
        a, b = crowd(seed, 200, 5, 20.0), crowd(seed + 100, 200, 5, 20.0)
        greedy, best = (match(a, b, pixel_size_nm=SQUARE, method=m) for m in ("greedy", "optimal"))  # type: ignore[arg-type]
        assert len(best) >= len(greedy)


# --- Tables -----------------------------------------------------------------------------------------------------


def test_a_hand_made_table() -> None:
    truth = table([(0, 10, 10, -200, 500), (0, 20, 10, -100, 900), (1, 10, 10, 100, 2000), (1, 20, 10, 300, 4000)])
    estimate = table([(0, 10.3, 10.4, -210, 450), (1, 10, 10.1, 120, 1900), (1, 30, 10, 250, 3500)])
    scored = score(estimate, truth, pixel_size_nm=SQUARE, image_size_px=None)
    shallow, deep = binned(scored, estimate.z, truth.z, np.array([-200.0, 0.0, 300.0]))
    counts = [(b.figures.true_positives, b.figures.false_positives, b.figures.false_negatives) for b in (shallow, deep)]
    assert counts == [(1, 0, 1), (1, 1, 1)]
    assert (shallow.figures.jaccard, deep.figures.jaccard) == pytest.approx((1 / 2, 1 / 3))
    assert shallow.figures.rmse_lateral_nm == pytest.approx(50)
    assert deep.figures.rmse_lateral_nm == pytest.approx(10)
    assert (shallow.figures.bias_z_nm, deep.figures.bias_z_nm) == pytest.approx((-10, 20))
    frames = per_frame(scored, estimate, truth)
    assert frames.frame.tolist() == [0, 1]
    assert frames.jaccard.tolist() == pytest.approx([1 / 2, 1 / 3])


def test_bins_add_up_to_the_whole() -> None:
    truth, estimate = crowd(1, 3000, 50, 60.0), crowd(2, 2500, 50, 60.0)
    whole = Comparison(estimate, truth, SQUARE, (60, 60), True)
    scored = whole.scored(Rules())
    pooled, tables = summarize(scored), tables_of(whole, scored, None)
    for rows in (tables.by_depth, tables.by_photons, tables.by_density):
        for name in ("true_positives", "false_positives", "false_negatives"):
            assert sum(getattr(row.figures, name) for row in rows) == getattr(pooled, name)
    assert tables.frames.true_positives.sum() == pooled.true_positives
    assert tables.frames.false_negatives.sum() == pooled.false_negatives


def test_edges() -> None:
    assert quantile_edges(np.full(9, 5.0), 4)[0] == 5
    assert len(quantile_edges(np.arange(100.0), 4)) == 5
    assert even_edges(np.array([0.0, 10.0]), 5).tolist() == [0, 2, 4, 6, 8, 10]


def test_density_counts_the_emitters_of_the_frame_within_a_micrometre() -> None:
    truth = table([(0, 50, 50, 0), (0, 59, 50, 0), (0, 50, 61, 0), (1, 50, 51, 0)])
    density = local_density_per_um2(truth, truth, SQUARE)
    assert density * math.pi == pytest.approx([2, 2, 1, 1])
    assert local_density_per_um2(table([(1, 90, 90, 0)]), truth, SQUARE).tolist() == [0]


# --- Bounds -----------------------------------------------------------------------------------------------------

_GAUSSIAN = SimulationConfig(
    optics=OpticsConfig(pixel_size_nm=OBLONG),
    psf=GaussianPSFConfig(
        type="gaussian", sigma_x_nm=140, sigma_y_nm=135, focus_x_nm=-200, focus_y_nm=200, depth_nm=300, roi_size_px=25
    ),
    camera=CameraConfig(quantum_efficiency=1.0, read_noise_e=1.0),
)


def test_the_bound_of_a_lonely_emitter_is_that_of_a_single_one() -> None:
    lonely = table([(0, 20.2, 19.7, 150, 2000), (3, 21.4, 20.0, -300, 800)])
    bounds = emitter_bounds(lonely, Scene(_GAUSSIAN, (41, 41), 30.0))
    psf = make_psf(_GAUSSIAN.psf, _GAUSSIAN.optics)
    information = single_emitter_information(
        psf, _GAUSSIAN.camera, lonely.x - np.rint(lonely.x), lonely.y - np.rint(lonely.y), lonely.z, lonely.photons,
        np.full(2, 30.0),
    )  # fmt: skip
    sigma = np.sqrt(np.diagonal(covariance(information), axis1=1, axis2=2))
    assert bounds.z_nm is not None
    # The frame shows more background than the region of interest does.
    np.testing.assert_allclose(bounds.x_nm, sigma[:, 0] * 120, rtol=0.02)
    np.testing.assert_allclose(bounds.y_nm, sigma[:, 1] * 80, rtol=0.02)
    np.testing.assert_allclose(bounds.z_nm, sigma[:, 2], rtol=0.05)


def test_overlap_raises_the_bound_and_a_flat_psf_has_no_axial_one() -> None:
    scene = Scene(_GAUSSIAN, (41, 41), 30.0)
    alone = emitter_bounds(table([(0, 20, 20, 0, 2000)]), scene)
    together = emitter_bounds(table([(0, 20, 20, 0, 2000), (0, 21.5, 20, 0, 2000)]), scene)
    assert together.x_nm[0] > 1.5 * alone.x_nm[0]
    flat = _GAUSSIAN.model_copy(update={"psf": GaussianPSFConfig(type="gaussian", sigma_x_nm=140, sigma_y_nm=140)})
    assert emitter_bounds(table([(0, 20, 20, 0, 2000)]), Scene(flat, (41, 41), 30.0)).z_nm is None


def test_known_light_lowers_the_bound_and_most_where_emitters_overlap() -> None:
    pair = table([(0, 20, 20, 0, 2000), (0, 21.2, 20, 0, 2000)])
    lone = table([(0, 20, 20, 0, 2000)])
    gain = []
    for emitters in (lone, pair):
        free, known = (emitter_bounds(emitters, Scene(_GAUSSIAN, (41, 41), 30.0, light_known=k)) for k in (False, True))
        gain.append(free.x_nm[0] / known.x_nm[0])
    assert gain[0] == pytest.approx(1, abs=0.01)  # of a symmetric spot, brightness says nothing about the place
    assert gain[1] > 1.2


def test_errors_as_large_as_the_bounds_score_one() -> None:
    rng = np.random.default_rng(0)
    num = 20_000
    truth = EmitterTable(np.arange(num), *rng.uniform(20, 80, (2, num)), np.zeros(num), np.ones(num))
    sigma = rng.uniform(5, 40, (3, num))
    error = rng.normal(size=(3, num)) * sigma
    estimate = EmitterTable(
        truth.frame, truth.x + error[0] / 100, truth.y + error[1] / 100, error[2], truth.photons,
        x_sigma=sigma[0] / 100, y_sigma=sigma[1] / 100, z_sigma=2 * sigma[2],
    )  # fmt: skip
    comparison = Comparison(estimate, truth, SQUARE, None, True)
    scored = comparison.scored(Rules())
    against = against_bounds(scored, Bounds(*sigma))
    assert dataclasses.astuple(against)[:4] == pytest.approx((1, 1, 1, 1), abs=0.03)
    assert against.num_pairs == num
    spread = {axis: float(np.sqrt((v**2).mean())) for axis, v in in_sigmas(comparison, scored).items()}
    assert spread == pytest.approx({"x": 1, "y": 1, "z": 0.5}, abs=0.02)
    unknown = Bounds(np.full(num, np.nan), np.full(num, np.nan), None)
    assert dataclasses.astuple(against_bounds(scored, unknown)) == (None, None, None, None, 0)


def test_a_pupil_without_coefficients_and_a_crowd_are_refused() -> None:
    with pytest.raises(DataError, match="Zernike"):
        emitter_bounds(table([(0, 20, 20, 0)]), Scene(SimulationConfig(), (41, 41), 10.0))
    with pytest.raises(DataError, match="limit"):
        emitter_bounds(crowd(0, 300), Scene(_GAUSSIAN, (41, 41), 10.0))


# --- Pixel grid and wobble --------------------------------------------------------------------------------------


def draw_density(amplitude: float, peak: float, num: int, seed: int) -> FloatArray:
    """Positions whose density within the pixel is 1 + a cos(2 pi (u - peak))."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(-0.5, 0.5, 4 * num)
    kept = u[rng.random(4 * num) * (1 + amplitude) < 1 + amplitude * np.cos(2 * np.pi * (u - peak))][:num]
    return kept + rng.integers(0, 60, len(kept))


def test_pixel_grid_bias_of_a_known_density() -> None:
    bias = pixel_grid_bias(draw_density(0.3, 0.2, 20_000, 0))
    assert bias is not None
    assert bias.amplitude == pytest.approx(0.3, abs=0.03)
    assert bias.peak_px == pytest.approx(0.2, abs=0.02)
    assert bias.p_value < 1e-50
    assert pixel_grid_bias(np.empty(0)) is None


def test_the_grid_is_described_in_words_and_pointed_at_when_strong() -> None:
    weak, strong = (pixel_grid_bias(draw_density(a, 0.5, 5000, 3)) for a in (0.05, 0.6))
    assert describe_pixel_grid(None, weak) is None
    plain = describe_pixel_grid(weak, weak)
    assert plain is not None
    assert "That is much" not in plain
    assert "by chance 2.5 %" in plain
    loud = describe_pixel_grid(weak, strong)
    assert loud is not None
    assert "along y" in loud
    assert "edges" in loud


def test_a_wave_gathered_in_blocks_is_that_of_the_whole() -> None:
    positions = draw_density(0.3, 0.2, 3000, 4)
    wave = PixelGridWave()
    for part in np.array_split(positions, 7):
        wave.add(part)
    whole, parts = pixel_grid_bias(positions), wave.bias()
    assert whole is not None
    assert parts is not None
    assert parts.num == whole.num
    np.testing.assert_allclose([parts.amplitude, parts.peak_px, parts.p_value],
                               [whole.amplitude, whole.peak_px, whole.p_value], rtol=1e-9)  # fmt: skip


@pytest.mark.parametrize("num", [5, 30, 1000])
def test_p_values_of_uniform_positions_are_uniform(num: int) -> None:
    rng = np.random.default_rng(1)
    p = [b.p_value for _ in range(2000) if (b := pixel_grid_bias(rng.uniform(0, 60, num))) is not None]
    for level in (0.01, 0.05, 0.5):
        assert np.mean(np.array(p) < level) == pytest.approx(level, abs=4 * math.sqrt(level / 2000))


def test_the_wave_in_the_errors() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(0, 60, 5000)
    errors = 8 * np.sin(2 * np.pi * truth + 0.4) + 3 + rng.normal(0, 10, 5000)
    assert error_wave_nm(errors, truth) == pytest.approx(8, abs=0.7)
    assert error_wave_nm(errors[:9], truth[:9]) is None


def test_wobble_is_taken_off() -> None:
    rng = np.random.default_rng(3)
    num = 3000
    truth = EmitterTable(np.arange(num), *rng.uniform(20, 80, (2, num)), rng.uniform(-500, 500, num), np.ones(num))
    shift = 30 * np.sin(truth.z / 400)
    estimate = truth.with_columns(x=truth.x + (shift + rng.normal(0, 5, num)) / 100)
    comparison = Comparison(estimate, truth, SQUARE, None, True)
    before = comparison.scored(Rules())
    straight = without_wobble(estimate, truth, before, SQUARE)
    after = dataclasses.replace(comparison, localizations=straight).scored(Rules())
    assert before.dx_nm.std() > 15
    assert after.dx_nm.std() == pytest.approx(5, abs=0.5)
    flat = dataclasses.replace(comparison, is_3d=False)
    assert without_wobble(estimate, truth, flat.scored(Rules()), SQUARE) is estimate


# --- The challenge's rules --------------------------------------------------------------------------------------


def test_border_cut_first_makes_errors_at_the_line_count() -> None:
    # The line is at x = 4.0 px. The pair straddles it: found by the truth's rule, missed by the challenge's.
    truth, estimate = table([(0, 4.1, 50, 0)]), table([(0, 3.9, 50, 0)])
    options = {"pixel_size_nm": SQUARE, "image_size_px": (100, 100), "border_nm": 450.0}
    assert summarize(score(estimate, truth, **options)).true_positives == 1  # type: ignore[arg-type]
    strict = summarize(score(estimate, truth, cut_border_first=True, **options))  # type: ignore[arg-type]
    assert (strict.true_positives, strict.false_positives, strict.false_negatives) == (0, 0, 1)


def test_the_challenges_photon_rule() -> None:
    """Predictions paired with emitters below the quantile leave the count of false positives."""
    truth = table([(f, 50, 50, 0, photons) for f, photons in enumerate((100, 2000, 3000, 4000))])
    estimate = table([(f, 50, 50, 0) for f in range(4)] + [(3, 20, 20, 0)])
    rows = challenge_rows(Comparison(estimate, truth, SQUARE, (100, 100), True), Rules(method="optimal"))
    counts = [(r.true_positives, r.false_positives, r.false_negatives) for r in rows.values()]
    assert counts == [(4, 1, 0), (3, 1, 0), (4, 1, 0), (3, 1, 0)]


# --- The command ------------------------------------------------------------------------------------------------


class _Sources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_page_and_figures_of_a_simulated_sample(tmp_path: Path) -> None:
    config = small_data(tmp_path)
    sample = sorted(config.data.root.glob("sample_*"))[0]
    file = read_localizations(sample)
    rng = np.random.default_rng(0)
    num = len(file.table)
    bright = file.table.with_columns(
        x=file.table.x + rng.normal(0, 0.1, num),
        x_sigma=np.full(num, 0.1),
        y_sigma=np.full(num, 0.1),
        z_sigma=np.full(num, 40.0),
        photons=np.maximum(file.table.photons, 1.0),
    )
    bright = bright.select((bright.x > 0) & (bright.y > 0))
    locs, page = tmp_path / "<locs>.hdf5", tmp_path / "page.html"
    write_picasso_hdf5(locs, bright, file.pixel_size_nm, image_size_px=(20, 20), num_frames=8)
    arguments = ["evaluate", str(locs), str(sample), "--page", str(page), "--rmsmd", "--challenge", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--matching", "optimal", "--border-nm", "0"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.output)
    assert figures["recall"] > 0.8
    assert figures["error_in_crlb_lateral"] > 0
    assert figures["crlb_num_pairs"] == figures["true_positives"]
    assert figures["rmsmd_p_nm"] >= figures["rmsmd_nm"]
    assert len(figures["challenge"]) == 4
    text = page.read_text(encoding="utf-8")
    assert "&lt;locs&gt;.hdf5" in text and "<locs>" not in text
    parser = _Sources()
    parser.feed(text)
    assert len(parser.sources) >= 7
    assert all(source.startswith("data:image/svg+xml;base64,") for source in parser.sources)


def test_a_page_of_nothing(tmp_path: Path) -> None:
    header = '"id","frame","x [nm]","y [nm]","z [nm]","intensity [photon]"\n'
    (tmp_path / "none.csv").write_text(header, encoding="utf-8")
    (tmp_path / "some.csv").write_text(header + "1,1,1000,1000,0,500\n2,3,1500,900,100,700\n", encoding="utf-8")
    for locs, truth in (("none", "some"), ("some", "none"), ("none", "none")):
        page = tmp_path / f"{locs}_{truth}.html"
        result = CliRunner().invoke(
            app, ["evaluate", str(tmp_path / f"{locs}.csv"), str(tmp_path / f"{truth}.csv"), "--pixel-size-nm", "100",
                  "--page", str(page), "--challenge"]
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "No bound (CRLB)" in result.output
        assert page.is_file()


def test_wrong_usage_says_so(tmp_path: Path) -> None:
    for extra in (["--matching", "best"], ["--page", "page.pdf"]):
        result = CliRunner().invoke(app, ["evaluate", "a.csv", "b.csv", *extra])
        assert result.exit_code == 2


def test_figures_of_2d_data_have_no_depth() -> None:
    truth, estimate = crowd(5, 200, 20, 30.0), crowd(6, 200, 20, 30.0)
    comparison = Comparison(estimate, truth, SQUARE, (30, 30), False)
    scored = comparison.scored(Rules())
    assert figures_of(comparison, scored, None)["rmse_axial_nm"] is None
    assert tables_of(comparison, scored, None).by_depth == []
