"""`summary.json`: the figures of a run for programs. Strict JSON; what is not known is null, never invented.

Keys:

- version, seed, device, num_parameters, no_information_loss: as the log's start event has them
- physical_floor: the loss that physics allows; captured_information: percent of the way from the no-information
  loss to it, by the best model; both null where the data do not tell their physics
- status: finished, stopped_early, interrupted, or unfinished (running, or killed)
- epochs, steps: finished ones; wall_s: seconds of training and validation over all resumes
- val_loss: initial (before the first step), epoch_50 and epoch_200 (after so many epochs), final (last epoch),
  best; a loss that is not a finite number is null, and the verdict names it
- best_epoch: epochs after which the best loss was reached; explained_percent: of the no-information loss, by the best
- val_channels: name to validation loss before weighting, last epoch
- lr: initial (`lr_first`), found (by the search; null without one), final (last epoch), num_boosts, num_decays,
  num_plateaus, num_rollbacks
- metrics: the last ones that were measured: jaccard, precision, recall from 0 to 1, rmse_lateral_nm and
  rmse_axial_nm in nm, efficiency_3d in percent
- promises: list of level, within_epochs, reached_after, state; null where they do not apply
- diagnosis: epoch, step, findings (cause, score, evidence, remedy) and tried of the last one that the run made of
  itself; null when it made none
- num_resumes, verdict
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from adaloc.files import write_text
from adaloc.monitor.analysis import Analysis, analyse
from adaloc.monitor.log import Run, load_run, number
from adaloc.monitor.verdict import verdict

SUMMARY_FILE = "summary.json"
METRIC_NAMES = ("jaccard", "precision", "recall", "rmse_lateral_nm", "rmse_axial_nm", "efficiency_3d")


def write_summary(folder: Path) -> Path:
    """Writes summary.json into a run folder.

    Raises:
        DataError: when there is no run in the folder.
        AdalocError: when it cannot be written.
    """
    path = folder / SUMMARY_FILE
    write_text(path, json.dumps(build_summary(load_run(folder)), indent=2, allow_nan=False) + "\n")
    return path


def build_summary(run: Run) -> dict[str, Any]:
    """The summary as plain containers; the keys are those of the module's docstring."""
    analysis, epochs = analyse(run), run.epochs
    last_metrics = run.metrics[-1] if run.metrics else {}
    return {
        "version": _text(run.start.get("version")),
        "status": run.status,
        "seed": _whole(run.start.get("seed")),
        "epochs": len(epochs),
        "steps": _whole(_last(epochs.step)),
        "wall_s": _finite(_last(epochs.wall_s)),
        "val_loss": _val_loss(run, analysis),
        "best_epoch": analysis.best_after,
        "explained_percent": _finite(analysis.explained_percent),
        "val_channels": {name: _finite(_last(values)) for name, values in epochs.val_channels.items()},
        "captured_information": _finite(analysis.captured_percent),
        "no_information_loss": _finite(run.no_information_loss),
        "physical_floor": _finite(run.floor),
        "num_parameters": _whole(run.start.get("num_parameters")),
        "device": _text(run.start.get("device")),
        "lr": {
            "initial": _finite(run.start.get("lr_first")),
            "found": next((_finite(a.lr_after) for a in reversed(run.adjustments) if a.kind == "found"), None),
            "final": _finite(_last(epochs.lr)),
            "num_boosts": analysis.adjustments.get("boost", 0),
            "num_decays": analysis.adjustments.get("decay", 0),
            "num_plateaus": analysis.adjustments.get("plateau", 0),
            "num_rollbacks": analysis.adjustments.get("rollback", 0),
        },
        "metrics": {name: _finite(last_metrics.get(name)) for name in METRIC_NAMES},
        "promises": None if analysis.promises is None else [vars(promise) for promise in analysis.promises],
        "diagnosis": _diagnosis(run),
        "num_resumes": run.num_resumes,
        "verdict": verdict(run),
    }


def _diagnosis(run: Run) -> dict[str, Any] | None:
    if run.diagnosis is None:
        return None
    findings = run.diagnosis.get("findings")
    return {
        "epoch": _whole(run.diagnosis.get("epoch")),
        "step": _whole(run.diagnosis.get("step")),
        "findings": [_strict(finding) for finding in findings] if isinstance(findings, list) else [],
        "tried": _strict(run.diagnosis.get("tried")),
    }


def _strict(value: Any) -> Any:
    """JSON without numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return _finite(value) if isinstance(value, float) else value


def loss_after(run: Run, num_epochs: int) -> float:
    """Validation loss after so many epochs (index num_epochs - 1 in the log); NaN when not reached."""
    return _last(run.epochs.val_loss[run.epochs.index == num_epochs - 1])


def _val_loss(run: Run, analysis: Analysis) -> dict[str, float | None]:
    return {
        "initial": _finite(run.initial.get("val_loss")) if run.initial is not None else None,
        "epoch_50": _finite(loss_after(run, 50)),
        "epoch_200": _finite(loss_after(run, 200)),
        "final": _finite(analysis.last_loss),
        "best": _finite(analysis.best_loss),
        "all_frames": _finite(run.metrics[-1].get("val_loss_all_frames")) if run.metrics else None,
    }


def _last(values: np.typing.NDArray[np.float64]) -> float:
    return float(values[-1]) if len(values) else math.nan


def _finite(value: Any) -> float | None:
    as_float = number(value)
    return as_float if math.isfinite(as_float) else None


def _whole(value: Any) -> int | None:
    as_float = _finite(value)
    return None if as_float is None else int(as_float)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
