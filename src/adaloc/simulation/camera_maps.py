"""Maps of an sCMOS camera: every pixel has its own offset, read noise and gain.

As in Huang et al., Nature Methods 10, 653 (2013): a pixel reads (electrons + noise) / gain + offset. Frames are
brought to the ADU that the config's uniform camera would have given for the same electrons, once, where they are
read; everything behind that works as with a uniform camera.
"""

from __future__ import annotations

import functools
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from adaloc.bounds import load_npy, load_npz
from adaloc.config import CameraConfig
from adaloc.emitters import FloatArray
from adaloc.errors import ConfigError, DataError
from adaloc.files import atomic_path
from adaloc.hdf5_file import dataset, new_hdf5, open_hdf5, read_numbers

GainUnit = Literal["ADU/e", "e/ADU"]
_USUAL_READ_NOISE_E = (0.5, 3.5)
_NAMES = ("offset_adu", "variance_adu2", "gain_e_per_adu")
_CHANGED = "Measure the camera again, or mend the file; docs/formats.md shows the layout."


@dataclass(frozen=True)
class CameraMaps:
    """What each pixel of a chip, or of a part of it, does.

    Attributes:
        offset_adu: (H, W) ADU that are read in the dark, on average.
        variance_adu2: (H, W) variance of the read noise in ADU^2.
        gain_e_per_adu: (H, W) electrons per ADU.
    """

    offset_adu: FloatArray
    variance_adu2: FloatArray
    gain_e_per_adu: FloatArray

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width)."""
        return self.offset_adu.shape[0], self.offset_adu.shape[1]

    @property
    def read_noise_e(self) -> FloatArray:
        """(H, W) standard deviation of the read noise in electrons."""
        return np.asarray(np.sqrt(self.variance_adu2) * self.gain_e_per_adu)

    def cut(self, origin_px: tuple[int, int], size_px: tuple[int, int]) -> CameraMaps:
        """The part under frames of (height, width) whose first pixel is the maps' (row, column) `origin_px`.

        Raises:
            DataError: when the frames reach beyond the maps.
        """
        (top, left), (height, width) = origin_px, size_px
        if min(top, left) < 0 or top + height > self.size_px[0] or left + width > self.size_px[1]:
            raise DataError(
                f"Frames of {height} x {width} px at row {top}, column {left} reach beyond the camera maps of "
                f"{self.size_px[0]} x {self.size_px[1]} px. Give the maps of these pixels, or where the frames lie in "
                "them."
            )
        rows, columns = slice(top, top + height), slice(left, left + width)
        return CameraMaps(*(values[rows, columns] for values in self._arrays()))

    def fitting(self, size_px: tuple[int, int]) -> CameraMaps:
        """These maps, when they are those of frames of (height, width).

        Raises:
            DataError: when their size is another one, and nobody said where the frames lie in them.
        """
        if size_px != self.size_px:
            raise DataError(
                f"The frames have {size_px[0]} x {size_px[1]} px, the camera maps {self.size_px[0]} x "
                f"{self.size_px[1]}. Cut the maps to the frames, or say which row and column of the maps is the "
                "frames' first pixel (adaloc localize: --camera-origin ROWxCOLUMN)."
            )
        return self

    def to_uniform(self, adu: npt.NDArray[Any], camera: CameraConfig) -> npt.NDArray[np.float32]:
        """Frames (..., H, W) as the config's uniform camera would have given them, in ADU, not rounded.

        Their mean is exact; the noise stays that of each pixel.
        """
        factor = (self.gain_e_per_adu / camera.gain_e_per_adu).astype(np.float32)
        # Frames are 16 bit: in float32 the product is good to 1e-7 of it, far below a photon.
        corrected = (adu - self.offset_adu.astype(np.float32)) * factor + np.float32(camera.baseline_adu)
        return np.asarray(corrected, dtype=np.float32)

    def same_as(self, other: CameraMaps) -> bool:
        """Whether both hold the same numbers, to float32."""
        return self.size_px == other.size_px and all(
            np.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(self._arrays(), other._arrays(), strict=True)
        )

    def _arrays(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        return self.offset_adu, self.variance_adu2, self.gain_e_per_adu


def maps_of(camera: CameraConfig) -> CameraMaps | None:
    """The maps that a config names, or None for a uniform camera.

    Raises:
        DataError: as `read_camera_maps`.
    """
    if camera.maps is None:
        return None
    if not camera.maps.is_file():
        raise DataError(
            f"The camera maps {camera.maps} (simulation.camera.maps) do not exist. Put the file there, or name another "
            "one (adaloc localize: --camera-maps PATH)."
        )
    stat = camera.maps.stat()
    return _cached(camera.maps, stat.st_mtime_ns, stat.st_size)


def maps_of_movie(
    camera: CameraConfig, path: Path | None, origin_px: tuple[int, int] | None, size_px: tuple[int, int]
) -> CameraMaps | None:
    """The maps under a movie's pixels; None for a uniform camera.

    Args:
        camera: of the config or model; its maps are taken where `path` is None.
        path: maps of the camera that took the movie.
        origin_px: (row, column) of the maps at which the movie's first pixel lies; None: both have one size.
        size_px: (height, width) of the movie.

    Raises:
        ConfigError: when an origin is given and there are no maps.
        DataError: when the maps cannot be read, or movie and maps do not fit.
    """
    maps = maps_of(camera) if path is None else read_camera_maps(path)
    if maps is None:
        if origin_px is not None:
            raise ConfigError("--camera-origin says where the movie lies in camera maps. Give them with --camera-maps.")
        return None
    return maps.fitting(size_px) if origin_px is None else maps.cut(origin_px, size_px)


def uniform_camera(camera: CameraConfig, maps: CameraMaps | None = None) -> CameraConfig:
    """The config's camera without maps, with the read noise of their median pixel; `maps` go before the config's."""
    maps = maps_of(camera) if maps is None else maps
    if maps is None:
        return camera
    return camera.model_copy(update={"maps": None, "read_noise_e": float(np.median(maps.read_noise_e))})


def read_camera_maps(path: Path) -> CameraMaps:
    """Reads maps from HDF5, .npz, or .npy with the three maps along its first axis.

    Names are offset_adu, variance_adu2 (or read_noise_e) and gain_e_per_adu, each (H, W).

    Raises:
        DataError: when the file is missing, broken, lacks a map, or holds numbers that no camera has.
    """
    if not path.is_file():
        raise DataError(f"The camera maps {path} do not exist. Check the path.")
    try:
        arrays = _read_hdf5(path) if h5py.is_hdf5(path) else _read_numpy(path)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise DataError(f"The camera maps {path} cannot be read as HDF5, .npz or .npy: {error}. {_CHANGED}") from None
    if "variance_adu2" not in arrays and {"read_noise_e", "gain_e_per_adu"} <= arrays.keys():
        with np.errstate(divide="ignore", invalid="ignore"):  # a gain of 0 is refused below, with words
            arrays["variance_adu2"] = (arrays["read_noise_e"] / arrays["gain_e_per_adu"]) ** 2
    if missing := [name for name in _NAMES if name not in arrays]:
        raise DataError(f"The camera maps {path} lack {', '.join(missing)}. {_CHANGED}")
    maps = CameraMaps(*(arrays[name] for name in _NAMES))
    _refuse_impossible(maps, str(path))
    return maps


def write_camera_maps(path: Path, maps: CameraMaps) -> None:
    """Writes maps as HDF5, atomically."""
    with atomic_path(path) as temporary, new_hdf5(temporary) as file:
        for name, values in zip(_NAMES, maps._arrays(), strict=True):
            file[name] = values


def from_storm_analysis(
    path: Path, baseline_adu: float, *, transpose: bool, gain_unit: GainUnit = "ADU/e"
) -> CameraMaps:
    """Maps from a calibration of storm-analysis (calib.npy).

    Such a file holds (3, X, Y): offset in ADU, above a baseline in files whose dark pixels lie near 0; variance in
    ADU^2; gain in ADU per electron. Files whose gain is its inverse exist; `read_noise_looks_inverted` sees them.

    Args:
        path: the .npy file; nothing in it is executed.
        baseline_adu: added to the offsets; 0 where they are absolute.
        transpose: exchange rows and columns, as files whose first axis is x need.
        gain_unit: of the third map.

    Raises:
        DataError: when it is not such a file.
    """
    if not path.is_file():
        raise DataError(f"The calibration {path} does not exist. Check its path.")
    try:
        with warnings.catch_warnings():  # numpy says of a file from Python 2 that it took longer to read
            warnings.simplefilter("ignore", UserWarning)
            values = load_npy(path)
    except (OSError, ValueError, EOFError):
        raise DataError(
            f"{path} cannot be read as an .npy array. A calibration that is kept as a Python list is not opened, since "
            "it could execute code: save its three maps with numpy.save(PATH, numpy.stack(maps[:3]))."
        ) from None
    if values.ndim != 3 or len(values) != 3 or values.dtype.kind not in "uif":
        raise DataError(f"{path} is no calibration of storm-analysis: expected three maps (3, X, Y).")
    offset, variance, gain = (np.asarray(v.T if transpose else v, dtype=np.float64) for v in values)
    if not (gain > 0).all():
        raise DataError(f"{path}: {int((~(gain > 0)).sum())} pixels have no positive gain. {_CHANGED}")
    maps = CameraMaps(offset + baseline_adu, variance, gain if gain_unit == "e/ADU" else 1 / gain)
    _refuse_impossible(maps, str(path))
    return maps


def read_noise_looks_inverted(maps: CameraMaps) -> bool:
    """Whether the gain looks like ADU per electron: the read noise is no sCMOS's, and with the inverse gain it is.

    Scientific CMOS chips have some 0.7 to 2.5 electrons in the median pixel.
    """
    noise_adu = np.sqrt(maps.variance_adu2)
    here, inverted = (float(np.median(noise_adu * gain)) for gain in (maps.gain_e_per_adu, 1 / maps.gain_e_per_adu))
    low, high = _USUAL_READ_NOISE_E
    return not low <= here <= high and low <= inverted <= high


@functools.lru_cache(maxsize=4)
def _cached(path: Path, modified_ns: int, size: int) -> CameraMaps:
    return read_camera_maps(path)


def _read_hdf5(path: Path) -> dict[str, FloatArray]:
    with open_hdf5(path) as file:
        found = {name: dataset(file, name) for name in (*_NAMES, "read_noise_e")}
        return {n: read_numbers(source).astype(np.float64) for n, source in found.items() if source is not None}


def _read_numpy(path: Path) -> dict[str, FloatArray]:
    if zipfile.is_zipfile(path):
        found = load_npz(path, (*_NAMES, "read_noise_e"))
        return {name: values.astype(np.float64) for name, values in found.items()}
    loaded = load_npy(path)
    if loaded.ndim != 3 or len(loaded) != 3:
        raise ValueError(f"its shape is {loaded.shape}, expected (3, H, W): {', '.join(_NAMES)}")
    return {name: values.astype(np.float64) for name, values in zip(_NAMES, loaded, strict=True)}


def _refuse_impossible(maps: CameraMaps, source: str) -> None:
    shapes = {values.shape for values in maps._arrays()}
    if len(shapes) != 1 or maps.offset_adu.ndim != 2 or maps.offset_adu.size == 0:
        raise DataError(f"The camera maps {source} have the shapes {sorted(shapes)}; expected (H, W), all the same.")
    if (maps.gain_e_per_adu <= 0).any() or (maps.variance_adu2 < 0).any():
        raise DataError(f"The camera maps {source} hold a gain of 0 or a negative variance. {_CHANGED}")
    if not all(np.isfinite(values).all() for values in maps._arrays()):
        raise DataError(f"The camera maps {source} hold values that are not finite. {_CHANGED}")
