#!/usr/bin/env python3
"""Starts the adaptive training: the same as `adaloc train`. See --help."""

import sys

try:
    from adaloc.cli import start
except ModuleNotFoundError as error:
    sys.exit(
        f"adaloc is not installed for this Python ({sys.executable}): {error}.\n"
        "Run make setup, then .venv/bin/python start_adaptive_training.py; or: pip install -e . -c constraints.txt"
    )

if __name__ == "__main__":
    start()
