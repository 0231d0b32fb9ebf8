"""A picture of a phase mask and of the PSF that it makes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from adaloc.figure_file import write_figure
from adaloc.simulation.phase_mask import MaskedPSF
from adaloc.simulation.pupil import pupil_grid
from adaloc.simulation.vectorial import VectorialPupilPSF

_NUM_DEPTHS = 9
_SIDE_NM = 9000.0
_GAMMA = 0.6


def plot_mask(path: Path, made: MaskedPSF, z_range_nm: float) -> None:
    """Writes a PNG: the mask on the pupil, and images at nine heights above the cover slip.

    Raises:
        AdalocError: when it cannot be written.
    """
    psf = made.psf
    assert psf.pupil_phase is not None and psf.sample_index is not None
    pixel_nm = min(psf.optics.pixel_size_nm.x, psf.optics.pixel_size_nm.y)
    roi_size_px = min(int(_SIDE_NM / pixel_nm) // 2 * 2 + 1, 129)
    period_nm = psf.optics.wavelength_nm / (2 * psf.optics.numerical_aperture)
    samples = max(len(psf.pupil_phase), math.ceil(roi_size_px * pixel_nm / period_nm))
    model = VectorialPupilPSF(
        psf.optics, roi_size_px, samples, sample_index=psf.sample_index, focus_depth_nm=made.focus_depth_nm,
        blur_nm=psf.blur_nm, pupil_phase=psf.pupil_phase_on(samples),
    )  # fmt: skip
    height_nm = np.linspace(0, z_range_nm, _NUM_DEPTHS)
    zero = torch.zeros(_NUM_DEPTHS)
    images = model.images(zero, zero, torch.from_numpy(height_nm - made.focus_depth_nm).float()).numpy()
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.05, 2])
    axis = parts[0].subplots()
    phase = np.where(pupil_grid(len(psf.pupil_phase))[1] > 0, psf.pupil_phase, np.nan)
    shown = axis.imshow(phase, cmap="twilight", vmin=-math.pi, vmax=math.pi, extent=(-1, 1, 1, -1))
    for radius, style in ((made.sample_radius_px / made.radius_px, "--"), (1.0, "-")):
        angle = np.linspace(0, 2 * np.pi, 200)
        axis.plot(radius * np.cos(angle), radius * np.sin(angle), style, color="0.5", linewidth=1)
    axis.set(xticks=[], yticks=[], title="phase in the pupil\n(dashed: NA = index of the sample)")
    parts[0].colorbar(shown, ax=axis, label="rad", shrink=0.75)
    for axis, image, height in zip(parts[1].subplots(2, 5).flat, images, height_nm, strict=False):
        axis.imshow((image / image.max()) ** _GAMMA, cmap="inferno", interpolation="nearest")
        axis.set_title(f"{height / 1000:.1f} µm, {image.sum():.0%}", fontsize=10)
        axis.set(xticks=[], yticks=[])
    last = parts[1].axes[-1]
    last.axis("off")
    side = f"{roi_size_px} x {roi_size_px} px"
    text = f"height above the\ncover slip, and\nshare of the light in\n{side};\npower 0.6 of the light"
    last.text(0.02, 0.5, text, va="center", fontsize=10)
    write_figure(figure, path, dpi=90)
