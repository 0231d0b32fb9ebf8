"""Phase masks as pupils: scale, orientation, focus, files, and the command."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from typer.testing import CliRunner

from adaloc.cli import app
from adaloc.config import OpticsConfig, PixelSize, PupilPSFConfig
from adaloc.emitters import FloatArray
from adaloc.errors import DataError
from adaloc.simulation.phase_mask import Relay, phase_on_pupil, psf_of_mask, read_phase_mask, support_radius_px
from adaloc.simulation.psf import make_psf
from adaloc.simulation.psf_file import write_psf_file
from adaloc.simulation.pupil import pupil_grid
from adaloc.simulation.vectorial import VectorialPupilPSF, focused_depth_nm

OPTICS = OpticsConfig(
    wavelength_nm=670, numerical_aperture=1.45, refractive_index=1.518, pixel_size_nm=PixelSize(x=110, y=110)
)
RELAY = Relay(mask_pixel_um=30, focal_length_mm=100, magnification=100)
SIDE = 121


def coordinates(radius_px: float) -> tuple[FloatArray, FloatArray]:
    """Rows and columns of a mask's pixels in units of a radius."""
    axis = (np.arange(SIDE) - (SIDE - 1) / 2) / radius_px
    row, column = np.meshgrid(axis, axis, indexing="ij")
    return row, column


def wrapped(phase: FloatArray) -> FloatArray:
    return np.asarray(np.angle(np.exp(1j * phase)))


def centroid(image: FloatArray) -> tuple[float, float]:
    """x, y px from the middle."""
    middle = np.arange(len(image)) - len(image) // 2
    return float((image.sum(0) * middle).sum() / image.sum()), float((image.sum(1) * middle).sum() / image.sum())


def test_the_pupils_edge_follows_the_sine_condition() -> None:
    # sin of the angle behind the microscope is NA / M; a lens of focal length f makes f tan of it.
    angle = math.asin(1.45 / 100)
    assert RELAY.radius_px(1.45) == pytest.approx(100e3 * math.tan(angle) / 30, rel=1e-12)


def test_a_mask_keeps_its_values_on_the_pupil() -> None:
    radius = RELAY.radius_px(1.45)
    row, column = coordinates(radius)
    u, _ = pupil_grid(60)
    v, w = np.meshgrid(u, u, indexing="ij")
    smooth = 1.5 * column - 2.5 * row**2 + 4 * row * column  # reaches beyond pi: it is wrapped
    straight = phase_on_pupil(wrapped(smooth), radius, 60, inverted=False)
    expected = 1.5 * w - 2.5 * v**2 + 4 * v * w
    inside = np.hypot(v, w) < 1
    assert np.abs(wrapped(straight - expected))[inside].max() < 0.01
    turned = phase_on_pupil(wrapped(smooth), radius, 60)
    assert np.allclose(turned, straight[::-1, ::-1])


@pytest.mark.parametrize("inverted", [True, False])
def test_a_prism_moves_the_image_where_the_fourier_transform_says(inverted: bool) -> None:
    # exp(-i k x): a phase that rises along the columns moves the image to larger columns; exp(+i k x) the other way.
    radius, shift_x_px, shift_y_px = RELAY.radius_px(1.45), 5, 2
    row, column = coordinates(radius)
    per_px = 2 * math.pi * 1.45 / 670 * 110
    mask = wrapped(per_px * (shift_x_px * column + shift_y_px * row))
    made = psf_of_mask(mask, OPTICS, RELAY, sample_index=1.518, inverted=inverted, samples=64)
    phase = made.psf.pupil_phase
    assert phase is not None
    psf = VectorialPupilPSF(OPTICS, 41, 64, pupil_phase=phase)
    image = psf.images(torch.zeros(1), torch.zeros(1), torch.zeros(1))[0].numpy()
    sign = 1 if inverted else -1
    peak = np.unravel_index(image.argmax(), image.shape)
    assert [int(peak[1]) - 20, int(peak[0]) - 20] == [sign * shift_x_px, sign * shift_y_px]


def test_a_lens_in_the_mask_is_sharp_at_its_own_depth() -> None:
    # The phase of an emitter 800 nm off focus, taken off by the mask: the image is sharp there, and only there.
    radius = RELAY.radius_px(1.45)
    row, column = coordinates(radius)
    rho = np.minimum(np.hypot(row, column), 1)
    mask = wrapped(-800 * 2 * math.pi / 670 * np.sqrt(1.518**2 - (1.45 * rho) ** 2))
    made = psf_of_mask(mask, OPTICS, RELAY, sample_index=1.518, samples=80)
    psf = VectorialPupilPSF(OPTICS, 41, 80, pupil_phase=made.psf.pupil_phase)
    z = torch.tensor([-800.0, 0.0, 400.0, 800.0, 1200.0])
    peak = psf.images(torch.zeros(5), torch.zeros(5), z).amax((1, 2))
    assert int(peak.argmax()) == 3
    assert float(peak[3]) > 3 * float(peak[1])


def test_the_nominal_focal_plane_is_the_depth_that_is_flattest() -> None:
    depth = focused_depth_nm(OPTICS, 1.33, 1500)
    # Light near the axis would focus at n_sample / n_oil of the way (0.876), steep light at less of it.
    assert 0.6 * 1500 < depth < 0.876 * 1500
    assert focused_depth_nm(OPTICS, 1.518, 1500) == pytest.approx(1500, rel=1e-9)
    gentle = OPTICS.model_copy(update={"numerical_aperture": 0.2})
    assert focused_depth_nm(gentle, 1.33, 1500) == pytest.approx(1500 * 1.33 / 1.518, rel=0.01)


def test_the_scale_is_checked_against_the_masks_own_size() -> None:
    row, column = coordinates(45)
    mask = np.where(np.hypot(row, column) <= 1, 1.0, 0.0)
    assert support_radius_px(mask) == pytest.approx(45, abs=0.6)
    assert support_radius_px(np.zeros((20, 20))) == 0
    with pytest.raises(DataError, match="the pupil's would be 483"):
        psf_of_mask(mask, OPTICS, Relay(3, 100, 100), sample_index=1.33)


def test_masks_are_read_and_refused(tmp_path: Path) -> None:
    mask = np.linspace(-3, 3, 100).reshape(10, 10)
    savemat(tmp_path / "m.mat", {"phase": mask, "name": "tetrapod"})
    np.save(tmp_path / "m.npy", mask)
    assert np.array_equal(read_phase_mask(tmp_path / "m.mat", "phase"), mask)
    assert np.array_equal(read_phase_mask(tmp_path / "m.npy", "anything"), mask)
    with pytest.raises(DataError, match="no variable mask"):
        read_phase_mask(tmp_path / "m.mat", "mask")
    with pytest.raises(DataError, match="does not exist"):
        read_phase_mask(tmp_path / "other.mat", "mask")
    for name, wrong, message in (
        ("long", mask[:5], "real square"),
        ("complex", mask + 1j, "no real numbers"),
        ("small", mask[:4, :4], "a side"),
        ("broken", np.where(mask > 2, np.nan, mask), "no numbers"),
    ):
        np.save(tmp_path / f"{name}.npy", wrong)
        with pytest.raises(DataError, match=message):
            read_phase_mask(tmp_path / f"{name}.npy", "")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "m.npy").read_bytes()[:200])
    with pytest.raises(DataError, match="cut off"):
        read_phase_mask(tmp_path / "cut.npy", "")


def test_the_command_writes_a_psf_that_a_config_takes(tmp_path: Path) -> None:
    row, column = coordinates(44)
    savemat(tmp_path / "m.mat", {"mask": np.where(np.hypot(row, column) <= 1, 3 * row * column, 0.0)})
    command = [
        "mask", str(tmp_path / "m.mat"), "--mask-pixel-um", "30", "--focal-length-mm", "100", "--magnification", "100",
        "--pixel-size-nm", "110", "--wavelength-nm", "670", "--na", "1.45", "--index", "1.518", "--sample-index",
        "1.33", "--focal-plane-nm", "1500", "--blur-nm", "50", "-o", str(tmp_path / "psf.h5"),
        "--plot", str(tmp_path / "psf.png"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "48.3 px" in result.output and "1070" in result.output
    assert (tmp_path / "psf.png").stat().st_size > 10_000
    config = PupilPSFConfig(
        calibration=tmp_path / "psf.h5", focus_depth_nm=1070, roi_size_px=41, field_aberration_nm_rms=0
    )
    share = make_psf(config, OPTICS).images(torch.zeros(3), torch.zeros(3), torch.tensor([-1000.0, 0.0, 2000.0]))
    assert share.shape == (3, 41, 41)
    assert ((share.sum((1, 2)) > 0.5) & (share.sum((1, 2)) < 1.001)).all()


def test_the_tetrapod_that_was_printed_has_four_ends_over_its_depth(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    mask = read_phase_mask(shared_data("deepstorm3d/mask_tetrapod_printed.mat"), "mask_tetra_reut")
    made = psf_of_mask(mask, OPTICS, RELAY, sample_index=1.33, focal_plane_nm=1500)
    # It is cut off where the sample's index ends the aperture, which the optics know nothing of: the scale is right.
    assert made.support_px == pytest.approx(made.sample_radius_px, abs=1)
    write_psf_file(tmp_path / "psf.h5", made.psf)
    config = PupilPSFConfig(calibration=tmp_path / "psf.h5", focus_depth_nm=made.focus_depth_nm, roi_size_px=61)
    z = torch.tensor([300.0, 3800.0]) - made.focus_depth_nm
    low, high = make_psf(config, OPTICS).images(torch.zeros(2), torch.zeros(2), z).double().numpy()
    axis = np.arange(61) - 30
    angles = []
    for image in (low, high):
        bright = np.where(image > 0.2 * image.max(), image, 0)
        x, y = centroid(bright)
        dx, dy = axis - x, axis - y
        xx, yy = (bright.sum(0) * dx**2).sum(), (bright.sum(1) * dy**2).sum()
        xy = (bright * dy[:, None] * dx).sum()
        eigenvalues = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
        assert eigenvalues[1] > 5 * eigenvalues[0]  # a line at either end of the range
        angles.append(0.5 * math.degrees(math.atan2(2 * xy, xx - yy)))
    assert abs(abs(angles[0] - angles[1]) - 90) < 10
