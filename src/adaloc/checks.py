"""The environment check: what a run needs, each line with what to do when it fails."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaloc.config import Config
from adaloc.data.generate import holds_other_files, is_complete, read_description
from adaloc.data.sample_folder import find_movie, list_samples
from adaloc.data.tiff_file import open_tiff
from adaloc.errors import AdalocError
from adaloc.models.device import choose_device, describe_device, use_bfloat16

_GIB = 2**30
_TESTED_PYTHONS = ((3, 11), (3, 12))
_MIN_FREE_DISK_GIB = 1.0  # a run folder with checkpoints, TensorBoard and report stays below 200 MB
_MIN_FREE_MEMORY_GIB = 2.0  # torch, the reference data and a batch's activations need about 1.5


@dataclass(frozen=True)
class Check:
    """One line of the environment check.

    Attributes:
        name: what was looked at.
        status: ok, warning (the run goes on) or failed (it cannot).
        detail: what was found.
        remedy: what to do; empty when ok.
    """

    name: str
    status: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""


def check_environment(config: Config) -> list[Check]:
    """All checks, in the order of the table that is shown."""
    return [
        _check_python(),
        *_check_dependencies(),
        _check_device(config),
        _check_memory(),
        _check_disk(config.output.save_dir),
        check_data(config),
    ]


def check_data(config: Config) -> Check:
    """The training data, with the number of samples and frames."""
    root = config.data.root
    try:
        if config.data.simulate_if_missing and holds_other_files(root) and read_description(root) is None:
            remedy = (
                "Set data.simulate_if_missing to false to train on these files, or name another folder in data.root."
            )
            return Check("data", "failed", f"{root} holds files that adaloc did not simulate", remedy)
        if not root.is_dir() or (config.data.simulate_if_missing and not is_complete(root, config)):
            if config.data.simulate_if_missing:
                simulation = config.simulation
                asked = f"{simulation.num_samples} samples of {simulation.num_frames} frames"
                return Check("data", "ok", f"{root}: not complete; {asked} will be simulated, as the config asks")
            remedy = (
                "Give the right folder in data.root, simulate data with: adaloc simulate --config CONFIG --out "
                f"{root}, or set data.simulate_if_missing to true."
            )
            return Check("data", "failed", f"{root} does not exist", remedy)
        folders = list_samples(root)
        lengths = Counter(_num_frames(find_movie(folder)) for folder in folders)
    except AdalocError as error:
        return Check("data", "failed", str(error), "Mend or delete what is named here.")
    if len(folders) < 2:
        return Check("data", "failed", f"{root} holds {len(folders)} samples", "Training needs at least 2.")
    frames = ", ".join(f"{number} x {length} frames" for length, number in sorted(lengths.items()))
    return Check("data", "ok", f"{root}: {len(folders)} samples ({frames})")


def _num_frames(path: Path) -> int:
    with open_tiff(path) as tiff:
        shape = tiff.series[0].shape
    return int(shape[0]) if len(shape) > 2 else 1


def _check_python() -> Check:
    # The package's own metadata refuses older Pythons; a newer one may work but was not tested.
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] not in _TESTED_PYTHONS:
        return Check("Python", "warning", version, "Tested are Python 3.11 and 3.12.")
    return Check("Python", "ok", version)


def _check_dependencies() -> list[Check]:
    checks = []
    for requirement in importlib.metadata.requires("adaloc") or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        try:
            checks.append(Check(name, "ok", importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(name, "failed", "not installed", f"Run make setup, or: pip install '{requirement}'"))
    return checks


def _check_device(config: Config) -> Check:
    try:
        device = choose_device(config.device)
    except AdalocError as error:
        return Check("device", "failed", str(error), 'Set device to "auto" or "cpu".')
    number_format = "bfloat16" if use_bfloat16(config.precision, device) else "float32"
    return Check("device", "ok", f"{describe_device(device)}, {number_format}")


def _check_memory() -> Check:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split()[1:]}
        free, total = kib["MemAvailable"] * 1024 / _GIB, kib["MemTotal"] * 1024 / _GIB
    except (OSError, KeyError, ValueError):
        return Check("memory", "warning", "unknown on this system", f"Training needs {_MIN_FREE_MEMORY_GIB:g} GiB.")
    detail = f"{free:.1f} GiB free of {total:.1f} GiB"
    if free < _MIN_FREE_MEMORY_GIB:
        return Check("memory", "warning", detail, "Close other programs, or lower data.batch_size.")
    return Check("memory", "ok", detail)


def _check_disk(folder: Path) -> Check:
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free / _GIB
    if free < _MIN_FREE_DISK_GIB:
        return Check(
            "disk", "failed", f"{free:.2f} GiB free for {folder}",
            f"Free {_MIN_FREE_DISK_GIB:g} GiB, or choose another output.save_dir.",
        )  # fmt: skip
    return Check("disk", "ok", f"{free:.1f} GiB free for {folder}")
