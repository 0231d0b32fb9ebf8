"""Does a field map from most beads predict the aberrations of the others? 429 real fits over a field of 2048 px.

    python benchmarks/field_map_beads.py --data ../shared/data

The fits are bead180_fits.mat of imphys/vecfitcpu_vortex (Apache-2.0): 12 Zernike coefficients of each bead. Of three
smooth models the one with the smallest error in cross-validation within the training beads is taken, mode by mode: a
polynomial in x and y of second degree (nodal aberration theory has first and second powers in these modes), one of
fourth degree, and a thin-plate spline with as much smoothing as the beads' noise asks for. The held-out beads are not
looked at before. The noise of a fit is estimated from the training beads' nearest neighbours: half the variance of
their differences, with pairs more than 100 px apart left out.

The map's signs hold where z falls with the height above the cover slip, as in the source's phase.

Writes benchmarks/results/field_map_beads.json, and with --out-map the field map of all beads for --zmap.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator
from scipy.io import loadmat
from scipy.spatial import cKDTree

from adaloc.simulation.aberration_map import from_row_angles
from adaloc.simulation.field_map import FieldMap, read_field_map, write_field_map
from adaloc.simulation.pupil import clear_magnitudes
from adaloc.simulation.zernike import NUM_MODES, noll_to_radial_azimuthal

HERE = Path(__file__).parent
FIELD_PX = 2048
MAP_PX = 256  # a map of fewer, larger steps: cubic interpolation between them is exact enough, and is checked
MODES = ((2, -2), (2, 2), (3, -1), (3, 1), (3, -3), (3, 3), (4, 0), (4, -2), (4, 2), (5, -1), (5, 1), (6, 0))
FOLDS, TRAINING_SHARE, NEIGHBOUR_PX = 5, 0.8, 100.0
Array = npt.NDArray[np.float64]
Predictor = Callable[[Array], Array]


def polynomial(degree: int) -> Callable[[Array, Array], Predictor]:
    """Least squares in monomials up to a total degree; coordinates are scaled to -1 to 1."""
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]

    def basis(xy: Array) -> Array:
        return np.stack([xy[:, 0] ** i * xy[:, 1] ** j for i, j in powers], axis=1)

    def fit(xy: Array, values: Array) -> Predictor:
        solution, *_ = np.linalg.lstsq(basis(xy), values, rcond=None)
        return lambda at: basis(at) @ solution

    return fit


def thin_plate(smoothing: float) -> Callable[[Array, Array], Predictor]:
    """A smoothed thin-plate spline."""

    def fit(xy: Array, values: Array) -> Predictor:
        return RBFInterpolator(xy, values, kernel="thin_plate_spline", smoothing=smoothing)  # type: ignore[no-any-return]

    return fit


MODELS = {
    "polynomial of degree 2": polynomial(2),
    "polynomial of degree 4": polynomial(4),
    **{f"thin-plate spline, smoothing {s:g}": thin_plate(s) for s in (0.1, 1.0, 10.0)},
}


def cross_validated(model: Callable[[Array, Array], Predictor], xy: Array, values: Array, fold: Array) -> float:
    """Root mean square error over the folds, robust to none: every bead counts."""
    errors = np.empty(len(xy))
    for number in range(FOLDS):
        inside = fold != number
        errors[~inside] = model(xy[inside], values[inside])(xy[~inside]) - values[~inside]
    return float(np.sqrt((errors**2).mean()))


def noise_of_fits(xy_px: Array, values: Array) -> float:
    """Standard deviation of a fit, from neighbours."""
    distance, neighbour = cKDTree(xy_px).query(xy_px, k=2)
    near = distance[:, 1] < NEIGHBOUR_PX
    difference = values[near] - values[neighbour[near, 1]]
    return float(np.sqrt((difference**2).mean() / 2))


def to_field_map(predictors: list[Predictor], wavelengths_to_rad: float) -> FieldMap:
    """The map on a grid over the field. The source's angles are measured from the rows, as FD-DeepLoc's."""
    ours = {noll_to_radial_azimuthal(j): j - 1 for j in range(1, NUM_MODES + 1)}
    line = (np.arange(MAP_PX) + 0.5) / MAP_PX * 2 - 1
    column, row = np.meshgrid(line, line)
    at = np.stack([column.ravel(), row.ravel()], axis=1)
    phase = np.zeros((NUM_MODES, MAP_PX, MAP_PX))
    for n_m, predictor in zip(MODES, predictors, strict=True):
        own, sign = from_row_angles(n_m)
        if own in ours:  # (6, 0) is Noll 22, beyond a field map
            phase[ours[own]] = sign * wavelengths_to_rad * predictor(at).reshape(MAP_PX, MAP_PX)
    corners = np.array([[0.0, 0.0], [MAP_PX - 1, 0], [0, MAP_PX - 1], [MAP_PX - 1, MAP_PX - 1]])
    return FieldMap(phase, corners, clear_magnitudes(4))


def map_error(field_map: FieldMap, predictors: list[Predictor], xy: Array) -> float:
    """Largest difference in milliwavelengths between the map, written and read, and the models, at the beads."""
    ours = {noll_to_radial_azimuthal(j): j - 1 for j in range(1, NUM_MODES + 1)}
    px = (xy + 1) / 2 * MAP_PX - 0.5
    phase, _ = field_map.coefficients_at(px[:, 0], px[:, 1])
    worst = 0.0
    for n_m, predictor in zip(MODES, predictors, strict=True):
        own, sign = from_row_angles(n_m)
        if own in ours:
            error = sign * phase[:, ours[own]] / (2 * np.pi) * 1000 - predictor(xy)
            worst = max(worst, float(np.abs(error).max()))
    return worst


def main() -> None:
    """Fits, predicts, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out-map", type=Path, default=HERE.parent / "outputs" / "field_map_beads.h5")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "field_map_beads.json")
    arguments = parser.parse_args()
    theta = loadmat(arguments.data / "vecfit-vortex/bead180_fits.mat")["theta"].astype(np.float64)
    # The source's x runs along the rows of the image, as its pupil's does; here x is the column.
    xy_px, coefficients = theta[[1, 0]].T, theta[5:17]
    xy = xy_px / (FIELD_PX / 2)
    rng = np.random.default_rng(arguments.seed)
    order = rng.permutation(len(xy))
    training, held_out = np.split(order, [round(TRAINING_SHARE * len(xy))])
    fold = rng.integers(0, FOLDS, len(training))
    rows: list[dict[str, Any]] = []
    predictors = []
    for n_m, values in zip(MODES, coefficients, strict=True):
        scores = {n: cross_validated(m, xy[training], values[training], fold) for n, m in MODELS.items()}
        best = min(scores, key=lambda name: scores[name])
        predictor = MODELS[best](xy[training], values[training])
        predictors.append(predictor)
        error = predictor(xy[held_out]) - values[held_out]
        spread = values[held_out] - values[training].mean()
        rows.append(
            {
                "n": n_m[0],
                "m": n_m[1],
                "model": best,
                "error_rms": float(np.sqrt((error**2).mean())),
                "error_median_absolute_as_rms": float(1.4826 * np.median(np.abs(error))),
                "spread_rms": float(np.sqrt((spread**2).mean())),
                "noise_of_fits_rms": noise_of_fits(xy_px[training], values[training]),
                "cross_validation_rms": scores,
            }
        )
        row = rows[-1]
        print(
            f"({n_m[0]}, {n_m[1]:2d})  error {row['error_rms']:5.2f}  spread {row['spread_rms']:5.2f}  "
            f"noise of fits {row['noise_of_fits_rms']:5.2f} milliwaves  {best}"
        )
    arguments.out_map.parent.mkdir(parents=True, exist_ok=True)
    write_field_map(arguments.out_map, to_field_map(predictors, 2 * np.pi / 1000))
    total = {k: float(np.sqrt(sum(r[k] ** 2 for r in rows))) for k in ("error_rms", "spread_rms", "noise_of_fits_rms")}
    results = {
        "command": f"python benchmarks/field_map_beads.py --seed {arguments.seed}",
        "unit": "milliwavelengths rms",
        "num_training_beads": len(training),
        "num_held_out_beads": len(held_out),
        "all_modes": {**total, "explained_variance": 1 - total["error_rms"] ** 2 / total["spread_rms"] ** 2},
        "largest_difference_between_map_and_models": map_error(
            read_field_map(arguments.out_map), predictors, xy[held_out]
        ),
        "modes": rows,
    }
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in results.items() if k != "modes"}, indent=2))


if __name__ == "__main__":
    main()
