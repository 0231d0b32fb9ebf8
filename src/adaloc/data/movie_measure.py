"""What a movie tells about its camera, background and spots, without truth, PSF model or network; all in ADU and px.

- Background: the level at which most pixels of a frame lie.
- Photon transfer (Janesick, Photon Transfer, SPIE 2007): noise against mean. The noise is what is left of the
  differences of successive frames behind a filter that passes only frequencies which no PSF of usual sampling reaches,
  so spots need not be cut out; what the narrowest of them leave grows with the square of their light and is a term
  of its own in the fit.
- Spots: second and third moments of the light at neighbouring pixels, which hold no noise (image correlation
  spectroscopy, Petersen et al., Biophys. J. 65, 1135, 1993; higher moments: Palmer and Thompson, Biophys. J. 52, 257,
  1987). The cumulants of independent spots add up, so width, brightness and number come out however much the spots
  overlap, and no background is needed. Beside it a count of the spots that stand out.

All of it is biased a little by PSF, blinking and the spread of brightness. So these numbers are compared with those of
movies that are simulated from a config (`movie_reference`), where the same biases occur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import correlate1d, gaussian_filter, maximum_filter, uniform_filter

from adaloc.emitters import FloatArray, IntArray

_HIGH_PASS = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / math.sqrt(70)  # white noise keeps its variance
_EDGE_PX = 4  # pixels whose neighbourhoods reach beyond the frame
_MEDIAN_OF_CHI_SQUARE = 0.45494  # of one degree of freedom: median of squared normal noise
_BRIGHT_SIGMAS = 4.0  # of the dark pixels' means, above which there is light beyond noise
_DARK_QUANTILES = (0, 0.2, 0.4, 0.6, 0.8, 1)
_BRIGHT_QUANTILES = (0, 0.25, 0.5, 0.7, 0.85, 0.95, 1)
_MIN_PIXELS_OF_BIN = 200
_NUM_GROUPS = 8  # of frames, left out in turn for the uncertainty of the slope
_CUT_SIGMAS = 1.5
_MEAN_OF_CUT_MEDIAN = 0.0862  # the median of normal values below +1.5 sigma lies so many sigma below the mean
_FAR_PX = (8, 9)  # lags at which spots of usual size no longer overlap themselves
_WIDE_PX = 2.5
_SMOOTH_PX = 25  # light that varies over so many px is background, also where it changes with time
_SIGNIFICANT = 5.0  # standard deviations
_MIN_MEDIAN_FRAMES = 8  # fewer frames have no temporal median that is free of spots


@dataclass(frozen=True)
class PhotonTransfer:
    """Noise against mean.

    Attributes:
        mean_adu, variance_adu2: of groups of pixels of like brightness, dark to bright.
        slope_adu: ADU^2 of variance per ADU of mean in the dark part: ADU per electron, twice that on an EMCCD.
        slope_sigma: its standard error; infinite where too few frames or pixels tell.
        zero_adu: mean at which the variance would vanish: the baseline less what read noise adds.
        dark_mean_adu, dark_variance_adu2: the curve at the darkest group.
    """

    mean_adu: FloatArray
    variance_adu2: FloatArray
    slope_adu: float
    slope_sigma: float
    zero_adu: float
    dark_mean_adu: float
    dark_variance_adu2: float


@dataclass(frozen=True)
class SpotFacts:
    """The light above the background.

    Attributes:
        width_px: sigma of the Gaussian whose autocorrelation is that of the spots.
        brightness_adu: light of a spot: mean cube over mean square, so bright ones count most.
        density_per_px: spots of that brightness in a frame and pixel that give the moments that are there.
        num_per_frame: spots that stand out by five standard deviations.
        found_adu: median light of those; NaN without any.
    """

    width_px: float
    brightness_adu: float
    density_per_px: float
    num_per_frame: float
    found_adu: float


@dataclass(frozen=True)
class MovieFacts:
    """What `measure_movie` found.

    Attributes:
        num_frames: frames that were looked at. size_px: (height, width) that was looked at.
        level_T: background of each frame, ADU.
        transfer: noise against mean.
        spots: None where no light above the background is correlated between pixels.
    """

    num_frames: int
    size_px: tuple[int, int]
    level_T: FloatArray
    transfer: PhotonTransfer
    spots: SpotFacts | None

    @property
    def level_adu(self) -> float:
        """Median over the frames of the background level."""
        return float(np.median(self.level_T))


def measure_movie(frames_THW: npt.NDArray[np.generic], frame_ix_T: IntArray | None = None) -> MovieFacts:
    """Measures a movie, or some of its frames.

    Args:
        frames_THW: ADU of a uniform camera; at least 16 x 16 px.
        frame_ix_T: which frames of the movie these are; differences are taken of successive ones. None: all in order.

    Raises:
        ValueError: when the frames are smaller.
    """
    if min(frames_THW.shape[1:]) < 16:
        raise ValueError(f"frames of {frames_THW.shape[1:]} px are too small to measure")
    frames = frames_THW.astype(np.float64)
    index = np.arange(len(frames)) if frame_ix_T is None else frame_ix_T
    level_T = np.array([background_level(frame) for frame in frames])
    transfer = photon_transfer(frames, index)
    light = frames - level_T[:, None, None]
    if len(light) >= _MIN_MEDIAN_FRAMES:  # what stays is no blinking molecule: structure of the background, beads
        light -= np.median(light, axis=0)
    light -= _box(light, _SMOOTH_PX)
    spots = measure_spots(light, transfer.dark_variance_adu2)
    return MovieFacts(len(frames), (frames.shape[1], frames.shape[2]), level_T, transfer, spots)


def background_level(frame: FloatArray) -> float:
    """The value around which most pixels lie: the median, again and again, of those below it plus 1.5 sigma."""
    values = np.sort(frame, axis=None)
    level = float(values[len(values) // 2])
    for _ in range(20):
        below = values[: np.searchsorted(values, level, side="right")]
        sigma = 1.4826 * (level - float(below[len(below) // 2]))
        if sigma <= 0:
            return level
        kept = int(np.searchsorted(values, level + _CUT_SIGMAS * sigma))
        before, level = level, float(values[kept // 2]) + _MEAN_OF_CUT_MEDIAN * sigma
        if abs(level - before) < 0.01 * sigma:
            break
    return level


def photon_transfer(frames_THW: FloatArray, frame_ix_T: IntArray) -> PhotonTransfer:
    """Noise against mean, from successive frames; from single ones where there are none."""
    pairs = np.flatnonzero(np.diff(frame_ix_T) == 1)
    if len(pairs):
        noise = _high_pass(frames_THW[pairs + 1] - frames_THW[pairs]) / math.sqrt(2)
        average = (frames_THW[pairs + 1] + frames_THW[pairs]) / 2
    else:
        noise, average = _high_pass(frames_THW), frames_THW
    inner = (slice(None), slice(_EDGE_PX, -_EDGE_PX), slice(_EDGE_PX, -_EDGE_PX))
    # The mean with the weights that the filtered noise has. Dark pixels are grouped by the ring around them, whose
    # noise is not theirs, or dark noise would count as dark light; in bright ones the light outweighs the noise.
    mean = _along_both(average, _HIGH_PASS**2)[inner]
    ring = ((_box(average, 7) * 49 - _box(average, 5) * 25) / 24)[inner]
    square = noise[inner] ** 2
    bins = _groups(mean, ring)
    whole = _fit(mean, square, bins)
    zero = whole.start - whole.constant / whole.slope if whole.slope > 0 else math.nan
    return PhotonTransfer(whole.mean, whole.variance, whole.slope, whole.slope_sigma, zero, whole.start, whole.constant)


def _groups(mean: FloatArray, ring: FloatArray) -> IntArray:
    level = background_level(mean)
    below = mean[mean <= level]
    sigma = 1.4826 * float(np.median(level - below)) if below.size else 0.0
    is_bright = mean > level + _BRIGHT_SIGMAS * sigma
    bins = np.zeros(mean.shape, dtype=np.int64)
    for chosen, values, quantiles in ((~is_bright, ring, _DARK_QUANTILES), (is_bright, mean, _BRIGHT_QUANTILES)):
        if chosen.any():
            edges = np.quantile(values[chosen], quantiles)
            found = np.clip(np.searchsorted(edges, values[chosen], side="right") - 1, 0, len(edges) - 2)
            bins[chosen] = found if chosen is not is_bright else found + len(_DARK_QUANTILES)
    return bins


@dataclass(frozen=True)
class _Curve:
    """variance = constant + slope (mean - start) + structure (mean - start)^2; start is the darkest group's mean."""

    mean: FloatArray
    variance: FloatArray
    start: float
    constant: float
    slope: float
    slope_sigma: float


def _fit(mean_THW: FloatArray, square_THW: FloatArray, bins_THW: IntArray) -> _Curve:
    """The curve, and the error of its slope by leaving parts of the frames out in turn (jackknife)."""
    mean, square, bins = mean_THW.ravel(), square_THW.ravel(), bins_THW.ravel()
    order = np.argsort(bins, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(bins[order])) + 1)
    parts = [p for p in parts if len(p) >= _MIN_PIXELS_OF_BIN] or [order]
    number = np.array([len(p) for p in parts])
    means = np.array([mean[p].mean() for p in parts])
    variances = np.array([np.median(square[p]) for p in parts]) / _MEDIAN_OF_CHI_SQUARE
    curve = _parabola(means, variances, number)
    relative = []
    for _ in range(3):
        # Pixels of one group differ in brightness: the median of the noise over what the curve expects of each.
        # Frames that are all alike have no noise: nothing then, instead of 0/0.
        lowest, offset = max(0.1 * variances[0], np.finfo(float).tiny), means[0]
        relative = [square[p] / np.maximum(np.polyval(curve[::-1], mean[p] - offset), lowest) for p in parts]
        at_mean = np.maximum(np.polyval(curve[::-1], means - offset), lowest)
        variances = np.array([np.median(r) for r in relative]) / _MEDIAN_OF_CHI_SQUARE * at_mean
        curve = _parabola(means, variances, number)
    num_frames = len(mean_THW)
    slope_sigma = math.inf
    if num_frames >= 2 * _NUM_GROUPS:
        pixels = mean_THW[0].size
        group = [p // pixels * _NUM_GROUPS // num_frames for p in parts]
        counts = np.array([[np.count_nonzero(g == i) for g in group] for i in range(_NUM_GROUPS)])
        medians = np.array([[_median(r[g == i]) for r, g in zip(relative, group, strict=True)]
                            for i in range(_NUM_GROUPS)])  # fmt: skip
        weighted = counts * medians
        left_out = (weighted.sum(axis=0) - weighted) / np.maximum(counts.sum(axis=0) - counts, 1)
        slopes = [_parabola(means, row / _MEDIAN_OF_CHI_SQUARE * at_mean, number)[1] for row in left_out]
        slope_sigma = math.sqrt((_NUM_GROUPS - 1) * float(np.var(slopes)))
    return _Curve(means, variances, float(means[0]), float(curve[0]), float(curve[1]), slope_sigma)


def _median(values: FloatArray) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _parabola(mean: FloatArray, variance: FloatArray, number: IntArray) -> FloatArray:
    if len(mean) < 2 or np.ptp(mean) == 0:
        return np.array([variance[0], 0.0, 0.0])
    x = mean - mean[0]
    weight = np.sqrt(number) / np.maximum(variance, 1e-12 + 1e-6 * variance.max())
    for terms in (3, 2):  # spots only add: without a positive square there is none of them in the noise
        design = np.stack([x**power for power in range(terms)], axis=1)
        solution = np.linalg.lstsq(design * weight[:, None], variance * weight, rcond=None)[0]
        if terms == 3 and len(mean) > 3 and solution[2] >= 0:
            return np.asarray(solution)
    return np.array([*solution, 0.0])


def measure_spots(light_THW: FloatArray, noise_variance: float) -> SpotFacts | None:
    """Width, brightness and number of spots of light above a background of 0.

    Args:
        light_THW: ADU.
        noise_variance: of the background's pixels, ADU^2.
    """
    fluctuation = light_THW - light_THW.mean(axis=(1, 2), keepdims=True)
    across, along = ((0, 1), (1, 0)), ((0, 2), (2, 0))
    near, next_, diagonal = (_second_moment(fluctuation, lags) for lags in (across, along, ((1, 1),)))
    far = _second_moment(fluctuation, tuple(lag for d in _FAR_PX for lag in ((0, d), (d, 0))))
    peak, second, corner = near - far, next_ - far, diagonal - far
    skew = _third_moment(fluctuation)
    if not (peak > _SIGNIFICANT * noise_variance / math.sqrt(light_THW.size) and skew > 0):
        return None
    if not 0 < corner < peak:
        return None
    # exp(-lag^2 / 4 w^2) at lags 1 and sqrt 2, near the core, where defocused spots do not blur what is compared; wide
    # spots change too little between them and are told by lag 2.
    width = math.sqrt(1 / (4 * math.log(peak / corner)))
    if width > _WIDE_PX and 0 < second < peak:
        width = math.sqrt(3 / (4 * math.log(peak / second)))
    # Of n spots of light N per pixel: n N^2 exp(-1 / 4 w^2) / 4 pi w^2, and n N^3 exp(-2 / 3 w^2) / 3 (2 pi w^2)^2.
    brightness = skew / peak * 3 * math.pi * width**2 * math.exp(5 / (12 * width**2))
    density = peak / brightness**2 * 4 * math.pi * width**2 * math.exp(1 / (4 * width**2))
    number, found = _count_spots(light_THW, width)
    return SpotFacts(width, brightness, density, number, found)


def _count_spots(light_THW: FloatArray, width_px: float) -> tuple[float, float]:
    """Spots per frame that stand out, and their median light: matched filter, then local maxima."""
    smooth = gaussian_filter(light_THW, (0, width_px, width_px), mode="mirror")
    smooth -= gaussian_filter(light_THW, (0, 3 * width_px, 3 * width_px), mode="mirror")
    centre = float(np.median(smooth))
    sigma = 1.4826 * float(np.median(centre - smooth[smooth <= centre]))
    radius = 2 * max(round(1.5 * width_px), 1) + 1
    highest = maximum_filter(smooth, (0, radius, radius)) == smooth if radius > 1 else smooth > 0
    spots = highest & (smooth - centre > _SIGNIFICANT * sigma)
    # A spot of width s smoothed by s has the peak N/4 pi s^2; the wide filter takes N/2 pi (s^2 + 9 s^2) off.
    share = 1 / (4 * math.pi * width_px**2) - 1 / (20 * math.pi * width_px**2)
    values = (smooth[spots] - centre) / share
    return float(spots.sum()) / len(light_THW), float(np.median(values)) if len(values) else math.nan


def _second_moment(fluctuation_THW: FloatArray, lags: tuple[tuple[int, int], ...]) -> float:
    _, height, width = fluctuation_THW.shape
    products = [
        (fluctuation_THW[:, down:, right:] * fluctuation_THW[:, : height - down, : width - right]).mean()
        for down, right in lags
    ]
    return float(np.mean(products))


def _third_moment(fluctuation_THW: FloatArray) -> float:
    """Of three pixels of a square of four: all different, so their noise has none."""
    corners = [fluctuation_THW[:, d : d - 1 or None, r : r - 1 or None] for d, r in ((0, 0), (0, 1), (1, 1), (1, 0))]
    return float(np.mean([(corners[i] * corners[i - 1] * corners[i - 2]).mean() for i in range(4)]))


def _high_pass(values: FloatArray) -> FloatArray:
    return _along_both(values, _HIGH_PASS)


def _along_both(values: FloatArray, kernel: FloatArray) -> FloatArray:
    return np.asarray(correlate1d(correlate1d(values, kernel, axis=-1, mode="mirror"), kernel, axis=-2, mode="mirror"))


def _box(values: FloatArray, side: int) -> FloatArray:
    return np.asarray(uniform_filter(values, (0, side, side), mode="mirror"))
