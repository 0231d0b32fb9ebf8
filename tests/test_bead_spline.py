"""From bead stacks to a spline: smoothing, finding, averaging, the command, and a real bead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import CameraConfig, GaussianPSFConfig, OpticsConfig, PixelSize, SplinePSFConfig
from adaloc.errors import DataError
from adaloc.simulation.bead_spline import find_beads, smoother, spline_from_beads
from adaloc.simulation.mle import fit_emitters
from adaloc.simulation.psf import PSF, make_psf
from adaloc.simulation.spline import SplinePSF
from adaloc.simulation.spline_files import read_spline

Array = np.ndarray[Any, Any]
OPTICS = OpticsConfig(pixel_size_nm=PixelSize(x=100, y=100))
STEP_NM = 25.0
NUM_PLANES = 41


def truth(roi_size_px: int) -> PSF:
    config = GaussianPSFConfig(
        type="gaussian", roi_size_px=roi_size_px, sigma_x_nm=150, sigma_y_nm=130, focus_x_nm=-150, focus_y_nm=150,
        depth_nm=350,
    )  # fmt: skip
    return make_psf(config, OPTICS)


def bead_stack(
    beads: list[tuple[float, float, float, float]], size: tuple[int, int], *, background: float = 30.0, seed: int = 0
) -> Array:
    """Photons of beads at (row, column, height in nm, brightness), with shot noise, on an offset of 100."""
    stack = np.full((NUM_PLANES, *size), background)
    half = 12
    psf = truth(2 * half + 1)
    z = torch.arange(NUM_PLANES) * STEP_NM - (NUM_PLANES // 2) * STEP_NM
    for row, column, height, photons in beads:
        r, c = round(row), round(column)
        images = psf.images(torch.full_like(z, column - c), torch.full_like(z, row - r), z - height) * photons
        rows, columns = (slice(max(v - half, 0), v + half + 1) for v in (r, c))
        cut = images.numpy()[:, rows.start - r + half :, columns.start - c + half :]
        place = stack[:, rows, columns]
        place += cut[:, : place.shape[1], : place.shape[2]]
    return np.random.default_rng(seed).poisson(stack).astype(np.float64) + 100


def worst_difference(psf: PSF, spline: SplinePSF, z_shift_nm: float) -> float:
    """Over the peak, anywhere in the pixel and the depth, after a shift of the origin of z."""
    rng = np.random.default_rng(5)
    x, y = (torch.from_numpy(rng.uniform(-0.5, 0.5, 200)).float() for _ in range(2))
    z = torch.from_numpy(rng.uniform(-350, 350, 200)).float()
    expected = psf.images(x, y, z)
    found = spline.images(x, y, z + z_shift_nm)
    return float(((found - expected).abs().amax((1, 2)) / expected.amax((1, 2))).max())


# Smoothing


@pytest.mark.parametrize(("length", "period"), [(1.0, 12.0), (2.0, 12.0), (3.0, 20.0)])
def test_a_smoothing_length_leaves_of_a_wave_what_it_says(length: float, period: float) -> None:
    wave = np.cos(2 * np.pi * np.arange(241) / period)
    left = (smoother(241, length) @ wave)[120] / wave[120]
    assert left == pytest.approx(1 / (1 + (2 * np.pi * length / period) ** 4), rel=0.02)


def test_lines_are_kept_and_no_length_changes_nothing() -> None:
    line = 3.0 - 0.2 * np.arange(30)
    np.testing.assert_allclose(smoother(30, 4.0) @ line, line, atol=1e-9)
    np.testing.assert_allclose(smoother(30, 0.0), np.eye(30), atol=1e-12)


def test_smoothing_takes_noise_and_leaves_the_psf() -> None:
    stack = bead_stack([(12.0, 12.0, 0.0, 2e4)], (25, 25), background=5.0)
    raw, smooth = (
        SplinePSF(spline_from_beads([stack], STEP_NM, (100, 100), smooth_z_nm=nm, z0_plane=20).spline, 15)
        for nm in (0.0, 60.0)
    )
    x = torch.zeros(NUM_PLANES - 10)
    z = torch.arange(-15, 16) * STEP_NM
    true = truth(15).images(x, x, z)
    true = true / true.sum((1, 2)).max()
    errors = [float((psf.images(x, x, z) - true).square().mean().sqrt()) for psf in (raw, smooth)]
    assert errors[1] < 0.7 * errors[0]


# Beads


def test_beads_are_found_unless_they_overlap_or_touch_the_border() -> None:
    beads = [
        (30.2, 25.7, 0.0, 9e4), (70.0, 30.0, 100.0, 6e4), (30.4, 90.1, -80.0, 1.2e5),
        (80.0, 80.0, 0.0, 9e4), (80.0, 92.0, 0.0, 9e4),  # too near to each other
        (5.0, 60.0, 0.0, 9e4),  # at the border
        (60.0, 60.0, 0.0, 4e3),  # far too dim
    ]  # fmt: skip
    found = find_beads(bead_stack(beads, (110, 120)), 21)
    assert sorted(map(tuple, found.tolist())) == [(30, 26), (30, 90), (70, 30)]


def test_beads_at_different_heights_and_places_average_to_the_psf() -> None:
    """Aligned in x, y and z to a fraction of a pixel and a plane; a bead that is another shape is left out."""
    rng = np.random.default_rng(2)
    beads = [
        (30 + 40 * i + rng.uniform(-0.5, 0.5), 30 + 40 * j + rng.uniform(-0.5, 0.5), rng.uniform(-60, 60), 5e4)
        for i in range(3) for j in range(3)
    ]  # fmt: skip
    beads.append((72.5, 71.5, 200.0, 4e4))  # at the middle one: a cluster
    stack = bead_stack(beads, (140, 140))
    made = spline_from_beads([stack], STEP_NM, (100, 100), roi_size_px=21)
    assert (made.num_found, made.num_used) == (9, 8)
    assert made.background == pytest.approx(130, abs=3)
    assert made.brightest == pytest.approx(5e4, rel=0.03)
    sharpest = _sharpest_depth()
    psf = SplinePSF(made.spline, 15)
    best = min(worst_difference(truth(15), psf, shift) for shift in np.arange(-40.0, 41.0, 2.0) - sharpest)
    assert best < 0.03


def test_several_stacks_are_averaged_together() -> None:
    stacks = [bead_stack([(12.3, 11.8, 20.0 * k, 2e4)], (25, 25), seed=k) for k in range(3)]
    made = spline_from_beads(stacks, STEP_NM, (100, 100))
    assert (made.num_found, made.num_used) == (3, 3)
    assert made.spline.pixel_size_nm == (100, 100)


def test_a_named_plane_is_that_of_beads_of_the_mean_height() -> None:
    heights = (-70.0, 10.0, 90.0)
    stacks = [bead_stack([(12.0, 12.0, height, 1e5)], (25, 25), seed=int(height) + 70) for height in heights]
    psf = SplinePSF(spline_from_beads(stacks, STEP_NM, (100, 100), z0_plane=NUM_PLANES // 2).spline, 15)
    # The middle plane shows z = 0 of a bead at 0, and these beads are 10 nm above that on average.
    differences = {shift: worst_difference(truth(15), psf, shift) for shift in (-30.0, 10.0, 50.0)}
    assert min(differences, key=lambda shift: differences[shift]) == 10.0 and differences[10.0] < 0.03


def test_x_and_y_are_zero_at_the_centroid_and_z_at_the_plane_that_was_named() -> None:
    stack = bead_stack([(12.4, 11.7, 0.0, 1e5)], (25, 25))
    made = spline_from_beads([stack], STEP_NM, (100, 100), z0_plane=12)
    psf = SplinePSF(made.spline)
    assert psf.z_range_nm == (-12 * STEP_NM, (NUM_PLANES - 1 - 12) * STEP_NM)
    zero = torch.zeros(1)
    image = psf.images(zero, zero, zero + 8 * STEP_NM)[0].double()
    index = torch.arange(psf.roi_size_px) - psf.roi_size_px // 2
    bright = (image - 0.3 * image.max()).clamp_min(0)
    assert abs(float((bright.sum(0) * index).sum() / bright.sum())) < 0.02
    assert abs(float((bright.sum(1) * index).sum() / bright.sum())) < 0.02


def test_stacks_that_cannot_be_used_are_named() -> None:
    one = bead_stack([(12.0, 12.0, 0.0, 2e4)], (25, 25))
    cases: list[tuple[list[Array], dict[str, Any], str]] = [
        ([one, one[:-3]], {}, "same number of planes"),
        ([one[:3]], {}, "at least 4"),
        ([np.random.default_rng(0).poisson(100.0, (10, 80, 80)).astype(float)], {}, "No bead"),
        ([np.full((10, 25, 25), 7.0)], {}, "no light|No bead"),
        ([one], {"roi_size_px": 41}, "25 px fit"),
        ([one], {"z0_plane": 41}, "Plane 41 is not among the planes 0 to 40"),
    ]
    for stacks, options, message in cases:
        with pytest.raises(DataError, match=message):
            spline_from_beads(stacks, STEP_NM, (100, 100), **options)


# The command


def test_the_command_writes_a_file_that_a_config_uses(tmp_path: Path) -> None:
    stack, out = tmp_path / "beads.tif", tmp_path / "psf_3dcal.mat"
    tifffile.imwrite(stack, bead_stack([(12.0, 12.0, 0.0, 2e4)], (25, 25)).astype(np.uint16))
    options = ["--z-step-nm", str(STEP_NM), "--pixel-size-nm", "100x90", "-o", str(out), "--roi-size-px", "21"]
    picture = tmp_path / "beads.png"
    done = CliRunner().invoke(app, ["spline", str(stack), *options, "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "1 of 1 beads averaged, 41 planes of 21 x 21 px" in done.output
    assert read_spline(out).pixel_size_nm == pytest.approx((100, 90))
    optics = OpticsConfig(pixel_size_nm=PixelSize(x=100, y=90))
    assert make_psf(SplinePSFConfig(type="spline", file=out), optics).roi_size_px == 19


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"-o": "psf.h5"}, 2),
        ({"--roi-size-px": "20"}, 2),
        ({"--pixel-size-nm": "wide"}, 2),
        ({"--plot": "a.pdf"}, 2),
        ({"beads": "none.tif"}, 1),
    ],
)
def test_wrong_use_of_the_command(tmp_path: Path, changes: dict[str, str], status: int) -> None:
    stack = tmp_path / "beads.tif"
    tifffile.imwrite(stack, bead_stack([(12.0, 12.0, 0.0, 2e4)], (25, 25)).astype(np.uint16))
    options = {"--z-step-nm": "25", "--pixel-size-nm": "100", "-o": str(tmp_path / "psf_3dcal.mat")} | changes
    beads = options.pop("beads", str(stack))
    done = CliRunner().invoke(app, ["spline", beads, *[part for pair in options.items() for part in pair]])
    assert done.exit_code == status
    assert not list(tmp_path.glob("*.mat"))


# A real bead


def test_the_spline_of_every_other_plane_tells_the_planes_between(shared_data: Callable[[str], Path]) -> None:
    """An astigmatic bead, 10 nm a plane: z of held-out planes is a line of slope 1, and their pixels fit."""
    adu = tifffile.imread(shared_data("smap-fit3d/single_bead.tif"))
    made = spline_from_beads([adu[::2].astype(np.float64)], 20.0, (100.0, 100.0))
    psf = SplinePSF(made.spline)
    # At the nodes: the mean of many pixels' noise is what smoothing took, and no more.
    assert made.smoothing_residual < 0.003
    np.testing.assert_allclose(made.spline.coefficients[..., 0].sum((1, 2)).max(), 1, atol=0.02)
    between = np.arange(51, 150, 6)
    half = psf.roi_size_px // 2
    regions = adu[between][:, 10 - half : 11 + half, 11 - half : 12 + half]
    camera = CameraConfig(quantum_efficiency=1, gain_e_per_adu=4.03, read_noise_e=16.5, baseline_adu=400)
    fits = fit_emitters(regions, psf, camera, (-400.0, 0.0, 400.0), psf.z_range_nm)
    stage = between * 10.0 - made.spline.z0 * 20.0
    slope, offset = np.polyfit(stage, fits.parameters_NP[:, 2], 1)
    assert fits.converged_N.all()
    assert slope == pytest.approx(1, abs=0.02)
    assert np.std(fits.parameters_NP[:, 2] - slope * stage - offset) < 3
    assert fits.chi_square_N.mean() < 1.3
    photons = fits.parameters_NP[:, 3]
    assert photons.std() / photons.mean() < 0.03


def _sharpest_depth() -> float:
    """Depth of the truth's sharpest image, where the spline has its zero."""
    z = torch.arange(-200.0, 201.0, 5.0)
    zero = torch.zeros_like(z)
    return float(z[truth(21).images(zero, zero, z).square().sum((1, 2)).argmax()])
