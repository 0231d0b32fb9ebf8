"""The integrity check as a command meets it: loads the data, asks, shows one line per finding, and refuses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from adaloc.config import Config
from adaloc.data.generate import holds_other_files, is_complete, psf_of_data, read_description
from adaloc.data.integrity import Integrity, check_samples
from adaloc.data.integrity_text import describe
from adaloc.data.windows import Sample, check_sizes, load_samples, split_samples
from adaloc.errors import DataError
from adaloc.simulation.psf import PSF
from adaloc.words import Language


def load_data(config: Config, console: Console) -> tuple[list[Sample], list[Sample]]:
    """The training and the validation samples.

    Raises:
        DataError: naming the sample and what is wrong with it.
    """
    folders = split_samples(config.data)
    console.print(f"Loading {len(folders[0])} training and {len(folders[1])} validation samples")
    training, validation = (load_samples(part, config.simulation.camera) for part in folders)
    check_sizes([*training, *validation], config.data)
    return training, validation


def refuse_hopeless(
    training: Sequence[Sample],
    validation: Sequence[Sample],
    config: Config,
    console: Console,
    *,
    force: bool,
    language: Language = "en",
) -> dict[str, Any]:
    """Checks loaded data, shows the findings, and refuses data that cannot be learned from.

    Returns:
        The values of the log's event "integrity".

    Raises:
        DataError: when a finding stops the training and `force` is not given.
    """
    begin = time.perf_counter()
    integrity = check_samples(training, validation, config.simulation, _psf_of_data(config))
    seconds = time.perf_counter() - begin
    _show(integrity, console, language)
    if integrity.stops and not force:
        causes = ", ".join(dict.fromkeys(finding.cause for finding in integrity.stops))
        raise DataError(
            f"The data in {config.data.root} cannot be learned from as they are: {causes}. See the lines above for "
            "what to do, or train on them nevertheless with --force."
        )
    if integrity.stops:
        console.print("[yellow]--force[/yellow]: training on these data nevertheless.")
    return {
        "findings": [finding.to_dict() for finding in integrity.findings],
        "measured": integrity.measured,
        "undecided": integrity.undecided,
        "seconds": round(seconds, 3),
    }


def _psf_of_data(config: Config) -> PSF | None:
    """The PSF that the data were simulated with; None for data of others, or where its file is gone since.

    The floor, which comes next, says so when it is gone.
    """
    try:
        description = read_description(config.data.root)
        return None if description is None else psf_of_data(config.data.root, config.simulation)
    except DataError:
        return None


def show_integrity(config: Config, language: Language, console: Console) -> None:
    """The check of the data that are there; nothing when they are still to be simulated.

    Raises:
        DataError: as `refuse_hopeless`.
    """
    root = config.data.root
    if not root.is_dir() or (
        config.data.simulate_if_missing and (not holds_other_files(root) or not is_complete(root, config))
    ):
        return
    training, validation = load_data(config, console)
    refuse_hopeless(training, validation, config, console, force=False, language=language)


def _show(integrity: Integrity, console: Console, language: Language) -> None:
    marks = {"stop": "[red]stop[/red]", "warn": "[yellow]warning[/yellow]"}
    for finding in integrity.findings:
        text = describe(finding, language).replace("[", r"\[")
        console.print(f"{marks[finding.severity]} {text}", soft_wrap=True, highlight=False)
    facts = integrity.measured
    if integrity.undecided:
        console.print(
            f"Data: whether frames and emitters belong together could not be told ({integrity.undecided}).",
            soft_wrap=True,
        )
    elif not integrity.findings:
        # A PSF without light in its middle shows around the emitters, not at them.
        strength = max(float(facts["z_own"]), float(facts.get("z_peak", 0.0)))
        console.print(
            f"Data: frames and emitters belong together: light at the emitters is {strength:.4g} standard "
            f"deviations above chance ({facts['num_emitters']} emitters in {facts['num_frames']} frames looked at).",
            soft_wrap=True,
        )
