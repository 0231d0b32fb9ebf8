"""The main job: check, simulate what is missing, train, and show what came out. Composes all parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adaloc.checks import Check, check_environment
from adaloc.config import Config
from adaloc.config_file import dump_config
from adaloc.data.generate import generate, is_complete
from adaloc.data.windows import Sample
from adaloc.errors import AdalocError, CheckpointError, ConfigError
from adaloc.files import describe_write_failure, remove_leftovers, write_text
from adaloc.integrity_check import load_data, refuse_hopeless
from adaloc.localize.inference import localize_frames
from adaloc.locks import hold_lock
from adaloc.models.losses import left_out_channels
from adaloc.models.model_file import Model, load_model
from adaloc.monitor.alerts import Alerts, tell, told_of_failure
from adaloc.monitor.log import load_run
from adaloc.monitor.plots import plot_curves, plot_examples, save_figure
from adaloc.monitor.report import write_report, write_text_report
from adaloc.monitor.summary import write_summary
from adaloc.monitor.validation_file import write_validation
from adaloc.progress import ProgressLine
from adaloc.stopping import REQUEUE_STATUS, asked_to_stop, exit_status, listen, stop_if_asked
from adaloc.training.checkpoint import BEST, LATEST, load_checkpoint
from adaloc.training.cures import describe_cure
from adaloc.training.decision import Decision
from adaloc.training.diagnosis import Diagnosis, first_named
from adaloc.training.diagnosis_text import describe
from adaloc.training.ranks import Ranks, join_ranks
from adaloc.training.recording import Score
from adaloc.training.run import Run, best_model, loss_over_samples, setup
from adaloc.training.run_log import read_events
from adaloc.training.trainer import Hooks, fit
from adaloc.validation_score import NUM_EXAMPLES, ValidationScorer, example, shift_frames
from adaloc.words import Language

EXAMPLES_FILE = "validation_frames.png"


def train(
    config: Config,
    *,
    resume: str | None,
    skip_checks: bool,
    console: Console,
    force: bool = False,
    language: Language = "en",
    init: Path | None = None,
) -> int:
    """Runs the whole job.

    Args:
        config: the run.
        resume: None for a new run, "auto" for the latest checkpoint if there is one, or a checkpoint's path.
        skip_checks: leave the environment check out.
        console: where messages go.
        force: train even on data that cannot be learned from, and go on where a diagnosis says that it cannot succeed.
        language: of the findings in the data.
        init: a model that a new run starts from; a resumed one goes on from its checkpoint.

    Returns:
        The exit status: 0 finished, 130 interrupted, 143 after SIGTERM, 75 after the warning signal: start me again.

    Raises:
        AdalocError: when something is missing or wrong, or another process trains in the run folder.
        Stopped: when a signal came before the first step.
    """
    _refuse_shared_folder(config)
    folder = config.output.save_dir
    with listen(config.warning_signal), join_ranks(config.device) as ranks:
        if not ranks.is_first:
            return _follow(config, ranks)
        # Beside the folder, which moves when it is set aside.
        with hold_lock(folder.with_name(f".{folder.name}.lock"), f"The run folder {folder}") as is_locked:
            if not is_locked:
                console.print("[yellow]Warning:[/yellow] the file system knows no locks: start no second run here.")
            wish = _Wish(resume, skip_checks, force, language, init)
            return _train(config, wish, console, ranks)


@dataclass(frozen=True)
class _Wish:
    """How a run is to be started; see `train`."""

    resume: str | None
    skip_checks: bool
    force: bool
    language: Language
    init: Path | None


def _train(config: Config, wish: _Wish, console: Console, ranks: Ranks) -> int:
    run, validation, integrity = ranks.meet(lambda: _prepare(config, wish, console, ranks))
    if ranks.size > 1:
        console.print(f"{ranks.size} processes train together, each with its share of every batch.")
        ranks.meet(lambda: None)  # the others read the data
        ranks.from_first(run.state())
    return _train_prepared(run, validation, integrity, console, force=wish.force, language=wish.language)


def _follow(config: Config, ranks: Ranks) -> int:
    """What every process of a training but the first does: all that decides is the first one's."""
    quiet = Console(quiet=True)
    ranks.meet(lambda: None)  # the first one checks, simulates what is missing, and finds the checkpoint
    training, validation = ranks.meet(lambda: load_data(config, quiet))
    state = ranks.from_first(None)
    if state["model"]["config"] != dump_config(config):
        raise ConfigError(f"Process {ranks.rank} of this training has another config than process 0. Use one file.")
    run = setup(config, training, validation, state, ranks=ranks)
    status = fit(run, Hooks(should_stop=lambda: asked_to_stop() is not None))
    return exit_status(ranks.asked) if status == "interrupted" else 0


def _prepare(config: Config, wish: _Wish, console: Console, ranks: Ranks) -> tuple[Run, list[Sample], dict[str, Any]]:
    """Checks, data, and the run; what goes before the first step."""
    if not wish.skip_checks:
        show_checks(check_environment(config), console)
    state = _find_state(config, wish.resume, console)
    source = load_model(wish.init) if wish.init is not None and state is None else None
    ensure_data(config, console)
    training, validation = load_data(config, console)
    integrity = refuse_hopeless(training, validation, config, console, force=wish.force, language=wish.language)
    stop_if_asked("Go on with the same command.")
    remove_leftovers(config.output.save_dir)
    # A run that was killed before its first checkpoint has nothing to keep; it starts again in its place.
    if state is None and not (wish.resume == "auto" and _holds_no_model(config.output.save_dir)):
        _set_aside_old_run(config.output.save_dir, console)
    write_text(config.output.save_dir / "config.json", json.dumps(dump_config(config), indent=2) + "\n")
    run = setup(config, training, validation, state, init=source, ranks=ranks)
    if source is not None:
        console.print(f"Starting from the weights of {wish.init}", soft_wrap=True)
    _announce(run, console)
    return run, validation, integrity


def _train_prepared(
    run: Run, validation: list[Sample], integrity: dict[str, Any], console: Console, *, force: bool, language: Language
) -> int:
    config = run.config
    scorer = ValidationScorer(config, validation)
    alerts = Alerts(config.output.alerts, config.output.save_dir)
    line = ProgressLine(console, "training", config.training.epochs, "epochs", done=run.epoch)
    hooks = Hooks(
        on_epoch=lambda record: _after_epoch(run, line, alerts, record),
        on_decision=lambda *decision: _after_decision(run, line, alerts, *decision),
        score=lambda model, final: _score(run, scorer, model, validation, final),
        should_stop=lambda: asked_to_stop() is not None,
        on_start=lambda: _after_start(run, alerts, integrity),
        on_diagnosis=lambda diagnosis: _after_diagnosis(run, line, alerts, diagnosis),
        on_cure=lambda epoch, cure: line.say(describe_cure(epoch, cure)),
        on_skip=lambda *skipped: line.say(_describe_skip(*skipped)),
        force=force,
    )
    with line, told_of_failure(alerts, run.log, lambda: (run.epoch, run.step), line.say):
        status = fit(run, hooks)
    summary = _show_result(run, validation, console, language)
    tell(alerts, alerts.ended(run.epoch, status, summary["verdict"]), run.log, run.step, console.print)
    alerts.close(console.print)
    number = run.ranks.asked or asked_to_stop()
    if status == "interrupted" and number is not None:
        console.print(
            f"Interrupted; nothing is lost. Go on with the same command and --resume {run.folder / LATEST}",
            soft_wrap=True,
        )
        if exit_status(number) == REQUEUE_STATUS:
            console.print(f"Exit status {REQUEUE_STATUS}: to be started again with --resume auto.")
        return exit_status(number)
    return 0


def show_checks(checks: Sequence[Check], console: Console) -> None:
    """Prints the environment check.

    Raises:
        AdalocError: when a line failed.
    """
    table = Table(title="Environment", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "what", "found"):
        table.add_column(heading)
    marks = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "failed": "[red]failed[/red]"}
    for check in checks:
        remedy = f"\n-> {check.remedy}" if check.remedy else ""
        table.add_row(marks[check.status], check.name, check.detail + remedy)
    console.print(table)
    failed = [check.name for check in checks if check.status == "failed"]
    if failed:
        raise AdalocError(f"The environment check failed for: {', '.join(failed)}. See the lines above.")


def ensure_data(config: Config, console: Console) -> None:
    """Simulates what is missing, when the config asks for it.

    Raises:
        AdalocError: when data are missing and the config does not ask, or the folder holds other data.
    """
    root = config.data.root
    if not config.data.simulate_if_missing:
        if not root.is_dir():
            raise AdalocError(
                f"The data folder {root} does not exist, and data.simulate_if_missing is false. Give the right folder "
                f"in data.root, or simulate with: adaloc simulate --config CONFIG --out {root}"
            )
        return
    if not is_complete(root, config):
        simulate(config, root, None, console)


def simulate(config: Config, root: Path, zmap: Path | None, console: Console) -> None:
    """Simulates into `root` with progress; goes on where it was interrupted."""
    simulation = config.simulation
    console.print(
        f"Simulating {simulation.num_samples} samples of {simulation.num_frames} frames, "
        f"{simulation.image_size_px} x {simulation.image_size_px} px, into {root}",
        soft_wrap=True,
    )
    with ProgressLine(console, "simulating", simulation.num_samples, "samples") as line:
        for done in generate(config, root, zmap):
            line.update(done)
            if done < simulation.num_samples:
                stop_if_asked("Finished samples are kept; the same command goes on.")


def _score(run: Run, scorer: ValidationScorer, model: Model, validation: Sequence[Sample], final: bool) -> Score:
    score, tables = scorer.score(model, final)
    if final:
        score.metrics["val_loss_all_frames"] = loss_over_samples(run, model, validation)
        write_validation(run.folder, scorer.describe(model, tables))
    return score


def _refuse_shared_folder(config: Config) -> None:
    """A run folder is set aside as a whole when the next run starts, so nothing else may live in it."""
    folder = config.output.save_dir.resolve()
    for path, name in ((Path.cwd(), "the current directory"), (config.data.root.resolve(), "data.root")):
        if path.is_relative_to(folder):
            raise ConfigError(f"output.save_dir {folder} is or holds {name}. Give the run a folder of its own.")


def _find_state(config: Config, resume: str | None, console: Console) -> dict[str, Any] | None:
    if resume is None:
        return None
    path = config.output.save_dir / LATEST if resume == "auto" else Path(resume)
    if resume == "auto" and not path.exists():
        console.print(f"--resume auto: there is no {path} yet; starting a new run.", soft_wrap=True)
        return None
    if not path.exists():
        raise CheckpointError(f"The checkpoint {path} does not exist. Check its path, or write --resume auto.")
    if path.resolve().parent != config.output.save_dir.resolve():
        raise CheckpointError(
            f"{path} is not in output.save_dir ({config.output.save_dir}). A run goes on in its own folder: use the "
            "config.json beside the checkpoint, or change output.save_dir."
        )
    return load_checkpoint(path, config)


def _holds_no_model(folder: Path) -> bool:
    return not any((folder / name).exists() for name in (LATEST, BEST))


def _set_aside_old_run(folder: Path, console: Console) -> None:
    if not (folder / "log.jsonl").exists():
        return
    number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.{n}").exists())
    try:
        kept = folder.rename(folder.with_name(f"{folder.name}.{number}"))
    except OSError as error:
        raise AdalocError(describe_write_failure(folder, error)) from error
    console.print(f"The earlier run in {folder} is kept as {kept}", soft_wrap=True)


def _announce(run: Run, console: Console) -> None:
    for name in left_out_channels(run.model.scaling):
        console.print(
            f"The targets of channel {name} never vary: it has nothing to explain and is left out of the loss."
        )
    no_information = run.loss.no_information_loss
    where = f"going on at epoch {run.epoch}" if run.step else "a new run"
    console.print(
        f"Training ({where}): {run.config.training.epochs} epochs of {run.windows.steps_per_epoch} steps; "
        f"knowing nothing scores {no_information:.4g}, a perfect prediction 0. Results go to {run.folder}",
        soft_wrap=True,
    )
    if run.floor is not None and run.floor.loss is not None:
        console.print(f"Physics allows a loss of {run.floor.loss:.4g} (computed in {run.floor.seconds:.1f} s)")
    elif run.floor is not None:
        console.print(f"What loss physics allows is unknown: {run.floor.unknown_because}", soft_wrap=True)


def _after_start(run: Run, alerts: Alerts, integrity: dict[str, Any]) -> None:
    alerts.catch_up(read_events(run.log.path))
    run.log.write("integrity", **integrity)


def _after_epoch(run: Run, line: ProgressLine, alerts: Alerts, record: dict[str, Any]) -> None:
    line.update(record["epoch"] + 1, _describe_epoch(record))
    tell(alerts, alerts.after_epoch(record["epoch"] + 1, record["val_loss"]), run.log, run.step, line.say)


def _after_decision(
    run: Run, line: ProgressLine, alerts: Alerts, epoch: int, decision: Decision, before: float, after: float
) -> None:
    _say_decision(line, epoch, decision, before, after)
    tell(alerts, alerts.after_decision(epoch + 1, decision.action, decision.reason), run.log, run.step, line.say)


def _after_diagnosis(run: Run, line: ProgressLine, alerts: Alerts, diagnosis: Diagnosis) -> None:
    finding = first_named(diagnosis)
    line.say(f"epoch {diagnosis.epoch}: diagnosis: {describe(finding)}")
    if finding.cause != "healthy":
        tell(alerts, alerts.stalled(diagnosis.epoch, describe(finding)), run.log, run.step, line.say)


def _describe_epoch(record: dict[str, Any]) -> str:
    return f"loss {record['train_loss']:.3f}, validation {record['val_loss']:.3f}, rate {record['lr']:.1e}"


def _describe_skip(epoch: int, step: int, in_a_row: int) -> str:
    again = "" if in_a_row == 1 else f" ({in_a_row} in a row)"
    return f"epoch {epoch}: step {step} left out{again}: its gradient is not a number; the weights stay as they were"


def _say_decision(line: ProgressLine, epoch: int, decision: Decision, before: float, after: float) -> None:
    if decision.action in ("warmup_done", "anneal"):
        line.say(f"epoch {epoch + 1}: {decision.reason} (rate {after:.2e})")
    else:
        line.say(f"epoch {epoch + 1}: {decision.action}, rate {before:.2e} -> {after:.2e}: {decision.reason}")


def _show_result(run: Run, validation: Sequence[Sample], console: Console, language: Language) -> dict[str, Any]:
    model = best_model(run)
    pixel_size = run.config.simulation.optics.pixel_size_nm
    examples = []
    for sample in validation[:NUM_EXAMPLES]:
        middle = len(sample.frames_THW) // 2
        first = max(middle - 2, 0)
        found = shift_frames(localize_frames(model, sample.frames_THW[first : middle + 3]), first)
        examples.append(example(model, sample, found, middle))
    save_figure(plot_examples(examples, pixel_size), run.folder / EXAMPLES_FILE)
    log = load_run(run.folder)
    save_figure(plot_curves(log), run.folder / "training_curves.png")
    summary = json.loads(write_summary(run.folder).read_text(encoding="utf-8"))
    write_text_report(run.folder, language)
    report = write_report(run.folder, language)
    console.print(f"\n[bold]{summary['verdict']}[/bold]", soft_wrap=True)
    paths = (("report", report), ("model", run.folder / BEST), ("curves", run.folder / "training_curves.png"),
             ("frames", run.folder / EXAMPLES_FILE))  # fmt: skip
    for name, path in paths:
        console.print(f"  {name:7s} {path}", soft_wrap=True)
    return dict(summary)
