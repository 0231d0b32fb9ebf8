"""The command line. Exit status: 0 success, 1 failed, 2 bad usage or config, 130 interrupted, 143, 75 (stopping.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from adaloc import __version__
from adaloc.cli_bench import bench_app
from adaloc.cli_calibrate import calibrate_app
from adaloc.cli_camera import (
    CameraMapsOption,
    CameraOriginOption,
    MovieOption,
    PlotOption,
    camera_map,
    check_one_movie,
    refuse_without_movie,
)
from adaloc.cli_demo import demo
from adaloc.cli_evaluate import evaluate_app
from adaloc.cli_files import convert, localize
from adaloc.cli_guard import console, guarded
from adaloc.cli_locs import locs_app
from adaloc.cli_mask import mask
from adaloc.cli_monitor import monitor_app
from adaloc.cli_monitor import parse_language as _parse_language
from adaloc.cli_panels import arrange
from adaloc.cli_psf import spline
from adaloc.cli_speed import speed
from adaloc.cli_tune import tune
from adaloc.config import Config
from adaloc.config_file import load_config

DEFAULT_CONFIG = Path("training/configs/train_config_adaptive.json")

app = typer.Typer(
    help="""Trains networks that localize single molecules, and localizes with them.

    New here? adaloc demo shows the whole way in under three minutes. adaloc COMMAND --help has an example of each.

    Exit status: 0 success, 1 failed, 2 bad usage or config, 130 interrupted.
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="JSON config; // comments are allowed.")]
LanguageOption = Annotated[str, typer.Option("--lang", help="Language of findings in the data: en or zh.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Before the command: print nothing but errors and --json.")
    ] = False,
) -> None:
    console.quiet = quiet
    if version:
        print(f"adaloc {__version__}")
        raise typer.Exit


@app.command()
@guarded
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the config and end.")] = False,
    lang: LanguageOption = "en",
    movie: MovieOption = None,
    plot: PlotOption = None,
    camera_maps: CameraMapsOption = None,
    camera_origin: CameraOriginOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --movie: print JSON.")] = False,
) -> None:
    """Checks the config, the environment and the data; data that cannot be learned from end it with status 1.

    With --movie: whether the config's camera, background, spots and PSF fit that movie, and nothing else.

    Example: adaloc check --config training/configs/train_config_adaptive.json

    Example: adaloc check --movie movie.tif --config C --plot check.png
    """
    if schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
        return
    language = _parse_language(lang)
    settings = load_config(config)
    if movie is not None:
        check_one_movie(settings, movie, language, plot, camera_maps, camera_origin, as_json=as_json)
        return
    refuse_without_movie({"--json": as_json, "--plot": plot, "--camera-maps": camera_maps})
    from adaloc.checks import check_environment
    from adaloc.integrity_check import show_integrity
    from adaloc.main_job import show_checks

    show_checks(check_environment(settings), console)
    show_integrity(settings, language, console)
    console.print(f"The config {config} is valid, and everything it needs is here.", soft_wrap=True)


@app.command()
@guarded
def simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the samples.")],
    config: ConfigOption = DEFAULT_CONFIG,
    zmap: Annotated[Path | None, typer.Option("--zmap", help="Field map (HDF5); default: a random one.")] = None,
) -> None:
    """Writes sample folders from the physical model; goes on where it was interrupted.

    Example: adaloc simulate --config training/configs/train_config_adaptive.json --out data/reference
    """
    settings = load_config(config)
    from adaloc.main_job import simulate as simulate_into
    from adaloc.stopping import listen

    with listen(settings.warning_signal):
        simulate_into(settings, out, zmap, console)
    console.print(f"Done: {out}", soft_wrap=True)


@app.command()
@guarded
def train(
    config: ConfigOption = DEFAULT_CONFIG,
    resume: Annotated[
        str | None, typer.Option("--resume", help='Checkpoint to go on from, or "auto" for the latest if there is one.')
    ] = None,
    skip_checks: Annotated[bool, typer.Option("--skip-checks", help="Leave the environment check out.")] = False,
    monitor_only: Annotated[
        bool, typer.Option("--monitor-only", help="Train nothing; watch the run of this config.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Train even where the checks or a diagnosis say that it cannot succeed.")
    ] = False,
    lang: LanguageOption = "en",
    init: Annotated[
        Path | None, typer.Option("--init", help="Model that a new run starts from, for a new PSF, camera or density.")
    ] = None,
) -> int:
    """Trains a network: checks, simulates what is missing, trains, and writes model, report and curves.

    Example: python start_adaptive_training.py --resume auto
    """
    language = _parse_language(lang)
    settings = load_config(config)
    if monitor_only:
        from adaloc.monitor.command import monitor as watch_run

        watch_run(settings.output.save_dir, "monitor", 30.0, language=language)
        return 0
    from adaloc.main_job import train as run_training

    return run_training(
        settings, resume=resume, skip_checks=skip_checks, console=console, force=force, language=language, init=init
    )


@app.command()
@guarded
def diagnose(
    run: Annotated[Path, typer.Argument(help="Run folder.")] = Path("outputs/training_results_adaptive"),
    lang: Annotated[str, typer.Option("--lang", help="Language of the words: en or zh.")] = "en",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    log_only: Annotated[
        bool, typer.Option("--log-only", help="Make no trials on copies of the network; the log alone.")
    ] = False,
) -> None:
    """Says why a run does not learn, or that nothing is wrong: causes, evidence, and what to do.

    Example: adaloc diagnose outputs/training_results_adaptive --lang zh
    """
    language = _parse_language(lang)
    from adaloc.diagnose import diagnose_folder

    print(diagnose_folder(run, language, as_json=as_json, log_only=log_only))


app.command()(demo)
app.add_typer(monitor_app)
app.add_typer(calibrate_app)
app.command()(spline)
app.command()(mask)
app.command()(camera_map)
app.command()(localize)
app.command()(convert)
app.add_typer(evaluate_app)
app.add_typer(locs_app)
app.command()(tune)
bench_app.command()(speed)
app.add_typer(bench_app, name="bench")
arrange(app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `adaloc` command."""
    app(arguments)


def start() -> None:
    """Entry point of start_adaptive_training.py: `adaloc train` with the same options."""
    app(["train", *sys.argv[1:]], prog_name="start_adaptive_training.py")
