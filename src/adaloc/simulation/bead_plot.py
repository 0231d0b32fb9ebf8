"""A picture of a bead calibration: what was measured beside what the spline says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from adaloc.figure_file import write_figure
from adaloc.simulation.bead_spline import BeadSpline
from adaloc.simulation.spline import SplinePSF

_NUM_DEPTHS = 7
_GAMMA = 0.5  # tails are what calibrations go wrong in; the square root shows them


def plot_bead_spline(path: Path, made: BeadSpline) -> None:
    """Writes a PNG: slices at seven depths, measured above and spline below, cuts along z, and the middle pixel.

    Raises:
        AdalocError: when it cannot be written.
    """
    spline = made.spline
    psf = SplinePSF(spline)
    cut = (made.volume_ZYX.shape[1] - psf.roi_size_px) // 2
    measured = made.volume_ZYX[:, cut:-cut, cut:-cut]
    # Half a plane off the nodes: there the spline has to interpolate.
    z_nm = (np.arange(len(measured) - 1) + 0.5 - spline.z0) * spline.dz_nm
    zero = torch.zeros(len(z_nm))
    model = psf.images(zero, zero, torch.from_numpy(z_nm).float()).numpy()
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    slices, cuts = parts
    axes = slices.subplots(2, _NUM_DEPTHS)
    for column, k in enumerate(np.linspace(0.05, 0.95, _NUM_DEPTHS) * (len(z_nm) - 1)):
        index = round(k)
        pair = (measured[index : index + 2].mean(0), model[index])
        brightest = max(float(image.max()) for image in pair)
        for row, (image, name) in enumerate(zip(pair, ("measured", "spline"), strict=True)):
            axis = axes[row, column]
            axis.imshow(_shown(image, brightest), cmap="inferno", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"z = {z_nm[index]:.0f} nm", fontsize=10)
            if column == 0:
                axis.set_ylabel(name, fontsize=11)
    middle = psf.roi_size_px // 2
    side_um = psf.roi_size_px * (spline.pixel_size_nm or (np.nan, np.nan))[0] / 1000
    xz_measured, xz_model, profile = cuts.subplots(1, 3)
    for axis, volume, name in ((xz_measured, measured, "measured"), (xz_model, model, "spline")):
        extent = (z_nm[0], z_nm[-1], -side_um / 2, side_um / 2)
        axis.imshow(
            _shown(volume[:, middle].T, float(model[:, middle].max())), cmap="inferno", vmin=0, vmax=1, aspect="auto",
            origin="lower", extent=extent, interpolation="nearest",
        )  # fmt: skip
        axis.set(xlabel="z (nm)", ylabel="x (µm)", title=f"y = 0, {name}")
    nodes_nm = (np.arange(len(measured)) - spline.z0) * spline.dz_nm
    profile.plot(nodes_nm, measured[:, middle, middle] * 100, ".", color="0.45", markersize=4, label="measured")
    profile.plot(z_nm, model[:, middle, middle] * 100, color="C3", linewidth=1.5, label="spline")
    profile.set(xlabel="z (nm)", ylabel="share of the photons (%)", title="middle pixel")
    profile.legend(frameon=False)
    write_figure(figure, path, dpi=110)


def _shown(image: npt.NDArray[Any], brightest: float) -> npt.NDArray[Any]:
    return np.asarray(np.clip(image / brightest, 0, 1) ** _GAMMA)
