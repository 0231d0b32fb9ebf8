"""`adaloc calibrate`: reads stacks of beads, fits a pupil, writes psf.h5 and a page that shows the fit."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console

from adaloc.calibrate.plots import write_calibration_page
from adaloc.calibrate.recipe import BeadStack, Calibration, Recipe, calibrate
from adaloc.data.tiff_file import open_tiff, read_frames
from adaloc.emitters import FloatArray
from adaloc.errors import DataError
from adaloc.simulation.psf_file import PSFFile, write_psf_file


def read_stack(path: Path, baseline_adu: float, gain_e_per_adu: float) -> BeadStack:
    """A TIFF stack (planes, rows, columns) in photoelectrons.

    Raises:
        DataError: when it cannot be read, or is no stack.
    """
    if not path.is_file():
        raise DataError(f"The stack {path} does not exist. Check the path.")
    with open_tiff(path) as tiff:
        adu = read_frames(tiff, path)
    adu = np.squeeze(adu)
    if adu.ndim != 3:
        raise DataError(
            f"{path} has the shape {adu.shape}; a stack of beads is (planes, rows, columns). Save one channel of "
            "one field."
        )
    return BeadStack((adu.astype(np.float64) - baseline_adu) * gain_e_per_adu, path.name)


def calibrate_files(
    paths: list[Path],
    recipe: Recipe,
    baseline_adu: float,
    gain_e_per_adu: float,
    out: Path,
    plot: Path,
    console: Console,
) -> PSFFile:
    """Runs the command.

    Args:
        paths: TIFF stacks of the same kind.
        recipe: optics and choices.
        baseline_adu, gain_e_per_adu: of the camera.
        out: psf.h5.
        plot: PNG.
        console: where to report.

    Raises:
        DataError: when the stacks hold no pupil.
        AdalocError: when a file cannot be written.
    """
    begin = time.perf_counter()
    stacks = [read_stack(path, baseline_adu, gain_e_per_adu) for path in paths]
    with console.status("reading") as status:
        calibration = calibrate(stacks, recipe, report=status.update)
    psf = to_psf_file(calibration, [stack.name for stack in stacks], time.perf_counter() - begin)
    write_psf_file(out, psf)
    fitted = calibration.fit.fitted_BTRR[calibration.brightest]
    write_calibration_page(plot, calibration, psf, fitted)
    for line in summary_lines(calibration, psf):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f'Written: {out} and {plot}. In a config: "psf": {{"type": "pupil", "calibration": "{out}"}}')
    return psf


def to_psf_file(calibration: Calibration, names: list[str], seconds: float) -> PSFFile:
    """What is kept of a calibration."""
    fit, recipe, best = calibration.fit, calibration.recipe, calibration.brightest
    phase, sigma = fit.phase()
    positions, corner = fit.parameters.position_B3, calibration.corner_B2
    middle = recipe.roi_size_px // 2
    facts = {
        "z_step_nm": recipe.z_step_nm,
        "bead_diameter_nm": recipe.bead_diameter_nm,
        "roi_size_px": recipe.roi_size_px,
        "pupil_samples": calibration.pupil_samples,
        "num_beads": len(positions),
        "num_planes": len(calibration.z_T),
        "reduced_chi_square": float(fit.reduced_chi_square_B.mean()),
        "relative_residual": float(np.sqrt((fit.relative_residual_B**2).mean())),
        "axial_scale": calibration.axial_scale,
        "pixelwise": recipe.pixelwise,
        "stacks": ", ".join(names),
        "seconds": seconds,
    }
    tables: dict[str, FloatArray] = {
        "beads/stack": calibration.stack_B.astype(np.float64),
        "beads/x_px": corner[:, 1] + middle + positions[:, 0],
        "beads/y_px": corner[:, 0] + middle + positions[:, 1],
        "beads/z_nm": positions[:, 2],
        "beads/photons": fit.parameters.photons_BL.mean(axis=1),
        "beads/background": fit.parameters.background_BL.mean(axis=1),
        "beads/relative_residual": fit.relative_residual_B,
        "brightest/z_nm": calibration.z_T + positions[best, 2],
        "brightest/measured": calibration.photons_BTRR[best].astype(np.float32),
        "brightest/fitted": fit.fitted_BTRR[best].astype(np.float32),
    }
    return PSFFile(
        recipe.optics, recipe.model, recipe.model == "scalar", recipe.sample_index, recipe.cover_slip_index,
        fit.blur_nm, phase, sigma, fit.magnitude(), calibration.pupil_phase_SS,
        facts=facts, tables=tables,
    )  # fmt: skip


def summary_lines(calibration: Calibration, psf: PSFFile) -> list[str]:
    """What a person should know of the fit."""
    facts, to_nm = psf.facts, psf.optics.wavelength_nm / (2 * np.pi)
    left_out = [
        f"{sum(r.num_at_border for r in calibration.regions)} at the border",
        f"{sum(r.num_crowded for r in calibration.regions)} beside another",
        f"{calibration.num_outliers} that fit far worse",
    ]
    largest = sorted(range(4, len(psf.phase_K)), key=lambda k: -abs(psf.phase_K[k]))[:4]
    coefficients = ", ".join(
        f"Noll {k + 1}: {psf.phase_K[k] * to_nm:.1f} +- {psf.phase_sigma_K[k] * to_nm:.1f}" for k in largest
    )
    aberrations = f"Largest aberrations, nm rms: {coefficients}"
    if calibration.recipe.pixelwise:
        aberrations = "The phase was retrieved sample by sample"
    lines = [
        f"{facts['num_beads']} bead(s) fitted; left out: {', '.join(left_out)}.",
        f"Relative residual {facts['relative_residual']:.1%}, reduced chi-square {facts['reduced_chi_square']:.3g} "
        "(1: nothing but noise is left).",
        f"{aberrations}. Blur beyond the beads: {psf.blur_nm:.0f} nm.",
    ]
    if abs(facts["axial_scale"] - 1) > 0.1:
        lines.append(
            f"[yellow]Note:[/yellow] the planes look {facts['axial_scale']:.2f} times as far apart as given; "
            "check the step, the NA and the indices."
        )
    return lines
