"""Causes of a stall, ranked from evidence. Pure Python.

The order is integrity, machinery, collapse and scale, gradients, optimization, limits.

A rule turns numbers into a score from 0 to 1 that is 0.5 at its threshold. A cause with 0.5 or more is named. Among
the named ones the earlier stage comes first: a fault of the data explains a dead layer, and not the other way round.
Inputs are ratios, so nothing changes when the loss is measured in other units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from adaloc.training.evidence import Evidence

NAMED = 0.5
HEALTHY, UNKNOWN = "healthy", "unknown"
HOPELESS = frozenset(
    {"inputs_targets_decoupled", "axes_swapped", "absolute_targets", "unscaled_targets", "repeated_batch"}
)
"""What no training can succeed with; frozen_parameters joins them when everything is frozen."""


@dataclass(frozen=True)
class Finding:
    """A cause with its evidence.

    Attributes:
        cause: its name.
        score: 0 to 1; named from 0.5 on.
        evidence: the numbers it rests on.
        remedy: name of what to do (diagnosis_text.py has the words).
    """

    cause: str
    score: float
    evidence: dict[str, float | str] = field(default_factory=dict)
    remedy: str = ""


@dataclass(frozen=True)
class Rule:
    """A cause, the stage that it belongs to, the evidence that it shows, and how its score is made."""

    cause: str
    stage: int
    shown: tuple[str, ...]
    score: Callable[[Evidence], float]


def rank(evidence: Evidence) -> list[Finding]:
    """All causes with a score above 0, the most likely first; "healthy" or "unknown" first when none is named."""
    scored = [(rule, _clamp(rule.score(evidence))) for rule in RULES]
    named = sorted((p for p in scored if p[1] >= NAMED), key=lambda pair: (pair[0].stage, -pair[1]))
    others = sorted((p for p in scored if 0 < p[1] < NAMED), key=lambda pair: -pair[1])
    findings = [_finding(rule, score, evidence) for rule, score in [*named, *others]]
    if named:
        return findings
    return [_unnamed(evidence), *findings]


def is_named(finding: Finding) -> bool:
    """Whether a finding is a named fault."""
    return finding.score >= NAMED and finding.cause not in (HEALTHY, UNKNOWN)


def is_hopeless(finding: Finding) -> bool:
    """Whether training on cannot succeed."""
    everything = finding.cause == "frozen_parameters" and finding.evidence.get("frozen_share") == 1.0
    return is_named(finding) and (finding.cause in HOPELESS or everything)


def over(value: float | None, threshold: float, sharpness: float = 2.0) -> float:
    """0.5 at the threshold, towards 1 above; 0 when not known.

    >>> over(1.0, 1.0), over(None, 1.0), over(3.0, 1.0)
    (0.5, 0.0, 0.9)
    """
    if value is None or math.isnan(value) or value <= 0:
        return 0.0
    if math.isinf(value):
        return 1.0
    return float(1 / (1 + (threshold / value) ** sharpness))


def under(value: float | None, threshold: float, sharpness: float = 2.0) -> float:
    """0.5 at the threshold, towards 1 below; 0 when not known.

    >>> under(1.0, 1.0), under(0.0, 1.0)
    (0.5, 1.0)
    """
    return 0.0 if value is None or math.isnan(value) else 1 - over(max(value, 0.0), threshold, sharpness)


def both(*scores: float) -> float:
    """All of the conditions: the weakest counts."""
    return min(scores)


def either(*scores: float) -> float:
    """One of the conditions suffices."""
    return max(scores)


def _finding(rule: Rule, score: float, evidence: Evidence) -> Finding:
    shown = {name: value for name in rule.shown if (value := getattr(evidence, name)) is not None}
    return Finding(rule.cause, round(score, 4), shown, remedy=rule.cause)


def _unnamed(evidence: Evidence) -> Finding:
    shown: dict[str, float | str] = {"trend": evidence.trend}
    for name in ("val_loss", "no_information"):
        if (value := getattr(evidence, name)) is not None:
            shown[name] = value
    stuck = evidence.trend in ("stalled", "diverging")
    return Finding(UNKNOWN if stuck else HEALTHY, NAMED, shown, remedy=UNKNOWN if stuck else HEALTHY)


def _clamp(score: float) -> float:
    return min(max(score, 0.0), 1.0)


def _has_learned(e: Evidence) -> float:
    """Share of the no-information loss that the best validation explains; 0 when not known."""
    if e.best_val_loss is None or not e.no_information:
        return 0.0
    return 1 - e.best_val_loss / e.no_information


def _blown_up(e: Evidence) -> float:
    """Whether steps threw the weights about: what else looks broken after that is a consequence.

    Good rates change a kernel by 0.2 to 4 % in their largest steps; a tenth leaves nothing of it within ten steps.
    Where not even one step was finite, a loss a hundred times the first says the same.
    """
    if e.highest_update_ratio is None:
        return over(e.early_burst, 100.0)
    return over(e.highest_update_ratio, 0.1, 3)


# --- integrity of the data -------------------------------------------------------------------------------------------


def _decoupled(e: Evidence) -> float:
    # Light at the emitters is within chance (3.5 standard errors; looked at some ten times in a run), though so many
    # emitters were looked at that a tenth of the frame's spread would have shown: a single emitter of ordinary data
    # stands out by more than half of it.
    if e.contrast is None or e.contrast_sigmas is None or e.contrast_emitters is None:
        return 0.0
    upper = e.contrast + 3.5 * abs(e.contrast) / max(abs(e.contrast_sigmas), 1e-9)
    return both(under(max(e.contrast_sigmas, 0.0), 3.5), under(max(upper, 0.0), 0.25), 1 - _axes_swapped(e))


def _axes_swapped(e: Evidence) -> float:
    # No light at the emitters' places but at those with x and y exchanged: 4 standard errors, which chance gives once
    # in thirty thousand looks, and above all more than at the places themselves.
    if e.contrast_sigmas is None or e.contrast_transposed_sigmas is None:
        return 0.0
    return both(over(e.contrast_transposed_sigmas, 4.0), over(_ratio(e.contrast_transposed, e.contrast, 1e-6), 1.5))


def _repeated(e: Evidence) -> float:
    # Over half of the steps see a batch of the last hundred. A batch is a random choice of windows: by chance none is.
    return over(e.repeated_share, 0.5, 4)


def _absolute(e: Evidence) -> float:
    # An offset lies within half a pixel, 1.8 in network units. At 4 it is over a pixel, which no rounding explains.
    return over(e.target_offset_max, 4.0, 4)


def _unscaled(e: Evidence) -> float:
    # Network units have a spread of 1; 10 cannot be (Chebyshev: in one window of a hundred at most).
    return over(either(e.target_photons_rms or 0.0, e.target_z_rms or 0.0), 10.0)


def _input_scaling(e: Evidence) -> float:
    # The training frames have mean 0 and spread 1; a batch varies by some tenths. Off by 3 spreads, or 4 times as wide
    # or as narrow, is another scaling.
    if e.input_mean is None or e.input_std is None:
        return 0.0
    return either(over(abs(e.input_mean), 3.0, 3), over(e.input_std, 4.0, 3), under(e.input_std, 0.25, 3))


# --- the machinery ---------------------------------------------------------------------------------------------------


def _train_eval(e: Evidence) -> float:
    # Where one channel is all of the loss, its own fault is what makes the difference large; and weights that a step
    # throws about leave any statistics behind.
    thrown = either(_blown_up(e), _weight_decay(e))
    return both(_modes_apart(e), 1 - _saturated(e), 1 - _one_channel(e), 1 - thrown)


def _modes_apart(e: Evidence) -> float:
    if e.settled_difference is not None:
        # With statistics that have caught up, and of many windows, the outputs of the two modes differ by thousandths
        # to hundredths of their variance in healthy runs, whatever those have learned, and by 0.5 or far more in faulty
        # ones.
        return over(e.settled_difference, 0.1, 3)
    # Seen in passing, the running statistics lag some ten steps behind, which costs up to a quarter of the loss.
    if e.train_mode_loss is None or e.eval_mode_loss is None:
        return 0.0
    difference = over(abs(_ratio(e.eval_mode_loss, e.train_mode_loss, 1e-12) - 1), 0.5, 3)
    # A network that has learned little scores like one that knows nothing in either mode, so the outputs are asked too.
    # Half a batch's own statistics and a lag of ten steps make up to 0.9 of their variance in networks that have
    # hardly learned, and some hundredths later. Where not a twentieth of the loss is explained the outputs vary by
    # nothing that means anything.
    outputs = both(over(e.mode_difference, 1.0, 3), over(1 - _ratio(e.train_loss, e.no_information, 1e-12), 0.05, 3))
    # Or validation scores far worse than training did, and training windows in evaluation mode just as badly.
    apart = both(over(_ratio(e.val_loss, e.train_loss, 1e-12) - 1, 1.0, 3), 0.0 if e.gap is None else under(e.gap, 0.2))
    return either(difference, outputs, apart)


def _frozen(e: Evidence) -> float:
    # A tensor that a step leaves exactly as it was gets no gradient, or is not in the optimizer. One is enough.
    return over(e.frozen_share, 1e-3) if e.rate else 0.0


def _bad_resume(e: Evidence) -> float:
    # Moments that have seen fewer than half of the steps before the resume, or a rate that is not the controller's.
    moments = 0.0
    if e.resumed_at and e.moment_steps is not None:
        moments = (
            under(_ratio(e.moment_steps, e.resumed_at, 1.0), 1.0) if e.moment_steps < e.step - e.resumed_at + 1 else 0
        )
    rate = over(abs(_ratio(e.rate, e.rate_asked, 1e-30) - 1), 0.01) if e.rate is not None and e.rate_asked else 0.0
    return either(moments, rate)


# --- collapse and scale ----------------------------------------------------------------------------------------------


def _one_channel(e: Evidence) -> float:
    # Above 0.9 the other five share a tenth: what they could win is lost in this one's noise.
    # Unless it is the probability that is sure and wrong, which has a name of its own.
    # The gradient is that of one batch: a channel that dominates it by chance has not most of the loss besides.
    of_gradient = both(over(e.head_share, 0.9, 30), over(e.loss_share, 0.6, 8))
    dominates = either(over(e.loss_share, 0.9, 30), of_gradient)
    return both(dominates, 1 - _saturated(e), 1 - _collapsed(e), 1 - _blown_up(e), 1 - _weight_decay(e))


def _collapsed(e: Evidence) -> float:
    # Calibrated probabilities sum to the number of emitters, also for a network that knows nothing; at a third of
    # that, or less, the network says "empty". The loss wants it so where its pulls balance, or pull further down. A
    # cross entropy that does not want it pulls up as many times as strongly as down as emitters are missing: over 3.
    wanted = 1.0 if e.pull_ratio is None else under(e.pull_ratio, 3.0, 4)
    return both(under(e.count_ratio, 0.3), under(e.p_at_emitters, 0.1), wanted, 1 - _blown_up(e))


def _saturated(e: Evidence) -> float:
    # The squared error of calibrated probabilities equals the mean of p (1 - p); ten times that is sure and wrong.
    return both(over(e.overconfidence, 10.0), 1 - _collapsed(e), 1 - _blown_up(e))


def _dead(e: Evidence) -> float:
    # Over half of a layer is the design's own definition.
    return both(over(e.dead_share, 0.5, 8), 1 - _blown_up(e))


# --- gradients -------------------------------------------------------------------------------------------------------


def _underflow(e: Evidence) -> float:
    # Half of all gradients exactly 0 does not happen in float32, nor do many steps without a finite gradient.
    return both(either(over(e.zero_gradient_share, 0.3), over(e.skipped_share, 0.2)), 1 - _blown_up(e))


def _vanishing(e: Evidence) -> float:
    # Five decades between the layers: float32 resolves seven, and healthy networks stay within three.
    return both(under(e.gradient_depth_ratio, 1e-5, 1), 1 - _underflow(e), 1 - _blown_up(e), 1 - _weight_decay(e))


def _clipped(e: Evidence) -> float:
    # At 100 times the limit two decades of differences between the batches are gone (cures.HARD_CLIPPING).
    return both(over(e.clip_excess, 100.0), over(e.clipped_share, 0.5, 4))


# --- optimization ----------------------------------------------------------------------------------------------------


def _starves(e: Evidence) -> float:
    # Half of the time: a second loader process would nearly double the speed.
    return over(e.wait_share, 0.5, 4)


def _rate_too_low(e: Evidence) -> float:
    # Steps of 1e-3 of a weight are usual; at 1e-4 a weight needs ten thousand of them to change. A rate ten times as
    # high or more wins at least 5 % of the loss within 20 steps where the rate was the matter.
    # The highest of the run, so that a rate that came down in the end, as it should, is not meant. A short trial from
    # weights that never left their start can win nothing yet, and need not: if all steps together changed them by at
    # most a hundredth, which a usual rate does in ten steps, nothing can have been learned.
    if e.highest_update_ratio is None:
        return 0.0
    stood = both(under(e.highest_update_ratio * e.step, 0.01), over(e.step, 50.0, 8))
    return both(under(e.highest_update_ratio, 2e-4), either(over(e.boost_gain, 0.01), stood))


def _rate_too_high(e: Evidence) -> float:
    # A loss that falls by a fifth at once when the rate is annealed, or steps of a tenth of the weights and more.
    # Later the weights may have grown until the steps are small beside them: the highest counts, at the same rate.
    stayed = over(e.rate_since_highest, 0.3, 4)
    annealed = both(over(e.anneal_gain, 0.2), over(e.update_ratio, 0.02))
    return both(either(annealed, both(_blown_up(e), stayed)), 1 - _weight_decay(e))


def _warmup_missing(e: Evidence) -> float:
    # Steps of a tenth of the weights among the first ones, at full rate, which has come down since.
    if not e.highest_rate or e.first_rate is None:
        return 0.0
    full = over(e.first_rate / e.highest_rate, 0.7, 4)
    return both(_blown_up(e), full, under(e.rate_since_highest, 0.3, 4), 1 - _weight_decay(e))


def _weight_decay(e: Evidence) -> float:
    # A decay term as large as half of the update leaves an equilibrium in which the gradient only fights it.
    return over(e.decay_ratio, 0.5)


# --- limits ----------------------------------------------------------------------------------------------------------


def _overfitting(e: Evidence) -> float:
    # The whole interval above 0, and by a fifth of the training loss; and validation no longer at its best.
    return both(over(e.gap_low, 0.1), over(e.gap, 0.2), over(_has_learned(e), 0.05))


def _too_small(e: Evidence) -> float:
    # Sixty steps on some sixty emitters: networks from 7,000 parameters on leave up to a third of the loss, those
    # of 112 to 135 over 0.6 of it. One that learned its data by heart is not too small for them.
    return both(over(e.overfit_ratio, 0.5, 8), 1 - _overfitting(e))


def _physical_limit(e: Evidence) -> float:
    # Within a tenth of the floor, of what there is between it and knowing nothing.
    if e.floor is None or e.val_loss is None or not e.no_information or e.no_information <= e.floor:
        return 0.0
    left = (e.val_loss - e.floor) / (e.no_information - e.floor)
    return both(under(left, 0.1), 0.0 if e.trend == "falling" else 1.0)


def _noise_floor(e: Evidence) -> float:
    # Steps at a constant rate stir the weights until the gradient that brings them back shows in the noise: at the
    # floor itself the noise scale is some 5 to 50 batches (2 / (rate times curvature)), and higher only in passing. At
    # three a gradient is three quarters noise; at two, two thirds, and a loss that a short anneal lowers by a fifth
    # says the rest.
    stirs = both(over(e.noise_over_batch, 2.0), over(e.anneal_gain, 0.2))
    drowns = either(over(e.noise_over_batch, 3.0), stirs)
    # It holds the loss up only while the rate is not annealed. And a loss that does not fall for some tens of epochs of
    # three steps is no floor yet: only from 300 steps on is it taken for one.
    waits, goes_on = over(e.rate_since_highest, 0.3, 4), over(e.step, 300.0, 8)
    stalled = 1.0 if e.trend in ("stalled", "diverging") else 0.0
    return both(drowns, waits, goes_on, stalled, 1 - _too_small(e))


def _ratio(a: float | None, b: float | None, least: float) -> float:
    return 0.0 if a is None or b is None else a / max(abs(b), least)


INTEGRITY, MACHINERY, COLLAPSE, GRADIENTS, OPTIMIZATION, LIMITS = range(6)
RULES: Sequence[Rule] = (
    Rule("unscaled_targets", INTEGRITY, ("target_photons_rms", "target_z_rms"), _unscaled),
    Rule("absolute_targets", INTEGRITY, ("target_offset_max",), _absolute),
    Rule("repeated_batch", INTEGRITY, ("repeated_share",), _repeated),
    Rule("wrong_input_scaling", INTEGRITY, ("input_mean", "input_std"), _input_scaling),
    Rule("axes_swapped", INTEGRITY, ("contrast_sigmas", "contrast_transposed_sigmas", "contrast_emitters"),
         _axes_swapped),
    Rule("inputs_targets_decoupled", INTEGRITY,
         ("contrast", "contrast_sigmas", "contrast_emitters", "shuffle_gap", "shuffle_gap_validation"), _decoupled),
    Rule("frozen_parameters", MACHINERY, ("frozen_share", "frozen"), _frozen),
    Rule("bad_resume", MACHINERY, ("resumed_at", "moment_steps", "rate", "rate_asked"), _bad_resume),
    Rule("train_eval_mismatch", MACHINERY,
         ("train_mode_loss", "eval_mode_loss", "mode_difference", "settled_difference"), _train_eval),
    Rule("one_channel_dominates", COLLAPSE, ("loss_share", "loss_share_channel", "head_share", "head_share_channel"),
         _one_channel),
    Rule("collapsed_to_empty", COLLAPSE, ("count_ratio", "p_at_emitters", "pull_ratio"), _collapsed),
    Rule("saturated_detection", COLLAPSE, ("overconfidence", "count_ratio", "pull_ratio"),
         _saturated),
    Rule("precision_underflow", GRADIENTS, ("zero_gradient_share", "skipped_share"), _underflow),
    Rule("vanishing_gradients", GRADIENTS, ("gradient_depth_ratio",), _vanishing),
    Rule("dead_units", GRADIENTS, ("dead_share", "dead_layer"), _dead),
    Rule("clipped_every_step", GRADIENTS, ("clip_excess", "clipped_share"), _clipped),
    Rule("weight_decay_too_strong", OPTIMIZATION, ("decay_ratio",), _weight_decay),
    Rule("loader_starves", OPTIMIZATION, ("wait_share",), _starves),
    Rule("warmup_missing", OPTIMIZATION, ("highest_update_ratio", "early_burst", "first_rate", "rate_since_highest"),
         _warmup_missing),
    Rule("rate_too_high", OPTIMIZATION,
         ("highest_update_ratio", "update_ratio", "anneal_gain", "rate", "gradient_cosine"), _rate_too_high),
    Rule("rate_too_low", OPTIMIZATION,
         ("highest_update_ratio", "rate", "boost_gain", "boost_factor", "gradient_cosine"),
         _rate_too_low),
    Rule("network_too_small", LIMITS, ("overfit_ratio", "num_parameters"), _too_small),
    Rule("overfitting", LIMITS, ("gap", "gap_low", "gap_before"), _overfitting),
    Rule("physical_limit", LIMITS, ("val_loss", "floor", "no_information"), _physical_limit),
    Rule("batch_noise_floor", LIMITS, ("noise_over_batch", "anneal_gain", "gradient_cosine"), _noise_floor),
)  # fmt: skip
CAUSES = tuple(rule.cause for rule in RULES)
