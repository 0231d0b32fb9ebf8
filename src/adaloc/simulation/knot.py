"""Molecules on a known structure: two strands that wind around each other along a ring."""

from __future__ import annotations

import numpy as np

from adaloc.config import EmittersConfig, PixelSize
from adaloc.emitters import FloatArray
from adaloc.simulation.blinking import Molecules

_RADIUS_SHARE = 0.31  # of the field's side: room for the tails of the PSF at the border
_STRAND_NM = 180.0  # lateral distance of a strand from the ring's middle: closer together than light resolves
_DEPTH_NM = 450.0
_NUM_TURNS = 5
_NUM_STRANDS = 2


def strand(turn: FloatArray, which: int, radius_nm: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points of a strand.

    Args:
        turn: position along the ring, 0 to 1.
        which: strand, 0 or 1; they are half a twist apart.
        radius_nm: of the ring.

    Returns:
        x, y and z in nm, 0 in the middle of the ring.
    """
    around = 2 * np.pi * turn
    twist = _NUM_TURNS * around + 2 * np.pi * which / _NUM_STRANDS
    distance = radius_nm + _STRAND_NM * np.cos(twist)
    return distance * np.cos(around), distance * np.sin(around), _DEPTH_NM * np.sin(twist)


def knot_molecules(
    emitters: EmittersConfig,
    pixel_size_nm: PixelSize,
    image_size_px: int,
    num_frames: int,
    num_molecules: int,
    rng: np.random.Generator,
) -> Molecules:
    """Molecules of the two strands, each of which shines once, at any time of the movie.

    Args:
        emitters: on-time and photons; its density and range of z are not used.
        pixel_size_nm: camera pixel.
        image_size_px: side of the field; the ring lies in its middle.
        num_frames: of the movie.
        num_molecules: of both strands together.
        rng: of all draws.
    """
    which = rng.integers(0, _NUM_STRANDS, num_molecules)
    turn = rng.uniform(0, 1, num_molecules)
    radius_nm = _RADIUS_SHARE * image_size_px * min(pixel_size_nm.x, pixel_size_nm.y)
    points = [strand(turn, index, radius_nm) for index in range(_NUM_STRANDS)]
    x_nm, y_nm, z_nm = (np.choose(which, [point[axis] for point in points]) for axis in range(3))
    brightness = np.maximum(
        rng.normal(emitters.photons_mean, emitters.photons_std, num_molecules), 0.1 * emitters.photons_mean
    )
    start, on_time = rng.uniform(0, num_frames, num_molecules), rng.exponential(emitters.on_time_frames, num_molecules)
    if emitters.whole_frames:
        start, on_time = np.floor(start), np.ceil(on_time)
    middle = (image_size_px - 1) / 2
    return Molecules(
        x=middle + x_nm / pixel_size_nm.x,
        y=middle + y_nm / pixel_size_nm.y,
        z=z_nm,
        photons_per_frame=brightness,
        start_frame=start,
        on_time_frames=on_time,
    )
