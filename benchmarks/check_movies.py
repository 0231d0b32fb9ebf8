"""How often `adaloc check --movie` is right: simulated movies with and without a fault, and movies that others made.

    python benchmarks/check_movies.py --data ../shared/data --healthy 6 --per-fault 2

Some three minutes on one core. Writes benchmarks/results/check_movies.json. Real movies are compared with a config made
from what their source states, and with one that is not theirs; nothing of the check was tuned on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from rich.console import Console

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from adaloc.config import Config  # noqa: E402
from adaloc.config_file import dump_config, load_config, merged  # noqa: E402
from adaloc.data.movie_check import check_movie  # noqa: E402
from adaloc.data.movie_findings import judge_movie  # noqa: E402
from adaloc.data.movie_measure import measure_movie  # noqa: E402
from adaloc.data.movie_numbers import look_at_numbers  # noqa: E402
from adaloc.data.movie_reference import Reference, simulate_reference  # noqa: E402
from adaloc.simulation.camera_maps import from_storm_analysis, write_camera_maps  # noqa: E402
from movie_faults import FAULTS, LENGTH, SIZE, config_of, movie, setting  # noqa: E402

RESULTS = HERE / "results" / "check_movies.json"
SETTINGS = ("default", "crowded_noisy", "gaussian", "emccd", "dense", "sparse", "long", "structured")
FIRST_SEED = 2000  # the tests' movies have others
Frames = npt.NDArray[np.generic]


def causes(raw: Frames, config: Config, reference: Reference) -> list[str]:
    """What the check names."""
    findings = judge_movie(look_at_numbers(raw), raw.size, measure_movie(raw), reference, config, None)
    return [finding.cause for finding in findings]


def simulated(healthy: int, per_fault: int, console: Console) -> dict[str, Any]:
    """False alarms and named faults, by setting."""
    result: dict[str, Any] = {}
    for name in SETTINGS:
        simulation = json.loads(setting(name))
        config = config_of(simulation)
        reference = simulate_reference(config, LENGTH, (SIZE, SIZE))
        alarms = [causes(movie(simulation, FIRST_SEED + i), config, reference) for i in range(healthy)]
        row: dict[str, Any] = {"healthy": healthy, "false_alarms": [a for a in alarms if a], "faults": {}}
        for fault, (change, names) in FAULTS.items():
            faulty = merged(simulation, change(simulation))
            found = [causes(movie(faulty, FIRST_SEED + i), config, reference) for i in range(per_fault)]
            row["faults"][fault] = {
                "movies": per_fault,
                "named": sum(bool(set(f) & names) for f in found),
                "alone": sum(bool(f) and set(f) <= names for f in found),
                "said": found,
            }
        result[name] = row
        named = sum(f["named"] for f in row["faults"].values())
        console.print(f"{name}: {len(row['false_alarms'])} of {healthy} false alarms; {named} of "
                      f"{per_fault * len(FAULTS)} faults named")  # fmt: skip
    return result


def base(**simulation: Any) -> dict[str, Any]:
    """The NAIRR-SMLM config as a tree, with a part of its simulation changed."""
    return merged(dump_config(load_config(HERE / "config_nairr_3das.json")), {"simulation": simulation})


def real_cases(data: Path, work: Path) -> Iterator[tuple[str, Frames, Config]]:
    """(name, frames, config) of movies by others."""
    nairr = data / "nairr-smlm"
    astigmatic, flat = (tifffile.imread(nairr / f"{n}_LD_Validate_Frame.tif") for n in ("3DAS", "2DGauss"))
    # Stated: sigma 108.8 nm, 3000 photons, background 500, variance 300, offset 500, 12.9 emitters on 10.24 um2.
    of_flat = base(
        psf={"sigma_x_nm": 108.8, "sigma_y_nm": 108.8, "depth_nm": None},
        emitters={"density_per_um2": 1.26, "photons_mean": 3000},
        background={"mean_photons": 500, "std_photons": 5},
        camera={"read_noise_e": 300**0.5},
    )
    yield "nairr 3DAS with its config", astigmatic, Config.model_validate(base())
    yield "nairr 2DGauss with its config", flat, Config.model_validate(of_flat)
    yield "nairr 3DAS with the config of 2DGauss", astigmatic, Config.model_validate(of_flat)
    yield "nairr 2DGauss with the config of 3DAS", flat, Config.model_validate(base())
    folder = data / "storm-analysis-scmos"
    storm = np.fromfile(folder / "sample.dax", dtype=">u2").reshape(-1, 256, 256).astype(np.uint16)
    scmos = dump_config(load_config(HERE / "config_scmos_storm.json"))
    for unit, medians in (("ADU/e", {"gain_e_per_adu": 2.11, "read_noise_e": 5.05}),
                          ("e/ADU", {"gain_e_per_adu": 0.474, "read_noise_e": 1.13})):  # fmt: skip
        path = work / f"maps_{unit[0]}.h5"
        write_camera_maps(
            path,
            from_storm_analysis(folder / "calib.npy", 100, transpose=True, gain_unit=unit),  # type: ignore[arg-type]
        )
        for maps in (None, path):
            camera = {**medians, "maps": None if maps is None else str(maps)}
            config = Config.model_validate(merged(scmos, {"simulation": {"camera": camera}}))
            yield f"sCMOS STORM, gain {unit}, {'maps' if maps else 'medians'}", storm, config
    tetrapod = np.stack([tifffile.imread(data / f"deepstorm3d/Tetrapod_demo2_crop/{i}.tif") for i in range(1, 31)])
    # No tetrapod among the PSFs here: its width must be off, whatever else is.
    wide = base(optics={"pixel_size_nm": {"x": 110, "y": 110}}, camera={"baseline_adu": 100, "read_noise_e": 2})
    yield "tetrapod STORM (minimum subtracted), baseline 100", tetrapod, Config.model_validate(wide)
    dim = base(optics={"pixel_size_nm": {"x": 133.5, "y": 133.5}}, camera={"baseline_adu": 100, "read_noise_e": 2})
    yield "locan dSTORM, camera not known", tifffile.imread(data / "locan/images.tif"), Config.model_validate(dim)
    paint = np.fromfile(data / "picasso/testdata.raw", dtype="<u2").reshape(-1, 32, 32)
    # Stated: pixel 160 nm, PSF 0.82 px. Its background is Poisson light with a spread of its own (Noise.Equation*).
    of_paint = base(
        optics={"pixel_size_nm": {"x": 160, "y": 160}},
        psf={"sigma_x_nm": 131, "sigma_y_nm": 131, "depth_nm": None},
        emitters={"density_per_um2": 0.03, "on_time_frames": 2, "photons_mean": 15_000, "photons_std": 8000},
        background={"mean_photons": 250, "std_photons": 10},
        camera={"baseline_adu": 0, "read_noise_e": 0},
    )
    yield "Picasso DNA-PAINT, 1 photon = 1 ADU", paint, Config.model_validate(of_paint)


def real(data: Path, console: Console) -> dict[str, Any]:
    """What is said of each."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, frames, config in real_cases(data, Path(work)):
            from adaloc.simulation.camera_maps import maps_of_movie

            maps = maps_of_movie(config.simulation.camera, None, None, (frames.shape[1], frames.shape[2]))
            check = check_movie(frames, config, maps, None)
            result[name] = {
                "findings": [_rounded(finding.to_dict()) for finding in check.findings],
                "table": {row.name: _rounded([row.movie, row.config]) for row in check.rows},
            }
            console.print(f"{name}: {', '.join(f.cause for f in check.findings) or 'fits'}", markup=False)
    return result


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


def main() -> None:
    """Runs both parts and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the movies of others")
    parser.add_argument("--healthy", type=int, default=6, help="movies without a fault, of each setting")
    parser.add_argument("--per-fault", type=int, default=2, help="movies with each fault, of each setting")
    arguments = parser.parse_args()
    console = Console()
    command = "python benchmarks/check_movies.py --data DATA"
    results = {
        "command": f"{command} --healthy {arguments.healthy} --per-fault {arguments.per_fault}",
        "real": real(arguments.data, console),
        "simulated": simulated(arguments.healthy, arguments.per_fault, console),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
