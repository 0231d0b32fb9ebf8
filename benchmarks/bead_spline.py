"""A spline PSF of a real astigmatic bead localizes the same bead: z against the stage, and the spread against the CRLB.

    python benchmarks/bead_spline.py --data ../shared/data

The spline is built from every other plane of smap-fit3d/single_bead.tif (201 planes, 10 nm apart); the planes between
are localized by maximum likelihood. Twice: as measured, where the bead is so bright that a nanometre of the stage
shows; and dimmed to what a molecule has, with new shot noise, background and read noise on the measured shape.
The camera's gain and read noise are those that the stack itself shows: in its dimmer pixels the variance is
17 + 0.245 (ADU - 400) ADU^2, from third differences along z.

Then the double helix that the SMLM challenge 2016 simulated from measured beads: the spline is the average of the three
beads in the left half of the field, and localizes the three in the right half. Writes
benchmarks/results/bead_spline.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaloc.config import CameraConfig, OpticsConfig, PixelSize, SplinePSFConfig
from adaloc.data.sample_folder import read_movie
from adaloc.random_streams import Stream, torch_stream
from adaloc.simulation.bead_spline import find_beads, spline_from_beads
from adaloc.simulation.camera import expose
from adaloc.simulation.mle import Fits, fit_emitters
from adaloc.simulation.psf import make_psf
from adaloc.simulation.smap_calibration import write_smap_calibration
from adaloc.simulation.spline import SplinePSF

HERE = Path(__file__).parent
STACK = "smap-fit3d/single_bead.tif"
DOUBLE_HELIX = "epfl-challenge2016/sequence-as-stack-Beads-DH-Exp.tif"
DOUBLE_HELIX_TRUTH = "epfl-challenge2016/activations.csv"
DOUBLE_HELIX_OFFSET_ADU = 100.0
Z_STEP_NM, PIXEL_NM = 10.0, 100.0  # the pixel is not stated; it sets the unit of x and y alone
OFFSET_ADU = 400.0
STARTS_NM = (-500.0, 0.0, 500.0)
RANGES_NM = (300, 500, 800)
OUTLIER_NM = 300.0  # left out of slope and spread, counted, and in the root mean square
DIM_PHOTONS, DIM_BACKGROUND, REPEATS = (1000, 2000, 5000, 20000), 20.0, 5
DIM_CAMERA = CameraConfig(quantum_efficiency=1, read_noise_e=1.6, gain_e_per_adu=0.5, baseline_adu=100)


def measured_camera(adu_ZYX: np.ndarray[Any, Any], offset_adu: float) -> CameraConfig:
    """Gain and read noise from how the variance grows with the mean, in dim pixels where the PSF changes little."""
    weights = np.array([1.0, -3.0, 3.0, -1.0])  # a parabola along z leaves nothing
    parts = np.stack([adu_ZYX[k : len(adu_ZYX) - 3 + k] - offset_adu for k in range(4)])
    mean = parts.mean(0).ravel()
    variance = (np.tensordot(weights, parts, 1) ** 2 / (weights**2).sum()).ravel()
    dim = (mean > 15) & (mean < 300)
    design = np.stack([mean[dim], np.ones(dim.sum())], axis=1) / mean[dim, None]  # variance scatters as the mean
    slope, intercept = np.linalg.lstsq(design, variance[dim] / mean[dim], rcond=None)[0]
    return CameraConfig(
        quantum_efficiency=1,
        gain_e_per_adu=float(1 / slope),
        read_noise_e=float(np.sqrt(max(intercept, 0)) / slope),
        baseline_adu=offset_adu,
    )


def line(stage_nm: np.ndarray[Any, Any], fits: Fits, reach_nm: float) -> dict[str, float]:
    """Slope of the fitted z against the stage, and the spread around it beside the bound."""
    chosen = (np.abs(stage_nm) <= reach_nm) & fits.converged_N
    stage, z = stage_nm[chosen], fits.parameters_NP[chosen, 2]
    bound = float(np.sqrt(np.mean(fits.sigma_NP[chosen, 2] ** 2)))
    far = np.abs(z - stage) > OUTLIER_NM  # of few photons some take one side of focus for the other
    slope, offset = np.polyfit(stage[~far], z[~far], 1)
    spread = float(np.std((z - slope * stage - offset)[~far], ddof=2))
    return {
        "num_fits": int(chosen.sum()),
        "num_outliers": int(far.sum()),
        "slope": float(slope),
        "z_std_nm": spread,
        "z_crlb_nm": bound,
        "z_std_over_crlb": spread / bound,
        "rms_z_minus_stage_nm": float(np.sqrt(np.mean((z - stage) ** 2))),
        "x_std_nm": float(fits.parameters_NP[chosen, 0].std() * PIXEL_NM),
        "x_crlb_nm": float(np.sqrt(np.mean(fits.sigma_NP[chosen, 0] ** 2)) * PIXEL_NM),
        "chi_square": float(fits.chi_square_N[chosen].mean()),
    }


def dimmed(adu_NRR: np.ndarray[Any, Any], camera: CameraConfig, fits: Fits, photons: float) -> np.ndarray[Any, Any]:
    """The measured shapes with fewer photons: background taken off, scaled, and exposed again with another camera."""
    electrons = (adu_NRR - camera.baseline_adu) * camera.gain_e_per_adu
    light = (electrons - fits.parameters_NP[:, 4, None, None]) / fits.parameters_NP[:, 3, None, None]
    expected = torch.from_numpy(np.maximum(light * photons + DIM_BACKGROUND, 0)).float()
    generator = torch_stream(0, Stream.CAMERA, index=int(photons))
    return np.concatenate([expose(expected, DIM_CAMERA, generator).numpy() for _ in range(REPEATS)])


def double_helix(data: Path) -> dict[str, Any]:
    """Beads in one half of the field calibrate for those in the other; 10 nm a plane, truth in activations.csv."""
    adu = read_movie(data / DOUBLE_HELIX).astype(np.float64)
    truth = np.loadtxt(data / DOUBLE_HELIX_TRUTH, delimiter=",")
    places = np.unique(truth[:, 2:4] / PIXEL_NM - 0.5, axis=0)  # the file counts from the outer edge
    middle = adu.shape[2] // 2
    zero = len(adu) // 2  # z -750 to 750 nm
    made = spline_from_beads([adu[:, :, :middle]], Z_STEP_NM, (PIXEL_NM, PIXEL_NM), z0_plane=zero)
    psf = SplinePSF(made.spline)
    camera = measured_camera(adu, DOUBLE_HELIX_OFFSET_ADU)
    half, planes = psf.roi_size_px // 2, np.arange(10, len(adu) - 10, 3)
    stage_nm = (planes - zero) * Z_STEP_NM
    per_bead, offsets = [], []
    for row, column in find_beads(adu[:, :, middle:], made.spline.num_nodes[1]) + np.array([0, middle]):
        regions = adu[planes][:, row - half : row + half + 1, column - half : column + half + 1]
        fits = fit_emitters(regions, psf, camera, STARTS_NM, psf.z_range_nm)
        place = fits.parameters_NP[:, :2].mean(0) + np.array([column, row])
        nearest = places[np.abs(places - place).sum(1).argmin()]
        offsets.append((place - nearest) * PIXEL_NM)
        per_bead.append(line(stage_nm, fits, 650))
    return {
        "beads_averaged": made.num_used,
        "camera_measured": {"gain_e_per_adu": camera.gain_e_per_adu, "read_noise_e": camera.read_noise_e},
        "held_out_beads": per_bead,
        # The centre of a double helix is a convention; that it is the same for all beads is not.
        "lateral_offset_nm": np.mean(offsets, axis=0).tolist(),
        "lateral_offset_std_nm": np.std(offsets, axis=0, ddof=1).tolist(),
    }


def main() -> None:
    """Builds, localizes, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with smap-fit3d and epfl-challenge2016")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bead_spline.json")
    arguments = parser.parse_args()
    adu = read_movie(arguments.data / STACK).astype(np.float64)
    camera = measured_camera(adu, OFFSET_ADU)
    begin = time.process_time()
    made = spline_from_beads([adu[::2]], 2 * Z_STEP_NM, (PIXEL_NM, PIXEL_NM))
    build_s = time.process_time() - begin
    with tempfile.TemporaryDirectory() as folder:  # through the file, as a user would
        path = Path(folder) / "bead_3dcal.mat"
        write_smap_calibration(path, made.spline)
        optics = OpticsConfig(pixel_size_nm=PixelSize(x=PIXEL_NM, y=PIXEL_NM))
        psf = make_psf(SplinePSFConfig(type="spline", file=path), optics)
    assert isinstance(psf, SplinePSF)
    between = np.arange(1, len(adu), 2)
    stage_nm = between * Z_STEP_NM - made.spline.z0 * 2 * Z_STEP_NM
    row, column = np.unravel_index(int(adu.mean(0).argmax()), adu.shape[1:])
    half = psf.roi_size_px // 2
    regions = adu[between][:, row - half : row + half + 1, column - half : column + half + 1]
    begin = time.process_time()
    bright = fit_emitters(regions, psf, camera, STARTS_NM, psf.z_range_nm)
    fits_per_s = len(regions) / (time.process_time() - begin)
    results: dict[str, Any] = {
        "command": "python benchmarks/bead_spline.py --data DATA",
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "spline": {
            "planes_used": len(adu[::2]), "z_range_nm": psf.z_range_nm, "roi_size_px": psf.roi_size_px,
            "background_adu": made.background, "darkest_share": made.darkest_share, "build_cpu_s": build_s,
        },
        "camera_measured": {"gain_e_per_adu": camera.gain_e_per_adu, "read_noise_e": camera.read_noise_e},
        "fits_per_cpu_s": fits_per_s,
        "as_measured": {
            "photons": float(np.median(bright.parameters_NP[:, 3])),
            "converged": int(bright.converged_N.sum()),
            **{f"within_{reach}_nm": line(stage_nm, bright, reach) for reach in RANGES_NM},
        },
    }  # fmt: skip
    for photons in DIM_PHOTONS:
        frames = dimmed(regions, camera, bright, photons)
        fits = fit_emitters(frames, psf, DIM_CAMERA, STARTS_NM, psf.z_range_nm)
        stage = np.tile(stage_nm, REPEATS)
        results[f"dimmed_to_{photons}_photons"] = {
            "background": DIM_BACKGROUND,
            "converged": int(fits.converged_N.sum()),
            **{f"within_{reach}_nm": line(stage, fits, reach) for reach in RANGES_NM},
        }
    results["double_helix"] = double_helix(arguments.data)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
