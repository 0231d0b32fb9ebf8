#!/usr/bin/env python3
"""Monitors an adaptive training run: the same as `adaloc monitor`. See --help."""

import argparse
import math
import sys
from pathlib import Path

try:
    from adaloc.errors import AdalocError
    from adaloc.monitor.command import monitor
except ModuleNotFoundError as error:
    sys.exit(
        f"adaloc is not installed for this Python ({sys.executable}): {error}.\n"
        "Run make setup, then .venv/bin/python training/monitor_adaptive_training.py; or: pip install -e . "
        "-c constraints.txt"
    )

DEFAULT_CHECKPOINT = Path("outputs/training_results_adaptive/latest_checkpoint.pth")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0 s")
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 success, 1 failed, 130 interrupted (argparse itself ends with 2)."""
    parser = argparse.ArgumentParser(
        description="Plots, reports or watches an adaptive training run; never disturbs it.",
        epilog="Example: python training/monitor_adaptive_training.py --mode monitor --interval 5",
    )
    parser.add_argument(
        "--mode",
        choices=["all", "plot", "report", "monitor"],
        default="all",
        help="plot: training_curves.png; report: report.txt, report.html, summary.json; all: both; "
        "monitor: a live view until the run ends (default: all)",
    )
    parser.add_argument("--interval", type=_seconds, default=30.0, help="s between looks of the live view (default 30)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=DEFAULT_CHECKPOINT,
        help=f"a checkpoint in the run folder, or the run folder itself (default {DEFAULT_CHECKPOINT})",
    )
    parser.add_argument("--lang", choices=["en", "zh"], default="en", help="language of the words (default en)")
    options = parser.parse_args(arguments)
    folder = options.checkpoint if options.checkpoint.is_dir() else options.checkpoint.parent
    try:
        monitor(folder, options.mode, options.interval, language=options.lang)
    except AdalocError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
