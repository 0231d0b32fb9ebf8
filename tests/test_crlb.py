"""The bounds against closed forms, finite differences, and a fit that reaches them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from adaloc.config import CameraConfig, GaussianPSFConfig, OpticsConfig, PixelSize, PupilPSFConfig
from adaloc.emitters import EmitterTable
from adaloc.simulation.camera import expose
from adaloc.simulation.crlb import (
    JointInformation,
    Window,
    covariance,
    covariance_with_prior,
    electron_statistics,
    joint_information,
    share_with_derivatives,
    single_emitter_information,
)
from adaloc.simulation.frames import draw_emitters
from adaloc.simulation.psf import PSF, make_psf
from adaloc.simulation.pupil import ScalarPupilPSF
from adaloc.simulation.zernike import NUM_MODES

OPTICS = OpticsConfig()
PERFECT = CameraConfig(quantum_efficiency=1, read_noise_e=0)
SCMOS = CameraConfig(quantum_efficiency=0.8, read_noise_e=2)
ASTIGMATIC = GaussianPSFConfig(
    type="gaussian", sigma_x_nm=140, sigma_y_nm=135, focus_x_nm=-205, focus_y_nm=205, depth_nm=290, cubic_x=0.05
)
PUPIL = make_psf(PupilPSFConfig(), OPTICS)
PSFS = {"pupil": PUPIL, "gaussian": make_psf(ASTIGMATIC, OPTICS)}
Columns = tuple[np.ndarray[Any, Any], ...]


def emitters(num: int, seed: int = 0) -> tuple[Columns, np.ndarray[Any, Any]]:
    """x, y, z of emitters all over the pixel and the depth, and aberrations."""
    rng = np.random.default_rng(seed)
    phase = rng.normal(0, 0.1, (num, NUM_MODES))
    phase[:, :4] = 0
    phase[:, 5] += 0.67
    return (rng.uniform(-0.5, 0.5, num), rng.uniform(-0.5, 0.5, num), rng.uniform(-600, 600, num)), phase


def round_spot(sigma_nm: float, pixel_nm: float, roi_size_px: int = 65) -> PSF:
    """A Gaussian that does not depend on z."""
    optics = OpticsConfig(pixel_size_nm=PixelSize(x=pixel_nm, y=pixel_nm))
    config = GaussianPSFConfig(type="gaussian", roi_size_px=roi_size_px, sigma_x_nm=sigma_nm, sigma_y_nm=sigma_nm)
    return make_psf(config, optics)


def without_z(information: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    keep = [0, 1, 3, 4]
    return information[..., keep, :][..., keep]


def in_double(psf: PSF) -> PSF:
    """A pupil PSF that computes in float64, as the reference of the differences."""
    assert isinstance(psf, ScalarPupilPSF)
    for name, value in vars(psf).items():
        if isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.complex64):
            setattr(psf, name, value.to(torch.complex128 if value.is_complex() else torch.float64))
    return psf


# Derivatives


@pytest.mark.parametrize("name", PSFS)
def test_derivatives_are_the_limit_of_differences(name: str) -> None:
    """Central differences in float64 approach them with the square of the step."""
    psf = PSFS[name]
    position, phase = emitters(6)
    share, *slopes = share_with_derivatives(psf, *position, phase)
    exact = in_double(make_psf(PupilPSFConfig(), OPTICS)) if name == "pupil" else psf

    def images(axis: int, step: float) -> np.ndarray[Any, Any]:
        moved = [torch.from_numpy(v + step * (i == axis)) for i, v in enumerate(position)]
        return exact.images(*moved, torch.from_numpy(phase)).numpy()  # type: ignore[no-any-return]

    np.testing.assert_allclose(share, images(0, 0.0), atol=1e-6)
    for axis, (slope, step) in enumerate(zip(slopes, (0.08, 0.08, 40.0), strict=True)):
        errors = [
            np.abs((images(axis, h) - images(axis, -h)) / (2 * h) - slope).max() / np.abs(slope).max()
            for h in (step, step / 2, step / 64)
        ]
        assert errors[1] < 0.3 * errors[0]
        assert errors[2] < 2e-4


def test_no_emitters_have_no_images() -> None:
    none = np.empty(0)
    assert share_with_derivatives(PUPIL, none, none, none).shape == (4, 0, 33, 33)


# One emitter: closed forms


@pytest.mark.parametrize("photons", [100.0, 4000.0])
def test_without_background_a_spot_is_located_to_sigma_over_root_n(photons: float) -> None:
    """Fine pixels: sigma / sqrt(N), and the photons are known to sqrt(N)."""
    psf = round_spot(sigma_nm=130, pixel_nm=26)
    zero = np.zeros(1)
    information = single_emitter_information(psf, PERFECT, zero + 0.2, zero - 0.3, zero, zero + photons, zero)
    bound = covariance(information[0][np.ix_([0, 1, 3], [0, 1, 3])])
    # The mean of a Gaussian over a pixel loses 1 part in sigma_px^2 / 12 of the sharpness.
    np.testing.assert_allclose(np.sqrt(np.diagonal(bound)[:2]), 5 / math.sqrt(photons), rtol=3e-3)
    assert math.sqrt(bound[2, 2]) == pytest.approx(math.sqrt(photons), rel=1e-4)


@pytest.mark.parametrize("background", [0.5, 5.0, 50.0])
def test_with_background_it_is_the_integral_of_mortensen(background: float) -> None:
    """Mortensen et al. 2010, eq. 5: the bound of maximum likelihood with pixels of side a on a background of b^2."""
    sigma, pixel, photons = 130.0, 50.0, 2000.0
    zero = np.zeros(1)
    psf = round_spot(sigma, pixel)
    information = single_emitter_information(psf, PERFECT, zero, zero, zero, zero + photons, zero + background)
    t = (np.arange(200_000) + 0.5) / 200_000
    tau = 2 * math.pi * (sigma**2 + pixel**2 / 12) * background / (photons * pixel**2)
    integral = float((np.log(t) / (1 + t / tau)).mean())
    expected_nm = math.sqrt((sigma**2 + pixel**2 / 12) / photons / (1 + integral))
    found_nm = pixel * math.sqrt(covariance(without_z(information))[0, 0, 0])
    assert found_nm == pytest.approx(expected_nm, rel=0.01)


def test_the_bound_falls_with_light_and_rises_with_background_and_noise() -> None:
    position, phase = emitters(12)
    one = np.ones(12)

    def sigma(photons: float, background: float, camera: CameraConfig = SCMOS) -> np.ndarray[Any, Any]:
        information = single_emitter_information(PUPIL, camera, *position, photons * one, background * one, phase)
        return np.sqrt(np.diagonal(covariance(information), axis1=1, axis2=2))[:, :4]  # type: ignore[no-any-return]

    assert (sigma(2000, 50)[:, :3] < sigma(1000, 50)[:, :3]).all()  # photons scatter more, in photons
    assert (sigma(1000, 10) < sigma(1000, 50)).all()
    assert (sigma(1000, 50) < sigma(1000, 50, SCMOS.model_copy(update={"read_noise_e": 10}))).all()
    # Twice as much of everything, without read noise, is two looks; an EMCCD throws one of the two away.
    np.testing.assert_allclose(sigma(1000, 50, PERFECT)[:, :3], math.sqrt(2) * sigma(2000, 100, PERFECT)[:, :3])
    amplified = PERFECT.model_copy(update={"em_gain": 300.0})
    np.testing.assert_allclose(sigma(1000, 50, amplified), math.sqrt(2) * sigma(1000, 50, PERFECT))


def test_the_noise_is_that_of_the_simulated_camera() -> None:
    for camera in (
        SCMOS.model_copy(update={"gain_e_per_adu": 0.1}),
        SCMOS.model_copy(update={"em_gain": 200.0, "gain_e_per_adu": 1.0, "spurious_charge_e": 0.5}),
    ):
        photons = torch.full((200_000,), 30.0)
        adu = expose(photons, camera, torch.Generator().manual_seed(0)).double().numpy()
        electrons = (adu - camera.baseline_adu) * camera.gain_e_per_adu / camera.em_gain
        mean, variance = electron_statistics(np.array(30.0), camera)
        assert electrons.mean() == pytest.approx(float(mean), rel=0.002)
        # 200,000 draws give a variance to 0.3 to 0.6 %; the register's exact factor is 2 as simulated.
        assert electrons.var() == pytest.approx(float(variance), rel=0.02)


def test_what_no_light_tells_has_no_bound() -> None:
    zero = np.zeros(1)
    information = single_emitter_information(round_spot(130, 100), PERFECT, zero, zero, zero, zero + 100, zero + 1)
    with pytest.raises(ValueError, match="no influence on the image"):
        covariance(information)
    assert covariance(without_z(information)).shape == (1, 4, 4)


# Priors


def test_a_prior_never_hurts_and_rules_where_there_is_no_light() -> None:
    position, phase = emitters(8)
    one = np.ones(8)
    information = single_emitter_information(PUPIL, SCMOS, *position, 3000 * one, 50 * one, phase)
    prior = np.array([0.3, 0.3, 450.0, 3000.0, 10.0])
    for matrix in information:
        with_prior = np.diagonal(covariance_with_prior(matrix, prior))
        assert (with_prior < np.minimum(np.diagonal(covariance(matrix)), prior**2)).all()
        wide = np.diagonal(covariance_with_prior(matrix, 1e4 * prior))
        np.testing.assert_allclose(wide, np.diagonal(covariance(matrix)), rtol=1e-4)
        known = np.diagonal(covariance_with_prior(matrix, prior * [1, 1, 0, 1, 1]))
        assert known[2] == 0
        assert (known <= with_prior * (1 + 1e-9)).all()
    np.testing.assert_allclose(np.diagonal(covariance_with_prior(np.zeros((5, 5)), prior)), prior**2)


# All emitters of a window


def window(x: list[float], y: list[float], photons: list[list[float]], **changes: Any) -> Window:
    """Emitters with an astigmatic pupil at 100 nm, in a field of 60 x 64 px."""
    phase = np.zeros((len(x), NUM_MODES))
    phase[:, 5] = 0.67
    values: dict[str, Any] = {
        "x_M": np.array(x), "y_M": np.array(y), "z_M": np.full(len(x), 100.0), "photons_MT": np.array(photons),
        "background_T": np.full(len(photons[0]), 50.0), "size_px": (60, 64), "phase_MK": phase,
    }  # fmt: skip
    return Window(**{**values, **changes})


def sigmas(information: JointInformation) -> np.ndarray[Any, Any]:
    """(M, 3) bounds of x, y, z."""
    return np.sqrt(np.diagonal(covariance(information.matrix_PP))[information.position_M3])  # type: ignore[no-any-return]


def test_far_apart_emitters_are_single_ones() -> None:
    """Fields that the emitters' regions fill exactly, so that both see the same pixels."""
    x, y = [16.2, 49.4], [16.3, 15.8]
    scene = window(x, y, [[2000.0], [3000.0]], size_px=(33, 66))
    joint = joint_information(PUPIL, SCMOS, scene)
    offset = (np.array(x) - [16, 49], np.array(y) - 16, np.full(2, 100.0))
    photons, background = np.array([2000.0, 3000.0]), np.full(2, 50.0)
    alone = single_emitter_information(PUPIL, SCMOS, *offset, photons, background, scene.phase_MK)
    for emitter in range(2):
        of = [*joint.position_M3[emitter], joint.photons_MT[emitter, 0], joint.background_T[0]]
        np.testing.assert_allclose(joint.matrix_PP[np.ix_(of[:4], of[:4])], alone[emitter][:4, :4], rtol=1e-9)
        np.testing.assert_allclose(joint.matrix_PP[of[4], of[:4]], alone[emitter][4, :4], rtol=1e-6, atol=1e-9)
    assert joint.matrix_PP[joint.background_T[0], joint.background_T[0]] == pytest.approx(alone[:, 4, 4].sum())
    cross = joint.matrix_PP[np.ix_(joint.position_M3[0], joint.position_M3[1])]
    assert (cross == 0).all()
    np.testing.assert_array_equal(joint.matrix_PP, joint.matrix_PP.T)
    assert joint.expected_THW.sum() == pytest.approx(50 * 33 * 66 + 5000, rel=0.05)


def test_the_expectation_is_what_the_simulator_draws() -> None:
    scene = window([5.3, 30.7, 63.9], [58.2, 20.1, 30.0], [[500.0, 0, 900.0], [0, 2000.0, 100.0], [700.0, 700.0, 0]])
    emitter, frame = np.nonzero(scene.photons_MT)
    table = EmitterTable(
        frame, scene.x_M[emitter], scene.y_M[emitter], scene.z_M[emitter], scene.photons_MT[emitter, frame],
        emitter_id=emitter,
    ).sorted_by_frame()  # fmt: skip
    drawn = draw_emitters(PUPIL, table, scene.phase_MK, None, (3, 60, 64), torch.device("cpu")).numpy() + 50.0
    np.testing.assert_allclose(joint_information(PUPIL, SCMOS, scene).expected_THW, drawn, rtol=1e-5)


def test_the_matrix_is_the_sum_over_pixels_of_numerical_slopes() -> None:
    """The whole joint matrix of overlapping emitters against central differences of the expected frames."""
    scene = window([20.3, 24.1, -0.9], [20.1, 22.4, 30.0], [[900.0, 1500.0], [0, 2500.0], [4000.0, 300.0]])
    joint = joint_information(PUPIL, SCMOS, scene)
    slopes = np.zeros((len(joint.matrix_PP), joint.expected_THW.size))

    def difference(changed: Any, step: float) -> np.ndarray[Any, Any]:
        up, down = (joint_information(PUPIL, SCMOS, changed(sign * step)).expected_THW for sign in (1, -1))
        return ((up - down) / (2 * step)).ravel()  # type: ignore[no-any-return]

    def changed(name: str, index: Any) -> Any:
        def change(step: float) -> Window:
            array = getattr(scene, name).copy()
            array[index] += step
            return Window(**{**vars(scene), name: array})

        return change

    for emitter in range(3):
        for axis, (name, step) in enumerate((("x_M", 0.02), ("y_M", 0.02), ("z_M", 10.0))):
            slopes[joint.position_M3[emitter, axis]] = difference(changed(name, emitter), step)
        for frame in np.flatnonzero(scene.photons_MT[emitter]):
            slopes[joint.photons_MT[emitter, frame]] = difference(changed("photons_MT", (emitter, frame)), 10.0)
    for frame in range(2):
        slopes[joint.background_T[frame]] = difference(changed("background_T", frame), 1.0)
    _, variance = electron_statistics(joint.expected_THW.ravel(), SCMOS)
    expected = (slopes * SCMOS.quantum_efficiency**2 / variance) @ slopes.T
    scale = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)))
    np.testing.assert_allclose(joint.matrix_PP / scale, expected / scale, atol=2e-3)


def test_a_close_pair_is_worse_than_one_alone() -> None:
    alone = sigmas(joint_information(PUPIL, SCMOS, window([30.2], [30.1], [[2000.0]])))
    previous = alone[0]
    for distance in (12.0, 6.0, 3.0, 1.5):
        pair = sigmas(joint_information(PUPIL, SCMOS, window([30.2, 30.2 + distance], [30.1, 30.1], [[2000.0]] * 2)))
        assert (pair[0] > previous).all()
        previous = pair[0]
    assert previous[0] > 2 * alone[0, 0]  # along the line between them it is worst


def test_a_frame_without_the_neighbour_separates_the_pair() -> None:
    """What blinking does: the other frame, in which only one of two shines, helps both."""
    together = window([30.2, 31.9], [30.1, 30.1], [[2000.0], [2000.0]])
    blinking = window([30.2, 31.9], [30.1, 30.1], [[2000.0, 2000.0], [2000.0, 0.0]])
    before, after = (sigmas(joint_information(PUPIL, SCMOS, w)) for w in (together, blinking))
    assert (after < before).all()
    assert after[1, 0] < 0.8 * before[1, 0]  # the one that shines in one frame only gains from knowing the other


def test_light_outside_of_the_field_gives_nothing() -> None:
    x = [30.2, 5.2, -0.2, -6.2]
    bounds = [sigmas(joint_information(PUPIL, SCMOS, window([place], [30.1], [[2000.0]])))[0, 0] for place in x]
    assert bounds[0] < bounds[2] < bounds[3]
    far = joint_information(PUPIL, SCMOS, window([-40.0], [30.1], [[2000.0]]))
    assert (far.matrix_PP[:4] == 0).all()
    assert (far.expected_THW == 50).all()


def test_a_fit_reaches_the_bound() -> None:
    """Maximum likelihood on 300 noisy images of one emitter scatters as the bound says, and no less."""
    truth = np.array([0.21, -0.34, 180.0, 3000.0, 40.0])
    phase = np.zeros((1, NUM_MODES))
    phase[0, 5] = 0.67
    psf = make_psf(PupilPSFConfig(roi_size_px=15), OPTICS)

    def model(p_N5: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Expected electrons (N, 225) and their slopes (N, 225, 5)."""
        x, y, z, photons, background = p_N5.T
        phases = np.repeat(phase, len(p_N5), axis=0)
        share, *slopes = share_with_derivatives(psf, x, y, z, phases).reshape(4, len(p_N5), -1)
        columns = [*(photons[:, None] * s for s in slopes), share, np.ones_like(share)]
        return photons[:, None] * share + background[:, None], np.stack(columns, axis=2)

    rng = np.random.default_rng(5)
    counts = rng.poisson(model(truth[None])[0], (300, 225))
    found = truth + rng.normal(0, [0.1, 0.1, 40, 200, 2], (300, 5))
    for _ in range(6):  # Fisher scoring: Newton's steps with the expected curvature
        mean, slopes = model(found)
        information = (slopes / mean[..., None]).transpose(0, 2, 1) @ slopes
        score = (slopes * (counts / mean - 1)[..., None]).sum(axis=1)
        found = found + np.linalg.solve(information, score[..., None])[..., 0]
    one = [v[None] for v in truth]
    bound = np.diagonal(covariance(single_emitter_information(psf, PERFECT, *one, phase))[0])
    # The variance of 300 draws is known to 8 %; 3.5 of that for five parameters.
    np.testing.assert_allclose(np.var(found, axis=0) / bound, 1, atol=0.29)
    np.testing.assert_allclose((np.mean(found, axis=0) - truth) / np.sqrt(bound / 300), 0, atol=3.5)
