"""The image of a bead through focus, differentiable in all that is fitted.

Axes: T planes, R pixels of the region, M fitted Zernike modes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from adaloc.simulation.pupil import PupilPSF, pupil_grid
from adaloc.simulation.zernike import NUM_MODES, zernike_modes


@dataclass(frozen=True)
class Layout:
    """Where each kind of shape parameter stands in the vector.

    The order is phase modes, amplitude modes, higher spherical aberrations, blur variance (nm^2), axial scale, then the
    bead's x, y (px) and z (nm).

    Attributes:
        phase_modes: rows (Noll index minus 1) of the fitted phase modes.
        magnitude_modes: rows of the fitted amplitude modes.
        spherical: Noll indices of spherical aberrations above the 21 modes of an emitter's coefficients.
    """

    phase_modes: tuple[int, ...]
    magnitude_modes: tuple[int, ...] = ()
    spherical: tuple[int, ...] = ()

    @property
    def num_shared(self) -> int:
        """Parameters that all beads have in common."""
        return len(self.phase_modes) + len(self.magnitude_modes) + len(self.spherical) + 2

    @property
    def magnitude_places(self) -> slice:
        """Places of the amplitude modes."""
        return slice(len(self.phase_modes), len(self.phase_modes) + len(self.magnitude_modes))

    @property
    def spherical_places(self) -> slice:
        """Places of the higher spherical aberrations."""
        return slice(self.blur - len(self.spherical), self.blur)

    @property
    def blur(self) -> int:
        """Place of the blur's variance."""
        return self.num_shared - 2

    @property
    def scale(self) -> int:
        """Place of the axial scale."""
        return self.num_shared - 1


@dataclass(frozen=True)
class BeadModel:
    """A bead of a known diameter, in planes at known z.

    The fluorescence fills a ball. Along z two points stand for it, across it a Gaussian does; both have the ball's
    variance, diameter^2 / 20, which is exact to the third order in its size.

    Attributes:
        psf: the pupil; its own blur is not used.
        z_T: nominal z of the planes, nm.
        bead_diameter_nm: 0 for a point.
        layout: which modes are fitted.
    """

    psf: PupilPSF
    z_T: torch.Tensor
    bead_diameter_nm: float
    layout: Layout

    def images(self, parameters: torch.Tensor) -> torch.Tensor:
        """(T, R, R) share of photons per pixel, for the shape parameters of one bead as in `Layout`."""
        layout, num_planes = self.layout, len(self.z_T)
        num_phase = len(layout.phase_modes)
        variance, scale = parameters[layout.blur], parameters[layout.scale]
        x, y, z0 = parameters[layout.num_shared :]
        phase = parameters.new_zeros(NUM_MODES).index_copy(0, self._index(layout.phase_modes), parameters[:num_phase])
        magnitude = None
        if layout.magnitude_modes:
            clear = torch.eye(NUM_MODES, dtype=parameters.dtype)[0]
            fitted = parameters[layout.magnitude_places]
            magnitude = clear.index_copy(0, self._index(layout.magnitude_modes), fitted)
        if layout.spherical:
            self.psf.fit_phase(self.spherical_phase(parameters))
        z = self.z_T * scale + z0
        blur_nm = (variance + self.bead_diameter_nm**2 / 20).sqrt()
        halves = math.sqrt(self.bead_diameter_nm**2 / 20)
        offsets = (-halves, halves) if halves > 0 else (0.0,)
        images = [
            self.psf.images(
                x.expand(num_planes), y.expand(num_planes), z + offset, phase.expand(num_planes, -1),
                None if magnitude is None else magnitude.expand(num_planes, -1), blur_nm=blur_nm,
            )
            for offset in offsets
        ]  # fmt: skip
        return torch.stack(images).mean(0)

    def spherical_phase(self, parameters: torch.Tensor) -> torch.Tensor:
        """(P,) radians of the higher spherical aberrations inside of the pupil."""
        return parameters[self.layout.spherical_places] @ self._spherical_modes

    @cached_property
    def _spherical_modes(self) -> torch.Tensor:
        inside = self.psf.inside_grid
        u, _ = pupil_grid(len(inside))
        rho = np.minimum(np.hypot(*np.meshgrid(u, u)), 1.0)[inside]
        modes = zernike_modes(rho, np.zeros_like(rho), max(self.layout.spherical))
        return torch.from_numpy(modes[[j - 1 for j in self.layout.spherical]]).float()

    @staticmethod
    def _index(modes: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor(modes, dtype=torch.long)
