"""How much of measured frames localizations explain, drawn with the PSF that they were found with.

There is no truth for these frames. What can be asked is whether the picture that the localizations stand for looks like
the measured one: the variance of a frame that is left when the drawn light and a smooth background are taken off.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from adaloc.config import SimulationConfig
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.simulation.frames import draw_emitters
from adaloc.simulation.psf import make_psf

SMOOTH_PX = 20.0  # sigma of the background: wide against a tetrapod of 40 px


@dataclass(frozen=True)
class Explained:
    """What one account of the frames explains.

    Attributes:
        name: of the account.
        share_T: of each frame's variance beyond noise.
        scale_T: factor on the drawn light that fits each frame best, within it; None where nothing is drawn.
    """

    name: str
    share_T: FloatArray
    scale_T: FloatArray | None


def explain(frames_THW: FloatArray, found: EmitterTable, simulation: dict[str, Any]) -> list[Explained]:
    """Accounts of the frames: the smooth background, the localizations as found, and two that are wrong on purpose.

    The wrong ones have the same localizations with z counted the other way round, and with the positions of the next
    frame: what they explain beyond the background is owed to the place of the light, or to chance, alone.

    Args:
        frames_THW: counts.
        found: localizations, z from the focus.
        simulation: that the network was trained with.
    """
    config = SimulationConfig.model_validate(simulation)
    low, high = config.emitters.z_min_nm, config.emitters.z_max_nm
    noise_T = config.camera.read_noise_e**2 + frames_THW.mean((1, 2)) - config.camera.baseline_adu
    explainable_T = frames_THW.var((1, 2)) - noise_T
    smooth = np.stack([gaussian_filter(frame, SMOOTH_PX) for frame in frames_THW])
    left_T = (frames_THW - smooth).var((1, 2))
    parts = [Explained("smooth background alone", 1 - (left_T - noise_T) / explainable_T, None)]
    accounts = {
        "background and localizations": found,
        "the same with z turned round": found.with_columns(z=low + high - found.z),
        "the same of the next frame": found.with_columns(frame=(found.frame - 1) % len(frames_THW)).sorted_by_frame(),
    }
    for name, table in accounts.items():
        drawn = drawn_light(table, config, frames_THW.shape)
        # Both behind the same filter, so that the background of the rest is that of the frame without the drawn light.
        fine, fine_frames = (x - np.stack([gaussian_filter(f, SMOOTH_PX) for f in x]) for x in (drawn, frames_THW))
        left_T = (fine_frames - fine).var((1, 2))
        scale_T = (fine * fine_frames).sum((1, 2)) / (fine**2).sum((1, 2))
        parts.append(Explained(name, 1 - (left_T - noise_T) / explainable_T, scale_T))
    return parts


def drawn_light(table: EmitterTable, config: SimulationConfig, shape_THW: tuple[int, ...]) -> FloatArray:
    """(T, H, W) photons of the localizations, without background."""
    psf = make_psf(config.psf, config.optics)
    frames, height, width = shape_THW
    drawn = draw_emitters(psf, table, None, None, (frames, height, width), torch.device("cpu"))
    return np.asarray(drawn.double().numpy())


def plot_explained(path: Path, parts: list[Explained]) -> None:
    """Writes a PNG: the shares, frame by frame."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    styles = (("0.55", "o"), ("#0072B2", "o"), ("#D55E00", "^"), ("#E69F00", "s"))  # colours of Okabe and Ito
    for part, (color, marker) in zip(parts, styles, strict=True):
        axis.plot(100 * part.share_T, color=color, marker=marker, markersize=4, linewidth=1, label=part.name)
    axis.axhline(100, color="0.8", linewidth=1)
    axis.set(xlabel="frame", ylabel="explained, % of the variance\nbeyond noise")
    axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)
    figure.savefig(path, dpi=110)
