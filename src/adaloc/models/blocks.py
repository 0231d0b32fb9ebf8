"""What the networks are made of: convolutions with their normalization and activation, residuals and attention.

Everything here gives the same result in a part of a frame as in the whole, a margin away from the part's edges, as
localization works in tiles. So nothing takes statistics over the whole image. Axes: B runs, T consecutive frames,
C features, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from adaloc.config import NetworkConfig
from adaloc.models.batch_norm import BatchNorm2d

_ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU}
_GATE_WINDOW = 5
"""Side of the square, in pixels of the gate's level, that a gate looks at."""
_GATE_SQUEEZE = 4
"""Features of a gated layer over those of the gate's hidden layer."""
_MOST_HEADS = 4


class ChannelNorm2d(nn.LayerNorm):
    """Normalizes the features of each pixel by themselves (Ba et al. 2016; as in ConvNeXt, Liu et al. 2022).

    Group normalization (Wu and He 2018) also averages over the image: a tile of a frame, or a frame of another size
    than those trained with, would be normalized otherwise.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same; fastest where C is last in memory."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """The input plus what `body` makes of it: the input itself, until training changes that.

    The last normalization starts at zero (Goyal et al. 2017), or where there is none, the last convolution. No
    activation follows the sum, which would not leave the input as it is.

    Args:
        channels_in, channels_out: where they differ, the input goes through a convolution of 1 px.
        body: ends with a normalization, or with a convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H, W)."""
        outputs: torch.Tensor = self.shortcut(x) + self.body(x)
        return outputs

    def start(self) -> None:
        """Makes the body's contribution zero."""
        _zero(self.body[-1])


class LocalGate(nn.Module):
    """Each feature times a factor between 0 and 2 that depends on the features' means around the pixel; 1 at the start.

    Squeeze and excitation (Hu et al. 2018) in a square window instead of over the image, for the sake of tiles.
    """

    reach_px = _GATE_WINDOW // 2
    """Pixels to either side that an output depends on."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        hidden = max(channels // _GATE_SQUEEZE, 1)
        first, last = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        self.body = nn.Sequential(first, make_activation(activation), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        around = F.avg_pool2d(x, _GATE_WINDOW, stride=1, padding=self.reach_px, count_include_pad=False)
        factors: torch.Tensor = 2 * self.body(around).sigmoid()
        return x * factors

    def start(self) -> None:
        """Opens the gate for all alike."""
        _zero(self.body[-1])


class FrameAttention(nn.Module):
    """How much of each frame of a window a pixel of the target frame listens to; to all alike at the start.

    Queries of the target frame, keys of all frames, in up to four heads (Vaswani et al. 2017), each pixel for itself.
    The weights of a window's frames sum to their number. They multiply the features, which are then joined as without
    attention, so that the network still knows which frame is which.
    """

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.heads = math.gcd(channels, _MOST_HEADS)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)

    def forward(self, joined: torch.Tensor) -> torch.Tensor:
        """(N, frames * C, H, W), the features of a window's frames one behind the other, to the same."""
        parts = joined.chunk(self.frames, 1)
        query = self.query(parts[self.frames // 2])
        scores = torch.stack([self._in_heads(query * self.key(part)).sum(2) for part in parts])
        weights = self.frames * (scores * (self.heads / query.shape[1]) ** 0.5).softmax(0)
        weighted = [self._in_heads(part) * w[:, :, None] for part, w in zip(parts, weights, strict=True)]
        return torch.cat([part.flatten(1, 2) for part in weighted], dim=1)

    def start(self) -> None:
        """Makes all scores equal."""
        _zero(self.query)

    def _in_heads(self, features_NCHW: torch.Tensor) -> torch.Tensor:
        num, channels, *size = features_NCHW.shape
        return features_NCHW.view(num, self.heads, channels // self.heads, *size)


def convolution(
    channels_in: int, channels_out: int, config: NetworkConfig, *, kernel_px: int = 3, dilation: int = 1
) -> tuple[nn.Module, ...]:
    """A convolution that keeps the image's size, its normalization and its activation."""
    return (
        *normalized_convolution(channels_in, channels_out, config, kernel_px=kernel_px, dilation=dilation),
        make_activation(config.activation),
    )


def normalized_convolution(
    channels_in: int, channels_out: int, config: NetworkConfig, *, kernel_px: int = 3, dilation: int = 1
) -> tuple[nn.Module, ...]:
    """A convolution that keeps the image's size, and its normalization."""
    layer = nn.Conv2d(
        channels_in, channels_out, kernel_px, padding=dilation * (kernel_px // 2), dilation=dilation,
        bias=config.normalization == "none",
    )  # fmt: skip
    if config.normalization == "batch":
        return layer, BatchNorm2d(channels_out)
    return (layer, ChannelNorm2d(channels_out)) if config.normalization == "channel" else (layer,)


def make_activation(name: str) -> nn.Module:
    """A new module of the activation with that name in the config."""
    return _ACTIVATIONS[name]()


def start_as_identity(network: nn.Module) -> None:
    """Lets residuals and attention begin as if they were not there; changes the network in place."""
    for module in network.modules():
        if isinstance(module, Residual | LocalGate | FrameAttention):
            module.start()


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
