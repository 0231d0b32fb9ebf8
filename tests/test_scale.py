"""What benchmarks/scale.py says of times and memory: linear and quadratic series are told apart."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import scale  # noqa: E402

UNITS = [scale.units_of(size, 0.007 * size**2, 33) for size in scale.SIZES]
EMITTERS = [671 * density for density in scale.DENSITIES]


def points(values: Any, **more: Any) -> list[dict[str, Any]]:
    return [
        {"units": u, "emitters_per_frame": e, "seconds": v, "megabytes": v, **more}
        for u, e, v in zip(UNITS, [*EMITTERS, 0.0], values, strict=False)
    ]


@pytest.mark.parametrize(
    ("seconds", "is_linear"),
    [
        (lambda u: 1e-7 * u, True),
        (lambda u: 0.5 + 1e-7 * u, True),  # what a frame costs whatever its size
        (lambda u: 1e-7 * u**0.8, True),
        (lambda u: 1e-7 * u * np.log(u), True),  # a sort
        (lambda u: 1e-14 * u**2, False),
        (lambda u: 1e-7 * u * (1 + u / UNITS[-1]), False),  # half of it quadratic at the largest size
        (lambda u: 1e-10 * u**1.5, False),
    ],
)
def test_growth_with_the_size_is_judged(seconds: Any, is_linear: bool) -> None:
    judged = scale.against_size(points([seconds(u) for u in UNITS]), "seconds")
    assert judged["no_faster_than_linear"] == is_linear


def test_noise_of_five_percent_does_not_decide() -> None:
    rng = np.random.default_rng(0)
    linear, quadratic = (
        [scale.against_size(points([u**power * rng.normal(1, 0.05) for u in UNITS]), "seconds") for _ in range(200)]
        for power in (1.0, 2.0)
    )
    assert all(judged["no_faster_than_linear"] for judged in linear)
    assert not any(judged["no_faster_than_linear"] for judged in quadratic)


@pytest.mark.parametrize(
    ("seconds", "is_linear"),
    [
        (lambda e: 1.0 + 0 * e, True),
        (lambda e: 1.0 + 1e-3 * e, True),
        (lambda e: 1e-3 * e, True),
        (lambda e: 1.0 - 1e-5 * e, True),
        (lambda e: 1e-6 * e**2, False),
        (lambda e: 1.0 + 1e-6 * e**2, False),
        (lambda e: 1.0 + 1e-9 * e**3, False),
    ],
)
def test_growth_with_the_density_is_judged(seconds: Any, is_linear: bool) -> None:
    judged = scale.against_density(points([seconds(e) for e in EMITTERS]), "seconds")
    assert judged["no_faster_than_linear"] == is_linear


def test_exponents_are_those_of_powers() -> None:
    assert scale.exponents(UNITS, np.array(UNITS) ** 1.7) == pytest.approx([1.7] * 5)
    assert scale.last_slope(UNITS, np.array(UNITS) ** 2) == pytest.approx(2)


def test_every_stage_with_enough_points_has_a_verdict() -> None:
    series = {"size": points(UNITS), "density": points(EMITTERS[:2])}
    assert list(scale.verdicts({"train": series})) == ["train, size"]


def test_the_memory_of_a_step_is_judged_for_each_target() -> None:
    """16 small windows take as much as one large one; a target of the large one takes 16 times as much."""
    small, large = {"megabytes": 8.0, "seconds": 0.1, "batch": 16}, {"megabytes": 8.0, "seconds": 1.6, "batch": 1}
    assert [scale.of_unit(p, "megabytes") for p in (small, large)] == [0.5, 8.0]
    assert [scale.of_unit(p, "seconds") for p in (small, large)] == [0.1, 1.6]


def test_steps_and_movies_hold_about_as_many_pixels_whatever_the_size(tmp_path: Path) -> None:
    batches = [scale.config_of(size, 0.7, tmp_path).data.batch_size for size in scale.SIZES]
    assert batches == [16, 16, 4, 1, 1, 1]
    assert [scale.movie_frames(size) for size in scale.SIZES] == [400, 128, 32, 8, 3, 3]


def test_memory_and_time_are_those_of_this_process() -> None:
    now = scale.resident_megabytes("VmRSS")
    assert 10 < now <= scale.resident_megabytes("VmHWM")
    calls: list[int] = []
    measured = scale.repeated(lambda: calls.append(1), per=2, dropped=1)
    assert measured["repeats"] == 5 * scale.REPEATS == len(calls) - 1
    assert measured["seconds"] < 0.1


def test_the_kept_results_are_judged_as_the_script_judges() -> None:
    results = json.loads(scale.RESULTS.read_text(encoding="utf-8"))
    assert results["verdicts"] == scale.verdicts(results["stages"])
    assert set(results["stages"]) == set(scale.STAGES)
