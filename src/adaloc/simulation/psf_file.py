"""psf.h5: a pupil measured with beads, written by `adaloc calibrate` and named in `simulation.psf.calibration`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from scipy.interpolate import RegularGridInterpolator

from adaloc import __version__
from adaloc.config import OpticsConfig, PixelSize
from adaloc.emitters import FloatArray
from adaloc.errors import ConfigError, DataError
from adaloc.files import atomic_path
from adaloc.hdf5_file import attribute, dataset, new_hdf5, open_hdf5, read_numbers, require_dataset
from adaloc.simulation.pupil import clear_magnitudes, pupil_grid
from adaloc.simulation.zernike import NUM_MODES

_FORMAT = "adaloc psf"
_FORMAT_VERSION = 1
_SAME = 1e-6  # relative; numbers that were written and read differ by less


@dataclass(frozen=True)
class PSFFile:
    """A measured pupil.

    Attributes:
        optics: wavelength, NA, index of the immersion medium, pixel size of the camera it was measured with.
        model: the PSF model that the coefficients belong to.
        aplanatic: whether the scalar model had an aplanatic amplitude.
        sample_index, cover_slip_index: of the vectorial model; None means that of the immersion medium.
        blur_nm: sigma of the Gaussian blur beyond the size of the beads.
        phase_K: (21,) Zernike phase, Noll 1 to 21, radians rms.
        phase_sigma_K: (21,) standard errors of `phase_K`; 0 where nothing was fitted.
        magnitude_K: (21,) Zernike amplitude with 1 for piston.
        pupil_phase: (S, S) radians beyond the modes, from a pixel-wise retrieval, on the grid `pupil_grid(S)`; or None.
        facts: numbers and words about the fit, by name, written as attributes.
        tables: further arrays, by name, for plots and programs; adaloc does not read them again.
    """

    optics: OpticsConfig
    model: Literal["scalar", "vectorial"]
    aplanatic: bool
    sample_index: float | None
    cover_slip_index: float | None
    blur_nm: float
    phase_K: FloatArray
    phase_sigma_K: FloatArray
    magnitude_K: FloatArray = field(default_factory=lambda: clear_magnitudes(1)[0])
    pupil_phase: FloatArray | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, FloatArray] = field(default_factory=dict)

    def require_optics(self, optics: OpticsConfig, name: str) -> None:
        """Refuses a config of other optics; the camera's pixels may differ.

        Raises:
            ConfigError: naming what differs.
        """
        keys = ("wavelength_nm", "numerical_aperture", "refractive_index")
        pairs = {key: (getattr(self.optics, key), getattr(optics, key)) for key in keys}
        differing = [f"{k}: {a:g} there, {b:g} in the config" for k, (a, b) in pairs.items() if abs(a - b) > _SAME * a]
        if differing:
            raise ConfigError(
                f"The calibration {name} is of other optics than simulation.optics ({'; '.join(differing)}). "
                "Set simulation.optics to what the beads were measured with."
            )

    def pupil_phase_on(self, samples: int) -> FloatArray | None:
        """The pixel-wise phase on the grid of another number of samples: (samples, samples) radians, or None."""
        if self.pupil_phase is None or len(self.pupil_phase) == samples:
            return self.pupil_phase
        own, _ = pupil_grid(len(self.pupil_phase))
        wanted, _ = pupil_grid(samples)
        # The phase may be wrapped: its phasor has no jumps to interpolate over.
        phasor = RegularGridInterpolator((own, own), np.exp(1j * self.pupil_phase), bounds_error=False, fill_value=None)
        return np.asarray(np.angle(phasor(np.stack(np.meshgrid(wanted, wanted, indexing="ij"), axis=-1))))


def write_psf_file(path: Path, psf: PSFFile) -> None:
    """Writes psf.h5, atomically; docs/formats.md has the layout."""
    attributes = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "adaloc_version": __version__,
        "wavelength_nm": psf.optics.wavelength_nm,
        "numerical_aperture": psf.optics.numerical_aperture,
        "refractive_index": psf.optics.refractive_index,
        "pixel_size_x_nm": psf.optics.pixel_size_nm.x,
        "pixel_size_y_nm": psf.optics.pixel_size_nm.y,
        "model": psf.model,
        "aplanatic": psf.aplanatic,
        "sample_index": np.nan if psf.sample_index is None else psf.sample_index,
        "cover_slip_index": np.nan if psf.cover_slip_index is None else psf.cover_slip_index,
        "blur_nm": psf.blur_nm,
        **psf.facts,
    }
    with atomic_path(path) as temporary, new_hdf5(temporary) as file:
        file.attrs.update(attributes)
        file["zernike/noll"] = np.arange(1, NUM_MODES + 1)
        for name, values in (
            ("phase", psf.phase_K),
            ("phase_sigma", psf.phase_sigma_K),
            ("magnitude", psf.magnitude_K),
        ):
            file[f"zernike/{name}"] = values
            file[f"zernike/{name}"].attrs["unit"] = "1" if name == "magnitude" else "radian rms"
        if psf.pupil_phase is not None:
            file["pupil/phase"] = psf.pupil_phase
            file["pupil/phase"].attrs["unit"] = "radian"
        for name, values in psf.tables.items():
            file.create_dataset(name, data=values, compression="gzip" if np.ndim(values) > 1 else None)


def read_psf_file(path: Path) -> PSFFile:
    """Reads psf.h5.

    Raises:
        DataError: when the file is missing, damaged, or no PSF of adaloc.
    """
    if not path.is_file():
        raise DataError(f"The calibration {path} does not exist. Make it with: adaloc calibrate BEADS.tif -o {path}")
    try:
        with open_hdf5(path) as file:
            if attribute(file, "format") != _FORMAT:
                raise DataError(f"{path} is HDF5, but no PSF that adaloc calibrate wrote.")
            version = attribute(file, "format_version")
            if version != _FORMAT_VERSION:
                raise DataError(f"{path} has format version {version}; this adaloc reads version {_FORMAT_VERSION}.")
            psf = _parse(file)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"The calibration {path} cannot be read: {error}. Make it again with adaloc calibrate."
        ) from None
    arrays = [psf.phase_K, psf.phase_sigma_K, psf.magnitude_K]
    if any(a.shape != (NUM_MODES,) for a in arrays) or not all(np.isfinite(a).all() for a in arrays):
        raise DataError(f"{path} does not hold {NUM_MODES} finite Zernike coefficients. Make it again.")
    return psf


def _parse(file: h5py.File) -> PSFFile:
    # HDF5 lets a name be any bytes; those of the format are texts.
    attrs = {name: attribute(file, name) for name in file.attrs if isinstance(name, str)}
    model = str(attrs["model"])
    if model not in ("scalar", "vectorial"):
        raise ValueError(f"its model is {model}")
    sample, slip = (None if np.isnan(attrs[key]) else float(attrs[key]) for key in ("sample_index", "cover_slip_index"))
    pixelwise = dataset(file, "pupil/phase")
    pupil_phase = None if pixelwise is None else read_numbers(pixelwise).astype(np.float64)
    if pupil_phase is not None and (pupil_phase.ndim != 2 or pupil_phase.shape[0] != pupil_phase.shape[1]):
        raise ValueError(f"pupil/phase has the shape {pupil_phase.shape}, and is no square")
    optics = OpticsConfig(
        wavelength_nm=float(attrs["wavelength_nm"]),
        numerical_aperture=float(attrs["numerical_aperture"]),
        refractive_index=float(attrs["refractive_index"]),
        pixel_size_nm=PixelSize(x=float(attrs["pixel_size_x_nm"]), y=float(attrs["pixel_size_y_nm"])),
    )
    phase, sigma, magnitude = (
        require_dataset(file, f"zernike/{name}").astype(np.float64) for name in ("phase", "phase_sigma", "magnitude")
    )
    return PSFFile(
        optics, "scalar" if model == "scalar" else "vectorial", bool(attrs["aplanatic"]), sample, slip,
        float(attrs["blur_nm"]), phase, sigma, magnitude, pupil_phase,
    )  # fmt: skip
