"""Whether single batches look as a network needs them; cheap enough for every step of the first epochs.

On 16 windows of 3 x 40 x 40 px and one CPU thread, `batch_findings` and `window_hashes` take some 0.3 ms each
(benchmarks/results/integrity.json). On a GPU each call waits for the device; the first epochs can afford it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from adaloc.config import DataConfig
from adaloc.data.finding import Finding, severity_of
from adaloc.data.scaling import Scaling
from adaloc.data.targets import PROBABILITY, X, Y
from adaloc.data.windows import Sample

_NAMES = ("x", "y", "z", "photons")
# An offset is x - round(x). The 0.01 px is for the rounding of float32 in fields of up to 4096 px (5e-4) and to spare.
_MAX_OFFSET_PX = 0.51
# Network units have mean 0 and spread 1 over the training data. By Chebyshev's inequality a value is further than 10
# from the mean in at most 1 % of any data, so the mean of a whole batch hardly ever is; raw photons are at 1e3.
_MAX_UNITS = 10.0
_MIN_UNITS = 0.02  # photons over 65535 or nm over 1e6; a batch of one sample may well vary five times less than all
_MIN_TARGETS = 20  # for a spread
# Dark windows show shot noise alone: 1 in Anscombe's units, of which bright data have up to about 20 to one here.
_MIN_INPUT_SPREAD = 0.02
_REPEAT_SIGMAS = 6.0


def batch_findings(scaled_input_BTHW: torch.Tensor, targets_BKHW: torch.Tensor, scaling: Scaling) -> list[Finding]:
    """What is wrong with one batch.

    Args:
        scaled_input_BTHW: what the network is fed, after `Scaling.scale_input`; any leading axes.
        targets_BKHW: (B, 6, H, W) targets in physical units, as from `encode_targets`; background NaN where unknown.
        scaling: of the run; it turns the targets into network units.

    Returns:
        absolute_targets, unscaled_targets, wrong_input_scaling; empty when all is well.
    """
    findings = [_input_finding(scaled_input_BTHW), *_target_findings(targets_BKHW, scaling)]
    return [finding for finding in findings if finding is not None]


def window_hashes(adu_BTHW: torch.Tensor) -> tuple[bytes, ...]:
    """A hash of each window's frames; equal windows, and in practice only they, have equal hashes."""
    frames = adu_BTHW.detach().cpu().contiguous()
    return tuple(hashlib.blake2b(window.numpy().data, digest_size=8).digest() for window in frames)


def possible_windows(samples: Sequence[Sample], data: DataConfig) -> float:
    """Different windows that a sample can give, the fewest of all samples: start frames, places, mirror images.

    A mirrored or reversed window counts once, so the number is a lower bound.
    """
    size, length = data.image_size, data.consecutive_frames
    return float(
        min(
            (s.frames_THW.shape[0] - length + 1)
            * (s.frames_THW.shape[1] - size + 1)
            * (s.frames_THW.shape[2] - size + 1)
            for s in samples
        )
    )


def repeated_windows(
    hashes: Sequence[Sequence[bytes]], windows_per_epoch: int, windows_per_sample: float
) -> Finding | None:
    """Whether the same windows come again and again.

    Args:
        hashes: `window_hashes` of each step so far, from the first step of the run (or of the process) on.
        windows_per_epoch: one window of each sample.
        windows_per_sample: `possible_windows`; windows drawn from few repeat by themselves.

    Returns:
        repeated_batch, or None when there are no more repetitions than random windows have. Within the first epoch
        every window is of another sample, so a single repetition is one too many.
    """
    seen = [one for step in hashes for one in step]
    distinct = len(set(seen))
    evidence: dict[str, float | str] = {"num_windows": len(seen), "num_distinct": distinct, "num_steps": len(hashes)}
    first_epoch = seen[:windows_per_epoch]
    if len(set(first_epoch)) < len(first_epoch):
        # Two equal windows may be a duplicated sample, which another check names; half of them are no accident.
        many = 2 * len(set(first_epoch)) <= len(first_epoch)
        return Finding("repeated_batch", severity_of(many), evidence)
    epochs = len(seen) / windows_per_epoch
    if epochs <= 1:
        return None
    # Of a sample's M windows, n random draws leave out each with probability (1 - 1/M)^n.
    share = (
        windows_per_sample * -math.expm1(epochs * math.log1p(-1 / windows_per_sample)) if windows_per_sample > 1 else 1
    )
    expected = windows_per_epoch * share
    # The number of repetitions is about Poisson distributed.
    repetitions, expected_repetitions = len(seen) - distinct, len(seen) - expected
    if repetitions <= expected_repetitions + _REPEAT_SIGMAS * math.sqrt(expected_repetitions) + _REPEAT_SIGMAS:
        return None
    evidence["num_distinct_expected"] = round(expected, 1)
    return Finding("repeated_batch", severity_of(2 * repetitions >= len(seen) - windows_per_epoch), evidence)


def _input_finding(scaled_input: torch.Tensor) -> Finding | None:
    values = scaled_input.float()
    # torch.std_mean takes ten times as long; where the difference below loses digits, the mean alone is out of bounds.
    mean_tensor = values.mean()
    mean, square = torch.stack([mean_tensor, values.square().mean() - mean_tensor.square()]).tolist()
    spread = math.sqrt(max(square, 0.0)) if math.isfinite(square) else math.nan
    if math.isfinite(spread) and abs(mean) <= _MAX_UNITS and _MIN_INPUT_SPREAD <= spread <= _MAX_UNITS:
        return None
    return Finding("wrong_input_scaling", "stop", {"input_mean": _short(mean), "input_spread": _short(spread)})


def _target_findings(targets_BKHW: torch.Tensor, scaling: Scaling) -> list[Finding]:
    window, row, column = torch.nonzero(targets_BKHW[:, PROBABILITY] > 0.5, as_tuple=True)
    if len(window) == 0:
        return []
    values_NK = targets_BKHW[window, 1:5, row, column].float()
    if not bool(values_NK.isfinite().all()):
        share = float((~values_NK.isfinite()).any(dim=1).float().mean())
        return [Finding("unscaled_targets", "stop", {"not_finite_share": _short(share)})]
    largest_K = values_NK.abs().amax(dim=0).tolist()
    offset = max(largest_K[X - 1], largest_K[Y - 1])
    if offset > _MAX_OFFSET_PX:
        return [
            Finding(
                "absolute_targets",
                "stop",
                {"largest_offset_px": _short(offset), "allowed_px": 0.5, "num_targets": len(window)},
            )
        ]
    unit = values_NK.new_tensor(scaling.unit()[:4])
    units_NK = (values_NK - values_NK.new_tensor(scaling.mean[:4])) / unit
    mean_K = units_NK.mean(dim=0).tolist()
    spread_K = units_NK.std(dim=0).tolist() if len(window) > 1 else [1.0] * 4
    findings = []
    for name, mean, spread, varies in zip(_NAMES, mean_K, spread_K, scaling.varies[1:5], strict=True):
        too_small = varies and len(window) >= _MIN_TARGETS and spread < _MIN_UNITS
        if abs(mean) > _MAX_UNITS or spread > _MAX_UNITS or too_small:
            evidence: dict[str, float | str] = {
                "channel": name,
                "mean_units": _short(mean),
                "spread_units": _short(spread),
            }
            findings.append(Finding("unscaled_targets", "stop", {**evidence, "num_targets": len(window)}))
    return findings


def _short(value: float) -> float:
    return float(f"{value:.4g}")
