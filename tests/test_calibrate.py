"""Calibration with beads: known pupils come back, wrong stacks are named, and the file works in a simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from adaloc.calibrate.beads import cut_beads, find_beads
from adaloc.calibrate.model import BeadModel, Layout
from adaloc.calibrate.recipe import BeadStack, Recipe, calibrate
from adaloc.cli import app
from adaloc.config import Config, OpticsConfig, PixelSize
from adaloc.config_file import merged
from adaloc.data.generate import generate
from adaloc.data.sample_folder import read_coefficients
from adaloc.errors import ConfigError, DataError
from adaloc.simulation.psf import make_psf
from adaloc.simulation.psf_file import PSFFile, read_psf_file, write_psf_file
from adaloc.simulation.pupil import PupilPSF, ScalarPupilPSF, pupil_grid
from adaloc.simulation.vectorial import VectorialPupilPSF
from adaloc.simulation.zernike import NUM_MODES, zernike_modes
from adaloc.training.floor import _read_physics
from small import small_config

OPTICS = OpticsConfig(
    wavelength_nm=660, numerical_aperture=1.2, refractive_index=1.33, pixel_size_nm=PixelSize(x=110, y=110)
)
STEP_NM, NUM_PLANES, ROI_PX = 120.0, 13, 17
TRUE = np.zeros(NUM_MODES)
TRUE[[4, 5, 7, 10]] = 0.12, 0.55, -0.15, 0.2
RECIPE = Recipe(OPTICS, STEP_NM, roi_size_px=ROI_PX, amplitude="none")


def simulated_stack(
    psf: PupilPSF, beads: list[tuple[float, float, float]], size: int = 48, photons: float = 4e4, seed: int = 0
) -> np.ndarray:
    """Beads at (column, row, z) in a field with 15 photons of background; Poisson noise. Not by the fit's model."""
    z_T = torch.from_numpy((np.arange(NUM_PLANES) - (NUM_PLANES - 1) / 2) * STEP_NM).float()
    half = psf.roi_size_px // 2
    frames = np.full((NUM_PLANES, size + 2 * half, size + 2 * half), 15.0)
    phase = torch.from_numpy(TRUE).float().expand(NUM_PLANES, -1)
    for x, y, z in beads:
        column, row = round(x), round(y)
        full = torch.ones(NUM_PLANES)
        image = psf.images(full * (x - column), full * (y - row), z_T + z, phase).double().numpy()
        frames[:, row : row + psf.roi_size_px, column : column + psf.roi_size_px] += photons * image
    noisy = np.random.default_rng(seed).poisson(frames).astype(np.float64)
    return noisy[:, half : half + size, half : half + size]


BEADS = [(13.3, 12.2, 0.0), (34.6, 15.9, 90.0), (20.0, 35.4, -60.0)]
SCALAR = ScalarPupilPSF(OPTICS, 41, 64, aplanatic=True)


def test_beads_are_found_and_those_at_the_border_or_beside_others_are_counted() -> None:
    stack = simulated_stack(SCALAR, [*BEADS, (45.0, 30.0, 0.0), (36.0, 40.0, 0.0), (43.0, 45.0, 0.0)])
    found = {tuple(int(v) for v in centre) for centre in find_beads(stack, ROI_PX)}
    for x, y, _ in BEADS:
        assert any(abs(row - y) <= 2 and abs(column - x) <= 2 for row, column in found)
    regions = cut_beads(stack, ROI_PX, "stack")
    assert regions.num_at_border + regions.num_crowded >= 2
    np.testing.assert_array_equal(
        regions.photons_BTRR[0],
        stack[:, regions.corner_B2[0, 0] :, regions.corner_B2[0, 1] :][:, :ROI_PX, :ROI_PX],
    )


def test_several_beads_of_two_stacks_give_the_pupil_back_within_the_noise() -> None:
    stacks = [
        BeadStack(simulated_stack(SCALAR, BEADS), "a.tif"),
        BeadStack(simulated_stack(SCALAR, [(22.4, 24.7, 40.0)], seed=1), "b.tif"),
    ]
    result = calibrate(stacks, RECIPE)
    phase, sigma = result.fit.phase()
    np.testing.assert_array_equal(result.stack_B.tolist(), [0, 0, 0, 1])
    assert (sigma[4:] > 0).all()
    assert np.abs((phase - TRUE)[4:] / sigma[4:]).max() < 4.5
    assert sigma[4:].max() < 0.02
    assert result.fit.reduced_chi_square_B.mean() == pytest.approx(1, abs=0.1)
    assert result.axial_scale == pytest.approx(1, abs=0.1)
    assert result.num_outliers == 0
    # Alignment: each bead where it was.
    position = result.fit.parameters.position_B3
    middle = result.corner_B2[:, ::-1] + ROI_PX // 2
    found = np.column_stack([middle + position[:, :2], position[:, 2]])
    truth = np.array([*BEADS, (22.4, 24.7, 40.0)])
    for x, y, z in truth:
        nearest = found[np.abs(found[:, :2] - (x, y)).sum(axis=1).argmin()]
        assert nearest == pytest.approx((x, y, z), abs=8)
        assert nearest[:2] == pytest.approx((x, y), abs=0.05)
    assert result.fit.parameters.photons_BL.ravel() == pytest.approx(4e4, rel=0.03)
    background = result.fit.parameters.background_BL.ravel()
    assert background[3] == pytest.approx(15, rel=0.05)
    assert background[:3] == pytest.approx(15, abs=4)  # the tails of the others are in it


def test_one_bead_and_the_vectorial_model() -> None:
    true_psf = VectorialPupilPSF(OPTICS, 41, 64)
    stack = simulated_stack(true_psf, [(16.2, 16.9, 50.0)], size=33, photons=1e5)
    result = calibrate(
        [BeadStack(stack, "one.tif")], Recipe(OPTICS, STEP_NM, model="vectorial", roi_size_px=ROI_PX, amplitude="none")
    )
    phase, sigma = result.fit.phase()
    assert len(result.stack_B) == 1
    assert np.abs((phase - TRUE)[4:]).max() < 0.03
    assert np.abs((phase - TRUE)[4:] / sigma[4:]).max() < 5


def test_a_pixelwise_phase_predicts_planes_that_it_was_not_fitted_to() -> None:
    """An engineered pupil, far beyond Noll 21, from a flat start."""
    u, _ = pupil_grid(64)
    column, row = np.meshgrid(u, u)
    rho, angle = np.minimum(np.hypot(row, column), 1), np.arctan2(row, column)
    engineered = 2.5 * rho**2 * np.cos(2 * angle) + 1.5 * rho**6 * np.cos(4 * angle)
    true_psf = ScalarPupilPSF(OPTICS, 41, 64, aplanatic=True, pupil_phase=engineered)
    stack = simulated_stack(true_psf, [(16.2, 15.9, 0.0)], size=33, photons=1e5)
    result = calibrate([BeadStack(stack, "one.tif")], replace(RECIPE, pixelwise=True, roi_size_px=25))
    assert result.fit.relative_residual_B[0] < 0.06
    z = torch.tensor([-660.0, 60.0, 540.0])  # between the planes
    phase = torch.from_numpy(TRUE).float().expand(3, -1)
    x, y, z0 = (float(v) for v in result.fit.parameters.position_B3[0])
    found = ScalarPupilPSF(
        OPTICS, 25, result.pupil_samples, aplanatic=True, pupil_phase=result.pupil_phase_SS, blur_nm=result.fit.blur_nm
    )
    middle = result.corner_B2[0] + 12
    truth = ScalarPupilPSF(OPTICS, 25, 64, aplanatic=True, pupil_phase=engineered)
    theirs = truth.images(torch.full((3,), 16.2 - middle[1]), torch.full((3,), 15.9 - middle[0]), z, phase)
    ours = found.images(torch.full((3,), x), torch.full((3,), y), z + z0)
    error = (ours - theirs).square().sum((1, 2)) / theirs.square().sum((1, 2))
    assert float(error.sqrt().max()) < 0.08


def test_spherical_aberration_above_noll_21_is_found_and_kept() -> None:
    u, _ = pupil_grid(64)
    rho = np.minimum(np.hypot(*np.meshgrid(u, u)), 1)
    spherical = 0.3 * zernike_modes(rho, np.zeros_like(rho), 22)[21]
    true_psf = ScalarPupilPSF(OPTICS, 41, 64, aplanatic=True, pupil_phase=spherical)
    stack = simulated_stack(true_psf, [(13.2, 12.9, 0.0)], size=27, photons=1e5)
    result = calibrate([BeadStack(stack, "one.tif")], RECIPE)
    own, _ = pupil_grid(result.pupil_samples)
    inside = np.hypot(*np.meshgrid(own, own)) < 1
    expected = 0.3 * zernike_modes(np.hypot(*np.meshgrid(own, own)), np.zeros((len(own),) * 2), 22)[21]
    assert np.std((result.pupil_phase_SS - expected)[inside]) < 0.06
    assert result.fit.reduced_chi_square_B[0] == pytest.approx(1, abs=0.1)


def test_a_bead_is_a_ball_of_points() -> None:
    """The two points and the blur that stand for a ball, against many points of it."""
    optics = OpticsConfig(pixel_size_nm=PixelSize(x=100, y=100))
    psf = ScalarPupilPSF(optics, 21, 40)
    layout, diameter = Layout((5,)), 200.0
    model = BeadModel(psf, torch.tensor([-300.0, 0.0, 250.0]), diameter, layout)
    parameters = torch.tensor([0.5, 0.0, 1.0, 0.2, -0.1, 30.0])
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (6000, 3))
    points = torch.from_numpy(points[(points**2).sum(axis=1) < 1] * diameter / 2).float()
    phase = torch.zeros(len(points), NUM_MODES)
    phase[:, 5] = 0.5
    for image, z in zip(model.images(parameters), (-300.0, 0.0, 250.0), strict=True):
        exact = psf.images(0.2 + points[:, 0] / 100, -0.1 + points[:, 1] / 100, z + 30 + points[:, 2], phase).mean(0)
        point_like = psf.images(*(torch.tensor([v]) for v in (0.2, -0.1, z + 30)), phase[:1])[0]
        error = float((image - exact).abs().max() / exact.max())
        assert error < 0.02
        assert error < 0.25 * float((point_like - exact).abs().max() / exact.max())


@pytest.mark.parametrize("factor", [0.45, 2.0])
def test_a_wrong_z_step_is_named(factor: float) -> None:
    stack = BeadStack(simulated_stack(SCALAR, BEADS[:1], size=27), "beads.tif")
    with pytest.raises(DataError, match="nm apart, and --z-step-nm says"):
        calibrate([stack], Recipe(OPTICS, STEP_NM * factor, roi_size_px=ROI_PX, amplitude="none"))


def test_stacks_without_beads_or_planes_are_named() -> None:
    noise = np.random.default_rng(0).poisson(30.0, (20, 40, 40)).astype(np.float64)
    with pytest.raises(DataError, match=r"No bead was found in empty\.tif"):
        calibrate([BeadStack(noise, "empty.tif")], RECIPE)
    with pytest.raises(DataError, match="at least 5"):
        calibrate([BeadStack(noise[:3], "short.tif")], RECIPE)
    with pytest.raises(DataError, match="different numbers of planes"):
        calibrate([BeadStack(noise, "a"), BeadStack(noise[:10], "b")], RECIPE)
    with pytest.raises(DataError, match="smaller --roi-size-px"):
        calibrate([BeadStack(noise[:, :10], "small")], RECIPE)


def example_psf_file(**changes: object) -> PSFFile:
    values: dict[str, object] = {
        "optics": OpticsConfig(), "model": "vectorial", "aplanatic": False, "sample_index": None,
        "cover_slip_index": 1.523, "blur_nm": 40.0, "phase_K": TRUE, "phase_sigma_K": TRUE * 0.01,
        "facts": {"num_beads": 3}, "tables": {"beads/z_nm": np.arange(3.0)},
    }  # fmt: skip
    return PSFFile(**(values | changes))  # type: ignore[arg-type]


def test_psf_files_survive_writing_and_damaged_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "psf.h5"
    phase = np.random.default_rng(0).uniform(-3, 3, (20, 20))
    written = example_psf_file(pupil_phase=phase)
    write_psf_file(path, written)
    read = read_psf_file(path)
    for name in ("optics", "model", "aplanatic", "sample_index", "cover_slip_index", "blur_nm"):
        assert getattr(read, name) == getattr(written, name)
    for name in ("phase_K", "phase_sigma_K", "magnitude_K", "pupil_phase"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    np.testing.assert_array_equal(read.pupil_phase_on(20), phase)
    finer = read.pupil_phase_on(40)
    assert finer is not None
    assert finer.shape == (40, 40)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="cannot be read"):
        read_psf_file(path)
    with pytest.raises(DataError, match="does not exist"):
        read_psf_file(tmp_path / "none.h5")


def test_a_calibration_of_other_optics_is_refused(tmp_path: Path) -> None:
    write_psf_file(tmp_path / "psf.h5", example_psf_file(optics=OpticsConfig(numerical_aperture=1.2)))
    config = small_config(tmp_path, simulation={"psf": {"calibration": str(tmp_path / "psf.h5")}})
    with pytest.raises(ConfigError, match=r"numerical_aperture: 1\.2 there, 1\.4 in the config"):
        make_psf(config.simulation.psf, config.simulation.optics)


def test_a_calibration_works_in_a_simulation_and_in_its_floor(tmp_path: Path) -> None:
    path = tmp_path / "psf.h5"
    write_psf_file(path, example_psf_file())
    psf = {"calibration": str(path), "field_aberration_nm_rms": 0}
    config = small_config(tmp_path, simulation={"psf": psf, "num_samples": 2})
    assert list(generate(config, config.data.root))[-1] == 2
    coefficients = read_coefficients(config.data.root / "sample_000")
    assert coefficients is not None
    np.testing.assert_allclose(coefficients[0], np.tile(TRUE, (len(coefficients[0]), 1)), atol=1e-12)
    path.rename(tmp_path / "moved.h5")  # the data keep their own copy
    physics = _read_physics([], config)
    assert isinstance(physics.psf, VectorialPupilPSF)
    zero = torch.zeros(1)
    plain = make_psf(Config().simulation.psf, OpticsConfig())
    assert physics.psf.images(zero, zero, zero).max() < 0.9 * plain.images(zero, zero, zero).max()  # blurred
    write_psf_file(path, example_psf_file(blur_nm=10.0))
    more = Config.model_validate(merged(config.model_dump(mode="json"), {"simulation": {"num_samples": 2}}))
    with pytest.raises(DataError, match="another"):
        list(generate(more, config.data.root))


def test_the_command_goes_from_a_tiff_to_a_psf_and_a_page(tmp_path: Path) -> None:
    adu = simulated_stack(SCALAR, BEADS[:1], size=27) / 0.5 + 100
    tifffile.imwrite(tmp_path / "beads.tif", adu.astype(np.uint16))
    optics = ["--pixel-size-nm", "110", "--wavelength-nm", "660", "--na", "1.2", "--index", "1.33"]
    camera = ["--baseline-adu", "100", "--gain-e-per-adu", "0.5"]
    out = tmp_path / "out" / "psf.h5"
    arguments = [
        "calibrate",
        str(tmp_path / "beads.tif"),
        "--z-step-nm",
        "120",
        *optics,
        *camera,
        "--roi-size-px",
        "17",
    ]
    result = CliRunner().invoke(app, [*arguments, "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "1 bead(s) fitted" in result.output
    psf = read_psf_file(out)
    assert psf.phase_K[5] == pytest.approx(TRUE[5], abs=0.05)
    assert out.with_suffix(".png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"--z-step-nm": "0"}, "planes of a stack are apart"),
        ({"--roi-size-px": "16"}, "is even"),
        ({"--sample-index": "1.33"}, "add --vectorial"),
        ({"--na": "1.6"}, "does not propagate"),
        ({"--amplitude": "some"}, "none, radial or full"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, change: dict[str, str], complaint: str) -> None:
    options = {
        "--z-step-nm": "50", "--pixel-size-nm": "100", "--wavelength-nm": "660", "--na": "1.2", "--index": "1.33",
    } | change  # fmt: skip
    arguments = [part for pair in options.items() for part in pair]
    result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "beads.tif"), *arguments])
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


def test_files_that_are_no_stacks_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((20, 20), np.uint16))
    options = [
        "--z-step-nm",
        "50",
        "--pixel-size-nm",
        "100",
        "--wavelength-nm",
        "660",
        "--na",
        "1.2",
        "--index",
        "1.33",
    ]
    for name, complaint in (("flat.tif", "planes, rows, columns"), ("none.tif", "does not exist")):
        result = CliRunner().invoke(app, ["calibrate", str(tmp_path / name), *options])
        assert result.exit_code == 1
        assert complaint in " ".join(result.output.split())
