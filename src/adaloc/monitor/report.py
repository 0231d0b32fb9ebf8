"""The report of a run: a text and a self-contained web page."""

from __future__ import annotations

import base64
import io
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from adaloc.files import write_text
from adaloc.monitor.advice import advise, verdict
from adaloc.monitor.analysis import analyse
from adaloc.monitor.facts import (
    Fact,
    config_differences,
    convergence_facts,
    describe_adjustment,
    describe_counts,
    environment_facts,
    key_facts,
    metric_facts,
    promise_facts,
)
from adaloc.monitor.log import Run, load_run
from adaloc.monitor.plots import plot_curves

REPORT_FILE = "report.html"
TEXT_REPORT_FILE = "report.txt"
EXAMPLES_FILE = "validation_frames.png"
_ADJUSTMENTS_SHOWN = 30
_REPORT_DPI = 110


def write_report(folder: Path) -> Path:
    """Writes report.html into a run folder.

    Raises:
        DataError: when there is no run in the folder.
        AdalocError: when it cannot be written.
    """
    run = load_run(folder)
    examples = folder / EXAMPLES_FILE
    path = folder / REPORT_FILE
    write_text(path, html_report(run, examples.read_bytes() if examples.is_file() else None))
    return path


def write_text_report(folder: Path) -> Path:
    """Writes report.txt into a run folder; raises as `write_report`."""
    path = folder / TEXT_REPORT_FILE
    write_text(path, text_report(load_run(folder)))
    return path


def html_report(run: Run, examples_png: bytes | None) -> str:
    """The web page; everything that it shows is escaped, and nothing is loaded from elsewhere."""
    analysis = analyse(run)
    template = resources.files("adaloc.monitor").joinpath(REPORT_FILE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        name=run.folder.absolute().name,
        verdict=verdict(run),
        key_facts=key_facts(run, analysis),
        promises=promise_facts(analysis),
        metrics=metric_facts(run),
        advice=advise(run),
        curves=_base64(_png(plot_curves(run))),
        examples=None if examples_png is None else _base64(examples_png),
        convergence=convergence_facts(run, analysis),
        counts=describe_counts(analysis.adjustments),
        adjustments=[describe_adjustment(a) for a in run.adjustments[-_ADJUSTMENTS_SHOWN:]],
        num_adjustments=len(run.adjustments),
        differences=None if run.config is None else config_differences(run.config),
        environment=environment_facts(run),
    )


def text_report(run: Run) -> str:
    """The same facts as plain text, without the pictures."""
    analysis = analyse(run)
    advice = [f"  - {item.text}\n    ({item.evidence})" for item in advise(run)]
    changes = ["  {:>6}  {:<12} {:<22} {}".format(*describe_adjustment(a)) for a in run.adjustments[-10:]]
    if run.config is None:
        differences = ["  unknown: there is no readable config.json in the folder"]
    else:
        differences = [
            f"  {name} = {value} (default {default})" for name, value, default in config_differences(run.config)
        ]
    sections = [
        ("Figures", _lines(key_facts(run, analysis))),
        ("Promised levels of the validation loss", _lines(promise_facts(analysis))),
        ("Detection metrics", _lines(metric_facts(run)) or ["  not measured yet"]),
        ("Advice", advice or ["  none"]),
        ("Convergence", _lines(convergence_facts(run, analysis))),
        (f"Adjustments of the learning rate: {describe_counts(analysis.adjustments)}", changes),
        ("Differences from the default config", differences or ["  none"]),
        ("Environment", _lines(environment_facts(run))),
    ]
    body = "\n\n".join("\n".join([title, *lines]) for title, lines in sections)
    return f"{verdict(run)}\n\n{body}\n"


def _lines(facts: list[Fact]) -> list[str]:
    width = max((len(label) for label, _ in facts), default=0)
    return [f"  {label:<{width}}  {value}" for label, value in facts]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_REPORT_DPI)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
