"""Checks of a movie: laws of the estimators, no false alarm, and every fault named."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import CameraConfig
from adaloc.config_file import load_config, merged
from adaloc.data.finding import Finding
from adaloc.data.movie_check import check_movie, chosen_frames, glance
from adaloc.data.movie_findings import judge_movie, quick_findings
from adaloc.data.movie_measure import background_level, measure_movie, measure_spots
from adaloc.data.movie_numbers import look_at_numbers
from adaloc.data.movie_reference import Reference, simulate_reference, slope_of
from adaloc.data.movie_text import _LABELS, CAUSES, ROWS, describe
from adaloc.errors import DataError
from adaloc.simulation.camera import expose
from movie_faults import FAULTS, LENGTH, ROOT, SIZE, config_of, movie, setting


@functools.cache
def reference(name: str) -> Reference:
    return simulate_reference(config_of(json.loads(setting(name))), LENGTH, (SIZE, SIZE))


def causes(raw: np.ndarray[Any, Any], name: str) -> set[str]:
    facts, config = measure_movie(raw), config_of(json.loads(setting(name)))
    return {f.cause for f in judge_movie(look_at_numbers(raw), raw.size, facts, reference(name), config, None)}


@pytest.mark.parametrize(
    "name", ["default", "crowded_noisy", "gaussian", "emccd", "dense", "sparse", "long", "structured"]
)
def test_a_movie_that_the_config_makes_raises_no_alarm(name: str) -> None:
    for seed in (100, 101) if name in ("default", "gaussian", "sparse") else (100,):
        assert causes(movie(json.loads(setting(name)), seed), name) == set()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["default", "gaussian", "emccd"])
def test_a_fault_is_named(name: str, fault: str) -> None:
    simulation = json.loads(setting(name))
    changed, names = FAULTS[fault]
    found = causes(movie(merged(simulation, changed(simulation)), 100), name)
    assert found & names, (found, names)
    # What follows from the fault is not held against the rest of the config.
    assert len(found) == 1


def test_gain_and_background_are_named_where_read_noise_hides_the_baseline() -> None:
    """Noise of 59 e outweighs 50 ADU of light: there the gain is told by the noise alone."""
    simulation = json.loads(setting("crowded_noisy"))
    for fault in ("gain twice", "background", "photons", "pixel size"):
        changed, names = FAULTS[fault]
        assert causes(movie(merged(simulation, changed(simulation)), 100), "crowded_noisy") & names, fault


@pytest.mark.parametrize("name", ["default", "gaussian", "emccd"])
def test_numbers_that_are_not_the_cameras_are_named(name: str) -> None:
    raw = movie(json.loads(setting(name)), 100)
    assert "offset_removed" in causes(raw - raw.min(), name)
    low, high = int(raw.min()), int(raw.max())
    display = (255.0 * (raw.astype(float) - low) / (high - low)).astype(np.uint8)
    assert causes(display, name) & {"eight_bit"}
    assert causes(display.astype(np.uint16), name) & {"eight_bit"}
    assert "coarse_steps" in causes((raw.astype(int) * 4).clip(0, 65535).astype(np.uint16), name)
    assert "not_adu" in causes(raw * np.float32(0.37), name)
    assert "saturated" in causes(np.minimum(raw, np.uint16(0) + 1023 if high > 1023 else raw), name) or high <= 1023


def test_a_forgotten_em_gain_is_named_with_its_size() -> None:
    simulation = json.loads(setting("emccd"))
    forgot = config_of(merged(simulation, {"camera": {"em_gain": 1}}))
    check = check_movie(movie(simulation, 100), forgot, None, None)
    assert [f.cause for f in check.findings] == ["em_gain"]
    assert float(check.findings[0].evidence["em_gain"]) == pytest.approx(200, rel=0.1)


def test_estimates_of_gain_and_baseline_are_right_within_their_error() -> None:
    camera = {"gain_e_per_adu": 0.8, "baseline_adu": 137}
    simulation = merged(json.loads(setting("default")), {"camera": camera})
    rows = {r.name: r for r in check_movie(movie(simulation, 7), config_of(simulation), None, None).rows}
    assert abs(rows["gain"].movie - 0.8) < 3 * rows["gain_sigma"].movie < 0.4
    assert rows["baseline"].movie == pytest.approx(137, abs=25)
    assert rows["background"].movie == pytest.approx(100, rel=0.1)
    assert rows["density"].movie == pytest.approx(0.7, rel=0.3)
    assert rows["photons"].movie == pytest.approx(7000, rel=0.2)


def test_noise_without_spots_has_the_cameras_slope_and_variance() -> None:
    """A ramp of light: the law alone, without spots, structure or reference."""
    camera = CameraConfig(quantum_efficiency=1, gain_e_per_adu=0.4, read_noise_e=2)
    light = torch.linspace(30.0, 500.0, 64)[None, None, :].expand(80, 64, 64)
    frames = expose(light.contiguous(), camera, torch.Generator().manual_seed(0)).numpy()
    transfer = measure_movie(frames).transfer
    assert transfer.slope_adu == pytest.approx(slope_of(camera), rel=0.05)
    dark_e = (transfer.dark_mean_adu - 100) * 0.4
    assert transfer.dark_variance_adu2 == pytest.approx(dark_e / 0.16 + 25 + 1 / 12, rel=0.05)
    assert transfer.zero_adu == pytest.approx(100 - 25 * 0.4, abs=15)


@pytest.mark.parametrize("density", [0.002, 0.02, 0.2])
def test_width_brightness_and_number_of_gaussian_spots_however_dense(density: float) -> None:
    """Equal spots of known width in noise: nothing but their moments decides."""
    rng = np.random.default_rng(0)
    width, light, shape = 1.4, 900.0, (60, 64, 64)
    points = rng.poisson(density, shape).astype(float)
    from scipy.ndimage import fourier_gaussian, fourier_shift

    spectrum = np.fft.fft2(points, axes=(1, 2))
    spots = np.stack([
        np.fft.ifft2(fourier_shift(fourier_gaussian(s, width), rng.uniform(-0.5, 0.5, 2))).real for s in spectrum
    ])  # fmt: skip
    found = measure_spots(rng.normal(light * spots, 8.0), 64.0)
    assert found is not None
    assert found.width_px == pytest.approx(width, rel=0.06)
    assert found.brightness_adu == pytest.approx(light, rel=0.15)
    assert found.density_per_px == pytest.approx(density, rel=0.25)
    if density == 0.002:
        assert found.num_per_frame == pytest.approx(density * 64 * 64, rel=0.15)
        assert found.found_adu == pytest.approx(light, rel=0.15)


def test_the_level_of_a_frame_does_not_see_its_spots() -> None:
    rng = np.random.default_rng(1)
    frame = rng.normal(200, 12, (100, 100))
    frame[:30, :30] += rng.exponential(400, (30, 30))
    assert background_level(frame) == pytest.approx(200, abs=2.5)
    assert background_level(np.full((20, 20), 7.0)) == 7


def test_noise_alone_has_no_spots_and_a_dark_movie_is_named() -> None:
    camera = CameraConfig()
    frames = expose(torch.full((LENGTH, SIZE, SIZE), 100.0), camera, torch.Generator().manual_seed(0)).numpy()
    assert measure_movie(frames).spots is None
    assert causes(frames.astype(np.uint16), "default") == {"no_spots"}


def test_short_and_single_frame_movies_raise_no_alarm_and_small_ones_are_refused() -> None:
    simulation = json.loads(setting("default"))
    for length in (3, 12):
        raw = movie(simulation, 100, length)[: 1 if length == 3 else length]
        assert check_movie(raw, config_of(simulation), None, None).findings == []
    with pytest.raises(DataError, match="16"):
        check_movie(np.zeros((3, 15, 40), np.uint16), config_of(simulation), None, None)
    assert glance(np.zeros((3, 15, 40), np.uint16), None, CameraConfig()) is None


def test_of_long_movies_runs_of_successive_frames_are_looked_at() -> None:
    np.testing.assert_array_equal(chosen_frames(150, 64 * 64), np.arange(150))
    index = chosen_frames(10_000, 256 * 256)
    assert len(index) <= 80
    assert index[0] == 0 and index[-1] == 9999
    assert (np.diff(index) == 1).mean() > 0.9


def test_a_glance_finds_what_is_grossly_wrong_without_simulating() -> None:
    simulation = json.loads(setting("default"))
    camera, raw = config_of(simulation).simulation.camera, movie(simulation, 100)
    facts = glance(raw, None, camera)
    assert facts is not None
    assert quick_findings(facts, camera, 100.0) == []
    assert quick_findings(facts, camera, float("nan")) == []
    wrong = camera.model_copy(update={"gain_e_per_adu": 0.2})
    assert [f.cause for f in quick_findings(facts, wrong, 100.0)] == ["camera_noise", "background"]
    assert [f.cause for f in quick_findings(facts, camera, 300.0)] == ["background"]


def test_every_finding_can_be_said_in_both_languages() -> None:
    for cause in CAUSES:
        finding = Finding(cause, "warn", dict.fromkeys(_LABELS, 1.0))
        english, chinese = describe(finding), describe(finding, "zh")
        assert english.startswith(cause) and chinese.startswith(cause)
        assert any("一" <= c <= "鿿" for c in chinese) and english.isascii()
    assert all(all(pair) for pair in ROWS.values())


def test_the_command_shows_table_warnings_and_picture(tmp_path: Path) -> None:
    simulation = json.loads(setting("gaussian"))
    raw = movie(merged(simulation, {"camera": {"baseline_adu": 450}}), 100, 30)
    tifffile.imwrite(
        tmp_path / "movie.ome.tif", raw, photometric="minisblack",
        metadata={"axes": "TYX", "PhysicalSizeX": 0.16, "PhysicalSizeY": 0.16},
    )  # fmt: skip
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"simulation": simulation}), encoding="utf-8")
    asked = ["check", "--movie", str(tmp_path / "movie.ome.tif"), "--config", str(config)]
    picture = tmp_path / "check.png"
    english = CliRunner().invoke(app, [*asked, "--plot", str(picture)])
    assert english.exit_code == 0, english.output
    assert "camera_baseline" in english.output and "pixel_size" in english.output
    assert "background, photons/px" in english.output
    assert picture.stat().st_size > 20_000
    chinese = CliRunner().invoke(app, [*asked, "--lang", "zh"])
    assert "camera_baseline：" in chinese.output and "背景（光子/像素）" in chinese.output
    for wrong, status in ((["--plot", "x.jpg"], 2), (["--camera-origin", "1x1"], 2), (["--camera-maps", "no.h5"], 1)):
        assert CliRunner().invoke(app, [*asked, *wrong]).exit_code == status


def test_the_noise_of_the_real_scmos_movie_tells_the_unit_of_its_calibration(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its third map is said to be ADU per electron; the movie's own noise says electrons per ADU."""
    calibration = str(shared_data("storm-analysis-scmos/calib.npy"))
    frames = np.fromfile(shared_data("storm-analysis-scmos/sample.dax"), dtype=">u2").reshape(-1, 256, 256)
    raw = load_config(ROOT / "benchmarks/config_scmos_storm.json").simulation.model_dump(mode="json")
    from adaloc.simulation.camera_maps import read_camera_maps

    off = {}
    for unit in ("ADU/e", "e/ADU"):
        out = tmp_path / "maps.h5"
        asked = ["camera-map", calibration, "-o", str(out), "--transpose", "--baseline-adu", "100", "--gain-unit", unit]
        result = CliRunner().invoke(app, asked)
        assert ("probably in e/ADU" in result.output.replace("\n", " ")) == (unit == "ADU/e")
        maps = read_camera_maps(out)
        gain = float(np.median(maps.gain_e_per_adu))
        camera = {"gain_e_per_adu": gain, "maps": str(out)}
        facts = glance(frames.astype(np.uint16), maps, CameraConfig.model_validate({**raw["camera"], **camera}))
        assert facts is not None
        uniform = CameraConfig(gain_e_per_adu=gain, read_noise_e=float(np.median(maps.read_noise_e)))
        off[unit] = {f.cause for f in quick_findings(facts, uniform, float("nan"))}
    assert off == {"ADU/e": {"camera_noise"}, "e/ADU": set()}


def test_real_movies_with_their_own_and_with_wrong_configs(shared_data: Callable[[str], Path]) -> None:
    config = load_config(ROOT / "benchmarks/config_nairr_3das.json")
    fitting = tifffile.imread(shared_data("nairr-smlm/3DAS_LD_Validate_Frame.tif"))
    other = tifffile.imread(shared_data("nairr-smlm/2DGauss_LD_Validate_Frame.tif"))
    assert check_movie(fitting, config, None, None).findings == []
    assert "psf_width" in {f.cause for f in check_movie(other, config, None, None).findings}


def test_facts_are_immutable() -> None:
    facts = measure_movie(np.random.default_rng(0).normal(100, 5, (4, 20, 20)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.num_frames = 3  # type: ignore[misc]
