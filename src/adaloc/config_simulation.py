"""The part of the config tree that describes the microscope: optics, PSF, molecules, background, camera.

Units stand in the names; unknown keys are refused. Import these from `adaloc.config`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A part of the config: frozen, without unknown keys, without numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("must be odd, so that an emitter's pixel is the middle one")
    return size


OddSize = Annotated[int, Field(ge=5, le=129), AfterValidator(_odd)]


class PixelSize(Section):
    """Size of a camera pixel in the sample plane; x runs along the columns."""

    x: float = Field(gt=1, lt=10_000, description="nm, along a row")
    y: float = Field(gt=1, lt=10_000, description="nm, along a column")


class OpticsConfig(Section):
    """The microscope."""

    wavelength_nm: float = Field(660.0, gt=100, lt=3000, description="of the emission, in vacuum")
    numerical_aperture: float = Field(1.4, gt=0.05, lt=2, description="of the objective; below refractive_index")
    refractive_index: float = Field(1.518, ge=1, lt=2.5, description="of the immersion: oil 1.518, water 1.33, air 1")
    pixel_size_nm: PixelSize = Field(
        PixelSize(x=101.11, y=98.83), description="camera pixel in the sample: its own size over the magnification"
    )

    @model_validator(mode="after")
    def _aperture_below_index(self) -> OpticsConfig:
        if self.numerical_aperture >= self.refractive_index:
            raise ValueError(
                f"numerical_aperture {self.numerical_aperture} must be below refractive_index "
                f"{self.refractive_index}: light at a larger angle does not propagate"
            )
        return self


class PupilPSFConfig(Section):
    """Diffraction through a pupil with Zernike aberrations (Noll 1 to 21, orthonormal); docs/psf.md."""

    type: Literal["pupil"] = Field("pupil", description="this kind of PSF")
    roi_size_px: OddSize = Field(33, description="odd side of the square that an emitter is drawn in")
    pupil_samples: int = Field(
        40, ge=16, le=256, description="points across the pupil; more for a larger roi_size_px or strong aberrations"
    )
    aplanatic: bool = Field(False, description="amplitude 1/sqrt(cos theta) of a sine-condition objective; else 1")
    astigmatism_nm_rms: float = Field(70.0, description="Noll 6 over the whole field, as from a cylindrical lens")
    field_aberration_nm_rms: float = Field(
        20.0, ge=0, description="root mean square of the smooth random map that is made when no --zmap is given"
    )
    model: Literal["scalar", "vectorial"] = Field(
        "scalar", description="vectorial: freely rotating dipoles behind a cover slip, with an aplanatic objective"
    )
    sample_index: float | None = Field(
        None, ge=1, lt=2.5, description="vectorial: index around the emitters; null: optics.refractive_index"
    )
    cover_slip_index: float | None = Field(None, ge=1, lt=2.5, description="vectorial; null: optics.refractive_index")
    defocus: Literal["depth", "stage"] = Field(
        "depth", description="vectorial: z moves the emitter in the sample, or the stage as in a scan of beads"
    )
    focus_depth_nm: float = Field(
        0.0, ge=0, lt=1e5, description="vectorial: height above the cover slip that z = 0 means, in focus there"
    )
    blur_nm: float = Field(0.0, ge=0, lt=1000, description="sigma of a Gaussian blur of the image")
    calibration: Path | None = Field(
        None, description="psf.h5 of adaloc calibrate: its aberrations, model, indices and blur, not astigmatism_nm_rms"
    )

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> PupilPSFConfig:
        of_vectorial = {"sample_index": None, "cover_slip_index": None, "defocus": "depth", "focus_depth_nm": 0.0}
        of_file = {
            "model": "scalar",
            "sample_index": None,
            "cover_slip_index": None,
            "blur_nm": 0.0,
            "aplanatic": False,
        }
        if self.calibration is not None:
            if given := [name for name, default in of_file.items() if getattr(self, name) != default]:
                raise ValueError(f"{', '.join(given)}: the file in calibration says this; leave it out here")
        elif self.model == "scalar":
            if given := [name for name, default in of_vectorial.items() if getattr(self, name) != default]:
                raise ValueError(f'{", ".join(given)}: has no meaning in the scalar model; set model to "vectorial"')
        elif self.aplanatic:
            raise ValueError("aplanatic: the vectorial model always is; leave it out")
        return self


class GaussianPSFConfig(Section):
    """Integrated Gaussian; its widths follow sigma(z) = sigma0 sqrt(1 + u^2 + a3 u^3 + a4 u^4), u = (z - c)/d.

    The curve is that of Huang et al., Science 319, 810 (2008). With `depth_nm` null the PSF is two-dimensional.
    """

    type: Literal["gaussian"] = Field(description="this kind of PSF")
    roi_size_px: OddSize = Field(25, description="odd side of the square that an emitter is drawn in")
    sigma_x_nm: float = Field(gt=10, lt=5000, description="width along x in its focus (sigma0)")
    sigma_y_nm: float = Field(gt=10, lt=5000, description="width along y in its focus (sigma0)")
    focus_x_nm: float = Field(0.0, description="z at which the width along x is smallest (c)")
    focus_y_nm: float = Field(0.0, description="z at which the width along y is smallest (c)")
    depth_nm: float | None = Field(None, gt=1, description="depth of focus (d); null: the width never changes")
    cubic_x: float = Field(0.0, description="a3 along x")
    cubic_y: float = Field(0.0, description="a3 along y")
    quartic_x: float = Field(0.0, description="a4 along x")
    quartic_y: float = Field(0.0, description="a4 along y")


class SplinePSFConfig(Section):
    """A calibration of cubic splines: `_3dcal.mat` of SMAP, fit3Dcspline or `adaloc spline`, or HDF5 of uiPSF."""

    type: Literal["spline"] = Field(description="this kind of PSF")
    file: Path = Field(description="the calibration")
    tile: int | None = Field(None, ge=0, description="spatial tile, from 0; null for the global one, or the only one")
    channel: int = Field(0, ge=0, description="of a calibration with several, from 0")
    roi_size_px: OddSize | None = Field(None, description="null for all that was calibrated")
    z_offset_nm: float = Field(0.0, description="depth in the calibration at which z is 0")
    flip_z: bool = Field(False, description="count z against the order of the planes, as SMAP's own localizations do")
    transpose: bool = Field(False, description="for files whose rows are the image's columns")
    check_pixel_size: bool = Field(True, description="refuse a file that names another pixel size than the optics")


PSFConfig = Annotated[PupilPSFConfig | GaussianPSFConfig | SplinePSFConfig, Field(discriminator="type")]


class EmittersConfig(Section):
    """The molecules and their blinking."""

    density_per_um2: float = Field(0.7, gt=0, lt=100, description="molecules that shine in a frame, however briefly")
    on_time_frames: float = Field(1.0, gt=0, lt=1e5, description="mean of the exponential on-time")
    whole_frames: bool = Field(
        False, description="molecules turn on and off between frames only: each frame has all of their photons"
    )
    photons_mean: float = Field(7000.0, gt=0, lt=1e9, description="photons of a molecule that shines a whole frame")
    photons_std: float = Field(3000.0, ge=0, description="its standard deviation between molecules")
    z_min_nm: float = Field(-800.0, description="lowest depth; what lies deeper is not learned")
    z_max_nm: float = Field(800.0, description="highest depth; as z_min_nm for 2D data")

    @model_validator(mode="after")
    def _z_in_order(self) -> EmittersConfig:
        if self.z_min_nm > self.z_max_nm:
            raise ValueError(f"z_min_nm {self.z_min_nm} is above z_max_nm {self.z_max_nm}")
        return self


class BackgroundConfig(Section):
    """Background light, drawn anew for every block of frames of a sample: a level, and its smooth structure if any."""

    mean_photons: float = Field(
        100.0, ge=0, description="photons per px before the quantum efficiency; mean of the levels"
    )
    std_photons: float = Field(10.0, ge=0, description="standard deviation of the levels")
    range_photons: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None = Field(
        None, description="lowest and highest level, any between them as likely; goes before mean and std"
    )
    block_frames: int = Field(20, ge=1, description="frames that share one draw")
    perlin_rms_fraction: float = Field(
        0.0, ge=0, le=0.3, description="smooth structure (Perlin noise) over the field: its rms as a share of the level"
    )
    perlin_scale_nm: float = Field(2000.0, gt=0, description="side of a cell of that structure in the sample")

    @model_validator(mode="after")
    def _range_in_order(self) -> BackgroundConfig:
        if self.range_photons is not None and self.range_photons[0] > self.range_photons[1]:
            raise ValueError(f"range_photons {list(self.range_photons)}: the first must not be above the second")
        return self


class CameraConfig(Section):
    """Photons to ADU and back. `em_gain` above 1 makes it an EMCCD; otherwise sCMOS, with maps of its pixels if named.

    With maps, frames are brought to the uniform camera's ADU when they are read; gain and baseline here are that scale.
    """

    quantum_efficiency: float = Field(0.9, gt=0, le=1, description="electrons per photon")
    spurious_charge_e: float = Field(
        0.0, ge=0, description="electrons per px and frame that no photon made; EMCCD: 0.002"
    )
    em_gain: float = Field(1.0, ge=1, description="mean EM gain, typically 50 to 300; 1: no EMCCD")
    read_noise_e: float = Field(1.6, ge=0, description="standard deviation, electrons, behind the EM gain register")
    gain_e_per_adu: float = Field(0.5, gt=0, description="electrons per ADU, from the camera's data sheet")
    baseline_adu: float = Field(100.0, ge=0, lt=65535, description="ADU of a dark frame")
    maps: Path | None = Field(None, description="file with the offset, variance and gain of each pixel of an sCMOS")

    @model_validator(mode="after")
    def _maps_are_of_an_scmos(self) -> CameraConfig:
        if self.maps is not None and self.em_gain > 1:
            raise ValueError("maps are of an sCMOS, which has no EM gain; set em_gain to 1 or leave the maps out")
        return self


class SimulationConfig(Section):
    """What `adaloc simulate` makes."""

    num_samples: int = Field(100, ge=2, description="sample folders, training and validation together")
    num_frames: int = Field(200, ge=3, description="of each sample's movie")
    image_size_px: int = Field(40, ge=8, le=4096, description="side of a frame; at least data.image_size")
    optics: OpticsConfig = OpticsConfig()
    psf: PSFConfig = PupilPSFConfig()
    emitters: EmittersConfig = EmittersConfig()
    background: BackgroundConfig = BackgroundConfig()
    camera: CameraConfig = CameraConfig()

    @model_validator(mode="after")
    def _light_does_not_repeat(self) -> SimulationConfig:
        if isinstance(self.psf, PupilPSFConfig):
            period_nm = self.psf.pupil_samples * self.optics.wavelength_nm / (2 * self.optics.numerical_aperture)
            if self.psf.roi_size_px * max(self.optics.pixel_size_nm.x, self.optics.pixel_size_nm.y) > period_nm:
                raise ValueError(
                    f"psf.pupil_samples {self.psf.pupil_samples} is too small for psf.roi_size_px "
                    f"{self.psf.roi_size_px}: the light would repeat inside of it"
                )
        return self

    @model_validator(mode="after")
    def _layers_are_possible(self) -> SimulationConfig:
        if not isinstance(self.psf, PupilPSFConfig):
            return self
        slip = self.psf.cover_slip_index
        if slip is not None and slip <= self.optics.numerical_aperture:
            raise ValueError(
                f"psf.cover_slip_index {slip} must be above optics.numerical_aperture "
                f"{self.optics.numerical_aperture}: no light would pass at the aperture's edge"
            )
        layered = self.psf.sample_index not in (None, self.optics.refractive_index)
        if layered and self.psf.defocus == "depth" and self.psf.focus_depth_nm + self.emitters.z_min_nm < 0:
            raise ValueError(
                f"psf.focus_depth_nm {self.psf.focus_depth_nm:g} and emitters.z_min_nm {self.emitters.z_min_nm:g} put "
                "emitters below the cover slip; raise one of them"
            )
        return self
