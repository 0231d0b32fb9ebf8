"""The least cross entropy of a detector: against direct counts, and its limits."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy.stats import norm

from adaloc.training import detection_bound as detection_bound_module
from adaloc.training.detection_bound import detection_bound

SIZE = (24, 24)


def bound(x: list[float], y: list[float], sigma_px: float, correlation: float = 0.0, pos_weight: float = 1.0) -> float:
    covariance = sigma_px**2 * np.array([[1, correlation], [correlation, 1]])
    return detection_bound(np.array(x), np.array(y), np.tile(covariance, (len(x), 1, 1)), SIZE, pos_weight)


def test_a_sharp_emitter_in_the_middle_of_a_pixel_costs_nothing() -> None:
    assert bound([10.0], [10.0], 0.01) < 1e-12


def test_an_emitter_on_an_edge_leaves_two_pixels_open() -> None:
    """Binary entropies of two pixels, averaged over the posterior's draws, by numerical integration."""
    sigma, d = 0.05, norm.ppf((np.arange(20000) + 0.5) / 20000)
    share = norm.cdf(d)  # of the posterior on one side of the edge, when its centre missed the truth by d sigma
    expected = 2 * np.mean(-share * np.log(share) - (1 - share) * np.log1p(-share))
    assert bound([10.5], [10.0], sigma) == pytest.approx(expected, rel=0.1)


def test_a_posterior_as_wide_as_the_field_costs_the_entropy_of_its_pixels() -> None:
    """A spread of s px in both axes covers about 2 pi e s^2 pixels: their log, and one more for the empty ones."""
    sigma = 2.0
    categorical = math.log(2 * math.pi * math.e * sigma**2)
    assert bound([12.0], [12.0], sigma) == pytest.approx(categorical + 1, rel=0.05)


def test_more_noise_costs_more() -> None:
    costs = [bound([10.2], [11.4], sigma) for sigma in (0.05, 0.1, 0.2, 0.5, 1.0)]
    assert (np.diff(costs) > 0).all()


def test_what_is_told_lowers_it() -> None:
    assert bound([10.2], [11.4], 0.3, correlation=0.8) < bound([10.2], [11.4], 0.3)


def test_distant_emitters_add_up() -> None:
    both = bound([4.3, 18.4], [5.1, 17.5], 0.3)
    assert both == pytest.approx(bound([4.3], [5.1], 0.3) + bound([18.4], [17.5], 0.3), rel=1e-6)


def test_a_weight_above_one_costs_more() -> None:
    assert bound([10.5], [10.0], 0.2, pos_weight=4.0) > bound([10.5], [10.0], 0.2)


def test_no_emitter_costs_nothing() -> None:
    assert detection_bound(np.zeros(0), np.zeros(0), np.zeros((0, 2, 2)), SIZE) == 0


def test_looking_where_an_emitter_may_be_is_looking_everywhere() -> None:
    """Sharp emitters, some as wide as the field, some outside of it: as from all emitters times all pixels."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-4, 28, 40), rng.uniform(-4, 28, 40)
    sigma = np.where(np.arange(40) % 8 == 0, 9.0, rng.uniform(1e-3, 1.5, 40))
    down, across = (detection_bound_module._pixel_shares(v, sigma, SIZE[0]) for v in (y, x))
    everywhere = np.prod(1 - down[:, :, None] * across[:, None, :], axis=0)
    np.testing.assert_allclose(detection_bound_module._no_emitter(down, across), everywhere, rtol=1e-12)


def test_memory_does_not_grow_as_emitters_times_pixels() -> None:
    """1,000 emitters in 200 x 200 px: each with all pixels are 320 MB."""
    rng = np.random.default_rng(0)
    covariance = np.tile(0.01 * np.eye(2), (1000, 1, 1))
    tracemalloc.start()
    try:
        detection_bound(rng.uniform(0, 199, 1000), rng.uniform(0, 199, 1000), covariance, (200, 200))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
