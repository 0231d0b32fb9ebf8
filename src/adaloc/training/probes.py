"""Experiments on copies of a run: they answer what watching cannot, and leave the run bit-identical.

Each takes some tens of steps, so they are made only when a run stalls or a person asks.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from adaloc.data.windows import Batch
from adaloc.models.model_file import Model, make_model
from adaloc.training.batch_signals import shuffle_gap
from adaloc.training.cures import MicroBatches, windows_of
from adaloc.training.ranks import Ranks
from adaloc.training.run import Run, batch_errors, batch_targets, predict

TRIAL_STEPS = 20
_BOOST_FACTORS = (10.0, 1000.0)
"""Rates that are 10 to 100 times too low win with the first, lower ones with the second."""
_FEWEST_NOISE_BATCHES, _NOISE_WINDOWS = 12, 128
"""Independent gradients that the noise is told from: 12, or more where batches are so small that they cost less.

The error of the squared signal is the noise times sqrt(2 / (n (n - 1))), so with 12 a noise of fifty batches is hardly
told from a gradient that drowns.
"""
_MOST_NOISE = 1000.0
"""Stands for a gradient that drowns: so few batches cannot tell a larger noise scale from an infinite one."""
_OVERFIT_WINDOWS = 16
_OVERFIT_STEPS = 60
_OVERFIT_RATE = 1e-2
"""AdamW's rate on the fresh copy: the best of 1e-3, 3e-3, 1e-2 and 3e-2 for networks of 119 to 47,070 parameters."""
_FAR_STEP = 1_000_000
"""Batches from here on: the same for every probe, and none that the run has seen or will soon see."""
_JUDGED_BATCHES = 3
_SIGMAS_95 = 2.1
"""Two-sided 95 % of Student's t for the some twenty windows on either side."""


def make_probes(run: Run) -> dict[str, Any]:
    """All probes: boost_gain, boost_factor, anneal_gain, overfit_ratio, gap, gap_low, shuffle_gap_validation.

    Gains are shares of the loss: 0.1 means that the trial ends 10 % lower than going on as before.
    """
    buffers = [buffer.clone() for buffer in run.model.network.buffers()]
    results = rate_trials(run) | {"overfit_ratio": overfit_fresh(run)} | paired_gap(run) | noise_scale(run)
    assert all(torch.equal(a, b) for a, b in zip(buffers, run.model.network.buffers(), strict=True))
    return results


def probe_steps() -> int:
    """Training steps that all probes together cost, about."""
    return TRIAL_STEPS * (2 + len(_BOOST_FACTORS)) + _OVERFIT_STEPS + _FEWEST_NOISE_BATCHES


def rate_trials(run: Run) -> dict[str, float]:
    """Short runs from copies: at the same rate, annealed to 0, and boosted, all on the same batches."""
    if run.optimizer.param_groups[0]["lr"] <= 0:
        return {}
    same = _trial(run, lambda _: 1.0)
    annealed = _trial(run, lambda share: 1.0 - share)
    boosts = {factor: _trial(run, lambda _, f=factor: f) for factor in _BOOST_FACTORS}  # type: ignore[misc]
    best = min(boosts, key=lambda factor: boosts[factor])
    return {
        "anneal_gain": _gain(same, annealed),
        "boost_gain": _gain(same, boosts[best]),
        "boost_factor": best,
    }


def overfit_fresh(run: Run) -> float:
    """Last over first loss when a fresh network of the same architecture learns a few windows by heart.

    A fresh one, so that this says something about the architecture and nothing about the state it is in.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        model = make_model(run.config, run.model.scaling)
    model.network.to(run.device).train()
    batch = run.windows[_FAR_STEP].to(run.device)
    batch = windows_of(batch, 0, min(_OVERFIT_WINDOWS, len(batch.adu_BTHW)))
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=_OVERFIT_RATE)
    learner = dataclasses.replace(run, model=model, optimizer=optimizer, ranks=Ranks())
    losses, parts = [], _parts(run)
    for _ in range(_OVERFIT_STEPS):
        optimizer.zero_grad(set_to_none=True)
        sums = parts.backward(learner, batch)[0]
        torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        optimizer.step()
        # Of the loss, not of what is minimised: nats may be negative, and have no ratio.
        losses.append(float(run.loss.total(sums).detach()))
    return min(losses[-5:]) / losses[0] if losses[0] > 0 else math.nan


def noise_scale(run: Run) -> dict[str, float | None]:
    """The gradient noise scale over the batch size (McCandlish et al. 2018), from gradients of independent batches.

    The squared length of the true gradient is the mean product of two different batches' gradients, which is unbiased;
    _MOST_NOISE where even its mean over all pairs is not above 0. None where there is no gradient at all.
    """
    trial, parts = _copy(run), _parts(run)
    parameters = [p for p in trial.model.network.parameters() if p.requires_grad]
    if not parameters:
        return {"noise_over_batch": None}
    total: torch.Tensor | None = None
    squares = 0.0
    n = max(_FEWEST_NOISE_BATCHES, _NOISE_WINDOWS // run.config.data.windows_per_batch)
    for i in range(n):
        trial.model.network.zero_grad(set_to_none=True)  # also what the optimizer does not hold
        parts.backward(trial, run.windows[_FAR_STEP + i].to(run.device))
        found = [p.grad for p in parameters if p.grad is not None]
        gradient = torch.cat([g.flatten() for g in found])
        squares += float(gradient.square().sum())
        total = gradient if total is None else total + gradient
    assert total is not None
    signal = (float(total.square().sum()) - squares) / (n * (n - 1))
    if not math.isfinite(signal) or squares == 0:
        return {"noise_over_batch": None}
    return {"noise_over_batch": squares / n / signal - 1 if signal > 0 else _MOST_NOISE}


def paired_gap(run: Run) -> dict[str, float | None]:
    """Validation against training windows, both in evaluation mode with the same weights.

    gap: relative excess of the validation loss; gap_low: lower end of its 95 % interval over windows.
    shuffle_gap_validation: what shuffling inputs costs on data that were never trained on.
    """
    first = max(run.step - _JUDGED_BATCHES, 0)
    network = run.model.network
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        seen = [loss for i in range(_JUDGED_BATCHES) for loss in _window_losses(run, run.windows[first + i])]
        unseen = [loss for batch in run.validation for loss in _window_losses(run, batch)]
        batch = run.validation[0]
        shuffled = shuffle_gap(run.loss, predict(run, batch), batch_targets(run, batch))
    network.train(was_training)
    mean_seen, mean_unseen = statistics.fmean(seen), statistics.fmean(unseen)
    error = math.sqrt(sum(_variance_of_mean(losses) for losses in (seen, unseen)))
    return {
        "gap": (mean_unseen - mean_seen) / max(abs(mean_seen), 1e-12),
        "gap_low": (mean_unseen - mean_seen - _SIGMAS_95 * error) / max(abs(mean_seen), 1e-12),
        "shuffle_gap_validation": shuffled,
    }


def _window_losses(run: Run, batch: Batch) -> list[float]:
    batch = batch.to(run.device)
    outputs, targets = predict(run, batch), batch_targets(run, batch)
    return [float(run.loss.total(run.loss.sums(outputs[i : i + 1], targets[i : i + 1]))) for i in range(len(outputs))]


def _trial(run: Run, shape: Callable[[float], float]) -> float:
    """Mean loss on unseen batches after `TRIAL_STEPS` steps from a copy at the run's rate times `shape(share)`."""
    trial, parts = _copy(run), _parts(run)
    rates = [float(group["lr"]) for group in trial.optimizer.param_groups]
    for i in range(TRIAL_STEPS):
        batch = run.windows[_FAR_STEP + i].to(run.device)
        for group, rate in zip(trial.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * shape((i + 1) / TRIAL_STEPS)
        trial.optimizer.zero_grad(set_to_none=True)
        parts.backward(trial, batch)
        norm = torch.nn.utils.clip_grad_norm_(trial.model.network.parameters(), run.config.training.clip_norm)
        if not bool(norm.isfinite()):
            return math.inf
        trial.optimizer.step()
    return _mean_loss(trial, [run.windows[_FAR_STEP + TRIAL_STEPS + i].to(run.device) for i in range(_JUDGED_BATCHES)])


def _mean_loss(run: Run, batches: Sequence[Batch]) -> float:
    """In training mode, as the running statistics lag behind a trial of few steps."""
    with torch.no_grad():
        return statistics.fmean(float(run.loss.total(batch_errors(run, batch))) for batch in batches)


def _copy(run: Run) -> Run:
    """Another run with its own weights, buffers and moments; the optimizer's groups point to the copied weights."""
    network, optimizer = copy.deepcopy((run.model.network, run.optimizer))
    network.train()
    model = Model(network, run.model.config, run.model.scaling)
    return dataclasses.replace(run, model=model, optimizer=optimizer, ranks=Ranks())


def _parts(run: Run) -> MicroBatches:
    """What does not fit into the memory at once when training does not fit in a trial either."""
    return MicroBatches(run.config.training.accumulation_steps)


def _gain(same: float, other: float) -> float:
    if not math.isfinite(other):
        return -1.0
    if not math.isfinite(same):
        return 1.0
    return (same - other) / max(abs(same), 1e-12)


def _variance_of_mean(values: Sequence[float]) -> float:
    return statistics.variance(values) / len(values) if len(values) > 1 else 0.0
