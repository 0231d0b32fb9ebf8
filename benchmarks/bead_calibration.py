"""PSFs measured from real bead stacks by `adaloc calibrate`: how well the fitted pupil explains each stack.

    python benchmarks/bead_calibration.py --data ../shared/data [--only NAME]

The stacks are public data of other projects; what is not known of their optics is said in `assumed`. Plots go to
outputs/bead_calibration/, numbers to benchmarks/results/bead_calibration.json; stacks that are
not calibrated in this run keep the numbers that stand there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.io import loadmat

from adaloc.calibrate.command import calibrate_files
from adaloc.calibrate.recipe import Recipe
from adaloc.config import OpticsConfig, PixelSize

HERE = Path(__file__).parent
Job = tuple[Path, Recipe, float, float, str]


def jobs(data: Path) -> dict[str, Job]:
    """Name to file, recipe, baseline (ADU), gain (e/ADU) and what had to be assumed."""
    vortex = OpticsConfig(
        wavelength_nm=596, numerical_aperture=1.47, refractive_index=1.518, pixel_size_nm=PixelSize(x=65, y=65)
    )
    astigmatic = OpticsConfig(
        wavelength_nm=660, numerical_aperture=1.45, refractive_index=1.518, pixel_size_nm=PixelSize(x=130, y=130)
    )
    tetrapod = OpticsConfig(
        wavelength_nm=605, numerical_aperture=1.45, refractive_index=1.518, pixel_size_nm=PixelSize(x=160, y=160)
    )
    focus_um = loadmat(data / "vipr/NFP_pos_TP_images.mat")["z_stack_pos"].ravel()
    # The focus moves into the sample with a rising position: z of the bead falls by as much.
    tetrapod_step_nm = -1000 * float(np.diff(focus_um).mean())
    oil = data / "vecfit-vortex/bead180_oil.tif"
    common: dict[str, Any] = {"bead_diameter_nm": 180.0, "roi_size_px": 31, "max_planes": 26, "per_plane": True}
    # 51 planes from -2500 to 2500 nm, which the source takes as the middles of 51 equal parts of that range.
    oil_step_nm = 5000 / 51
    return {
        "oil_vectorial": (
            oil, Recipe(vortex, oil_step_nm, model="vectorial", cover_slip_index=1.523, **common), 104.2, 0.52, "",
        ),
        "oil_scalar": (oil, Recipe(vortex, oil_step_nm, **common), 104.2, 0.52, ""),
        "oil_scalar_pixelwise": (oil, Recipe(vortex, oil_step_nm, pixelwise=True, **common), 104.2, 0.52, ""),
        "astigmatic_scalar": (
            data / "smap-fit3d/single_bead.tif",
            Recipe(astigmatic, 10.0, bead_diameter_nm=100, roi_size_px=21, max_planes=26),
            400.0, 0.1, "NA 1.45, 660 nm, oil 1.518, pixel 130 nm, bead 100 nm, gain 0.1 e/ADU: not known",
        ),
        "tetrapod_scalar": (
            data / "vipr/TP_im.tif",
            Recipe(tetrapod, tetrapod_step_nm, bead_diameter_nm=46, roi_size_px=61, max_planes=28, pixelwise=True),
            650.0, 1.0, "scalar; the source had one polarization. Gain 1 e/ADU, as it is not known",
        ),
    }  # fmt: skip


def main() -> None:
    """Calibrates the stacks and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", action="append", help="Name of a stack; may be given several times.")
    parser.add_argument("--work", type=Path, default=Path("outputs/bead_calibration"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bead_calibration.json")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"stacks": {}}
    results["command"] = "python benchmarks/bead_calibration.py"
    arguments.work.mkdir(parents=True, exist_ok=True)
    chosen = jobs(arguments.data)
    for name in arguments.only or chosen:
        path, recipe, baseline, gain, assumed = chosen[name]
        begin = time.process_time()
        out = arguments.work / f"{name}.h5"
        psf = calibrate_files([path], recipe, baseline, gain, out, out.with_suffix(".png"), Console())
        to_milliwaves = 1000 / (2 * np.pi)
        results["stacks"][name] = {
            "file": path.name,
            "model": psf.model,
            "relative_residual": psf.facts["relative_residual"],
            "reduced_chi_square": psf.facts["reduced_chi_square"],
            "axial_scale": psf.facts["axial_scale"],
            "num_planes": psf.facts["num_planes"],
            "blur_nm": psf.blur_nm,
            "phase_milliwaves_noll_5_to_21": [round(float(v * to_milliwaves), 2) for v in psf.phase_K[4:]],
            "amplitude_noll_4_and_11": [round(float(psf.magnitude_K[k]), 3) for k in (3, 10)],
            "processor_seconds": round(time.process_time() - begin, 1),
            "pixelwise": recipe.pixelwise,
            "assumed": assumed,
        }
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
