"""The one config tree. Units stand in the names; unknown keys are refused.

The keys under `data`, `training` and `output` are those of the adaptive training strategy, with the same
meaning. `simulation`, `network`, `seed` and the device settings are adaloc's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

CHANNELS = ("probability", "x", "y", "z", "photons", "background")
"""The six output channels, in this order everywhere."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("must be odd, so that an emitter's pixel is the middle one")
    return size


OddSize = Annotated[int, Field(ge=5, le=129), AfterValidator(_odd)]


class PixelSize(_Section):
    """Size of a camera pixel in the sample plane; x runs along the columns."""

    x: float = Field(gt=1, lt=10_000)
    y: float = Field(gt=1, lt=10_000)


class OpticsConfig(_Section):
    """The microscope."""

    wavelength_nm: float = Field(660.0, gt=100, lt=3000)
    numerical_aperture: float = Field(1.4, gt=0.05, lt=2)
    refractive_index: float = Field(1.518, ge=1, lt=2.5)
    pixel_size_nm: PixelSize = PixelSize(x=101.11, y=98.83)

    @model_validator(mode="after")
    def _aperture_below_index(self) -> OpticsConfig:
        if self.numerical_aperture >= self.refractive_index:
            raise ValueError(
                f"numerical_aperture {self.numerical_aperture} must be below refractive_index "
                f"{self.refractive_index}: light at a larger angle does not propagate"
            )
        return self


class PupilPSFConfig(_Section):
    """Diffraction through a pupil with Zernike aberrations (Noll 1 to 21, orthonormal); docs/psf.md."""

    type: Literal["pupil"] = "pupil"
    roi_size_px: OddSize = Field(33, description="odd side of the square that an emitter is drawn in")
    pupil_samples: int = Field(40, ge=16, le=256)
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


class GaussianPSFConfig(_Section):
    """Integrated Gaussian; its widths follow sigma(z) = sigma0 sqrt(1 + u^2 + a3 u^3 + a4 u^4), u = (z - c)/d.

    The curve is that of Huang et al., Science 319, 810 (2008). With `depth_nm` null the PSF is two-dimensional.
    """

    type: Literal["gaussian"]
    roi_size_px: OddSize = 25
    sigma_x_nm: float = Field(gt=10, lt=5000)
    sigma_y_nm: float = Field(gt=10, lt=5000)
    focus_x_nm: float = Field(0.0, description="z at which the width along x is smallest")
    focus_y_nm: float = 0.0
    depth_nm: float | None = Field(None, gt=1)
    cubic_x: float = 0.0
    cubic_y: float = 0.0
    quartic_x: float = 0.0
    quartic_y: float = 0.0


class SplinePSFConfig(_Section):
    """A calibration of cubic splines: `_3dcal.mat` of SMAP, fit3Dcspline or `adaloc spline`, or HDF5 of uiPSF."""

    type: Literal["spline"]
    file: Path
    tile: int | None = Field(None, ge=0, description="spatial tile, from 0; null for the global one, or the only one")
    channel: int = Field(0, ge=0)
    roi_size_px: OddSize | None = Field(None, description="null for all that was calibrated")
    z_offset_nm: float = Field(0.0, description="depth in the calibration at which z is 0")
    flip_z: bool = Field(False, description="count z against the order of the planes, as SMAP's own localizations do")
    transpose: bool = Field(False, description="for files whose rows are the image's columns")
    check_pixel_size: bool = Field(True, description="refuse a file that names another pixel size than the optics")


PSFConfig = Annotated[PupilPSFConfig | GaussianPSFConfig | SplinePSFConfig, Field(discriminator="type")]


class EmittersConfig(_Section):
    """The molecules and their blinking."""

    density_per_um2: float = Field(0.7, gt=0, lt=100, description="molecules that shine in a frame, however briefly")
    on_time_frames: float = Field(1.0, gt=0, lt=1e5, description="mean of the exponential on-time")
    whole_frames: bool = Field(
        False, description="molecules turn on and off between frames only: each frame has all of their photons"
    )
    photons_mean: float = Field(7000.0, gt=0, lt=1e9, description="photons of a molecule that shines a whole frame")
    photons_std: float = Field(3000.0, ge=0)
    z_min_nm: float = -800.0
    z_max_nm: float = 800.0

    @model_validator(mode="after")
    def _z_in_order(self) -> EmittersConfig:
        if self.z_min_nm > self.z_max_nm:
            raise ValueError(f"z_min_nm {self.z_min_nm} is above z_max_nm {self.z_max_nm}")
        return self


class BackgroundConfig(_Section):
    """Background light, drawn anew for every block of frames of a sample: a level, and its smooth structure if any."""

    mean_photons: float = Field(100.0, ge=0)
    std_photons: float = Field(10.0, ge=0)
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


class CameraConfig(_Section):
    """Photons to ADU and back. `em_gain` above 1 makes it an EMCCD; otherwise sCMOS, with maps of its pixels if named.

    With maps, frames are brought to the uniform camera's ADU when they are read; gain and baseline here are that scale.
    """

    quantum_efficiency: float = Field(0.9, gt=0, le=1)
    spurious_charge_e: float = Field(0.0, ge=0)
    em_gain: float = Field(1.0, ge=1)
    read_noise_e: float = Field(1.6, ge=0)
    gain_e_per_adu: float = Field(0.5, gt=0)
    baseline_adu: float = Field(100.0, ge=0, lt=65535)
    maps: Path | None = Field(None, description="file with the offset, variance and gain of each pixel of an sCMOS")

    @model_validator(mode="after")
    def _maps_are_of_an_scmos(self) -> CameraConfig:
        if self.maps is not None and self.em_gain > 1:
            raise ValueError("maps are of an sCMOS, which has no EM gain; set em_gain to 1 or leave the maps out")
        return self


class SimulationConfig(_Section):
    """What `adaloc simulate` makes."""

    num_samples: int = Field(100, ge=2)
    num_frames: int = Field(200, ge=3)
    image_size_px: int = Field(40, ge=8, le=4096)
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


class DataConfig(_Section):
    """Which samples the training uses, and how."""

    root: Path = Path("data/reference")
    simulate_if_missing: bool = False
    batch_size: int = Field(16, ge=1)
    num_workers: int = Field(0, ge=0, description="loader processes; 0 is fastest while the data fits in memory")
    image_size: int = Field(40, ge=8, description="px; larger frames are cropped, at random places in training")
    consecutive_frames: Literal[1, 3] = 3
    sample_subset: Annotated[int, Field(ge=2)] | list[str] | None = Field(
        None, description="first N samples, or their names"
    )
    train_val_split: float = Field(0.8, gt=0, lt=1)
    min_photons: float = Field(250.0, ge=0, description="dimmer emitters in a frame are no targets")
    augment_mirror: bool = Field(
        False, description="mirror training windows in x and y; right where the mirrored PSF is as likely as the PSF"
    )
    augment_time_reversal: bool = Field(True, description="reverse training windows in time; blinking has no arrow")
    validation_windows_per_sample: int = Field(2, ge=1, description="spread evenly over each movie")


class NetworkConfig(_Section):
    """Two U-Nets: one reads each frame, the other joins the frames' features."""

    base_channels: int = Field(16, ge=1, le=1024, description="finest width of the first stage")
    depth: int = Field(2, ge=0, le=5, description="halvings of the resolution")
    first_stage_depth: int | None = Field(None, ge=0, le=5, description="null: as depth")
    second_stage_channels: int | None = Field(None, ge=1, le=1024, description="null: as base_channels")
    head_channels: int | None = Field(None, ge=1, le=4096, description="null: three times second_stage_channels")
    first_stage: Literal["shared", "independent"] = "shared"
    normalization: Literal["batch", "none"] = "batch"


class UnifiedLossConfig(_Section):
    """Weights of [probability, x, y, z, photons, background]."""

    channel_weights: tuple[float, float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0, 0.5)
    pos_weight: float = Field(1.0, gt=0)
    reduction: Literal["mean", "sum"] = "mean"
    normalization: Literal["information", "raw"] = "information"

    @model_validator(mode="after")
    def _weights(self) -> UnifiedLossConfig:
        if min(self.channel_weights) < 0 or sum(self.channel_weights) == 0:
            raise ValueError("channel_weights must not be negative and not all zero")
        if self.reduction == "sum" and self.normalization == "raw":
            raise ValueError('reduction "sum" of the raw loss depends on the batch size; use "mean"')
        return self


class SimpleCombinedConfig(_Section):
    """Weights of the four terms of the simple combined loss."""

    count_weight: float = Field(1.0, ge=0)
    loc_weight: float = Field(1.0, ge=0)
    photon_weight: float = Field(0.5, ge=0)
    bg_weight: float = Field(0.1, ge=0)
    pos_weight: float = Field(1.0, gt=0)
    normalization: Literal["information", "raw"] = "information"


class LossWeights(_Section):
    """From older configs: go before the weights of `simple_combined_config`; the unified loss has its own."""

    count: float | None = Field(None, ge=0)
    loc: float | None = Field(None, ge=0)
    photon: float | None = Field(None, ge=0)
    background: float | None = Field(None, ge=0)


SchedulerType = Literal[
    "adaptive_plateau",
    "adaptive_plateau_literal",
    "constant",
    "plateau",
    "cosine",
    "warm_restarts",
    "one_cycle",
    "wsd",
]


class AdaptiveLRConfig(_Section):
    """The learning rate. Epochs are counted from 0."""

    enable_warmup: bool = True
    warmup_epochs: int = Field(10, ge=0)
    warmup_start_lr: float = Field(1e-5, gt=0, lt=10)
    scheduler_type: SchedulerType = "adaptive_plateau"
    plateau_patience: int = Field(50, ge=0)
    plateau_factor: float = Field(0.7, gt=0, lt=1)
    plateau_min_lr: float = Field(1e-6, ge=0, lt=10)
    cosine_restart_periods: list[Annotated[int, Field(ge=1)]] = Field([100, 200, 400], min_length=1)
    adaptive_threshold: float = Field(0.001, ge=0)
    loss_window_size: int = Field(20, ge=10)
    lr_boost_factor: float = Field(1.5, gt=1)
    lr_decay_factor: float = Field(0.8, gt=0, lt=1)
    anneal_fraction: float = Field(
        0.7, ge=0, le=1, description="last share of the epochs in which adaptive_plateau and wsd go down to the minimum"
    )
    find_lr: bool = Field(
        True, description="adaptive_plateau finds its rate; false works with lr_first, as all other types do"
    )
    search_start_lr: float = Field(
        1e-4, gt=0, lt=10, description="where that search begins: a rate too low to matter, or it begins again lower"
    )
    early_stop_epochs: int = Field(
        100, ge=1, description="stop when at the minimum rate for so long without a new best"
    )


class TrainingConfig(_Section):
    """The recipe."""

    epochs: int = Field(1000, ge=1)
    optimizer: Literal["muon", "adamw", "adam"] = "muon"
    lr_first: float = Field(5e-4, gt=0, lt=10, description="learning rate of the first network stage")
    lr_second: float = Field(5e-4, gt=0, lt=10, description="learning rate of the second network stage")
    weight_decay: float = Field(1e-5, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    loss_type: Literal["unified_decode", "simple_combined"] = "unified_decode"
    loss_weights: LossWeights = LossWeights()
    unified_loss_config: UnifiedLossConfig = UnifiedLossConfig()
    simple_combined_config: SimpleCombinedConfig = SimpleCombinedConfig()
    adaptive_lr_config: AdaptiveLRConfig = AdaptiveLRConfig()


class OutputConfig(_Section):
    """Where the run folder is and how often it is written."""

    save_dir: Path = Path("outputs/training_results_adaptive")
    checkpoint_interval_epochs: int = Field(10, ge=1)
    metrics_interval_epochs: int = Field(100, ge=1, description="epochs between detection metrics and example frames")


class Config(_Section):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    simulation: SimulationConfig = SimulationConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    output: OutputConfig = OutputConfig()
    seed: int = Field(0, ge=0, lt=2**32)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    num_threads: int | None = Field(None, ge=1, description="CPU threads of torch; null leaves torch's own choice")
    comments: Any = Field(None, description="free text for people; not read")

    @model_validator(mode="after")
    def _sizes_agree(self) -> Config:
        if self.data.simulate_if_missing and self.simulation.image_size_px < self.data.image_size:
            raise ValueError(
                f"simulation.image_size_px {self.simulation.image_size_px} is smaller than data.image_size "
                f"{self.data.image_size}"
            )
        return self
