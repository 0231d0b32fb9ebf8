"""The composer: molecules, PSF, background and camera make the frames of a sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from adaloc.config import OpticsConfig, SimulationConfig
from adaloc.emitters import EmitterTable, FloatArray
from adaloc.random_streams import Stream, numpy_stream, torch_stream
from adaloc.simulation.background import BackgroundShape, draw_background, draw_shape
from adaloc.simulation.blinking import Molecules, draw_molecules, emissions
from adaloc.simulation.camera import expose
from adaloc.simulation.camera_maps import maps_of
from adaloc.simulation.field_map import FieldMap
from adaloc.simulation.psf import PSF
from adaloc.simulation.pupil import clear_magnitudes

_EMITTERS_AT_ONCE = 256  # measured: 256 to 512 are fastest, their pupils stay in the cache


@dataclass(frozen=True)
class SimulatedSample:
    """One movie with its truth.

    Attributes:
        frames_THW: uint16 ADU.
        molecules: before they were cut into frames.
        emitters: one row per molecule and frame, sorted by frame; photons as they reach the camera.
        phase_NK, magnitude_NK: Zernike coefficients of each molecule, or None when the PSF has none.
        background_T: photons per px in each frame, mean over the field.
        background_shape: how it is spread over the field; None when it is uniform.
        camera_origin_px: (row, column) of the camera maps at which the first pixel lies; None without maps.
    """

    frames_THW: npt.NDArray[np.uint16]
    molecules: Molecules
    emitters: EmitterTable
    phase_NK: FloatArray | None
    magnitude_NK: FloatArray | None
    background_T: FloatArray
    background_shape: BackgroundShape | None = None
    camera_origin_px: tuple[int, int] | None = None


def field_area_um2(size_px: tuple[int, int], optics: OpticsConfig) -> float:
    """Area of a field of (height, width) px in square micrometres."""
    return math.prod(size_px) * optics.pixel_size_nm.x * optics.pixel_size_nm.y * 1e-6


def simulate_sample(
    config: SimulationConfig,
    psf: PSF,
    field_map: FieldMap | None,
    *,
    seed: int,
    index: int,
    device: torch.device | None = None,
    molecules: Molecules | None = None,
) -> SimulatedSample:
    """Sample number `index` of a data set: a function of its arguments alone.

    With a field map or camera maps larger than the sample, the sample lies at a random place in them.
    `molecules` are those of a known structure, instead of those that the config's density draws.

    Raises:
        DataError: when the camera maps cannot be read, or are smaller than the sample.
    """
    device = device or torch.device("cpu")
    size = config.image_size_px
    rng = numpy_stream(seed, Stream.EMITTERS, index=index)
    area = field_area_um2((size, size), config.optics)
    if molecules is None:
        molecules = draw_molecules(config.emitters, config.num_frames, (size, size), area, rng)
    emitters = emissions(molecules, config.num_frames)
    phase = magnitude = None
    if field_map is not None:
        top, left = (int(rng.integers(0, max(extent - size, 0) + 1)) for extent in field_map.size_px)
        phase, magnitude = field_map.coefficients_at(molecules.x + left, molecules.y + top)
    background_rng = numpy_stream(seed, Stream.BACKGROUND, index=index)
    background_T = draw_background(config.background, config.num_frames, background_rng)
    shape = draw_shape(config.background, config.num_frames, (size, size), config.optics.pixel_size_nm, background_rng)
    photons_THW = draw_emitters(psf, emitters, phase, magnitude, (config.num_frames, size, size), device)
    if shape is None:
        photons_THW += torch.from_numpy(background_T).to(device, torch.float32)[:, None, None]
    else:
        photons_THW += torch.from_numpy(shape.photons(background_T)).to(device)
    maps, origin = maps_of(config.camera), None
    if maps is not None:
        # Another step of the camera's stream: step 0 draws the noise.
        place = numpy_stream(seed, Stream.CAMERA, step=1, index=index)
        top, left = (int(place.integers(0, max(extent - size, 0) + 1)) for extent in maps.size_px)
        origin, maps = (top, left), maps.cut((top, left), (size, size))
    adu = expose(photons_THW, config.camera, torch_stream(seed, Stream.CAMERA, index=index, device=device), maps)
    frames = adu.cpu().numpy().astype(np.uint16)
    return SimulatedSample(frames, molecules, emitters, phase, magnitude, background_T, shape, origin)


def draw_emitters(
    psf: PSF,
    emitters: EmitterTable,
    phase_NK: FloatArray | None,
    magnitude_NK: FloatArray | None,
    shape_THW: tuple[int, int, int],
    device: torch.device,
) -> torch.Tensor:
    """Expected photons of all emitters, without background.

    Args:
        psf: the PSF.
        emitters: rows with frames in 0 to T - 1; `emitter_id` indexes the coefficients.
        phase_NK: Zernike phases of each molecule, radians, or None.
        magnitude_NK: Zernike amplitudes of each molecule, or None.
        shape_THW: of the result.
        device: where to compute.

    Returns:
        (T, H, W) float32 photons.
    """
    num_frames, height, width = shape_THW
    half = psf.roi_size_px // 2
    padded = torch.zeros((num_frames, height + 2 * half, width + 2 * half), device=device)
    flat, row_stride, frame_stride = padded.view(-1), width + 2 * half, padded[0].numel()
    roi = torch.arange(psf.roi_size_px, device=device)
    roi_index = (roi[:, None] * row_stride + roi[None, :]).reshape(1, -1)

    def column(values: npt.NDArray[np.float64], rows: slice) -> torch.Tensor:
        return torch.from_numpy(values[rows]).to(device, torch.float32)

    if magnitude_NK is not None and (magnitude_NK == clear_magnitudes(len(magnitude_NK))).all():
        magnitude_NK = None
    for begin in range(0, len(emitters), _EMITTERS_AT_ONCE):
        rows = slice(begin, begin + _EMITTERS_AT_ONCE)
        # Whole pixels in float64 on the table's side: float32 would blur positions in large fields.
        pixel_x, pixel_y = np.rint(emitters.x[rows]), np.rint(emitters.y[rows])
        molecule = None if emitters.emitter_id is None else emitters.emitter_id[rows]
        images = psf.images(
            torch.from_numpy(emitters.x[rows] - pixel_x).to(device, torch.float32),
            torch.from_numpy(emitters.y[rows] - pixel_y).to(device, torch.float32),
            column(emitters.z, rows),
            None if phase_NK is None else torch.from_numpy(phase_NK[molecule]).to(device, torch.float32),
            None if magnitude_NK is None else torch.from_numpy(magnitude_NK[molecule]).to(device, torch.float32),
        )
        corner = emitters.frame[rows] * frame_stride + pixel_y.astype(np.int64) * row_stride + pixel_x.astype(np.int64)
        index = torch.from_numpy(corner).to(device)[:, None] + roi_index
        flat.index_add_(0, index.reshape(-1), (images.flatten(1) * column(emitters.photons, rows)[:, None]).reshape(-1))
    return padded[:, half : half + height, half : half + width]
