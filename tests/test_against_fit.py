"""The choice that benchmarks/against_fit.py makes for each fit, and the figures near the focus, on hand-made cases."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from adaloc.config import SimulationConfig
from adaloc.config_file import load_config
from adaloc.emitters import EmitterTable, concatenate

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import against_fit  # noqa: E402
from picasso_fit import Found  # noqa: E402


@pytest.fixture(scope="module")
def simulation() -> SimulationConfig:
    return load_config(against_fit.CONFIG).simulation


def make_table(num: int, x_px: float, z_nm: float = 0.0) -> EmitterTable:
    """One in each frame, in the middle row."""
    full = np.full(num, 1.0)
    return EmitterTable(frame=np.arange(num), x=full * x_px, y=full * 30, z=full * z_nm, photons=full * 5000)


def test_the_choice_leaves_out_what_is_dim_or_fits_badly(simulation: SimulationConfig) -> None:
    truth = make_table(40, 20.0)
    # The emitters, then what is false: dim detections, and bright ones that fit badly.
    tables = [truth, make_table(30, 40.0), make_table(4, 50.0)]
    gradient = np.repeat([6000.0, 1500.0, 6000.0], [40, 30, 4])
    misfit = np.repeat([0.1, 0.1, 9.0], [40, 30, 4])
    good = Found(concatenate(tables), gradient, misfit)
    empty = Found(tables[1], gradient[40:70], misfit[40:70])
    choice = against_fit.tune(simulation, {(7, 0.0): empty, (9, 1.0): good}, truth)
    assert (choice.box, choice.smoothing_px) == (9, 1.0)
    assert 1500 <= choice.net_gradient < 6000
    assert 0.1 <= choice.misfit < 9
    assert choice.jaccard == 1


def test_nothing_to_choose_from_is_an_error(simulation: SimulationConfig) -> None:
    nothing = Found(make_table(3, 20.0), np.full(3, 10.0), np.zeros(3))
    with pytest.raises(ValueError, match="net gradient"):
        against_fit.tune(simulation, {(7, 0.0): nothing}, make_table(3, 20.0))


def test_figures_near_the_focus_count_its_emitters_alone(simulation: SimulationConfig) -> None:
    near, missed, far = make_table(10, 20.0, 300.0), make_table(5, 40.0, -300.0), make_table(10, 30.0, 700.0)
    truth = concatenate([near, missed, far])
    pixel_x = simulation.optics.pixel_size_nm.x
    found = concatenate([
        near.with_columns(x=near.x + 30 / pixel_x, z=near.z + 40), far.with_columns(z=far.z + 400)
    ])  # fmt: skip
    scene = against_fit.Scene("", np.zeros((10, 64, 64), np.uint16), truth)
    result = against_fit.figures(simulation, found, scene)
    assert result["within_400_nm"]["recall"] == pytest.approx(10 / 15)
    assert result["within_400_nm"]["rmse_lateral_nm"] == pytest.approx(30)
    assert result["within_400_nm"]["rmse_axial_nm"] == pytest.approx(40)
    assert result["rmse_axial_nm"] == pytest.approx(np.sqrt((40**2 + 400**2) / 2))
    assert result["jaccard"] == pytest.approx(20 / 25)


def test_a_mean_pupil_has_the_mean_coefficients(simulation: SimulationConfig) -> None:
    field_map = against_fit.field_map_of(load_config(against_fit.CONFIG))
    assert field_map is not None
    psf = against_fit.MeanPupil(simulation, field_map, 13)
    zero = np.zeros(1)
    import torch

    image = psf.images(*(torch.from_numpy(zero).float() for _ in range(3)))
    assert image.shape == (1, 13, 13)
    assert 0.8 < float(image.sum()) <= 1.001
