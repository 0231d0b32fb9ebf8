"""The ranking of causes from numbers alone: laws that hold for every rule, and the signature of each cause."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaloc.training.causes import (
    CAUSES,
    HEALTHY,
    NAMED,
    RULES,
    UNKNOWN,
    Finding,
    is_hopeless,
    is_named,
    over,
    rank,
    under,
)
from adaloc.training.diagnosis_text import CAUSES as WORDS
from adaloc.training.diagnosis_text import describe, report
from adaloc.training.evidence import Evidence, gather, robust_trend

# A run of the reference data after 100 steps.
GOOD = Evidence(
    step=105, epoch=35, trend="falling", no_information=5.5, initial_val_loss=5.5, val_loss=3.4, best_val_loss=3.3,
    train_loss=3.4, contrast=1.2, contrast_sigmas=20.0, contrast_transposed=0.2, contrast_transposed_sigmas=3.0,
    contrast_emitters=600.0, target_offset_max=1.75, target_z_rms=1.0, target_photons_rms=1.0, input_mean=0.1,
    input_std=0.9, repeated_share=0.0, frozen_share=0.0, train_mode_loss=3.4, eval_mode_loss=3.45, mode_difference=0.03,
    moment_steps=100, rate=5e-3, rate_asked=5e-3, first_rate=2e-3, highest_rate=5e-3, loss_share=0.25,
    loss_share_channel="z", head_share=0.4, head_share_channel="x", count_ratio=1.0, p_at_emitters=0.1,
    overconfidence=1.0, pull_ratio=1.0, shuffle_gap=0.4,
    gradient_depth_ratio=0.1, zero_gradient_share=0.0, skipped_share=0.0, dead_share=0.0, wait_share=0.02,
    update_ratio=6e-3, highest_update_ratio=1e-2, rate_since_highest=0.9, decay_ratio=1e-5, gradient_cosine=0.1,
    clipped_share=1.0, clip_excess=4.0, early_burst=1.05, noise_over_batch=8.0, boost_gain=-0.3, anneal_gain=0.0,
    overfit_ratio=0.1, num_parameters=13438, gap=0.05, gap_low=-0.1,
)  # fmt: skip

SIGNATURES: dict[str, dict[str, Any]] = {
    "inputs_targets_decoupled": {"contrast": 0.02, "contrast_sigmas": 0.6, "contrast_transposed_sigmas": 0.4,
                                 "contrast_transposed": 0.01},
    "repeated_batch": {"repeated_share": 0.95},
    "wrong_input_scaling": {"input_mean": 18.0, "input_std": 8.0},
    "axes_swapped": {"contrast": 0.05, "contrast_sigmas": 1.5, "contrast_transposed": 1.0,
                     "contrast_transposed_sigmas": 15.0},
    "absolute_targets": {"target_offset_max": 135.0},
    "unscaled_targets": {"target_photons_rms": 4000.0, "target_z_rms": 450.0},
    "frozen_parameters": {"frozen_share": 0.4},
    "bad_resume": {"resumed_at": 60, "moment_steps": 45},
    "train_eval_mismatch": {"eval_mode_loss": 6.0},
    "one_channel_dominates": {"loss_share": 0.98},
    "collapsed_to_empty": {"count_ratio": 1e-3, "p_at_emitters": 1e-4, "overconfidence": 1e3},
    "saturated_detection": {"overconfidence": 1e4, "count_ratio": 30.0},
    "precision_underflow": {"zero_gradient_share": 0.9},
    "vanishing_gradients": {"gradient_depth_ratio": 1e-9},
    "dead_units": {"dead_share": 0.8},
    "clipped_every_step": {"clip_excess": 1e6},
    "weight_decay_too_strong": {"decay_ratio": 1.0},
    "loader_starves": {"wait_share": 0.75},
    "warmup_missing": {"highest_update_ratio": 0.4, "first_rate": 0.1, "highest_rate": 0.1, "rate_since_highest": 0.05},
    "rate_too_high": {"highest_update_ratio": 0.5, "rate_since_highest": 1.0},
    "rate_too_low": {"update_ratio": 2e-6, "highest_update_ratio": 2e-6, "boost_gain": 0.05, "boost_factor": 1000.0},
    "network_too_small": {"overfit_ratio": 0.8},
    "overfitting": {"gap": 1.5, "gap_low": 0.8},
    "physical_limit": {"floor": 3.2, "trend": "stalled"},
    "batch_noise_floor": {"noise_over_batch": 200.0, "trend": "stalled", "step": 500},
}  # fmt: skip


def test_every_cause_has_a_signature_and_words() -> None:
    assert set(CAUSES) == set(SIGNATURES)
    assert set(WORDS) == {*CAUSES, HEALTHY, UNKNOWN}
    assert all(all((*words.what, *words.remedy)) for words in WORDS.values())


@pytest.mark.parametrize("cause", CAUSES)
def test_the_signature_of_a_cause_names_it_alone(cause: str) -> None:
    findings = rank(dataclasses.replace(GOOD, **SIGNATURES[cause]))
    assert [finding.cause for finding in findings if is_named(finding)] == [cause]
    assert findings[0].evidence, "a finding shows what it rests on"


@pytest.mark.parametrize("cause", CAUSES)
def test_the_signature_is_needed(cause: str) -> None:
    """Each rule reacts to its numbers, and where nothing is known it is silent."""
    rule = next(rule for rule in RULES if rule.cause == cause)
    assert rule.score(GOOD) < NAMED / 2 < rule.score(dataclasses.replace(GOOD, **SIGNATURES[cause]))
    assert rule.score(Evidence()) == 0


def test_a_good_run_is_healthy_and_a_stalled_one_without_a_cause_is_unknown() -> None:
    assert rank(GOOD)[0].cause == HEALTHY
    assert rank(dataclasses.replace(GOOD, trend="stalled"))[0].cause == UNKNOWN
    assert rank(Evidence())[0].cause == HEALTHY


@given(st.floats(1e-3, 1e3))
def test_the_ranking_does_not_depend_on_the_unit_of_the_loss(unit: float) -> None:
    names = ("no_information", "initial_val_loss", "val_loss", "best_val_loss", "train_loss", "train_mode_loss",
             "eval_mode_loss", "floor")  # fmt: skip
    for cause in CAUSES:
        here = dataclasses.replace(GOOD, **SIGNATURES[cause])
        changed = {name: value * unit for name in names if (value := getattr(here, name)) is not None}
        there = dataclasses.replace(here, **changed)
        assert [f.cause for f in rank(here) if is_named(f)] == [f.cause for f in rank(there) if is_named(f)]


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(1.01, 100))
def test_scores_grow_with_the_evidence(value: float, threshold: float, factor: float) -> None:
    assert over(value * factor, threshold) >= over(value, threshold)
    assert under(value * factor, threshold) <= under(value, threshold)
    assert over(threshold, threshold) == under(threshold, threshold) == 0.5
    assert over(value, threshold) + under(value, threshold) == pytest.approx(1)


def test_a_fault_of_the_data_comes_before_what_it_causes() -> None:
    both = dataclasses.replace(GOOD, **SIGNATURES["inputs_targets_decoupled"], **SIGNATURES["network_too_small"])
    assert [f.cause for f in rank(both)][:2] == ["inputs_targets_decoupled", "network_too_small"]


def test_what_blew_up_explains_the_rubble() -> None:
    rubble = {**SIGNATURES["dead_units"], **SIGNATURES["saturated_detection"], **SIGNATURES["rate_too_high"]}
    assert rank(dataclasses.replace(GOOD, **rubble))[0].cause == "rate_too_high"


def test_the_modes_are_told_apart_by_the_outputs_where_the_loss_says_nothing_yet() -> None:
    little = dataclasses.replace(GOOD, train_mode_loss=5.4, eval_mode_loss=5.5, mode_difference=1.5)
    assert rank(little)[0].cause == "train_eval_mismatch"
    thrown = dataclasses.replace(little, **SIGNATURES["rate_too_high"])
    assert rank(thrown)[0].cause == "rate_too_high"


@pytest.mark.parametrize(("settled", "cause"), [(0.02, HEALTHY), (1.2, "train_eval_mismatch")])
def test_what_settled_statistics_show_goes_before_what_was_seen_in_passing(settled: float, cause: str) -> None:
    seen = {HEALTHY: {"eval_mode_loss": 9.0, "mode_difference": 3.0}}.get(cause, {})
    assert rank(dataclasses.replace(GOOD, **seen, settled_difference=settled))[0].cause == cause


def test_a_network_that_learned_its_data_by_heart_is_not_too_small_for_them() -> None:
    both = dataclasses.replace(GOOD, **SIGNATURES["overfitting"], **SIGNATURES["network_too_small"])
    assert [f.cause for f in rank(both) if is_named(f)] == ["overfitting"]


def test_a_network_that_is_too_small_is_not_held_up_by_noise() -> None:
    both = dataclasses.replace(GOOD, **SIGNATURES["batch_noise_floor"], **SIGNATURES["network_too_small"])
    assert [f.cause for f in rank(both) if is_named(f)] == ["network_too_small"]


def test_noise_holds_a_loss_up_only_after_some_hundred_steps_at_a_rate_that_is_not_annealed() -> None:
    stirred = dataclasses.replace(GOOD, trend="stalled", step=500, noise_over_batch=2.5, anneal_gain=0.6)
    assert rank(stirred)[0].cause == "batch_noise_floor"
    for change in ({"step": 105}, {"rate_since_highest": 0.05}, {"anneal_gain": 0.02}, {"trend": "falling"}):
        assert not any(is_named(f) for f in rank(dataclasses.replace(stirred, **change))), change


def _look(step: int, emitters: float, **values: Any) -> dict[str, Any]:
    return {"event": "signals", "step": step, "emitters": emitters, "loss_shares": {"probability": 0.5, "x": 0.5},
            "head_shares": [0.02, 0.98], **values}  # fmt: skip


def test_of_few_emitters_nothing_is_said_about_probabilities_and_of_none_nothing_about_the_head() -> None:
    start = [{"event": "start", "no_information_loss": 5.5}]
    empty = {"count_ratio": 1e-3, "p_at_emitters": 1e-4, "overconfidence": 1e3}
    few = gather([*start, _look(100, 0.0), _look(200, 1.0, **empty), _look(300, 1.0, **empty)])
    assert (few.count_ratio, few.head_share) == (None, None)
    assert not any(is_named(finding) for finding in rank(few))
    enough = gather([*start, _look(100, 0.0), _look(200, 2.0, **empty), _look(300, 4.0, **empty)])
    assert (enough.count_ratio, enough.head_share) == (1e-3, 0.98)


def test_looks_at_many_emitters_weigh_more() -> None:
    ratios = [_look(100, 2.0, count_ratio=1.5), _look(200, 7.0, count_ratio=0.01), _look(300, 2.0, count_ratio=0.05)]
    assert gather([{"event": "start", "no_information_loss": 5.5}, *ratios]).count_ratio == 0.01


def test_one_odd_look_is_no_mismatch_of_the_modes() -> None:
    def look(step: int, evaluation: float, outputs: float) -> dict[str, Any]:
        return {"event": "signals", "step": step, "train_mode_loss": 0.6, "eval_mode_loss": evaluation,
                "mode_difference": outputs}  # fmt: skip

    start = [{"event": "start", "no_information_loss": 5.5}]
    odd = gather([*start, look(100, 0.62, 0.02), look(200, 1.8, 0.9)])
    assert (odd.eval_mode_loss, odd.mode_difference) == (0.62, 0.02)
    assert not any(is_named(finding) for finding in rank(odd))
    lasting = gather([*start, look(100, 1.9, 0.8), look(200, 1.8, 0.9)])
    assert rank(lasting)[0].cause == "train_eval_mismatch"


def test_an_empty_prediction_that_the_loss_does_not_want_is_saturated() -> None:
    empty = dataclasses.replace(GOOD, **SIGNATURES["collapsed_to_empty"])
    assert rank(dataclasses.replace(empty, pull_ratio=1.3))[0].cause == "collapsed_to_empty"
    assert rank(dataclasses.replace(empty, pull_ratio=1e3))[0].cause == "saturated_detection"


def test_only_what_cannot_succeed_is_hopeless() -> None:
    hopeless = {cause for cause in CAUSES if is_hopeless(Finding(cause, 0.9))}
    assert hopeless == {"inputs_targets_decoupled", "axes_swapped", "absolute_targets", "unscaled_targets",
                        "repeated_batch"}  # fmt: skip
    assert is_hopeless(Finding("frozen_parameters", 0.9, {"frozen_share": 1.0}))
    assert not is_hopeless(Finding("frozen_parameters", 0.9, {"frozen_share": 0.5}))
    assert not is_hopeless(Finding("inputs_targets_decoupled", 0.4))


@given(st.floats(1e-3, 1e3), st.floats(-100, 100), st.integers(0, 30))
def test_the_trend_does_not_depend_on_unit_or_offset(unit: float, offset: float, seed: int) -> None:
    import random

    source = random.Random(seed)
    for slope in (-0.5, 0.0, 0.5):
        losses = [5 + slope * i / 10 + 0.05 * source.gauss(0, 1) for i in range(40)]
        assert robust_trend(losses) == robust_trend([unit * loss + offset for loss in losses])


def test_the_trend_of_plain_curves() -> None:
    import random

    source = random.Random(1)
    noise = [0.02 * source.gauss(0, 1) for _ in range(60)]
    assert robust_trend([5 - 0.05 * i + n for i, n in enumerate(noise)]) == "falling"
    assert robust_trend([3 + n for n in noise]) == "stalled"
    assert robust_trend([3 + 0.05 * i + n for i, n in enumerate(noise)]) == "diverging"
    assert robust_trend([3.0, 2.0]) == "undecided"
    assert robust_trend([3.0] * 20 + [None]) == "diverging"


def test_the_controllers_verdict_goes_before_the_own_one() -> None:
    events = [{"event": "start", "no_information_loss": 5.5}]
    events += [{"event": "epoch", "epoch": i, "step": i + 1, "val_loss": 5 - 0.1 * i} for i in range(20)]
    assert gather(events).trend == "falling"
    assert gather([*events, {"event": "trend", "epoch": 19, "verdict": "stalled"}]).trend == "stalled"


@pytest.mark.parametrize("cause", [*CAUSES, HEALTHY])
def test_the_words_hold_the_numbers_in_both_languages(cause: str) -> None:
    findings = rank(dataclasses.replace(GOOD, **SIGNATURES.get(cause, {})))
    english, chinese = describe(findings[0]), describe(findings[0], "zh")
    assert WORDS[cause].what[0] in english
    assert WORDS[cause].remedy[1] in chinese
    assert not any(name in english for name in findings[0].evidence if "_" in name), "numbers have words"
    whole = report(findings, ["boost x2"], 35, 105, "zh", probed=False)
    assert "诊断" in whole
    assert "boost x2" in whole
