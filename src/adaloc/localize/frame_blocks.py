"""A movie cut into blocks of consecutive frames."""

from __future__ import annotations

import numpy as np

from adaloc.emitters import IntArray


def frame_blocks(frame: IntArray, num_blocks: int) -> IntArray:
    """The block of each localization, from 0: about equally many localizations in each, and no frame in two.

    There are fewer blocks than asked for where single frames hold more than a block should.
    """
    _, row, count = np.unique(frame, return_inverse=True, return_counts=True)
    middle = (np.cumsum(count) - count / 2) / max(len(frame), 1)
    block = np.floor(middle * num_blocks).astype(np.int64)[row]
    return np.asarray(np.unique(block, return_inverse=True)[1], np.int64)
