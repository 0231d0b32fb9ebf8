"""The pupil PSF against an independent implementation, and laws of its own (those of all: test_psf_contract.py)."""

import math

import numpy as np
import pytest
import torch

from adaloc.config import OpticsConfig, PixelSize, PupilPSFConfig
from adaloc.simulation.field_map import FieldMap, random_field_map, read_field_map, write_field_map
from adaloc.simulation.pupil import ScalarPupilPSF, clear_magnitudes
from adaloc.simulation.zernike import NUM_MODES, zernike_modes

OPTICS = OpticsConfig()


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
