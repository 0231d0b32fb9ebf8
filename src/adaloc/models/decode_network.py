"""The network of DECODE (Speiser et al., Nature Methods 18, 1082, 2021), to compare with.

Its shape is that of the published method: two U-Nets of 48 channels, two halvings each, without normalization; all
three frames of a window go through the first one for every target anew, whatever the windows share. What is adaloc's
own: the units and order of the outputs, and that only the lateral offsets are bounded.
Axes: B runs, T consecutive frames, C features, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from adaloc.config import CHANNELS, NetworkConfig
from adaloc.models.network import NUM_SIGMAS, initialize_weights, padded

_NUM_HEADS = 4
"""Of probability; of x, y, z and photons; of their sigmas; of background. Each has a convolution of its own."""
_OFFSET_BOUND_PX = 1.0
_X, _Y = CHANNELS.index("x"), CHANNELS.index("y")


class ConcatenatingUNet(nn.Module):
    """U-Net with two convolutions at each level on the way down and on the way up, and concatenated skips.

    Downwards a convolution of 2 x 2 px with a stride of 2; upwards the nearest pixel, then a convolution of 1 px that
    halves the width. The exponential linear unit follows each convolution of 3 x 3 px. Height and width must be
    divisible by 2^depth.
    """

    def __init__(self, channels_in: int, channels_out: int, depth: int) -> None:
        super().__init__()
        widths = [channels_out * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([channels_in, *widths[:-1]], widths, strict=True))
        self.halve = nn.ModuleList(nn.Conv2d(width, width, 2, stride=2) for width in widths[:-1])
        self.up = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.merge = nn.ModuleList(_block(2 * width, width) for width in widths[-2::-1])
        self.output = nn.Conv2d(channels_out, channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H, W)."""
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.halve):
                skips.append(x)
                x = self.halve[level](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            # In this order, at four times the arithmetic of the other one, as in the original.
            x = up(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = merge(torch.cat([skips.pop(), x], dim=1))
        features: torch.Tensor = self.output(x)
        return features


class DecodeNetwork(nn.Module):
    """Runs of frames to six channels for each target frame, like `LocalizationNetwork`.

    Args:
        config: base_channels and depth; those of DECODE are 48 and 2.
        consecutive_frames: 1, or 3 (previous, target, next).
        prior: share of pixels that hold an emitter; where the probability starts.
        predicts_sigma: four more outputs, the raw sigmas of x, y, z and photons.
        offset_mean_px: of the targets' x and y, what a network unit of 0 means.
        offset_unit_px: size of a network unit of x and y. Predicted offsets lie within 1 px of the pixel's centre.
    """

    def __init__(
        self,
        config: NetworkConfig,
        consecutive_frames: int,
        prior: float = 0.01,
        *,
        predicts_sigma: bool = False,
        offset_mean_px: tuple[float, float] = (0.0, 0.0),
        offset_unit_px: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__()
        self.consecutive_frames = consecutive_frames
        self.num_outputs = len(CHANNELS) + (NUM_SIGMAS if predicts_sigma else 0)
        self._depth = config.depth
        self._offset_mean_px, self._offset_unit_px = offset_mean_px, offset_unit_px
        width = config.base_channels
        output = nn.Conv2d(_NUM_HEADS * width, self.num_outputs, 1)
        self.first_stage = nn.ModuleList([ConcatenatingUNet(1, width, config.depth)])
        self.second_stage = nn.Sequential(
            ConcatenatingUNet(consecutive_frames * width, width, config.depth),
            nn.Conv2d(width, _NUM_HEADS * width, 3, padding=1),
            nn.ELU(),
            output,
        )
        initialize_weights(self, output, prior)

    def forward(self, frames_BTHW: torch.Tensor) -> torch.Tensor:
        """Predicts the target frames of each run; with three frames a window, the outer two are context.

        Args:
            frames_BTHW: scaled frames, T >= consecutive_frames; any H, W.

        Returns:
            As `LocalizationNetwork.forward`.
        """
        batch, num_frames, height, width = frames_BTHW.shape
        num_targets = num_frames - self.consecutive_frames + 1
        frames = padded(frames_BTHW, self.size_multiple_px)
        # The windows' first, second and third frames, each through the first stage: nothing is shared between windows.
        joined = torch.cat(
            [
                self.first_stage[0](frames[:, i : i + num_targets].flatten(0, 1)[:, None])
                for i in range(self.consecutive_frames)
            ],
            dim=1,
        )
        outputs = self._bounded(self.second_stage(joined))
        return outputs.view(batch, num_targets, self.num_outputs, *outputs.shape[-2:])[..., :height, :width]

    @property
    def margin_px(self) -> int:
        """Distance beyond which an input pixel has no influence on an output pixel, along rows and columns.

        A U-Net sees 2 px at each level on the way down and 2 px on the way up, in pixels of that level, and once up to
        a whole pixel of the coarsest level to either side.
        """
        stage = 2 * (2 ** (self._depth + 1) - 1) + 3 * (2**self._depth - 1)
        return int(2 * stage + 1)  # two of them, and the convolution of the heads

    @property
    def size_multiple_px(self) -> int:
        """Shifts of the input by multiples of this shift the output and change nothing else."""
        return int(2**self._depth)

    def _bounded(self, outputs_BKHW: torch.Tensor) -> torch.Tensor:
        """The outputs with x and y, in px, through a hyperbolic tangent: 1 px to either side of the pixel's centre."""
        mean = outputs_BKHW.new_tensor(self._offset_mean_px)[:, None, None]
        unit = outputs_BKHW.new_tensor(self._offset_unit_px)[:, None, None]
        offset_px = outputs_BKHW[:, _X : _Y + 1] * unit + mean
        bounded_px = _OFFSET_BOUND_PX * torch.tanh(offset_px / _OFFSET_BOUND_PX)
        return torch.cat([outputs_BKHW[:, :_X], (bounded_px - mean) / unit, outputs_BKHW[:, _Y + 1 :]], dim=1)


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.ELU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.ELU(),
    )
