"""From stacks of beads to a measured pupil: starts, fits, checks.

A fit that begins far away ends in a wrong place, so a first search on the brightest bead tries several astigmatisms
with few planes and few modes. It also fits how far apart the planes are: a stack that asks for another step than the
one given was taken with another step, or with other optics.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from adaloc.calibrate.beads import BeadRegions, cut_beads
from adaloc.calibrate.fit import BeadFit, BeadParameters, BoolArray, fit_beads
from adaloc.calibrate.model import BeadModel, Layout
from adaloc.calibrate.phase_retrieval import NUM_STEPS, RetrievedPhase, retrieve_phase
from adaloc.config import OpticsConfig
from adaloc.emitters import FloatArray, IntArray
from adaloc.errors import DataError
from adaloc.simulation.pupil import PupilPSF, ScalarPupilPSF
from adaloc.simulation.vectorial import VectorialPupilPSF

_PHASE_MODES = tuple(range(4, 21))  # Noll 5 to 21: piston, tilts and defocus are the bead's position
_MAGNITUDE_MODES: dict[str, tuple[int, ...]] = {"none": (), "radial": (3, 10), "full": tuple(range(3, 11))}
_SPHERICAL = (22, 37)  # Noll: of immersion and cover slips other than the objective's, at high NA
_FIRST_MODES = (4, 5, 6, 7, 10)  # astigmatism, coma, spherical
_FIRST_LAYOUT = Layout(_FIRST_MODES, _MAGNITUDE_MODES["radial"], _SPHERICAL)
_ASTIGMATISMS = ((0.0, 0.0), (0.9, 0.0), (-0.9, 0.0), (0.0, 0.9), (0.0, -0.9))  # rad of Noll 5 and 6
_FIRST_PLANES = 13
_FIRST_ITERATIONS = 5
_SEARCH_SAMPLES = 40
_RETRIEVAL_DEPTHS_NM = (0.0, -300.0, 300.0)  # of the middle plane; the middle of a stack is about its focus
_LEAST_PLANES = 5
_SCALES = (0.65, 1.5)  # wrong indices, apodization or a scalar model make less of a right step
_BEYOND = 1.25  # the focus of a bead is not in the middle of the stack
_MARGIN_PX = 3  # light from around the region that bead and blur bring in
_OUTLIER = 2.5  # times the median of the beads' residuals


@dataclass(frozen=True)
class Recipe:
    """How to calibrate.

    Attributes:
        optics: wavelength, NA, index of the immersion medium, pixel size.
        z_step_nm: from plane to plane; positive where z of the beads rises, which is where the focus moves towards
            the objective.
        bead_diameter_nm: 0 for points.
        model: PSF model.
        sample_index, cover_slip_index: of the vectorial model; None for that of the immersion medium.
        roi_size_px: odd side of the regions.
        amplitude: modes of the pupil's amplitude that are fitted: "none"; "radial", Noll 4 and 11, as objectives pass
            less at the edge of a large aperture; or "full", Noll 4 to 11.
        per_plane: photons and background of each plane, for lamps and beads that are not steady.
        read_noise_e: electrons rms.
        max_planes: planes that are fitted, spread evenly over the stack.
        pixelwise: retrieve the phase sample by sample from the brightest bead, and fit no modes.
    """

    optics: OpticsConfig
    z_step_nm: float
    bead_diameter_nm: float = 0.0
    model: Literal["scalar", "vectorial"] = "scalar"
    sample_index: float | None = None
    cover_slip_index: float | None = None
    roi_size_px: int = 31
    amplitude: Literal["none", "radial", "full"] = "radial"
    per_plane: bool = False
    read_noise_e: float = 0.0
    max_planes: int = 41
    pixelwise: bool = False


@dataclass(frozen=True)
class BeadStack:
    """One through-focus stack.

    Attributes:
        photons_THW: photons, background included.
        name: for messages.
    """

    photons_THW: FloatArray
    name: str


@dataclass(frozen=True)
class Calibration:
    """A fitted pupil, with the beads it was fitted to.

    Attributes:
        recipe: how it was made.
        fit: of the beads that were kept.
        photons_BTRR: their measured photons in the planes that were fitted.
        z_T: nominal z of these planes, nm; 0 in the middle of the stack.
        stack_B, corner_B2: the stack of each bead, and its region's first row and column.
        regions: what was cut out of each stack.
        axial_scale: the distance of the planes that the brightest bead asks for, over the nominal one.
        num_outliers: beads that were left out because they fit far worse than the others.
        pupil_samples: across the pupil, in the fit.
        pupil_phase_SS: radians beyond the 21 modes.
    """

    recipe: Recipe
    fit: BeadFit
    photons_BTRR: FloatArray
    z_T: FloatArray
    stack_B: IntArray
    corner_B2: IntArray
    regions: tuple[BeadRegions, ...]
    axial_scale: float
    num_outliers: int
    pupil_samples: int
    pupil_phase_SS: FloatArray

    @property
    def brightest(self) -> int:
        """The bead with the most photons."""
        return int(self.fit.parameters.photons_BL.mean(axis=1).argmax())


def calibrate(
    stacks: list[BeadStack], recipe: Recipe, report: Callable[[str], None] = lambda line: None
) -> Calibration:
    """Finds the beads of all stacks and fits one pupil to them.

    Args:
        stacks: with equal numbers of planes.
        recipe: optics and choices.
        report: called with a line on what is being done.

    Raises:
        DataError: when there are too few planes, no beads, or the planes are not as far apart as the recipe says.
    """
    num_planes = _common_planes(stacks)
    regions = tuple(cut_beads(stack.photons_THW, recipe.roi_size_px, stack.name) for stack in stacks)
    measured = np.concatenate([r.photons_BTRR for r in regions])
    stack_B = np.concatenate([np.full(len(r.photons_BTRR), i) for i, r in enumerate(regions)])
    corner_B2 = np.concatenate([r.corner_B2 for r in regions])
    planes = np.unique(np.linspace(0, num_planes - 1, min(num_planes, recipe.max_planes)).round().astype(int))
    z_T = (planes - (num_planes - 1) / 2) * recipe.z_step_nm
    measured = measured[:, planes]
    report(f"{len(measured)} beads, {len(planes)} planes")

    brightest = int(measured.mean(axis=(1, 2, 3)).argmax())
    if recipe.pixelwise:
        kept = np.array([brightest])
        return _retrieved(measured[kept], z_T, recipe, stack_B[kept], corner_B2[kept], regions, report)
    first, scale = _search(measured[brightest : brightest + 1], z_T, recipe)
    if not _SCALES[0] < scale < _SCALES[1]:
        raise DataError(
            f"The planes look {abs(scale * recipe.z_step_nm):.0f} nm apart, and --z-step-nm says "
            f"{abs(recipe.z_step_nm):g}. Check it, and the wavelength, the NA and the indices."
        )
    samples = pupil_samples(recipe.optics, recipe.roi_size_px, float(np.abs(z_T).max()))
    layout = Layout(_PHASE_MODES, _MAGNITUDE_MODES[recipe.amplitude], _SPHERICAL)
    model = BeadModel(make_pupil(recipe, samples), torch.from_numpy(z_T).float(), recipe.bead_diameter_nm, layout)
    start = _start(measured, z_T, layout, recipe.per_plane, first, recipe.bead_diameter_nm)

    def progress(iteration: int, chi_square: float) -> None:
        report(f"iteration {iteration}: deviance per pixel {chi_square:.3f}")

    def fit(photons: FloatArray, begin: BeadParameters) -> BeadFit:
        held = (layout.scale,)
        return fit_beads(photons, model, begin, held=held, read_noise_e=recipe.read_noise_e, report=progress)

    result = fit(measured, start)
    residual = result.relative_residual_B
    keep = residual <= _OUTLIER * np.median(residual)
    if len(keep) >= 3 and not keep.all():
        report(f"fitting again without {(~keep).sum()} beads that fit far worse than the others")
        begin = _only_beads(result.parameters, keep)
        measured, stack_B, corner_B2 = measured[keep], stack_B[keep], corner_B2[keep]
        result = fit(measured, begin)
    spherical = model.spherical_phase(torch.from_numpy(result.parameters.shared_S).float())
    return Calibration(
        recipe, result, measured, z_T, stack_B, corner_B2, regions, scale, int((~keep).sum()), samples,
        model.psf.on_grid(spherical),
    )  # fmt: skip


def _retrieved(
    measured_1TRR: FloatArray, z_T: FloatArray, recipe: Recipe, stack_B: IntArray, corner_B2: IntArray,
    regions: tuple[BeadRegions, ...], report: Callable[[str], None],
) -> Calibration:  # fmt: skip
    """The pixel-wise phase of one bead, from the best of a few first depths."""
    samples = pupil_samples(recipe.optics, recipe.roi_size_px, float(np.abs(z_T).max()))
    layout = Layout(())
    plain = _start(measured_1TRR, z_T, layout, per_plane=True)
    depths = _RETRIEVAL_DEPTHS_NM

    def run(z_nm: float, num_steps: int) -> RetrievedPhase:
        z_planes = torch.from_numpy(z_T).float()
        model = BeadModel(make_pupil(recipe, samples), z_planes, recipe.bead_diameter_nm, layout)
        position = np.array([*plain.position_B3[0, :2], z_nm])
        return retrieve_phase(
            measured_1TRR[0], model, position, num_steps=num_steps, extra_variance=recipe.read_noise_e**2, report=report
        )

    tried = [run(z, NUM_STEPS // 4) for z in depths]
    best = min(range(len(depths)), key=lambda k: tried[k].reduced_chi_square)
    found = run(depths[best], NUM_STEPS)
    shared = np.zeros(layout.num_shared)
    shared[layout.blur], shared[layout.scale] = found.blur_nm**2, 1.0
    parameters = BeadParameters(shared, found.position_3[None], found.photons_T[None], found.background_T[None])
    fit = BeadFit(
        parameters, layout, np.zeros_like(shared), found.fitted_TRR[None], np.nan,
        np.array([found.reduced_chi_square]), np.array([found.relative_residual]), NUM_STEPS,
    )  # fmt: skip
    return Calibration(recipe, fit, measured_1TRR, z_T, stack_B, corner_B2, regions, 1.0, 0, samples, found.phase_SS)


def pupil_samples(optics: OpticsConfig, roi_size_px: int, z_max_nm: float) -> int:
    """Samples across the pupil for which the light of a defocused bead does not come round into the region again."""
    sine = optics.numerical_aperture / optics.refractive_index
    spread_nm = _BEYOND * z_max_nm * sine / math.sqrt(1 - sine**2)
    half_nm = roi_size_px * max(optics.pixel_size_nm.x, optics.pixel_size_nm.y) / 2
    period_nm = max(half_nm + spread_nm, 2 * half_nm)
    needed = 2 * optics.numerical_aperture / optics.wavelength_nm * period_nm
    return min(max(32, 2 * math.ceil(needed / 2)), 96)


def make_pupil(recipe: Recipe, samples: int) -> PupilPSF:
    """The PSF model that the recipe fits, with nothing fitted yet."""
    if recipe.model == "scalar":
        return ScalarPupilPSF(recipe.optics, recipe.roi_size_px, samples, aplanatic=True, margin_px=_MARGIN_PX)
    return VectorialPupilPSF(
        recipe.optics, recipe.roi_size_px, samples, sample_index=recipe.sample_index,
        cover_slip_index=recipe.cover_slip_index, defocus="stage", margin_px=_MARGIN_PX,
        focus_depth_nm=recipe.bead_diameter_nm / 2,  # beads lie on the cover slip
    )  # fmt: skip


def _common_planes(stacks: list[BeadStack]) -> int:
    numbers = {len(stack.photons_THW) for stack in stacks}
    if len(numbers) != 1:
        listed = ", ".join(f"{s.name} {len(s.photons_THW)}" for s in stacks)
        raise DataError(f"The stacks have different numbers of planes ({listed}). Calibrate those of a kind together.")
    (number,) = numbers
    if number < _LEAST_PLANES:
        raise DataError(
            f"{stacks[0].name} has {number} planes; a pupil needs at least {_LEAST_PLANES} through the focus. "
            "Check that the file is the stack."
        )
    return number


def _search(photons_1TRR: FloatArray, z_T: FloatArray, recipe: Recipe) -> tuple[BeadParameters, float]:
    """The best of short fits from several astigmatisms, and the axial scale that it asks for."""
    chosen = np.unique(np.linspace(0, len(z_T) - 1, min(_FIRST_PLANES, len(z_T))).round().astype(int))
    photons, z = photons_1TRR[:, chosen], z_T[chosen]
    # Without the amplitude a dim edge of the aperture looks like planes that are too far apart.
    layout = _FIRST_LAYOUT
    samples = min(pupil_samples(recipe.optics, recipe.roi_size_px, float(np.abs(z).max())), _SEARCH_SAMPLES)
    # The fitted blur stands for the size of the bead here, at half of the work.
    model = BeadModel(make_pupil(recipe, samples), torch.from_numpy(z).float(), 0.0, layout)
    plain = _start(photons, z, layout, recipe.per_plane)
    fits = []
    for astigmatism in _ASTIGMATISMS:
        shared = plain.shared_S.copy()
        shared[:2] = astigmatism
        begin = BeadParameters(shared, plain.position_B3, plain.photons_BL, plain.background_BL)
        fits.append(fit_beads(photons, model, begin, held=(), max_iterations=_FIRST_ITERATIONS, tolerance=1e-3))
    best = min(fits, key=lambda fit: fit.deviance)
    best = fit_beads(photons, model, best.parameters, held=(), max_iterations=2 * _FIRST_ITERATIONS, tolerance=1e-4)
    return best.parameters, float(best.parameters.shared_S[layout.scale])


def _start(
    photons_BTRR: FloatArray,
    z_T: FloatArray,
    layout: Layout,
    per_plane: bool,
    found: BeadParameters | None = None,
    bead_diameter_nm: float = 0.0,
) -> BeadParameters:
    """Where a fit of all modes begins: moments of the light, and the pupil that a search found for one bead."""
    shared = np.zeros(layout.num_shared)
    shared[layout.blur], shared[layout.scale] = 30.0**2, 1.0
    background = np.percentile(photons_BTRR, 20, axis=(2, 3))
    if not per_plane:
        background = background.mean(axis=1, keepdims=True)
    light = photons_BTRR - background[:, :, None, None]
    photons = light.sum(axis=(2, 3))
    if not per_plane:
        photons = photons.mean(axis=1, keepdims=True)
    position = np.stack([_first_position(bead, z_T) for bead in light])
    if found is not None:
        rows = dict(zip(_FIRST_MODES, found.shared_S[: len(_FIRST_MODES)], strict=True))
        for place, row in enumerate(layout.phase_modes):
            shared[place] = rows.get(row, 0.0)
        if layout.magnitude_modes:
            values = dict(
                zip(_FIRST_LAYOUT.magnitude_modes, found.shared_S[_FIRST_LAYOUT.magnitude_places], strict=True)
            )
            for place, row in enumerate(layout.magnitude_modes, len(layout.phase_modes)):
                shared[place] = values.get(row, 0.0)
        shared[layout.spherical_places] = found.shared_S[_FIRST_LAYOUT.spherical_places]
        shared[layout.blur] = max(found.shared_S[-2] - bead_diameter_nm**2 / 20, 10.0**2)
        brightest = int(photons_BTRR.mean(axis=(1, 2, 3)).argmax())
        # The search moved the brightest bead from its sharpest plane; the others are moved as far.
        position[:, 2] += found.position_B3[0, 2] - position[brightest, 2]
        position[brightest] = found.position_B3[0]
    return BeadParameters(shared, position, np.maximum(photons, 1.0), np.maximum(background, 0.1))


def _first_position(light_TRR: FloatArray, z_T: FloatArray) -> FloatArray:
    """x, y px from the centroid of the summed light, and z nm from the sharpest plane."""
    size = light_TRR.shape[1]
    index = np.arange(size) - (size - 1) / 2
    summed = np.maximum(light_TRR.mean(axis=0), 0)
    summed = np.where(summed > 0.2 * summed.max(), summed, 0)
    sharpness = (light_TRR**2).sum(axis=(1, 2))
    smooth = np.convolve(np.pad(sharpness, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    x, y = (summed.sum(axis=axis) @ index / summed.sum() for axis in (0, 1))
    return np.array([x, y, -z_T[smooth.argmax()]])


def _only_beads(parameters: BeadParameters, keep: BoolArray) -> BeadParameters:
    return BeadParameters(
        parameters.shared_S, parameters.position_B3[keep], parameters.photons_BL[keep], parameters.background_BL[keep]
    )
