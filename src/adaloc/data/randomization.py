"""Domain randomization: the light and the camera of training windows, drawn anew in the ranges of the config.

A freshly simulated movie is simulated by a microscope of its own (`random_microscope`). A recorded window is changed in
what can be changed of it (`randomized`): light can be taken away and background be added, gain, baseline and read noise
are the camera's. The network reads all frames as the config's camera would have taken them, so it learns not to
trust that to the last percent. Targets are the true photons and background.

Axes: B runs, T frames, N target frames (run by run), H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from adaloc.config import CameraConfig, RandomizationConfig, SimulationConfig
from adaloc.data.batch import Batch
from adaloc.data.targets import EmitterRows
from adaloc.simulation.camera import ADU_MAX, to_photons
from adaloc.simulation.field_map import FieldMap

_JITTERED = slice(4, 11)
"""Rows of Noll 5 to 11. Defocus, Noll 4, would only shift z, by what no network can know."""
_EXCESS_OF_EM_GAIN = 2.0  # of the shot noise's variance, in the limit of high gain


def random_microscope(
    simulation: SimulationConfig,
    field_map: FieldMap | None,
    config: RandomizationConfig,
    rng: np.random.Generator,
) -> tuple[SimulationConfig, FieldMap | None]:
    """The microscope of one fresh movie.

    Args:
        simulation, field_map: of the config.
        config: the ranges.
        rng: of this movie.
    """
    brightness, background, gain, baseline = rng.uniform(-1, 1, 4)
    read_noise, aberrations = rng.random(), rng.normal(size=_JITTERED.stop - _JITTERED.start)
    bright, dark = 1 + config.brightness_fraction * brightness, 1 + config.background_fraction * background
    light, behind, camera = simulation.emitters, simulation.background, simulation.camera
    level = behind.range_photons
    changed = simulation.model_copy(
        update={
            "emitters": light.model_copy(
                update={"photons_mean": light.photons_mean * bright, "photons_std": light.photons_std * bright}
            ),
            "background": behind.model_copy(
                update={
                    "mean_photons": behind.mean_photons * dark,
                    "std_photons": behind.std_photons * dark,
                    "range_photons": None if level is None else (level[0] * dark, level[1] * dark),
                }
            ),
            "camera": camera.model_copy(
                update={
                    "gain_e_per_adu": camera.gain_e_per_adu * (1 + config.gain_fraction * gain),
                    "baseline_adu": max(camera.baseline_adu + config.baseline_adu * baseline, 0.0),
                    "read_noise_e": camera.read_noise_e + config.read_noise_e * read_noise,
                }
            ),
        }
    )
    if field_map is None or config.aberration_nm_rms == 0:
        return changed, field_map
    phase = field_map.phase.copy()
    radians = config.aberration_nm_rms * 2 * math.pi / simulation.optics.wavelength_nm
    phase[_JITTERED] += radians * aberrations[:, None, None]
    return changed, dataclasses.replace(field_map, phase=phase)


def randomized(
    batch: Batch, num: int, config: RandomizationConfig, camera: CameraConfig, rng: np.random.Generator
) -> Batch:
    """The same batch with the light and the camera of its first `num` windows drawn anew.

    Dimming by a factor f keeps the mean of the light times f and has the noise of that much light: scaled frames have
    too little shot noise, and what is missing is added, as a normal variate of its variance. So are the noise of
    added background and read noise.

    Args:
        batch: on the CPU.
        num: windows from the sample folders, which come first.
        config: the ranges. Aberrations of recorded images stay.
        camera: which the frames are from.
        rng: of this batch; the windows' draws do not depend on `num`.
    """
    windows = len(batch.adu_BTHW)
    draws = torch.from_numpy(rng.random((windows, 5))).float()
    noise = torch.from_numpy(rng.standard_normal(batch.adu_BTHW.shape, dtype=np.float32))
    if num == 0:
        return batch
    adu = batch.adu_BTHW[:num]
    dim, share, gain, baseline, read = (draws[:num, i, None, None, None] for i in range(5))
    dim = 1 - config.brightness_fraction * dim
    excess = _EXCESS_OF_EM_GAIN if camera.em_gain > 1 else 1.0
    electrons = to_photons(adu, camera) * camera.quantum_efficiency
    level = electrons.flatten(1).median(dim=1).values.clamp_min(0)[:, None, None, None]
    added = config.background_fraction * share * level
    # EM gain makes read noise small: in electrons before the register it is divided by it.
    old_read = camera.read_noise_e / camera.em_gain
    new_read = config.read_noise_e * read / camera.em_gain
    charge = camera.spurious_charge_e  # to_photons took it away, and no light dims it
    dark_variance = old_read**2 + excess * charge
    variance = excess * (dim - dim**2) * electrons.clamp_min(0) + (1 - dim**2) * dark_variance
    variance = variance + excess * added + new_read**2
    changed = dim * electrons + added + variance.sqrt() * noise[:num]
    unit = camera.em_gain / (camera.gain_e_per_adu * (1 + config.gain_fraction * (2 * gain - 1)))
    offset = camera.baseline_adu + config.baseline_adu * (2 * baseline - 1)
    changed = ((changed + charge) * unit + offset).round().clamp(0, ADU_MAX)
    return Batch(
        torch.cat([changed, batch.adu_BTHW[num:]]),
        _with_photons(batch.emitters, _per_target(dim, batch, num)),
        _with_background(batch, dim, added / camera.quantum_efficiency, num),
    )


def _per_target(values: torch.Tensor, batch: Batch, num: int) -> torch.Tensor:
    """(N,) of (num, 1, 1, 1) values of windows: that of each target frame, 1 for the windows behind."""
    windows = len(batch.adu_BTHW)
    all_windows = torch.cat([values.flatten(), torch.ones(windows - num)])
    return all_windows.repeat_interleave(len(batch.background_N) // windows)


def _with_photons(rows: EmitterRows, factor_N: torch.Tensor) -> EmitterRows:
    return dataclasses.replace(rows, photons=rows.photons * factor_N[rows.window])


def _with_background(batch: Batch, dim: torch.Tensor, added: torch.Tensor, num: int) -> torch.Tensor:
    factor = _per_target(dim, batch, num)
    shift = _per_target(added, batch, num)
    shift[num * (len(shift) // len(batch.adu_BTHW)) :] = 0.0
    shape = (-1, *[1] * (batch.background_N.ndim - 1))
    return batch.background_N * factor.view(shape) + shift.view(shape)
