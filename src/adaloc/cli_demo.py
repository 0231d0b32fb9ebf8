"""`adaloc demo`: the first minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_guard import console, guarded
from adaloc.cli_monitor import parse_language


@guarded
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything that the demo writes.")] = Path(
        "outputs/demo"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Of the training; more make a sharper image.")] = 200,
    lang: Annotated[str, typer.Option("--lang", help="Language of the report: en or zh.")] = "en",
) -> int:
    """Shows the whole way in under three minutes: simulates, trains a small network, localizes, and draws an image.

    Example: adaloc demo --out outputs/demo
    """
    language = parse_language(lang)
    from adaloc.demo import DemoSize, run_demo

    return run_demo(out, console, DemoSize(epochs=epochs), language)
