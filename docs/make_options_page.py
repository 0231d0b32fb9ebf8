"""Writes the tables of docs/options.md from the results in benchmarks/results: python docs/make_options_page.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "options.md"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
ABLATION, RANDOMIZATION = "ablation_options.json", "randomization.json"


def page(text: str) -> str:
    """The page with its tables written anew."""
    tables = {"ablation": ablation_table(), "randomization": randomization_table()}
    for name, table in tables.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert mark.search(text), f"the page has no place for the table {name}"
        text = mark.sub(lambda match, table=table: match[1] + table + match[2], text)  # type: ignore[misc]
    return text


def ablation_table() -> str:
    """A line for each option, the lowest loss first."""
    results = json.loads((RESULTS / ABLATION).read_text(encoding="utf-8"))
    lines = ["| option | what it changes | seeds | loss | over default | Jaccard | RMSE lateral | axial | time | |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    default = next(line for line in results["means"] if line["option"] == "default")
    for line in results["means"]:
        time = "" if not line["train_s"] else f"{line['train_s'] / default['train_s']:.2f}"
        lines.append(
            f"| {line['option']} | {_changes(results['options'][line['option']])} | {line['seeds']} | "
            f"{line['loss']:.3f} | {line['ratio']:.3f} | {_number(line['jaccard'], 3)} | "
            f"{_number(line['rmse_lateral_nm'], 1)} | {_number(line['rmse_axial_nm'], 1)} | {time} | "
            f"{line['verdict']} |"
        )
    measured = {line["option"] for line in results["means"]}
    if missing := [name for name in results["options"] if name not in measured]:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def randomization_table() -> str:
    """A line for each microscope, both networks beside each other."""
    results = json.loads((RESULTS / RANDOMIZATION).read_text(encoding="utf-8"))
    lines = ["| the movies' microscope | loss | randomized | Jaccard | randomized | RMSE axial | randomized |"]
    lines.append("|---|---|---|---|---|---|---|")
    seeds = len({row["seed"] for row in results["rows"]})
    for line in results["means"]:
        cells = [
            _number(line.get(f"{training}: {name}"), digits)
            for name, digits in (("loss", 3), ("jaccard", 3), ("rmse_axial_nm", 1))
            for training in ("as calibrated", "randomized")
        ]
        lines.append(f"| {line['world']} | {' | '.join(cells)} |")
    lines += ["", f"Means over {seeds} seeds." if seeds > 1 else "One seed."]
    return "\n".join(lines) + "\n"


def _changes(option: dict[str, Any]) -> str:
    """The keys that an option sets, without those of rates, which the text names."""
    found = []

    def add(tree: dict[str, Any], prefix: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{key}.")
            elif key not in ("lr_first", "lr_second", "warmup_epochs", "warmup_start_lr"):
                found.append(f"`{(prefix + key).replace('adaptive_lr_config.', '')}` {json.dumps(value)}")

    add(option, "")
    return ", ".join(found)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written: {PAGE}")
