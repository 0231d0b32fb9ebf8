"""Whether a movie fits a config: its measurements beside those of movies that the config would make.

The noise tells the camera apart from the light. A camera of gain g (ADU per electron, twice that on an EMCCD) and
baseline b has at the mean m the variance g (m - b) + read noise: where that does not hold, gain, baseline or read noise
of the config are not the camera's, whatever the light is. How the variance grows with the mean tells which.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from adaloc.config import BackgroundConfig, CameraConfig, Config, PixelSize
from adaloc.data.finding import Finding
from adaloc.data.movie_measure import MovieFacts
from adaloc.data.movie_numbers import RawFacts, check_numbers
from adaloc.data.movie_reference import (
    SPREAD_OF_FEW,
    Reference,
    Typical,
    noise_ratio,
    photons_per_adu,
    slope_of,
)

# What is allowed beside three times the spread between simulated movies. The noise is known to a few percent. Networks
# bear a factor of two in light and more in density, of which the config is a rough guess; the width decides on z.
_NOISE_FACTOR = 1.12
_SLOPE_FACTOR = 1.5
_WIDTH_FACTOR = 1.13
_BRIGHTNESS_FACTOR = 2.0
_DENSITY_FACTOR = 2.5
_BACKGROUND_FACTOR = 1.4
_BACKGROUND_STDS = 2.0
_BACKGROUND_PHOTONS = 2.0
_PIXEL_SIZE_FACTOR = 1.02
_ROUGH_NOISE_FACTOR = 1.6  # without simulated movies to compare with, crowding and structure have to be allowed for
_ROUGH_BACKGROUND_FACTOR = 2.0
_SPREADS = 3.0
VAGUE_SLOPE = 0.5  # relative error beyond which the slope decides nothing
_UNDECIDED_SIGMAS = 1.0  # of the slope, by which it must lie nearer to one explanation than to the other
_EM_FACTOR = 4.0  # of gain, beyond which a gain register that one side does not know of is the likeliest reason
_SPREAD_PER_SPOT = 0.4  # few spots differ more than few simulated movies show


def quick_findings(movie: MovieFacts, camera: CameraConfig, background_photons: float) -> list[Finding]:
    """Background and noise against a camera and an expected background, without simulated movies; so only roughly.

    Args:
        movie: measured in ADU of `camera`.
        camera: uniform.
        background_photons: expected, per px; NaN where nothing is expected.
    """
    ratio = noise_ratio(movie.transfer, camera)
    findings = []
    if not 1 / _ROUGH_NOISE_FACTOR <= ratio <= _ROUGH_NOISE_FACTOR:
        findings.append(Finding("camera_noise", "warn", {"noise_ratio": ratio}))
    level = level_photons(movie, camera)
    low, high = background_photons / _ROUGH_BACKGROUND_FACTOR, background_photons * _ROUGH_BACKGROUND_FACTOR
    if level < low - _BACKGROUND_PHOTONS or level > high + _BACKGROUND_PHOTONS:
        evidence: dict[str, float | str] = {
            "background_photons": level, "config_low_photons": low, "config_high_photons": high,
        }  # fmt: skip
        findings.append(Finding("background", "warn", evidence))
    return findings


def judge_movie(
    raw: RawFacts, num_pixels: int, movie: MovieFacts, reference: Reference, config: Config, pixel_nm: PixelSize | None
) -> list[Finding]:
    """Compares a movie with a config.

    Args:
        raw: of the numbers in the file. num_pixels: looked at.
        movie: measured in ADU of the config's uniform camera.
        reference: movies of the config, measured likewise.
        config: the config.
        pixel_nm: what the movie's metadata say, or None.

    Returns:
        Findings; a movie that the config itself makes has none.
    """
    camera = reference.camera
    findings = check_numbers(raw, num_pixels, camera)
    converted = any(f.cause in ("eight_bit", "not_adu", "offset_removed") for f in findings)
    width = light_ratios(movie, reference)[0]
    of_camera = (
        None if converted else _camera(movie, reference, psf_fits=width is None or not _is_off(width, _WIDTH_FACTOR))
    )
    findings += [] if of_camera is None else [of_camera]
    gain_holds = not converted and (of_camera is None or of_camera.cause == "camera_baseline")
    light = _light(movie, reference, config, gain_holds=gain_holds)
    if of_camera is not None and of_camera.cause == "em_gain":
        light = []  # so far from the config that its movies say nothing about this one's light
    # Where spots lie closer than the config says, their light is what is seen between them.
    crowded = any(f.cause == "density" and float(f.evidence["density_per_um2"]) > density_of(config) for f in light)
    if of_camera is None and not converted:
        findings += _background(
            level_photons(movie, camera), reference, config.simulation.background, no_more_than=not crowded
        )
    findings += light
    if pixel_nm is not None:
        findings += _pixel_size(pixel_nm, config.simulation.optics.pixel_size_nm)
    return findings


def density_of(config: Config) -> float:
    """Molecules per um^2 that shine in a frame of the config."""
    return config.simulation.emitters.density_per_um2


def _camera(movie: MovieFacts, reference: Reference, *, psf_fits: bool) -> Finding | None:
    camera, transfer = reference.camera, movie.transfer
    usual = reference.typical(lambda m: noise_ratio(m.facts.transfer, camera))
    found = noise_ratio(transfer, camera)
    if usual is None or transfer.dark_variance_adu2 <= 0:
        return None
    slope, sigma = relative_slope(movie, reference)
    log_noise = math.log(found) - usual.log_mean
    noise_off = abs(log_noise) > math.log(_NOISE_FACTOR) + _SPREADS * usual.log_spread
    is_sure = slope > 0 and sigma < VAGUE_SLOPE * slope
    # Noise over light that grows otherwise than the config's gain says, though it fits at the background by chance.
    # Spots that are narrower than the config's leave more of themselves in the noise.
    slope_off = psf_fits and is_sure and abs(slope - 1) > 4 * sigma and abs(math.log(slope)) > math.log(_SLOPE_FACTOR)
    if not noise_off and not slope_off:
        return None
    variance = transfer.dark_variance_adu2 / usual.value
    gain_factor = _gain_factor(variance, transfer.dark_mean_adu, camera)
    read_noise_adu = camera.read_noise_e / camera.gain_e_per_adu
    read_variance = read_noise_adu**2 + 1 / 12
    baseline = transfer.dark_mean_adu - (variance - read_variance) / slope_of(camera)
    evidence: dict[str, float | str] = {"noise_ratio": found / usual.value}
    if is_sure:
        evidence |= {"slope_ratio": slope, "slope_ratio_sigma": sigma}
    of_gain = {"gain_e_per_adu": camera.gain_e_per_adu / gain_factor, "gain_config_e_per_adu": camera.gain_e_per_adu}
    of_baseline = {"baseline_adu": baseline, "baseline_config_adu": camera.baseline_adu}
    if not noise_off:
        gain_factor = slope
        of_gain["gain_e_per_adu"] = camera.gain_e_per_adu / slope
    elif transfer.dark_mean_adu < camera.baseline_adu - read_noise_adu - 2:
        return Finding("camera_baseline", "warn", {**evidence, **of_baseline})  # there is no negative light
    elif _EM_FACTOR > gain_factor > 1 / _EM_FACTOR:  # beyond, baselines and read noise are not that far off
        # A baseline is no light taken away: between 0 and the mean, and the noise above it is all there.
        can_be_baseline = 0 <= baseline < transfer.dark_mean_adu
        from_config, from_gain = (abs(math.log(slope / s)) if slope > 0 else 0.0 for s in (1.0, gain_factor))
        nearer = (from_config - from_gain) / (sigma / slope) if is_sure else 0.0
        if can_be_baseline and nearer < -_UNDECIDED_SIGMAS:
            return Finding("camera_baseline", "warn", {**evidence, **of_baseline})
        if nearer < _UNDECIDED_SIGMAS:
            possible = {**of_gain, **of_baseline} if can_be_baseline else of_gain
            return Finding(
                "camera_unclear", "warn", {**evidence, **possible, **_of_read_noise(variance, movie, camera)}
            )
    forgotten, unused = gain_factor > _EM_FACTOR and camera.em_gain == 1, gain_factor < 1 / _EM_FACTOR
    light = (transfer.dark_mean_adu - camera.baseline_adu) * camera.gain_e_per_adu
    if light > 0 and (forgotten or (unused and camera.em_gain > 1)):
        # The register's variance is twice its gain, so it need be half as strong as noise and light alone say.
        em_gain = max((variance - read_variance) * camera.gain_e_per_adu**2 / (2 * light), 1.0)
        return Finding("em_gain", "warn", {**evidence, "em_gain": em_gain, "em_gain_config": camera.em_gain})
    return Finding("camera_gain", "warn", {**evidence, **of_gain})


def _of_read_noise(variance: float, movie: MovieFacts, camera: CameraConfig) -> dict[str, float | str]:
    """The read noise that would explain a variance, where there is one."""
    light = max(movie.transfer.dark_mean_adu - camera.baseline_adu, 0.0) * slope_of(camera)
    if variance - light - 1 / 12 <= 0:
        return {}
    fitting = math.sqrt(variance - light - 1 / 12) * camera.gain_e_per_adu
    return {"read_noise_e": fitting, "read_noise_config_e": camera.read_noise_e}


def relative_slope(movie: MovieFacts, reference: Reference) -> tuple[float, float]:
    """The slope of variance against mean over that of the config's movies, and its standard error."""
    slopes = np.array([m.facts.transfer.slope_adu for m in reference.movies])
    usual, spread = float(slopes.mean()), SPREAD_OF_FEW * float(slopes.std(ddof=1))
    if usual <= 0:
        return math.nan, math.inf
    # The spread between movies of one config is of their light; the movie's own error scales with its slope.
    own = movie.transfer.slope_sigma
    ratio = movie.transfer.slope_adu / usual
    own = spread * abs(ratio) if not math.isfinite(own) else own
    return ratio, math.hypot(own, spread * abs(ratio)) / usual


def _gain_factor(variance: float, mean_adu: float, camera: CameraConfig) -> float:
    """How many times more ADU per electron than the config's explain this variance at this mean."""
    light = max(mean_adu - camera.baseline_adu, 0.0) * slope_of(camera)
    read = (camera.read_noise_e / camera.gain_e_per_adu) ** 2
    variance = max(variance - 1 / 12, 1e-9)
    if read == 0:
        return variance / max(light, 1e-9)
    return (math.sqrt(light**2 + 4 * read * variance) - light) / (2 * read)


def background_range(config: BackgroundConfig) -> tuple[float, float]:
    """Photons per px between which nearly all frames of a config lie."""
    if config.range_photons is not None:
        return config.range_photons
    margin = _BACKGROUND_STDS * config.std_photons
    return max(config.mean_photons - margin, 0.0), config.mean_photons + margin


def _background(level: float, reference: Reference, config: BackgroundConfig, *, no_more_than: bool) -> list[Finding]:
    low, high = background_range(config)
    # Light of spots that lie everywhere passes for background, in the config's movies as well.
    usual = reference.typical(lambda m: level_photons(m.facts, reference.camera))
    true = float(np.mean([m.background_photons for m in reference.movies]))
    crowding = 1.0 if usual is None or true <= 0 else max(usual.value / true, 1.0)
    least = low / _BACKGROUND_FACTOR - _BACKGROUND_PHOTONS
    most = high * crowding * _BACKGROUND_FACTOR + _BACKGROUND_PHOTONS
    if level >= least and (level <= most or not no_more_than):
        return []
    return [
        Finding(
            "background", "warn",
            {"background_photons": level, "config_low_photons": low, "config_high_photons": high},
        )
    ]  # fmt: skip


def level_photons(movie: MovieFacts, camera: CameraConfig) -> float:
    """Background of a movie in photons per px, by a camera."""
    return (movie.level_adu - camera.baseline_adu) * photons_per_adu(camera)


def _light(movie: MovieFacts, reference: Reference, config: Config, *, gain_holds: bool) -> list[Finding]:
    width, brightness, density = light_ratios(movie, reference)
    if width is None or brightness is None or density is None:
        expected = reference.typical(lambda m: number_per_px(m.facts))
        if movie.spots is None and expected is not None:
            per_frame = expected.value * math.prod(movie.size_px)
            return [Finding("no_spots", "warn", {"config_per_frame": per_frame})]
        return []
    if _is_off(width, _WIDTH_FACTOR):
        return [Finding("psf_width", "warn", {"width_ratio": width[0]})]
    findings = []
    emitters = config.simulation.emitters
    if gain_holds and _is_off(brightness, _BRIGHTNESS_FACTOR):
        findings.append(
            Finding("photons", "warn", {"photons_ratio": brightness[0], "photons_config": emitters.photons_mean})
        )
    number = _number_ratio(movie, reference)
    if (
        not findings
        and number is not None
        and _is_off(number, _DENSITY_FACTOR)
        and not _is_off(density, _DENSITY_FACTOR)
    ):
        density = number  # few spots are told more surely by counting them, where they are as bright as expected
    if _is_off(density, _DENSITY_FACTOR):
        findings.append(
            Finding(
                "density", "warn",
                {"density_per_um2": density[0] * emitters.density_per_um2,
                 "density_config_per_um2": emitters.density_per_um2},
            )
        )  # fmt: skip
    return findings


Ratio = tuple[float, Typical]
"""A number of the movie over that of the config's movies, which come along for their spread."""


def light_ratios(movie: MovieFacts, reference: Reference) -> tuple[Ratio | None, Ratio | None, Ratio | None]:
    """Width, brightness and density of the spots against the config's; None where one side has no spots."""
    spots = movie.spots
    if spots is None:
        return None, None, None

    def ratio(name: str) -> Ratio | None:
        usual = reference.typical(lambda m: None if m.facts.spots is None else float(getattr(m.facts.spots, name)))
        if usual is None:
            return None
        few = _SPREAD_PER_SPOT / math.sqrt(max(spots.num_per_frame * movie.num_frames, 1.0))
        wider = dataclasses.replace(usual, log_spread=math.hypot(usual.log_spread, few))
        return float(getattr(spots, name)) / usual.value, wider

    return ratio("width_px"), ratio("brightness_adu"), ratio("density_per_px")


def _number_ratio(movie: MovieFacts, reference: Reference) -> Ratio | None:
    """Spots that stand out, per area, against the config's; None where one side has none."""
    usual = reference.typical(lambda m: number_per_px(m.facts))
    number = number_per_px(movie)
    return None if usual is None or not number else (number / usual.value, usual)


def number_per_px(facts: MovieFacts) -> float | None:
    """Spots that stand out in a frame, per px; None without any light of spots."""
    return None if facts.spots is None else facts.spots.num_per_frame / math.prod(facts.size_px)


def _is_off(ratio: Ratio, factor: float) -> bool:
    return abs(math.log(ratio[0])) > math.log(factor) + _SPREADS * ratio[1].log_spread


def _pixel_size(movie: PixelSize, config: PixelSize) -> list[Finding]:
    if max(abs(math.log(movie.x / config.x)), abs(math.log(movie.y / config.y))) <= math.log(_PIXEL_SIZE_FACTOR):
        return []
    return [
        Finding(
            "pixel_size", "warn",
            {"pixel_movie_nm": f"{movie.x:g} x {movie.y:g}", "pixel_config_nm": f"{config.x:g} x {config.y:g}"},
        )
    ]  # fmt: skip
