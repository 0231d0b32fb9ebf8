"""Turned and randomized windows: targets are those of the turned and changed emitters, noise is that of a camera."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaloc.config import (
    CameraConfig,
    Config,
    GaussianPSFConfig,
    OpticsConfig,
    PixelSize,
    PupilPSFConfig,
    RandomizationConfig,
)
from adaloc.data.batch import Batch
from adaloc.data.fresh import make_windows
from adaloc.data.randomization import random_microscope, randomized
from adaloc.data.targets import EmitterRows, encode_targets
from adaloc.data.windows import Cut, Sample, load_samples, make_batch, make_sample, split_samples
from adaloc.emitters import EmitterTable
from adaloc.simulation.background import BackgroundShape
from adaloc.simulation.camera import expose
from adaloc.simulation.field_map import random_field_map
from adaloc.simulation.frames import draw_emitters
from adaloc.simulation.psf import make_psf
from adaloc.simulation.zernike import NUM_MODES, zernike_modes
from small import small_config, small_data

CPU = torch.device("cpu")
SIDE = 16
SQUARE = OpticsConfig(pixel_size_nm=PixelSize(x=100, y=100))


def emitters(num: int = 30, frames: int = 5) -> EmitterTable:
    rng = np.random.default_rng(0)
    columns = rng.uniform(-0.5, SIDE - 0.5, (2, num))
    return EmitterTable(
        frame=np.sort(rng.integers(0, frames, num)), x=columns[0], y=columns[1], z=rng.uniform(-300, 300, num),
        photons=rng.uniform(500, 2000, num), emitter_id=np.arange(num),
    )  # fmt: skip


def turned_positions(x: Any, y: Any, turns: int) -> tuple[Any, Any]:
    """By 90 degrees from x to y about the middle of the field, as complex numbers."""
    middle = (SIDE - 1) / 2
    point = ((x - middle) + 1j * (y - middle)) * 1j**turns
    return point.real + middle, point.imag + middle


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_targets_of_a_turned_window_are_those_of_the_turned_emitters(turns: int) -> None:
    table = emitters()
    background = BackgroundShape(np.random.default_rng(1).uniform(0.8, 1.2, (1, SIDE, SIDE)), np.zeros(5, dtype=int))
    frames = np.random.default_rng(2).integers(100, 200, (5, SIDE, SIDE)).astype(np.uint16)
    sample = make_sample("s", frames, table, np.full(5, 50.0), background)
    plain, turned = (make_batch([Cut(sample, 1, 0, 0, quarter_turns=k)], 3, SIDE, 3) for k in (0, turns))
    x, y = turned_positions(plain.emitters.x.double().numpy(), plain.emitters.y.double().numpy(), turns)
    moved = dataclasses.replace(plain.emitters, x=torch.from_numpy(x).float(), y=torch.from_numpy(y).float())
    rotated = torch.rot90(plain.background_N, -turns, (1, 2))
    expected = encode_targets(moved, rotated, (SIDE, SIDE), 0.0)
    found = encode_targets(turned.emitters, turned.background_N, (SIDE, SIDE), 0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert torch.equal(turned.adu_BTHW, torch.rot90(plain.adu_BTHW, -turns, (2, 3)))


def turned_coefficients(phase_NK: np.ndarray) -> np.ndarray:
    """Zernike coefficients of a pupil turned from x to y, by least squares on a grid."""
    grid = np.linspace(-1, 1, 61)
    x, y = np.meshgrid(grid, grid)
    inside = np.hypot(x, y) <= 1
    rho, theta = np.hypot(x, y)[inside], np.arctan2(y, x)[inside]
    here, before = zernike_modes(rho, theta), zernike_modes(rho, theta - np.pi / 2)
    matrix = np.linalg.lstsq(here.T, before.T, rcond=None)[0]
    return phase_NK @ matrix.T


@pytest.mark.parametrize("kind", ["pupil", "vectorial", "gaussian"])
def test_the_turned_image_is_that_of_the_turned_emitters_with_turned_aberrations(kind: str) -> None:
    """Of a field map too: the image carries its aberrations along, so the map's coefficients turn with it."""
    table, frames = emitters(), 5
    if kind == "gaussian":
        config: Any = GaussianPSFConfig(type="gaussian", sigma_x_nm=130, sigma_y_nm=130, roi_size_px=15)
        phase = turned = None
    else:
        model: Any = "vectorial" if kind == "vectorial" else "scalar"
        config = PupilPSFConfig(roi_size_px=15, astigmatism_nm_rms=0, field_aberration_nm_rms=60, model=model)
        field = random_field_map(config, SQUARE.wavelength_nm, (SIDE, SIDE), np.random.default_rng(0))
        phase, _ = field.coefficients_at(table.x, table.y)
        turned = turned_coefficients(phase)
        assert np.abs(turned - phase).max() > 0.1
    psf = make_psf(config, SQUARE)
    x, y = turned_positions(table.x, table.y, 1)
    moved = dataclasses.replace(table, x=x, y=y)
    shape = (frames, SIDE, SIDE)
    with torch.inference_mode():
        image = draw_emitters(psf, table, phase, None, shape, CPU)
        expected = draw_emitters(psf, moved, turned, None, shape, CPU)
    found = torch.rot90(image, -1, (1, 2))
    # 15 px around an emitter are cut about its pixel, which a turn keeps.
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * float(expected.max()))


@pytest.mark.parametrize(
    ("simulation", "reason"),
    [
        ({"psf": {"type": "pupil", "roi_size_px": 15, "astigmatism_nm_rms": 0}}, "not square"),
        ({"optics": {"pixel_size_nm": {"x": 100, "y": 100}}}, "astigmatic"),
        ({"psf": {"type": "gaussian", "sigma_x_nm": 130, "sigma_y_nm": 130, "depth_nm": 400, "focus_x_nm": 200},
          "optics": {"pixel_size_nm": {"x": 100, "y": 100}}}, "other widths along x"),
        ({"psf": {"type": "spline", "file": "x.mat"}, "optics": {"pixel_size_nm": {"x": 100, "y": 100}}}, "measured"),
    ],
)  # fmt: skip
def test_turns_are_refused_with_the_reason_where_the_psf_is_not_its_own_turn(
    tmp_path: Path, simulation: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=rf"augment_quarter_turns is wrong here: .*{reason}"):
        small_config(tmp_path, data={"augment_quarter_turns": True}, simulation=simulation)


def test_aberrations_of_recorded_images_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="part of recorded images"):
        small_config(tmp_path, data={"randomization": {"aberration_nm_rms": 10}})


def flat_batch(camera: CameraConfig, photons: float, windows: int = 6, side: int = 100) -> Batch:
    light = torch.full((windows, 3, side, side), photons)
    adu = expose(light, camera, torch.Generator().manual_seed(1))
    one = torch.ones(windows)
    rows = EmitterRows(torch.arange(windows), 3 * one, 3 * one, 0 * one, 1000 * one)
    return Batch(adu, rows, photons * one)


CAMERAS = {
    "scmos": CameraConfig(quantum_efficiency=0.8, read_noise_e=3.0, gain_e_per_adu=0.3),
    "emccd": CameraConfig(
        quantum_efficiency=0.9, read_noise_e=50.0, gain_e_per_adu=10.0, em_gain=200.0, spurious_charge_e=0.5
    ),
}


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("changes", [{"brightness_fraction": 0.6}, {"background_fraction": 0.8}, {"read_noise_e": 9.0}])
def test_changed_windows_have_the_mean_and_the_noise_of_what_their_targets_say(
    name: str, changes: dict[str, float]
) -> None:
    camera = CAMERAS[name]
    excess = 2.0 if camera.em_gain > 1 else 1.0
    batch = flat_batch(camera, 60.0)
    config = RandomizationConfig.model_validate(changes)
    found = randomized(batch, 5, config, camera, np.random.default_rng(0))
    assert torch.equal(found.adu_BTHW[5:], batch.adu_BTHW[5:])
    assert found.background_N[5] == 60 and found.emitters.photons[5] == 1000
    electrons = (found.adu_BTHW - camera.baseline_adu) * camera.gain_e_per_adu / camera.em_gain
    light = (electrons - camera.spurious_charge_e).mean((1, 2, 3)) / camera.quantum_efficiency
    torch.testing.assert_close(light[:5], found.background_N[:5], rtol=0.01, atol=0.3)
    read = camera.read_noise_e / camera.em_gain
    shot = excess * (found.background_N * camera.quantum_efficiency + camera.spurious_charge_e)
    variance = electrons.var((1, 2, 3)) - shot - read**2
    if "read_noise_e" in changes and name == "scmos":
        added = variance[:5].clamp_min(0).sqrt()
        assert (added < 9 + 1).all()
        assert added.max() > 3, "five draws from 0 to 9"
    else:  # behind an EM gain of 200, 9 electrons are nothing
        torch.testing.assert_close(variance[:5], torch.zeros(5), rtol=0, atol=0.03 * float(shot.max()))
    if "brightness_fraction" in changes:
        torch.testing.assert_close(found.emitters.photons[:5] / 1000, found.background_N[:5] / 60)
        assert found.emitters.photons[:5].min() > 399
        assert found.emitters.photons[:5].std() > 50


def test_gain_and_baseline_are_drawn_in_their_ranges_and_targets_stay() -> None:
    camera = CAMERAS["scmos"]
    batch = flat_batch(camera, 200.0)
    config = RandomizationConfig(gain_fraction=0.2, baseline_adu=10)
    found = randomized(batch, 6, config, camera, np.random.default_rng(3))
    assert torch.equal(found.background_N, batch.background_N)
    slope = (found.adu_BTHW.var((1, 2, 3)) / batch.adu_BTHW.var((1, 2, 3))).sqrt()
    assert slope.min() > 1 / 1.21
    assert slope.max() < 1 / 0.79
    assert slope.std() > 0.03
    signal = (batch.adu_BTHW - camera.baseline_adu).mean((1, 2, 3)) * slope
    baseline = found.adu_BTHW.mean((1, 2, 3)) - signal - camera.baseline_adu
    assert baseline.abs().max() < 10 + 5
    assert baseline.std() > 2


def test_a_fresh_microscope_stays_in_its_ranges_and_defocus_is_left_alone() -> None:
    config = small_config(Path("x")).simulation
    field = random_field_map(PupilPSFConfig(), 660.0, (20, 20), np.random.default_rng(0))
    ranges = RandomizationConfig(
        brightness_fraction=0.2, background_fraction=0.1, gain_fraction=0.15, baseline_adu=7, read_noise_e=2,
        aberration_nm_rms=15,
    )  # fmt: skip
    found = [random_microscope(config, field, ranges, np.random.default_rng(seed)) for seed in range(200)]
    gains = [s.camera.gain_e_per_adu / config.camera.gain_e_per_adu for s, _ in found]
    assert 0.85 <= min(gains) < 0.87
    assert 1.13 < max(gains) <= 1.15
    assert all(abs(s.camera.baseline_adu - config.camera.baseline_adu) <= 7 for s, _ in found)
    assert all(0.8 <= s.emitters.photons_mean / config.emitters.photons_mean <= 1.2 for s, _ in found)
    shifts = np.array([m.phase[:, 3, 4] - field.phase[:, 3, 4] for _, m in found if m is not None])
    nm = shifts.std(0) * 660 / (2 * np.pi)
    assert nm.shape == (NUM_MODES,)
    assert nm[4:11] == pytest.approx(15, rel=0.2)
    assert not nm[[*range(4), *range(11, NUM_MODES)]].any()
    plain, same = random_microscope(config, field, RandomizationConfig(), np.random.default_rng(0))
    assert plain == config
    assert same is field


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_data(tmp_path_factory.mktemp("augmentation"))


def samples_of(config: Config) -> list[Sample]:
    return load_samples(split_samples(config.data)[0], config.simulation.camera)


def test_randomized_batches_are_a_function_of_their_step_and_leave_fresh_windows_alone(data: Config) -> None:
    ranges = {"gain_fraction": 0.1, "brightness_fraction": 0.3}
    root = data.data.root.parent
    config = small_config(root, data={"randomization": ranges, "fresh_share": 0.5, "batch_size": 5})
    mixed = make_windows(samples_of(config), config, CPU)
    again = make_windows(samples_of(config), config, CPU)
    plain = make_windows(samples_of(config), small_config(root, data={"batch_size": 5}), CPU)
    for step in (7, 2):
        cuts = mixed.cuts(step)
        num = mixed.num_recorded(step, len(cuts))
        assert [cut.sample.name.startswith("fresh") for cut in cuts] == [False] * num + [True] * (len(cuts) - num)
        batch = mixed[step]
        assert torch.equal(batch.adu_BTHW, again[step].adu_BTHW)
        unchanged = make_batch(cuts, 3, 16, 3)
        assert torch.equal(batch.adu_BTHW[num:], unchanged.adu_BTHW[num:])
        assert not torch.equal(batch.adu_BTHW[:num], unchanged.adu_BTHW[:num])
        assert torch.equal(plain[step].adu_BTHW[:num], unchanged.adu_BTHW[:num]), "the windows are the same ones"


def test_turns_are_drawn_last_so_that_windows_stay_where_they_were(data: Config) -> None:
    root = data.data.root.parent
    psf = {"type": "pupil", "roi_size_px": 15, "astigmatism_nm_rms": 0}
    simulation = {"psf": psf, "optics": {"pixel_size_nm": {"x": 100, "y": 100}}}
    changes: dict[str, Any] = {"augment_mirror": True, "augment_quarter_turns": True}
    samples = samples_of(data)
    turned = make_windows(samples, small_config(root, data=changes, simulation=simulation), CPU)
    plain = make_windows(samples, small_config(root, data={"augment_mirror": True}, simulation=simulation), CPU)
    pairs = [pair for step in range(60) for pair in zip(turned.cuts(step), plain.cuts(step), strict=True)]
    assert all(dataclasses.replace(cut, quarter_turns=0) == other for cut, other in pairs)
    counts = np.bincount([cut.quarter_turns for cut, _ in pairs], minlength=4)
    assert counts.min() > len(pairs) / 8
