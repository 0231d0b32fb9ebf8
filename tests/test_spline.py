"""Laws of the cubic spline: what it reproduces, how fast it converges, and where it ends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from adaloc.config import GaussianPSFConfig, OpticsConfig, PixelSize
from adaloc.simulation.crlb import share_with_derivatives
from adaloc.simulation.psf import PSF, make_psf
from adaloc.simulation.spline import Spline, SplinePSF, interpolating_spline, reversed_z, transposed

Array = np.ndarray[Any, Any]


def gaussian(roi_size_px: int = 15) -> PSF:
    config = GaussianPSFConfig(
        type="gaussian", roi_size_px=roi_size_px, sigma_x_nm=150, sigma_y_nm=130, focus_x_nm=-200, focus_y_nm=200,
        depth_nm=300,
    )  # fmt: skip
    return make_psf(config, OpticsConfig(pixel_size_nm=PixelSize(x=100, y=100)))


def sampled(z_step_nm: float, reach_nm: float = 600.0, roi_size_px: int = 15) -> Array:
    z = torch.arange(-reach_nm, reach_nm + 1, z_step_nm)
    zero = torch.zeros_like(z)
    return gaussian(roi_size_px).images(zero, zero, z).double().numpy()  # type: ignore[no-any-return]


def spline_and_psf(z_step_nm: float = 20.0) -> tuple[Spline, SplinePSF]:
    spline = interpolating_spline(sampled(z_step_nm), z_step_nm, 600 / z_step_nm, pixel_size_nm=(100, 90))
    return spline, SplinePSF(spline)


def places(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y, z = (torch.rand(num, generator=generator) * 2 - 1 for _ in range(3))
    return x / 2, y / 2, z * 600


def test_every_cell_of_a_cubic_polynomial_is_that_polynomial() -> None:
    """Each of the 64 coefficients is checked against the expansion of the polynomial about its cell's corner."""
    rng = np.random.default_rng(0)
    powers = rng.normal(size=(4, 4, 4))  # of z, y, x
    z, y, x = np.meshgrid(np.arange(6), np.arange(5), np.arange(7), indexing="ij")
    volume = np.polynomial.polynomial.polyval3d(z, y, x, powers)
    spline = interpolating_spline(volume, 10.0, 0.0)
    assert spline.coefficients.shape == (5, 4, 6, 64)
    for corner in ((0, 0, 0), (4, 3, 5), (2, 1, 3)):
        shifted = powers
        for axis, by in enumerate(corner):
            # (t + by)^p expanded in t
            expand = np.array([[math.comb(p, q) * by ** (p - q) if q <= p else 0 for p in range(4)] for q in range(4)])
            shifted = np.moveaxis(np.tensordot(expand, shifted, (1, axis)), 0, axis)
        for power_z in range(4):
            for power_y in range(4):
                for power_x in range(4):
                    found = spline.coefficients[corner][16 * power_z + 4 * power_y + power_x]
                    assert found == pytest.approx(shifted[power_z, power_y, power_x], rel=1e-4, abs=1e-3)


def test_at_the_nodes_it_has_their_values_and_they_sum_as_they_did() -> None:
    _, psf = spline_and_psf()
    z = torch.arange(-600.0, 601.0, 20.0)
    zero = torch.zeros_like(z)
    expected = sampled(20.0)[:, 1:-1, 1:-1]  # the region is a pixel smaller on each side
    np.testing.assert_allclose(psf.images(zero, zero, z).double().numpy(), expected, atol=2e-7)


def test_between_planes_the_error_falls_with_the_fourth_power_of_their_distance() -> None:
    z = torch.linspace(-401.3, 397.7, 300)
    zero = torch.zeros_like(z)
    true = gaussian(13).images(zero, zero, z)
    errors = [float((spline_and_psf(step)[1].images(zero, zero, z) - true).abs().max()) for step in (100.0, 50.0)]
    assert errors[0] < 3e-3
    assert 10 < errors[0] / errors[1] < 25


def test_between_pixels_it_is_the_psf() -> None:
    x, y, z = places(200)
    true = gaussian(13).images(x, y, z)
    assert float((spline_and_psf()[1].images(x, y, z) - true).abs().max()) < 4e-3 * float(true.max())


def test_images_equal_the_sum_over_64_terms() -> None:
    """An independent, slow evaluation of the definition, pixel by pixel."""
    rng = np.random.default_rng(1)
    coefficients = rng.uniform(0, 1e-4, (3, 9, 10, 64)).astype(np.float32)
    spline = Spline(coefficients, dz_nm=40.0, z0=1.25, x0=4.5, y0=5.0)
    psf = SplinePSF(spline, roi_size_px=7)
    x, y, z = 0.37, -0.21, 33.0
    image = psf.images(torch.tensor([x]), torch.tensor([y]), torch.tensor([z]))[0]
    for row in range(7):
        for column in range(7):
            place = (1.25 + z / 40.0, 5.0 + row - 3 - y, 4.5 + column - 3 - x)
            cell = tuple(int(np.floor(p)) for p in place)
            t, v, u = (p - c for p, c in zip(place, cell, strict=True))
            terms = coefficients[cell].astype(float)
            expected = sum(
                terms[16 * p + 4 * q + r] * t**p * v**q * u**r for p in range(4) for q in range(4) for r in range(4)
            )
            assert float(image[row, column]) == pytest.approx(expected, rel=1e-5)


def test_turning_z_round_is_the_psf_at_minus_z() -> None:
    spline, psf = spline_and_psf()
    lopsided = Spline(spline.coefficients, spline.dz_nm, 21.0, spline.x0, spline.y0)
    x, y, z = places(50)
    turned = SplinePSF(reversed_z(lopsided))
    torch.testing.assert_close(turned.images(x, y, -z), SplinePSF(lopsided).images(x, y, z), atol=1e-6, rtol=1e-4)
    assert turned.z_range_nm == tuple(-z for z in reversed(SplinePSF(lopsided).z_range_nm))
    assert (
        float((turned.images(x, y, z) - psf.images(x, y, z)).abs().max()) > 1e-3
    )  # an astigmatic PSF is not even in z
    np.testing.assert_allclose(reversed_z(reversed_z(spline)).coefficients, spline.coefficients, atol=1e-6)


def test_transposing_exchanges_rows_and_columns() -> None:
    spline, psf = spline_and_psf()
    x, y, z = places(50)
    torch.testing.assert_close(SplinePSF(transposed(spline)).images(y, x, z).mT, psf.images(x, y, z))
    assert transposed(spline).pixel_size_nm == (90, 100)
    np.testing.assert_array_equal(transposed(transposed(spline)).coefficients, spline.coefficients)


def test_outside_of_the_calibrated_region_it_is_dark() -> None:
    spline, _ = spline_and_psf()
    wide = SplinePSF(spline, roi_size_px=31)
    zero = torch.zeros(1)
    image = wide.images(zero + 0.3, zero, zero)[0]
    # 15 nodes around the middle: 14 cells of light along rows, and along columns.
    assert int((image.sum(0) > 0).sum()) == 14 and float(image[:, :8].max()) == 0 and float(image[:, 23:].max()) == 0
    far = wide.images(zero + 40, zero, zero)
    assert float(far.abs().max()) == 0


def test_beyond_the_calibrated_depth_the_image_is_that_of_the_last_plane() -> None:
    _, psf = spline_and_psf()
    assert psf.z_range_nm == (-600, 600)
    zero = torch.zeros(2)
    z = torch.tensor([-900.0, 700.0], requires_grad=True)
    image = psf.images(zero, zero, z)
    torch.testing.assert_close(image.detach(), psf.images(zero, zero, torch.tensor([-600.0, 600.0])))
    assert torch.autograd.grad(image.square().sum(), z)[0].abs().max() == 0


def test_an_offset_moves_the_origin_of_z() -> None:
    spline, psf = spline_and_psf()
    moved = SplinePSF(spline, z_offset_nm=150.0)
    x, y, z = places(20)
    torch.testing.assert_close(moved.images(x, y, z * 0.5), psf.images(x, y, z * 0.5 + 150))
    assert moved.z_range_nm == (-750, 450)


@pytest.mark.parametrize(("scale", "expected"), [(3.0, 1.0), (0.5, 0.5)])
def test_too_bright_a_spline_is_scaled_and_a_dim_one_is_kept(scale: float, expected: float) -> None:
    psf = SplinePSF(interpolating_spline(sampled(20.0) * scale, 20.0, 30.0))
    x, y, z = places(300)
    brightest = float(psf.images(x, y, z).sum((1, 2)).max())
    assert brightest == pytest.approx(expected, abs=5e-3) and brightest <= 1 + 1e-3


def test_the_region_stays_within_the_calibration_unless_asked_otherwise() -> None:
    for nodes, region in ((15, 13), (16, 15), (27, 25)):
        volume = np.full((5, nodes, nodes), 1e-4)
        assert SplinePSF(interpolating_spline(volume, 10.0, 2.0)).roi_size_px == region


def test_derivatives_in_forward_mode_are_those_of_the_spline() -> None:
    _, psf = spline_and_psf()
    x, y, z = (v.double().numpy() for v in places(10))
    share, *slopes = share_with_derivatives(psf, x, y, z)
    for axis, step in enumerate((0.01, 0.01, 2.0)):
        up, down = ([v + s * step * (i == axis) for i, v in enumerate((x, y, z))] for s in (1, -1))
        difference = (psf.images(*map(torch.from_numpy, up)) - psf.images(*map(torch.from_numpy, down))) / (2 * step)
        np.testing.assert_allclose(slopes[axis], difference.numpy(), atol=5e-3 * np.abs(slopes[axis]).max())
    np.testing.assert_allclose(share, psf.images(*map(torch.from_numpy, (x, y, z))).numpy(), atol=1e-6)


def test_what_cannot_be_a_psf_is_refused() -> None:
    spline, _ = spline_and_psf()
    with pytest.raises(ValueError, match="odd"):
        SplinePSF(spline, roi_size_px=12)
    with pytest.raises(ValueError, match="no light"):
        SplinePSF(interpolating_spline(np.zeros((5, 9, 9)), 10.0, 2.0))
    with pytest.raises(ValueError, match="3 px on each side"):
        SplinePSF(interpolating_spline(np.ones((5, 5, 9)), 10.0, 2.0))
    with pytest.raises(ValueError, match="expected"):
        Spline(np.zeros((3, 4, 5, 63), np.float32), 10.0, 0.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="finite"):
        Spline(np.full((3, 4, 5, 64), np.nan, np.float32), 10.0, 0.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="above 0"):
        Spline(np.zeros((3, 4, 5, 64), np.float32), 0.0, 0.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="4 nodes"):
        interpolating_spline(np.zeros((3, 9, 9)), 10.0, 0.0)
