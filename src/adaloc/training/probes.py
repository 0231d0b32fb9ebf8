"""Experiments on copies of a run: they answer what watching cannot, and leave the run bit-identical.

Each takes some tens of steps, so they are made only when a run stalls or a person asks.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import operator
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

from adaloc.data.targets import PROBABILITY
from adaloc.data.windows import Batch
from adaloc.models.model_file import Model, make_model
from adaloc.training.batch_signals import mode_difference, shuffle_gap
from adaloc.training.cures import MicroBatches, joined, windows_of
from adaloc.training.ranks import Ranks
from adaloc.training.run import Run, batch_errors, batch_targets, predict

TRIAL_STEPS = 20
_BOOST_FACTORS = (10.0, 1000.0)
"""Rates that are 10 to 100 times too low win with the first, lower ones with the second."""
_FEWEST_NOISE_BATCHES, _NOISE_WINDOWS = 12, 256
"""Independent gradients that the noise is told from: 12, or those of so many windows where the first dozen show much.

The error of the squared signal is the noise times sqrt(2 / (n (n - 1))): 0.12 with 12, nearly as large as the 0.2 that
is left of it where the noise is named (causes.py); 0.04 with the 32 of eight windows each, 0.01 with the 128 of two.
"""
_MUCH_NOISE = 2.0
"""Over the batch: below, the noise is not what is named (causes.py), however exactly it is known."""
_MOST_NOISE = 1000.0
"""Stands for a gradient that drowns: so few batches cannot tell a larger noise scale from an infinite one."""
_OVERFIT_EMITTERS, _OVERFIT_AT_ONCE, _OVERFIT_WINDOWS = 60, 16, 64
"""Learned by heart: so many emitters, of up to 16 windows of each batch and of some 64 at most.

Five numbers each are 300 to remember, more than the some 120 weights of a network that is too small. Of the 7 emitters
of a sparse batch it remembers all.
"""
_OVERFIT_STEPS = 60
_OVERFIT_RATES = (1e-2, 3e-3)
"""AdamW's rates on the fresh copy. The first is the best of 1e-3, 3e-3, 1e-2 and 3e-2 for networks of 119 to 47,070
parameters; the second is tried where the first leaves a third of the loss, as wide networks without normalization
diverge at it."""
_SETTLING_PASSES, _SETTLING_WINDOWS = 30, 32
"""That the statistics of normalization see while the weights stand still: 0.9^30 = 4 % is left of a lag."""
_JUDGED_WINDOWS = 32
"""At least, after trials of the rate and for the gap."""
_JOINED_PX = 2**19  # of the frames of 128 windows of 64 px; of larger ones fewer are joined, and hold as many emitters
_SETTLED_WINDOWS = 128
"""Compared in the two modes, at least, where the memory holds whole batches: the own statistics of few windows of a
sparse movie differ from those of many as they do in a mismatch."""
_FAR_STEP = 1_000_000
"""Batches from here on: the same for every probe, and none that the run has seen or will soon see."""
_JUDGED_BATCHES = 3
_SIGMAS_95 = 2.1
"""Two-sided 95 % of Student's t for the some twenty windows on either side."""


def make_probes(run: Run) -> dict[str, Any]:
    """All probes: boost_gain, boost_factor, anneal_gain, overfit_ratio, gap, gap_low, shuffle_gap_validation,
    noise_over_batch, settled_difference, settled_train_loss, settled_eval_loss.

    Gains are shares of the loss: 0.1 means that the trial ends 10 % lower than going on as before.
    """
    buffers = [buffer.clone() for buffer in run.model.network.buffers()]
    results = rate_trials(run) | {"overfit_ratio": overfit_fresh(run)} | paired_gap(run) | noise_scale(run)
    results |= settled_modes(run)
    assert all(torch.equal(a, b) for a, b in zip(buffers, run.model.network.buffers(), strict=True))
    return results


def probe_steps() -> int:
    """Training steps that all probes together cost, about."""
    return TRIAL_STEPS * (2 + len(_BOOST_FACTORS)) + _OVERFIT_STEPS + _SETTLING_PASSES + _NOISE_WINDOWS // 8


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
    batch = _to_remember(run)
    ratio = math.inf
    for rate in _OVERFIT_RATES:
        left = _learned_by_heart(run, batch, rate)
        ratio = left if math.isnan(left) else min(ratio, left)
        if not ratio > 1 / 3:
            break
    return ratio


def _to_remember(run: Run) -> Batch:
    batches: list[Batch] = []
    emitters = windows = 0
    while not batches or (emitters < _OVERFIT_EMITTERS and windows < _OVERFIT_WINDOWS):
        batch = run.windows[_FAR_STEP + len(batches)].to(run.device)
        batches.append(windows_of(batch, 0, min(_OVERFIT_AT_ONCE, len(batch.adu_BTHW))))
        windows += len(batches[-1].adu_BTHW)
        emitters += int(batch_targets(run, batches[-1])[:, PROBABILITY].sum())
    return joined(batches)


def _learned_by_heart(run: Run, batch: Batch, rate: float) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed)
        model = make_model(run.config, run.model.scaling)
    model.network.to(run.device).train()
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=rate)
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
    total: torch.Tensor | float = 0.0
    squares, noise = 0.0, None
    most = max(_FEWEST_NOISE_BATCHES, _NOISE_WINDOWS // run.config.data.windows_per_batch)
    for n in range(1, most + 1):
        trial.model.network.zero_grad(set_to_none=True)  # also what the optimizer does not hold
        parts.backward(trial, run.windows[_FAR_STEP + n - 1].to(run.device))
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        squares += float(gradient.square().sum())
        total = total + gradient
        if n in (_FEWEST_NOISE_BATCHES, most):
            noise = _noise_over_signal(float(torch.as_tensor(total).square().sum()), squares, n)
            if noise is None or noise < _MUCH_NOISE:
                break
    return {"noise_over_batch": noise}


def _noise_over_signal(square_of_sum: float, squares: float, n: int) -> float | None:
    signal = (square_of_sum - squares) / (n * (n - 1))
    if not math.isfinite(signal) or squares == 0:
        return None
    return squares / n / signal - 1 if signal > 0 else _MOST_NOISE


def settled_modes(run: Run) -> dict[str, float | None]:
    """Losses and outputs of the two modes on the same windows, once statistics have caught up with resting weights.

    Statistics of normalization lag behind weights that move, which in a short run at a high rate looks like a
    mismatch. On a copy whose weights rest a lag goes away, and a mismatch stays. Small batches are joined: the own
    statistics of one differ from those of all by chance.
    """
    trial = _copy(run)
    network = trial.model.network
    batch = _joined_from(run, _FAR_STEP, _SETTLED_WINDOWS).to(run.device)
    targets = batch_targets(run, batch)
    with torch.no_grad():
        if any(True for _ in network.buffers()):
            for i in range(_SETTLING_PASSES):
                predict(trial, _joined_from(run, _FAR_STEP + i * _SETTLING_WINDOWS, _SETTLING_WINDOWS).to(run.device))
        training = predict(trial, batch)
        network.eval()
        evaluation = predict(trial, batch)
    return {
        "settled_difference": mode_difference(training, evaluation),
        "settled_train_loss": float(run.loss.total(run.loss.sums(training, targets))),
        "settled_eval_loss": float(run.loss.total(run.loss.sums(evaluation, targets))),
    }


def _joined_from(run: Run, step: int, num: int) -> Batch:
    """The batches from a step on that hold so many windows, or pixels; one where the memory does not hold even that."""
    batches = [run.windows[step]]
    num = min(num, _JOINED_PX // batches[0].adu_BTHW[0, 0].numel())
    while sum(len(batch.adu_BTHW) for batch in batches) < num and run.config.training.accumulation_steps == 1:
        batches.append(run.windows[step + len(batches)])
    return joined(batches)


def paired_gap(run: Run) -> dict[str, float | None]:
    """Validation against training windows, both in evaluation mode with the same weights.

    gap: relative excess of the validation loss; gap_low: lower end of its 95 % interval over windows. None where too
        few windows have emitters.
    shuffle_gap_validation: what shuffling inputs costs on data that were never trained on.
    """
    num = min(_judged_batches(run), run.step)
    network = run.model.network
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        seen = [loss for i in range(num) for loss in _window_losses(run, run.windows[run.step - num + i])]
        unseen = [loss for batch in run.validation for loss in _window_losses(run, batch)]
        batch = run.validation[0]
        shuffled = shuffle_gap(run.loss, predict(run, batch), batch_targets(run, batch))
    network.train(was_training)
    return {**_gap(seen, unseen), "shuffle_gap_validation": shuffled}


def _gap(seen: Sequence[float], unseen: Sequence[float]) -> dict[str, float | None]:
    if min(len(seen), len(unseen)) < 2:
        return {"gap": None, "gap_low": None}
    mean, excess = statistics.fmean(seen), statistics.fmean(unseen) - statistics.fmean(seen)
    error = math.sqrt(sum(statistics.variance(losses) / len(losses) for losses in (seen, unseen)))
    size = max(abs(mean), 1e-12)
    return {"gap": excess / size, "gap_low": (excess - _SIGMAS_95 * error) / size}


def _window_losses(run: Run, batch: Batch) -> list[float]:
    """Of windows with emitters: without any a window has two channels, and next to no loss."""
    batch = batch.to(run.device)
    outputs, targets = predict(run, batch), batch_targets(run, batch)
    return [
        float(run.loss.total(run.loss.sums(outputs[i : i + 1], targets[i : i + 1])))
        for i in range(len(outputs))
        if bool(targets[i, PROBABILITY].any())
    ]


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
    return _loss_over(trial, [run.windows[_FAR_STEP + TRIAL_STEPS + i] for i in range(_judged_batches(run))])


def _judged_batches(run: Run) -> int:
    """How many batches tell a loss: of small ones more, as few windows hold few emitters."""
    return max(_JUDGED_BATCHES, _JUDGED_WINDOWS // run.config.data.windows_per_batch)


def _loss_over(run: Run, batches: Sequence[Batch]) -> float:
    """In training mode, as the running statistics lag behind a trial of few steps."""
    with torch.no_grad():
        sums = [batch_errors(run, batch.to(run.device)) for batch in batches]
        return float(run.loss.total(functools.reduce(operator.add, sums)))


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
