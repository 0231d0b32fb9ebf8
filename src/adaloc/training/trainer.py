"""The training loop: fit, validate, save. Plain PyTorch, one state (run.py), one owner of the learning rate."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from adaloc.config import CHANNELS
from adaloc.data.windows import Batch
from adaloc.errors import DivergenceError
from adaloc.models.losses import LossSums
from adaloc.models.model_file import Model, save_model
from adaloc.stopping import asked_to_stop
from adaloc.training.batch_signals import fingerprint
from adaloc.training.checkpoint import BEST, LATEST, save_checkpoint
from adaloc.training.cures import Clip, MicroBatches
from adaloc.training.decision import Decision
from adaloc.training.diagnosis import Diagnosis, diagnose_in_training
from adaloc.training.loader import iterate_batches
from adaloc.training.ranks import PeerError
from adaloc.training.recording import (
    Score,
    epoch_record,
    hyperparameters,
    open_board,
    write_epoch,
    write_score,
    write_start,
)
from adaloc.training.run import Progress, Run, batch_errors, best_model, judged_weights
from adaloc.training.signals import Observer, StepFacts
from adaloc.training.step_size import StepSize

_MAX_BAD_STEPS = 20
"""Steps in a row whose gradient is not finite, after which waiting for a better batch is hopeless."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls at its edges.

    Attributes:
        on_epoch: gets each epoch's log record.
        on_decision: gets each adjustment of the learning rate.
        score: detection metrics of a model, every `metrics_interval_epochs`, and of the best one at the end (True).
        should_stop: asked after each step; True saves and ends the loop.
        on_start: called once, after the event that starts or resumes the run is in the log.
        on_diagnosis: gets each diagnosis that the run makes of itself.
        on_cure: gets the epoch and what the loop mended (kind, before, after).
        on_skip: gets the epoch and the step that was left out, and how many in a row now.
        force: go on where a diagnosis says that the run cannot succeed.
    """

    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None
    on_decision: Callable[[int, Decision, float, float], None] = lambda *_: None
    score: Callable[[Model, bool], Score] | None = None
    should_stop: Callable[[], bool] = lambda: False
    on_start: Callable[[], None] = lambda: None
    on_diagnosis: Callable[[Diagnosis], None] = lambda _: None
    on_cure: Callable[[int, dict[str, Any]], None] = lambda *_: None
    on_skip: Callable[[int, int, int], None] = lambda *_: None
    force: bool = False


def fit(run: Run, hooks: Hooks) -> str:
    """Trains until the epochs are over, the rate is exhausted, or `hooks.should_stop`.

    Of several processes (ranks.py) all run the same loop; the first alone has a board, files and a score.

    Returns:
        "finished", "stopped_early" or "interrupted".

    Raises:
        DivergenceError: when the loss stays not finite, or going back to lower rates does not help.
        AdalocError: when a file cannot be written. What was saved before stays.
        PeerError: when another process of this training died. The state after the last whole step is saved.
    """
    if run.ranks.size > 1:
        run.ranks.must_agree(fingerprint(run.windows[run.place]), "the training data")
    if not run.ranks.is_first:
        if run.step == 0:
            validate(run)  # with the first process, each its share
        return _loop(run, hooks, None)
    with open_board(run.folder / "tensorboard", run.epoch) as board:
        if run.step > 0:
            run.log.write("resume", epoch=run.epoch, step=run.step)
        else:
            write_start(run, board, validate(run))
        hooks.on_start()
        status = _loop(run, hooks, board)
        board.flush()
        save(run)
        _final_score(run, hooks, board, status)
        best = {"hparam/best_val_loss": run.best_val_loss}
        board.add_hparams(hyperparameters(run.config), best, run_name=".", global_step=run.epoch)
    reasons = {
        "finished": "all epochs are trained",
        "stopped_early": "the learning rate is at its minimum and no new best loss came",
        "interrupted": "a signal asked to stop",
    }
    run.log.write("end", epoch=run.epoch, status=status, reason=reasons[status])
    return status


def validate(run: Run) -> LossSums:
    """Summed errors over the fixed validation windows."""
    run.model.network.eval()
    with torch.inference_mode():
        nothing = torch.zeros(len(CHANNELS), device=run.device)
        total = LossSums(nothing, nothing, nothing[0])
        for batch in run.validation[run.ranks.rank :: run.ranks.size]:
            total = total + batch_errors(run, batch)
        total = run.ranks.sum_losses(total)
    run.model.network.train()
    return total


def save(run: Run) -> None:
    """Writes the latest checkpoint and the best model."""
    save_checkpoint(run.folder / LATEST, run.state())
    if run.best_model is not None:
        save_model(run.folder / BEST, best_model(run))


def _loop(run: Run, hooks: Hooks, board: SummaryWriter | None) -> str:
    batches = _batches(run)
    training = run.config.training
    clip = Clip(training.clip_norm, may_rise=training.raise_clip_norm)
    micro_batches = MicroBatches(training.accumulation_steps)
    if "clip" in run.cures:
        clip.load_state_dict(run.cures["clip"])
    observer = Observer() if run.ranks.is_first else None
    if observer is not None and run.observer:
        observer.load_state_dict(run.observer)
    run.model.network.train()
    while not run.is_over:
        if _is_exhausted(run):
            return "stopped_early"
        begin = run.clock()
        batch = next(batches).to(run.device)
        waited = run.clock() - begin
        size = StepSize(run.model.network.parameters()) if run.learning_rate.wants_relative_step else None
        if observer is not None:
            observer.before_step(run, batch)
        rate, limit = run.learning_rate.rate, clip.norm
        asked = (asked_to_stop() or signal.SIGTERM) if run.ranks.size > 1 and hooks.should_stop() else 0
        try:
            objective, cures = _train_step(run, batch, clip, micro_batches, asked)
        except PeerError:
            if board is not None and run.step > 0:
                board.flush()
                save(run)
            raise
        is_finite = math.isfinite(objective)
        for cure in cures:
            run.log.write("cure", epoch=run.epoch, step=run.step + 1, **cure)
            hooks.on_cure(run.epoch, cure)
        run.cures["clip"] = clip.state_dict()
        run.bad_steps = 0 if is_finite else run.bad_steps + 1
        if not is_finite:
            run.log.write(
                "skipped", epoch=run.epoch, step=run.step + 1, in_a_row=run.bad_steps, loss=run.progress.losses[-1],
                grad_norm=run.progress.grad_norms[-1],
            )  # fmt: skip
            hooks.on_skip(run.epoch, run.step + 1, run.bad_steps)
        if run.bad_steps >= _MAX_BAD_STEPS:
            raise DivergenceError(
                f"The gradient was not finite in {run.bad_steps} steps in a row, up to step {run.step}: the loss is "
                "not a number. Lower training.lr_first, or check the data with adaloc check. The last checkpoint stays."
            )
        seconds = run.clock() - begin
        progress = run.progress
        if observer is not None:
            observer.after_step(
                run,
                StepFacts(progress.losses[-1], progress.channels[-1], progress.grad_norms[-1], limit, rate, is_finite,
                          waited, seconds),
            )  # fmt: skip
        run.progress.wait_s += waited
        run.progress.train_s += seconds
        run.wall_s += seconds
        run.step += 1
        run.place += 1
        is_raised = any(cure["kind"] == "clip_raised" for cure in cures)
        if _control(run, hooks, objective, size.relative() if size is not None else None, steps_changed=is_raised):
            batches = _batches(run)
            if observer is not None:
                observer.forget_batches()
        if observer is not None:
            run.observer = observer.state_dict()
        if run.step % run.windows.steps_per_epoch == 0:
            record, decision = _end_epoch(run)
            run.ranks.alone(partial(_after_epoch, run, hooks, board, record, decision))
        # Of several processes all stop after the same step, that in which they heard that one of them was asked.
        if (run.ranks.asked if run.ranks.size > 1 else hooks.should_stop()) and not run.is_over:
            return "interrupted"
    return "finished"


def _is_exhausted(run: Run) -> bool:
    """Whether the run ends before its last epoch; asked between epochs, of a resumed run as of any other."""
    is_between = run.step > 0 and run.step % run.windows.steps_per_epoch == 0
    return is_between and run.learning_rate.should_stop(run.epoch - 1)


def _batches(run: Run) -> Iterator[Batch]:
    left = run.config.training.epochs * run.windows.steps_per_epoch - run.step
    return iterate_batches(run.windows, range(run.place, run.place + left), run.config.data.num_workers)


def _control(run: Run, hooks: Hooks, loss: float, relative_step: float | None, *, steps_changed: bool) -> bool:
    """Lets the learning rate's owner answer a step; says whether the data go on from another place."""
    epoch, before = (run.step - 1) // run.windows.steps_per_epoch, run.learning_rate.rate
    decision = run.learning_rate.observe_step(loss, relative_step, steps_changed=steps_changed)
    if (trend := run.learning_rate.trend) is not None:
        run.log.write("trend", epoch=epoch, step=run.step, verdict=trend.verdict, **trend.evidence())
    if decision.action == "give_up":
        raise DivergenceError(
            f"Training cannot go on at step {run.step}: {decision.reason}. See the log {run.log.path}, and check the "
            "data with adaloc check. The last checkpoint stays."
        )
    place, run.place = run.place, run.rewind.obey(decision, run.place)
    run.rewind.keep(run.learning_rate.slots)
    if decision.action != "none":
        _record(run, hooks, epoch, decision, before)
    return run.place != place


def _record(run: Run, hooks: Hooks, epoch: int, decision: Decision, before: float) -> None:
    after = run.learning_rate.rate
    run.log.write(
        "lr", epoch=epoch, step=run.step, kind=decision.action, reason=decision.reason, factor=decision.factor,
        lr_before=before, lr_after=after, evidence=decision.evidence,
    )  # fmt: skip
    hooks.on_decision(epoch, decision, before, after)


def _train_step(
    run: Run, batch: Batch, clip: Clip, micro_batches: MicroBatches, asked: int
) -> tuple[float, list[dict[str, Any]]]:
    """One step; what was minimised, NaN where the gradient was not finite, and what was mended.

    `asked` is the signal that asked to stop, which the other processes are told.
    """
    rate = run.learning_rate.rate
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["lr_ratio"]
    network = run.model.network
    watched = network if run.adversary is None else nn.ModuleList([network, run.adversary.network])
    statistics_before = [buffer.clone() for buffer in watched.buffers()]
    run.optimizer.zero_grad(set_to_none=True)
    try:
        sums, split = micro_batches.backward(run, batch)
        sums = run.ranks.sum_step(watched.parameters(), sums, asked=asked, place=run.place, rate=rate)
    except PeerError:
        _put_back(watched, statistics_before)  # the state is that before the step
        raise
    channels, loss = run.loss.channels(sums), run.loss.total(sums)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip.norm)
    is_finite = bool(norm.isfinite())
    if is_finite:
        run.optimizer.step()
    else:  # neither weights nor the statistics of normalization may take in what is not a number
        _put_back(watched, statistics_before)
    run.progress.losses.append(float(loss))
    run.progress.channels.append(channels.tolist())
    run.progress.grad_norms.append(float(norm))
    objective = float(run.loss.objective(sums)) if is_finite else math.nan
    return objective, [cure for cure in (split, clip.observe(float(norm))) if cure is not None]


@torch.no_grad()
def _put_back(network: nn.Module, buffers: list[torch.Tensor]) -> None:
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(before)


def _end_epoch(run: Run) -> tuple[dict[str, Any], Decision]:
    """Validates; the epoch's record, and what the learning rate's owner says to it."""
    epoch = run.epoch - 1
    begin = run.clock()
    with judged_weights(run):
        sums = validate(run)
        val_loss, objective = float(run.loss.total(sums)), float(run.loss.objective(sums))
        if objective < run.best_objective:
            run.best_objective, run.best_val_loss, run.best_epoch = objective, val_loss, epoch
            run.best_model = {
                name: tensor.detach().cpu().clone() for name, tensor in run.model.network.state_dict().items()
            }
    rate = run.learning_rate.rate
    decision = run.learning_rate.observe_epoch(objective, epoch)
    run.wall_s += run.clock() - begin
    record = epoch_record(run, epoch, val_loss, run.loss.channels(sums).tolist(), rate)
    run.progress = Progress()
    return record, decision


def _after_epoch(
    run: Run, hooks: Hooks, board: SummaryWriter | None, record: dict[str, Any], decision: Decision
) -> None:
    """What the first process does alone: log, metrics, diagnosis, checkpoint."""
    assert board is not None
    epoch = record["epoch"]
    write_epoch(run, board, record)
    if decision.action != "none":
        _record(run, hooks, epoch, decision, record["lr"])
    interval = run.config.output.metrics_interval_epochs
    if (epoch + 1) % interval == 0 and hooks.score is not None and not run.is_over:
        with judged_weights(run):
            score = hooks.score(run.model, False)
        write_score(run, board, score, epoch)
        run.model.network.train()
    hooks.on_epoch(record)
    diagnose_in_training(run, hooks.on_diagnosis, force=hooks.force)
    # After all that this step writes into the log: who goes on from here does not come by it again.
    if run.epoch % run.config.output.checkpoint_interval_epochs == 0 and not run.is_over:
        board.flush()
        save(run)


def _final_score(run: Run, hooks: Hooks, board: SummaryWriter, status: str) -> None:
    if hooks.score is not None and run.best_model is not None and status != "interrupted":
        write_score(run, board, hooks.score(best_model(run), True), run.epoch - 1, final=True)
