"""The part of the config tree that describes the loss and the learning rate. Import these from `adaloc.config`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from adaloc.config_simulation import Section


class UnifiedLossConfig(Section):
    """Weights of [probability, x, y, z, photons, background]."""

    channel_weights: tuple[float, float, float, float, float, float] = Field(
        (1.0, 1.0, 1.0, 1.0, 1.0, 0.5), description="their sum is what knowing nothing scores; 0 leaves a channel out"
    )
    pos_weight: float = Field(
        1.0,
        gt=0,
        description="of pixels with an emitter in the cross entropy; above 1 finds more, and more that is not",
    )
    reduction: Literal["mean", "sum"] = Field("mean", description="the same in information units")
    normalization: Literal["information", "raw"] = Field(
        "information", description="raw: in px, nm and photons, to compare with others; its size means nothing"
    )

    @model_validator(mode="after")
    def _weights(self) -> UnifiedLossConfig:
        if min(self.channel_weights) < 0 or sum(self.channel_weights) == 0:
            raise ValueError("channel_weights must not be negative and not all zero")
        if self.reduction == "sum" and self.normalization == "raw":
            raise ValueError('reduction "sum" of the raw loss depends on the batch size; use "mean"')
        return self


class SimpleCombinedConfig(Section):
    """Weights of the four terms of the simple combined loss."""

    count_weight: float = Field(1.0, ge=0, description="of the cross entropy of the probability")
    loc_weight: float = Field(1.0, ge=0, description="of the absolute errors of x, y, z, a third each")
    photon_weight: float = Field(0.5, ge=0, description="of the absolute error of the photons")
    bg_weight: float = Field(0.1, ge=0, description="of the squared error of the background")
    pos_weight: float = Field(1.0, gt=0, description="as in unified_loss_config")
    normalization: Literal["information", "raw"] = Field("information", description="as in unified_loss_config")


class LossWeights(Section):
    """From older configs: go before the weights of `simple_combined_config`; the unified loss has its own."""

    count: float | None = Field(None, ge=0, description="count_weight; null: as there")
    loc: float | None = Field(None, ge=0, description="loc_weight; null: as there")
    photon: float | None = Field(None, ge=0, description="photon_weight; null: as there")
    background: float | None = Field(None, ge=0, description="bg_weight; null: as there")


SchedulerType = Literal[
    "adaptive_plateau",
    "adaptive_plateau_literal",
    "constant",
    "plateau",
    "cosine",
    "warm_restarts",
    "cyclical",
    "step",
    "one_cycle",
    "wsd",
]


class AdaptiveLRConfig(Section):
    """The learning rate. Epochs are counted from 0."""

    enable_warmup: bool = Field(True, description="of the types that are given their rate; the search takes its place")
    warmup_epochs: int = Field(10, ge=0, description="in a straight line from warmup_start_lr to lr_first")
    warmup_start_lr: float = Field(1e-5, gt=0, lt=10, description="not above lr_first, or that is taken")
    scheduler_type: SchedulerType = Field("adaptive_plateau", description="docs/strategy.md says what each does")
    plateau_patience: int = Field(
        50, ge=0, description="plateau, literal: epochs without improvement before a reduction"
    )
    plateau_factor: float = Field(
        0.7, gt=0, lt=1, description="what a reduction multiplies the rate by: after a failed trial, and on a plateau"
    )
    plateau_min_lr: float = Field(1e-6, ge=0, lt=10, description="the lowest rate, where the anneal ends")
    cosine_restart_periods: list[Annotated[int, Field(ge=1)]] = Field(
        [100, 200, 400], min_length=1, description="warm_restarts: epochs of each cosine, the last again and again"
    )
    cycle_epochs: int = Field(50, ge=2, description="cyclical: from the lowest rate up to the full one and back")
    step_epochs: int = Field(50, ge=1, description="step: epochs between two steps down")
    step_factor: float = Field(0.9, gt=0, le=1, description="step: what the rate is multiplied by")
    adaptive_threshold: float = Field(
        0.001,
        ge=0,
        description="literal: variance of the last 10 losses below which a boost is due; depends on their unit",
    )
    loss_window_size: int = Field(20, ge=10, description="literal: epochs that must have passed before its first boost")
    lr_boost_factor: float = Field(1.5, gt=1, description="how much higher a trial or a boost goes")
    lr_decay_factor: float = Field(
        0.8, gt=0, lt=1, description="literal: at every epoch after the 30th without improvement"
    )
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
