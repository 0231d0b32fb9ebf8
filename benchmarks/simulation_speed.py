"""Frames a second of the simulator on the reference data, and how close its scalar PSF is to psfmodels.

    python benchmarks/simulation_speed.py

Writes benchmarks/results/simulation.json. psfmodels is the scalar Gibson-Lanni integral of Aguet et al.; without
refractive index mismatch both compute the same physics.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import psfmodels
import torch

from adaloc.config import Config, OpticsConfig, PixelSize, PupilPSFConfig
from adaloc.models.device import describe_device
from adaloc.simulation.field_map import random_field_map
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import make_psf
from adaloc.simulation.pupil import ScalarPupilPSF

RESULTS = Path(__file__).parent / "results" / "simulation.json"
REPEATS = 15
Z_NM = np.array([-800.0, -400.0, 0.0, 400.0, 800.0])


def speed() -> dict[str, Any]:
    """Median and extremes of whole samples: molecules, field map, PSF, background, camera; no files."""
    simulation = Config().simulation
    assert isinstance(simulation.psf, PupilPSFConfig)
    psf = make_psf(simulation.psf, simulation.optics)
    field = random_field_map(simulation.psf, simulation.optics.wavelength_nm, (256, 256), np.random.default_rng(0))
    rates = []
    with torch.inference_mode():
        for index in range(REPEATS + 1):
            begin = time.perf_counter()
            simulate_sample(simulation, psf, field, seed=0, index=index)
            rates.append(simulation.num_frames / (time.perf_counter() - begin))
    rates = rates[1:]  # the first one pays for caches
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates), "samples": REPEATS}


def agreement(numerical_aperture: float, pupil_samples: int) -> dict[str, Any]:
    """Largest difference over the peak at each z, both normalized in focus over 33 x 33 px of 100 nm."""
    index, wavelength_nm = 1.518, 660.0
    medium = dict.fromkeys(("ng0", "ng", "ni0", "ni", "ns"), index)
    reference = psfmodels.scalar_psf(
        zv=Z_NM / 1000, nx=33, dxy=0.1, pz=0, wvl=wavelength_nm / 1000,
        params={"NA": numerical_aperture, "sf": 7, **medium}, normalize=False,
    )  # fmt: skip
    optics = OpticsConfig(
        wavelength_nm=wavelength_nm, numerical_aperture=numerical_aperture, refractive_index=index,
        pixel_size_nm=PixelSize(x=100, y=100),
    )  # fmt: skip
    zero = torch.zeros(len(Z_NM))
    ours = ScalarPupilPSF(optics, 33, pupil_samples).images(zero, zero, torch.from_numpy(Z_NM).float()).double().numpy()
    ours, reference = ours / ours[2].sum(), reference / reference[2].sum()
    difference = np.abs(ours - reference).max((1, 2)) / reference.max((1, 2))
    return {
        "numerical_aperture": numerical_aperture,
        "pupil_samples": pupil_samples,
        "largest_difference_over_peak": {
            f"{z:g} nm": round(float(d), 5) for z, d in zip(Z_NM, difference, strict=True)
        },
    }


def main() -> None:
    """Measures and writes the JSON."""
    results = {
        "command": "python benchmarks/simulation_speed.py",
        "machine": describe_device(torch.device("cpu")),
        "reference_data_frames_per_s": speed(),
        "scalar_psf_against_psfmodels": [agreement(na, n) for na in (1.2, 1.4) for n in (40, 96)],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
