"""Cameras: the gain register's law, and the maps of an sCMOS from the file to the localizations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import CameraConfig, Config
from adaloc.data.generate import generate, is_complete
from adaloc.data.sample_folder import read_camera_origin, read_movie
from adaloc.data.scaling import measure_scaling
from adaloc.data.windows import load_sample, load_samples, make_batch, measure_training_scaling, validation_cuts
from adaloc.errors import ConfigError, DataError
from adaloc.localize.inference import localize_frames, tile_adu
from adaloc.models.losses import make_loss
from adaloc.models.model_file import make_model
from adaloc.simulation.camera import expose, to_photons
from adaloc.simulation.camera_maps import (
    CameraMaps,
    from_storm_analysis,
    maps_of,
    maps_of_movie,
    read_camera_maps,
    uniform_camera,
    write_camera_maps,
)
from adaloc.training.floor import physical_floor
from small import small_config

GAUSSIAN = {"type": "gaussian", "roi_size_px": 15, "sigma_x_nm": 140, "sigma_y_nm": 140}


def some_maps(size: tuple[int, int] = (24, 30)) -> CameraMaps:
    rng = np.random.default_rng(0)
    return CameraMaps(rng.uniform(80, 140, size), rng.uniform(1, 60, size), rng.uniform(0.3, 0.8, size))


@pytest.fixture
def mapped(tmp_path: Path) -> Config:
    """Six samples of 20 px that lie at random places of a map of 24 x 30 px."""
    write_camera_maps(tmp_path / "maps.h5", some_maps())
    changes = {
        "psf": GAUSSIAN,
        "camera": {"maps": str(tmp_path / "maps.h5"), "read_noise_e": 2.0},
        "emitters": {"density_per_um2": 2.0},
    }
    config = small_config(tmp_path, simulation=changes)
    for _ in generate(config, config.data.root):
        pass
    return config


@pytest.mark.parametrize("electrons", [0.3, 3.0])
def test_the_gain_register_has_the_moments_and_the_distribution_of_the_gamma_model(electrons: float) -> None:
    camera = CameraConfig(
        quantum_efficiency=1, em_gain=300, read_noise_e=0, gain_e_per_adu=1e-2, spurious_charge_e=0, baseline_adu=0
    )
    light = torch.full((200_000,), electrons)
    # A fine gain would be clipped at 16 bit: undo the gain in the exposure's own unit, 1/100 e.
    register_e = expose(light, camera.model_copy(update={"gain_e_per_adu": 1.0}), torch.Generator().manual_seed(1))
    values = register_e.double().numpy()
    # Cumulants of a compound Poisson variable with exponential jumps: k! rate gain^k.
    gain = camera.em_gain
    for order, tolerance in ((1, 0.02), (2, 0.03), (3, 0.08)):
        expected = float(np.prod(np.arange(1, order + 1))) * electrons * gain**order
        assert stats.kstat(values, order) == pytest.approx(expected, rel=tolerance)
    assert (values == 0).mean() == pytest.approx(np.exp(-electrons), abs=0.005)
    levels = np.linspace(50, 3000, 12)
    number = np.arange(1, 40)
    law = [stats.poisson.pmf(0, electrons)
           + (stats.poisson.pmf(number, electrons) * stats.gamma.cdf(y, number, scale=gain)).sum()
           for y in levels]  # fmt: skip
    np.testing.assert_allclose([(values <= y).mean() for y in levels], law, atol=0.006)


def test_no_light_stays_dark_whatever_the_gain() -> None:
    camera = CameraConfig(em_gain=1000, read_noise_e=0, gain_e_per_adu=5)
    assert (expose(torch.zeros(1000), camera, torch.Generator().manual_seed(0)) == camera.baseline_adu).all()


def test_every_pixel_has_its_own_offset_noise_and_gain() -> None:
    maps, camera = some_maps((6, 7)), CameraConfig(quantum_efficiency=0.8, gain_e_per_adu=0.5)
    generator, levels = torch.Generator().manual_seed(0), (40.0, 400.0)
    dark = expose(torch.zeros(20_000, 6, 7), camera, generator, maps).double().numpy()
    # Rounding to whole ADU adds 1/12.
    np.testing.assert_allclose(dark.mean(0), maps.offset_adu, atol=0.3)
    np.testing.assert_allclose(dark.var(0), maps.variance_adu2 + 1 / 12, rtol=0.06)
    lit = [expose(torch.full((20_000, 6, 7), level), camera, generator, maps).double().numpy() for level in levels]
    slope = (lit[1].var(0) - lit[0].var(0)) / (lit[1].mean(0) - lit[0].mean(0))
    np.testing.assert_allclose(slope, 1 / maps.gain_e_per_adu, rtol=0.1)
    for level, adu in zip(levels, lit, strict=True):
        photons = to_photons(torch.from_numpy(maps.to_uniform(adu, camera)), camera).mean(0).numpy()
        np.testing.assert_allclose(photons, level, rtol=0.01)


def test_maps_of_one_value_are_the_uniform_camera_bit_by_bit() -> None:
    camera = CameraConfig()
    one = np.ones((8, 9))
    maps = CameraMaps(100 * one, (camera.read_noise_e / camera.gain_e_per_adu) ** 2 * one, camera.gain_e_per_adu * one)
    light = torch.full((50, 8, 9), 60.0)
    plain, mapped = (expose(light, camera, torch.Generator().manual_seed(3), m) for m in (None, maps))
    torch.testing.assert_close(plain, mapped, rtol=0, atol=0)
    np.testing.assert_allclose(maps.to_uniform(plain.numpy(), camera), plain.numpy(), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".npy"])
def test_maps_survive_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    maps, path = some_maps(), tmp_path / f"maps{suffix}"
    if suffix == ".h5":
        write_camera_maps(path, maps)
    elif suffix == ".npz":
        np.savez(path, offset_adu=maps.offset_adu, read_noise_e=maps.read_noise_e, gain_e_per_adu=maps.gain_e_per_adu)
    else:
        np.save(path, np.stack([maps.offset_adu, maps.variance_adu2, maps.gain_e_per_adu]))
    assert read_camera_maps(path).same_as(maps)
    assert not maps.same_as(CameraMaps(maps.offset_adu + 1, maps.variance_adu2, maps.gain_e_per_adu))


def broken(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def test_files_that_are_no_maps_are_refused_in_words(tmp_path: Path) -> None:
    ones = np.ones((4, 5))
    cases = {
        "lack variance_adu2": {"offset_adu": ones, "gain_e_per_adu": ones},
        "gain of 0": {"offset_adu": ones, "read_noise_e": ones, "gain_e_per_adu": 0 * ones},
        "all the same": {"offset_adu": ones, "variance_adu2": ones[:2], "gain_e_per_adu": ones},
        "not finite": {"offset_adu": ones * np.nan, "variance_adu2": ones, "gain_e_per_adu": ones},
    }
    for message, datasets in cases.items():
        with pytest.raises(DataError, match=message):
            read_camera_maps(broken(tmp_path / "maps.h5", **datasets))
    (tmp_path / "text.npy").write_text("no array", encoding="utf-8")
    for path, message in ((tmp_path / "none.h5", "do not exist"), (tmp_path / "text.npy", "cannot be read")):
        with pytest.raises(DataError, match=message):
            read_camera_maps(path)
    with pytest.raises(ValueError, match="no EM gain"):
        CameraConfig(em_gain=10, maps=tmp_path / "maps.h5")


def test_a_movie_must_fit_its_maps(tmp_path: Path) -> None:
    write_camera_maps(tmp_path / "maps.h5", some_maps())
    camera = CameraConfig(maps=tmp_path / "maps.h5")
    same = maps_of_movie(camera, None, None, (24, 30))
    assert same is not None and same.same_as(some_maps())
    part = maps_of_movie(CameraConfig(), tmp_path / "maps.h5", (2, 5), (8, 9))
    assert part is not None
    np.testing.assert_allclose(part.offset_adu, some_maps().offset_adu[2:10, 5:14])
    for origin, size, message in ((None, (30, 24), "30 x 24 px, the camera maps 24 x 30"), ((20, 0), (8, 8), "beyond")):
        with pytest.raises(DataError, match=message):
            maps_of_movie(camera, None, origin, size)
    with pytest.raises(ConfigError, match="--camera-maps"):
        maps_of_movie(CameraConfig(), None, (0, 0), (8, 8))
    assert maps_of_movie(CameraConfig(), None, None, (8, 8)) is None


def test_samples_lie_at_random_places_of_the_maps_and_are_read_with_their_own_pixels(mapped: Config) -> None:
    camera, origins = mapped.simulation.camera, []
    maps = maps_of(camera)
    assert maps is not None
    for index in range(6):
        folder = mapped.data.root / f"sample_{index:03d}"
        origin = read_camera_origin(folder)
        assert origin is not None and 0 <= origin[0] <= 4 and 0 <= origin[1] <= 10
        origins.append(origin)
        sample = load_sample(folder, camera)
        here = maps.cut(origin, (20, 20))
        raw = read_movie(folder / f"{folder.name}.ome.tiff")
        photons = (raw - here.offset_adu) * here.gain_e_per_adu / camera.quantum_efficiency
        again = to_photons(torch.from_numpy(sample.frames_THW), camera).numpy()
        np.testing.assert_allclose(again, photons, atol=0.02)
        np.testing.assert_allclose(sample.read_noise_e_HW, here.read_noise_e)
    assert len(set(origins)) > 2
    assert is_complete(mapped.data.root, mapped)


def test_data_with_maps_are_not_read_without_them_or_with_others(mapped: Config) -> None:
    folder, camera = mapped.data.root / "sample_000", mapped.simulation.camera
    with pytest.raises(DataError, match=r"simulation\.camera\.maps"):
        load_sample(folder, camera.model_copy(update={"maps": None}))
    assert camera.maps is not None
    write_camera_maps(camera.maps, some_maps((24, 31)))
    with pytest.raises(DataError, match="other camera maps"):
        is_complete(mapped.data.root, mapped)
    write_camera_maps(camera.maps, some_maps((12, 12)))
    with pytest.raises(DataError, match="do not fit"):
        load_sample(folder, camera)


def test_the_floor_is_known_with_maps_and_hears_their_noise(mapped: Config) -> None:
    samples = load_samples(sorted(mapped.data.root.glob("sample_*")), mapped.simulation.camera)
    loss = make_loss(mapped.training, measure_training_scaling(samples, mapped))
    floor = physical_floor(samples, mapped, loss)
    assert floor.loss is not None, floor.unknown_because
    quiet = []
    for sample in samples:
        assert sample.read_noise_e_HW is not None
        quiet.append(type(sample)(**{**vars(sample), "read_noise_e_HW": 0.9 * sample.read_noise_e_HW}))
    lower = physical_floor(quiet, mapped, loss)
    assert lower.loss is not None and lower.loss < floor.loss
    assert uniform_camera(mapped.simulation.camera).read_noise_e == pytest.approx(np.median(some_maps().read_noise_e))


def test_localizing_with_maps_equals_localizing_corrected_frames(mapped: Config) -> None:
    scaling = measure_scaling(
        input_mean=20, input_std=3, num_pixels=10, columns=tuple(np.arange(3.0) for _ in range(5))
    )
    torch.manual_seed(0)
    model, camera = make_model(mapped, scaling), mapped.simulation.camera
    raw = np.random.default_rng(0).integers(150, 500, (4, 24, 30)).astype(np.uint16)
    maps = some_maps()
    with_maps = localize_frames(model, raw, threshold=0.05, maps=maps)
    corrected = localize_frames(model, maps.to_uniform(raw, camera), threshold=0.05)
    assert len(with_maps) > 0
    np.testing.assert_array_equal(with_maps.x, corrected.x)
    tile = tile_adu(raw[:, 3:11, 6:20], model, maps, (3, 6))
    np.testing.assert_array_equal(tile, maps.to_uniform(raw, camera)[:, 3:11, 6:20])
    assert tile_adu(raw, model, None).dtype == np.float32


def test_a_calibration_of_storm_analysis_lines_up_with_its_movie(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """The noise of the real movie's pixels follows the map that was converted, and not its transpose."""
    calibration = shared_data("storm-analysis-scmos/calib.npy")
    frames = np.fromfile(shared_data("storm-analysis-scmos/sample.dax"), dtype=">u2").reshape(-1, 256, 256)
    out = tmp_path / "maps.h5"
    asked = ["camera-map", str(calibration), "-o", str(out), "--transpose", "--baseline-adu", "100"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    maps = read_camera_maps(out)
    assert np.median(maps.offset_adu) == pytest.approx(100.4, abs=0.1)
    assert np.median(maps.gain_e_per_adu) == pytest.approx(2.11, abs=0.01)
    noise = frames.astype(float).var(axis=0)
    hot = maps.variance_adu2 > 300
    assert np.median(noise[hot]) > 5 * np.median(noise[hot.T])
    wrong = from_storm_analysis(calibration, 100, transpose=False)
    assert np.allclose(wrong.offset_adu.T, maps.offset_adu)


def test_what_is_no_calibration_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.ones((2, 4, 4)))
    np.save(tmp_path / "list.npy", np.array([np.ones((4, 4)), "2"], dtype=object), allow_pickle=True)
    for name, message in (("two.npy", "expected three maps"), ("list.npy", "could execute code")):
        with pytest.raises(DataError, match=message):
            from_storm_analysis(tmp_path / name, 0, transpose=False)


def test_batches_of_mapped_samples_are_in_the_uniform_cameras_adu(mapped: Config) -> None:
    samples = load_samples(sorted(mapped.data.root.glob("sample_*"))[:2], mapped.simulation.camera)
    cuts = validation_cuts(samples, mapped.data)[:1]
    batch = make_batch(cuts, 3, 16, 3)
    cut = cuts[0]
    expected = cut.sample.frames_THW[cut.first_frame : cut.first_frame + 3, cut.top : cut.top + 16, cut.left :][
        ..., :16
    ]
    np.testing.assert_array_equal(batch.adu_BTHW[0].numpy(), expected)
