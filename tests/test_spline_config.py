"""A calibration in a config: the PSF it becomes, data, floor and model, with its file there and gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from rich.console import Console

from adaloc.config import Config, OpticsConfig, PixelSize, SplinePSFConfig
from adaloc.config_file import parse_config
from adaloc.data.generate import generate
from adaloc.data.scaling import measure_scaling
from adaloc.data.windows import load_samples, measure_training_scaling, split_samples
from adaloc.errors import ConfigError, DataError
from adaloc.localize.command import LocalizeOptions, localize_movies
from adaloc.models.losses import make_loss
from adaloc.models.model_file import load_model, make_model, save_model
from adaloc.simulation.psf import make_psf
from adaloc.simulation.smap_calibration import write_smap_calibration
from adaloc.simulation.spline import Spline, SplinePSF, interpolating_spline, transposed
from adaloc.training.floor import physical_floor
from small import small_config, small_data

OPTICS = OpticsConfig(pixel_size_nm=PixelSize(x=100, y=100))


def some_spline(shape: tuple[int, int, int] = (6, 11, 11)) -> Spline:
    volume = np.random.default_rng(0).uniform(0, 0.01, shape)
    return interpolating_spline(volume, 25.0, 2.0, pixel_size_nm=(100.0, 100.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "psf_3dcal.mat"


def spline_config(folder: Path, **changes: Any) -> Config:
    """A small data set of the spline of a Gaussian."""
    source = make_psf(
        parse_psf({"type": "gaussian", "sigma_x_nm": 150, "sigma_y_nm": 130, "focus_x_nm": -200, "focus_y_nm": 200,
                   "depth_nm": 300, "roi_size_px": 17}), OPTICS,
    )  # fmt: skip
    z = torch.arange(-600.0, 601, 50.0)
    volume = source.images(torch.zeros_like(z), torch.zeros_like(z), z).double().numpy()
    path = folder / "psf_3dcal.mat"
    write_smap_calibration(path, interpolating_spline(volume, 50.0, 12.0, pixel_size_nm=(100, 100)))
    simulation = {
        "psf": {"type": "spline", "file": str(path)}, "optics": {"pixel_size_nm": {"x": 100, "y": 100}},
        "emitters": {"z_min_nm": -500, "z_max_nm": 500},
    }  # fmt: skip
    raw = small_config(folder).model_dump(mode="json")
    raw["simulation"] |= simulation | changes
    return parse_config(raw, "the test's config")


def parse_psf(raw: dict[str, Any]) -> Any:
    return parse_config({"simulation": {"psf": raw}}, "test").simulation.psf


def test_a_config_builds_the_psf_of_its_file(path: Path) -> None:
    spline = some_spline(shape=(6, 15, 15))
    write_smap_calibration(path, spline)
    x, y, z = torch.tensor([0.2]), torch.tensor([-0.3]), torch.tensor([20.0])

    def image(**keys: Any) -> torch.Tensor:
        return make_psf(SplinePSFConfig(type="spline", file=path, **keys), OPTICS).images(x, y, z)

    plain = SplinePSF(spline)
    torch.testing.assert_close(image(), plain.images(x, y, z))
    torch.testing.assert_close(image(roi_size_px=9), plain.images(x, y, z)[:, 2:-2, 2:-2])
    torch.testing.assert_close(image(z_offset_nm=15.0), plain.images(x, y, z + 15))
    torch.testing.assert_close(image(flip_z=True), plain.images(x, y, -z), atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(image(transpose=True), SplinePSF(transposed(spline)).images(x, y, z))


def test_other_pixels_than_the_calibrations_are_refused_unless_the_file_is_wrong(path: Path) -> None:
    write_smap_calibration(path, some_spline())
    other = OpticsConfig(pixel_size_nm=PixelSize(x=100, y=110))
    with pytest.raises(DataError, match="calibrated with pixels of 100 x 100 nm"):
        make_psf(SplinePSFConfig(type="spline", file=path), other)
    make_psf(SplinePSFConfig(type="spline", file=path, check_pixel_size=False), other)


def test_unknown_keys_of_a_spline_are_named() -> None:
    with pytest.raises(ConfigError, match=r'simulation.psf.tiel: unknown key; did you mean "tile"'):
        parse_psf({"type": "spline", "file": "a.mat", "tiel": 1})


def test_a_model_localizes_without_the_file_of_its_psf(tmp_path: Path) -> None:
    config = spline_config(tmp_path)
    scaling = measure_scaling(input_mean=100, input_std=30, num_pixels=10, columns=(np.arange(3.0),) * 5)
    save_model(tmp_path / "model.pth", make_model(config, scaling))
    tifffile.imwrite(tmp_path / "movie.tif", np.full((5, 20, 20), 300, np.uint16))
    (tmp_path / "psf_3dcal.mat").unlink()
    options = LocalizeOptions(threshold=0.99, device="cpu")
    localize_movies(tmp_path / "model.pth", [tmp_path / "movie.tif"], tmp_path / "locs.csv", None, options, Console())
    assert (tmp_path / "locs.csv").exists()
    assert load_model(tmp_path / "model.pth").config.simulation.psf == config.simulation.psf


def test_a_missing_file_stops_a_simulation_before_it_writes_but_not_a_config(tmp_path: Path) -> None:
    config = spline_config(tmp_path)
    (tmp_path / "psf_3dcal.mat").unlink()
    config = parse_config(config.model_dump(mode="json"), "read again")
    with pytest.raises(DataError, match="does not exist"):
        next(generate(config, config.data.root))
    assert not config.data.root.exists()


def test_emitters_deeper_than_the_calibration_are_refused(tmp_path: Path) -> None:
    config = spline_config(tmp_path, emitters={"z_min_nm": -500, "z_max_nm": 650})
    with pytest.raises(ConfigError, match=r"from -500 to 650 nm, and the PSF is calibrated from -600 to 600 nm"):
        next(generate(config, config.data.root))
    list(generate(spline_config(tmp_path, emitters={"z_min_nm": -600, "z_max_nm": 600}), config.data.root))


def test_data_of_a_spline_have_a_floor_while_its_file_is_there(tmp_path: Path) -> None:
    raw = spline_config(tmp_path).model_dump(mode="json")
    config = small_data(tmp_path, simulation=raw["simulation"])
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    loss = make_loss(config.training, measure_training_scaling(training, config))
    floor = physical_floor(validation, config, loss)
    assert floor.loss is not None and 0 < floor.loss < loss.no_information_loss, floor.unknown_because
    (tmp_path / "psf_3dcal.mat").unlink()
    without = physical_floor(validation, config, loss)
    assert without.loss is None and "psf_3dcal.mat does not exist" in without.unknown_because
    # What is complete needs no PSF.
    assert list(generate(config, config.data.root)) == [config.simulation.num_samples]
