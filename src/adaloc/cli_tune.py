"""`adaloc tune`: the search for a better config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_guard import console, guarded
from adaloc.config_file import load_config


@guarded
def tune(
    config: Annotated[Path, typer.Option("--config", "-c", help="JSON config that is to be improved.")] = Path(
        "training/configs/train_config_adaptive.json"
    ),
    space: Annotated[Path, typer.Option("--space", help="JSON file: which keys may change, and how.")] = Path(
        "training/configs/tune_space.json"
    ),
    trials: Annotated[int, typer.Option("--trials", min=1, help="Finished trials that the study is to have.")] = 30,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of every trial.")] = 100,
    storage: Annotated[
        str | None, typer.Option("--storage", help="Journal file, or a database's URL; default: OUT/study.journal.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trials and results.")] = Path(
        "outputs/tuning"
    ),
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes on this machine.")] = 1,
    prune: Annotated[bool, typer.Option("--prune/--no-prune", help="Stop hopeless trials early.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Tune even where the checks of the data say that it cannot succeed.")
    ] = False,
) -> int:
    """Searches for a better config: trials that differ in what the space lists, the best written as a config.

    The same command goes on where a study was interrupted. More processes or machines work on the same study when
    they are given the same config, space and storage.

    Example: adaloc tune --config C --space training/configs/tune_space.json --trials 30 --storage study.journal
    """
    base = load_config(config)
    from adaloc.tuning.command import Tuning
    from adaloc.tuning.command import tune as run_tuning
    from adaloc.tuning.space import load_space

    tuning = Tuning(base, load_space(space, base), trials, epochs, storage or str(out / "study.journal"), out, prune)
    return run_tuning(tuning, jobs=jobs, console=console, force=force)
