"""`log.jsonl`: the append-only record of a run, one event a line, from which everything else is derived.

Events (`event` names the kind; all carry `time_s`, seconds since 1970):

- start: version, seed, epochs, steps_per_epoch, device, num_parameters, no_information_loss,
  floor (the loss that physics allows, or null), floor_channels (name -> floor before weighting, or null),
  floor_unknown_because (empty when known), channels (names in the loss), channel_weights, lr_first, scheduler_type
- resume: epoch (the first epoch that is run again), step
- integrity: findings (each with cause, severity, evidence), measured, undecided, seconds; of the data, before the
  first step and before each resume
- initial: val_loss, val_channels (name -> loss), before the first step
- epoch: epoch (from 0), step, train_loss, val_loss, train_channels, val_channels, lr, lr_second, grad_norm
  (median before clipping), clipped_share, windows_per_s, wait_share, wall_s, lr_ceiling (rate above which the
  controller tries none, as one there has failed, or null)
- lr: epoch, step, kind, reason, factor, lr_before, lr_after, evidence; kinds: search (begun again lower), found, trial,
  boost, revert, decay, plateau, rollback, warmup_done, anneal, restart
- trend: epoch, step, verdict (falling, stalled, diverging, undecided), improvement, lower, upper, delta, noise, level,
  num_steps; a look of the stall test at the training losses since the rate last changed
- signals: epoch, step; what was seen since the last such event (signals.py): num_steps, loss_first, loss_mean,
  loss_max, loss_shares (channel -> share), grad_norm_median, grad_norm_max, clipped_share, clip_excess (median norm
  over the limit), skipped_share, wait_share, repeated_share, observe_share (seconds of observing over those of
  training, since the process began), rate (used), rate_asked (the controller's), moment_steps,
  gradient_cosine; and of the step itself: update_ratio, frozen_share, frozen, decay_ratio, gradient_depth_ratio,
  zero_gradient_share, head_shares (layer_signals.py); train_mode_loss, eval_mode_loss, mode_difference, shuffle_gap,
  input_mean, input_std, dead_share, dead_layer, emitters, count_ratio, p_at_emitters, overconfidence,
  pull_up, pull_down, contrast..., target_... (batch_signals.py); gradient_square,
  gradient_noise, batch_windows (noise_signals)
- diagnosis: epoch, step, trend, findings (cause, score, evidence, remedy; the most likely first), tried, probes
- skipped: epoch, step, in_a_row, loss, grad_norm; a step whose gradient was not finite: the weights stayed as they were
- cure: epoch, step, kind (clip_raised, batch_split), before, after, evidence
- alert: epoch, step, kind (stalled, diverged, recovered, finished, failed), message; what was told to the user; the
  last two kinds are marked final
- metrics: epoch, jaccard, precision, recall, rmse_lateral_nm, rmse_axial_nm, efficiency_3d; rmse_over_crlb_lateral,
  rmse_over_crlb_axial (RMSE over the bound of a single frame; null where the data do not tell their physics);
  the last one is of the best model, is marked final, and has val_loss_all_frames
- end: epoch, status (finished, stopped_early, interrupted), reason
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from adaloc.files import append_line

Event = dict[str, Any]

CLOCKS = frozenset(
    ("time_s", "wall_s", "train_s", "wait_s", "seconds", "windows_per_s", "wait_share", "observe_share", "num_resumes")
)
"""Names, in the log, the summary and the checkpoint, of what is read off a clock or counts interruptions. All else is
the same in a run that was interrupted, however often, as in one that was not (CPU, one version of torch)."""

_MOST_STEPS = 2**53  # beyond, numbers of steps are no numbers any more


class RunLog:
    """Appends events; each line is written in one call, so a reader sees whole lines or the last one torn."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, event: str, **values: Any) -> None:
        """Appends one event.

        Raises:
            AdalocError: when the file cannot be written.
        """
        line = json.dumps({"event": event, "time_s": round(time.time(), 3), **values}, allow_nan=True) + "\n"
        append_line(self.path, line)


class NoLog(RunLog):
    """For all processes of a training but the first: they do the same, and one log suffices."""

    def write(self, event: str, **values: Any) -> None:
        """Does nothing."""


def _is_before(event: Event, resume: Event) -> bool:
    """Whether a resumed run does not come by this event again."""
    if event["event"] == "end" or event.get("final"):
        return False
    if "step" in event and "step" in resume:
        return bool(event["step"] <= resume["step"])
    return not event.get("epoch", -1) >= resume.get("epoch", 0)


def _is_event(value: Any) -> bool:
    """Whether a line of a log is an event whose place in the run can be told; a damaged file may hold anything."""
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return False
    places = [value[key] for key in ("epoch", "step") if key in value]
    return all(isinstance(place, int) and -1 <= place < _MOST_STEPS for place in places)


def read_events(path: Path) -> list[Event]:
    """The events of a log, in order. What was run again after a resume stands once, as it was run last.

    Left out are a torn last line (the writer was killed, or is writing now), and what is no event.
    """
    if not path.exists():
        return []
    events: list[Event] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # also numbers too long, or nested too deeply, for any event
            continue
        if not _is_event(event):
            continue
        if event["event"] == "start":
            events = []
        elif event["event"] == "resume":
            events = [e for e in events if _is_before(e, event)]
        events.append(event)
    return events
