"""The page of an evaluation: one file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from adaloc import __version__
from adaloc.evaluation import figures as draw
from adaloc.evaluation.bounds_of_pairs import Bounds
from adaloc.evaluation.comparison import Comparison, Rules, Tables, Value, in_bounds, in_sigmas
from adaloc.evaluation.metrics import Evaluation, Scored
from adaloc.evaluation.tables import DENSITY_RADIUS_NM, Bin

_PAGE_FILE = "page.html"
_KEY_FIGURES = {
    "jaccard": "Jaccard index",
    "recall": "recall",
    "precision": "precision",
    "rmse_lateral_nm": "RMSE lateral, nm",
    "rmse_axial_nm": "RMSE axial, nm",
    "efficiency_3d": "efficiency 3D, %",
    "error_in_crlb_lateral": "lateral error / CRLB",
    "error_in_crlb_axial": "axial error / CRLB",
    "rmsmd_p_nm": "RMSMD-P, nm",
}


def html_page(
    title: str,
    comparison: Comparison,
    rules: Rules,
    scored: Scored,
    figures: dict[str, Value],
    tables: Tables,
    challenge: dict[str, Evaluation],
    bounds: Bounds | None,
    notes: Sequence[str],
) -> str:
    """The page; everything that it shows is escaped."""
    normalized = {f"{axis} error / CRLB": values for axis, values in in_bounds(scored, bounds).items()}
    if not normalized:
        normalized = {f"{axis} error / stated sigma": values for axis, values in in_sigmas(comparison, scored).items()}
    area = f"local density (emitters per µm², within {DENSITY_RADIUS_NM / 1000:g} µm in the frame)"
    pictures: list[tuple[str, Figure]] = []
    if tables.by_depth:
        pictures.append(("RMSE against depth", draw.rmse_against_depth(tables.by_depth)))
    if len(tables.by_photons) > 1:
        pictures.append(("RMSE against photons", draw.rmse_against_photons(tables.by_photons)))
    pictures.append(("Detection against density", draw.detection(tables.by_density, area, "detection against density")))
    if len(tables.by_photons) > 1:
        pictures.append(
            (
                "Detection against photons",
                draw.detection(tables.by_photons, "photons in the frame", "detection against photons", log=True),
            )
        )
    if tables.by_depth:
        pictures.append(
            ("Detection against depth", draw.detection(tables.by_depth, "z (nm)", "detection against depth"))
        )
    pictures.append(("Errors in the plane", draw.error_scatter(scored)))
    wide = [
        ("Errors", draw.error_histograms(scored, normalized)),
        ("Frames", draw.counts_per_frame(tables.frames)),
        (
            "Sub-pixel positions of all localizations",
            draw.sub_pixel({"x": comparison.localizations.x, "y": comparison.localizations.y}),
        ),
    ]
    template = resources.files("adaloc.evaluation").joinpath(_PAGE_FILE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        title=title,
        version=__version__,
        key_figures=[
            (label, _text(figures[name])) for name, label in _KEY_FIGURES.items() if figures.get(name) is not None
        ],
        rules=_rules_in_words(comparison, rules),
        notes=list(notes),
        pictures=[(name, _data_uri(figure)) for name, figure in pictures],
        wide=[(name, _data_uri(figure)) for name, figure in wide],
        tables=[
            ("by depth, z in nm", _rows(tables.by_depth)),
            ("by photons in the frame", _rows(tables.by_photons)),
            ("by local density, emitters per µm²", _rows(tables.by_density)),
        ],
        challenge=[(name, _scores(row)) for name, row in challenge.items()],
        figures=[(name, _text(value)) for name, value in figures.items()],
    )


def _rules_in_words(comparison: Comparison, rules: Rules) -> str:
    depth = f", {rules.axial_tolerance_nm:g} nm axial" if comparison.is_3d else ", depth ignored"
    border = "no border left out: the size of the field is not known"
    if comparison.image_size_px is not None:
        height, width = comparison.image_size_px
        border = f"{rules.border_nm:g} nm of border left out of {width} x {height} px"
    return (
        f"{rules.method} pairs within {rules.lateral_tolerance_nm:g} nm lateral{depth}; {border}; emitters of at least "
        f"{rules.min_photons:g} photons are asked for; {len(comparison.localizations)} localizations, "
        f"{len(comparison.truth)} emitters in frames."
    )


def _rows(bins: Sequence[Bin]) -> list[list[str]]:
    return [
        [f"{row.low:.4g} to {row.high:.4g}", str(row.figures.num_truth), *_scores(row.figures), *_crlb(row)]
        for row in bins
    ]


def _crlb(row: Bin) -> list[str]:
    return [_text(row.crlb_lateral_nm), _text(row.crlb_axial_nm)]


def _scores(figures: Evaluation) -> list[str]:
    values = (figures.jaccard, figures.recall, figures.precision, figures.rmse_lateral_nm, figures.rmse_axial_nm)
    return [_text(value) for value in values]


def _text(value: Value) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _data_uri(figure: Figure) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(draw.svg(figure)).decode("ascii")
