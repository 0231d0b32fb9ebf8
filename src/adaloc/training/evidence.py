"""The numbers that a diagnosis rests on, gathered from the events of a run's log. Pure Python."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from adaloc.training.run_log import Event

_RECENT_EPOCHS = 10
_RECENT_LOOKS = 3  # long looks: enough to see through one odd batch, few enough to be the present
_FEWEST_EMITTERS = 5  # seen by the last long looks: of fewer a share or a sum is chance
_FEWEST_EPOCHS_FOR_TREND = 10
_TREND_WINDOW = 20
_SIGMAS = 3.0
_STATISTICS_SETTLED = 50  # steps, after which 0.9^50 = 0.5 % is left of what normalization began with


@dataclass(frozen=True)
class Evidence:
    """What is known about a run; None where nothing is. Losses are used only as ratios to one another.

    Attributes:
        step, epoch: how far the run is (finished epochs).
        trend: falling, stalled, diverging, or undecided.
        no_information: loss of the best constant. floor: what physics allows.
        loss_over_first: recent training loss over that of the first steps.
        val_loss: recent median. best_val_loss, initial_val_loss, train_loss: likewise.
        The others are the signals of the same name in the log (run_log.py), over the last long looks, and the results
        of probes (probes.py).
    """

    step: int = 0
    epoch: int = 0
    trend: str = "undecided"
    no_information: float | None = None
    floor: float | None = None
    initial_val_loss: float | None = None
    val_loss: float | None = None
    best_val_loss: float | None = None
    train_loss: float | None = None
    # the data
    contrast: float | None = None
    contrast_sigmas: float | None = None
    contrast_transposed: float | None = None
    contrast_transposed_sigmas: float | None = None
    contrast_emitters: float | None = None
    target_offset_max: float | None = None
    target_z_rms: float | None = None
    target_photons_rms: float | None = None
    input_mean: float | None = None
    input_std: float | None = None
    repeated_share: float | None = None
    # the machinery
    frozen_share: float | None = None
    frozen: str | None = None
    train_mode_loss: float | None = None
    eval_mode_loss: float | None = None
    mode_difference: float | None = None
    settled_difference: float | None = None
    settled_train_loss: float | None = None
    settled_eval_loss: float | None = None
    resumed_at: int | None = None
    moment_steps: int | None = None
    rate: float | None = None
    rate_asked: float | None = None
    first_rate: float | None = None
    highest_rate: float | None = None
    # collapse and scale
    loss_share: float | None = None
    loss_share_channel: str | None = None
    head_share: float | None = None
    head_share_channel: str | None = None
    count_ratio: float | None = None
    p_at_emitters: float | None = None
    overconfidence: float | None = None
    pull_ratio: float | None = None
    shuffle_gap: float | None = None
    # gradients
    gradient_depth_ratio: float | None = None
    zero_gradient_share: float | None = None
    skipped_share: float | None = None
    dead_share: float | None = None
    dead_layer: str | None = None
    # optimization
    wait_share: float | None = None
    update_ratio: float | None = None
    highest_update_ratio: float | None = None
    rate_since_highest: float | None = None
    decay_ratio: float | None = None
    gradient_cosine: float | None = None
    clipped_share: float | None = None
    clip_excess: float | None = None
    early_burst: float | None = None
    early_norm_burst: float | None = None
    # limits
    noise_over_batch: float | None = None
    boost_gain: float | None = None
    boost_factor: float | None = None
    anneal_gain: float | None = None
    overfit_ratio: float | None = None
    num_parameters: int | None = None
    gap: float | None = None
    gap_low: float | None = None
    gap_before: float | None = None
    shuffle_gap_validation: float | None = None
    tried: tuple[str, ...] = ()


NAMES = tuple(field.name for field in fields(Evidence))


def gather(events: Sequence[Event], probes: dict[str, Any] | None = None) -> Evidence:
    """Evidence from a run's events in order (run_log.read_events) and, where they were made, from probes.

    Without `probes`, those of the last diagnosis in the log count.
    """

    def of_kind(kind: str) -> list[Event]:
        return [event for event in events if event["event"] == kind]

    start: Event = (of_kind("start") or [{"event": "start"}])[-1]
    initial: Event = (of_kind("initial") or [{"event": "initial"}])[-1]
    epochs, looks = of_kind("epoch"), of_kind("signals")
    if probes is None:
        logged = [event.get("probes") for event in of_kind("diagnosis") if event.get("probes")]
        probes = dict(logged[-1] or {}) if logged else {}
    val = [_number(e.get("val_loss")) for e in epochs]
    finite = [v for v in val if v is not None]
    recent = _last_finite(val)
    values: dict[str, Any] = {
        "step": int(max([_number(e.get("step")) or 0 for e in [*epochs, *looks]], default=0)),
        "epoch": len(epochs),
        "trend": _trend(events, val),
        "no_information": _number(start.get("no_information_loss")),
        "floor": _number(start.get("floor")),
        "num_parameters": start.get("num_parameters"),
        "initial_val_loss": _number(initial.get("val_loss")),
        "val_loss": statistics.median(recent) if recent else None,
        "best_val_loss": min(finite) if finite else None,
        "train_loss": _median([_number(e.get("train_loss")) for e in epochs[-_RECENT_EPOCHS:]]),
        "gap_before": _early_gap(epochs),
        "resumed_at": max((int(e.get("step", 0)) for e in of_kind("resume")), default=None),
        "wait_share": _median([_number(e.get("wait_share")) for e in epochs[-_RECENT_EPOCHS:]]),
        "clipped_share": _median([_number(e.get("clipped_share")) for e in epochs[-_RECENT_EPOCHS:]]),
        "tried": _tried(events),
    }
    values |= _from_looks(looks)
    values |= {name: value for name, value in probes.items() if name in NAMES and value is not None}
    return Evidence(**values)


def robust_trend(losses: Sequence[float | None]) -> str:
    """falling, stalled, diverging or undecided, from the median slope of the last losses and its standard error.

    Used where the controller left no verdict of its own. Scale-free: the slope is compared with the noise and, for
    stalled, with the improvement so far.
    """
    known = [loss for loss in losses if loss is not None]
    if losses and losses[-1] is None:
        return "diverging"
    if len(known) < _FEWEST_EPOCHS_FOR_TREND:
        return "undecided"
    window = known[-_TREND_WINDOW:]
    slopes = [(b - a) / (j - i) for i, a in enumerate(window) for j, b in enumerate(window) if j > i]
    changes = [b - a for a, b in itertools.pairwise(window)]
    centre = statistics.median(changes)
    noise = 1.4826 * statistics.median(abs(c - centre) for c in changes) / math.sqrt(2)
    n = len(window)
    error = noise / math.sqrt(n * (n * n - 1) / 12)
    slope = statistics.median(slopes)
    if slope + _SIGMAS * error < 0:
        # A fall that would take a hundred windows to win what was won so far is none.
        won = max(known[0] - min(known), 0.0)
        return "falling" if -slope * n > 0.01 * won else "stalled"
    if slope - _SIGMAS * error > 0:
        return "diverging"
    return "stalled"


def _from_looks(looks: Sequence[Event]) -> dict[str, Any]:
    """Medians of the last looks; sums where only sums mean something; extremes of the beginning."""
    if not looks:
        return {}
    recent = looks[-_RECENT_LOOKS:]
    values: dict[str, Any] = {}
    for name in (
        "contrast", "contrast_sigmas", "contrast_transposed", "contrast_transposed_sigmas", "contrast_emitters",
        "moment_steps", "rate", "rate_asked", "shuffle_gap",
    ):  # fmt: skip
        values[name] = _last([look.get(name) for look in looks])
    for name in (
        "target_offset_max", "target_z_rms", "target_photons_rms", "input_mean", "input_std", "repeated_share",
        "frozen_share",
        "gradient_depth_ratio", "zero_gradient_share", "skipped_share", "dead_share", "update_ratio", "decay_ratio",
        "gradient_cosine", "clip_excess",
    ):  # fmt: skip
        values[name] = _median([_number(look.get(name)) for look in recent])
    frozen = _last([look.get("frozen") for look in looks if look.get("frozen")])
    values["frozen"] = ", ".join(frozen) if frozen else None
    values["dead_layer"] = _last([look.get("dead_layer") for look in looks])
    values |= _modes(looks) | _shares(recent) | _detection(recent)
    rates = [rate for look in looks if (rate := _number(look.get("rate"))) is not None]
    values["first_rate"], values["highest_rate"] = (rates[0], max(rates)) if rates else (None, None)
    values |= _highest_update(looks) | _bursts(looks) | {"noise_over_batch": _noise_over_batch(looks)}
    return values


def _modes(looks: Sequence[Event]) -> dict[str, Any]:
    """Losses in the two modes, and how far their outputs lie apart, of the last two looks the one with less of it.

    Statistics that lag behind the weights catch up, and one odd emitter of half a batch does not come again; a mismatch
    stays.
    """
    losses = [
        (train, evaluation)
        for look in looks
        if (train := _number(look.get("train_mode_loss"))) and (evaluation := _number(look.get("eval_mode_loss")))
    ]
    train, evaluation = min(losses[-2:], key=lambda pair: abs(math.log(abs(pair[1] / pair[0]))), default=(None, None))
    settled = [look for look in looks if look.get("step", 0) >= _STATISTICS_SETTLED]
    outputs = [value for look in settled if (value := _number(look.get("mode_difference"))) is not None]
    return {
        "train_mode_loss": train,
        "eval_mode_loss": evaluation,
        "mode_difference": min(outputs[-2:], default=None),
    }


def _shares(looks: Sequence[Event]) -> dict[str, Any]:
    """The channel with the largest share of the loss, and of the head's gradient, with that share."""
    values: dict[str, Any] = {}
    channels = [look["loss_shares"] for look in looks if isinstance(look.get("loss_shares"), dict)]
    if channels:
        names = list(channels[-1])
        shares = {name: _median([_number(c.get(name)) for c in channels]) or 0.0 for name in names}
        top = max(shares, key=lambda name: shares[name])
        values["loss_share"], values["loss_share_channel"] = shares[top], top
        # Those of one batch: without emitters its gradient is that of two channels.
        heads = [look["head_shares"] for look in looks if look.get("head_shares") and _emitters(look) > 1]
        if heads:
            medians = [statistics.median(column) for column in zip(*heads, strict=True)]
            top_head = max(range(len(medians)), key=lambda i: medians[i])
            values["head_share"] = medians[top_head]
            values["head_share_channel"] = names[top_head] if top_head < len(names) else None
    return values


def _emitters(look: Event) -> float:
    """That a look saw; logs without the number had batches with enough of them."""
    known = _number(look.get("emitters"))
    return _FEWEST_EMITTERS if known is None else known


def _detection(looks: Sequence[Event]) -> dict[str, Any]:
    """How the probabilities stand to the truth; nothing where the looks saw too few emitters."""
    seen = [look for look in looks if _number(look.get("count_ratio")) is not None]
    if math.fsum(_emitters(look) for look in seen) < _FEWEST_EMITTERS:
        return {}
    values: dict[str, Any] = {
        name: _weighted_median(
            [(value, _emitters(look)) for look in seen if (value := _number(look.get(name))) is not None]
        )
        for name in ("count_ratio", "p_at_emitters", "overconfidence")
    }
    up = [value for look in looks if (value := _number(look.get("pull_up"))) is not None]
    down = [value for look in looks if (value := _number(look.get("pull_down"))) is not None]
    if up and down:
        values["pull_ratio"] = math.fsum(up) / max(math.fsum(down), 1e-30)
    return values


def _highest_update(looks: Sequence[Event]) -> dict[str, Any]:
    """The largest update over weight of all looks, and what became of the rate since: now over then."""
    known = [(u, look) for look in looks if (u := _number(look.get("update_ratio"))) is not None]
    # Where no step was finite, the first rate is meant.
    highest, look = max(known, key=lambda pair: pair[0]) if known else (None, looks[0])
    then, now = _number(look.get("rate")), _number(looks[-1].get("rate"))
    return {"highest_update_ratio": highest, "rate_since_highest": now / then if then and now is not None else None}


def _bursts(looks: Sequence[Event]) -> dict[str, Any]:
    """The highest loss and gradient norm among the first looks, over the first loss and the later norm."""
    early = [look for look in looks if look.get("step", 0) <= 50]
    first = _number(looks[0].get("loss_first"))
    highest = [v for look in early if (v := _number(look.get("loss_max"))) is not None]
    norms = [v for look in early if (v := _number(look.get("grad_norm_max"))) is not None]
    later = _median([_number(look.get("grad_norm_median")) for look in looks])
    return {
        "early_burst": max(highest) / first if highest and first else None,
        "early_norm_burst": max(norms) / later if norms and later else None,
    }


def _noise_over_batch(looks: Sequence[Event]) -> float | None:
    """The gradient noise scale over the batch size: from half batches, else from successive gradients.

    Gradients of independent batches of B windows have the cosine 1 / (1 + noise scale / B).
    """
    late = looks[1:] if len(looks) > 1 else looks  # the first steps' gradient is that of the constant, with no noise
    squares = [(look.get("gradient_square"), look.get("gradient_noise"), look.get("batch_windows")) for look in late]
    known = [(s, n, b) for s, n, b in squares if s is not None and n is not None and b]
    if known:
        square, noise = math.fsum(s for s, _, _ in known), math.fsum(n for _, n, _ in known)
        if square > 0 and noise > 0:
            return float(noise / square / known[-1][2])
    cosines = [c for look in late if (c := _number(look.get("gradient_cosine"))) is not None]
    if cosines and (mean := statistics.fmean(cosines)) > 0:
        return 1 / mean - 1
    return None


def _trend(events: Sequence[Event], val: Sequence[float | None]) -> str:
    verdicts = [event for event in events if event["event"] == "trend"]
    if verdicts:
        return str(verdicts[-1].get("verdict", "undecided"))
    return robust_trend(val)


def _early_gap(epochs: Sequence[Event]) -> float | None:
    """Relative gap of validation to training in the first third of the epochs."""
    early = epochs[: max(len(epochs) // 3, 1)]
    gaps = [
        val / train - 1
        for e in early
        if (val := _number(e.get("val_loss"))) is not None and (train := _number(e.get("train_loss")))
    ]
    return statistics.median(gaps) if gaps else None


def _tried(events: Sequence[Event]) -> tuple[str, ...]:
    """What the run has done by itself: kinds of rate changes and cures with their number."""
    counts: dict[str, int] = {}
    for event in events:
        if event["event"] in ("lr", "cure"):
            kind = str(event.get("kind", "unknown"))
            counts[kind] = counts.get(kind, 0) + 1
    return tuple(f"{kind} x{count}" for kind, count in sorted(counts.items()))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _weighted_median(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Of (value, weight): where half of the weight is reached."""
    half, reached = math.fsum(weight for _, weight in pairs) / 2, 0.0
    for value, weight in sorted(pairs):
        reached += weight
        if reached >= half:
            return value
    return None


def _last(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    return known[-1] if known else None


def _last_finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values[-_RECENT_EPOCHS:] if value is not None]
