"""Batches ahead of the training loop, in this process or in workers."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset

from adaloc.data.training_windows import TrainingWindows
from adaloc.data.windows import Batch
from adaloc.stopping import hidden_from_children


class _Steps(Dataset[Batch]):
    def __init__(self, windows: TrainingWindows) -> None:
        self._windows = windows

    def __getitem__(self, step: int) -> Batch:
        return self._windows[step]


def iterate_batches(windows: TrainingWindows, steps: range, num_workers: int) -> Iterator[Batch]:
    """The batches of these steps, in order; the same for any number of workers."""
    if num_workers == 0 or len(steps) == 0:
        return (windows[step] for step in steps)
    loader = DataLoader(
        _Steps(windows),
        batch_size=None,
        sampler=steps,
        num_workers=min(num_workers, len(steps)),
        prefetch_factor=4,
        multiprocessing_context="spawn",  # fork is unsafe with torch's threads, and missing on Windows
    )
    with hidden_from_children():  # which starts the workers
        return iter(loader)
