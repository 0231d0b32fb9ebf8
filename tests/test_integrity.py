"""Data that fit together give no finding; every fault is named; too few data say so."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from adaloc.cli import main
from adaloc.config import Config, SimulationConfig
from adaloc.config_file import dump_config, load_config
from adaloc.data.finding import Finding
from adaloc.data.integrity import Integrity, check_samples
from adaloc.data.integrity_scores import spot_filter
from adaloc.data.integrity_spot import displacement
from adaloc.data.integrity_text import CAUSES, describe
from adaloc.data.integrity_values import check_z, measure_light
from adaloc.data.sample_folder import find_movie, read_movie
from adaloc.data.windows import estimate_background
from adaloc.emitters import EmitterTable
from adaloc.simulation.psf import PSF, make_psf
from adaloc.training.run_log import read_events
from integrity_faults import (
    FAULTS,
    SMALL,
    Samples,
    change,
    make_samples,
    sample_of,
    shipped,
    split,
    varied_simulation,
    with_frames,
)
from small import small_config, small_data

ROOT = Path(__file__).parent.parent
SEEDS = (0, 1, 2)


def simulation_of(**changes: Any) -> SimulationConfig:
    return SimulationConfig.model_validate({**SMALL, **changes})


def check(samples: Samples, simulation: SimulationConfig) -> Integrity:
    return check_samples(*split(samples), simulation)


def causes(result: Integrity) -> list[str]:
    return [finding.cause for finding in result.findings]


@pytest.mark.parametrize("seed", range(24))
def test_healthy_data_of_any_kind_give_no_finding(seed: int) -> None:
    simulation = varied_simulation(np.random.default_rng([seed, 7]))
    simulation = simulation.model_copy(update={"num_samples": 6, "num_frames": min(simulation.num_frames, 16)})
    samples = make_samples(simulation, seed, estimated=seed % 2 == 1)
    assert check(samples, simulation).findings == []


@pytest.mark.parametrize("name", ["adaptive", "dense"])
def test_the_shipped_settings_give_no_finding(name: str) -> None:
    simulation = shipped(name)
    result = check(make_samples(simulation, seed=0), simulation)
    assert result.findings == []
    assert result.undecided == ""
    assert float(result.measured["z_own"]) > 30


# On six samples of eight frames an offset of half a pixel is within its own error; it needs more frames.
MORE_FRAMES = {"half_pixel": {"num_samples": 8, "num_frames": 40}}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_first(name: str, seed: int) -> None:
    cause, inject = FAULTS[name]
    simulation = simulation_of(**MORE_FRAMES.get(name, {}))
    training, validation, used = inject(make_samples(simulation, seed), simulation, np.random.default_rng(seed))
    result = check_samples(training, validation, used)
    assert causes(result)[:1] == [cause], result


@pytest.mark.parametrize("name", ["decoupled", "axes_swapped", "half_pixel", "frame_offset"])
def test_faults_are_seen_through_the_read_noise_of_the_dense_data(name: str) -> None:
    simulation = shipped("dense")
    cause, inject = FAULTS[name]
    training, validation, used = inject(make_samples(simulation, 3), simulation, np.random.default_rng(3))
    assert causes(check_samples(training, validation, used)) == [cause]


def test_the_verdict_does_not_depend_on_the_units_of_frames_and_photons() -> None:
    """The filter takes frames in any linear unit; the weights take photons in any unit."""
    rng = np.random.default_rng(0)
    frames = rng.gamma(2.0, 50.0, (4, 20, 20)).astype(np.float32)
    np.testing.assert_allclose(spot_filter(3.7 * frames + 400), spot_filter(frames), atol=1e-4)
    simulation = simulation_of()
    samples = make_samples(simulation, 0)
    scaled = change(samples, lambda s: {"photons": s.emitters.photons * 1e3})
    assert check(scaled, simulation).measured["z_own"] == check(samples, simulation).measured["z_own"]


def test_more_frames_give_more_certainty() -> None:
    """The score above chance grows about as the root of the number of frames."""
    few, many = (simulation_of(num_frames=length) for length in (10, 40))
    ratios = [
        float(check(make_samples(many, seed), many).measured["z_own"])
        / float(check(make_samples(few, seed), few).measured["z_own"])
        for seed in range(6)
    ]
    assert 1.3 < np.median(ratios) < 3.2


def test_the_measured_offset_is_the_one_put_in() -> None:
    simulation = simulation_of(num_samples=8, num_frames=40)
    samples = make_samples(simulation, 1)
    before = check(samples, simulation).measured
    for dx, dy in ((0.6, -0.4), (-1.5, 2.0)):
        moved = change(samples, lambda s, dx=dx, dy=dy: {"x": s.emitters.x - dx, "y": s.emitters.y - dy})
        after = check(moved, simulation).measured
        assert float(after["offset_x_px"]) - float(before["offset_x_px"]) == pytest.approx(dx, abs=0.15)
        assert float(after["offset_y_px"]) - float(before["offset_y_px"]) == pytest.approx(dy, abs=0.15)


def test_too_few_data_are_said_to_be_too_few() -> None:
    tiny = simulation_of(num_samples=2, num_frames=3)
    result = check(make_samples(tiny, 0), tiny)
    assert result.findings == []
    assert result.undecided == "too few frames"
    dim = simulation_of(
        emitters={"density_per_um2": 0.3, "photons_mean": 30, "photons_std": 1}, background={"mean_photons": 500}
    )
    result = check(FAULTS["decoupled"][1](make_samples(dim, 0), dim, np.random.default_rng(0))[0], dim)
    assert result.findings == []
    assert "too little light" in result.undecided


def test_one_mixed_up_sample_is_named_and_many_stop() -> None:
    simulation = simulation_of(num_samples=8, num_frames=60)
    samples = make_samples(simulation, 0)
    alien = make_samples(simulation, 50)

    def mixed(number: int) -> Integrity:
        swapped = [dataclasses.replace(samples[i], frames_THW=alien[i].frames_THW) for i in range(number)]
        return check([*swapped, *samples[number:]], simulation)

    (found,) = mixed(1).findings
    assert (found.cause, found.severity, found.evidence["samples"]) == (
        "inputs_targets_decoupled", "warn", "sample_000",
    )  # fmt: skip
    assert mixed(5).findings[0].severity == "stop"


def double_helix(seed: int) -> Samples:
    """Two lobes, 4 px from the emitter on either side, that turn with z: no light at the emitter itself."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:40, :40]
    samples = []
    for index in range(6):
        count = 30 * 4
        frame, x, y = np.sort(rng.integers(0, 30, count)), *rng.uniform(0, 39, (2, count))
        z = rng.uniform(-800, 800, count)
        mean = np.full((30, 40, 40), 100.0)
        for t, u, v, height in zip(frame, x, y, z, strict=True):
            angle = np.pi * height / 1600
            for side in (-4, 4):
                lobe_x, lobe_y = u + side * np.cos(angle), v + side * np.sin(angle)
                mean[t] += 200 * np.exp(-((columns - lobe_x) ** 2 + (rows - lobe_y) ** 2) / (2 * 1.3**2))
        frames = (rng.poisson(mean * 0.9) / 0.5 + 100).astype(np.uint16)
        table = EmitterTable(frame, x, y, z, np.full(count, 2 * 200 * 2 * np.pi * 1.3**2))
        samples.append(sample_of(f"sample_{index}", frames, table, np.full(30, 100.0)))
    return samples


def test_a_psf_without_light_in_its_middle_is_no_fault() -> None:
    simulation = SimulationConfig()
    for seed in SEEDS:
        assert check(double_helix(seed), simulation).findings == []


def test_a_structure_that_all_samples_share_does_not_pass_for_a_match() -> None:
    """Emitters on one line in every sample: shuffled, they still lie on it, and are decoupled all the same."""
    emitters = {"density_per_um2": 0.7}
    simulation = simulation_of(num_samples=8, num_frames=40, image_size_px=30, emitters=emitters)
    samples = make_samples(simulation, 0)
    # The truth of emitters near the middle row alone; the others shine unnamed, as light of other layers does.
    near = [s.emitters.select(np.abs(s.emitters.y - 15) < 3) for s in samples]
    kept = [sample_of(s.name, s.frames_THW, n, s.background_T) for s, n in zip(samples, near, strict=True)]
    assert check(kept, simulation).findings == []
    shuffled = [dataclasses.replace(s, frames_THW=kept[i - 1].frames_THW) for i, s in enumerate(kept)]
    assert "inputs_targets_decoupled" in causes(check(shuffled, simulation))


def test_samples_of_different_sizes_and_lengths_are_checked_together() -> None:
    parts = [
        make_samples(simulation_of(num_samples=3, num_frames=length, image_size_px=size), seed)
        for seed, (length, size) in enumerate(((8, 20), (15, 33), (11, 26)))
    ]
    samples = [sample for part in parts for sample in part]
    simulation = simulation_of()
    assert check(samples, simulation).findings == []
    turned = change(samples, lambda s: {"x": s.emitters.y, "y": s.emitters.x})
    assert causes(check(turned, simulation)) == ["axes_swapped"]


def test_light_per_photon_is_that_of_the_camera() -> None:
    """Off by a factor in gain or quantum efficiency, the measured ratio is off by that factor exactly."""
    simulation = simulation_of(num_frames=30)
    samples = make_samples(simulation, 0)
    right = measure_light(samples, simulation.camera)
    assert 0.5 < right.slope < 1
    gain = simulation.camera.model_copy(update={"gain_e_per_adu": 4 * simulation.camera.gain_e_per_adu})
    assert measure_light(samples, gain).slope == pytest.approx(4 * right.slope, rel=1e-6)
    baseline = simulation.camera.model_copy(update={"baseline_adu": 60.0})
    assert measure_light(samples, baseline).slope == pytest.approx(right.slope, rel=1e-6)


def test_two_dimensional_data_have_no_z_to_complain_about() -> None:
    samples = change(make_samples(simulation_of(), 0), lambda s: {"z": 0 * s.emitters.z})
    assert check_z(samples, 800.0) is None
    flat = change(make_samples(simulation_of(), 0), lambda s: {"z": s.emitters.z * 1e-3})
    found = check_z(flat, 800.0)
    assert found is not None
    assert found.evidence["likely"] == "mm"


def test_frames_that_are_dead_or_not_finite_are_named_before_anything_else() -> None:
    simulation = simulation_of()
    samples = make_samples(simulation, 0)
    dead = with_frames(samples, lambda s: np.full_like(s.frames_THW, 300))
    assert causes(check(dead, simulation))[0] == "dead_frames"

    def with_nan(sample: Any) -> Any:
        frames = sample.frames_THW.astype(np.float32)
        frames[2, 3, 4] = np.nan
        return frames

    result = check(with_frames(samples, with_nan), simulation)
    assert result.findings[0].cause == "dead_frames"
    assert result.findings[0].severity == "stop"


def test_every_cause_has_words_in_both_languages_with_all_numbers() -> None:
    simulation = simulation_of(num_frames=30)
    for cause, inject in FAULTS.values():
        result = check_samples(*inject(make_samples(simulation, 1), simulation, np.random.default_rng(1)))
        found = next(f for f in result.findings if f.cause == cause)
        english, chinese = describe(found), describe(found, "zh")
        assert english.startswith(f"{cause}: ")
        assert english.isascii()
        assert any("一" <= letter <= "鿿" for letter in chinese)
        for value in found.evidence.values():
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            assert f" {shown}" in english
        assert json.loads(json.dumps(found.to_dict()))["cause"] == cause
    for words in CAUSES.values():
        assert all(text.endswith((".", "。")) for text in words.remedy)
        assert not any("一" <= letter <= "鿿" for letter in words.what[0] + words.remedy[0])


@pytest.mark.parametrize(
    ("movie", "truth", "depth"),
    [
        ("3DAS_LD_Validate_Frame.tif", "3DAS_LD_Validate_xyz.csv", True),
        ("2DGauss_LD_Validate_Frame.tif", "2DGauss_LD_Validate_xy.csv", False),
    ],
)
def test_a_third_partys_movie_is_clean_and_its_faults_are_seen(
    shared_data: Callable[[str], Path], movie: str, truth: str, depth: bool
) -> None:
    frames = read_movie(shared_data(f"nairr-smlm/{movie}"))
    table = np.genfromtxt(shared_data(f"nairr-smlm/{truth}"), delimiter=",", names=True)
    simulation = load_config(ROOT / "benchmarks" / "config_nairr_3das.json").simulation
    emitters = EmitterTable(
        table["Frame"].astype(np.int64) - 1, table["x_nm"] / 100 - 0.5, table["y_nm"] / 100 - 0.5,
        table["z_nm"] if depth else np.zeros(len(table)), table["Intensity_photons"],
    ).sorted_by_frame()  # fmt: skip
    samples = []
    for index, part in enumerate(np.array_split(np.arange(len(frames)), 5)):
        own = emitters.select((emitters.frame >= part[0]) & (emitters.frame <= part[-1]))
        own = dataclasses.replace(own, frame=own.frame - part[0])
        level = estimate_background(frames[part], own, simulation.camera)
        samples.append(sample_of(f"part_{index}", frames[part], own, np.full(len(part), level)))
    result = check(samples, simulation)
    assert result.findings == []
    assert float(result.measured["photons_ratio"]) == pytest.approx(0.92, abs=0.08)
    assert abs(float(result.measured["offset_x_px"])) < 0.1
    size = frames.shape[1]
    faults: dict[str, Callable[[Any], dict[str, Any]]] = {
        "axes_swapped": lambda s: {"x": s.emitters.y, "y": s.emitters.x},
        "mirrored": lambda s: {"y": size - 1 - s.emitters.y},
        "frame_offset": lambda s: {"frame": s.emitters.frame + 1},
        "pixel_offset": lambda s: {"x": s.emitters.x + 0.5, "y": s.emitters.y + 0.5},
        "coordinates_unit": lambda s: {"x": (s.emitters.x + 0.5) * 100, "y": (s.emitters.y + 0.5) * 100},
    }
    for cause, columns in faults.items():
        assert causes(check(change(samples, columns), simulation)) == [cause]


@pytest.fixture
def noise_movies(tmp_path: Path) -> Config:
    """Sample folders whose movies are noise of the right mean and spread."""
    small_data(tmp_path)
    config = small_config(tmp_path, data={"simulate_if_missing": False}, training={"epochs": 1})
    rng = np.random.default_rng(0)
    for folder in sorted(config.data.root.glob("sample_*")):
        path = find_movie(folder)
        frames = read_movie(path)
        noise = rng.normal(frames.mean(), frames.std(), frames.shape).clip(0, 65535)
        tifffile.imwrite(path, noise.astype(np.uint16))
    return config


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((out + err).split())


def test_the_trainer_refuses_noise_unless_forced(noise_movies: Config, capsys: pytest.CaptureFixture[str]) -> None:
    path = noise_movies.data.root.parent / "config.json"
    path.write_text(json.dumps(dump_config(noise_movies)), encoding="utf-8")
    for command in (["train", "--skip-checks"], ["check"]):
        status, said = run(capsys, *command, "--config", path)
        assert status == 1
        assert "stop inputs_targets_decoupled" in said
        assert "--force" in said
        assert not (noise_movies.output.save_dir / "log.jsonl").exists()
    assert "图像与真值互不对应" in run(capsys, "check", "--lang", "zh", "--config", path)[1]
    assert run(capsys, "check", "--lang", "fr", "--config", path)[0] == 2
    status, said = run(capsys, "train", "--skip-checks", "--force", "--config", path)
    assert status == 0, said
    events = read_events(noise_movies.output.save_dir / "log.jsonl")
    assert [event["event"] for event in events][:3] == ["start", "initial", "integrity"]
    assert events[2]["findings"][0]["cause"] == "inputs_targets_decoupled"
    assert 0 < events[2]["seconds"] < 30


def test_a_finding_without_words_cannot_be_described() -> None:
    with pytest.raises(KeyError):
        describe(Finding("no_such_cause", "warn"))


@dataclasses.dataclass
class _BesideItsEmitter:
    """A PSF whose light lies at a distance from the coordinates that it is defined by."""

    psf: PSF
    x_px: float

    @property
    def roi_size_px(self) -> int:
        return self.psf.roi_size_px

    def images(self, x_N: Any, y_N: Any, z_N: Any, phase_NK: Any = None, magnitude_NK: Any = None) -> Any:
        return self.psf.images(x_N + self.x_px, y_N, z_N, phase_NK, magnitude_NK)


@pytest.mark.parametrize(("moved_px", "severities"), [(0.0, []), (0.5, ["warn"]), (2.0, ["stop"])])
def test_what_the_psf_displaces_itself_is_no_offset_of_the_coordinates(moved_px: float, severities: list[str]) -> None:
    simulation = simulation_of(num_samples=8, num_frames=40)
    displaced = _BesideItsEmitter(make_psf(simulation.psf, simulation.optics), 1.5)
    samples = change(
        make_samples(simulation, 0), lambda s: {"x": s.emitters.x - displaced.x_px, "y": s.emitters.y - moved_px}
    )
    assert "pixel_offset" in causes(check(samples, simulation))
    result = check_samples(*split(samples), simulation, displaced)
    assert [finding.severity for finding in result.findings if finding.cause == "pixel_offset"] == severities
    for finding in result.findings:
        assert float(finding.evidence["offset_x_px"]) == pytest.approx(0, abs=0.15)
        assert float(finding.evidence["offset_y_px"]) == pytest.approx(moved_px, abs=0.15)


@pytest.mark.parametrize("moved_px", [(0.0, 0.0), (1.3, -0.4), (-3.0, 2.5)])
def test_a_spot_is_found_where_it_was_moved_to(moved_px: tuple[float, float]) -> None:
    """Any shape, also one that is not symmetric; between pixels to a tenth of one, by a parabola."""
    line = np.arange(-32, 33)

    def bent(x: Any, y: Any) -> Any:
        return np.exp(-((x - 3) ** 2 + y**2) / 8) + 0.5 * np.exp(-((x + 2) ** 2 + (y - 4) ** 2) / 8)

    spot = bent(*np.meshgrid(line, line))
    middle = slice(24, 41)
    total = bent(*np.meshgrid(line - moved_px[0], line - moved_px[1]))[middle, middle]
    assert displacement(total, spot[16:49, 16:49]) == pytest.approx(moved_px, abs=0.12)
