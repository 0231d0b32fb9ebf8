"""The command line. Exit status: 0 success, 1 failed, 2 bad usage or config, 130 interrupted."""

from __future__ import annotations

import errno
import functools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from adaloc import __version__
from adaloc.config import Config, PixelSize
from adaloc.config_file import load_config
from adaloc.errors import AdalocError, ConfigError

_OUT_OF_MEMORY = re.compile(r"out of memory|can.t allocate|alloc_cpu")
P = ParamSpec("P")
Number = TypeVar("Number", int, float)

DEFAULT_CONFIG = Path("training/configs/train_config_adaptive.json")

app = typer.Typer(
    help="Trains networks that localize single molecules, and localizes with them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()
errors = Console(stderr=True)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="JSON config; // comments are allowed.")]


def guarded(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turns errors into one message and the documented exit status."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            status = command(*args, **kwargs) or 0
        except AdalocError as error:
            errors.print(f"[red]Error:[/red] {_escape(error)}", soft_wrap=True, highlight=False)
            status = error.exit_status
        except KeyboardInterrupt:
            errors.print(
                "\nInterrupted. Finished files are kept. A simulation goes on by itself, a training with --resume auto."
            )
            status = 130
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            named = f"{error.filename}: " if error.filename else ""
            reason = f"{named}{error.strerror or error}. Check the disk's free space and the permissions."
            errors.print(f"[red]Error:[/red] {_escape(reason)}", soft_wrap=True, highlight=False)
            status = 1
        except (MemoryError, RuntimeError) as error:
            # torch reports exhausted memory, on the CPU and the GPU, as a RuntimeError of these words.
            if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
                raise
            errors.print("[red]Error:[/red] The memory does not suffice. Lower data.batch_size, or crop the movie.")
            status = 1
        raise typer.Exit(status)

    return run


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
) -> None:
    """Checks the config, the environment and the data.

    Example: adaloc check --config training/configs/train_config_adaptive.json
    """
    if schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
        return
    settings = load_config(config)
    from adaloc.checks import check_environment
    from adaloc.main_job import show_checks

    show_checks(check_environment(settings), console)
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
    force: Annotated[
        bool, typer.Option("--force", help="Go on where a diagnosis says that the training cannot succeed.")
    ] = False,
    skip_checks: Annotated[bool, typer.Option("--skip-checks", help="Leave the environment check out.")] = False,
    monitor_only: Annotated[
        bool, typer.Option("--monitor-only", help="Train nothing; watch the run of this config.")
    ] = False,
) -> int:
    """Trains a network: checks, simulates what is missing, trains, and writes model, report and curves.

    Example: python start_adaptive_training.py --resume auto
    """
    settings = load_config(config)
    if monitor_only:
        from adaloc.monitor.command import monitor as watch_run

        watch_run(settings.output.save_dir, "monitor", 30.0)
        return 0
    from adaloc.main_job import train as run_training

    return run_training(settings, resume=resume, skip_checks=skip_checks, console=console, force=force)


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
    if lang not in ("en", "zh"):
        raise ConfigError(f"--lang {lang} is not known. Choose en or zh.")
    from adaloc.diagnose import diagnose_folder

    print(diagnose_folder(run, lang, as_json=as_json, log_only=log_only))  # type: ignore[arg-type]


bench = typer.Typer(help="Benchmarks of the training strategy.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command()
@guarded
def stalls(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for data, runs and results.")] = Path(
        "outputs/stalls"
    ),
    seeds: Annotated[str, typer.Option(help="Seeds of each cause, first:last.")] = "5:14",
    healthy_seeds: Annotated[str, typer.Option(help="Seeds of the healthy runs, first:last.")] = "10:59",
    causes: Annotated[str, typer.Option(help="Causes, separated by commas; all when empty.")] = "",
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    rerank: Annotated[bool, typer.Option("--rerank", help="Rank the stored evidence again; train nothing.")] = False,
) -> None:
    """Puts each cause of a stall into real runs and counts how often the diagnosis names it; goes on where it stopped.

    Example: adaloc bench stalls --seeds 5:14 --out outputs/stalls
    """
    from adaloc.bench.command import bench_stalls

    bench_stalls(out, parse_range(seeds), parse_range(healthy_seeds), causes, jobs, rerank, console)


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
    field = None if image_size_px is None else _parse_pair(image_size_px, "--image-size-px", int)
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
    x, y = _parse_pair(text if len(parts) == 2 else f"{text}x{text}", "--pixel-size-nm", float)
    if not (1 < x < 10_000 and 1 < y < 10_000):
        raise ConfigError(f"--pixel-size-nm {text}: a camera pixel in the sample has between 1 and 10000 nm.")
    return PixelSize(x=x, y=y)


def parse_range(text: str) -> list[int]:
    """5:14 to the whole numbers from 5 to 14; 5 to that alone.

    Raises:
        ConfigError: when it is neither.
    """
    first, last = _parse_pair(text.replace(":", "x") if ":" in text else f"{text}x{text}", "a range of seeds", int)
    return list(range(first, last + 1))


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `adaloc` command."""
    app(arguments)


def start() -> None:
    """Entry point of start_adaptive_training.py: `adaloc train` with the same options."""
    app(["train", *sys.argv[1:]], prog_name="start_adaptive_training.py")


def _parse_pair(text: str, option: str, kind: Callable[[str], Number]) -> tuple[Number, Number]:
    try:
        first, second = (kind(part) for part in text.lower().split("x"))
    except ValueError:
        raise ConfigError(f"{option} {text} is not understood; write for example 128x256.") from None
    return first, second


def _escape(error: Any) -> str:
    return str(error).replace("[", r"\[")
