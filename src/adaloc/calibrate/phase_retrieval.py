"""Pixel-wise retrieval of the pupil's phase, for engineered PSFs that 21 Zernike modes do not reach.

Adam on the Poisson likelihood through the differentiable PSF, from a flat pupil; the idea of
VIPR (Ferdman et al., Optics Express 28, 10179, 2020). The light first is compared blurred, where far-off pupils still
have slopes that lead somewhere, and then sharper and sharper. Photons and background of each plane follow in every
step by weighted least squares, as they are linear.

Axes: T planes, R pixels of a region, P samples inside of the pupil.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from adaloc.calibrate.model import BeadModel
from adaloc.emitters import FloatArray

NUM_STEPS = 300
_RATE = 0.1  # rad a step; falls by the cosine rule
_BLURS_PX = (2.5, 1.2, 0.0)
_FIRST_BLUR_NM = 60.0
_SMOOTHNESS = 1e-4  # weight of squared differences between neighbouring samples, against noise


@dataclass(frozen=True)
class RetrievedPhase:
    """What was found.

    Attributes:
        phase_SS: radians on the pupil's grid, beyond the Zernike modes.
        position_3: x, y px and z nm of the bead.
        blur_nm: sigma of the blur.
        photons_T, background_T: of each plane; photons, and photons per px.
        fitted_TRR: expected photons.
        reduced_chi_square, relative_residual: as in `BeadFit`.
    """

    phase_SS: FloatArray
    position_3: FloatArray
    blur_nm: float
    photons_T: FloatArray
    background_T: FloatArray
    fitted_TRR: FloatArray
    reduced_chi_square: float
    relative_residual: float


def retrieve_phase(
    photons_TRR: FloatArray,
    model: BeadModel,
    position_3: FloatArray,
    *,
    num_steps: int = NUM_STEPS,
    extra_variance: float = 0.0,
    report: Callable[[str], None] = lambda line: None,
) -> RetrievedPhase:
    """Retrieves the phase of one bead's stack.

    Args:
        photons_TRR: measured photons, background included.
        model: of the bead, with no modes in its layout; its PSF's fitted phase is set, and stays.
        position_3: first guess of x, y (px) and z (nm).
        num_steps: of Adam.
        extra_variance: of a pixel beside its photons, as read noise squared.
        report: called with a line now and then.
    """
    data = torch.from_numpy(photons_TRR).float().clamp_min(0)
    start_xyz = torch.from_numpy(position_3).float()
    unit = torch.tensor([0.1, 0.1, 20.0])  # px, px, nm that are worth a radian
    phase_P = torch.zeros(model.psf.num_inside, requires_grad=True)
    # The last is the logarithm of the blur's variance.
    moved = torch.tensor([0.0, 0.0, 0.0, 2 * math.log(_FIRST_BLUR_NM)], requires_grad=True)

    def shape() -> torch.Tensor:
        return torch.cat([moved[3:].exp(), torch.ones(1), start_xyz + moved[:3] * unit])

    optimizer = torch.optim.Adam([phase_P, moved], lr=_RATE)
    neighbours = _neighbours(model)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / num_steps)))
        blur = _BLURS_PX[min(step * len(_BLURS_PX) // num_steps, len(_BLURS_PX) - 1)]
        model.psf.fit_phase(phase_P)
        share = model.images(shape())
        mean = _expected(share, data)
        roughness = (phase_P[neighbours[0]] - phase_P[neighbours[1]]).square().mean()
        blurred_mean, blurred_data = _blurred(mean, blur), _blurred(data, blur)
        deviance = _deviance(blurred_data + extra_variance, blurred_mean + extra_variance)
        optimizer.zero_grad()
        (deviance * (1 + _SMOOTHNESS * roughness)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 10 == 0:
            report(f"phase retrieval: step {step} of {num_steps}, deviance per pixel {float(deviance.detach()):.3f}")
    model.psf.fit_phase(phase_P.detach())
    with torch.no_grad():
        variance, _, *position = shape().tolist()
        share = model.images(shape())
        levels = _levels(share, data)
        mean = (levels[0] * share + levels[1]).clamp_min(1e-3)
    residual, light = data - mean, data - levels[1]
    variables = model.psf.num_inside + 3 + 2 * len(data)
    chi_square = float((residual.square() / (mean + extra_variance)).mean()) / (1 - variables / data.numel())
    return RetrievedPhase(
        model.psf.on_grid(phase_P), np.array(position), variance**0.5,
        levels[0].flatten().double().numpy(), levels[1].flatten().double().numpy(), mean.double().numpy(), chi_square,
        float((residual.square().sum() / light.square().sum()).sqrt()),
    )  # fmt: skip


def _levels(share: torch.Tensor, data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(T, 1, 1) photons and backgrounds that fit best, weighted by 1 / (data + 1)."""
    with torch.no_grad():
        weight = 1 / (data + 1)
        sums = [(weight * part).sum((1, 2)) for part in (share * share, share, torch.ones_like(share))]
        right = [(weight * data * part).sum((1, 2)) for part in (share, torch.ones_like(share))]
        determinant = (sums[0] * sums[2] - sums[1].square()).clamp_min(1e-20)
        photons = (right[0] * sums[2] - right[1] * sums[1]) / determinant
        background = (right[1] * sums[0] - right[0] * sums[1]) / determinant
    return photons.clamp_min(1.0)[:, None, None], background.clamp_min(1e-3)[:, None, None]


def _expected(share: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    photons, background = _levels(share, data)
    return (photons * share + background).clamp_min(1e-3)


def _deviance(data: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    deviance: torch.Tensor = 2 * (mean - data + torch.special.xlogy(data, data) - data * mean.log()).mean()
    return deviance


def _blurred(images_TRR: torch.Tensor, sigma_px: float) -> torch.Tensor:
    if sigma_px == 0:
        return images_TRR
    reach = math.ceil(3 * sigma_px)
    profile = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma_px) ** 2)
    profile = profile / profile.sum()
    padded = torch.nn.functional.pad(images_TRR[:, None], [reach] * 4, mode="replicate")
    along_x = torch.nn.functional.conv2d(padded, profile.view(1, 1, 1, -1))
    return torch.nn.functional.conv2d(along_x, profile.view(1, 1, -1, 1))[:, 0]


def _neighbours(model: BeadModel) -> torch.Tensor:
    """(2, pairs) indices of samples that lie side by side inside of the pupil."""
    inside = model.psf.inside_grid
    index = np.where(inside, inside.cumsum().reshape(inside.shape) - 1, -1)
    pairs = []
    for a, b in ((index[:, 1:], index[:, :-1]), (index[1:], index[:-1])):
        both = (a >= 0) & (b >= 0)
        pairs.append(torch.stack([torch.from_numpy(a[both]), torch.from_numpy(b[both])]))
    return torch.cat(pairs, dim=1)
