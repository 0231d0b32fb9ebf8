"""Background light."""

from __future__ import annotations

import numpy as np

from adaloc.config import BackgroundConfig
from adaloc.emitters import FloatArray


def draw_background(config: BackgroundConfig, num_frames: int, rng: np.random.Generator) -> FloatArray:
    """(num_frames,) photons per px, uniform in each frame; frames of one block share a draw."""
    num_blocks = -(-num_frames // config.block_frames)
    levels = np.maximum(rng.normal(config.mean_photons, config.std_photons, num_blocks), 0)
    return np.repeat(levels, config.block_frames)[:num_frames]
