"""What the pages share: one style and one script inside, nothing from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from adaloc.monitor.chart import Chart, draw
from adaloc.monitor.say import Say

Drawn = tuple[str, str, bool, Markup]
"""Question, answer, whether over the whole width, drawing."""


@dataclass(frozen=True)
class Live:
    """How a served page fetches its content.

    Attributes:
        source: path of the content on the server.
        interval: s between looks.
        back: path of the page with all runs; empty where there is one run.
    """

    source: str
    interval: float
    back: str = ""


def render(template: str, **values: Any) -> Markup:
    """A template of this folder with its values; all of them are escaped unless they are marked as HTML."""
    text = resources.files("adaloc.monitor").joinpath(template).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return Markup(environment.from_string(text).render(**values))


def page(name: str, body: Markup, say: Say, live: Live | None = None) -> str:
    """A whole page around its content."""
    folder = resources.files("adaloc.monitor")
    return render(
        "report.html",
        name=name,
        body=body,
        say=say,
        live=live,
        language=say.language if say.language == "en" else "zh-CN",
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(folder.joinpath("page.js").read_text(encoding="utf-8")),
    )


def drawn(charts: list[Chart]) -> list[Drawn]:
    """Charts as the templates take them; those without anything to show are left out."""
    return [(one.question, one.answer, one.wide, Markup(draw(one))) for one in charts if not one.is_empty]
