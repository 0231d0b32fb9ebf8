"""The comparison in a terminal: turned on its side, runs as columns, so that it fits the width."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from adaloc.monitor.compare import cells, headings, make_row
from adaloc.monitor.facts import differing_keys
from adaloc.monitor.log import Run
from adaloc.monitor.say import speaker
from adaloc.words import Language


def show_table(runs: dict[str, Run], language: Language, console: Console) -> None:
    """Prints the table, and the config keys that differ."""
    say = speaker(language)
    columns = [
        [words for words, _ in cells(make_row(name, run, language), run, language)] for name, run in runs.items()
    ]
    table = Table(box=None, pad_edge=False)
    for heading, *names in zip(headings(say)[:1], *[column[:1] for column in columns], strict=True):
        table.add_column(heading, style="dim", no_wrap=True)
        for name in names:
            table.add_column(Text(name), justify="right", overflow="fold")
    for heading, *values in zip(headings(say)[1:], *[column[1:] for column in columns], strict=True):
        table.add_row(heading, *(Text(value) for value in values))
    console.print(table)
    differences = differing_keys([run.config for run in runs.values()])
    if not differences:
        return
    console.print(f"\n{say('Where do their configs differ?')}")
    listed = Table(box=None, pad_edge=False)
    longest = max(len(key) for key, _ in differences)
    listed.add_column(say("key"), style="dim", overflow="fold", no_wrap=longest <= console.width // 2)
    for name in runs:
        listed.add_column(Text(name), justify="right", overflow="fold")
    for key, values in differences:
        listed.add_row(key, *(Text(value) for value in values))
    console.print(listed)
