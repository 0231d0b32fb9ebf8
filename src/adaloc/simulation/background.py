"""Background light: a level for every block of frames, and a smooth structure over the field.

The structure is gradient noise (Perlin, ACM SIGGRAPH 1985; fade curve of Perlin, ACM Trans. Graph. 21, 681, 2002) on
a lattice that lies anywhere, so that no place of the field is special.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaloc.config import BackgroundConfig, PixelSize
from adaloc.emitters import FloatArray, IntArray


@dataclass(frozen=True)
class BackgroundShape:
    """How the background of each frame is spread over the field.

    Attributes:
        pattern_PHW: share of the frame's level in each pixel, with a mean of 1 over the field; float32.
        pattern_T: pattern of each frame.
    """

    pattern_PHW: npt.NDArray[np.float32]
    pattern_T: IntArray

    def photons(self, level_T: FloatArray, frames: slice = slice(None)) -> npt.NDArray[np.float32]:
        """(T', H, W) photons per px of some frames; `level_T` is the mean over the field of all frames."""
        level = level_T[frames].astype(np.float32)
        return np.asarray(self.pattern_PHW[self.pattern_T[frames]] * level[:, None, None])

    def in_frames(self, first_frame: int, num_frames: int) -> FloatArray:
        """(T', H, W) shares of some frames."""
        index = self.pattern_T[first_frame : first_frame + num_frames]
        return np.asarray(self.pattern_PHW[index], dtype=np.float64)


def draw_background(config: BackgroundConfig, num_frames: int, rng: np.random.Generator) -> FloatArray:
    """(num_frames,) photons per px, mean over the field of each frame; frames of one block share a draw."""
    num_blocks = -(-num_frames // config.block_frames)
    if config.range_photons is None:
        levels = np.maximum(rng.normal(config.mean_photons, config.std_photons, num_blocks), 0)
    else:
        levels = rng.uniform(*config.range_photons, num_blocks)
    return np.repeat(levels, config.block_frames)[:num_frames]


def draw_shape(
    config: BackgroundConfig,
    num_frames: int,
    size_px: tuple[int, int],
    pixel_size_nm: PixelSize,
    rng: np.random.Generator,
) -> BackgroundShape | None:
    """The structure of the blocks of a sample; None where the config asks for a uniform background."""
    if config.perlin_rms_fraction == 0:
        return None
    cells_px = config.perlin_scale_nm / pixel_size_nm.y, config.perlin_scale_nm / pixel_size_nm.x
    num_blocks = -(-num_frames // config.block_frames)
    patterns = [1 + config.perlin_rms_fraction * perlin_noise(size_px, cells_px, rng) for _ in range(num_blocks)]
    # At 0.3 rms, the most that the config takes, the lowest value that can be is 0.017: nothing has to be cut off.
    pattern = np.stack([p / p.mean() for p in patterns]).astype(np.float32)
    return BackgroundShape(pattern, np.arange(num_frames, dtype=np.int64) // config.block_frames)


def perlin_noise(size_px: tuple[int, int], cell_px: tuple[float, float], rng: np.random.Generator) -> FloatArray:
    """(H, W) gradient noise with mean 0 and variance 1, each taken over many draws.

    Args:
        size_px: (H, W).
        cell_px: side of a lattice cell along rows and columns, px. The correlation is gone one cell away.
        rng: for the lattice's place and its gradients, which are unit vectors of any direction.
    """
    # Lattice coordinates of every row and column, from a random corner.
    v, u = (rng.random() + np.arange(n) / cell for n, cell in zip(size_px, cell_px, strict=True))
    row, column = v.astype(np.int64), u.astype(np.int64)
    angle = rng.uniform(0, 2 * np.pi, (row[-1] + 2, column[-1] + 2))
    along_rows, along_columns = np.sin(angle), np.cos(angle)
    from_top, from_left = v - row, u - column
    fade_down, fade_right = (t**3 * (t * (6 * t - 15) + 10) for t in (from_top, from_left))
    noise = np.zeros(size_px)
    for down in (0, 1):
        for right in (0, 1):
            corner = np.ix_(row + down, column + right)
            weight = np.outer(fade_down if down else 1 - fade_down, fade_right if right else 1 - fade_right)
            noise += weight * (
                along_rows[corner] * (from_top - down)[:, None] + along_columns[corner] * (from_left - right)[None, :]
            )
    return noise / _PERLIN_RMS


def _rms_over_a_cell() -> float:
    """Of the noise before it is scaled. A gradient of any direction has (g . d)^2 = |d|^2 / 2 on average."""
    t = (np.arange(512) + 0.5) / 512
    fade = t**3 * (t * (6 * t - 15) + 10)
    weight_square, distance_square = (1 - fade) ** 2, t**2
    # The four corners give the same: mean over the cell of w(y)^2 w(x)^2 (y^2 + x^2) / 2.
    return float(np.sqrt(4 * (weight_square * distance_square).mean() * weight_square.mean()))


_PERLIN_RMS = _rms_over_a_cell()
