"""The adversarial term: a small discriminator learns to tell rendered predictions from rendered truth.

What keeps it stable: least squares instead of logarithms (Mao et al. 2017), spectral normalization of every layer
(Miyato et al. 2018), so that no gradient from it exceeds a bound, an own optimizer with clipped steps, and a weight
that leaves the usual loss in charge.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from adaloc.config import Config
from adaloc.data.scaling import Scaling
from adaloc.data.targets import PHOTONS, PROBABILITY, X, Y, Z
from adaloc.random_streams import Stream, torch_stream
from adaloc.training.optimizers import Optimizer

_RATE = 1e-3
_BETAS = (0.5, 0.99)
_CLIP_NORM = 1.0
_WIDTH = 16
_SIGMA_PX = 1.0
_REACH_PX = 2
_FARTHEST_OFFSET_PX = 1.5


def render(
    probability_BHW: torch.Tensor,
    x_BHW: torch.Tensor,
    y_BHW: torch.Tensor,
    brightness_BHW: torch.Tensor,
    z_BHW: torch.Tensor,
) -> torch.Tensor:
    """Draws what each pixel says as a Gaussian of 1 px.

    Args:
        probability_BHW: of an emitter.
        x_BHW, y_BHW: its offset to the pixel's centre in px; cut at 1.5 px.
        brightness_BHW: its photons over the mean photons.
        z_BHW: in network units.

    Returns:
        (B, 3, H, W) the number of emitters, their brightness, their z, each spread over the Gaussians.
    """  # fmt: skip
    x, y = (offset.clamp(-_FARTHEST_OFFSET_PX, _FARTHEST_OFFSET_PX) for offset in (x_BHW, y_BHW))
    weights = probability_BHW[:, None] * torch.stack([torch.ones_like(x), brightness_BHW, z_BHW], dim=1)
    height, width = x.shape[1:]
    padded = weights.new_zeros((*weights.shape[:2], height + 2 * _REACH_PX, width + 2 * _REACH_PX))
    for down in range(-_REACH_PX, _REACH_PX + 1):
        for right in range(-_REACH_PX, _REACH_PX + 1):
            square = (down - y).square() + (right - x).square()
            spread = (square / (-2 * _SIGMA_PX**2)).exp()[:, None] * weights
            top, left = _REACH_PX + down, _REACH_PX + right
            padded[:, :, top : top + height, left : left + width] += spread
    return padded[:, :, _REACH_PX : _REACH_PX + height, _REACH_PX : _REACH_PX + width]


class Adversary:
    """The discriminator, its optimizer, and what it says to predictions.

    Args:
        weight: of the term.
        scaling: of the network's outputs.
        seed: of its weights.
        device: of all tensors.
    """

    def __init__(self, weight: float, scaling: Scaling, seed: int, device: torch.device) -> None:
        self._weight, self._scaling = weight, scaling
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_stream(seed, Stream.WEIGHTS, index=1).initial_seed())
            layers = [nn.Conv2d(3, _WIDTH, 3, padding=1), nn.Conv2d(_WIDTH, 2 * _WIDTH, 3, stride=2, padding=1),
                      nn.Conv2d(2 * _WIDTH, 1, 3, padding=1)]  # fmt: skip
            first, second, last = (spectral_norm(layer) for layer in layers)
        self.network = nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), last).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=_RATE, betas=_BETAS)

    def deceive(self, outputs_BKHW: torch.Tensor, targets_BKHW: torch.Tensor, count_K: torch.Tensor) -> torch.Tensor:
        """The term of the network, weighted: how far predictions are from being taken for truth.

        Adds the gradient of its own loss to the discriminator's, which `step` then takes.

        Args:
            outputs_BKHW: network outputs of some frames of a batch.
            targets_BKHW: their physical targets.
            count_K: the loss's counts of the whole batch.
        """
        predicted, truth = self.rendered(outputs_BKHW.float(), targets_BKHW)
        pixels = predicted.shape[-2] * predicted.shape[-1]
        share = len(predicted) * pixels / count_K[PROBABILITY].clamp_min(1)  # of the batch
        if len(predicted) == 0:
            # Of several processes all must make as many passes, each of which moves the normalization on.
            predicted, truth = (predicted.new_zeros((1, *predicted.shape[1:])) for _ in range(2))
        self.network.requires_grad_(True)
        own = (self.network(predicted.detach()).square().mean() + (self.network(truth) - 1).square().mean()) / 2
        (own * share).backward()
        self.network.requires_grad_(False)
        term: torch.Tensor = (self.network(predicted) - 1).square().mean() * (share * self._weight)
        self.network.requires_grad_(True)
        return term

    def rendered(self, outputs_BKHW: torch.Tensor, targets_BKHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures of predictions and of the truth, drawn alike."""
        scaling = self._scaling
        physical, scaled = scaling.to_physical(outputs_BKHW), scaling.scale_targets(targets_BKHW)
        mean = scaling.mean[PHOTONS - 1] or 1.0
        pictures = [
            render(values[:, PROBABILITY], values[:, X], values[:, Y], values[:, PHOTONS] / mean, z)
            for values, z in ((physical, outputs_BKHW[:, Z]), (targets_BKHW, scaled[:, Z]))
        ]
        return pictures[0], pictures[1]

    def step(self) -> None:
        """One step of the discriminator; none where its gradient is not finite."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
        if bool(norm.isfinite()):
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain containers."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


class _Accompanied:
    """An optimizer with whom an adversary steps, so that copies of the one's state hold the other's."""

    def __init__(self, inner: Optimizer, adversary: Adversary) -> None:
        self.inner, self.adversary = inner, adversary

    @property
    def parts(self) -> Any:
        """The optimizers of the network."""
        return getattr(self.inner, "parts", (self.inner,))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the network's optimizer."""
        return self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of both."""
        self.inner.zero_grad(set_to_none)
        self.adversary.optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """A step of both."""
        self.inner.step()
        self.adversary.step()

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"inner": self.inner.state_dict(), "adversary": self.adversary.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.inner.load_state_dict(state["inner"])
        self.adversary.load_state_dict(state["adversary"])


def make_adversary(config: Config, scaling: Scaling, device: torch.device) -> Adversary | None:
    """The adversary that a config asks for."""
    weight = config.training.training_terms.adversarial_weight
    return Adversary(weight, scaling, config.seed, device) if weight > 0 else None


def without_adversary(optimizer: Optimizer) -> Optimizer:
    """The optimizer of the network alone."""
    return optimizer.inner if isinstance(optimizer, _Accompanied) else optimizer


def accompanied(optimizer: Optimizer, adversary: Adversary | None) -> Optimizer:
    """The optimizer, with the adversary's steps if there is one."""
    return optimizer if adversary is None else _Accompanied(optimizer, adversary)
