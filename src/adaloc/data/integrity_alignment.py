"""Do frames and emitters belong together, and if not as they stand, how?

One question to all data: is there more light at the emitters than at the emitters of other frames? Then the same for
every likely mix-up (axes swapped, mirrored, frames counted from 1, other units), and where around the emitters the
light lies. No model of the PSF is needed. Where the data are too few to tell, nothing is said against them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaloc.config import CameraConfig, PixelSize
from adaloc.data.finding import Finding, severity_of
from adaloc.data.integrity_scores import (
    Alignment,
    Chance,
    Chosen,
    Coordinates,
    FloatMaps,
    chance_scores,
    choose_frames,
    correlation_maps,
    expected_frames,
    filtered_frames,
    source_frames,
    weight_maps,
    z_score,
)
from adaloc.data.integrity_spot import displacement, mean_spot, vertex
from adaloc.data.windows import Sample
from adaloc.emitters import FloatArray, IntArray
from adaloc.simulation.psf import PSF

# 5 standard deviations: about 20 alignments are tried on a data set, and a user should not see a false alarm in
# 100,000 data sets even if the scores' tails are somewhat heavier than normal.
_FOUND_Z = 5.0
_GAIN_Z = 4.0  # over the alignment at hand: when that one is right, the expected gain is far below 0
# An expected score of 15 leaves room for a PSF four times worse than the expected spot before a true match looks
# like chance (below 4).
_ENOUGH_Z = 15.0
_CHANCE_Z = 4.0
_MIN_FRAMES = 16  # as many pairings give the spread of chance to 18 %; t with 15 degrees of freedom exceeds 5 in 1e-4
_MIN_EMITTERS = 30  # below it a few lucky overlaps decide
# One sample among many: 9 expected and below 2.5 found is a deviation of more than 6.
_SAMPLE_ENOUGH_Z, _SAMPLE_CHANCE_Z, _MIN_SAMPLE_EMITTERS = 9.0, 2.5, 30
_HALF = 0.5  # of the samples decoupled: no longer a mishap in some of them
_REACH_PX = 8
_PEAK_Z = 6.0  # the highest of 289 displacements is above 6 by chance in less than one of 10^6 data sets
_NO_PEAK_Z = 5.0  # between the two, light may lie beside the emitters: nothing is claimed
_COUPLED_PEAK_Z = 4.0  # where light at the emitters is certain already; the offset's own error decides below
# A pixel's centre or its corner as origin differ by 0.5; half of that is the border between the two readings.
_WARN_OFFSET_PX = 0.25
_STOP_OFFSET_PX = 1.0  # from here on an emitter's pixel is not the one that its light is in
_OFFSET_SIGMAS = 4.0
_CORNER_SHARE = 0.25  # uniform emitters never lie all in a quarter of each side
# Groups of frames for the jackknife: 8 are too few for its error at small data, more than 24 say nothing new.
_MIN_GROUPS, _MAX_GROUPS, _FRAMES_IN_GROUP = 8, 24, 3


@dataclass(frozen=True)
class Answer:
    """What the alignment check says.

    Attributes:
        findings: none when all is well.
        evidence: z_own, z_expected, num_frames, num_emitters (different ones), and the offset where it could be
            measured.
        undecided: why nothing could be said, or empty.
    """

    findings: list[Finding]
    evidence: dict[str, float | str]
    undecided: str = ""


def check_alignment(
    samples: Sequence[Sample], camera: CameraConfig, pixel_size_nm: PixelSize, psf: PSF | None = None
) -> Answer:
    """Compares emitters with frames under every alignment.

    Args:
        samples: of training and validation; two or more see more.
        camera: its noise decides what could be seen.
        pixel_size_nm: for coordinates in other units.
        psf: that the data were simulated with; its own displacement of the light is no fault of the coordinates.
    """
    chosen = choose_frames(samples)
    if len(chosen) < _MIN_FRAMES:
        return Answer([], {"num_frames": len(chosen)}, "too few frames")
    own = ALIGNMENTS[0]
    weights = weight_maps(chosen, own)
    spots = filtered_frames(chosen)
    chance = chance_scores(weights, spots, chosen.sample_N)
    rows = np.arange(len(chosen))
    own_N = (weights * spots).sum(axis=(1, 2)).astype(np.float64)
    z_own = z_score(float(own_N.sum()), chance.totals(rows))
    num_emitters = sum(_num_molecules(chosen, index) for index in range(len(chosen.samples)))
    ideal = expected_frames(chosen, weight_maps(chosen, own, photons=True), camera)
    ideal_chance = chance_scores(weights, ideal, chosen.sample_N)
    ideal_N = (weights * ideal).sum(axis=(1, 2)).astype(np.float64)
    z_expected = z_score(float(ideal_N.sum()), ideal_chance.totals(rows))
    evidence: dict[str, float | str] = {
        "z_own": round(z_own, 2), "z_expected": round(z_expected, 2),
        "num_frames": len(chosen), "num_emitters": num_emitters,
    }  # fmt: skip
    other = _better_alignment(chosen, spots, own_N - chance.mean_per_row(), evidence)
    if other is not None:
        return Answer([other], evidence)
    if z_own >= _FOUND_Z:
        findings = _decoupled_samples(chosen, own_N, chance, ideal_N, ideal_chance, z_own / max(z_expected, 1e-9))
        offset = _offset(chosen, weights, spots, evidence, psf, is_coupled=True)
        return Answer(findings + ([offset] if offset else []), evidence)
    unit = _other_unit(chosen, pixel_size_nm, evidence)
    if unit is not None:
        return Answer([unit], evidence)
    offset = _offset(chosen, weights, spots, evidence, psf, is_coupled=False)
    if offset is not None or "offset_x_px" in evidence:
        # Light around the emitters, only not at them: an offset, or a PSF that has no light in its middle.
        return Answer([offset] if offset else [], evidence)
    if num_emitters < _MIN_EMITTERS or z_expected < _ENOUGH_Z:
        return Answer([], evidence, "too little light in the frames that were looked at")
    if z_own < _CHANCE_Z and float(evidence.get("z_peak", 0.0)) < _NO_PEAK_Z:
        return Answer([Finding("inputs_targets_decoupled", "stop", dict(evidence))], evidence)
    return Answer([], evidence, "the light at the emitters is only just above chance")


def _same(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
    return x, y


def _swap(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
    return y, x


def _mirror_x(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
    return width - 1 - x, y


def _mirror_y(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
    return x, height - 1 - y


def _mirror_both(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
    return width - 1 - x, height - 1 - y


def _turn_left(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
    return y, height - 1 - x


def _turn_right(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
    return width - 1 - y, x


def _swap_and_turn(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
    return width - 1 - y, height - 1 - x


ALIGNMENTS = (
    Alignment("as they are", "", _same),
    Alignment("x and y swapped", "axes_swapped", _swap),
    Alignment("turned by 90 degrees", "axes_swapped", _turn_left),
    Alignment("turned by -90 degrees", "axes_swapped", _turn_right),
    Alignment("x and y swapped and mirrored", "axes_swapped", _swap_and_turn),
    Alignment("mirrored in x", "mirrored", _mirror_x),
    Alignment("mirrored in y", "mirrored", _mirror_y),
    Alignment("mirrored in x and y", "mirrored", _mirror_both),
    *(Alignment(f"moved by {s:+d} frames", "frame_offset", _same, s) for s in (-2, -1, 1, 2)),
)
"""All that is tried; the first is how they should be."""


def _better_alignment(
    chosen: Chosen, spots: FloatMaps, own_excess_N: FloatArray, evidence: dict[str, float | str]
) -> Finding | None:
    """The alignment that fits clearly better than the one at hand, if there is one."""
    best: tuple[float, Finding] | None = None
    for alignment in ALIGNMENTS[1:]:
        weights = weight_maps(chosen, alignment)
        _, exists = source_frames(chosen, alignment.frame_shift)
        if exists.sum() < _MIN_FRAMES:
            continue
        score_N = (weights * spots).sum(axis=(1, 2)).astype(np.float64)
        chance = chance_scores(weights, spots, chosen.sample_N)
        rows = np.flatnonzero(exists)
        z_other = z_score(float(score_N[rows].sum()), chance.totals(rows))
        if z_other < _FOUND_Z:
            continue
        # Frame by frame against the one at hand: emitters that shine in both frames drop out of the difference.
        gain_N = (score_N - chance.mean_per_row() - own_excess_N)[rows]
        spread = gain_N.std(ddof=1) / np.sqrt(len(rows))
        z_gain = float(gain_N.mean() / spread) if spread > 0 else 0.0
        if z_gain >= _GAIN_Z and (best is None or z_other > best[0]):
            found = {**evidence, "alignment": alignment.name, "z_other": round(z_other, 2), "z_gain": round(z_gain, 2)}
            if alignment.frame_shift:
                found["frame_shift"] = alignment.frame_shift
            best = (z_other, Finding(alignment.cause, "stop", found))
    return None if best is None else best[1]


def _decoupled_samples(
    chosen: Chosen, own_N: FloatArray, chance: Chance, ideal_N: FloatArray, ideal_chance: Chance, quality: float
) -> list[Finding]:
    """Single samples whose truth belongs to another movie; `quality` is found over expected score of all of them."""
    bad, judged = [], 0
    for index, sample in enumerate(chosen.samples):
        rows = np.flatnonzero(chosen.sample_N == index)
        emitters = _num_molecules(chosen, index)
        expected = z_score(float(ideal_N[rows].sum()), ideal_chance.totals(rows)) * min(quality, 1.0)
        if emitters < _MIN_SAMPLE_EMITTERS or expected < _SAMPLE_ENOUGH_Z:
            continue
        judged += 1
        if z_score(float(own_N[rows].sum()), chance.totals(rows)) < _SAMPLE_CHANCE_Z:
            bad.append(sample.name)
    if not bad:
        return []
    evidence: dict[str, float | str] = {
        "num_samples": len(bad), "num_judged": judged,
        "samples": ", ".join(bad[:8]) + ("..." if len(bad) > 8 else ""),
    }  # fmt: skip
    return [Finding("inputs_targets_decoupled", severity_of(len(bad) >= _HALF * judged), evidence)]


def _other_unit(chosen: Chosen, pixel_size_nm: PixelSize, evidence: dict[str, float | str]) -> Finding | None:
    """Coordinates that fit when they are read in another unit, or that lie where no field has them."""
    sizes = (pixel_size_nm.x, pixel_size_nm.y)

    def scaled(by_x: float, by_y: float, relative: bool = False) -> Alignment:
        # In the file coordinates count from the corner; half a pixel was taken off on reading.
        def move(x: FloatArray, y: FloatArray, width: int, height: int) -> Coordinates:
            to_x, to_y = (by_x * width, by_y * height) if relative else (by_x, by_y)
            return (x + 0.5) * to_x - 0.5, (y + 0.5) * to_y - 0.5

        return Alignment("scaled", "coordinates_unit", move)

    units = {
        "nm": scaled(1 / sizes[0], 1 / sizes[1]),
        "micrometres": scaled(1000 / sizes[0], 1000 / sizes[1]),
        "shares of the field": scaled(1, 1, relative=True),
    }
    spots = filtered_frames(chosen)
    rows = np.arange(len(chosen))
    for unit, alignment in units.items():
        weights = weight_maps(chosen, alignment)
        z_other = z_score(
            float((weights * spots).sum()), chance_scores(weights, spots, chosen.sample_N).totals(rows)
        )  # an alignment that leaves nearly all emitters outside scores about 0
        if z_other >= _FOUND_Z:
            return Finding("coordinates_unit", "stop", {**evidence, "unit": unit, "z_other": round(z_other, 2)})
    inside_x, inside_y, outside = [], [], []
    for sample in chosen.samples:
        _, height, width = sample.frames_THW.shape
        x, y = sample.emitters.x, sample.emitters.y
        inside_x.append((x + 0.5) / width)
        inside_y.append((y + 0.5) / height)
        outside.append((x < -1) | (x > width) | (y < -1) | (y > height))
    share_outside = float(np.concatenate(outside).mean())
    extent = max(float(np.quantile(np.concatenate(part), 0.99)) for part in (inside_x, inside_y))
    if share_outside > _HALF or (extent < _CORNER_SHARE and len(np.concatenate(outside)) >= _MIN_EMITTERS):
        measured = {"share_outside": round(share_outside, 3), "extent_of_field": round(extent, 3)}
        return Finding("coordinates_unit", "stop", {**evidence, **measured, "unit": "unknown"})
    return None


def _offset(
    chosen: Chosen,
    weights: FloatMaps,
    spots: FloatMaps,
    evidence: dict[str, float | str],
    psf: PSF | None,
    *,
    is_coupled: bool,
) -> Finding | None:
    """A constant displacement of the light from the coordinates, with a jackknife error over groups of frames."""
    reach = min(_REACH_PX, min(chosen.crop_hw) // 2 - 1)
    groups = _groups(chosen)
    if reach < 2:
        return None
    own, chance = correlation_maps(weights, spots, groups, reach)
    difference = own - chance
    total = difference.sum(axis=0)
    noise = difference.std(axis=0, ddof=1) * np.sqrt(len(difference))
    row, column = np.unravel_index(int(np.argmax(total)), total.shape)
    z_peak = float(total[row, column] / noise[row, column]) if noise[row, column] > 0 else 0.0
    # Few groups estimate the noise badly; the median over the map does not depend on the one at the peak.
    z_map = float(total[row, column] / np.median(noise)) if np.median(noise) > 0 else 0.0
    evidence["z_peak"] = round(min(z_peak, z_map), 2)
    if min(z_peak, z_map) < (_COUPLED_PEAK_Z if is_coupled else _PEAK_Z):
        return None
    centre = _centre(total)
    left_out = [_centre(total - part) for part in difference]
    if centre is None or any(peak is None for peak in left_out):
        return None
    jack = np.array([peak for peak in left_out if peak is not None])
    count = len(jack)
    sigma = np.sqrt((count - 1) / count * ((jack - jack.mean(axis=0)) ** 2).sum(axis=0))
    distance = float(np.hypot(*centre))
    evidence.update(
        offset_x_px=round(centre[0], 3), offset_y_px=round(centre[1], 3),
        offset_sigma_px=round(float(np.hypot(*sigma)), 3),
    )  # fmt: skip
    largest = max(abs(centre[0]), abs(centre[1]))
    if largest < _WARN_OFFSET_PX or distance < _OFFSET_SIGMAS * float(np.hypot(*sigma)) + _WARN_OFFSET_PX / 2:
        return None
    if psf is not None:
        z_nm = np.concatenate([s.emitters.z for s in chosen.samples])
        beyond = displacement(total, mean_spot(psf, z_nm, reach))
        if max(abs(beyond[0]), abs(beyond[1])) < _WARN_OFFSET_PX:
            return None
        distance = min(distance, float(np.hypot(*beyond)))
        evidence.update(offset_x_px=round(beyond[0], 3), offset_y_px=round(beyond[1], 3))
    return Finding("pixel_offset", severity_of(distance >= _STOP_OFFSET_PX), dict(evidence))


def _centre(total: FloatArray) -> tuple[float, float] | None:
    """Sub-pixel (x, y) about which a map of displacements is symmetric; None at the border.

    Half the displacement at which the map fits its own point mirror image best. For a simple spot that is its peak;
    a PSF of two lobes, which has no light in its middle, is symmetric about it all the same.
    """
    side = len(total)
    reach = side // 2
    spectrum = np.fft.rfft2(total, s=(2 * side - 1, 2 * side - 1))
    mirrored = np.fft.irfft2(spectrum**2, s=(2 * side - 1, 2 * side - 1))
    row, column = np.unravel_index(int(np.argmax(mirrored)), mirrored.shape)
    if not (0 < row < 2 * side - 2 and 0 < column < 2 * side - 2):
        return None
    patch = mirrored[row - 1 : row + 2, column - 1 : column + 2]
    x = float(column) + vertex(patch[1])
    y = float(row) + vertex(patch[:, 1])
    return x / 2 - reach, y / 2 - reach


def _groups(chosen: Chosen) -> IntArray:
    """Contiguous groups of frames, longer than molecules live, so that hardly one of them is in two groups."""
    molecules = sum(_num_molecules(chosen, index) for index in range(len(chosen.samples)))
    rows = sum(
        int(chosen.samples[i].first_row_T[t + 1] - chosen.samples[i].first_row_T[t])
        for i, t in zip(chosen.sample_N, chosen.frame_N, strict=True)
    )
    length = max(_FRAMES_IN_GROUP, 2 * rows / max(molecules, 1))
    number = int(np.clip(len(chosen) / length, _MIN_GROUPS, _MAX_GROUPS))
    return np.arange(len(chosen)) * number // len(chosen)


def _num_molecules(chosen: Chosen, index: int) -> int:
    """Different emitters in the chosen frames of a sample: one that shines in ten frames is no tenfold evidence."""
    table, first = chosen.samples[index].emitters, chosen.samples[index].first_row_T
    frames = chosen.frame_N[chosen.sample_N == index]
    rows = np.concatenate([np.arange(first[t], first[t + 1]) for t in frames])
    return len(np.unique(np.stack([table.x[rows], table.y[rows]]), axis=1).T)
