"""Batches of healthy runs are quiet; targets and inputs that were never scaled, and repeated windows, are named."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from adaloc.config import Config
from adaloc.data.integrity_batch import batch_findings, possible_windows, repeated_windows, window_hashes
from adaloc.data.scaling import Scaling
from adaloc.data.targets import BACKGROUND, PHOTONS, PROBABILITY, X, Y, Z, encode_targets
from adaloc.data.windows import Sample, TrainingWindows, measure_training_scaling
from adaloc.simulation.camera import to_photons
from integrity_faults import SMALL, make_samples
from small import small_config


@dataclasses.dataclass
class Setup:
    config: Config
    samples: list[Sample]
    windows: TrainingWindows
    scaling: Scaling

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ADU, scaled input and physical targets of a step."""
        batch = self.windows[step]
        scaled = self.scaling.scale_input(to_photons(batch.adu_BTHW, self.config.simulation.camera))
        size = tuple(batch.adu_BTHW.shape[-2:])
        targets = encode_targets(batch.emitters, batch.background_N, size, self.config.data.min_photons)  # type: ignore[arg-type]
        return batch.adu_BTHW, scaled, targets


def make_setup(seed: int, **simulation: object) -> Setup:
    config = small_config(
        Path("unused"), simulation={**SMALL, "num_frames": 30, **simulation}, data={"batch_size": 3}, seed=seed
    )
    samples = make_samples(config.simulation, seed)
    return Setup(config, samples, TrainingWindows(samples, config), measure_training_scaling(samples, config))


@pytest.fixture(scope="module")
def setup() -> Setup:
    return make_setup(0)


def causes(setup: Setup, scaled: torch.Tensor, targets: torch.Tensor, scaling: Scaling | None = None) -> list[str]:
    return [f.cause for f in batch_findings(scaled, targets, scaling or setup.scaling)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "simulation",
    [
        {},
        {"emitters": {"density_per_um2": 0.1, "photons_mean": 800, "photons_std": 300}},
        {"emitters": {"density_per_um2": 3}, "camera": {"read_noise_e": 58.8}},
        {"background": {"mean_photons": 500, "std_photons": 200, "block_frames": 3}},
        {"psf": {"type": "gaussian", "sigma_x_nm": 120, "sigma_y_nm": 120}},
    ],
    ids=["default", "sparse", "dense", "background", "gaussian"],
)
def test_batches_of_healthy_data_are_quiet(seed: int, simulation: dict[str, object]) -> None:
    setup = make_setup(seed, **simulation)
    for step in range(30):
        _, scaled, targets = setup.batch(step)
        assert batch_findings(scaled, targets, setup.scaling) == []


def test_positions_instead_of_offsets_are_absolute_targets(setup: Setup) -> None:
    _, scaled, targets = setup.batch(0)
    size = targets.shape[-1]
    column = torch.arange(size, dtype=torch.float32)
    held = targets[:, PROBABILITY] == 1
    for divisor in (1.0, float(size)):  # positions in px, and in shares of the field
        absolute = targets.clone()
        absolute[:, X] = torch.where(held, (targets[:, X] + column) / divisor, 0)
        absolute[:, Y] = torch.where(held, (targets[:, Y] + column[:, None]) / divisor, 0)
        assert causes(setup, scaled, absolute) == ["absolute_targets"]


def test_targets_in_other_units_are_unscaled(setup: Setup) -> None:
    _, scaled, targets = setup.batch(0)
    raw = dataclasses.replace(setup.scaling, mean=(0.0,) * 5, std=(1.0,) * 5)
    found = batch_findings(scaled, targets, raw)
    assert {f.evidence["channel"] for f in found} == {"z", "photons"}
    assert {f.cause for f in found} == {"unscaled_targets"}
    small = torch.cat([setup.batch(step)[2] for step in range(10)])  # a spread needs some targets
    assert causes(setup, scaled, small) == []
    small[:, PHOTONS] /= 65535
    assert causes(setup, scaled, small) == ["unscaled_targets"]
    broken = targets.clone()
    broken[:, Z][targets[:, PROBABILITY] == 1] = torch.nan
    assert causes(setup, scaled, broken) == ["unscaled_targets"]


def test_a_channel_that_never_varies_is_not_asked_for_a_spread(setup: Setup) -> None:
    _, scaled, targets = setup.batch(0)
    flat = targets.clone()
    flat[:, Z] = 0
    mean, std = list(setup.scaling.mean), list(setup.scaling.std)
    mean[2], std[2] = 0.0, 0.0
    assert causes(setup, scaled, flat, dataclasses.replace(setup.scaling, mean=tuple(mean), std=tuple(std))) == []


def test_an_unknown_background_and_an_empty_batch_are_no_fault(setup: Setup) -> None:
    _, scaled, targets = setup.batch(0)
    targets[:, BACKGROUND] = torch.nan
    assert causes(setup, scaled, targets) == []
    assert causes(setup, scaled, torch.zeros_like(targets)) == []


def test_inputs_in_other_units_are_named(setup: Setup) -> None:
    adu, scaled, targets = setup.batch(0)
    assert causes(setup, adu, targets) == ["wrong_input_scaling"]
    assert causes(setup, adu / 65535, targets) == ["wrong_input_scaling"]
    assert causes(setup, torch.zeros_like(scaled), targets) == ["wrong_input_scaling"]
    assert causes(setup, scaled * torch.nan, targets) == ["wrong_input_scaling"]


def hashes_of(setup: Setup, steps: int) -> list[tuple[bytes, ...]]:
    return [window_hashes(setup.windows[step].adu_BTHW) for step in range(steps)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_frames", [3, 5, 30])
def test_random_windows_are_not_repeated_even_where_few_are_possible(seed: int, num_frames: int) -> None:
    """Three frames of 16 px hold one window: it comes at every epoch, and that is no fault."""
    setup = make_setup(seed, num_frames=num_frames, image_size_px=16)
    windows = hashes_of(setup, 20)
    possible = possible_windows(setup.samples, setup.config.data)
    assert possible == num_frames - 2
    for steps in range(1, 21):
        assert repeated_windows(windows[:steps], len(setup.samples), possible) is None


def test_one_batch_over_and_over_is_named_within_the_first_epoch(setup: Setup) -> None:
    first = window_hashes(setup.windows[0].adu_BTHW)
    found = repeated_windows([first, first], len(setup.samples), possible_windows(setup.samples, setup.config.data))
    assert found is not None
    assert (found.cause, found.severity) == ("repeated_batch", "stop")


def test_the_same_epoch_again_is_named(setup: Setup) -> None:
    """Every window is always the first three frames of its sample: the loader of the original stall."""
    epoch = hashes_of(setup, 2)
    possible = possible_windows(setup.samples, setup.config.data)
    assert repeated_windows(epoch, len(setup.samples), possible) is None
    found = repeated_windows(epoch * 3, len(setup.samples), possible)
    assert found is not None
    assert found.severity == "stop"
    assert found.evidence["num_distinct"] == 6


def test_equal_windows_and_only_they_have_equal_hashes() -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 500, (4, 3, 16, 16)).astype(np.float32))
    frames[3] = frames[1]
    hashes = window_hashes(frames)
    assert hashes[1] == hashes[3]
    assert len(set(hashes)) == 3
    frames[3, 2, 15, 15] += 1
    assert len(set(window_hashes(frames))) == 4
    assert window_hashes(frames.flip(-1).flip(-1)) == window_hashes(frames)


def test_a_call_takes_about_a_millisecond() -> None:
    """The limit leaves room for a busy machine; benchmarks/results/integrity.json has the measured time."""
    torch.manual_seed(0)
    adu = torch.rand(16, 3, 40, 40)
    targets = torch.zeros(16, 6, 40, 40)
    targets[:, PROBABILITY] = (torch.rand(16, 40, 40) < 0.007).float()
    targets[:, PHOTONS] = torch.randn(16, 40, 40)
    scaling = Scaling(0.0, 1.0, 0.007, (0.0,) * 5, (1.0,) * 5, (0.0,) * 5, (1.0,) * 5)
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)  # with more, the time is that of waiting for a core
    try:
        for _ in range(20):
            begin = time.perf_counter()
            batch_findings(adu, targets, scaling)
            window_hashes(adu)
            times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    assert min(times) < 5e-3
