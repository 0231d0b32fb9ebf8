"""Blinking, camera and composed frames: laws, and the files that hold them."""

import dataclasses
import json
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch

from adaloc.config import CameraConfig, EmittersConfig, SimulationConfig
from adaloc.data.generate import generate, is_complete
from adaloc.data.sample_folder import read_background, read_emitters, read_movie, read_pixel_size
from adaloc.data.windows import load_sample
from adaloc.emitters import EmitterTable
from adaloc.errors import DataError
from adaloc.simulation.blinking import draw_molecules, emissions
from adaloc.simulation.camera import expose, to_photons
from adaloc.simulation.frames import draw_emitters, simulate_sample
from adaloc.simulation.psf import make_psf
from small import small_config, small_data


@pytest.mark.parametrize("whole_frames", [False, True])
def test_density_is_steady_from_the_first_frame_to_the_last(whole_frames: bool) -> None:
    config = EmittersConfig(density_per_um2=2.0, on_time_frames=3.0, whole_frames=whole_frames)
    per_frame = np.zeros(30)
    for seed in range(40):
        molecules = draw_molecules(config, 30, (64, 64), 40.0, np.random.default_rng(seed))
        per_frame += np.bincount(emissions(molecules, 30).frame, minlength=30)
    per_frame /= 40
    assert per_frame.mean() == pytest.approx(80, rel=0.03)
    assert per_frame[:3].mean() == pytest.approx(80, rel=0.06)
    assert per_frame[-3:].mean() == pytest.approx(80, rel=0.06)


def test_with_whole_frames_every_frame_has_all_the_photons() -> None:
    config = EmittersConfig(on_time_frames=2.0, whole_frames=True, photons_std=0)
    rows = emissions(draw_molecules(config, 50, (64, 64), 40.0, np.random.default_rng(0)), 50)
    np.testing.assert_allclose(rows.photons, config.photons_mean)


def test_photons_of_a_molecule_add_up_to_its_on_time() -> None:
    molecules = draw_molecules(EmittersConfig(on_time_frames=4.0), 400, (64, 64), 40.0, np.random.default_rng(0))
    rows = emissions(molecules, 400)
    whole = (molecules.start_frame > 0) & (molecules.start_frame + molecules.on_time_frames < 400)
    summed = np.bincount(rows.emitter_id, weights=rows.photons, minlength=len(molecules))
    np.testing.assert_allclose(summed[whole], (molecules.photons_per_frame * molecules.on_time_frames)[whole])
    assert molecules.on_time_frames.mean() == pytest.approx(4.0, rel=0.1)
    assert (np.diff(rows.frame) >= 0).all()


@pytest.mark.parametrize("em_gain", [1.0, 200.0])
def test_camera_variance_against_mean_is_a_line_with_the_gain_as_slope(em_gain: float) -> None:
    camera = CameraConfig(
        quantum_efficiency=0.8, em_gain=em_gain, gain_e_per_adu=2.0 if em_gain == 1 else 40.0, read_noise_e=5.0
    )
    levels = torch.tensor([50.0, 200.0, 800.0, 2000.0])
    adu = expose(levels[:, None].expand(4, 40_000).contiguous(), camera, torch.Generator().manual_seed(0)).double()
    mean, variance = adu.mean(1) - camera.baseline_adu, adu.var(1)
    slope, offset = np.polyfit(mean.numpy(), variance.numpy(), 1)
    # The multiplication register doubles the variance (excess noise factor sqrt 2).
    assert slope == pytest.approx((2 if em_gain > 1 else 1) * em_gain / camera.gain_e_per_adu, rel=0.04)
    np.testing.assert_allclose(to_photons(adu, camera).mean(1).numpy(), levels.numpy(), rtol=0.01)
    if em_gain == 1:
        # Rounding to whole ADU adds 1/12.
        assert offset == pytest.approx((5.0 / 2.0) ** 2 + 1 / 12, abs=3.0)


def test_a_sample_is_a_function_of_seed_and_index() -> None:
    config = SimulationConfig(num_frames=6, image_size_px=24)
    psf = make_psf(config.psf, config.optics)
    one, again, other = (simulate_sample(config, psf, None, seed=1, index=i) for i in (3, 3, 4))
    np.testing.assert_array_equal(one.frames_THW, again.frames_THW)
    assert not np.array_equal(one.frames_THW, other.frames_THW)


def test_frames_hold_the_photons_of_their_emitters_in_the_right_place() -> None:
    config = SimulationConfig()
    psf = make_psf(config.psf, config.optics)
    table = EmitterTable(
        frame=np.array([0, 1]), x=np.array([10.3, 30.0]), y=np.array([25.0, 8.6]), z=np.zeros(2),
        photons=np.array([1000.0, 500.0]),
    )  # fmt: skip
    frames = draw_emitters(psf, table, None, None, (3, 40, 48), torch.device("cpu")).numpy()
    assert frames[2].max() == 0
    for frame, x, y, photons in ((0, 10.3, 25.0, 1000.0), (1, 30.0, 8.6, 500.0)):
        assert frames[frame].sum() == pytest.approx(photons, rel=0.05)
        row, column = np.unravel_index(frames[frame].argmax(), (40, 48))
        assert (row, column) == (round(y), round(x))


def test_a_sample_folder_survives_writing_and_reading(tmp_path: Path) -> None:
    config = small_data(tmp_path)
    folder = config.data.root / "sample_001"
    psf = make_psf(config.simulation.psf, config.simulation.optics)
    from adaloc.simulation.field_map import read_field_map

    made = simulate_sample(
        config.simulation, psf, read_field_map(config.data.root / "zmap.h5"), seed=config.seed, index=1
    )
    np.testing.assert_array_equal(read_movie(folder / "sample_001.ome.tiff"), made.frames_THW)
    table = read_emitters(folder)
    for name in ("frame", "x", "y", "z", "photons", "emitter_id"):
        np.testing.assert_allclose(getattr(table, name), getattr(made.emitters, name), atol=1e-9, err_msg=name)
    np.testing.assert_allclose(read_background(folder), made.background_T)
    size = read_pixel_size(folder)
    assert size is not None
    assert (size.x, size.y) == pytest.approx((101.11, 98.83))
    with h5py.File(folder / "emitters.h5") as file:
        # The file counts from the corner and in micrometres.
        np.testing.assert_allclose(file["records/xyz"][:, 0], made.emitters.x + 0.5)
        np.testing.assert_allclose(file["records/xyz"][:, 2], made.emitters.z / 1000)
        assert file["zernike_coeffs/phase"].shape == (len(made.molecules), 21)


def test_an_interrupted_simulation_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = small_data(tmp_path / "whole")
    part = small_config(tmp_path / "part")
    steps = generate(part, part.data.root)
    assert [next(steps), next(steps), next(steps)] == [0, 1, 2]
    steps.close()
    (part.data.root / ".sample_002.tmp").mkdir()  # what a kill leaves
    assert not is_complete(part.data.root, part)
    assert list(generate(part, part.data.root)) == [2, 3, 4, 5, 6]
    assert is_complete(part.data.root, part)
    for index in range(6):
        name = f"sample_{index:03d}"
        np.testing.assert_array_equal(
            read_movie(whole.data.root / name / f"{name}.ome.tiff"),
            read_movie(part.data.root / name / f"{name}.ome.tiff"),
        )


def test_data_simulated_otherwise_are_refused_and_named(tmp_path: Path) -> None:
    small_data(tmp_path)
    other = small_config(tmp_path, simulation={"camera": {"gain_e_per_adu": 2.0}})
    with pytest.raises(DataError, match=r"simulation\.camera\.gain_e_per_adu: 0\.5 there, 2\.0"):
        is_complete(other.data.root, other)
    description = other.data.root / "dataset.json"
    description.write_text(json.dumps({"simulation": 3}), encoding="utf-8")
    with pytest.raises(DataError, match="broken"):
        is_complete(other.data.root, other)


def test_older_folders_by_other_tools_are_read_without_change(tmp_path: Path) -> None:
    """No dataset.json, no OME metadata, no background, another TIFF name, shuffled records."""
    config = small_data(tmp_path)
    new, old = config.data.root / "sample_000", tmp_path / "old" / "sample_40"
    old.mkdir(parents=True)
    tifffile.imwrite(old / "simulation_40.ome.tiff", read_movie(new / "sample_000.ome.tiff"), ome=False)
    order = np.random.default_rng(0).permutation(len(read_emitters(new)))
    with h5py.File(new / "emitters.h5") as source, h5py.File(old / "emitters.h5", "w") as target:
        for key in ("frame_ix", "id", "phot", "xyz"):
            target[f"records/{key}"] = source[f"records/{key}"][:][order]
    ours, theirs = (load_sample(folder, config.simulation.camera) for folder in (new, old))
    np.testing.assert_array_equal(theirs.frames_THW, ours.frames_THW)
    np.testing.assert_array_equal(theirs.first_row_T, ours.first_row_T)
    np.testing.assert_allclose(np.sort(theirs.emitters.x), np.sort(ours.emitters.x))
    assert read_pixel_size(old) is None


def test_the_background_of_older_folders_is_estimated_from_free_pixels(tmp_path: Path) -> None:
    config = SimulationConfig(num_frames=40, image_size_px=64, emitters=EmittersConfig(density_per_um2=0.1))
    psf = make_psf(config.psf, config.optics)
    sample = simulate_sample(config, psf, None, seed=0, index=0)
    from adaloc.data.windows import estimate_background

    estimate = estimate_background(sample.frames_THW, sample.emitters, config.camera)
    assert estimate == pytest.approx(sample.background_T.mean(), rel=0.05)
    crowded = dataclasses.replace(sample.emitters, x=sample.emitters.x * 0 + 5, y=sample.emitters.y * 0 + 5)
    assert np.isnan(estimate_background(sample.frames_THW[:, :8, :8], crowded, config.camera))


def test_free_pixels_are_those_far_from_every_emitter() -> None:
    """Also near the edges, and of emitters outside of the field."""
    from adaloc.data.windows import _FREE_DISTANCE_PX, _pixels_near

    rng = np.random.default_rng(0)
    x, y = rng.uniform(-12, 72, 25), rng.uniform(-12, 52, 25)
    x[:2], y[:2] = (30.0, 30.5), (20.0, 20.5)  # whole and half pixels
    rows, columns = np.mgrid[:40, :60]
    distance = np.hypot(columns[..., None] - x, rows[..., None] - y)
    np.testing.assert_array_equal(_pixels_near(x, y, (40, 60)), (distance <= _FREE_DISTANCE_PX).any(axis=-1))


def test_memory_of_the_estimate_does_not_grow_as_emitters_times_pixels() -> None:
    """3,000 emitters in 512 x 512 px: the distance of each pixel to each emitter would be 6 GB."""
    from adaloc.data.windows import estimate_background

    rng = np.random.default_rng(0)
    places = {name: rng.uniform(0, 511, 3000) for name in "xyz"}
    table = EmitterTable(frame=np.zeros(3000, np.int64), photons=np.ones(3000), **places)
    tracemalloc.start()
    try:
        estimate = estimate_background(np.full((1, 512, 512), 280, np.uint16), table, CameraConfig())
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert estimate == pytest.approx(100)
