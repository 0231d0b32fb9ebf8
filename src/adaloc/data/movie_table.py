"""The table of a checked movie: its numbers beside the config's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adaloc.config import Config
from adaloc.data.finding import Finding
from adaloc.data.movie_findings import (
    VAGUE_SLOPE,
    Ratio,
    density_of,
    level_photons,
    light_ratios,
    number_per_px,
    relative_slope,
)
from adaloc.data.movie_measure import MovieFacts
from adaloc.data.movie_reference import Reference, noise_ratio, photons_per_adu, slope_of


@dataclass(frozen=True)
class Row:
    """One line of the table: an estimate from the movie, and the same for the config.

    Attributes:
        name: id of `movie_text.ROWS`.
        movie, config: numbers; NaN where it cannot be told.
        is_off: whether a finding names it.
    """

    name: str
    movie: float
    config: float
    is_off: bool


def movie_table(movie: MovieFacts, reference: Reference, config: Config, findings: list[Finding]) -> list[Row]:
    """The numbers of a movie beside those of a config."""
    off = {finding.cause for finding in findings}
    camera, simulation = reference.camera, config.simulation
    scale = photons_per_adu(camera)
    usual_noise = reference.typical(lambda m: noise_ratio(m.facts.transfer, camera))
    slope, sigma = relative_slope(movie, reference)
    is_sure = slope > 0 and sigma < VAGUE_SLOPE * slope
    gain = camera.gain_e_per_adu / slope if is_sure else math.nan
    gain_sigma = gain * sigma / slope if is_sure else math.nan
    transfer = movie.transfer
    baseline = math.nan
    if is_sure and usual_noise is not None:
        read = (camera.read_noise_e / gain) ** 2 + 1 / 12
        light = (transfer.dark_variance_adu2 / usual_noise.value - read) / (slope_of(camera) * slope)
        baseline = transfer.dark_mean_adu - light
    of_camera = {"camera_gain", "em_gain", "camera_unclear"}
    noise = math.nan if usual_noise is None else noise_ratio(transfer, camera) / usual_noise.value
    width, brightness, density = light_ratios(movie, reference)
    spots = movie.spots
    um2 = simulation.optics.pixel_size_nm.x * simulation.optics.pixel_size_nm.y * 1e-6
    found = reference.typical(lambda m: number_per_px(m.facts))

    def scaled(ratio: Ratio | None, value: float) -> float:
        return math.nan if ratio is None else ratio[0] * value

    area_um2 = math.prod(movie.size_px) * um2
    usual_number = math.nan if found is None else found.value * math.prod(movie.size_px)
    number = math.nan if spots is None else spots.num_per_frame
    shape, emitters = math.nan if width is None else width[1].value, simulation.emitters
    wrong_baseline = {"camera_baseline", "camera_unclear", "offset_removed"}
    return [
        Row("gain", gain, camera.gain_e_per_adu, bool(off & of_camera)),
        Row("gain_sigma", gain_sigma, math.nan, False),
        Row("baseline", baseline, camera.baseline_adu, bool(off & wrong_baseline)),
        Row("noise", noise, 1.0, bool(off & {*of_camera, "camera_baseline"})),
        Row("background", level_photons(movie, camera), simulation.background.mean_photons, "background" in off),
        Row("density", scaled(density, density_of(config)), density_of(config), "density" in off),
        Row("spots_found", number, usual_number, "no_spots" in off),
        Row("spots_found_per_um2", number / area_um2, usual_number / area_um2, False),
        Row("photons", scaled(brightness, emitters.photons_mean), emitters.photons_mean, "photons" in off),
        Row("spot_photons", math.nan if spots is None else spots.found_adu * scale, math.nan, False),
        Row("width", math.nan if spots is None else spots.width_px, shape, "psf_width" in off),
    ]
