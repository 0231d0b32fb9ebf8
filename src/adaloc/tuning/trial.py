"""One trial: a run of the training that tells the study how far it is, and stops when the study says so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna

from adaloc.config import Config
from adaloc.config_file import dump_config
from adaloc.data.windows import Sample
from adaloc.errors import ConfigError, DivergenceError
from adaloc.files import write_text
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.run import Run, best_model, loss_over_samples, setup
from adaloc.training.trainer import Hooks, fit

Ending = Literal["complete", "pruned", "interrupted", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        ending: "failed" when the config cannot be trained.
        loss: over all frames of the validation samples, of the best model; None unless complete.
        reason: of a failure.
    """

    ending: Ending
    loss: float | None = None
    reason: str = ""


class Reporter:
    """Tells a study the validation losses of a run, of accepted states alone.

    What a run reports at an epoch is its lowest validation loss so far among epochs that ended on a rate that was
    accepted. So nothing is reported in a warmup or in the search for a rate, and what a trial of a higher rate does to
    the loss is seen only once that rate is kept.
    """

    def __init__(self, trial: optuna.Trial, lowest: float = math.inf) -> None:
        self._trial = trial
        self._lowest = lowest
        self.is_pruned = False

    def observe(self, epoch: int, val_loss: float, is_accepted: bool) -> None:
        """Takes the end of an epoch, from 0."""
        if is_accepted and val_loss < self._lowest:
            self._lowest = val_loss
        if math.isfinite(self._lowest):
            self._trial.report(self._lowest, epoch)
            self.is_pruned = self._trial.should_prune()


def train_trial(
    trial: optuna.Trial,
    config: Config,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    *,
    lowest: float,
    should_stop: Callable[[], bool],
    on_epoch: Callable[[dict[str, Any]], None],
) -> Outcome:
    """Trains a trial's config in its `output.save_dir`, from its checkpoint where there is one.

    Args:
        trial: of the study.
        config: with the trial's values.
        training, validation: samples.
        lowest: what the trial reported last; infinite for a new one.
        should_stop: asked after each step.
        on_epoch: gets each epoch's record.
    """
    folder = config.output.save_dir
    write_text(folder / "config.json", json.dumps(dump_config(config), indent=2) + "\n")
    state = load_checkpoint(folder / LATEST, config) if (folder / LATEST).is_file() else None
    if state is None:
        (folder / "log.jsonl").unlink(missing_ok=True)  # of a process that was killed before its first checkpoint
    run = setup(config, training, validation, state, with_floor=False)
    reporter = Reporter(trial, lowest)

    def end_epoch(record: dict[str, Any]) -> None:
        reporter.observe(record["epoch"], record["val_loss"], run.learning_rate.is_accepted)
        on_epoch(record)

    # A diagnosis that sees no hope must not end the whole tuning; such a trial is merely bad.
    hooks = Hooks(on_epoch=end_epoch, should_stop=lambda: reporter.is_pruned or should_stop(), force=True)
    try:
        status = fit(run, hooks)
    except (DivergenceError, ConfigError) as error:
        _tidy(folder)
        return Outcome("failed", reason=str(error))
    if status == "interrupted" and not reporter.is_pruned:
        return Outcome("interrupted")
    _tidy(folder)
    return (
        Outcome("pruned")
        if reporter.is_pruned and not run.is_over
        else Outcome("complete", _final_loss(run, validation))
    )


def _final_loss(run: Run, validation: Sequence[Sample]) -> float:
    return loss_over_samples(run, best_model(run), validation)


def _tidy(folder: Path) -> None:
    """A finished trial needs no checkpoint, which is the largest of its files."""
    (folder / LATEST).unlink(missing_ok=True)
