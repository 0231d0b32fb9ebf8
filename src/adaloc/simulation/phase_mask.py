"""Phase masks of engineered PSFs, on a spatial light modulator or printed, as the phase of a pupil.

A mask lies in a plane conjugate to the back focal plane of the objective. The edge of the pupil is there at the radius
f NA / sqrt(M^2 - NA^2) for a relay (4f) lens of focal length f behind a microscope of magnification M: the sine
condition, and the angle NA/M on the camera's side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from adaloc.bounds import load_npy
from adaloc.config import OpticsConfig
from adaloc.emitters import FloatArray
from adaloc.errors import DataError
from adaloc.simulation.matlab_tree import open_matlab
from adaloc.simulation.psf_file import PSFFile
from adaloc.simulation.pupil import clear_magnitudes, pupil_grid
from adaloc.simulation.vectorial import focused_depth_nm
from adaloc.simulation.zernike import NUM_MODES

_SMALLEST_SIDE, _LARGEST_SIDE = 8, 4096


@dataclass(frozen=True)
class Relay:
    """How the mask is imaged.

    Attributes:
        mask_pixel_um: side of a mask's pixel.
        focal_length_mm: of the lens between the intermediate image and the mask.
        magnification: of the microscope in front of it.
    """

    mask_pixel_um: float
    focal_length_mm: float
    magnification: float

    def radius_px(self, numerical_aperture: float) -> float:
        """Radius in pixels of the mask at which light of this numerical aperture passes."""
        camera_side = math.sqrt(self.magnification**2 - numerical_aperture**2)
        return self.focal_length_mm * 1e3 * numerical_aperture / camera_side / self.mask_pixel_um


def read_phase_mask(path: Path, variable: str) -> FloatArray:
    """A square mask from a MATLAB file, or from .npy, where `variable` is not looked at.

    Returns:
        (N, N) radians.

    Raises:
        DataError: when the file is missing or damaged, or the array is no square of finite real numbers.
    """
    if not path.is_file():
        raise DataError(f"The mask {path} does not exist. Check the path.")
    if path.suffix.lower() == ".npy":
        try:
            array = load_npy(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a NumPy array: {error}. Save it again.") from None
    else:
        with open_matlab(path, [variable]) as found:
            if variable not in found:
                raise DataError(f"{path} holds no variable {variable}. Name the mask's with --variable.")
            array = found[variable].array()
    array = np.asarray(array)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.dtype.kind not in "fiu":
        raise DataError(
            f"The mask in {path} has the shape {array.shape} and is {array.dtype}; needed is a real square."
        )
    if not _SMALLEST_SIDE <= len(array) <= _LARGEST_SIDE:
        raise DataError(
            f"The mask in {path} has {len(array)} px a side; it must have {_SMALLEST_SIDE} to {_LARGEST_SIDE}."
        )
    if not np.isfinite(array).all():
        raise DataError(f"The mask in {path} holds values that are no numbers. Set what lies outside of it to 0.")
    return array.astype(np.float64)


def support_radius_px(mask_NN: FloatArray) -> float:
    """Half of the widest extent, along rows and columns, of what is not 0; 0 for a flat mask."""
    extents = []
    for axis in (0, 1):
        lit = np.flatnonzero((mask_NN != 0).any(axis=axis))
        extents.append(0.0 if len(lit) == 0 else (lit[-1] - lit[0] + 1) / 2)
    return float(max(extents))


def phase_on_pupil(mask_NN: FloatArray, radius_px: float, samples: int, *, inverted: bool = True) -> FloatArray:
    """The mask on the grid of a pupil.

    Args:
        mask_NN: radians, wrapped or not; its centre is that of the array.
        radius_px: pixels of the mask from there to the edge of the pupil.
        samples: S, across the pupil.
        inverted: the mask is written for an image that is its Fourier transform with exp(-i k x), as an FFT makes it.
            The pupil here is transformed with exp(+i k x), in which the same mask stands turned by half a turn.

    Returns:
        (S, S) radians from -pi to pi; where the pupil is larger than the array, 0.
    """
    u, _ = pupil_grid(samples)
    middle, sign = (len(mask_NN) - 1) / 2, -1 if inverted else 1
    row, column = np.meshgrid(*[middle + sign * radius_px * u] * 2, indexing="ij")
    # A wrapped phase jumps; its phasor does not.
    real, imaginary = (
        map_coordinates(part, [row, column], order=1, mode="constant", cval=outside)
        for part, outside in ((np.cos(mask_NN), 1.0), (np.sin(mask_NN), 0.0))
    )
    return np.asarray(np.arctan2(imaginary, real))


@dataclass(frozen=True)
class MaskedPSF:
    """A PSF made from a mask, and what tells whether its scale is right.

    Attributes:
        psf: to be written.
        radius_px: of the pupil, in pixels of the mask.
        sample_radius_px: radius at which the aperture is the sample's index, beyond which light is evanescent.
        support_px: radius of the mask itself.
        focus_depth_nm: height of the emitters that the nominal focal plane brings into focus.
    """

    psf: PSFFile
    radius_px: float
    sample_radius_px: float
    support_px: float
    focus_depth_nm: float


def psf_of_mask(
    mask_NN: FloatArray,
    optics: OpticsConfig,
    relay: Relay,
    *,
    sample_index: float,
    focal_plane_nm: float = 0.0,
    blur_nm: float = 0.0,
    samples: int | None = None,
    inverted: bool = True,
) -> MaskedPSF:
    """A vectorial PSF whose pupil has the mask's phase.

    Args:
        mask_NN: radians.
        optics: of the microscope.
        relay: where the mask is.
        sample_index: index of refraction around the emitters.
        focal_plane_nm: how far the objective's focus in the immersion medium was moved into the sample.
        blur_nm: sigma of a Gaussian blur of the image.
        samples: across the pupil; None takes about one for each pixel of the mask.
        inverted: as in `phase_on_pupil`.

    Raises:
        DataError: when the mask covers less than a third of the pupil, or reaches far beyond it: the scale is wrong.
    """
    radius = relay.radius_px(optics.numerical_aperture)
    passing = relay.radius_px(min(optics.numerical_aperture, sample_index))
    support = support_radius_px(mask_NN)
    if not radius / 3 <= support <= 3 * radius:
        raise DataError(
            f"The mask's own radius is {support:.1f} px, and the pupil's would be {radius:.1f} px. One of pixel, focal "
            "length and magnification is wrong, or the mask is not this microscope's."
        )
    if samples is None:
        samples = int(np.clip(round(2 * radius), 16, 256))
    psf = PSFFile(
        optics, "vectorial", False, sample_index, None, blur_nm, np.zeros(NUM_MODES), np.zeros(NUM_MODES),
        clear_magnitudes(1)[0], phase_on_pupil(mask_NN, radius, samples, inverted=inverted),
        facts={"source": "phase mask", "mask_pixel_um": relay.mask_pixel_um, "focal_length_mm": relay.focal_length_mm,
               "magnification": relay.magnification, "pupil_radius_mask_px": radius},
    )  # fmt: skip
    depth = focused_depth_nm(optics, sample_index, focal_plane_nm)
    return MaskedPSF(psf, radius, passing, support, depth)
