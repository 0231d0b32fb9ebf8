"""Figures as files."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from adaloc.files import atomic_path


def write_figure(figure: Figure, path: Path, dpi: float) -> None:
    """Writes a figure as PNG, atomically.

    Raises:
        AdalocError: when it cannot be written.
    """
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
