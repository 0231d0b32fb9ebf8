"""`adaloc bench`: the long studies behind the claims, as commands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_guard import console, guarded, parse_pair
from adaloc.config import Config
from adaloc.config_file import load_config
from adaloc.errors import ConfigError

bench_app = typer.Typer(help="Long studies behind the claims that adaloc makes.", no_args_is_help=True)


@bench_app.command()
@guarded
def lr(
    work: Annotated[Path, typer.Option("--work", help="Folder for the data and finished runs; goes on from there.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="JSON config of the reference problem.")] = Path(
        "benchmarks/config_bench_lr.json"
    ),
    problem: Annotated[str, typer.Option(help="reference, or digits (scikit-learn's).")] = "reference",
    steps: Annotated[int, typer.Option(min=20, help="Optimizer steps of every run, trials included.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    methods: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    rates: Annotated[str, typer.Option(help="Initial learning rates, comma-separated; default: 1e-6 to 1e-1.")] = "",
    jobs: Annotated[int, typer.Option(min=1, help="Processes at once, each of one thread.")] = 1,
    seconds: Annotated[
        float, typer.Option(min=0, help="After which no further run begins; the results are of what is there then.")
    ] = math.inf,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the table.")] = None,
) -> None:
    """Does the initial learning rate matter? Trains with each method from each rate, and compares with the best tuned.

    Example: adaloc bench lr --work WORK --problem digits --out benchmarks/results/lr_digits_300.json
    """
    from adaloc.bench.lr import METHODS, RATES, run_study, show, write_results

    if problem not in ("reference", "digits"):
        raise ConfigError(f"--problem {problem} is not known. Choose reference or digits.")
    chosen = methods.split(",") if methods else list(METHODS)
    if unknown := sorted(set(chosen) - set(METHODS)):
        raise ConfigError(f"--methods: {', '.join(unknown)} is not known. Choose from {', '.join(METHODS)}.")
    try:
        chosen_rates = [float(rate) for rate in rates.split(",")] if rates else list(RATES)
    except ValueError:
        raise ConfigError(f"--rates {rates} is not understood; write for example 1e-4,1e-3.") from None
    raw = load_config(config).model_dump(mode="json")
    raw["data"]["root"] = str(work / "data")
    table = run_study(
        Config.model_validate(raw), problem=problem, steps=steps, seeds=range(seeds), methods=chosen,
        rates=chosen_rates, jobs=jobs, work=work, console=console, seconds=seconds,
    )  # fmt: skip
    show(table, console)
    if out is not None:
        write_results(table, out)


@bench_app.command()
@guarded
def stalls(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for data, runs and results.")] = Path(
        "outputs/stalls"
    ),
    seeds: Annotated[str, typer.Option(help="Seeds of each cause, first:last.")] = "5:14",
    healthy_seeds: Annotated[str, typer.Option(help="Seeds of the healthy runs, first:last.")] = "10:59",
    cured_seeds: Annotated[
        str, typer.Option(help="Seeds of the runs whose fault the trainer is to mend, first:last; empty: none.")
    ] = "5:9",
    causes: Annotated[str, typer.Option(help="Causes, separated by commas; all when empty.")] = "",
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    seconds: Annotated[
        float, typer.Option(min=0, help="After which no further run begins; the results are of what is there then.")
    ] = math.inf,
    rerank: Annotated[bool, typer.Option("--rerank", help="Rank the stored evidence again; train nothing.")] = False,
) -> None:
    """Puts each cause of a stall into real runs and counts how often the diagnosis names it; goes on where it stopped.

    Example: adaloc bench stalls --seeds 5:14 --out outputs/stalls
    """
    from adaloc.bench.command import bench_stalls

    cured = parse_range(cured_seeds) if cured_seeds else []
    bench_stalls(
        out, parse_range(seeds), parse_range(healthy_seeds), cured, causes, jobs, rerank, console, seconds=seconds
    )


@bench_app.command()
@guarded
def observing(
    config: Annotated[Path, typer.Option("--config", "-c", help="JSON config that is trained.")] = Path(
        "training/configs/train_config_adaptive.json"
    ),
    steps: Annotated[int, typer.Option(min=2, help="Steps to train, those of the search included.")] = 400,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the shares.")] = None,
) -> None:
    """What does it cost to watch and to decide? Trains a config's first steps and times what is no training.

    Example: adaloc bench observing --out benchmarks/results/observing.json
    """
    from adaloc.bench.observing import measure, show, write_results

    results = measure(load_config(config), steps)
    show(results, console)
    if out is not None:
        write_results(results, f"adaloc bench observing --config {config.name} --steps {steps}", out)


@bench_app.command()
@guarded
def ablation(
    config: Annotated[Path, typer.Option("--config", "-c", help="JSON config to compare with.")] = Path(
        "training/configs/train_config_adaptive.json"
    ),
    options: Annotated[str, typer.Option(help="Options, separated by commas; all when empty.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of every run.")] = 160,
    work: Annotated[Path, typer.Option("--work", help="Folder of the runs; goes on from there.")] = Path(
        "outputs/ablation"
    ),
    out: Annotated[Path | None, typer.Option("--out", help="JSON file; the docs' table is written beside it.")] = None,
) -> None:
    """Trains with each option of the config and without, at equal samples, and says which are worth it.

    Example: adaloc bench ablation --options default,adamw,fresh --seeds 1 --out ablation.json
    """
    from adaloc.bench.ablation import OPTIONS, refused, run_ablation, show, summarize, write_results

    chosen = options.split(",") if options else list(OPTIONS)
    if unknown := sorted(set(chosen) - set(OPTIONS)):
        raise ConfigError(f"--options: {', '.join(unknown)} is not known. Choose from {', '.join(OPTIONS)}.")
    base = load_config(config)
    if not options:
        for name, reason in refused(base, chosen).items():
            console.print(f"Left out: {reason}", soft_wrap=True)
            chosen.remove(name)
    rows = run_ablation(base, chosen, range(seeds), epochs, work, console)
    show(summarize(rows), console)
    if out is not None:
        write_results(rows, out)


@bench_app.command()
@guarded
def kill(
    work: Annotated[Path, typer.Option("--work", help="A new folder for the killed runs.")],
    kills: Annotated[int, typer.Option(min=1, help="In all.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the moments.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the table.")] = None,
) -> int:
    """Is anything lost? Kills trainings, simulations and localizations with SIGKILL, resumes, and compares.

    Example: adaloc bench kill --work WORK --out benchmarks/results/kill.json
    """
    from adaloc.bench.kill import run_study, show, write_results

    results = run_study(work.resolve(), kills, seed, console)
    show(results, console)
    if out is not None:
        write_results(results, seed, out)
    return 1 if any(result.lost for result in results) else 0


def parse_range(text: str) -> list[int]:
    """5:14 to the whole numbers from 5 to 14; 5 to that alone.

    Raises:
        ConfigError: when it is neither.
    """
    first, last = parse_pair(text.replace(":", "x") if ":" in text else f"{text}x{text}", "a range of seeds", int)
    return list(range(first, last + 1))
