"""The one config tree. Units stand in the names; unknown keys are refused.

The keys under `data`, `training` and `output` are those of the adaptive training strategy, with the same
meaning. `simulation`, `network`, `seed` and the device settings are adaloc's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from adaloc.config_options import RandomizationConfig, TrainingTermsConfig, why_no_quarter_turns
from adaloc.config_simulation import (
    BackgroundConfig,
    CameraConfig,
    EmittersConfig,
    GaussianPSFConfig,
    OddSize,
    OpticsConfig,
    PixelSize,
    PSFConfig,
    PupilPSFConfig,
    Section,
    SimulationConfig,
    SplinePSFConfig,
)
from adaloc.config_training import (
    AdaptiveLRConfig,
    LossWeights,
    SchedulerType,
    SimpleCombinedConfig,
    UnifiedLossConfig,
)

__all__ = (
    "CHANNELS",
    "AdaptiveLRConfig",
    "AlertsConfig",
    "BackgroundConfig",
    "CameraConfig",
    "Config",
    "DataConfig",
    "EmittersConfig",
    "GaussianPSFConfig",
    "LossWeights",
    "NetworkConfig",
    "OddSize",
    "OpticsConfig",
    "OutputConfig",
    "PSFConfig",
    "PixelSize",
    "PupilPSFConfig",
    "RandomizationConfig",
    "SchedulerType",
    "SimpleCombinedConfig",
    "SimulationConfig",
    "SplinePSFConfig",
    "TrainingConfig",
    "TrainingTermsConfig",
    "UnifiedLossConfig",
)

CHANNELS = ("probability", "x", "y", "z", "photons", "background")
"""The six output channels, in this order everywhere."""


class DataConfig(Section):
    """Which samples the training uses, and how."""

    root: Path = Field(Path("data/reference"), description="folder of the sample folders")
    simulate_if_missing: bool = Field(
        False, description="missing samples are simulated as `simulation` says; else they are an error"
    )
    batch_size: int = Field(16, ge=1, description="target frames in a step")
    num_workers: int = Field(0, ge=0, description="loader processes; 0 is fastest while the data fits in memory")
    image_size: int = Field(40, ge=8, description="px; larger frames are cropped, at random places in training")
    consecutive_frames: Literal[1, 3] = Field(3, description="3: previous, target and next frame; 1: the target alone")
    targets_per_window: int = Field(
        1, ge=1, le=64, description="consecutive target frames of a training window; they share the frames between them"
    )
    sample_subset: Annotated[int, Field(ge=2)] | list[str] | None = Field(
        None, description="first N samples, or their names"
    )
    train_val_split: float = Field(
        0.8, gt=0, lt=1, description="share of the samples that train; the seed does not matter"
    )
    min_photons: float = Field(250.0, ge=0, description="dimmer emitters in a frame are no targets")
    augment_mirror: bool = Field(
        False, description="mirror training windows in x and y; right where the mirrored PSF is as likely as the PSF"
    )
    augment_time_reversal: bool = Field(True, description="reverse training windows in time; blinking has no arrow")
    augment_quarter_turns: bool = Field(
        False, description="turn training windows by 90, 180, 270 degrees; refused where the PSF is not symmetric"
    )
    randomization: RandomizationConfig = RandomizationConfig()
    validation_windows_per_sample: int = Field(2, ge=1, description="spread evenly over each movie")
    fresh_share: float = Field(
        0.0, ge=0, le=1, description="share of the training windows that are simulated while the network trains"
    )
    fresh_reuse: int = Field(1, ge=1, le=1000, description="times that such a window is used before it is thrown away")

    @property
    def window_frames(self) -> int:
        """Frames of a training window: its targets and, with three consecutive frames, one before and one after."""
        return self.targets_per_window + self.consecutive_frames - 1

    @property
    def windows_per_batch(self) -> int:
        """Training windows in a step."""
        return self.batch_size // self.targets_per_window

    @model_validator(mode="after")
    def _windows_are_whole(self) -> DataConfig:
        if self.batch_size % self.targets_per_window:
            raise ValueError(
                f"targets_per_window: a batch of {self.batch_size} targets cannot be put together from windows of "
                f"{self.targets_per_window}; make batch_size a multiple of it"
            )
        return self

    @model_validator(mode="after")
    def _fresh_windows_need_no_workers(self) -> DataConfig:
        if self.fresh_share > 0 and self.num_workers > 0:
            raise ValueError(
                "fresh_share: fresh windows are simulated by the training process; set num_workers to 0 with them"
            )
        return self


class NetworkConfig(Section):
    """Two stages: one reads each frame, the other joins the frames' features; docs/networks.md."""

    type: Literal["adaloc", "light", "decode"] = Field(
        "adaloc",
        description="adaloc: two U-Nets; light: two chains of dilated convolutions at half resolution, for fast "
        "inference; decode: the network of DECODE, to compare with; only base_channels and depth are its",
    )
    base_channels: int = Field(16, ge=1, le=1024, description="finest width of the first stage")
    depth: int = Field(2, ge=0, le=5, description="halvings of the resolution; not of light")
    first_stage_depth: int | None = Field(None, ge=0, le=5, description="null: as depth; not of light")
    second_stage_channels: int | None = Field(None, ge=1, le=1024, description="null: as base_channels")
    head_channels: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="null: three times second_stage_channels, at half resolution three quarters of it",
    )
    first_stage: Literal["shared", "independent"] = Field(
        "shared", description="one stage for each frame, or one for each of the three positions"
    )
    resolution: Literal["full", "half"] = Field(
        "full", description="half: 2 x 2 px become one of four channels before the first stage; light has it anyway"
    )
    dilations: list[Annotated[int, Field(ge=1, le=32)]] | None = Field(
        None, min_length=1, max_length=16, description="of light's second stage, a convolution each; null: [1, 2, 4, 2]"
    )
    normalization: Literal["batch", "channel", "none"] = Field(
        "batch", description="of the features, between the convolutions; channel: of each pixel's by themselves"
    )
    activation: Literal["silu", "relu", "elu", "gelu"] = Field("silu", description="after each convolution")
    residual: bool = Field(False, description="each block adds to its input, and starts as the identity")
    attention: Literal["none", "gate", "frames"] = Field(
        "none",
        description="gate: features are weighted by their means around the pixel; frames: each pixel weighs the "
        "window's frames",
    )

    @field_validator("normalization", mode="before")
    @classmethod
    def _group_depends_on_the_tile(cls, value: Any) -> Any:
        if value in ("group", "instance", "layer"):
            raise ValueError(
                f'"{value}" takes means over the whole image, so that a tile of a frame would get other results than '
                'the frame; use "channel", which normalizes the features of each pixel by themselves'
            )
        return value

    @model_validator(mode="after")
    def _keys_belong_to_the_type(self) -> NetworkConfig:
        fields = type(self).model_fields
        changed = [name for name in fields if name != "type" and getattr(self, name) != fields[name].default]
        if self.type == "decode" and (wrong := [name for name in changed if name not in ("base_channels", "depth")]):
            raise ValueError(f'the network "decode" has base_channels and depth alone; remove {", ".join(wrong)}')
        foreign = {"adaloc": ("dilations",), "light": ("depth", "first_stage_depth", "resolution"), "decode": ()}
        if wrong := [name for name in changed if name in foreign[self.type]]:
            raise ValueError(f'the network "{self.type}" has no {", ".join(wrong)}; remove it')
        if (self.type == "light" or self.resolution == "half") and (
            self.second_stage_channels or self.base_channels
        ) % 4:
            raise ValueError("at half resolution second_stage_channels must be divisible by 4")
        return self


class TrainingConfig(Section):
    """The recipe."""

    epochs: int = Field(1000, ge=1, description="one window from each training sample each")
    optimizer: Literal["muon", "adamw", "adam", "radam", "nadam", "sgd", "schedule_free"] = Field(
        "muon",
        description="muon: of the kernels between hidden layers, with AdamW for the rest; schedule_free: AdamW that "
        "averages its weights instead of lowering the rate",
    )
    lr_first: float = Field(5e-4, gt=0, lt=10, description="learning rate of the first network stage")
    lr_second: float = Field(5e-4, gt=0, lt=10, description="learning rate of the second network stage")
    weight_decay: float = Field(
        1e-5, ge=0, description="by the rate, of each weight in a step; adam, sgd: into the gradient"
    )
    decay_biases_and_norms: bool = Field(True, description="false: weight decay acts on kernels alone")
    accumulation_steps: int = Field(
        1, ge=1, description="parts in which a batch goes through the network, for less memory; the step is the same"
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="of a moving average of the weights, which is what is validated and kept; 0: none"
    )
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient, of all weights together")
    raise_clip_norm: bool = Field(
        True, description="raise clip_norm once when the usual norm is 100 times above it, which is taken for a mistake"
    )
    loss_type: Literal["unified_decode", "simple_combined", "gaussian_mixture"] = Field(
        "unified_decode", description="six channels; four terms of older configs; the likelihood of DECODE alone"
    )
    mixture_weight: float = Field(
        0.0,
        ge=0,
        description="of the Gaussian mixture's nats per emitter beside the other losses; above 0 the network predicts "
        "uncertainties of x, y, z and photons",
    )
    loss_weights: LossWeights = LossWeights()
    unified_loss_config: UnifiedLossConfig = UnifiedLossConfig()
    simple_combined_config: SimpleCombinedConfig = SimpleCombinedConfig()
    training_terms: TrainingTermsConfig = TrainingTermsConfig()
    adaptive_lr_config: AdaptiveLRConfig = AdaptiveLRConfig()

    @model_validator(mode="after")
    def _options_go_together(self) -> TrainingConfig:
        schedule = self.adaptive_lr_config.scheduler_type
        if self.optimizer == "schedule_free" and schedule != "constant":
            raise ValueError(
                f"optimizer schedule_free averages its weights in place of a schedule, and {schedule} would go into "
                'that average with every rate it tries; set adaptive_lr_config.scheduler_type to "constant", with its '
                "warmup, and lr_first to a rate that you know"
            )
        if self.optimizer == "schedule_free" and self.ema_decay > 0:
            raise ValueError("optimizer schedule_free averages its weights itself; set ema_decay to 0")
        if self.loss_type == "gaussian_mixture" and self.training_terms.changes_cross_entropy:
            raise ValueError(
                "training_terms: focal_gamma and label_smoothing change the cross entropy of the probability, which "
                "the loss gaussian_mixture does not have"
            )
        return self

    @property
    def predicts_sigma(self) -> bool:
        """Whether the network has outputs for uncertainties."""
        return self.mixture_weight > 0 or self.loss_type == "gaussian_mixture"


class AlertsConfig(Section):
    """Whom to tell, beside log and terminal, when a run stalls, diverges, recovers, finishes or fails."""

    webhook_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s]+$",
        description="gets a POST with a JSON object: kind, epoch, message, run, text",
    )
    command: list[str] = Field(
        [],
        description="program and its arguments, run without a shell; {kind}, {epoch}, {message}, {run} are filled in",
    )
    kinds: list[Literal["stalled", "diverged", "recovered", "finished", "failed"]] = Field(
        ["stalled", "diverged", "recovered", "finished", "failed"], description="which ones go to webhook and command"
    )
    timeout_s: float = Field(10.0, gt=0, le=120, description="for one delivery")


class OutputConfig(Section):
    """Where the run folder is and how often it is written."""

    save_dir: Path = Field(Path("outputs/training_results_adaptive"), description="the run folder")
    checkpoint_interval_epochs: int = Field(10, ge=1, description="what a kill costs at most")
    metrics_interval_epochs: int = Field(100, ge=1, description="epochs between detection metrics and example frames")
    alerts: AlertsConfig = AlertsConfig()


class Config(Section):
    """Everything that decides a run."""

    data: DataConfig = DataConfig()
    simulation: SimulationConfig = SimulationConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    output: OutputConfig = OutputConfig()
    seed: int = Field(0, ge=0, lt=2**32, description="of the data, the weights and the windows")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="auto: a GPU if there is one; or cpu, cuda, cuda:1, mps",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the network; auto: bfloat16 on GPUs that have it; the loss is always float32"
    )
    warning_signal: Literal["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU"] | None = Field(
        "SIGUSR1", description="of a scheduler: the training saves and ends with status 75, start me again"
    )
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

    @model_validator(mode="after")
    def _attention_has_frames(self) -> Config:
        if self.network.attention == "frames" and self.data.consecutive_frames == 1:
            raise ValueError('network.attention "frames" weighs the frames of a window; data.consecutive_frames is 1')
        return self

    @model_validator(mode="after")
    def _augmentation_is_physical(self) -> Config:
        if self.data.augment_quarter_turns and (reason := why_no_quarter_turns(self.simulation)):
            raise ValueError(f"data.augment_quarter_turns is wrong here: {reason}; set it to false")
        aberration = self.data.randomization.aberration_nm_rms
        if aberration > 0 and (self.data.fresh_share == 0 or self.simulation.psf.type != "pupil"):
            raise ValueError(
                "data.randomization.aberration_nm_rms needs data.fresh_share above 0 and the pupil PSF: the PSF is "
                "part of recorded images, and nothing can change it there"
            )
        return self
