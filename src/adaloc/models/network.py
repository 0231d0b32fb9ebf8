"""The two-stage network: each frame through a U-Net, the features of neighbouring frames joined through another.

Axes: B runs, T consecutive frames, C features, H rows, W columns, K the six output channels.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from adaloc.config import CHANNELS, NetworkConfig
from adaloc.models.batch_norm import BatchNorm2d

NUM_SIGMAS = 4
_HEAD_CHANNELS = 3
"""Width of the head in units of the second stage's, where the config does not say it."""


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) whose width doubles at each of `depth` halvings of the resolution.

    Two convolutions on the way down and one on the way up, where the skip connection is added instead of
    concatenated: two thirds of the time of the original, and a validation loss 1.4 % higher after 600 steps (one seed).
    Height and width must be divisible by 2^depth.
    """

    def __init__(self, channels_in: int, channels_out: int, depth: int, normalization: str) -> None:
        super().__init__()
        widths = [channels_out * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            nn.Sequential(*_convolution(a, b, normalization), *_convolution(b, b, normalization))
            for a, b in zip([channels_in, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.merge = nn.ModuleList(
            nn.Sequential(*_convolution(width, width, normalization)) for width in widths[-2::-1]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H, W)."""
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            # 1x1 before the upsampling: the same result as after it, at a quarter of the work.
            x = merge(F.interpolate(up(x), scale_factor=2.0, mode="nearest") + skips.pop())
        return x


class LocalizationNetwork(nn.Module):
    """Runs of frames to six channels for each target frame.

    Args:
        config: width, depth, and whether the frames share the first stage.
        consecutive_frames: 1, or 3 (previous, target, next).
        prior: share of pixels that hold an emitter; where the probability starts.
        predicts_sigma: four more outputs, the raw sigmas of x, y, z and photons.
    """

    def __init__(
        self, config: NetworkConfig, consecutive_frames: int, prior: float = 0.01, *, predicts_sigma: bool = False
    ) -> None:
        super().__init__()
        self.consecutive_frames = consecutive_frames
        self.num_outputs = len(CHANNELS) + (NUM_SIGMAS if predicts_sigma else 0)
        first_width, width = config.base_channels, config.second_stage_channels or config.base_channels
        first_depth = config.depth if config.first_stage_depth is None else config.first_stage_depth
        self._depths = first_depth, config.depth
        copies = 1 if config.first_stage == "shared" else consecutive_frames
        self.first_stage = nn.ModuleList(UNet(1, first_width, first_depth, config.normalization) for _ in range(copies))
        head_width = config.head_channels or _HEAD_CHANNELS * width
        output = nn.Conv2d(head_width, self.num_outputs, 1)
        self.second_stage = nn.Sequential(
            UNet(consecutive_frames * first_width, width, config.depth, config.normalization),
            *_convolution(width, head_width, config.normalization),
            output,
        )
        initialize_weights(self, output, prior)

    def forward(self, frames_BTHW: torch.Tensor) -> torch.Tensor:
        """Predicts the target frames of each run; with three frames a window, the outer two are context.

        Args:
            frames_BTHW: scaled frames, T >= consecutive_frames; any H, W.

        Returns:
            (B, T', 6, H, W) in network units with T' = T - consecutive_frames + 1: the logit of the probability,
            then x, y, z, photons, background; 10 channels with the raw sigmas of x, y, z and photons behind them.
        """
        batch, num_frames, height, width = frames_BTHW.shape
        num_targets = num_frames - self.consecutive_frames + 1
        frames = padded(frames_BTHW, self.size_multiple_px).flatten(0, 1)[:, None]
        frames = frames.contiguous(memory_format=torch.channels_last)
        # With a shared first stage a frame is encoded once, however many windows it is part of.
        encoded = [stage(frames).unflatten(0, (batch, num_frames)) for stage in self.first_stage]
        joined = torch.cat(
            [encoded[i % len(encoded)][:, i : i + num_targets] for i in range(self.consecutive_frames)], dim=2
        ).flatten(0, 1)
        outputs: torch.Tensor = self.second_stage(joined.contiguous(memory_format=torch.channels_last))
        return outputs.view(batch, num_targets, self.num_outputs, *outputs.shape[-2:])[..., :height, :width]

    @property
    def margin_px(self) -> int:
        """Distance beyond which an input pixel has no influence on an output pixel, along rows and columns.

        A part of a frame that is cut out with this margin, at a multiple of `size_multiple_px` from the frame's
        corner, gives the outputs of the whole frame. A U-Net sees 2 px at each level on the way down and 1 px on
        the way up, in pixels of that level, and once up to a whole pixel of the coarsest level to either side.
        """
        stages = sum(2 * (2 ** (depth + 1) - 1) + 2 * (2**depth - 1) for depth in self._depths)
        return int(stages + 1)  # and the 3x3 convolution of the head

    @property
    def size_multiple_px(self) -> int:
        """Shifts of the input by multiples of this shift the output and change nothing else."""
        return int(2 ** max(self._depths))


def padded(frames_BTHW: torch.Tensor, multiple_px: int) -> torch.Tensor:
    """The frames with their last row and column repeated, up to multiples of `multiple_px`."""
    bottom, right = (-side % multiple_px for side in frames_BTHW.shape[-2:])
    return F.pad(frames_BTHW, (0, right, 0, bottom), mode="replicate") if bottom or right else frames_BTHW


def initialize_weights(network: nn.Module, output: nn.Conv2d, prior: float) -> None:
    """Kaiming's initialization; the outputs start near the best constant, so the first loss is that of knowing nothing.

    Args:
        network: changed in place.
        output: its last layer.
        prior: share of pixels that hold an emitter.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(output.weight, std=1e-3)
    assert output.bias is not None
    with torch.no_grad():
        output.bias[CHANNELS.index("probability")] = math.log(prior / (1 - prior))
        output.bias[len(CHANNELS) :] = math.log(math.e - 1)  # softplus of it is 1: as unsure as the targets vary


def num_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _convolution(channels_in: int, channels_out: int, normalization: str) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=normalization == "none")
    norm = [BatchNorm2d(channels_out)] if normalization == "batch" else []
    return convolution, *norm, nn.SiLU()
