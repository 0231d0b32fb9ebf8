"""`adaloc evaluate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from adaloc.cli_guard import console, escape, guarded, parse_pair, parse_pixel_size
from adaloc.errors import ConfigError

evaluate_app = typer.Typer()


@evaluate_app.command()
@guarded
def evaluate(
    locs: Annotated[Path, typer.Argument(help="Localizations: any file that adaloc reads.")],
    truth: Annotated[Path, typer.Argument(help="Truth: a sample folder, its emitters.h5, or a challenge .csv.")],
    pixel_size_nm: Annotated[str | None, typer.Option(help="Camera pixel, nm, where the files do not say.")] = None,
    image_size_px: Annotated[
        str | None, typer.Option(help="Field as HEIGHTxWIDTH px, to leave its border out of the count.")
    ] = None,
    lateral_nm: Annotated[float, typer.Option(help="Largest lateral distance of a match, nm.")] = 250.0,
    axial_nm: Annotated[float, typer.Option(help="Largest axial distance of a match, nm.")] = 500.0,
    border_nm: Annotated[float, typer.Option(help="Border that is left out, nm.")] = 450.0,
    min_photons: Annotated[float, typer.Option(help="Dimmer emitters are not asked for.")] = 0.0,
    photon_quantile: Annotated[
        float | None, typer.Option(help="The same as a quantile of the truth's photons.", min=0, max=0.99)
    ] = None,
    matching: Annotated[str, typer.Option(help="greedy, nearest pairs first, or optimal.")] = "greedy",
    challenge: Annotated[
        bool, typer.Option("--challenge", help="Also the four scores of the SMLM challenge 2016.")
    ] = False,
    rmsmd: Annotated[bool, typer.Option("--rmsmd", help="Also RMSMD and RMSMD-P, pooled over the movie.")] = False,
    crlb: Annotated[
        bool, typer.Option("--crlb", help="Also errors over the bound; a config or a page ask for it too.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Config with optics and camera, for the CRLB.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write a page of plots, .html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Scores localizations against the truth as the SMLM challenge 2016 does.

    Example: adaloc evaluate locs.csv data/reference/sample_000 --page evaluation.html
    """
    if matching not in ("greedy", "optimal"):
        raise ConfigError(f"--matching {matching} is not known. Choose greedy or optimal.")
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--page {page}: the page is HTML; write a name that ends in .html.")
    from adaloc.evaluation.command import Extras, report_files
    from adaloc.evaluation.comparison import Rules

    report = report_files(
        locs,
        truth,
        None if pixel_size_nm is None else parse_pixel_size(pixel_size_nm),
        None if image_size_px is None else parse_pair(image_size_px, "--image-size-px", int),
        rules=Rules(lateral_nm, axial_nm, border_nm, min_photons, matching),  # type: ignore[arg-type]
        photon_quantile=photon_quantile,
        extras=Extras(rmsmd, challenge, crlb, config, page),
    )
    if as_json:
        scores = {name: dataclasses.asdict(row) for name, row in report.challenge.items()}
        print(json.dumps({**report.figures, **({"challenge": scores} if scores else {})}, indent=2))
        return
    table = Table(box=None, show_header=False)
    for name, value in report.figures.items():
        table.add_row(name, _text(value))
    console.print(table)
    if report.challenge:
        scores_table = Table(
            "SMLM challenge 2016", "Jaccard", "RMSE lateral", "RMSE axial", "E lateral", "E 3D", box=None
        )
        for name, row in report.challenge.items():
            values = (
                row.jaccard, row.rmse_lateral_nm, row.rmse_axial_nm, row.efficiency_lateral, row.efficiency_3d
            )  # fmt: skip
            scores_table.add_row(name, *(_text(value) for value in values))
        console.print(scores_table)
    for note in report.notes:
        console.print(escape(note), soft_wrap=True)
    if page is not None:
        console.print(f"  page {page}", soft_wrap=True)


def _text(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
