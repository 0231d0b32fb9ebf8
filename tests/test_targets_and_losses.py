"""Targets decode to their emitters; knowing nothing scores the sum of the weights, in any data and units."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaloc.config import Config, TrainingConfig, UnifiedLossConfig
from adaloc.data.scaling import Scaling
from adaloc.data.targets import BACKGROUND, EmitterRows, decode_targets, encode_targets
from adaloc.data.training_windows import TrainingWindows
from adaloc.data.windows import Cut, Sample, make_batch, measure_training_scaling, validation_batches
from adaloc.models.losses import ChannelLoss, left_out_channels, make_loss
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import make_psf
from small import small_config


def rows(window: list[int], x: list[float], y: list[float], photons: list[float]) -> EmitterRows:
    z = torch.linspace(-300, 300, len(x))
    return EmitterRows(
        torch.tensor(window, dtype=torch.long), torch.tensor(x), torch.tensor(y), z, torch.tensor(photons)
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(-0.4, 15.4), st.floats(-0.4, 11.4), st.floats(300, 9000)),
        max_size=20,
        unique_by=lambda e: (e[0], round(e[1]), round(e[2])),
    )
)
def test_encode_then_decode_gives_the_emitters_back(emitters: list[tuple[int, float, float, float]]) -> None:
    given_rows = rows(*([list(column) for column in zip(*emitters, strict=True)] or [[], [], [], []]))
    targets = encode_targets(given_rows, torch.full((3,), 80.0), (12, 16), min_photons=250)
    found = decode_targets(targets)
    assert len(found.x) == len(emitters)

    def table(r: EmitterRows) -> np.ndarray:
        columns = torch.stack([r.window.float(), r.x, r.y, r.z, r.photons], 1).numpy()
        return columns[np.lexsort(columns.T[:3])]

    np.testing.assert_allclose(table(found), table(given_rows), atol=2e-5)
    assert (targets[:, BACKGROUND] == 80).all()
    assert targets[:, 1:3].abs().max() <= 0.5 + 1e-6 if emitters else True


def test_the_brighter_of_two_in_a_pixel_is_the_target_whatever_their_order() -> None:
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        three = rows([0, 0, 0], [4.1, 3.9, 4.2], [2.0, 2.1, 1.9], [500.0, 900.0, 700.0]).select(torch.tensor(order))
        found = decode_targets(encode_targets(three, torch.zeros(1), (8, 8), min_photons=250))
        assert found.photons.tolist() == [900.0]
        assert found.x.tolist() == pytest.approx([3.9])


def test_dim_and_outside_emitters_are_no_targets() -> None:
    emitters = rows([0, 0, 0], [1.0, 9.0, 3.0], [1.0, 1.0, -2.0], [249.0, 900.0, 900.0])
    assert len(decode_targets(encode_targets(emitters, torch.zeros(1), (8, 8), min_photons=250)).x) == 0


def simulated(config: Config, num: int) -> list[Sample]:
    psf = make_psf(config.simulation.psf, config.simulation.optics)
    samples = []
    for index in range(num):
        made = simulate_sample(config.simulation, psf, None, seed=0, index=index)
        first = np.searchsorted(made.emitters.frame, np.arange(len(made.frames_THW) + 1))
        samples.append(Sample(str(index), made.frames_THW, made.emitters, first, made.background_T))
    return samples


DENSITIES = {"reference": 0.7, "dense": 3.03}
LOSSES = {
    "default": TrainingConfig(),
    "other weights": TrainingConfig(
        unified_loss_config=UnifiedLossConfig(channel_weights=(2.0, 0.3, 1.0, 0.0, 1.5, 0.1), pos_weight=4.0)
    ),
    "simple combined": TrainingConfig(loss_type="simple_combined"),
    "raw": TrainingConfig(unified_loss_config=UnifiedLossConfig(normalization="raw")),
}


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES.keys())
def test_the_best_constant_predictor_scores_the_sum_of_the_weights(density: float) -> None:
    config = Config.model_validate(
        {"simulation": {"num_frames": 60, "emitters": {"density_per_um2": density}, "background": {"block_frames": 5}}}
    )
    samples = simulated(config, 3)
    scaling = measure_training_scaling(samples, config)
    for name, training in LOSSES.items():
        loss = make_loss(training, scaling)
        constant = torch.tensor(loss.best_constant())[None, :, None, None].expand(60, 6, 40, 40)
        targets = torch.cat([all_targets(sample, config) for sample in samples])
        constant = constant.repeat(len(samples), 1, 1, 1)
        here = loss.sums(constant, targets)
        score = float(loss.total(here))
        assert score == pytest.approx(loss.no_information_loss, rel=0.01), name
        if name == "default":
            assert loss.no_information_loss == 5.5
        for channel in range(6):  # no other constant is better
            for delta in (-0.2, 0.2):
                moved = constant.clone()
                moved[:, channel] += delta
                assert loss.sums(moved, targets).total_K[channel] > here.total_K[channel], (name, channel, delta)


def all_targets(sample: Sample, config: Config) -> torch.Tensor:
    batch = make_batch([Cut(sample, 0, 0, 0)], len(sample.frames_THW), 40, 1)
    return encode_targets(batch.emitters, batch.background_N, (40, 40), config.data.min_photons)


def scaling_with(**changes: object) -> Scaling:
    values: dict[str, object] = {
        "input_mean": 0.0, "input_std": 1.0, "prior": 0.01, "mean": (0.0,) * 5, "std": (0.3, 0.3, 400.0, 2000.0, 10.0),
        "median": (0.0,) * 5, "mean_deviation": (0.2, 0.2, 300.0, 1500.0, 8.0),
    }  # fmt: skip
    return Scaling(**{**values, **changes})  # type: ignore[arg-type]


def test_a_channel_that_never_varies_is_left_out() -> None:
    scaling = scaling_with(std=(0.3, 0.3, 0.0, 2000.0, 10.0))
    assert left_out_channels(scaling) == ["z"]
    loss = make_loss(TrainingConfig(), scaling)
    assert loss.weights == (1, 1, 1, 0, 1, 0.5)
    assert loss.no_information_loss == 4.5


def random_case(loss: ChannelLoss, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    emitters = rows([0, 0, 1], [1.2, 5.8, 3.3], [2.2, 6.1, 3.9], [900.0, 700.0, 800.0])
    targets = encode_targets(emitters, torch.tensor([3.0, -4.0]), (8, 8), 250)
    return torch.randn(2, 6, 8, 8, generator=generator), targets


def test_a_perfect_prediction_scores_zero_and_errors_off_emitters_do_not_count() -> None:
    loss = make_loss(TrainingConfig(), scaling_with())
    _, targets = random_case(loss)
    perfect = loss.scaling.scale_targets(targets)
    perfect[:, 0] = (targets[:, 0] * 2 - 1) * 30
    assert float(loss.total(loss.sums(perfect, targets))) == pytest.approx(0, abs=1e-6)
    spoilt = perfect.clone()
    off = targets[:, 0] == 0
    for channel in (1, 2, 3, 4):
        spoilt[:, channel][off] += 7
    assert float(loss.total(loss.sums(spoilt, targets))) == pytest.approx(0, abs=1e-6)


def test_batches_add_up_exactly() -> None:
    loss = make_loss(TrainingConfig(), scaling_with())
    outputs, targets = random_case(loss)
    parts = loss.sums(outputs[:1], targets[:1]) + loss.sums(outputs[1:], targets[1:])
    torch.testing.assert_close(loss.channels(parts), loss.channels(loss.sums(outputs, targets)))


def test_the_unified_loss_equals_its_definition_written_with_loops() -> None:
    loss = make_loss(TrainingConfig(unified_loss_config=UnifiedLossConfig(pos_weight=3.0)), scaling_with())
    outputs, targets = random_case(loss, 1)
    q = 3 * 0.01 / (3 * 0.01 + 0.99)
    prior_entropy = -(3 * 0.01 * np.log(q) + 0.99 * np.log(1 - q))
    expected = 0.0
    for b in range(2):
        for r in range(8):
            for c in range(8):
                p = 1 / (1 + np.exp(-float(outputs[b, 0, r, c])))
                is_emitter = bool(targets[b, 0, r, c])
                expected += -(3 * np.log(p) if is_emitter else np.log(1 - p)) / (2 * 64) / prior_entropy
                background = float(outputs[b, 5, r, c]) - float(targets[b, 5, r, c]) / 10
                expected += 0.5 * background**2 / (2 * 64)
                if is_emitter:
                    for k, unit in ((1, 0.3), (2, 0.3), (3, 400.0), (4, 2000.0)):
                        expected += (float(outputs[b, k, r, c]) - float(targets[b, k, r, c]) / unit) ** 2 / 3
    assert float(loss.total(loss.sums(outputs, targets))) == pytest.approx(expected, rel=1e-5)


def test_an_unknown_background_and_an_empty_batch_leave_finite_gradients() -> None:
    for training in (
        TrainingConfig(),
        TrainingConfig(loss_type="simple_combined"),
    ):
        loss = make_loss(training, scaling_with())
        outputs = torch.randn(2, 6, 8, 8, requires_grad=True)
        targets = encode_targets(rows([], [], [], []), torch.full((2,), float("nan")), (8, 8), 250)
        value = loss.total(loss.sums(outputs, targets))
        value.backward()
        assert value.isfinite()
        assert outputs.grad is not None
        assert outputs.grad.isfinite().all()
        assert outputs.grad[:, 1:].abs().max() == 0


def test_training_windows_are_a_function_of_the_step_and_visit_every_sample_once_an_epoch(tmp_path: Path) -> None:
    config = small_config(
        tmp_path, simulation={"num_frames": 12, "image_size_px": 20}, data={"augment_time_reversal": False}
    )
    samples = simulated(config, 5)
    windows = TrainingWindows(samples, config)
    assert (len(windows), windows.steps_per_epoch) == (5, 3)
    assert torch.equal(windows[4].adu_BTHW, windows[4].adu_BTHW)
    seen = []
    for step in (3, 4, 5):  # the second epoch
        batch = windows[step]
        for run in batch.adu_BTHW:
            found = [
                (s.name, t, r, c)
                for s in samples
                for t in range(10)
                for r in range(5)
                for c in range(5)
                if np.array_equal(s.frames_THW[t : t + 3, r : r + 16, c : c + 16], run.numpy())
            ]
            assert len(found) == 1
            seen.append(found[0])
    assert sorted(name for name, *_ in seen) == ["0", "1", "2", "3", "4"]
    assert len({place for _, *place in map(tuple, seen) for place in [tuple(place)]}) > 1


def test_the_emitters_of_a_crop_lie_where_the_crop_shows_them(tmp_path: Path) -> None:
    config = small_config(
        tmp_path, simulation={"num_frames": 12, "image_size_px": 30, "emitters": {"density_per_um2": 0.2}}
    )
    sample = simulated(config, 1)[0]
    batch = make_batch([Cut(sample, 2, 3, 5)], 5, 16, 3)
    targets = encode_targets(batch.emitters, batch.background_N, (16, 16), 0.0)
    assert targets.shape == (3, 6, 16, 16)
    for t in range(3):
        frame = sample.emitters.select(sample.emitters.frame == 3 + t)
        expected = {(round(y) - 3, round(x) - 5) for x, y in zip(frame.x, frame.y, strict=True)}
        inside = {(r, c) for r, c in expected if 0 <= r < 16 and 0 <= c < 16}
        assert set(map(tuple, torch.nonzero(targets[t, 0]).tolist())) == inside


@pytest.mark.parametrize("turn", ["mirror_x", "mirror_y", "reverse_time"])
def test_the_targets_of_a_turned_window_are_the_turned_targets(tmp_path: Path, turn: str) -> None:
    config = small_config(tmp_path, simulation={"num_frames": 12, "image_size_px": 30})
    sample = simulated(config, 1)[0]
    dim = {"mirror_x": 3, "mirror_y": 2, "reverse_time": 0}[turn]

    def frames_and_targets(cut: Cut) -> tuple[torch.Tensor, torch.Tensor]:
        batch = make_batch([cut], 6, 20, 3)
        return batch.adu_BTHW[0], encode_targets(batch.emitters, batch.background_N, (20, 20), 0.0)

    plain_frames, plain = frames_and_targets(Cut(sample, 2, 3, 5))
    turned_frames, turned = frames_and_targets(Cut(sample, 2, 3, 5, **{turn: True}))
    assert torch.equal(turned_frames, plain_frames.flip(dim - 1 if dim else 0))
    expected = plain.flip(dim)
    if dim:
        expected[:, 1 if turn == "mirror_x" else 2] *= -1
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)
    assert plain[:, 0].sum() > 5


def test_validation_windows_are_fixed_and_bounded(tmp_path: Path) -> None:
    config = small_config(tmp_path, simulation={"num_frames": 12})
    samples = simulated(config, 4)
    first, again = (validation_batches(samples, config.data) for _ in range(2))
    assert sum(len(batch.background_N) for batch in first) == 4 * config.data.validation_windows_per_sample
    assert all(len(batch.background_N) <= config.data.batch_size for batch in first)
    assert all(torch.equal(a.adu_BTHW, b.adu_BTHW) for a, b in zip(first, again, strict=True))
