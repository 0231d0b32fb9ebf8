"""The vectorial pupil: laws, its scalar limit, and an independent implementation."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adaloc.config import OpticsConfig, PixelSize, PupilPSFConfig, SimulationConfig
from adaloc.simulation.psf import make_psf
from adaloc.simulation.pupil import ScalarPupilPSF, clear_magnitudes
from adaloc.simulation.vectorial import VectorialPupilPSF, dipole_fields
from adaloc.simulation.zernike import NUM_MODES

Z_NM = np.array([-800.0, -400.0, 0.0, 400.0, 800.0])


def square_optics(numerical_aperture: float, index: float = 1.518) -> OpticsConfig:
    return OpticsConfig(
        wavelength_nm=660, numerical_aperture=numerical_aperture, refractive_index=index,
        pixel_size_nm=PixelSize(x=100, y=100),
    )  # fmt: skip


def through_focus(psf: ScalarPupilPSF | VectorialPupilPSF, z_nm: np.ndarray = Z_NM) -> np.ndarray:
    zero = torch.zeros(len(z_nm))
    return psf.images(zero, zero, torch.from_numpy(z_nm).float()).double().numpy()


def largest_difference_over_peak(ours: np.ndarray, reference: np.ndarray) -> float:
    ours, reference = ours / ours[2].sum(), reference / reference[2].sum()
    return float((np.abs(ours - reference).max((1, 2)) / reference.max((1, 2))).max())


LAYERED = {
    "oil": VectorialPupilPSF(OpticsConfig(), 33, 48),
    "water, far from the slip": VectorialPupilPSF(OpticsConfig(), 33, 48, sample_index=1.33, focus_depth_nm=1000),
    "water, evanescent": VectorialPupilPSF(square_optics(1.49), 33, 48, sample_index=1.33, defocus="stage"),
}


@pytest.mark.parametrize("psf", LAYERED.values(), ids=LAYERED.keys())
class TestLaws:
    def test_shares_are_not_negative_and_sum_to_at_most_one(self, psf: VectorialPupilPSF) -> None:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.rand(2, 24, generator=generator) - 0.5
        z = torch.rand(24, generator=generator) * 1600 - 800
        phase = torch.randn(24, NUM_MODES, generator=generator) * 0.1
        images = psf.images(x, y, z, phase)
        assert images.min() >= 0
        assert images.sum((1, 2)).max() <= 1 + 1e-5
        assert images.sum((1, 2)).min() > 0.6

    def test_an_isotropic_dipole_without_aberrations_looks_the_same_from_all_sides(
        self, psf: VectorialPupilPSF
    ) -> None:
        centred = VectorialPupilPSF(
            square_optics(1.45), 25, 48, sample_index=psf._sample_index,
            defocus="depth" if psf._by_depth else "stage", focus_depth_nm=psf._focus_depth_nm,
        )  # fmt: skip
        images = through_focus(centred)
        np.testing.assert_allclose(images, np.rot90(images, axes=(1, 2)), atol=2e-6)
        # A turn by 45 degrees is no symmetry of the pixels, but of the light: compare pixels at equal distances.
        np.testing.assert_allclose(images[:, 12, 17], images[:, 12 - 3, 12 + 4], atol=0.02 * images.max())

    def test_gradients_equal_finite_differences(self, psf: VectorialPupilPSF) -> None:
        x, y, z = torch.tensor([0.2]), torch.tensor([-0.1]), torch.tensor([150.0])
        weight = torch.rand(33, 33, generator=torch.Generator().manual_seed(1))

        def value(*position: torch.Tensor) -> torch.Tensor:
            return (psf.images(*position)[0] * weight).sum().double()

        variables = [v.clone().requires_grad_() for v in (x, y, z)]
        gradients = torch.autograd.grad(value(*variables), variables)
        for k, step in enumerate((0.02, 0.02, 5.0)):
            up, down = [x, y, z], [x, y, z]
            up[k], down[k] = up[k] + step, down[k] - step
            numeric = (value(*up) - value(*down)) / (2 * step)
            torch.testing.assert_close(gradients[k].double()[0], numeric, atol=2e-3 / max(step, 1), rtol=0.03)


def test_at_low_aperture_it_is_the_scalar_psf() -> None:
    """The difference falls with the square of the aperture, and is small at 0.2."""
    differences = []
    for numerical_aperture in (0.4, 0.2):
        optics = square_optics(numerical_aperture)
        vectorial = through_focus(VectorialPupilPSF(optics, 33, 48))
        scalar = through_focus(ScalarPupilPSF(optics, 33, 48, aplanatic=True))
        differences.append(largest_difference_over_peak(vectorial, scalar))
    assert differences[1] < 0.006
    assert differences[0] / differences[1] == pytest.approx(4, rel=0.3)


def test_at_high_aperture_it_is_not() -> None:
    optics = square_optics(1.4)
    vectorial, scalar = VectorialPupilPSF(optics, 33, 48), ScalarPupilPSF(optics, 33, 48, aplanatic=True)
    assert largest_difference_over_peak(through_focus(vectorial), through_focus(scalar)) > 0.2


@pytest.mark.parametrize(
    ("numerical_aperture", "sample_index", "tolerance"),
    [(0.9, 1.518, 0.002), (1.2, 1.518, 0.003), (1.4, 1.518, 0.004), (1.2, 1.33, 0.003), (1.4, 1.33, 0.012)],
)
def test_it_agrees_with_psfmodels(numerical_aperture: float, sample_index: float, tolerance: float) -> None:
    """psfmodels' vectorial integral (Aguet et al. 2009): the same physics by another method; its z runs the other way.

    At NA 1.4 in water light beyond the critical angle reaches the objective.
    """
    psfmodels = pytest.importorskip("psfmodels", reason="psfmodels is not installed")
    oil = dict.fromkeys(("ng0", "ng", "ni0", "ni"), 1.518)
    reference = psfmodels.vectorial_psf(
        zv=-Z_NM / 1000, nx=33, dxy=0.1, pz=0, wvl=0.66, normalize=False,
        params={"NA": numerical_aperture, "sf": 7, "ns": sample_index, **oil},
    )  # fmt: skip
    psf = VectorialPupilPSF(square_optics(numerical_aperture), 33, 96, sample_index=sample_index, defocus="stage")
    assert largest_difference_over_peak(through_focus(psf), reference) < tolerance


def test_energy_passes_the_layers_as_fresnel_says() -> None:
    """At normal incidence the intensity that passes is the product of 4 n1 n2 / (n1 + n2)^2, over n of the sample.

    A dipole's field in the sample has the wave expansion 1 / (n cos), and energy flow the factor n.
    """
    optics = square_optics(1.2)
    zero = np.zeros(1)
    reference = dipole_fields(optics, 1.518, 1.518, zero, zero)[0, 0]
    field = dipole_fields(optics, 1.33, 1.6, zero, zero)[0, 0]
    passed = 4 * 1.33 * 1.6 / (1.33 + 1.6) ** 2 * 4 * 1.6 * 1.518 / (1.6 + 1.518) ** 2
    # |t|^2 n2 / n1 passes; the expansion has 1/n of each sample.
    assert abs(field / reference) ** 2 == pytest.approx(passed * (1.518 / 1.33), rel=1e-9)


def test_depth_and_stage_are_the_same_without_a_step_of_the_index() -> None:
    by_depth, by_stage = (
        VectorialPupilPSF(OpticsConfig(), 25, 40, defocus=how)
        for how in ("depth", "stage")  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(through_focus(by_depth), through_focus(by_stage), atol=1e-7)


def test_in_water_the_image_defocuses_by_more_than_the_stage_moves() -> None:
    """Focal shift: near the axis an emitter at depth z in water is imaged as one at z n_oil / n_water."""
    optics = square_optics(0.3)
    by_depth = VectorialPupilPSF(optics, 33, 40, sample_index=1.33, defocus="depth")
    by_stage = VectorialPupilPSF(optics, 33, 40, sample_index=1.33, defocus="stage")
    z = np.array([1000.0, 3000.0, 0.0])
    np.testing.assert_allclose(
        through_focus(by_depth, z), through_focus(by_stage, z * 1.518 / 1.33), rtol=0.01, atol=1e-6
    )


def test_the_focus_lies_at_the_chosen_depth() -> None:
    psf = VectorialPupilPSF(square_optics(1.2), 25, 64, sample_index=1.33, focus_depth_nm=3000)
    z = np.arange(-600.0, 601.0, 50.0)
    sharpness = through_focus(psf, z).max((1, 2))
    assert abs(z[sharpness.argmax()]) <= 150


def test_evanescent_light_fades_with_the_height_above_the_slip() -> None:
    """The share beyond the critical angle falls, so that the image loses the fine detail that it carries."""
    optics = square_optics(1.49)
    psf = VectorialPupilPSF(optics, 33, 64, sample_index=1.33)
    beyond = psf._decay_per_nm_P
    assert beyond is not None
    heights = torch.tensor([0.0, 200.0, 1000.0])
    power = psf._power_P * (-2 * heights[:, None] * beyond).exp()
    share = power[:, beyond > 0].sum(1) / power.sum(1)
    assert share[0] > 0.3
    assert share[0] > 2 * share[1] > 4 * share[2]
    below = psf.images(torch.zeros(1), torch.zeros(1), torch.tensor([-500.0]))
    assert torch.isfinite(below).all()
    assert below.sum() <= 1 + 1e-5


@pytest.mark.parametrize("psf", [ScalarPupilPSF(OpticsConfig(), 33), VectorialPupilPSF(OpticsConfig(), 33)])
def test_a_blur_adds_its_variance(psf: ScalarPupilPSF | VectorialPupilPSF) -> None:
    zero = torch.zeros(1)
    sharp, blurred = (psf.images(zero, zero, zero, blur_nm=torch.tensor(s))[0].double() for s in (1e-3, 90.0))
    torch.testing.assert_close(sharp, psf.images(zero, zero, zero)[0].double(), atol=1e-6, rtol=1e-4)
    nm = (torch.arange(33).double() - 16) * OpticsConfig().pixel_size_nm.x
    profile = (-nm.square() / 2 / 90.0**2).exp()
    along_x = torch.nn.functional.conv1d(sharp.sum(0)[None, None], (profile / profile.sum())[None, None], padding=16)
    torch.testing.assert_close(blurred.sum(0)[4:-4], along_x[0, 0, 4:-4], atol=2e-4, rtol=2e-3)


def test_a_blur_brings_in_light_from_around_the_region() -> None:
    """A small region of a defocused, blurred spot is the middle of a large one, up to its very edge."""
    small, large = (ScalarPupilPSF(OpticsConfig(), size, 64, blur_nm=120) for size in (11, 21))
    zero = torch.zeros(1)
    inner = large.images(zero, zero, zero + 900)[0, 5:-5, 5:-5]
    torch.testing.assert_close(small.images(zero, zero, zero + 900)[0], inner, atol=2e-5, rtol=0.01)


def test_a_config_makes_it_and_the_default_stays_scalar() -> None:
    assert isinstance(make_psf(PupilPSFConfig(), OpticsConfig()), ScalarPupilPSF)
    config = PupilPSFConfig(model="vectorial", sample_index=1.33, focus_depth_nm=900)
    psf = make_psf(config, OpticsConfig())
    assert isinstance(psf, VectorialPupilPSF)
    clear = torch.from_numpy(clear_magnitudes(1))
    zero = torch.zeros(1)
    torch.testing.assert_close(psf.images(zero, zero, zero, None, clear), psf.images(zero, zero, zero))


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"sample_index": 1.33}, 'set model to "vectorial"'),
        ({"model": "vectorial", "aplanatic": True}, "always is"),
        ({"model": "vectorial", "sample_index": 1.33}, "below the cover slip"),
        ({"model": "vectorial", "cover_slip_index": 1.35}, "cover_slip_index"),
        ({"calibration": "psf.h5", "blur_nm": 20}, "blur_nm: the file in calibration says this"),
    ],
)
def test_keys_that_would_do_nothing_or_harm_are_refused(keys: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SimulationConfig.model_validate({"psf": {"type": "pupil", **keys}})
