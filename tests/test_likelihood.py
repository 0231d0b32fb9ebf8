"""The mixture's likelihood equals torch's own, is proper, and stays finite; sigmas reach the table."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import distributions

from adaloc.config import TrainingConfig
from adaloc.data.scaling import Scaling
from adaloc.data.targets import SIGMAS, EmitterRows, encode_targets
from adaloc.errors import CheckpointError
from adaloc.integrity_check import load_data
from adaloc.localize.candidates import find_localizations
from adaloc.localize.inference import localize_frames
from adaloc.models.likelihood import mean_of_neighbours, mixture_nats
from adaloc.models.losses import make_loss
from adaloc.models.model_file import load_model, make_model, save_model
from adaloc.training.probes import overfit_fresh
from adaloc.training.run import setup
from adaloc.training.trainer import Hooks, fit
from small import small_config, small_data

SCALING = Scaling(
    input_mean=0.0, input_std=1.0, prior=0.05,
    mean=(0.02, -0.01, 50.0, 3000.0, 90.0), std=(0.3, 0.28, 400.0, 2000.0, 10.0),
    median=(0.0,) * 5, mean_deviation=(0.2, 0.2, 300.0, 1500.0, 8.0),
)  # fmt: skip
MIXTURE = TrainingConfig(loss_type="gaussian_mixture")


def batch(num_emitters: int, size: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random outputs and targets in network units, two frames."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(2 * size * size)[:num_emitters]
    frame, row, column = np.unravel_index(place, (2, size, size))
    columns = (
        column + rng.uniform(-0.5, 0.5, num_emitters), row + rng.uniform(-0.5, 0.5, num_emitters),
        rng.uniform(-600, 600, num_emitters), rng.uniform(500, 6000, num_emitters),
    )  # fmt: skip
    emitters = EmitterRows(torch.from_numpy(frame), *(torch.from_numpy(c).float() for c in columns))
    targets = encode_targets(emitters, torch.tensor([80.0, 100.0]), (size, size), 0.0)
    outputs = torch.randn(2, 10, size, size, generator=torch.Generator().manual_seed(seed))
    return outputs, targets


def test_the_mixture_is_that_of_torch_distributions() -> None:
    """An independent composition; its pixels beyond the reach are given no weight, as they have none in ours."""
    outputs, targets = batch(num_emitters=9)
    outputs[:, 0] -= 1.0
    ours = float(mixture_nats(outputs, SCALING.scale_targets(targets), SCALING))
    expected = 0.0
    physical = SCALING.to_physical(outputs)
    size = outputs.shape[-1]
    rows, columns = (grid.flatten() for grid in torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    for b in range(2):
        p = physical[b, 0].flatten()
        mean = torch.stack([columns + physical[b, 1].flatten(), rows + physical[b, 2].flatten(),
                            physical[b, 3].flatten(), physical[b, 4].flatten()], dim=1)  # fmt: skip
        sigma = physical[b, SIGMAS].flatten(1).T
        emitters = torch.nonzero(targets[b, 0])
        count = distributions.Normal(p.sum(), ((p * (1 - p)).sum() + 1 / 12).sqrt())
        expected -= len(emitters) * float(count.log_prob(torch.tensor(float(len(emitters)))))
        for r, c in emitters.tolist():
            near = ((rows - r).abs() <= 1) & ((columns - c).abs() <= 1)
            components = distributions.Independent(distributions.Normal(mean[near], sigma[near]), 1)
            mixture = distributions.MixtureSameFamily(distributions.Categorical(p[near] / p[near].sum()), components)
            x, y, z, photons = targets[b, 1:5, r, c].tolist()
            log_density = mixture.log_prob(torch.tensor([c + x, r + y, z, photons])) + (p[near].sum() / p.sum()).log()
            # A density per px, px, nm, photon is one per network unit divided by the units.
            expected -= float(log_density) + math.fsum(math.log(u) for u in SCALING.unit()[:4])
    assert ours == pytest.approx(expected, rel=1e-4)


def test_the_likelihood_is_largest_at_the_true_position_spread_and_number() -> None:
    """A network that knows emitters up to normal errors scores best when it says so."""
    rng = np.random.default_rng(1)
    _, targets = batch(num_emitters=30, size=24, seed=2)
    scaled = SCALING.scale_targets(targets)
    outputs = torch.zeros(2, 10, 24, 24)
    outputs[:, 0] = torch.where(targets[:, 0] == 1, 8.0, -14.0)
    error = torch.from_numpy(rng.normal(scale=0.1, size=(2, 4, 24, 24))).float()
    outputs[:, 1:5] = scaled[:, 1:5] + error
    raw = math.log(math.expm1(0.1 - 0.003))
    outputs[:, SIGMAS] = raw
    best = float(mixture_nats(outputs, scaled, SCALING))
    for change in (
        {"sigma": 0.5}, {"sigma": -0.4}, {"shift": 0.05}, {"logit": -7.5}, {"extra": 5},
    ):  # fmt: skip
        other = outputs.clone()
        other[:, SIGMAS] += change.get("sigma", 0.0)
        other[:, 1:3] += change.get("shift", 0.0)
        other[:, 0] += change.get("logit", 0.0) * (targets[:, 0] == 1)
        for n in range(int(change.get("extra", 0))):  # emitters that are not there
            free = torch.nonzero(targets[0, 0] == 0)[n * 40]
            other[0, 0, free[0], free[1]] = 8.0
        assert float(mixture_nats(other, scaled, SCALING)) > best + 0.5, change


def test_an_emitter_may_be_explained_by_the_pixel_beside_it() -> None:
    emitters = EmitterRows(torch.zeros(1, dtype=torch.long), *(torch.tensor([v]) for v in (3.49, 3.0, 0.0, 900.0)))
    targets = encode_targets(emitters, torch.tensor([80.0]), (8, 8), 0.0)
    scaled = SCALING.scale_targets(targets)
    nats = []
    for column, offset in ((3, 0.49), (4, -0.51)):
        outputs = torch.zeros(1, 10, 8, 8)
        outputs[0, 0] = -12
        outputs[0, 0, 3, column] = 8.0
        outputs[0, 1:5, 3, column] = scaled[0, 1:5, 3, 3]
        outputs[0, 1, 3, column] = (offset - SCALING.mean[0]) / SCALING.std[0]
        nats.append(float(mixture_nats(outputs, scaled, SCALING)))
        # Judged by the six channels it is no error either.
        six = mean_of_neighbours(outputs, targets[:, 0], SCALING)
        torch.testing.assert_close(six[0, 1:5, 3, 3], scaled[0, 1:5, 3, 3], atol=1e-3, rtol=0)
    assert nats[0] == pytest.approx(nats[1], abs=1e-3)


@pytest.mark.parametrize("num", [0, 1, 500])
@pytest.mark.parametrize("logit", [-100.0, -9.0, 0.0, 100.0])
def test_empty_and_crowded_frames_and_sure_networks_have_finite_gradients(num: int, logit: float) -> None:
    _, targets = batch(num, size=24)
    outputs = torch.randn(2, 10, 24, 24)
    outputs[:, 0] += logit
    outputs.requires_grad_()
    for training in (MIXTURE, TrainingConfig(mixture_weight=0.1)):
        loss = make_loss(training, SCALING)
        value = loss.objective(loss.sums(outputs, targets))
        (gradient,) = torch.autograd.grad(value, outputs)
        assert value.isfinite()
        assert gradient.isfinite().all()


def test_an_empty_frame_rewards_no_network_without_end() -> None:
    """The density of a count that is sure grows with no bound unless integers are taken into account."""
    _, targets = batch(0)
    values = []
    for logit in (-10.0, -20.0, -40.0, -80.0):
        outputs = torch.full((2, 10, 6, 6), logit)
        values.append(float(mixture_nats(outputs, SCALING.scale_targets(targets), SCALING)))
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(values[-2], abs=1e-6)


def test_the_mixture_adds_its_weight_in_nats_per_expected_emitter() -> None:
    outputs, targets = batch(9)
    loss, plain = (make_loss(TrainingConfig(mixture_weight=w), SCALING) for w in (0.3, 0.0))
    nats = mixture_nats(outputs, SCALING.scale_targets(targets), SCALING) / (2 * 36 * SCALING.prior)
    sums = loss.sums(outputs, targets)
    torch.testing.assert_close(loss.objective(sums), plain.total(plain.sums(outputs, targets)) + 0.3 * nats)
    torch.testing.assert_close(loss.total(sums), plain.total(plain.sums(outputs, targets)))  # judged as any other
    parts = loss.sums(outputs[:1], targets[:1]) + loss.sums(outputs[1:], targets[1:])
    torch.testing.assert_close(loss.objective(parts), loss.objective(sums))


def test_alone_the_mixture_moves_nothing_but_itself_and_the_background() -> None:
    outputs, targets = batch(9)
    outputs.requires_grad_()
    loss = make_loss(MIXTURE, SCALING)
    (gradient,) = torch.autograd.grad(loss.objective(loss.sums(outputs, targets)), outputs)
    nats = mixture_nats(outputs, SCALING.scale_targets(targets), SCALING) / (2 * 36 * SCALING.prior)
    (of_nats,) = torch.autograd.grad(nats, outputs)
    torch.testing.assert_close(gradient[:, :5], of_nats[:, :5])
    torch.testing.assert_close(gradient[:, SIGMAS], of_nats[:, SIGMAS])
    assert gradient[:, 5].abs().min() > 0


def test_merged_pixels_have_the_sigma_of_their_mixture() -> None:
    outputs = torch.zeros(1, 10, 9, 9)
    outputs[0, 0, 4, 4], outputs[0, 0, 4, 5] = 0.45, 0.4
    outputs[0, 1, 4, 4], outputs[0, 1, 4, 5] = 0.45, -0.45
    outputs[0, SIGMAS, 4, 4] = torch.tensor([0.1, 0.2, 30.0, 100.0])
    outputs[0, SIGMAS, 4, 5] = torch.tensor([0.3, 0.2, 50.0, 200.0])
    table = find_localizations(outputs, 0)
    assert len(table) == 1
    assert table.x_sigma is not None
    assert table.y_sigma is not None
    assert table.z_sigma is not None
    assert table.photons_sigma is not None
    share = np.array([0.45, 0.4]) / 0.85
    place, sigma = np.array([4.45, 4.55]), np.array([0.1, 0.3])
    mean = share @ place
    assert table.x[0] == pytest.approx(mean)
    assert table.x_sigma[0] == pytest.approx(math.sqrt(share @ (sigma**2 + (place - mean) ** 2)), rel=1e-4)
    assert table.y_sigma[0] == pytest.approx(0.2, rel=1e-4)
    assert table.z_sigma[0] == pytest.approx(math.sqrt(share @ np.array([30.0, 50.0]) ** 2), rel=1e-4)
    assert table.photons_sigma[0] == pytest.approx(math.sqrt(share @ np.array([100.0, 200.0]) ** 2), rel=1e-4)


@pytest.mark.parametrize("training", [{"loss_type": "gaussian_mixture"}, {"mixture_weight": 0.1}])
def test_a_trained_model_predicts_uncertainties_in_physical_units(tmp_path: Path, training: dict[str, object]) -> None:
    config = small_data(tmp_path, training=training)
    samples = load_data(config, Console(quiet=True))
    run = setup(config, *samples, with_floor=False)
    assert fit(run, Hooks()) == "finished"
    path = tmp_path / "model.pth"
    save_model(path, run.model)
    model = load_model(path)
    table = localize_frames(model, samples[1][0].frames_THW, threshold=0.01)
    assert len(table) > 0
    for column, unit in zip((table.x_sigma, table.y_sigma, table.z_sigma, table.photons_sigma),
                            model.scaling.unit(), strict=False):  # fmt: skip
        assert column is not None
        assert (column > 0).all()
        # Three epochs have taught it little: it is about as unsure as the targets vary.
        assert 0.1 * unit < np.median(column) < 5 * unit


def test_learning_a_batch_by_heart_is_measured_by_the_loss_also_where_nats_go_below_zero(tmp_path: Path) -> None:
    config = small_data(tmp_path, training={"mixture_weight": 5.0})
    run = setup(config, *load_data(config, Console(quiet=True)), with_floor=False)
    assert 0 < overfit_fresh(run) < 1


def test_weights_of_a_model_without_sigmas_are_refused_by_one_with_them(tmp_path: Path) -> None:
    plain = make_model(small_config(tmp_path), SCALING)
    contents = plain.to_dict()
    contents["config"]["training"]["mixture_weight"] = 0.1
    path = tmp_path / "model.pth"
    torch.save(contents, path)
    with pytest.raises(CheckpointError, match="another network"):
        load_model(path)


def test_flat_data_have_no_axial_uncertainty(tmp_path: Path) -> None:
    psf = {"type": "gaussian", "sigma_x_nm": 120, "sigma_y_nm": 120, "depth_nm": None, "roi_size_px": 9}
    flat = {"psf": psf, "emitters": {"z_min_nm": 0, "z_max_nm": 0}}
    config = small_data(tmp_path, simulation=flat, training={"mixture_weight": 0.1})
    samples = load_data(config, Console(quiet=True))
    run = setup(config, *samples, with_floor=False)
    assert fit(run, Hooks()) == "finished"
    table = localize_frames(run.model, samples[1][0].frames_THW, threshold=0.01)
    assert len(table) > 0
    assert table.x_sigma is not None
    assert table.z_sigma is None
