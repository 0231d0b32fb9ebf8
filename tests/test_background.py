"""Background light: levels, and the laws of its smooth structure from the simulation to the targets."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adaloc.config import BackgroundConfig, Config, PixelSize
from adaloc.data.generate import generate
from adaloc.data.sample_folder import read_background, read_background_shape
from adaloc.data.targets import BACKGROUND, EmitterRows, encode_targets
from adaloc.data.windows import Cut, load_sample, load_samples, make_batch, measure_training_scaling
from adaloc.models.losses import make_loss
from adaloc.simulation.background import draw_background, draw_shape, perlin_noise
from adaloc.training.floor import physical_floor
from small import small_config

GAUSSIAN = {"type": "gaussian", "roi_size_px": 15, "sigma_x_nm": 140, "sigma_y_nm": 140}
PIXEL = PixelSize(x=100, y=100)


@pytest.fixture(scope="module")
def structured(tmp_path_factory: pytest.TempPathFactory) -> Config:
    background = {
        "mean_photons": 80, "std_photons": 5, "block_frames": 4, "perlin_rms_fraction": 0.2, "perlin_scale_nm": 900,
    }  # fmt: skip
    changes = {"psf": GAUSSIAN, "background": background, "emitters": {"density_per_um2": 1.0}}
    config = small_config(tmp_path_factory.mktemp("structured"), simulation=changes)
    for _ in generate(config, config.data.root):
        pass
    return config


def test_perlin_noise_has_mean_0_variance_1_and_no_special_place() -> None:
    draws = np.stack([perlin_noise((24, 30), (10.0, 10.0), np.random.default_rng(seed)) for seed in range(4000)])
    # A field of some 7 cells each: the standard error of the mean of all is below 0.01.
    assert draws.mean() == pytest.approx(0, abs=0.03)
    assert draws.var() == pytest.approx(1, rel=0.03)
    np.testing.assert_allclose(draws.mean(0), 0, atol=0.08)
    np.testing.assert_allclose(draws.var(0), 1, rtol=0.15)


@pytest.mark.parametrize("cell", [6.0, 15.0])
def test_perlin_noise_is_correlated_within_a_cell_and_not_beyond(cell: float) -> None:
    draws = np.stack([perlin_noise((64, 64), (cell, cell), np.random.default_rng(seed)) for seed in range(300)])

    def correlation(lag: int) -> float:
        return float((draws[:, :, : 64 - lag] * draws[:, :, lag:]).mean())

    assert correlation(round(0.1 * cell)) > 0.85
    half = next(lag for lag in range(64) if correlation(lag) < 0.5)
    assert 0.2 * cell < half <= 0.5 * cell
    # Only corners that both places share make them alike.
    assert abs(correlation(round(2.2 * cell))) < 0.06


def test_cells_may_differ_along_rows_and_columns() -> None:
    draws = np.stack([perlin_noise((64, 64), (20.0, 5.0), np.random.default_rng(seed)) for seed in range(200)])
    down, right = (float((a * b).mean()) for a, b in (
        (draws[:, :-4], draws[:, 4:]), (draws[:, :, :-4], draws[:, :, 4:]),
    ))  # fmt: skip
    assert down > 0.6
    assert right < 0.3


def test_a_shape_has_a_mean_of_one_no_dark_pixel_and_is_a_function_of_the_seed() -> None:
    config = BackgroundConfig(perlin_rms_fraction=0.3, perlin_scale_nm=1500, block_frames=5)

    def draw(seed: int) -> np.ndarray:
        shape = draw_shape(config, 12, (40, 40), PIXEL, np.random.default_rng(seed))
        assert shape is not None
        np.testing.assert_array_equal(shape.pattern_T, [0] * 5 + [1] * 5 + [2] * 2)
        return shape.pattern_PHW

    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))
    all_of_them = np.concatenate([draw(seed) for seed in range(100)])
    np.testing.assert_allclose(all_of_them.mean(axis=(1, 2)), 1, atol=1e-5)
    assert all_of_them.min() > 0
    # Dividing by the field's own mean takes a little of the structure away.
    assert 0.2 < all_of_them.std() < 0.32
    assert draw_shape(BackgroundConfig(), 12, (40, 40), PIXEL, np.random.default_rng(0)) is None


def test_levels_of_a_range_fill_it_evenly_and_belong_to_blocks() -> None:
    config = BackgroundConfig(range_photons=(20, 120), block_frames=3)
    levels = draw_background(config, 3000, np.random.default_rng(0))
    assert (levels.reshape(-1, 3) == levels[::3, None]).all()
    assert levels.min() >= 20 and levels.max() <= 120
    np.testing.assert_allclose(np.quantile(levels, [0.25, 0.5, 0.75]), [45, 70, 95], atol=6)
    with pytest.raises(ValueError, match="must not be above"):
        BackgroundConfig(range_photons=(5, 1))


def test_a_structured_background_survives_the_file_and_lies_in_the_frames(structured: Config) -> None:
    folder = structured.data.root / "sample_002"
    shape, level = read_background_shape(folder), read_background(folder)
    assert shape is not None and level is not None
    sample = load_sample(folder, structured.simulation.camera)
    photons = shape.photons(level)
    np.testing.assert_allclose(photons.mean(axis=(1, 2)), level, rtol=1e-5)
    assert photons[0].std() / level[0] > 0.1
    # The darkest light of a block's pixels follows the pattern: emitters only add.
    camera = structured.simulation.camera
    electrons = (sample.frames_THW[:4].astype(float) - camera.baseline_adu) * camera.gain_e_per_adu
    darkest = electrons.min(axis=0) / camera.quantum_efficiency
    assert np.corrcoef(darkest.ravel(), photons[0].ravel())[0, 1] > 0.5


def test_targets_hold_the_background_of_every_pixel_turned_as_the_frames_are(structured: Config) -> None:
    sample = load_sample(structured.data.root / "sample_000", structured.simulation.camera)
    assert sample.background_shape is not None
    photons = sample.background_shape.photons(sample.background_T)
    cut = Cut(sample, 1, 2, 3, mirror_x=True, mirror_y=False, reverse_time=True)
    batch = make_batch([cut], 5, 16, 3)
    assert batch.background_N.shape == (3, 16, 16)
    np.testing.assert_allclose(batch.background_N, photons[2:5, 2:18, 3:19][::-1, :, ::-1], rtol=1e-6)
    targets = encode_targets(batch.emitters, batch.background_N, (16, 16), 0.0)
    torch.testing.assert_close(targets[:, BACKGROUND], batch.background_N)


def test_uniform_and_structured_samples_share_a_batch(structured: Config) -> None:
    one = load_sample(structured.data.root / "sample_000", structured.simulation.camera)
    other = type(one)(**{**vars(one), "background_shape": None})
    batch = make_batch([Cut(one, 0, 0, 0), Cut(other, 0, 0, 0)], 3, 16, 3)
    assert batch.background_N.shape == (2, 16, 16)
    assert float(batch.background_N[0].std()) > 1
    assert (batch.background_N[1] == np.float32(one.background_T[1])).all()


def test_scales_count_the_structure_as_variance_of_the_background(structured: Config) -> None:
    samples = load_samples(sorted(structured.data.root.glob("sample_*")), structured.simulation.camera)
    scaling = measure_training_scaling(samples, structured)
    every = np.concatenate(
        [s.background_shape.photons(s.background_T).ravel() for s in samples if s.background_shape is not None]
    )
    assert scaling.mean[4] == pytest.approx(every.mean(), rel=0.02)
    assert scaling.std[4] == pytest.approx(every.std(), rel=0.1)


def test_a_constant_background_explains_nothing_of_a_structured_one(structured: Config) -> None:
    samples = load_samples(sorted(structured.data.root.glob("sample_*")), structured.simulation.camera)
    loss = make_loss(structured.training, measure_training_scaling(samples, structured))
    assert loss.weights[BACKGROUND] > 0
    batch = make_batch([Cut(s, 0, 0, 0) for s in samples], 8, 20, 3)
    targets = encode_targets(batch.emitters, batch.background_N, (20, 20), 250)
    constant = torch.tensor(loss.best_constant())[None, :, None, None].expand_as(targets).contiguous()
    assert float(loss.channels(loss.sums(constant, targets))[BACKGROUND]) == pytest.approx(1, rel=0.15)


def test_the_floor_takes_the_shape_as_known(structured: Config) -> None:
    samples = load_samples(sorted(structured.data.root.glob("sample_*")), structured.simulation.camera)
    loss = make_loss(structured.training, measure_training_scaling(samples, structured))
    floor = physical_floor(samples, structured, loss)
    assert floor.channels is not None, floor.unknown_because
    assert 0 < floor.channels[BACKGROUND] < 0.05
    flat = [type(s)(**{**vars(s), "background_shape": None}) for s in samples]
    # Frames that are not lit as the data say do not pass for it: 20 % of 80 photons is three times the shot noise.
    assert physical_floor(flat, structured, loss).loss is None


def test_old_folders_have_no_shape(tmp_path: Path) -> None:
    config = small_config(tmp_path, simulation={"psf": GAUSSIAN})
    for _ in generate(config, config.data.root):
        pass
    assert read_background_shape(config.data.root / "sample_000") is None
    batch = make_batch([Cut(load_sample(config.data.root / "sample_000", config.simulation.camera), 0, 0, 0)], 3, 16, 3)
    assert batch.background_N.shape == (1,)
    rows = EmitterRows(torch.zeros(0, dtype=torch.long), *(torch.zeros(0) for _ in range(4)))
    targets = encode_targets(rows, torch.tensor([3.0]), (4, 4), 0.0)
    assert (targets[0, BACKGROUND] == 3).all()
