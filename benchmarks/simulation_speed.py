"""Frames and emitter images a second of the simulator, and how close its scalar PSF is to psfmodels.

    python benchmarks/simulation_speed.py [--threads 2]

Writes benchmarks/results/simulation.json. Emitter images are of the reference optics, aberrated, in regions of 33 x 33
px from a pupil of 40 x 40 samples; each call gets as many as the simulator asks for at once. Their floor is the time of
the matrix products alone, of the same sizes, without the phases, the scattering and the intensities around them. With
one thread the clock is the processor time of the process, which hardly depends on what else runs. psfmodels is the
scalar Gibson-Lanni integral of Aguet et al.; without refractive index mismatch both compute the same physics.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psfmodels
import torch

from adaloc.config import Config, OpticsConfig, PixelSize, PupilPSFConfig
from adaloc.models.device import describe_device
from adaloc.simulation.field_map import random_field_map
from adaloc.simulation.frames import simulate_sample
from adaloc.simulation.psf import make_psf
from adaloc.simulation.pupil import PupilPSF, ScalarPupilPSF

RESULTS = Path(__file__).parent / "results" / "simulation.json"
REPEATS = 15
AT_ONCE = 256  # as the simulator asks for (simulation/frames.py)
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


def images_per_s(model: Literal["scalar", "vectorial"]) -> dict[str, Any]:
    """Emitter images, and the floor from the operations counted."""
    simulation = Config().simulation
    psf = make_psf(PupilPSFConfig(type="pupil", model=model), simulation.optics)
    assert isinstance(psf, PupilPSF)
    rng = torch.Generator().manual_seed(0)
    x, y, z = ((torch.rand(AT_ONCE, generator=rng) - 0.5) * size for size in (1, 1, 1600))
    phase, magnitude = torch.randn(AT_ONCE, 21, generator=rng) * 0.1, torch.zeros(AT_ONCE, 21)
    magnitude[:, 0] = 1
    components, samples, pixels = {"scalar": 1, "vectorial": 5}[model], psf.pupil_samples, psf.roi_size_px
    block = 32 * torch.get_num_threads()
    pupil = torch.randn(block * components, samples, samples, dtype=torch.complex64, generator=rng)
    to_x, to_y = (torch.randn(n, pixels, dtype=torch.complex64, generator=rng) for n in (samples, samples))

    def products() -> None:
        for _ in range(AT_ONCE // block):
            to_y.mT @ (pupil @ to_x)

    with torch.inference_mode():
        seconds = median_seconds(lambda: psf.images(x, y, z, phase, magnitude))
        floor = median_seconds(products)
    # A complex product and sum is 8 operations.
    operations = 8 * components * (samples * samples * pixels + samples * pixels * pixels)
    return {
        "images_per_s": round(AT_ONCE / seconds),
        "floor_images_per_s": round(AT_ONCE / floor),
        "share_of_the_floor": round(floor / seconds, 3),
        "million_operations_an_image": round(operations / 1e6, 3),
        "gigaflops": round(operations * AT_ONCE / seconds / 1e9, 1),
    }


def median_seconds(call: Callable[[], object]) -> float:
    """Of `REPEATS` calls, after one that pays for caches."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken = []
    for _ in range(REPEATS + 1):
        begin = clock()
        call()
        taken.append(clock() - begin)
    return statistics.median(taken[1:])


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {
        "command": f"python benchmarks/simulation_speed.py --threads {arguments.threads}",
        "machine": describe_device(torch.device("cpu")),
        "reference_data_frames_per_s": speed(),
        "emitter_images": {model: images_per_s(model) for model in ("scalar", "vectorial")},
        "scalar_psf_against_psfmodels": [agreement(na, n) for na in (1.2, 1.4) for n in (40, 96)],
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
