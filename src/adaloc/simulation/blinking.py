"""Molecules that shine for a while: from start times to photons in each frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from adaloc.config import EmittersConfig
from adaloc.emitters import EmitterTable, FloatArray

_MARGIN_LIFETIMES = 3.0  # molecules start this long before the first frame, so the density is steady from it on


@dataclass(frozen=True)
class Molecules:
    """Molecules before they are cut into frames.

    Attributes:
        x, y: px. z: nm.
        photons_per_frame: photons emitted towards the camera in a whole frame.
        start_frame: time at which the molecule turns on, in frames.
        on_time_frames: how long it shines, in frames.
    """

    x: FloatArray
    y: FloatArray
    z: FloatArray
    photons_per_frame: FloatArray
    start_frame: FloatArray
    on_time_frames: FloatArray

    def __len__(self) -> int:
        return len(self.x)


def draw_molecules(
    config: EmittersConfig, num_frames: int, size_px: tuple[int, int], area_um2: float, rng: np.random.Generator
) -> Molecules:
    """Uniform positions, uniform start times, exponential on-times, normal brightness.

    With `whole_frames`, start times are rounded down and on-times up to whole frames.
    The mean number that shine in a frame, however briefly, is density times area.
    """
    height, width = size_px
    tau = config.on_time_frames
    # Frames that a molecule touches on average: 1 + t for any start time; whole ones are geometrically distributed.
    touched = 1 / -math.expm1(-1 / tau) if config.whole_frames else 1 + tau
    margin = math.ceil(_MARGIN_LIFETIMES * tau)
    duration = num_frames + 2 * margin
    mean_number = config.density_per_um2 * area_um2 / touched * duration
    number = int(rng.poisson(mean_number))
    brightness = rng.normal(config.photons_mean, config.photons_std, number)
    while (dark := brightness < 0.01 * config.photons_mean).any():
        brightness[dark] = rng.normal(config.photons_mean, config.photons_std, int(dark.sum()))
    start = rng.uniform(-margin, num_frames + margin, number)
    on_time = rng.exponential(tau, number)
    if config.whole_frames:
        start, on_time = np.floor(start), np.ceil(on_time)
    return Molecules(
        x=rng.uniform(-0.5, width - 0.5, number),
        y=rng.uniform(-0.5, height - 0.5, number),
        z=rng.uniform(config.z_min_nm, config.z_max_nm, number),
        photons_per_frame=brightness,
        start_frame=start,
        on_time_frames=on_time,
    )


def emissions(molecules: Molecules, num_frames: int) -> EmitterTable:
    """One row for each frame that a molecule shines in; photons are proportional to the overlap in time.

    Rows are sorted by frame; `emitter_id` is the molecule's index.
    """
    end = molecules.start_frame + molecules.on_time_frames
    first = np.maximum(np.floor(molecules.start_frame), 0).astype(np.int64)
    last = np.minimum(np.ceil(end), num_frames).astype(np.int64)  # exclusive
    count = np.maximum(last - first, 0)
    molecule = np.repeat(np.arange(len(molecules)), count)
    within = np.arange(len(molecule)) - np.repeat(np.cumsum(count) - count, count)
    frame = first[molecule] + within
    overlap = np.minimum(end[molecule], frame + 1) - np.maximum(molecules.start_frame[molecule], frame)
    return EmitterTable(
        frame=frame,
        x=molecules.x[molecule],
        y=molecules.y[molecule],
        z=molecules.z[molecule],
        photons=molecules.photons_per_frame[molecule] * overlap,
        emitter_id=molecule,
    ).sorted_by_frame()
