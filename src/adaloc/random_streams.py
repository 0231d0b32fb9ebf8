"""Every random draw is a function of (seed, stream, step, index), so any batch can be made again."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a draw is for. The numbers are part of what a seed means: never renumber."""

    SPLIT = 0
    WINDOWS = 1
    WEIGHTS = 2
    EMITTERS = 3
    FIELD_MAP = 4
    CAMERA = 5
    BACKGROUND = 6
    FRESH = 7
    RANDOMIZATION = 8


def numpy_stream(seed: int, stream: Stream, step: int = 0, index: int = 0) -> np.random.Generator:
    """An independent numpy generator for this (seed, stream, step, index)."""
    return np.random.default_rng([seed, int(stream), step, index])


def torch_stream(
    seed: int, stream: Stream, step: int = 0, index: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """An independent torch generator on `device` for this (seed, stream, step, index)."""
    state = np.random.SeedSequence([seed, int(stream), step, index]).generate_state(1, np.uint64)[0]
    generator = torch.Generator(device=device)
    generator.manual_seed(int(state) & (2**63 - 1))
    return generator
