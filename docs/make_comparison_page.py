"""Writes docs/comparison.md and its picture from the results of benchmarks/strategies.py.

python docs/make_comparison_page.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "strategies.json"
PAGE = ROOT / "docs" / "comparison.md"
PICTURE = ROOT / "docs" / "images" / "comparison.svg"
_WHAT = {
    "fixed": ("that of `train_config_fixed.json`: Adam at 1e-4, halved after 10 epochs without improvement", "#7a7a7a"),
    "literal": ("the strategy as it was published: AdamW at 5e-4 after a warmup, boosts and decays", "#d1730f"),
    "default": ("`train_config_adaptive.json`: Muon with AdamW, the rate found and adapted, an anneal", "#2a6f97"),
    "default_adamw": ("the same with AdamW alone", "#3a7d44"),
}  # fmt: skip


def page(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    rows = results["rows"]
    groups = {name: [row for row in rows if row["group"] == name] for name in dict.fromkeys(r["group"] for r in rows)}
    counts = {len(group) for group in groups.values()}
    seeds = f"{min(counts)} seeds each" if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds each"
    levels = list(rows[0]["epochs_to"])
    lines = [
        "# Three strategies",
        "",
        "Written by `python docs/make_comparison_page.py` from `benchmarks/results/strategies.json`, which is made by",
        "",
        f"    {results['command']}",
        "",
        *_missing(groups, results["planned_seeds"]),
        f"**The budget is small**: {results['epochs']} epochs, a fifth of the default config's, {seeds}, "
        f"{results['minutes_a_run']:.0f} minutes a run in the median on {results['device']}, on a machine that others "
        "used as well. Data (the reference data), network, loss, augmentation and number of steps are the same for "
        "all; a strategy is an optimizer, its first rate and the rule that changes it:",
        "",
        *[f"- **{name}**: {_WHAT[name][0]}." for name in groups],
        "",
        "So what is compared is whole recipes, not rules at one optimizer; for those see `adaloc bench lr` in the "
        "README. The losses can be compared: knowing nothing scores 5.5 in all of them, and physics allows "
        f"{results['floor']:.2f}.",
        "",
        _what_it_shows(groups, levels),
        "",
        "![Validation loss and learning rate of every run](images/comparison.svg)",
        "",
        "*Which strategy learns faster, and further? Validation loss (above) and learning rate (below); a line is a "
        "seed, the thick ones are the medians.*",
        "",
        "Medians, in brackets the least and largest:",
        "",
        "| | " + " | ".join(groups) + " |",
        "|---" * (len(groups) + 1) + "|",
    ]  # fmt: skip
    lines += [
        f"| {heading} | " + " | ".join(tell(group) for group in groups.values()) + " |"
        for heading, tell in _quantities(levels, results["epochs"])
    ]
    lines += [
        "",
        "Epochs to a level are those after which the validation loss was first below it. Sudden rises are epochs in "
        "which the loss rose by more than 3 sigma of its usual change. Interventions are changes of the rate against "
        "the plan: searches begun again, boosts, reverts, decays, reductions, returns to a copy.",
        "",
        "Each run, as `adaloc compare` gives it:",
        "",
        "| run | initial rate | found rate | " + " | ".join(f"epochs to {level}" for level in levels)
        + " | final loss | sudden rises | interventions | captured | Jaccard index | RMSE lateral |",
        "|---" * (9 + len(levels)) + "|",
    ]  # fmt: skip
    lines += ["| " + " | ".join(_cells(row, levels)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _missing(groups: dict[str, list[dict[str, Any]]], planned: int) -> list[str]:
    """A paragraph that says what is not there yet; none when all is."""
    done, every = sum(map(len, groups.values())), planned * len(groups)
    if done == every:
        return []
    return [f"**Not complete**: {done} of {every} runs are there; a single run says nothing of the spread.", ""]


def _what_it_shows(groups: dict[str, list[dict[str, Any]]], levels: Sequence[str]) -> str:
    """Who is best at what, by the medians."""

    def median(name: str, key: str, level: str | None = None) -> float:
        values = [row[key] if level is None else row[key][level] for row in groups[name]]
        return statistics.median(np.inf if value is None else value for value in values)

    order = sorted(groups, key=lambda name: median(name, "final_loss"))
    soonest = []
    for level in levels:
        after = {name: median(name, "epochs_to", level) for name in groups}
        if min(after.values()) < np.inf:
            soonest.append(f"{level} by {min(after, key=after.__getitem__)}")
    calm = min(groups, key=lambda name: median(name, "unstable_percent"))
    return (
        f"By the final loss, from best to worst: {', '.join(order)}. Reached first: {', '.join(soonest)}. Fewest "
        f"sudden rises: {calm}. The search of the default passes through rates that are too high, which the validation "
        "loss shows as a peak; then the weights go back to the copy from the rate that was found."
    )


def picture(results: dict[str, Any]) -> Figure:
    """Loss and rate against epochs."""
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for group in dict.fromkeys(row["group"] for row in results["rows"]):
        color = _WHAT[group][1]
        rows = [row for row in results["rows"] if row["group"] == group]
        for axis, key in ((top, "val_loss"), (bottom, "lr")):
            series = [np.array(row["curves"][key], float) for row in rows]
            length = min(map(len, series))
            for one in series:
                axis.semilogy(np.arange(1, len(one) + 1), one, color=color, lw=0.5, alpha=0.5)
            middle = np.median([one[:length] for one in series], axis=0)
            axis.semilogy(np.arange(1, length + 1), middle, color=color, lw=2, label=group)
    for level, words in ((results["no_information_loss"], "knowing nothing"), (results["floor"], "physical floor")):
        top.axhline(level, color="black", lw=0.8, ls="--")
        top.text(results["epochs"], level * 1.03, words, ha="right", va="bottom", fontsize=8)
    for level in (3.5, 2.0, 1.0):
        top.axhline(level, color="#7a7a7a", lw=0.6, ls=":")
    top.set_ylim(0.5, 8)
    top.set_yticks([0.6, 1, 2, 3.5, 5.5], ["0.6", "1", "2", "3.5", "5.5"])
    top.minorticks_off()
    top.set_ylabel("validation loss")
    top.legend(frameon=False, fontsize=9, ncols=4, loc="lower left", bbox_to_anchor=(0, 0.1))
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("epoch")
    bottom.set_xlim(0, results["epochs"])
    return figure


def _quantities(levels: Sequence[str], epochs: int) -> list[tuple[str, Callable[[list[dict[str, Any]]], str]]]:
    """Row headings, and what writes a group's cell."""

    def reached(level: str) -> Callable[[list[dict[str, Any]]], str]:
        def tell(group: list[dict[str, Any]]) -> str:
            known = [row["epochs_to"][level] for row in group if row["epochs_to"][level] is not None]
            if not known:
                return f"not in {epochs}"
            return _spread(known, "{:.0f}") + ("" if len(known) == len(group) else f", {len(known)} of {len(group)}")

        return tell

    def column(key: str, pattern: str, unit: str = "") -> Callable[[list[dict[str, Any]]], str]:
        return lambda group: _spread([row[key] for row in group], pattern) + unit

    return [
        ("initial rate", lambda group: f"{group[0]['initial_rate']:g}"),
        ("found rate", lambda group: _spread([row["found_rate"] for row in group], "{:.2g}")),
        *[(f"epochs to {level}", reached(level)) for level in levels],
        ("final loss", column("final_loss", "{:.3f}")),
        ("over all validation frames, best model", column("all_frames", "{:.3f}")),
        ("sudden rises", column("unstable_percent", "{:.1f}", " %")),
        ("interventions", column("interventions", "{:.0f}")),
        ("captured information", column("captured_percent", "{:.1f}", " %")),
        ("Jaccard index", column("jaccard", "{:.3f}")),
        ("RMSE lateral", column("rmse_lateral_nm", "{:.1f}", " nm")),
    ]


def _spread(values: Sequence[float | None], pattern: str) -> str:
    """The median, with the range where there is one; - where nothing is known."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    middle, low, high = (pattern.format(v) for v in (statistics.median(known), min(known), max(known)))
    return middle if low == high else f"{middle} ({low} to {high})"


def _cells(row: dict[str, Any], levels: Sequence[str]) -> list[str]:
    def tell(value: float | None, pattern: str) -> str:
        return "-" if value is None else pattern.format(value)

    return [
        row["name"], tell(row["initial_rate"], "{:g}"), tell(row["found_rate"], "{:.2g}"),
        *[tell(row["epochs_to"][level], "{}") for level in levels],
        tell(row["final_loss"], "{:.3f}"), tell(row["unstable_percent"], "{:.1f} %"), str(row["interventions"]),
        tell(row["captured_percent"], "{:.1f} %"), tell(row["jaccard"], "{:.3f}"),
        tell(row["rmse_lateral_nm"], "{:.1f} nm"),
    ]  # fmt: skip


def main() -> None:
    """Writes both."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page(results), encoding="utf-8")
    mpl.rcParams.update({"svg.hashsalt": "comparison", "axes.spines.top": False, "axes.spines.right": False})
    picture(results).savefig(PICTURE, metadata={"Date": None}, facecolor="white")
    print(f"written: {PAGE} and {PICTURE}")


if __name__ == "__main__":
    main()
