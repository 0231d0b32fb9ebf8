"""`adaloc monitor` and `adaloc compare`: looking at runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaloc.cli_guard import console, guarded
from adaloc.errors import ConfigError
from adaloc.words import Language

monitor_app = typer.Typer()
LanguageOption = Annotated[str, typer.Option("--lang", help="Language of the words: en or zh.")]


@monitor_app.command()
@guarded
def monitor(
    run: Annotated[Path, typer.Argument(help="Run folder; with --serve also a folder of runs.")] = Path(
        "outputs/training_results_adaptive"
    ),
    mode: Annotated[str, typer.Option(help="all, plot, report or monitor.")] = "all",
    interval: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1)] = 30.0,
    lang: LanguageOption = "en",
    serve: Annotated[
        bool, typer.Option("--serve", help="A page on 127.0.0.1 that refreshes itself, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option(help="Of --serve; 0 takes a free one.", min=0, max=65535)] = 8765,
) -> None:
    """Plots, reports, watches or serves a run; never disturbs it.

    Example: adaloc monitor outputs/training_results_adaptive --mode monitor --interval 5

    Example: adaloc monitor outputs --serve --interval 5
    """
    language = parse_language(lang)
    if mode not in ("all", "plot", "report", "monitor"):
        raise ConfigError(f"--mode {mode} is not known. Choose all, plot, report or monitor.")
    if serve:
        from adaloc.monitor.serve import make_server

        with make_server(run, port, interval, language) as server:
            console.print(f"Serving {run} at http://127.0.0.1:{server.server_port}/ ; Ctrl-C ends", soft_wrap=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                console.print("The page is closed; nothing else was touched.")
        return
    from adaloc.monitor.command import monitor as look

    look(run, mode, interval, language=language)  # type: ignore[arg-type]


@monitor_app.command()
@guarded
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also a page with curves and config differences.")] = None,
    lang: LanguageOption = "en",
) -> None:
    """Compares runs: rates, epochs to each promised level, losses, stability, interventions, information, time.

    Example: adaloc compare outputs/fixed outputs/adaptive --html comparison.html
    """
    language = parse_language(lang)
    if as_json and markdown:
        raise ConfigError("--json and --markdown exclude each other.")
    from adaloc.files import write_text
    from adaloc.monitor import compare as table
    from adaloc.monitor.compare_terminal import show_table

    loaded = table.load_runs(runs)
    if html is not None:
        write_text(html, table.comparison_page(loaded, language))
    if as_json:
        print(table.json_table(loaded))
    elif markdown:
        print(table.markdown_table(loaded, language), end="")
    else:
        show_table(loaded, language, console)
        if html is not None:
            console.print(f"written: {html}", soft_wrap=True)


def parse_language(text: str) -> Language:
    """The language of an option.

    Raises:
        ConfigError: when it is not known.
    """
    if text not in ("en", "zh"):
        raise ConfigError(f"--lang {text} is not known. Choose en or zh.")
    return text  # type: ignore[return-value]
