"""Laws of the PSFs, and agreement with an independent implementation."""

import math

import numpy as np
import pytest
import torch

from adaloc.config import GaussianPSFConfig, OpticsConfig, PixelSize, PupilPSFConfig
from adaloc.simulation.field_map import FieldMap, random_field_map, read_field_map, write_field_map
from adaloc.simulation.psf import PSF, make_psf
from adaloc.simulation.pupil import ScalarPupilPSF, clear_magnitudes
from adaloc.simulation.zernike import NUM_MODES, zernike_modes

OPTICS = OpticsConfig()
ASTIGMATIC = GaussianPSFConfig(
    type="gaussian", sigma_x_nm=140, sigma_y_nm=135, focus_x_nm=-205, focus_y_nm=205, depth_nm=290, cubic_x=0.05
)
PSFS = {"pupil": make_psf(PupilPSFConfig(), OPTICS), "gaussian": make_psf(ASTIGMATIC, OPTICS)}


def emitters(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, num, generator=generator) - 0.5
    z = torch.rand(num, generator=generator) * 1600 - 800
    phase = torch.randn(num, NUM_MODES, generator=generator) * 0.1
    phase[:, :4] = 0
    return x, y, z, phase


@pytest.mark.parametrize("psf", PSFS.values(), ids=PSFS.keys())
class TestEveryPSF:
    def test_shares_are_not_negative_and_sum_to_at_most_one(self, psf: PSF) -> None:
        images = psf.images(*emitters(64))
        assert images.shape == (64, psf.roi_size_px, psf.roi_size_px)
        assert images.min() >= 0
        assert images.sum((1, 2)).max() <= 1 + 1e-5
        assert images.sum((1, 2)).min() > 0.8

    def test_a_shift_by_whole_pixels_moves_the_image(self, psf: PSF) -> None:
        x, y, z, phase = emitters(8)
        here, there = psf.images(x, y, z, phase), psf.images(x + 1, y - 2, z, phase)
        # Not the outermost pixels: there the region's edge cuts the integral over a pixel.
        torch.testing.assert_close(there[:, 4:-6, 6:-4], here[:, 6:-4, 5:-5], atol=2e-5, rtol=1e-3)

    def test_x_moves_along_columns_and_y_along_rows(self, psf: PSF) -> None:
        zero = torch.zeros(1)
        image = psf.images(zero + 0.4, zero - 0.3, zero)[0].double()
        index = torch.arange(psf.roi_size_px) - psf.roi_size_px // 2
        assert float((image.sum(0) * index).sum()) > 0.2
        assert float((image.sum(1) * index).sum()) < -0.15

    def test_gradients_equal_finite_differences(self, psf: PSF) -> None:
        x, y, z, phase = emitters(4)
        weight = torch.rand(4, psf.roi_size_px, psf.roi_size_px, generator=torch.Generator().manual_seed(1))

        def value(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return (psf.images(x, y, z, phase) * weight).sum((1, 2)).double()

        variables = [v.clone().requires_grad_() for v in (x, y, z)]
        gradients = torch.autograd.grad(value(*variables).sum(), variables)
        for k, step in enumerate((0.02, 0.02, 5.0)):
            up, down = [x, y, z], [x, y, z]
            up[k], down[k] = up[k] + step, down[k] - step
            numeric = (value(*up) - value(*down)) / (2 * step)
            torch.testing.assert_close(gradients[k].double(), numeric, atol=2e-3 / max(step, 1), rtol=0.03)


def test_zernike_modes_are_orthonormal_over_the_disk() -> None:
    u = (np.arange(800) + 0.5) / 400 - 1
    x, y = np.meshgrid(u, u)
    inside = x**2 + y**2 <= 1
    modes = zernike_modes(np.hypot(x, y)[inside], np.arctan2(y, x)[inside])
    np.testing.assert_allclose(modes @ modes.T / inside.sum(), np.eye(NUM_MODES), atol=0.01)


@pytest.mark.parametrize("numerical_aperture", [0.9, 1.2, 1.4])
def test_the_scalar_psf_agrees_with_psfmodels(numerical_aperture: float) -> None:
    """psfmodels' Gibson-Lanni integral, without index mismatch: the same physics by another method."""
    psfmodels = pytest.importorskip("psfmodels", reason="psfmodels is not installed")
    index, wavelength_nm, pixel_nm = 1.518, 660.0, 100.0
    z_nm = np.array([-800.0, -400.0, 0.0, 400.0, 800.0])
    medium = dict.fromkeys(("ng0", "ng", "ni0", "ni", "ns"), index)
    reference = psfmodels.scalar_psf(
        zv=z_nm / 1000, nx=33, dxy=pixel_nm / 1000, pz=0, wvl=wavelength_nm / 1000,
        params={"NA": numerical_aperture, "sf": 7, **medium}, normalize=False,
    )  # fmt: skip
    optics = OpticsConfig(
        wavelength_nm=wavelength_nm, numerical_aperture=numerical_aperture, refractive_index=index,
        pixel_size_nm=PixelSize(x=pixel_nm, y=pixel_nm),
    )  # fmt: skip
    zero = torch.zeros(5)
    z = torch.from_numpy(z_nm).float()
    reference = reference / reference[2].sum()
    peak = reference.max((1, 2))
    for samples, tolerance in ((40, 0.014), (96, 0.004)):
        ours = ScalarPupilPSF(optics, 33, samples).images(zero, zero, z).double().numpy()
        ours /= ours[2].sum()
        worst = np.abs(ours - reference).max((1, 2)) / peak
        assert worst.max() < tolerance, f"{samples} samples: {worst}"


def test_large_pixels_are_integrated_not_sampled() -> None:
    """A pixel of 300 nm holds what nine pixels of 100 nm hold."""
    fine = ScalarPupilPSF(OpticsConfig(pixel_size_nm=PixelSize(x=100, y=100)), 45, 64)
    coarse = ScalarPupilPSF(OpticsConfig(pixel_size_nm=PixelSize(x=300, y=300)), 15, 64)
    zero = torch.zeros(1)
    summed = fine.images(zero, zero, zero + 200)[0].reshape(15, 3, 15, 3).sum((1, 3))
    torch.testing.assert_close(coarse.images(zero, zero, zero + 200)[0], summed, atol=3e-5, rtol=2e-3)


def test_a_tilt_is_a_shift_and_a_clear_magnitude_changes_nothing() -> None:
    psf = ScalarPupilPSF(OPTICS, 33)
    zero = torch.zeros(1)
    # Noll 2 is 2 rho cos(theta): a coefficient c shifts by 2 c / (2 pi NA / wavelength) nm.
    tilt = torch.zeros(1, NUM_MODES)
    tilt[0, 1] = 0.5
    shift_px = 2 * 0.5 / (2 * math.pi * OPTICS.numerical_aperture / OPTICS.wavelength_nm) / OPTICS.pixel_size_nm.x
    by_tilt, by_shift = psf.images(zero, zero, zero, tilt), psf.images(zero - shift_px, zero, zero)
    other_sign = psf.images(zero + shift_px, zero, zero)
    nearer = min(float((by_tilt - by_shift).abs().max()), float((by_tilt - other_sign).abs().max()))
    assert nearer < 0.01 * float(by_tilt.max())
    clear = torch.from_numpy(clear_magnitudes(1))
    torch.testing.assert_close(psf.images(zero, zero, zero, None, clear), psf.images(zero, zero, zero))


def test_astigmatism_turns_the_elongation_through_focus() -> None:
    psf = ScalarPupilPSF(OPTICS, 33)
    phase = torch.zeros(2, NUM_MODES)
    phase[:, 5] = 70 * 2 * math.pi / OPTICS.wavelength_nm
    below, above = psf.images(torch.zeros(2), torch.zeros(2), torch.tensor([-400.0, 400.0]), phase).double()
    index = (torch.arange(33) - 16).double()

    def elongation(image: torch.Tensor) -> float:
        core = image * (image > 0.2 * image.max())
        return float((core.sum(0) * index**2).sum() / (core.sum(1) * index**2).sum())

    assert (elongation(below) - 1) * (elongation(above) - 1) < 0
    torch.testing.assert_close(below.T, above, atol=2e-3, rtol=0.1)


def test_a_field_map_survives_writing_and_interpolates(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "zmap.h5"
    made = random_field_map(PupilPSFConfig(), 660.0, (30, 40), np.random.default_rng(0))
    write_field_map(path, made)
    read = read_field_map(path)
    np.testing.assert_array_equal(read.phase, made.phase)
    rows, columns = np.array([3, 17, 29]), np.array([0, 20, 39])
    phase, magnitude = read.coefficients_at(columns.astype(float), rows.astype(float))
    np.testing.assert_allclose(phase, made.phase[:, rows, columns].T, atol=1e-9)
    np.testing.assert_array_equal(magnitude, clear_magnitudes(3))
    outside, _ = read.coefficients_at(np.array([-7.0, 60.0]), np.array([5.0, 40.0]))
    np.testing.assert_allclose(outside, made.phase[:, [5, 29], [0, 39]].T, atol=1e-9)
    nm = made.phase * 660 / (2 * np.pi)
    assert nm[5].mean() == pytest.approx(70, abs=25)
    varying = nm - np.eye(NUM_MODES)[5][:, None, None] * 70
    assert np.sqrt((varying**2).sum(0).mean()) == pytest.approx(20, rel=1e-6)
    assert np.abs(nm[:4]).max() == 0


def test_amplitudes_are_cubic_inside_and_nearest_outside() -> None:
    grid = np.stack(np.meshgrid(np.linspace(0, 30, 4), np.linspace(0, 30, 4)), -1).reshape(-1, 2)
    magnitude = clear_magnitudes(16)
    magnitude[:, 3] = 0.01 * grid[:, 0] + 0.002 * grid[:, 1]
    field = FieldMap(np.zeros((NUM_MODES, 31, 31)), grid, magnitude)
    _, found = field.coefficients_at(np.array([7.3, 100.0]), np.array([12.1, 100.0]))
    np.testing.assert_allclose(found[:, 3], [0.01 * 7.3 + 0.002 * 12.1, 0.36], atol=1e-6)
