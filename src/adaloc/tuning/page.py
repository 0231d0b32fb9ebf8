"""The page of a study: its history, which parameters matter, and the trials. One file that loads nothing."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import optuna
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from adaloc.files import write_text
from adaloc.tuning.space import Space
from adaloc.tuning.study import IS_BASE, PRUNE_FROM, finished

PAGE_FILE = "tuning.html"
_FEWEST_FOR_IMPORTANCE = 10
_COLUMNS = 3
# Colours of Okabe and Ito, which colour-blind people tell apart.
_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#9aa5b1"


def write_page(study: Study, space: Space, epochs: int, path: Path) -> None:
    """Writes the page.

    Raises:
        AdalocError: when it cannot be written.
    """
    write_text(path, html_page(study, space, epochs))


def html_page(study: Study, space: Space, epochs: int) -> str:
    """The page's HTML; everything that it shows is escaped."""
    trials = finished(study)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    importance = importances(study)
    best = min(complete, key=_loss, default=None)
    template = resources.files("adaloc.tuning").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        headline=_headline(best, trials),
        facts=[
            ("trials", f"{len(trials)}"),
            ("trained to the end", f"{len(complete)}"),
            ("stopped early", f"{len(trials) - len(complete)}"),
            ("epochs of a trial", f"{epochs}"),
        ],
        history=_base64(plot_history(trials)) if complete else None,
        curves=_base64(plot_curves(trials, best)) if complete else None,
        importance=_base64(plot_importance(importance)) if importance else None,
        fewest=_FEWEST_FOR_IMPORTANCE,
        prune_percent=round(100 * PRUNE_FROM),
        values=_base64(plot_values(complete, space)) if len(complete) > 1 else None,
        names=list(space),
        rows=[_row(t, space, best) for t in sorted(trials, key=_rank)],
    )


def importances(study: Study) -> dict[str, float]:
    """Each parameter's share in reaching the best tenth (PED-ANOVA, Watanabe et al. 2023); empty with few trials."""
    complete = [t for t in finished(study) if t.state == TrialState.COMPLETE]
    if len(complete) < _FEWEST_FOR_IMPORTANCE or len({t.value for t in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: share for name, share in found.items() if math.isfinite(share)}


def plot_history(trials: Sequence[FrozenTrial]) -> Figure:
    """Losses in the order of the trials, with the lowest so far."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    lowest, line = math.inf, []
    for trial in complete:
        lowest = min(lowest, _loss(trial))
        line.append(lowest)
    numbers = [t.number for t in complete]
    axes.step(numbers, line, where="post", color=_ORANGE, label="lowest so far")
    axes.plot(numbers, [_loss(t) for t in complete], "o", color=_BLUE, label="trained to the end")
    top = max(map(_loss, complete))
    stopped = [t.number for t in trials if t.state == TrialState.PRUNED]
    if stopped:
        axes.plot(stopped, [top] * len(stopped), "x", color=_GREY, label="stopped early (no final loss)")
    for base in (t for t in complete if t.user_attrs.get(IS_BASE)):
        axes.axhline(_loss(base), color=_GREY, linestyle=":", label="the config as it was given")
    axes.set(xlabel="trial", ylabel="validation loss at the end")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return figure


def plot_curves(trials: Sequence[FrozenTrial], best: FrozenTrial | None) -> Figure:
    """What the trials reported while they trained."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots()
    for trial in sorted(trials, key=lambda t: best is not None and t.number == best.number):
        if not trial.intermediate_values:
            continue
        epochs, losses = zip(*sorted(trial.intermediate_values.items()), strict=True)
        is_best = best is not None and trial.number == best.number
        color = _ORANGE if is_best else (_BLUE if trial.state == TrialState.COMPLETE else _GREY)
        axes.plot([e + 1 for e in epochs], losses, color=color, linewidth=2.2 if is_best else 0.9,
                  alpha=1 if is_best else 0.7)  # fmt: skip
    for color, label in ((_ORANGE, "best"), (_BLUE, "trained to the end"), (_GREY, "stopped early")):
        axes.plot([], [], color=color, label=label)
    axes.set(xlabel="epoch", ylabel="lowest validation loss so far", yscale="log")
    axes.yaxis.set_major_formatter("{x:.3g}")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    axes.tick_params(axis="y", which="both", labelsize=8)
    axes.legend(fontsize=8)
    return figure


def plot_importance(shares: dict[str, float]) -> Figure:
    """A bar for each parameter."""
    figure = Figure(figsize=(10, 0.6 + 0.3 * len(shares)), layout="constrained")
    axes = figure.subplots()
    names = sorted(shares, key=lambda name: shares[name])
    axes.barh(names, [shares[name] for name in names], color=_BLUE)
    axes.set_xlabel("share of the importance")
    return figure


def plot_values(complete: Sequence[FrozenTrial], space: Space) -> Figure:
    """The final loss against each parameter's value."""
    names = [name for name in space if any(name in t.params for t in complete)]
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(10, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, names, strict=False):
        having = [t for t in complete if name in t.params]
        losses, parameter = [_loss(t) for t in having], space[name]
        if parameter.choices is not None:
            labels = [str(choice) for choice in parameter.choices]
            places = [labels.index(str(parameter.to_config(t.params[name]))) for t in having]
            axes.plot(places, losses, "o", color=_BLUE, alpha=0.7)
            axes.set_xticks(range(len(labels)), labels, fontsize=8)
            axes.set_xlim(-0.5, len(labels) - 0.5)
        else:
            axes.plot([t.params[name] for t in having], losses, "o", color=_BLUE, alpha=0.7)
            axes.set_xscale("log" if parameter.is_log else "linear")
        axes.set_xlabel(name.removeprefix("training.").removeprefix("adaptive_lr_config."), fontsize=8)
        axes.tick_params(labelsize=8)
    for axes in panels[::_COLUMNS]:
        axes.set_ylabel("loss", fontsize=8)
    return figure


def _headline(best: FrozenTrial | None, trials: Sequence[FrozenTrial]) -> str:
    if best is None:
        return "No trial has come to its end yet."
    base = next((t for t in trials if t.user_attrs.get(IS_BASE) and t.value is not None), None)
    text = f"Trial {best.number} is the best: validation loss {_loss(best):.4f}"
    if base is None:
        return text + "."
    if base.number == best.number:
        return text + ". It is the config as it was given."
    return (
        text + f", {100 * (1 - _loss(best) / _loss(base)):.1f} % below the config as it was given ({_loss(base):.4f})."
    )


def _row(trial: FrozenTrial, space: Space, best: FrozenTrial | None) -> dict[str, Any]:
    ending = "to the end" if trial.state == TrialState.COMPLETE else "stopped early"
    if "reason" in trial.user_attrs:
        ending = "cannot be trained"
    values = [space[name].to_config(trial.params[name]) if name in trial.params else None for name in space]
    return {
        "number": trial.number,
        "loss": "" if trial.value is None else f"{trial.value:.4f}",
        "ending": ending,
        "values": ["" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v) for v in values],
        "is_best": best is not None and best.number == trial.number,
    }


def _rank(trial: FrozenTrial) -> tuple[bool, float]:
    return trial.value is None, trial.number if trial.value is None else trial.value


def _loss(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return float(trial.value)


def _base64(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
