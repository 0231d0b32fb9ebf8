"""A PSF from a cubic spline: one polynomial of 64 coefficients in each cell of a measured or computed volume.

The model of Li et al., Nature Methods 15, 367 (2018), and Babcock & Zhuang, Sci. Rep. 7, 552 (2017). All pixels of an
image lie at the same place in their cells, as a pixel is one cell wide. So an emitter's image is one product: the
coefficients of the layer of cells at its depth, times the 64 monomials of that place.

Axes: Z, Y, X nodes of the volume (cells are one fewer along each), N emitters, R pixels of the region of interest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import CubicSpline as CubicSpline1D

from adaloc.emitters import FloatArray


@dataclass(frozen=True)
class Spline:
    """A piecewise cubic function of depth, row and column.

    Attributes:
        coefficients: (Z-1, Y-1, X-1, 64) float32; entry 16 l + 4 m + n belongs to dz^l dy^m dx^n, with dz, dy, dx in
            0 to 1 from the cell's lower node. Values are shares of photons per pixel, up to normalization.
        dz_nm: distance of two nodes along z.
        z0: node, from 0, at which z is 0; need not be whole.
        x0, y0: node, from 0, at which an emitter with x = y = 0 lies.
        pixel_size_nm: distance of two nodes along (x, y), if known.

    Raises:
        ValueError: when the shape or the numbers cannot be a PSF's.
    """

    coefficients: npt.NDArray[np.float32]
    dz_nm: float
    z0: float
    x0: float
    y0: float
    pixel_size_nm: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        shape = self.coefficients.shape
        if len(shape) != 4 or shape[3] != 64 or min(shape) < 1:
            raise ValueError(f"spline coefficients have shape {shape}; expected (cells along z, y, x, 64)")
        if not np.isfinite(self.coefficients).all():
            raise ValueError("spline coefficients are not all finite")
        if not (np.isfinite([self.dz_nm, self.z0, self.x0, self.y0]).all() and self.dz_nm > 0):
            raise ValueError(f"dz {self.dz_nm} nm must be above 0, and z0 {self.z0}, x0 {self.x0}, y0 {self.y0} finite")

    @property
    def num_nodes(self) -> tuple[int, int, int]:
        """Nodes along z, y and x."""
        cells = self.coefficients.shape
        return cells[0] + 1, cells[1] + 1, cells[2] + 1

    @property
    def z_range_nm(self) -> tuple[float, float]:
        """Depths of the first and the last plane of nodes."""
        return -self.z0 * self.dz_nm, (self.coefficients.shape[0] - self.z0) * self.dz_nm


def interpolating_spline(
    volume_ZYX: FloatArray, dz_nm: float, z0: float, *, pixel_size_nm: tuple[float, float] | None = None
) -> Spline:
    """The smooth (C2) spline through all values of a volume; x0 and y0 are its middle.

    A tensor product of one-dimensional splines with not-a-knot ends, so cubic polynomials are reproduced exactly.

    Args:
        volume_ZYX: values at the nodes; at least 4 along each axis.
        dz_nm: distance of two planes.
        z0: plane, from 0, at which z is 0.
        pixel_size_nm: (x, y), if known.
    """
    if volume_ZYX.ndim != 3 or min(volume_ZYX.shape) < 4:
        raise ValueError(f"the volume has shape {volume_ZYX.shape}; a cubic spline needs 4 nodes along each axis")
    pieces = volume_ZYX
    for axis in range(3):
        # The nodes' axis becomes (power, cell); a power's axis goes to the end, where z, y, x line up in this order.
        powers = CubicSpline1D(np.arange(pieces.shape[axis]), pieces, axis=axis).c[::-1]
        cells_first = np.moveaxis(powers, 0, -1)  # scipy puts the interpolated axis at the front
        pieces = np.moveaxis(cells_first, 0, axis)
    coefficients = pieces.reshape(*pieces.shape[:3], 64).astype(np.float32)
    rows, columns = volume_ZYX.shape[1:]
    return Spline(coefficients, dz_nm, z0, (columns - 1) / 2, (rows - 1) / 2, pixel_size_nm)


def reversed_z(spline: Spline) -> Spline:
    """The same PSF with z counted the other way: f(z) becomes f(-z).

    Both the order of the cells and the polynomial inside of each are turned round: t becomes 1 - t.
    """
    turn = np.array([[1, 1, 1, 1], [0, -1, -2, -3], [0, 0, 1, 3], [0, 0, 0, -1]], dtype=np.float64)  # of (1-t)^l
    cells = spline.coefficients[::-1].astype(np.float64)
    turned = np.einsum("kl,zyxlp->zyxkp", turn, cells.reshape(*cells.shape[:3], 4, 16))
    last = spline.coefficients.shape[0]
    return replace(spline, coefficients=turned.reshape(cells.shape).astype(np.float32), z0=last - spline.z0)


def transposed(spline: Spline) -> Spline:
    """The same PSF with rows and columns exchanged."""
    cells = spline.coefficients
    by_power = cells.reshape(*cells.shape[:3], 4, 4, 4).transpose(0, 2, 1, 3, 5, 4)
    size = None if spline.pixel_size_nm is None else (spline.pixel_size_nm[1], spline.pixel_size_nm[0])
    swapped = np.ascontiguousarray(by_power).reshape(cells.shape[0], cells.shape[2], cells.shape[1], 64)
    return replace(spline, coefficients=swapped, x0=spline.y0, y0=spline.x0, pixel_size_nm=size)


class SplinePSF:
    """The PSF of a cubic spline.

    Light outside of the calibrated volume: laterally none, as nothing is known of it; it belongs to the share that the
    region does not collect. Axially z is clamped to the calibrated depths, so the image stays that of the first or last
    plane and does not depend on z any more. An image with a z that it does not show would teach a network nonsense: ask
    `z_range_nm` before you simulate.

    Photons: calibrations are normalized so that one plane sums to about 1 (the brightest, a middle one, or a median of
    all). Where a plane sums to more, the spline is divided by the largest sum, so no plane exceeds 1; smaller sums are
    kept, as light that leaves the region with defocus, or that goes to another channel, is lost. Values below 0, which
    splines have where they overshoot, count as 0.

    Args:
        spline: the calibration.
        roi_size_px: odd side of the square that is computed; None for the largest that lies within the calibrated
            region for all emitters within half a pixel of its middle.
        z_offset_nm: depth in the calibration at which z is 0.

    Raises:
        ValueError: when the region of interest is even, or the calibration is too small or holds no light.
    """

    def __init__(self, spline: Spline, roi_size_px: int | None = None, z_offset_nm: float = 0.0) -> None:
        planes, rows, columns = spline.num_nodes
        reach = min(spline.x0, spline.y0, columns - 1 - spline.x0, rows - 1 - spline.y0)  # px from centre to the edge
        if reach < 2.5:
            raise ValueError(
                f"the spline has {rows} x {columns} nodes around x0 {spline.x0:g}, y0 {spline.y0:g}; "
                "a PSF needs at least 3 px on each side"
            )
        self.roi_size_px = 2 * int(reach - 0.5) + 1 if roi_size_px is None else roi_size_px
        if self.roi_size_px % 2 == 0:
            raise ValueError(f"roi_size_px must be odd, so that an emitter's pixel is its centre; it is {roi_size_px}")
        self._z0, self._x0, self._y0 = spline.z0 + z_offset_nm / spline.dz_nm, spline.x0, spline.y0
        self._dz_nm = spline.dz_nm
        self._num_layers = planes - 1
        self._cells_ZPC = torch.from_numpy(spline.coefficients.reshape(planes - 1, -1, 64).copy())
        self._size_YX = (rows - 1, columns - 1)
        brightest = self._largest_sum()
        if not brightest > 0:
            raise ValueError("the spline holds no light: all its planes sum to 0 or less")
        self._cells_ZPC /= max(brightest, 1.0)

    @property
    def z_range_nm(self) -> tuple[float, float]:
        """The calibrated depths."""
        return -self._z0 * self._dz_nm, (self._num_layers - self._z0) * self._dz_nm

    def to(self, device: torch.device) -> SplinePSF:
        """Moves the coefficients to a device; returns self."""
        self._cells_ZPC = self._cells_ZPC.to(device)
        return self

    def images(
        self,
        x_N: torch.Tensor,
        y_N: torch.Tensor,
        z_N: torch.Tensor,
        phase_NK: torch.Tensor | None = None,
        magnitude_NK: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Images of emitters; differentiable in x, y and z.

        Args:
            x_N: column offset to the centre of the region's middle pixel, px.
            y_N: row offset, px.
            z_N: axial position, nm; clamped to `z_range_nm`.
            phase_NK, magnitude_NK: ignored, a spline has no pupil.

        Returns:
            (N, R, R) share of the photons in each pixel, float32 (float64 for positions in float64).
        """
        half = self.roi_size_px // 2
        depth_N = (self._z0 + z_N / self._dz_nm).clamp(0, self._num_layers)
        layer_N = depth_N.detach().floor().clamp_max(self._num_layers - 1)
        # Cell in which the region's first column and row lie, and the place in it, which all pixels share.
        column_N, row_N = self._x0 - half - x_N, self._y0 - half - y_N
        first_column_N, first_row_N = column_N.detach().floor(), row_N.detach().floor()
        monomials_NC = _monomials(depth_N - layer_N, row_N - first_row_N, column_N - first_column_N)
        layers_NPC = self._cells_ZPC[layer_N.long()].to(monomials_NC.dtype)
        values = (layers_NPC @ monomials_NC[:, :, None]).view(len(x_N), *self._size_YX).clamp_min(0)
        # A ring of dark cells around the volume stands for all that lies outside of it.
        padded = torch.nn.functional.pad(values, (1, 1, 1, 1))
        pixel = torch.arange(self.roi_size_px, device=values.device)
        rows_NR = (first_row_N.long()[:, None] + pixel + 1).clamp(0, self._size_YX[0] + 1)
        columns_NR = (first_column_N.long()[:, None] + pixel + 1).clamp(0, self._size_YX[1] + 1)
        emitter = torch.arange(len(x_N), device=values.device)
        return padded[emitter[:, None, None], rows_NR[:, :, None], columns_NR[:, None, :]]

    def _largest_sum(self) -> float:
        """Largest sum of a plane of nodes; between nodes a spline's sums ripple by some 1e-4 around these."""
        constants = self._cells_ZPC[:, :, 0].double().clamp_min(0).sum(1)
        last_plane = self._cells_ZPC[-1, :, ::16].double().sum(1).clamp_min(0).sum()
        return float(torch.maximum(constants.max(), last_plane))


def _monomials(dz_N: torch.Tensor, dy_N: torch.Tensor, dx_N: torch.Tensor) -> torch.Tensor:
    """(N, 64): dz^l dy^m dx^n at 16 l + 4 m + n."""
    z, y, x = (torch.stack([torch.ones_like(t), t, t * t, t * t * t], dim=1) for t in (dz_N, dy_N, dx_N))
    return (z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]).flatten(1)
