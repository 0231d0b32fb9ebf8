"""The command line. Exit status: 0 success, 1 failed, 2 bad usage or config, 130 interrupted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.table import Table

from adaloc import __version__
from adaloc.cli_bench import bench_app
from adaloc.cli_calibrate import calibrate_app
from adaloc.cli_guard import console, guarded, parse_pair
from adaloc.config import Config, PixelSize
from adaloc.config_file import load_config
from adaloc.errors import ConfigError
from adaloc.words import Language

Number = TypeVar("Number", int, float)

DEFAULT_CONFIG = Path("training/configs/train_config_adaptive.json")

app = typer.Typer(
    help="Trains networks that localize single molecules, and localizes with them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(bench_app, name="bench")
app.add_typer(calibrate_app)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="JSON config; // comments are allowed.")]
LanguageOption = Annotated[str, typer.Option("--lang", help="Language of findings in the data: en or zh.")]


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    if version:
        print(f"adaloc {__version__}")
        raise typer.Exit


@app.command()
@guarded
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the config and end.")] = False,
    lang: LanguageOption = "en",
) -> None:
    """Checks the config, the environment and the data; data that cannot be learned from end it with status 1.

    Example: adaloc check --config training/configs/train_config_adaptive.json
    """
    if schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
        return
    language = _parse_language(lang)
    settings = load_config(config)
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
) -> int:
    """Trains a network: checks, simulates what is missing, trains, and writes model, report and curves.

    Example: python start_adaptive_training.py --resume auto
    """
    language = _parse_language(lang)
    settings = load_config(config)
    if monitor_only:
        from adaloc.monitor.command import monitor as watch_run

        watch_run(settings.output.save_dir, "monitor", 30.0)
        return 0
    from adaloc.main_job import train as run_training

    return run_training(
        settings, resume=resume, skip_checks=skip_checks, console=console, force=force, language=language
    )


@app.command()
@guarded
def monitor(
    run: Annotated[Path, typer.Argument(help="Run folder.")] = Path("outputs/training_results_adaptive"),
    mode: Annotated[str, typer.Option(help="all, plot, report or monitor.")] = "all",
    interval: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 30.0,
) -> None:
    """Plots, reports or watches a run; never disturbs it.

    Example: adaloc monitor outputs/training_results_adaptive --mode monitor --interval 5
    """
    if mode not in ("all", "plot", "report", "monitor"):
        raise ConfigError(f"--mode {mode} is not known. Choose all, plot, report or monitor.")
    from adaloc.monitor.command import monitor as look

    look(run, mode, interval)  # type: ignore[arg-type]


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


@app.command()
@guarded
def localize(
    model: Annotated[Path, typer.Argument(help="Model file (best_model.pth) or training checkpoint.")],
    movie: Annotated[Path, typer.Argument(help="TIFF movie; its frames may be of any size that fits in memory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="ThunderSTORM .csv or Picasso .hdf5.")],
    render: Annotated[Path | None, typer.Option(help="Also write the super-resolved image, a PNG.")] = None,
    threshold: Annotated[float, typer.Option(help="Least probability of a localization.", min=0.01, max=1)] = 0.5,
    pixel_size_nm: Annotated[
        str | None,
        typer.Option(help="Camera pixel in the sample, nm: 100 or 101.11x98.83 (x, y). Default: the model's."),
    ] = None,
    render_pixel_nm: Annotated[float, typer.Option(help="Pixel of the image, nm.", min=0.5, max=1000)] = 10.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Localizes the molecules of a movie.

    Example: adaloc localize outputs/training_results_adaptive/best_model.pth movie.tif -o locs.csv --render image.png
    """
    from adaloc.localize.command import localize_movie

    size = None if pixel_size_nm is None else parse_pixel_size(pixel_size_nm)
    localize_movie(model, movie, out, render, threshold, size, render_pixel_nm, device, console)


@app.command()
@guarded
def evaluate(
    locs: Annotated[Path, typer.Argument(help="Localizations: ThunderSTORM .csv or Picasso .hdf5.")],
    truth: Annotated[Path, typer.Argument(help="Truth: a sample folder, its emitters.h5, or a challenge .csv.")],
    pixel_size_nm: Annotated[str | None, typer.Option(help="Camera pixel, nm, where the files do not say.")] = None,
    image_size_px: Annotated[
        str | None, typer.Option(help="Field as HEIGHTxWIDTH px, to leave its border out of the count.")
    ] = None,
    lateral_nm: Annotated[float, typer.Option(help="Largest lateral distance of a match, nm.")] = 250.0,
    axial_nm: Annotated[float, typer.Option(help="Largest axial distance of a match, nm.")] = 500.0,
    border_nm: Annotated[float, typer.Option(help="Border that is left out, nm.")] = 450.0,
    min_photons: Annotated[float, typer.Option(help="Dimmer emitters are not asked for.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Scores localizations against the truth as the SMLM challenge 2016 does.

    Example: adaloc evaluate locs.csv data/reference/sample_000
    """
    from adaloc.evaluation.command import evaluate_files

    size = None if pixel_size_nm is None else parse_pixel_size(pixel_size_nm)
    field = None if image_size_px is None else parse_pair(image_size_px, "--image-size-px", int)
    result = evaluate_files(
        locs, truth, size, field, lateral_nm=lateral_nm, axial_nm=axial_nm, border_nm=border_nm, min_photons=min_photons
    )
    if as_json:
        print(json.dumps(result, indent=2))
        return
    table = Table(box=None, show_header=False)
    for name, value in result.items():
        table.add_row(name, "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
    console.print(table)


def parse_pixel_size(text: str) -> PixelSize:
    """100 or 101.11x98.83 to a pixel size in nm.

    Raises:
        ConfigError: when it is neither.
    """
    parts = text.lower().split("x")
    x, y = parse_pair(text if len(parts) == 2 else f"{text}x{text}", "--pixel-size-nm", float)
    if not (1 < x < 10_000 and 1 < y < 10_000):
        raise ConfigError(f"--pixel-size-nm {text}: a camera pixel in the sample has between 1 and 10000 nm.")
    return PixelSize(x=x, y=y)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `adaloc` command."""
    app(arguments)


def start() -> None:
    """Entry point of start_adaptive_training.py: `adaloc train` with the same options."""
    app(["train", *sys.argv[1:]], prog_name="start_adaptive_training.py")


def _parse_language(text: str) -> Language:
    if text not in ("en", "zh"):
        raise ConfigError(f"--lang {text} is not known. Choose en or zh.")
    return text  # type: ignore[return-value]
