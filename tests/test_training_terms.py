"""Terms of training alone: what they are for perfect and for constant predictions, and that parts of a batch add up."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adaloc.config import TrainingConfig, TrainingTermsConfig
from adaloc.data.scaling import Scaling, measure_scaling
from adaloc.data.targets import BACKGROUND, PHOTONS, PROBABILITY
from adaloc.models.losses import ChannelLoss, make_loss
from adaloc.models.training_terms import SCALES_PX, TrainingTerms, focal, focal_reference, make_terms, smoothed
from adaloc.training.adversary import Adversary, render

CPU = torch.device("cpu")
PRIOR, MEAN_PHOTONS, STD_PHOTONS = 0.02, 1000.0, 300.0


def scaling() -> Scaling:
    rng = np.random.default_rng(0)
    columns = [rng.uniform(-0.5, 0.5, 2000), rng.uniform(-0.5, 0.5, 2000), rng.uniform(-500, 500, 2000)]
    photons = rng.normal(size=2000)
    photons = MEAN_PHOTONS + STD_PHOTONS * (photons - photons.mean()) / photons.std()
    return measure_scaling(
        input_mean=20.0, input_std=5.0, num_pixels=round(2000 / PRIOR),
        columns=(*columns, photons, rng.normal(100, 10, 50)),
    )  # fmt: skip


def loss_of(pos_weight: float = 1.0) -> ChannelLoss:
    config = TrainingConfig.model_validate({"unified_loss_config": {"pos_weight": pos_weight}})
    return make_loss(config, scaling())


def terms_of(pos_weight: float = 1.0, **config: float) -> TrainingTerms:
    return make_terms(TrainingTermsConfig.model_validate(config), loss_of(pos_weight))


def targets_of(num: int, side: int = 32, prior: float = PRIOR, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.zeros(num, 6, side, side)
    targets[:, PROBABILITY] = (torch.rand(num, side, side, generator=generator) < prior).float()
    for channel, (mean, std) in {1: (0, 0.3), 2: (0, 0.3), 3: (0, 300), 4: (MEAN_PHOTONS, STD_PHOTONS)}.items():
        values = mean + std * torch.randn(num, side, side, generator=generator)
        targets[:, channel] = values * targets[:, PROBABILITY]
    targets[:, BACKGROUND] = 100.0
    return targets


def perfect_outputs(targets: torch.Tensor, sure: float = 40.0) -> torch.Tensor:
    outputs = scaling().scale_targets(targets)
    return torch.cat([(2 * targets[:, :1] - 1) * sure, outputs[:, 1:]], dim=1)


def value(terms: TrainingTerms, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(terms(outputs, targets, terms.loss.counts(targets)))


def test_without_options_there_are_no_terms_and_focal_loss_without_a_power_is_cross_entropy() -> None:
    assert not terms_of().is_on
    logit, label = torch.randn(50, dtype=torch.float64) * 5, torch.rand(50, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(
        logit, label, pos_weight=torch.tensor(3.0, dtype=torch.float64), reduction="none"
    )
    torch.testing.assert_close(focal(logit, label, 0.0, 3.0), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_the_papers_formula(gamma: float) -> None:
    logit = torch.linspace(-6, 6, 41, dtype=torch.float64)
    p = logit.sigmoid()
    torch.testing.assert_close(focal(logit, torch.ones_like(p), gamma, 1.0), -((1 - p) ** gamma) * p.log())
    torch.testing.assert_close(focal(logit, torch.zeros_like(p), gamma, 1.0), -(p**gamma) * (1 - p).log())


@pytest.mark.parametrize(("gamma", "pos_weight"), [(0.0, 1.0), (2.0, 1.0), (2.0, 10.0)])
def test_the_reference_is_the_least_loss_of_any_constant(gamma: float, pos_weight: float) -> None:
    logits = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    ones = torch.ones_like(logits)
    means = PRIOR * focal(logits, ones, gamma, pos_weight) + (1 - PRIOR) * focal(logits, 0 * ones, gamma, pos_weight)
    assert focal_reference(PRIOR, gamma, pos_weight) == pytest.approx(float(means.min()), rel=1e-4)
    if gamma == 0:
        assert focal_reference(PRIOR, 0.0, pos_weight) == pytest.approx(loss_of(pos_weight).references[0], rel=1e-6)


def test_smoothing_keeps_the_mean_and_what_knowing_nothing_costs() -> None:
    label = torch.zeros(1000)
    label[: round(1000 * PRIOR)] = 1
    assert float(smoothed(label, PRIOR, 0.1).mean()) == pytest.approx(PRIOR, rel=1e-5)
    targets = torch.zeros(1, 6, 50, 50)
    targets[:, PROBABILITY].view(-1)[: round(2500 * PRIOR)] = 1
    outputs = torch.zeros(1, 6, 50, 50)
    outputs[:, PROBABILITY] = math.log(PRIOR / (1 - PRIOR))
    assert value(terms_of(label_smoothing=0.1), outputs, targets) == pytest.approx(0.0, abs=1e-5)


def test_what_is_minimised_has_the_gradient_of_the_smoothed_cross_entropy() -> None:
    terms, targets = terms_of(label_smoothing=0.1), targets_of(2)
    outputs = torch.randn(targets.shape).requires_grad_()
    sums = terms.loss.sums(outputs, targets)
    (terms.loss.objective(sums) + terms(outputs, targets, sums.count_K)).backward()
    assert outputs.grad is not None
    p, smooth = outputs.detach()[:, 0].sigmoid(), smoothed(targets[:, 0], PRIOR, 0.1)
    expected = (p - smooth) / targets[:, 0].numel() / terms.loss.references[0]
    torch.testing.assert_close(outputs.grad[:, 0], expected, rtol=1e-4, atol=1e-8)


def test_coarse_errors_are_0_for_the_truth_and_1_for_knowing_nothing() -> None:
    terms, targets = terms_of(multi_scale_weight=1.0), targets_of(200)
    assert value(terms, perfect_outputs(targets), targets) == pytest.approx(0.0, abs=1e-6)
    nothing = torch.zeros_like(targets)
    nothing[:, PROBABILITY] = math.log(PRIOR / (1 - PRIOR))
    assert value(terms, nothing, targets) == pytest.approx(1.0, rel=0.05)


def test_an_emitter_in_the_wrong_pixel_of_the_right_square_costs_nothing_and_one_too_many_does() -> None:
    terms = terms_of(multi_scale_weight=1.0)
    targets = torch.zeros(1, 6, 16, 16)
    targets[0, PROBABILITY, 4, 4], targets[0, PHOTONS, 4, 4] = 1.0, MEAN_PHOTONS
    moved = torch.zeros_like(targets)
    moved[0, :, 5, 5] = targets[0, :, 4, 4]
    assert value(terms, perfect_outputs(moved), targets) == pytest.approx(0.0, abs=1e-6)
    added = targets.clone()
    added[0, :, 12, 12] = targets[0, :, 4, 4]
    counts = [1 / (PRIOR * (1 - PRIOR))] * len(SCALES_PX)
    light = [1 / (PRIOR * (1 + (STD_PHOTONS / MEAN_PHOTONS) ** 2) - PRIOR**2)] * len(SCALES_PX)
    expected = sum(counts + light) / (2 * len(SCALES_PX)) / 256
    assert value(terms, perfect_outputs(added), targets) == pytest.approx(expected, rel=1e-3)


ALL = {"focal_gamma": 2.0, "label_smoothing": 0.1, "multi_scale_weight": 0.5}


def test_parts_of_a_batch_add_up() -> None:
    terms, targets = terms_of(**ALL), targets_of(5, side=20)
    outputs, count_K = torch.randn(targets.shape), terms.loss.counts(targets)
    whole = float(terms(outputs, targets, count_K))
    parts = sum(float(terms(outputs[part], targets[part], count_K)) for part in (slice(0, 2), slice(2, 2), slice(2, 5)))
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("prior", [0.0, 1.0], ids=["empty", "an emitter in every pixel"])
def test_empty_and_crowded_frames_of_extreme_bfloat16_outputs_stay_finite(prior: float) -> None:
    terms, targets = terms_of(**ALL), targets_of(2, side=17, prior=prior)
    outputs = (200 * torch.randn(targets.shape)).bfloat16().requires_grad_()
    adversary = Adversary(0.1, scaling(), 0, CPU)
    count_K = terms.loss.counts(targets)
    total = terms(outputs, targets, count_K) + adversary.deceive(outputs, targets, count_K)
    assert total.dtype == torch.float32
    total.backward()
    assert total.isfinite()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_a_perfect_prediction_is_drawn_as_the_truth_and_an_emitter_where_it_is() -> None:
    targets = targets_of(3)
    adversary = Adversary(1.0, scaling(), 0, CPU)
    predicted, truth = adversary.rendered(perfect_outputs(targets), targets)
    torch.testing.assert_close(predicted, truth, rtol=1e-3, atol=1e-3)
    zero = torch.zeros(1, 15, 15)
    p, x, y = (zero.clone() for _ in range(3))
    p[0, 7, 6], x[0, 7, 6], y[0, 7, 6] = 1.0, 0.2, -0.3
    picture = render(p, x, y, zero + 1, zero)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(15.0), torch.arange(15.0), indexing="ij")
    # Drawn as far as 2 px, so that the centre is a little nearer to the pixel's.
    assert float((picture * columns).sum() / picture.sum()) == pytest.approx(6.2, abs=0.05)
    assert float((picture * rows).sum() / picture.sum()) == pytest.approx(6.7, abs=0.07)


def test_the_discriminator_learns_and_its_gradient_is_bounded() -> None:
    """Predictions that see every emitter twice are told from truth; the term then asks for fewer of them."""
    adversary = Adversary(1.0, scaling(), 0, CPU)
    terms = terms_of()
    for step in range(150):
        targets = targets_of(8, side=16, prior=0.05, seed=step)
        outputs = perfect_outputs(targets, sure=3.0).requires_grad_()
        adversary.optimizer.zero_grad()
        term = adversary.deceive(outputs, targets, terms.loss.counts(targets))
        (gradient,) = torch.autograd.grad(term, outputs)
        adversary.step()
        assert gradient.abs().max() < 0.1
    predicted, truth = adversary.rendered(outputs.detach(), targets)
    with torch.no_grad():
        assert adversary.network(truth).mean() > adversary.network(predicted).mean() + 0.1
    assert all(parameter.requires_grad for parameter in adversary.network.parameters())


def test_the_adversarial_term_leaves_the_discriminators_gradient_to_its_own_loss() -> None:
    adversary, terms, targets = Adversary(1.0, scaling(), 0, CPU), terms_of(), targets_of(2)
    outputs = torch.randn(targets.shape).requires_grad_()
    term = adversary.deceive(outputs, targets, terms.loss.counts(targets))
    before = [p.grad.clone() for p in adversary.network.parameters() if p.grad is not None]
    assert before
    term.backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(before, adversary.network.parameters(), strict=True))  # type: ignore[arg-type]
