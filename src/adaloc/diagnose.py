"""`adaloc diagnose`: why a run does not learn, from its log and, where they are there, its checkpoint and data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaloc.bounds import read_text
from adaloc.config import Config
from adaloc.config_file import parse_config
from adaloc.data.windows import check_sizes, load_samples, split_samples
from adaloc.errors import AdalocError, DataError
from adaloc.training.checkpoint import LATEST, load_checkpoint
from adaloc.training.diagnosis import Diagnosis, diagnose_events
from adaloc.training.diagnosis_text import CAUSES, report
from adaloc.training.probes import make_probes
from adaloc.training.run import setup
from adaloc.training.run_log import read_events
from adaloc.words import Language


def diagnose_folder(folder: Path, language: Language, *, as_json: bool, log_only: bool) -> str:
    """The diagnosis of a run folder, as text or JSON. Changes nothing in it.

    Raises:
        DataError: when there is no run in it.
    """
    diagnosis, reason = diagnose_run(folder, log_only=log_only)
    if as_json:
        at = 0 if language == "en" else 1
        contents: dict[str, Any] = diagnosis.event() | {"without_probes": reason}
        for finding in contents["findings"]:
            words = CAUSES[finding["cause"]]
            finding |= {"text": words.what[at], "remedy_text": words.remedy[at]}
        return json.dumps(contents, indent=2, ensure_ascii=False)
    probed = any(value is not None for value in (diagnosis.evidence.overfit_ratio, diagnosis.evidence.gap))
    text = report(
        diagnosis.findings, diagnosis.evidence.tried, diagnosis.epoch, diagnosis.step, language, probed=probed
    )
    return text if reason is None or log_only else f"{text}\n({reason})"


def diagnose_run(folder: Path, *, log_only: bool) -> tuple[Diagnosis, str | None]:
    """The diagnosis, and why there were no trials on copies; None when there were.

    Raises:
        DataError: when there is no run in the folder.
    """
    path = folder / "log.jsonl"
    try:
        events = read_events(path)
    except OSError as error:
        raise DataError(f"The log {path} cannot be read: {error.strerror or error}.") from None
    if not any(event["event"] == "start" for event in events):
        raise DataError(f"There is no run in {folder} yet; start one with: python start_adaptive_training.py")
    if log_only:
        return diagnose_events(events), "--log-only"
    try:
        return diagnose_events(events, _probe(folder)), None
    except AdalocError as error:
        # The log says much alone; what is missing for more is told.
        return diagnose_events(events), str(error)


def _probe(folder: Path) -> dict[str, Any]:
    """Trials on copies, from the latest checkpoint.

    Raises:
        AdalocError: when the config, the checkpoint or the data cannot be read.
    """
    config = _config_of(folder)
    state = load_checkpoint(folder / LATEST, config)
    training, validation = (load_samples(part, config.simulation.camera) for part in split_samples(config.data))
    check_sizes([*training, *validation], config.data)
    return make_probes(setup(config, training, validation, state))


def _config_of(folder: Path) -> Config:
    path = folder / "config.json"
    try:
        contents = json.loads(read_text(path, 16 * 2**20, "config"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from None
    config = parse_config(contents, str(path))
    # The folder may have been moved since.
    output = config.output.model_copy(update={"save_dir": folder})
    return config.model_copy(update={"output": output})
