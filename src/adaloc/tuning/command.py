"""`adaloc tune`: works on a study until it has as many trials as asked for, and writes down what is best."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import typer
from optuna.study import Study
from optuna.trial import TrialState
from rich.console import Console

from adaloc.config import Config
from adaloc.config_file import dump_config
from adaloc.data.windows import Sample
from adaloc.errors import AdalocError, ConfigError
from adaloc.files import write_text
from adaloc.integrity_check import load_data, refuse_hopeless
from adaloc.main_job import ensure_data
from adaloc.progress import ProgressLine
from adaloc.stopping import asked_to_stop, exit_status, listen
from adaloc.tuning.page import PAGE_FILE, write_page
from adaloc.tuning.space import Space, changed, draw
from adaloc.tuning.study import (
    IS_BASE,
    TrialFolder,
    begin_trial,
    finished,
    folder_of,
    note_worker,
    open_study,
    put_back,
    repeat_reports,
    twin_of,
)
from adaloc.tuning.trial import Outcome, train_trial

TUNED_CONFIG = "train_config_tuned.json"
_MOST_FAILURES = 5
"""Trials in a row that cannot be trained at all, after which the space is taken to be wrong."""


@dataclass(frozen=True)
class Tuning:
    """What a study is asked for.

    Attributes:
        base: the config that is to be improved.
        space: what may change in it.
        trials: finished trials that the study is to have in the end, those of other processes and days included.
        epochs: of each trial.
        storage: a journal file or a database's URL.
        out: folder of the trials and the results.
        prune: whether hopeless trials are stopped early.
    """

    base: Config
    space: Space
    trials: int
    epochs: int
    storage: str
    out: Path
    prune: bool = True


def tune(tuning: Tuning, *, jobs: int, console: Console, force: bool = False) -> int:
    """Works on a study with one or several processes.

    Returns:
        The exit status: 0 when the study has its trials, else that of the signal that asked to stop (stopping.py).

    Raises:
        AdalocError: when something is missing or wrong.
    """
    ensure_data(tuning.base, console)
    samples = load_data(tuning.base, console)
    refuse_hopeless(*samples, tuning.base, console, force=force)
    open_study(tuning.storage, tuning.space, tuning.base, epochs=tuning.epochs, prune=tuning.prune)
    status = work(tuning, *samples, console) if jobs == 1 else _work_in_processes(tuning, jobs)
    study = open_study(tuning.storage, tuning.space, tuning.base, epochs=tuning.epochs, prune=tuning.prune)
    _show(study, tuning, console, is_interrupted=status != 0)
    return status


def work(tuning: Tuning, training: Sequence[Sample], validation: Sequence[Sample], console: Console) -> int:
    """Works on the study in this process, until it has its trials or is interrupted; returns the exit status."""
    study = open_study(tuning.storage, tuning.space, tuning.base, epochs=tuning.epochs, prune=tuning.prune)
    failures = 0
    with listen(tuning.base.warning_signal):
        while asked_to_stop() is None and (trial := begin_trial(study, tuning.out, tuning.trials)) is not None:
            outcome = _run_trial(study, trial, tuning, training, validation, console)
            if outcome.ending == "interrupted":
                break
            failures = failures + 1 if outcome.ending == "failed" else 0
            write_results(study, tuning)
            if failures >= _MOST_FAILURES:
                raise AdalocError(
                    f"{failures} trials in a row could not be trained; the last one: {outcome.reason} Check the space, "
                    "or the config with adaloc check."
                )
        number = asked_to_stop()
    return 0 if number is None else exit_status(number)


def write_results(study: Study, tuning: Tuning) -> None:
    """Writes the best config so far, when there is one, and the page."""
    if any(t.state == TrialState.COMPLETE for t in finished(study)):
        best = study.best_trial
        text = json.dumps(tuned_config(tuning, best), indent=4) + "\n"
        write_text(tuning.out / TUNED_CONFIG, f"// {_summary(study, tuning)}\n{text}")
    write_page(study, tuning.space, tuning.epochs, tuning.out / PAGE_FILE)


def tuned_config(tuning: Tuning, best: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """The config with a trial's values and its own length, in a run folder of its own."""
    changes = draw(optuna.trial.FixedTrial(best.params), tuning.space, tuning.base)
    folder = tuning.base.output.save_dir
    changes["output.save_dir"] = str(folder.with_name(f"{folder.name}_tuned"))
    return dump_config(changed(tuning.base, changes, f"trial {best.number}"))


def _run_trial(
    study: Study,
    trial: optuna.Trial,
    tuning: Tuning,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    console: Console,
) -> Outcome:
    changes = draw(trial, tuning.space, tuning.base)
    console.print(f"Trial {trial.number}: " + ", ".join(f"{k} {_short(v)}" for k, v in trial.params.items()),
                  soft_wrap=True)  # fmt: skip
    if (twin := twin_of(study, trial)) is not None:
        console.print(f"Trial {trial.number}: the same as trial {twin.number}, which is not trained again")
        outcome = Outcome("pruned") if twin.value is None else Outcome("complete", twin.value)
        _tell(study, trial, outcome)
        return outcome
    folder = folder_of(trial, tuning.out)
    changes |= {"training.epochs": tuning.epochs, "output.save_dir": str(folder)}
    with TrialFolder(folder):
        note_worker(trial, folder)
        try:
            config = changed(tuning.base, changes, f"trial {trial.number}")
        except ConfigError as error:
            outcome = Outcome("failed", reason=str(error))
        else:
            with ProgressLine(console, f"trial {trial.number}", tuning.epochs, "epochs") as line:
                outcome = train_trial(
                    trial, config, training, validation,
                    lowest=repeat_reports(study, trial),
                    should_stop=lambda: asked_to_stop() is not None,
                    on_epoch=lambda record: line.update(record["epoch"] + 1, f"validation {record['val_loss']:.3f}"),
                )  # fmt: skip
        _tell(study, trial, outcome)
    said = {"complete": f"loss {outcome.loss or 0:.4f}", "pruned": "stopped early: worse than half of the others",
            "failed": f"cannot be trained: {outcome.reason}",
            "interrupted": "interrupted; it goes on with the same command"}  # fmt: skip
    console.print(f"Trial {trial.number}: {said[outcome.ending]}", soft_wrap=True)
    return outcome


def _tell(study: Study, trial: optuna.Trial, outcome: Outcome) -> None:
    if outcome.ending == "complete":
        study.tell(trial, outcome.loss)
    elif outcome.ending == "interrupted":
        put_back(study, trial.number)
    else:
        if outcome.ending == "failed":
            trial.set_user_attr("reason", outcome.reason)
        # Also what cannot be trained: a failed trial would teach the sampler nothing, a stopped one counts as bad.
        study.tell(trial, state=TrialState.PRUNED)


def _work_in_processes(tuning: Tuning, jobs: int) -> int:
    # Threads of a forked torch can hang.
    context = multiprocessing.get_context("spawn")
    threads = tuning.base.num_threads or max((os.cpu_count() or 1) // jobs, 1)
    processes: list[BaseProcess] = [context.Process(target=_process, args=(tuning, threads)) for _ in range(jobs)]
    with listen(tuning.base.warning_signal):
        for process in processes:
            process.start()
        is_told = False
        while any(process.is_alive() for process in processes):
            time.sleep(0.2)
            if asked_to_stop() is not None and not is_told:
                for process in processes:
                    process.terminate()  # SIGTERM: stops after a step, as on Ctrl-C
                is_told = True
        number = asked_to_stop()
    codes = [process.exitcode for process in processes]
    if number is not None:
        return exit_status(number)
    if any(codes):
        raise AdalocError(f"{sum(map(bool, codes))} of {jobs} processes failed; see their messages above.")
    return 0


def _process(tuning: Tuning, threads: int) -> None:
    import torch

    from adaloc.cli_guard import console, guarded

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    try:
        guarded(lambda: work(tuning, *load_data(tuning.base, Console(quiet=True)), console))()
    except typer.Exit as end:
        sys.exit(end.exit_code)


def _show(study: Study, tuning: Tuning, console: Console, *, is_interrupted: bool) -> None:
    write_results(study, tuning)
    if any(t.state == TrialState.COMPLETE for t in finished(study)):
        console.print(f"\n[bold]{_summary(study, tuning)}[/bold]", soft_wrap=True)
        console.print(f"  config  {tuning.out / TUNED_CONFIG}", soft_wrap=True)
    console.print(f"  page    {tuning.out / PAGE_FILE}", soft_wrap=True)
    if is_interrupted:
        console.print("Interrupted; nothing is lost. Go on with the same command.")


def _summary(study: Study, tuning: Tuning) -> str:
    best, trials = study.best_trial, finished(study)
    complete = sum(t.state == TrialState.COMPLETE for t in trials)
    text = (
        f"Trial {best.number} is the best of {len(trials)} ({complete} to the end): validation loss {best.value:.4f} "
        f"after {tuning.epochs} epochs"
    )
    base = next((t for t in trials if t.user_attrs.get(IS_BASE)), None)
    if base is None or base.value is None:
        return text + "."
    if best.number == base.number:
        return text + ", which is the config as it was given."
    return text + f"; the config as it was given has {base.value:.4f}."


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
