"""Which fault stands for which cause in `adaloc bench stalls`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adaloc.bench.faults import (
    AbsoluteTargets,
    Changes,
    Fault,
    Rng,
    UnscaledTargets,
    collapse,
    dominant_channel,
    few_frames,
    forget_moments,
    freeze,
    half_precision,
    input_scaling,
    kill_units,
    no_warmup,
    noise,
    repeat,
    saturate,
    shuffle_emitters,
    slow_loader,
    swap_axes,
    targets_of,
    train_eval,
    vanish,
)


def _rate(low: float, high: float) -> Callable[[Rng], Changes]:
    def change(rng: Rng) -> Changes:
        rate = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        schedule = {"scheduler_type": "constant", "warmup_start_lr": min(rate, 1e-5)}
        return {
            "training": {
                "optimizer": "adamw", "lr_first": rate, "lr_second": rate, "adaptive_lr_config": schedule,
            }
        }  # fmt: skip

    return change


def _soon_at_the_floor(rng: Rng) -> Changes:
    rate = rng.uniform(7e-3, 1e-2)
    schedule = {"scheduler_type": "cosine"}
    return {
        "data": {"batch_size": 8},
        "network": {"base_channels": 8, "second_stage_channels": 8, "depth": 1, "normalization": "batch"},
        "training": {
            "loss_type": "unified_decode", "optimizer": "adam", "lr_first": rate, "lr_second": rate,
            "adaptive_lr_config": schedule,
        },
    }  # fmt: skip


SMALLEST_NETWORK = {"base_channels": 1, "second_stage_channels": 1, "depth": 0}
"""The placeholder of the original stall: some 200 parameters."""
_NORMALIZED = {"network": {"normalization": "batch"}}

FAULTS: dict[str, Fault] = {
    "inputs_targets_decoupled": Fault(samples=shuffle_emitters),
    "repeated_batch": Fault(run=repeat),
    "wrong_input_scaling": Fault(run=input_scaling),
    "axes_swapped": Fault(config=lambda _: {"data": {"image_size": 40}}, samples=swap_axes),
    "absolute_targets": Fault(run=targets_of(AbsoluteTargets)),
    "unscaled_targets": Fault(run=targets_of(UnscaledTargets)),
    "train_eval_mismatch": Fault(config=lambda _: _NORMALIZED, run=train_eval),
    "frozen_parameters": Fault(run=freeze),
    "bad_resume": Fault(config=lambda _: {"training": {"optimizer": "adamw"}}, run=forget_moments, resume=True),
    "one_channel_dominates": Fault(config=dominant_channel),
    "collapsed_to_empty": Fault(
        config=lambda rng: {"training": {"loss_type": "unified_decode", "unified_loss_config": {
            "pos_weight": float(10 ** rng.uniform(-4, -2.5))}}},
        run=collapse,
    ),
    "saturated_detection": Fault(run=saturate),
    "vanishing_gradients": Fault(run=vanish),
    "dead_units": Fault(config=lambda _: _NORMALIZED, run=kill_units),
    "precision_underflow": Fault(run=half_precision),
    "loader_starves": Fault(run=slow_loader, steps=60),
    "rate_too_low": Fault(config=_rate(1e-6, 1e-5)),
    "rate_too_high": Fault(config=_rate(0.3, 3.0)),
    "warmup_missing": Fault(
        config=lambda _: {**_NORMALIZED, "training": {"adaptive_lr_config": {"enable_warmup": False}}}, run=no_warmup
    ),
    # Mended at once otherwise; cured.py has that.
    "clipped_every_step": Fault(
        config=lambda rng: {"training": {"clip_norm": float(10 ** rng.uniform(-9, -6)), "raise_clip_norm": False}}
    ),
    "weight_decay_too_strong": Fault(
        config=lambda rng: {"training": {"optimizer": "adamw", "weight_decay": float(rng.uniform(15, 50))}}
    ),
    "overfitting": Fault(
        config=lambda _: {
            "data": {"augment_mirror": False, "augment_time_reversal": False, "batch_size": 4, "image_size": 40,
                     "sample_subset": 10},
            "network": {"base_channels": 16},
        },
        samples=few_frames,
    ),
    # On the data whose floor a network reaches with batches of eight larger windows, at a rate that never anneals.
    "batch_noise_floor": Fault(
        config=lambda _: {
            "data": {"batch_size": 2, "image_size": 12},
            "network": {"normalization": "none"},
            "training": {"optimizer": "adam", "lr_first": 3e-3, "lr_second": 3e-3,
                         "adaptive_lr_config": {"scheduler_type": "constant"}},
        },
        steps=1000,
        easy=True,
    ),
    "physical_limit": Fault(config=_soon_at_the_floor, steps=500, easy=True),
    "network_too_small": Fault(config=lambda _: {"network": SMALLEST_NETWORK}),
}  # fmt: skip


ORIGINAL_FAULT = Fault(config=lambda _: {"network": SMALLEST_NETWORK}, samples=noise)
"""What the strategy was written for: a placeholder of a network on random targets."""
