"""The camera: photons to ADU, and back.

photons -> quantum efficiency -> Poisson (plus spurious charge) -> EM gain (gamma) -> read noise -> gain, baseline,
clipped to uint16. EM gain as in Hirsch et al., PLoS ONE 8, e53671 (2013).
"""

from __future__ import annotations

import torch

from adaloc.config import CameraConfig
from adaloc.simulation.camera_maps import CameraMaps

ADU_MAX = 65535


def expose(
    photons: torch.Tensor, config: CameraConfig, generator: torch.Generator, maps: CameraMaps | None = None
) -> torch.Tensor:
    """One exposure.

    Args:
        photons: expected photons per pixel; any shape, not negative. With maps (..., H, W).
        config: the camera.
        generator: on the device of `photons`.
        maps: of these pixels; they go before the config's read noise, gain and baseline.

    Returns:
        ADU as float32 with whole numbers in 0 to 65535, the same shape.
    """
    electrons = torch.poisson(photons * config.quantum_efficiency + config.spurious_charge_e, generator=generator)
    if config.em_gain > 1:
        # n electrons at the register's entry leave as a gamma variate of shape n; none leave as none.
        amplified = torch._standard_gamma(electrons.clamp_min(1), generator=generator) * config.em_gain
        electrons = torch.where(electrons > 0, amplified, 0.0)
    noise = torch.empty_like(electrons).normal_(generator=generator)
    if maps is None:
        adu = (electrons + noise * config.read_noise_e) / config.gain_e_per_adu + config.baseline_adu
    else:
        read_noise_e, gain, offset = (
            torch.from_numpy(values).to(photons.device, torch.float32)
            for values in (maps.read_noise_e, maps.gain_e_per_adu, maps.offset_adu)
        )
        adu = (electrons + noise * read_noise_e) / gain + offset
    return adu.round().clamp(0, ADU_MAX)


def to_photons(adu: torch.Tensor, config: CameraConfig) -> torch.Tensor:
    """Inverse of the camera's mean: ADU of any shape to photons, float32. Dark pixels may come out negative.

    Frames of a camera with maps are first brought to the uniform camera's ADU: `CameraMaps.to_uniform`.
    """
    electrons = (adu.to(torch.float32) - config.baseline_adu) * (config.gain_e_per_adu / config.em_gain)
    return (electrons - config.spurious_charge_e) / config.quantum_efficiency
