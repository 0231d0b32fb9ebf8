"""The fit reaches its bound, with any camera and any PSF, and says when it did not succeed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adaloc.config import CameraConfig, GaussianPSFConfig, OpticsConfig, PixelSize, PupilPSFConfig
from adaloc.simulation.camera import expose
from adaloc.simulation.crlb import covariance, single_emitter_information
from adaloc.simulation.mle import fit_emitters
from adaloc.simulation.psf import PSF, make_psf
from adaloc.simulation.spline import SplinePSF, interpolating_spline

Array = np.ndarray[Any, Any]
OPTICS = OpticsConfig(pixel_size_nm=PixelSize(x=100, y=100))
RANGE_NM = (-600.0, 600.0)
STARTS_NM = (-350.0, 350.0)
CAMERAS = {
    "shot noise": CameraConfig(quantum_efficiency=1, read_noise_e=0, gain_e_per_adu=0.2),
    "sCMOS": CameraConfig(quantum_efficiency=0.8, read_noise_e=3),
    "EMCCD": CameraConfig(em_gain=200, read_noise_e=60, gain_e_per_adu=10, spurious_charge_e=0.05),
}


def gaussian(depth_nm: float | None = 290.0, roi_size_px: int = 15) -> PSF:
    config = GaussianPSFConfig(
        type="gaussian", roi_size_px=roi_size_px, sigma_x_nm=140, sigma_y_nm=135, focus_x_nm=-205, focus_y_nm=205,
        depth_nm=depth_nm,
    )  # fmt: skip
    return make_psf(config, OPTICS)


def spline() -> PSF:
    z = torch.arange(-600.0, 601.0, 30.0)
    zero = torch.zeros_like(z)
    volume = gaussian(roi_size_px=17).images(zero, zero, z).double().numpy()
    return SplinePSF(interpolating_spline(volume, 30.0, 20.0))


def scene(
    psf: PSF, camera: CameraConfig, num: int, photons: float = 3000.0, background: float = 20.0
) -> tuple[Array, Array]:
    """ADU of emitters all over the pixel and the depth, and what they were."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.5, 0.5, (2, num))
    z = rng.uniform(-450, 450, num)
    truth = np.stack([x, y, z, np.full(num, photons), np.full(num, background)], axis=1)
    share = psf.images(*(torch.from_numpy(v).float() for v in (x, y, z)))
    adu = expose(share * photons + background, camera, torch.Generator().manual_seed(1))
    return adu.numpy(), truth


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS.keys())
@pytest.mark.parametrize("psf", [gaussian(), spline()], ids=["gaussian", "spline"])
def test_errors_are_as_small_as_the_bound_allows(psf: PSF, camera: CameraConfig) -> None:
    adu, truth = scene(psf, camera, 200)
    fits = fit_emitters(adu, psf, camera, STARTS_NM, RANGE_NM)
    information = single_emitter_information(psf, camera, *truth.T)
    bound = np.sqrt(np.diagonal(covariance(information), axis1=1, axis2=2))
    scores = (fits.parameters_NP - truth) / bound
    assert fits.converged_N.mean() > 0.99
    # 200 draws: the spread is known to 5 %, the mean to 0.07.
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.16)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=0.22)
    np.testing.assert_allclose(fits.sigma_NP / bound, 1, atol=0.5)
    assert np.median(fits.sigma_NP[:, :3] / bound[:, :3]) == pytest.approx(1, abs=0.03)
    assert fits.chi_square_N.mean() == pytest.approx(1, abs=0.05)


def test_a_pupil_is_fitted_as_well() -> None:
    psf = make_psf(PupilPSFConfig(roi_size_px=21), OPTICS)
    camera = CAMERAS["sCMOS"]
    rng = np.random.default_rng(3)
    z = np.concatenate([rng.uniform(100, 500, 20)])  # without aberrations the PSF is even in z
    zero = np.zeros(20)
    share = psf.images(*(torch.from_numpy(v).float() for v in (zero + 0.2, zero - 0.1, z)))
    adu = expose(share * 20000 + 10, camera, torch.Generator().manual_seed(1)).numpy()
    fits = fit_emitters(adu, psf, camera, (300.0,), (0.0, 800.0))
    scores = (fits.parameters_NP[:, :3] - np.stack([zero + 0.2, zero - 0.1, z], 1)) / fits.sigma_NP[:, :3]
    assert np.abs(scores).max() < 4.5 and 0.6 < scores.std() < 1.4


def test_without_noise_it_finds_the_truth() -> None:
    psf, camera = spline(), CameraConfig(quantum_efficiency=1, read_noise_e=0, gain_e_per_adu=0.01)
    _, truth = scene(psf, camera, 20)
    share = psf.images(*(torch.from_numpy(v).float() for v in truth.T[:3]))
    adu = (share * 3000 + 20).double().numpy() / 0.01 + camera.baseline_adu
    found = fit_emitters(adu, psf, camera, STARTS_NM, RANGE_NM).parameters_NP
    np.testing.assert_allclose(found[:, :2], truth[:, :2], atol=2e-3)
    np.testing.assert_allclose(found[:, 2], truth[:, 2], atol=1)
    np.testing.assert_allclose(found[:, 3:], truth[:, 3:], rtol=3e-3)


def test_two_starts_find_what_one_may_miss() -> None:
    psf, camera = gaussian(), CAMERAS["sCMOS"]
    adu, truth = scene(psf, camera, 200)
    one = fit_emitters(adu, psf, camera, (-350.0,), RANGE_NM)
    both = fit_emitters(adu, psf, camera, STARTS_NM, RANGE_NM)
    assert (both.log_likelihood_N >= one.log_likelihood_N - 1e-9).all()
    assert np.abs(both.parameters_NP[:, 2] - truth[:, 2]).max() < 120


def test_a_flat_psf_is_fitted_without_z() -> None:
    psf, camera = gaussian(depth_nm=None), CAMERAS["sCMOS"]
    adu, truth = scene(psf, camera, 200)
    fits = fit_emitters(adu, psf, camera, (0.0,), RANGE_NM, fit_z=False)
    assert fits.converged_N.all() and (fits.parameters_NP[:, 2] == 0).all() and (fits.sigma_NP[:, 2] == 0).all()
    scores = (fits.parameters_NP - truth)[:, [0, 1, 3, 4]] / fits.sigma_NP[:, [0, 1, 3, 4]]
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.16)


def test_an_emitter_beyond_the_range_is_not_called_a_success() -> None:
    psf, camera = gaussian(), CAMERAS["shot noise"]
    adu, truth = scene(psf, camera, 100)
    fits = fit_emitters(adu, psf, camera, (0.0,), (-100.0, 100.0))
    beyond = np.abs(truth[:, 2]) > 250
    assert beyond.sum() > 20 and not fits.converged_N[beyond].any()
    assert np.isfinite(fits.parameters_NP).all()


def test_regions_without_an_emitter_end_in_numbers() -> None:
    psf, camera = spline(), CAMERAS["sCMOS"]
    rng = np.random.default_rng(0)
    dark = np.full((4, 15, 15), camera.baseline_adu)
    noise = rng.normal(camera.baseline_adu, 5, (4, 15, 15))
    saturated = np.full((2, 15, 15), 65535.0)
    fits = fit_emitters(np.concatenate([dark, noise, saturated]), psf, camera, STARTS_NM, RANGE_NM)
    assert np.isfinite(fits.parameters_NP).all() and np.isfinite(fits.log_likelihood_N).all()


def test_many_emitters_are_fitted_as_few_are() -> None:
    psf, camera = spline(), CAMERAS["sCMOS"]
    adu, _ = scene(psf, camera, 300)  # more than are fitted at once
    whole = fit_emitters(adu, psf, camera, (0.0,), RANGE_NM)
    part = fit_emitters(adu[250:270], psf, camera, (0.0,), RANGE_NM)
    np.testing.assert_allclose(whole.parameters_NP[250:270], part.parameters_NP, rtol=1e-2, atol=0.05)
    none = fit_emitters(adu[:0], psf, camera, (0.0,), RANGE_NM)
    assert none.parameters_NP.shape == (0, 5) and none.converged_N.shape == (0,)


def test_regions_of_another_size_and_starts_outside_are_refused() -> None:
    psf, camera = spline(), CAMERAS["sCMOS"]
    with pytest.raises(ValueError, match="the PSF needs"):
        fit_emitters(np.zeros((3, 13, 13)), psf, camera, (0.0,), RANGE_NM)
    with pytest.raises(ValueError, match="z_starts_nm"):
        fit_emitters(np.zeros((3, 15, 15)), psf, camera, (700.0,), RANGE_NM)
