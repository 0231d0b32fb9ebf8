"""Maps of other programs: order, unit, orientation, and what is lost."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import OpticsConfig, PixelSize
from adaloc.errors import DataError
from adaloc.simulation.aberration_map import FD_DEEPLOC_MODES, convert_aberration_map
from adaloc.simulation.field_map import read_field_map
from adaloc.simulation.pupil import ScalarPupilPSF, pupil_grid
from adaloc.simulation.zernike import NUM_MODES, noll_to_radial_azimuthal, zernike_modes


def saved(path: Path, array: np.ndarray, name: str = "aber_map") -> Path:
    savemat(path, {name: array})
    return path


def test_every_fd_deeploc_plane_is_the_wavefront_that_it_was(tmp_path: Path) -> None:
    """Its wavefront, drawn with its own angles (first axis: rows), equals ours from the converted coefficients."""
    rng = np.random.default_rng(0)
    in_waves = rng.normal(size=21) * 0.05
    converted = convert_aberration_map(saved(tmp_path / "a.mat", np.tile(in_waves, (3, 4, 1))))
    u, _ = pupil_grid(32)
    row, column = np.meshgrid(u, u, indexing="ij")
    rho = np.hypot(row, column)
    all_modes = {
        noll_to_radial_azimuthal(j + 1): mode for j, mode in enumerate(zernike_modes(rho, np.arctan2(column, row), 45))
    }
    ours = [noll_to_radial_azimuthal(j) for j in range(1, NUM_MODES + 1)]
    kept = [(c, n_m) for c, n_m in zip(in_waves, FD_DEEPLOC_MODES, strict=True) if n_m in ours]
    theirs = sum(2 * np.pi * c * all_modes[n_m] for c, n_m in kept)
    here = np.tensordot(converted.field_map.phase[:, 1, 2], zernike_modes(rho, np.arctan2(row, column)), axes=1)
    np.testing.assert_allclose(here, theirs, atol=1e-9)
    lost = [c for c, n_m in zip(in_waves, FD_DEEPLOC_MODES, strict=True) if n_m not in ours]
    assert len(lost) == 6
    assert converted.lost_rad_rms == pytest.approx(2 * np.pi * np.linalg.norm(lost))
    assert converted.kept_rad_rms == pytest.approx(2 * np.pi * np.linalg.norm([c for c, _ in kept]))


def test_rows_and_columns_of_the_field_stay_and_transposed_swaps_them(tmp_path: Path) -> None:
    array = np.zeros((6, 9, 23))
    array[..., 1] = np.arange(6)[:, None] * 0.01
    array[..., 21:] = 0.9
    converted = convert_aberration_map(saved(tmp_path / "a.mat", array))
    assert converted.field_map.size_px == (6, 9)
    assert converted.has_blur
    np.testing.assert_allclose(converted.field_map.phase[5, 4, :], -2 * np.pi * 0.04)  # cos 2 from the rows
    swapped = convert_aberration_map(tmp_path / "a.mat", transposed=True).field_map
    assert swapped.size_px == (9, 6)
    np.testing.assert_allclose(swapped.phase[5, :, 4], 2 * np.pi * 0.04)


def test_a_map_of_uipsf_keeps_noll_and_radians(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    magnitude, phase = rng.normal(size=(2, 45)) * 0.05
    magnitude[0] = 0.5
    array = np.tile(np.stack([magnitude, phase], axis=-1), (5, 7, 1, 1))
    path = tmp_path / "map.npy"
    np.save(path, array)
    converted = convert_aberration_map(path)
    here, amplitude = converted.field_map.coefficients_at(np.array([3.0]), np.array([2.0]))
    np.testing.assert_allclose(here[0, 4:], phase[4:21])
    np.testing.assert_allclose(here[0, :4], 0)
    np.testing.assert_allclose(amplitude[0], magnitude[:21] / 0.5)
    assert converted.lost_rad_rms == pytest.approx(np.linalg.norm(phase[21:]))


def test_a_coarse_map_of_uipsf_spans_the_field(tmp_path: Path) -> None:
    path = tmp_path / "psf.h5"
    coarse = np.zeros((2, 45, 3, 4))
    coarse[0, 0] = 1
    coarse[1, 5] = np.array([0.0, 0.1, 0.2])[:, None]
    with h5py.File(path, "w") as file:
        file["res/zernike_map"] = coarse
        file["res/pos"] = np.zeros((4, 3))
    with pytest.raises(DataError, match="--image-size-px"):
        convert_aberration_map(path)
    field_map = convert_aberration_map(path, (41, 31)).field_map
    assert field_map.size_px == (41, 31)
    np.testing.assert_allclose(field_map.phase[5, [0, 20, 40], 8], [0, 0.1, 0.2], atol=1e-9)


@pytest.mark.parametrize("shape", [(5, 5, 20), (5, 5), (2, 45, 3)])
def test_other_shapes_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="expected"):
        convert_aberration_map(saved(tmp_path / "a.mat", np.zeros(shape)))


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.mat").write_text("no matrix")
    for name in ("text.mat", "missing.mat"):
        with pytest.raises(DataError, match=name):
            convert_aberration_map(tmp_path / name)


def test_the_command_writes_what_simulate_reads(tmp_path: Path) -> None:
    array = np.zeros((8, 8, 21))
    array[..., 0] = 0.08
    array[..., 11] = 0.02
    source, out = saved(tmp_path / "aber_map.mat", array), tmp_path / "map.h5"
    result = CliRunner().invoke(app, ["field-map", str(source), "-o", str(out)])
    assert result.exit_code == 0
    assert "0.503 rad rms" in result.output
    assert "0.126 rad rms in modes beyond Noll 21" in result.output
    phase, _ = read_field_map(out).coefficients_at(np.array([4.0]), np.array([4.0]))
    optics = OpticsConfig(pixel_size_nm=PixelSize(x=100, y=100))
    zero = torch.zeros(1)
    image = ScalarPupilPSF(optics, 21).images(zero, zero, zero + 400, torch.from_numpy(phase))[0]
    torch.testing.assert_close(image, image.T, atol=1e-6, rtol=1e-4)  # (2, -2) lies along a diagonal
    assert float(image.sum()) > 0.5
