"""Picasso's detection and its two maximum-likelihood fits in 3D, as benchmarks/against_fit.py runs them.

`widths`: an elliptical Gaussian for each spot ("gaussmle"), then z from its two widths (`picasso.zfit`, after Huang et
al., Science 319, 810 (2008)). `spline`: an experimental cubic-spline PSF ("spline-mle", after Li et al., Nature
Methods 15, 367 (2018)). Both calibrated by Picasso itself from a stack of beads.

Picasso counts x and y from the middle of the first pixel, as adaloc does, and electrons, not photons; its z is
positive in the first frames of a stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt

from adaloc.config import CameraConfig, PixelSize
from adaloc.emitters import EmitterTable, FloatArray

Fit = Literal["widths", "spline"]
STEP_NM = 20.0
_BEAD_NET_GRADIENT = 20_000.0  # far above the noise, far below a bead of 50,000 photons in focus
_REACHES_NM = (900.0, 800.0, 700.0, 600.0, 500.0, 400.0)
_MOST_ERROR_NM = 50.0  # of nine tenths of the beads


@dataclass(frozen=True)
class Beads:
    """A stack of bright beads: one frame a depth, from the highest z down, `STEP_NM` apart.

    Attributes:
        frames_THW: ADU.
        z_T: depth of the beads in each frame, nm.
        row_N, column_N: middle pixels of the beads.
    """

    frames_THW: npt.NDArray[np.uint16]
    z_T: FloatArray
    row_N: npt.NDArray[np.int64]
    column_N: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """Picasso's calibration for one fit and box, the z that its zero stands for, and the depth it reaches."""

    fit: Fit
    box: int
    values: dict[str, Any]
    z_of_zero_nm: float
    reach_nm: float


@dataclass(frozen=True)
class Found:
    """Localizations with the figures by which they may be left out.

    Attributes:
        table: the localizations.
        net_gradient_N: Picasso's score of each detection.
        misfit_N: of the two widths to any depth (`d_zcalib`, px^0.5), half the Poisson deviance of a spline, or the
            mean chi-square of a pixel for the known PSF.
    """

    table: EmitterTable
    net_gradient_N: FloatArray
    misfit_N: FloatArray


class Picasso:
    """Picasso for one camera.

    Raises:
        SystemExit: when Picasso is not installed.
    """

    def __init__(self, camera: CameraConfig, pixel_size_nm: PixelSize, work: Path) -> None:
        matplotlib.use("Agg")  # its calibrations plot
        try:
            from picasso import localize, spline, zfit
        except ImportError as error:
            raise SystemExit(
                f"This benchmark compares with Picasso: pip install 'picassosr>=0.11' ({error})."
            ) from None
        self._localize, self._spline, self._zfit = localize, spline, zfit
        self._quantum_efficiency = camera.quantum_efficiency
        self._work = work
        self._camera_info = {
            "Baseline": camera.baseline_adu,
            "Sensitivity": camera.gain_e_per_adu,
            "Gain": 1,
            "Pixelsize": (pixel_size_nm.x + pixel_size_nm.y) / 2,  # for its own precision estimates only
        }

    def movie(self, frames_THW: npt.NDArray[np.uint16], name: str) -> np.memmap[Any, Any]:
        """A movie as Picasso takes it: mapped from a file."""
        path = self._work / f"{name}.npy"
        np.save(path, frames_THW)
        mapped = np.load(path, mmap_mode="r")
        assert isinstance(mapped, np.memmap)
        return mapped

    def detect(self, movie: np.memmap[Any, Any], box: int, smoothing_px: float, net_gradient: float) -> Any:
        """A data frame of spots: frame, x, y, net_gradient."""
        spots, _ = self._localize.identify(
            movie, net_gradient, box, threaded=False, gaussian_filter_sigma=smoothing_px or None
        )
        return spots

    def calibrate(self, beads: Beads, fit: Fit, box: int) -> Calibration:
        """Calibrates with the beads over the widest range of z in which they are then found again.

        A box that is too small for a wide spot makes its Gaussian fit run away, and Picasso's polynomial follows it; a
        person who looks at its plots would narrow the range likewise.
        """
        import matplotlib.pyplot as plt
        import pandas as pd

        movie = self.movie(beads.frames_THW, "beads")
        num_frames, num_beads = len(beads.z_T), len(beads.row_N)
        spots = pd.DataFrame({
            "frame": np.repeat(np.arange(num_frames), num_beads),
            "x": np.tile(beads.column_N, num_frames),
            "y": np.tile(beads.row_N, num_frames),
            "net_gradient": np.ones(num_frames * num_beads, np.float32),
        })  # fmt: skip
        for reach in _REACHES_NM:
            inside = np.flatnonzero(np.abs(beads.z_T) <= reach)
            bounds = (int(inside[0]), int(inside[-1]))
            values = self._calibrate(movie, spots, bounds, fit, box)
            plt.close("all")
            there = spots[spots["frame"].between(*bounds)]
            found = self.fit(movie, there, Calibration(fit, box, values, 0.0, reach)).table
            offset = beads.z_T[found.frame] - found.z
            z_of_zero = float(np.median(offset)) if len(offset) else math.inf
            # This shows a wrong sign as well as a polynomial that misses the widths.
            if len(offset) >= 0.9 * len(there) and np.quantile(np.abs(offset - z_of_zero), 0.9) <= _MOST_ERROR_NM:
                return Calibration(fit, box, values, z_of_zero, reach)
        raise SystemExit(f"Picasso's calibration ({fit}, box {box}) does not give back the z of its own beads.")

    def _calibrate(
        self, movie: np.memmap[Any, Any], spots: Any, frame_bounds: tuple[int, int], fit: Fit, box: int
    ) -> dict[str, Any]:
        info, camera = self._info(movie), dict(self._camera_info)
        if fit == "spline":
            values = self._spline.calibrate_spline(
                movie, info, camera, box, _BEAD_NET_GRADIENT, STEP_NM, frame_bounds=frame_bounds,
                magnification_factor=1.0,
            )  # fmt: skip
        else:
            locs, _ = self._localize.fit(
                movie, camera_info=camera, identifications=spots, box=box, fitting_method="gaussmle", multiprocess=False
            )
            values = self._zfit.calibrate_z(locs, info, STEP_NM, 1.0, frame_bounds=frame_bounds)
        return dict(values)

    def fit(self, movie: np.memmap[Any, Any], spots: Any, calibration: Calibration) -> Found:
        """Fits detected spots in 3D on one core."""
        method = "gaussmle" if calibration.fit == "widths" else "spline-mle"
        locs, _ = self._localize.fit(
            movie, camera_info=dict(self._camera_info), identifications=spots, box=calibration.box,
            fitting_method=method, multiprocess=False,
            spline_calibration=calibration.values if calibration.fit == "spline" else None,
        )  # fmt: skip
        if calibration.fit == "widths":
            locs, _ = self._zfit.zfit(
                locs, self._info(movie), calibration=calibration.values, fitting_method="gaussmle", filter=0
            )
        columns = {name: locs[name].to_numpy(np.float64) for name in ("x", "y", "z", "photons", "bg")}
        table = EmitterTable(
            frame=locs["frame"].to_numpy(np.int64),
            x=columns["x"],
            y=columns["y"],
            z=columns["z"] + calibration.z_of_zero_nm,
            photons=columns["photons"] / self._quantum_efficiency,
            background=columns["bg"] / self._quantum_efficiency,
        )
        misfit = locs["d_zcalib"] if calibration.fit == "widths" else -locs["log_likelihood"]
        usable = np.isfinite(np.stack([*columns.values(), misfit.to_numpy(np.float64)])).all(0)
        return Found(
            table.select(usable),
            locs["net_gradient"].to_numpy(np.float64)[usable],
            misfit.to_numpy(np.float64)[usable],
        )

    def _info(self, movie: npt.NDArray[np.uint16]) -> list[dict[str, Any]]:
        num_frames, height, width = movie.shape
        return [{"Frames": num_frames, "Height": height, "Width": width, "Pixelsize": self._camera_info["Pixelsize"]}]
