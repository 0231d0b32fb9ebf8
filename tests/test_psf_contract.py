"""What every PSF promises. A new one joins by one line in PSFS."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from adaloc.config import GaussianPSFConfig, OpticsConfig, PupilPSFConfig
from adaloc.simulation.psf import PSF, make_psf
from adaloc.simulation.spline import SplinePSF, interpolating_spline
from adaloc.simulation.zernike import NUM_MODES

OPTICS = OpticsConfig()
ASTIGMATISM_RAD = 0.67
REACH_NM = 500.0  # depths that are asked for


@dataclass(frozen=True)
class Promise:
    """A PSF and how much light its region may miss, as tails reach beyond it."""

    psf: PSF
    least_sum: float
    uses_phase: bool = False


def spline_of(psf: PSF, phase: torch.Tensor | None = None) -> SplinePSF:
    """A spline through samples of another PSF, 20 nm apart."""
    z_nm = torch.arange(-600.0, 601.0, 20.0)
    zero = torch.zeros_like(z_nm)
    volume = psf.images(zero, zero, z_nm, None if phase is None else phase.expand(len(z_nm), -1))
    return SplinePSF(interpolating_spline(volume.double().numpy(), 20.0, 30.0))


def gaussian(depth_nm: float | None) -> PSF:
    config = GaussianPSFConfig(
        type="gaussian", sigma_x_nm=140, sigma_y_nm=135, focus_x_nm=-205, focus_y_nm=205, depth_nm=depth_nm
    )
    return make_psf(config, OPTICS)


def astigmatism(num: int) -> torch.Tensor:
    phase = torch.zeros(num, NUM_MODES)
    phase[:, 5] = ASTIGMATISM_RAD
    return phase


PUPIL = make_psf(PupilPSFConfig(), OPTICS)
PSFS = {
    "pupil": Promise(PUPIL, least_sum=0.8, uses_phase=True),
    "vectorial": Promise(make_psf(PupilPSFConfig(model="vectorial"), OPTICS), least_sum=0.8, uses_phase=True),
    "gaussian 2D": Promise(gaussian(None), least_sum=0.999),
    "gaussian 3D": Promise(gaussian(290.0), least_sum=0.99),
    "spline of a gaussian": Promise(spline_of(gaussian(290.0)), least_sum=0.98),
    "spline of a pupil": Promise(spline_of(PUPIL, astigmatism(1)), least_sum=0.75),
}


def emitters(promise: Promise, num: int, seed: int = 0) -> list[torch.Tensor]:
    """x, y, z all over the pixel and the depth, and aberrations where they count."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, num, generator=generator) - 0.5
    z = (torch.rand(num, generator=generator) * 2 - 1) * REACH_NM
    phase = torch.randn(num, NUM_MODES, generator=generator) * 0.1
    phase[:, :4] = 0
    return [x, y, z, phase + astigmatism(num)] if promise.uses_phase else [x, y, z]


@pytest.mark.parametrize("promise", PSFS.values(), ids=PSFS.keys())
class TestEveryPSF:
    def test_an_image_has_the_size_of_the_region(self, promise: Promise) -> None:
        side = promise.psf.roi_size_px
        assert side % 2 == 1
        for num in (0, 1, 7):
            images = promise.psf.images(*emitters(promise, num))
            assert images.shape == (num, side, side)
            assert images.dtype == torch.float32

    def test_shares_are_not_negative_and_sum_to_at_most_one(self, promise: Promise) -> None:
        images = promise.psf.images(*emitters(promise, 200))
        assert images.min() >= 0
        sums = images.sum((1, 2))
        assert sums.max() <= 1 + 1e-3
        assert sums.min() >= promise.least_sum

    def test_a_shift_by_whole_pixels_moves_the_image(self, promise: Promise) -> None:
        x, y, z, *phase = emitters(promise, 16)
        here, there = promise.psf.images(x, y, z, *phase), promise.psf.images(x + 1, y - 2, z, *phase)
        # Not the outermost pixels: there the region's edge cuts the integral over a pixel, or the calibration ends.
        torch.testing.assert_close(there[:, 4:-6, 6:-4], here[:, 6:-4, 5:-5], atol=2e-5, rtol=1e-3)

    def test_the_centroid_follows_x_along_columns_and_y_along_rows(self, promise: Promise) -> None:
        _, _, z, *phase = emitters(promise, 16)
        index = torch.arange(promise.psf.roi_size_px, dtype=torch.float64) - promise.psf.roi_size_px // 2

        def centroid(x: float, y: float) -> torch.Tensor:
            image = promise.psf.images(torch.full_like(z, x), torch.full_like(z, y), z, *phase).double()
            of_columns, of_rows = image.sum(1) @ index, image.sum(2) @ index
            return torch.stack([of_columns, of_rows]) / image.sum((1, 2))

        along_x, along_y = centroid(0.4, 0.1) - centroid(-0.2, 0.1), centroid(0.1, 0.4) - centroid(0.1, -0.2)
        # A region cuts the tails at the same place wherever the spot is, so its centroid lags a little.
        for moved, still in (along_x, along_y.flip(0)):
            assert (moved > 0.6 * 0.8).all() and (moved < 0.6 * 1.02).all()
            assert still.abs().max() < 0.01

    @pytest.mark.parametrize(("axis", "step"), [(0, 0.02), (1, 0.02), (2, 4.0)], ids=["x", "y", "z"])
    def test_gradients_equal_finite_differences(self, promise: Promise, axis: int, step: float) -> None:
        columns = emitters(promise, 24)
        position, phase = columns[:3], columns[3:]
        weight = torch.rand(
            24, promise.psf.roi_size_px, promise.psf.roi_size_px, generator=torch.Generator().manual_seed(1)
        )

        def value(position: list[torch.Tensor]) -> torch.Tensor:
            return (promise.psf.images(*position, *phase).double() * weight).sum((1, 2))

        variables = [v.clone().requires_grad_() for v in position]
        gradient = torch.autograd.grad(value(variables).sum(), variables, allow_unused=True)[axis]
        up, down = list(position), list(position)
        up[axis], down[axis] = position[axis] + step, position[axis] - step
        numeric = (value(up) - value(down)) / (2 * step)
        scale = float(numeric.abs().max())
        if scale == 0:  # a two-dimensional PSF does not know of z
            assert axis == 2 and (gradient is None or float(gradient.abs().max()) == 0)
            return
        assert gradient is not None
        torch.testing.assert_close(gradient.double(), numeric, atol=0.02 * scale, rtol=0.02)

    def test_emitters_do_not_touch_each_others_images(self, promise: Promise) -> None:
        columns = emitters(promise, 9)
        together = promise.psf.images(*columns)
        order = torch.tensor([4, 0, 8])
        apart = promise.psf.images(*[column[order] for column in columns])
        torch.testing.assert_close(apart, together[order], atol=1e-7, rtol=1e-5)

    def test_the_same_emitter_has_the_same_image(self, promise: Promise) -> None:
        columns = emitters(promise, 5)
        torch.testing.assert_close(promise.psf.images(*columns), promise.psf.images(*columns), atol=0, rtol=0)


def test_a_law_is_broken_by_a_psf_that_breaks_it() -> None:
    """Rows and columns exchanged: what a wrong axis order in a calibration would be."""

    class Exchanged:
        roi_size_px = PUPIL.roi_size_px

        def images(self, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            return PUPIL.images(y, x, z, *rest)

    with pytest.raises(AssertionError):
        TestEveryPSF().test_the_centroid_follows_x_along_columns_and_y_along_rows(Promise(Exchanged(), 0.8, True))  # type: ignore[arg-type]


def test_the_splines_agree_with_what_they_were_sampled_from() -> None:
    """Between the nodes too: of a Gaussian within 0.5 % of the peak, of a pupil within 2 % (100 nm is near Nyquist)."""
    sources = {"spline of a gaussian": (gaussian(290.0), 0.005), "spline of a pupil": (PUPIL, 0.02)}
    for name, (source, tolerance) in sources.items():
        spline = PSFS[name].psf
        x, y, z = emitters(PSFS[name], 100, seed=3)
        true = source.images(x, y, z, *([astigmatism(100)] if source is PUPIL else [])).double().numpy()
        cut = (source.roi_size_px - spline.roi_size_px) // 2
        true = true[:, cut:-cut, cut:-cut]
        difference = np.abs(spline.images(x, y, z).double().numpy() - true).max((1, 2)) / true.max((1, 2))
        assert math.isfinite(difference.max()) and difference.max() < tolerance, f"{name}: {difference.max()}"
