"""The two-stage network: each frame through one stage, the features of neighbouring frames joined through another.

Axes: B runs, T consecutive frames, C features, H rows, W columns, K the six output channels.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from adaloc.config import CHANNELS, NetworkConfig
from adaloc.models.blocks import FrameAttention, convolution, start_as_identity
from adaloc.models.stages import DilatedStage, UNet

NUM_SIGMAS = 4
_HEAD_CHANNELS = 3
"""Width of the head in units of the features that reach it, where the config does not say it."""
_CACHED_PX = 2**16
"""For a core. 24 images of 128 x 128 px at once go through the memory; one to four at once take 0.65 of their time."""
_LIGHT_DILATIONS = (1, 2, 4, 2)


class LocalizationNetwork(nn.Module):
    """Runs of frames to six channels for each target frame.

    With features of half resolution a frame's 2 x 2 px become four channels (pixel unshuffle, Shi et al. 2016), both
    stages work on a quarter of the pixels, and the second one's features are put back into a quarter as many for each
    pixel, before the head.

    Args:
        config: type "adaloc" or "light", width, depth, and what the stages are made of.
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
        self._scale = 2 if config.type == "light" or config.resolution == "half" else 1
        copies = 1 if config.first_stage == "shared" else consecutive_frames
        first = [_first_stage(self._scale**2, first_width, config) for _ in range(copies)]
        self.first_stage = nn.ModuleList(first)
        features = width // self._scale**2  # of a pixel
        head_width = config.head_channels or _HEAD_CHANNELS * features
        output = nn.Conv2d(head_width, self.num_outputs, 1)
        second = _second_stage(consecutive_frames * first_width, width, config)
        attention = [FrameAttention(first_width, consecutive_frames)] if config.attention == "frames" else []
        pixels = [nn.PixelShuffle(self._scale)] if self._scale > 1 else []
        head = convolution(features, head_width, config)
        self.second_stage = nn.Sequential(*attention, second, *pixels, *head, output)
        self._reach_px = first[0].reach_px + second.reach_px
        self._multiple_px = max(first[0].multiple_px, second.multiple_px)
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
        if self._scale > 1:
            frames = F.pixel_unshuffle(frames, self._scale)
        frames = frames.contiguous(memory_format=torch.channels_last)
        # With a shared first stage a frame is encoded once, however many windows it is part of.
        encoded = [
            torch.unflatten(self._in_pieces(stage, frames), 0, (batch, num_frames)) for stage in self.first_stage
        ]
        joined = torch.cat(
            [encoded[i % len(encoded)][:, i : i + num_targets] for i in range(self.consecutive_frames)], dim=2
        ).flatten(0, 1)
        outputs = self._in_pieces(self.second_stage, joined.contiguous(memory_format=torch.channels_last))
        return outputs.view(batch, num_targets, self.num_outputs, *outputs.shape[-2:])[..., :height, :width]

    def _in_pieces(self, stage: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """A stage over images, on a CPU as many at once as its cache holds; training needs all for their statistics."""
        at_once = _CACHED_PX * torch.get_num_threads() // (images.shape[-2] * images.shape[-1]) or 1
        if self.training or images.device.type != "cpu" or len(images) <= at_once:
            return stage(images)  # type: ignore[no-any-return]
        return torch.cat([stage(part) for part in torch.split(images, at_once)])

    @property
    def margin_px(self) -> int:
        """Distance beyond which an input pixel has no influence on an output pixel, along rows and columns.

        A part of a frame that is cut out with this margin, at a multiple of `size_multiple_px` from the frame's
        corner, gives the outputs of the whole frame. The stages know how far they see, in their own pixels.
        """
        # The head sees 1 px; at half resolution a pixel may be the far one of the four that its features stand for.
        return self._scale * self._reach_px + self._scale - 1 + 1

    @property
    def size_multiple_px(self) -> int:
        """Shifts of the input by multiples of this shift the output and change nothing else."""
        return self._scale * self._multiple_px


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
    start_as_identity(network)
    nn.init.normal_(output.weight, std=1e-3)
    assert output.bias is not None
    with torch.no_grad():
        output.bias[CHANNELS.index("probability")] = math.log(prior / (1 - prior))
        output.bias[len(CHANNELS) :] = math.log(math.e - 1)  # softplus of it is 1: as unsure as the targets vary


def num_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _first_stage(channels_in: int, width: int, config: NetworkConfig) -> UNet | DilatedStage:
    if config.type == "light":
        return DilatedStage(channels_in, width, (1,), config)
    depth = config.depth if config.first_stage_depth is None else config.first_stage_depth
    return UNet(channels_in, width, depth, config)


def _second_stage(channels_in: int, width: int, config: NetworkConfig) -> UNet | DilatedStage:
    if config.type == "light":
        return DilatedStage(channels_in, width, config.dilations or _LIGHT_DILATIONS, config)
    return UNet(channels_in, width, config.depth, config)
