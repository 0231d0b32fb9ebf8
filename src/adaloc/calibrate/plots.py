"""The page that shows whether a calibration is to be trusted: measured against fitted slices, and the pupil."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adaloc.calibrate.recipe import Calibration
from adaloc.emitters import FloatArray
from adaloc.figure_file import write_figure
from adaloc.simulation.psf_file import PSFFile
from adaloc.simulation.pupil import pupil_grid
from adaloc.simulation.zernike import NUM_MODES, zernike_modes

_PHASE_COLOR, _LIGHT_COLORS, _RESIDUAL_COLORS = "#0072B2", "inferno", "RdBu_r"
_NUM_SLICES = 5
_GAMMA = 0.5  # rings are dim beside the focus
_RESIDUAL_LIMIT = 5.0  # standard deviations
_PUPIL_PIXELS = 128


def write_calibration_page(path: Path, calibration: Calibration, psf: PSFFile, fitted_TRR: FloatArray) -> None:
    """Writes the page as PNG.

    Args:
        path: the file.
        calibration: the fit; its brightest bead is shown.
        psf: what was written to psf.h5.
        fitted_TRR: expected photons of that bead, background included.
    """
    figure = Figure(figsize=(13, 12.5), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(3, 1, height_ratios=[6.0, 2.6, 2.9])
    top, middle, bottom = parts
    measured = calibration.photons_BTRR[calibration.brightest]
    residual = float(psf.facts["relative_residual"])
    chi_square = float(psf.facts["reduced_chi_square"])
    figure.suptitle(
        f"{psf.model} pupil from {psf.facts['num_beads']} bead(s): relative residual {residual:.1%}, "
        f"reduced chi-square {chi_square:.3g}, blur {psf.blur_nm:.0f} nm"
    )
    _draw_planes(top, measured, fitted_TRR, calibration)
    _draw_sections(middle, measured, fitted_TRR, calibration)
    _draw_pupil(bottom, psf)
    write_figure(figure, path, dpi=100)


def _draw_planes(figure: Any, measured: FloatArray, fitted: FloatArray, calibration: Calibration) -> None:
    chosen = np.unique(np.linspace(0, len(measured) - 1, _NUM_SLICES + 2).round().astype(int))[1:-1]
    axes = figure.subplots(3, len(chosen), squeeze=False)
    noise = np.sqrt(fitted + calibration.recipe.read_noise_e**2)
    for column, plane in enumerate(chosen):
        z = calibration.z_T[plane] + calibration.fit.parameters.position_B3[calibration.brightest, 2]
        low, high = float(measured[plane].min()), float(measured[plane].max())
        for row, image in enumerate((measured[plane], fitted[plane])):
            _light(axes[row, column], image, low, high)
        handle = axes[2, column].imshow(
            (measured[plane] - fitted[plane]) / noise[plane], cmap=_RESIDUAL_COLORS, vmin=-_RESIDUAL_LIMIT,
            vmax=_RESIDUAL_LIMIT, interpolation="nearest",
        )  # fmt: skip
        axes[0, column].set_title(f"z = {z:.0f} nm")
    for row, name in enumerate(("measured", "fitted", "residual")):
        axes[row, 0].set_ylabel(name)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(handle, ax=axes, label="residual / noise", extend="both", shrink=0.4)


def _draw_sections(figure: Any, measured: FloatArray, fitted: FloatArray, calibration: Calibration) -> None:
    recipe = calibration.recipe
    x, y, z0 = calibration.fit.parameters.position_B3[calibration.brightest]
    half = measured.shape[1] // 2
    row, column = (int(np.clip(round(half + offset), 0, 2 * half)) for offset in (y, x))
    sizes = recipe.optics.pixel_size_nm
    axes = figure.subplots(1, 4)
    z = np.sort(calibration.z_T + z0) / 1000
    order = np.argsort(calibration.z_T)
    panels = (
        ("x-z measured", measured[:, row, :], sizes.x, "x"), ("x-z fitted", fitted[:, row, :], sizes.x, "x"),
        ("y-z measured", measured[:, :, column], sizes.y, "y"), ("y-z fitted", fitted[:, :, column], sizes.y, "y"),
    )  # fmt: skip
    for axis, (title, section, size, name) in zip(axes, panels, strict=True):
        reach = measured.shape[1] * size / 2000
        shown = measured[:, row, :] if name == "x" else measured[:, :, column]
        _light(axis, section[order], float(shown.min()), float(shown.max()), (-reach, reach, z[0], z[-1]))
        axis.set_title(title)
        axis.set_xlabel(f"{name} (um)")
    axes[0].set_ylabel("z (um)")


def _draw_pupil(figure: Any, psf: PSFFile) -> None:
    bars, phase_axis, amplitude_axis = figure.subplots(1, 3, width_ratios=[3.2, 1, 1])
    to_nm = psf.optics.wavelength_nm / (2 * np.pi)
    if psf.facts["pixelwise"]:
        bars.text(0.5, 0.5, "phase retrieved sample by sample,\nno Zernike modes fitted", ha="center", va="center")
        bars.set_axis_off()
    else:
        _draw_bars(bars, psf, to_nm)
    u, _ = pupil_grid(_PUPIL_PIXELS)
    column, row = np.meshgrid(u, u)
    rho = np.hypot(row, column)
    modes = zernike_modes(rho, np.arctan2(row, column))
    phase = np.tensordot(psf.phase_K, modes, axes=1)
    title = "phase (rad)"
    extra = psf.pupil_phase_on(_PUPIL_PIXELS)
    if extra is not None:
        phase = phase + extra
    wrapped = bool(psf.facts["pixelwise"] or np.abs(phase[rho <= 1]).max() > 2 * np.pi)
    if wrapped:
        phase, title = np.angle(np.exp(1j * phase)), "phase, wrapped (rad)"
    amplitude = np.abs(np.tensordot(psf.magnitude_K, modes, axes=1))
    for axis, values, colors, name in (
        (phase_axis, phase, "twilight" if wrapped else _RESIDUAL_COLORS, title),
        (amplitude_axis, amplitude, "viridis", "amplitude"),
    ):
        values = np.where(rho <= 1, values, np.nan)
        limit = float(np.nanmax(np.abs(values)))
        low = 0.0 if name == "amplitude" else -limit
        handle = axis.imshow(values, cmap=colors, vmin=low, vmax=limit, extent=(-1, 1, 1, -1))
        axis.set_title(name)
        axis.set_axis_off()
        figure.colorbar(handle, ax=axis, shrink=0.75)


def _draw_bars(axis: Any, psf: PSFFile, to_nm: float) -> None:
    noll = np.arange(5, NUM_MODES + 1)
    axis.bar(noll, psf.phase_K[4:] * to_nm, yerr=psf.phase_sigma_K[4:] * to_nm, color=_PHASE_COLOR, capsize=2)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(noll)
    axis.set_xlabel("Noll index")
    axis.set_ylabel("phase (nm rms)")
    axis.set_title("Zernike phase coefficients with standard errors")


def _light(axis: Any, image: FloatArray, low: float, high: float, extent: tuple[float, ...] | None = None) -> None:
    shown = np.clip((image - low) / max(high - low, 1e-9), 0, 1) ** _GAMMA
    axis.imshow(
        shown, cmap=_LIGHT_COLORS, vmin=0, vmax=1, interpolation="nearest",
        origin="upper" if extent is None else "lower", extent=extent, aspect="equal" if extent is None else "auto",
    )  # fmt: skip
