"""`adaloc bench speed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_guard import console, guarded
from adaloc.config_file import load_config, read_json
from adaloc.errors import ConfigError

_QUICK_REPEATS, _REPEATS = 15, 9
_QUICK_SECONDS, _SECONDS = 80.0, 3600.0  # of the turns; a start and one turn more come on top


@guarded
def speed(
    config: Annotated[Path, typer.Option("--config", "-c", help="JSON config whose stages are timed.")] = Path(
        "training/configs/train_config_adaptive.json"
    ),
    against: Annotated[Path | None, typer.Option("--against", help="Another config, timed in turns with it.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Turns; medians are given. Default: 9.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="At most 15 turns that begin within 80 s, of --config alone.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="JSON of an earlier --out; says which stages are slower now.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for the results.")] = None,
) -> None:
    """How fast is each stage of training and localization, and what share of the time does it take?

    Example: adaloc bench speed --against training/configs/train_config_decode.json --out speed.json
    """
    from adaloc.bench.speed import changes_to, run_speed, show, write_results

    if quick and against is not None:
        raise ConfigError("--quick times one config alone. Leave it out to compare with --against.")
    before = None if baseline is None else read_json(baseline, "baseline")
    paths = [config] if against is None else [config, against]
    turns = repeats or (_QUICK_REPEATS if quick else _REPEATS)
    configs = {path.stem: load_config(path) for path in paths}
    seconds = _QUICK_SECONDS if quick else _SECONDS
    results = run_speed(configs, repeats=turns, threads=threads, seconds=seconds, console=console)
    show(results, {} if before is None else changes_to(before, results), console)
    if out is not None:
        command = f"adaloc bench speed --config {config.name} --repeats {turns} --threads {threads}"
        write_results(results, command + (f" --against {paths[1].name}" if len(paths) > 1 else ""), out)
