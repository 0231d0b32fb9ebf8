"""`adaloc monitor`: plots, reports or watches a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from adaloc.monitor.live import watch
from adaloc.monitor.log import load_run
from adaloc.monitor.summary import write_summary
from adaloc.words import Language

CURVES_FILE = "training_curves.png"


def monitor(
    folder: Path,
    mode: Literal["all", "plot", "report", "monitor"],
    interval_s: float,
    console: Console | None = None,
    language: Language = "en",
) -> list[Path]:
    """Looks at a run; the training never notices.

    Args:
        folder: run folder.
        mode: plot (training_curves.png), report (report.txt, report.html, summary.json), all of them, or
            monitor (a live view until the run ends).
        interval_s: time between looks of the live view, s.
        console: where to print; standard output if None.
        language: of the words.

    Returns:
        The files that were written.

    Raises:
        DataError: when there is no run in the folder (monitor waits instead).
        AdalocError: when a file cannot be written.
    """
    console = console or Console()
    if mode == "monitor":
        watch(folder, interval_s, console=console, language=language)
        return []
    # matplotlib takes a while to load, and the live view does without it.
    from adaloc.monitor.plots import plot_curves, save_figure
    from adaloc.monitor.report import text_report, write_report, write_text_report

    run = load_run(folder)
    written: list[Path] = []
    if mode in ("all", "plot"):
        written.append(folder / CURVES_FILE)
        save_figure(plot_curves(run), written[-1])
    if mode in ("all", "report"):
        written += [write_text_report(folder, language), write_report(folder, language), write_summary(folder)]
        console.print(text_report(run, language), markup=False, highlight=False, soft_wrap=True)
    for path in written:
        console.print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)
    return written
