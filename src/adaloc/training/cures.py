"""What the trainer mends by itself: a clipping that holds every step, and a batch that does not fit into the memory."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from adaloc.data.targets import EmitterRows
from adaloc.data.windows import Batch
from adaloc.errors import AdalocError, says_out_of_memory
from adaloc.models.losses import LossSums
from adaloc.training.run import Run, batch_targets, predict

_REMEMBERED_NORMS = 50
_FEWEST_NORMS = 10
"""Norms that suffice where all are HARD_CLIPPING^2 above the limit, which no burst of first steps reaches.

The search for the rate, which begins at once, would otherwise find the rate of steps that are clipped to nothing.
"""
HARD_CLIPPING = 100.0
"""Median norm over the limit from which on clipping is taken for a mistake.

At 100, two decades of differences between the batches are gone. Runs at the default limit of 1 stay below 20 after
their first steps.
"""
_QUANTILE = 0.9
"""The limit goes to this quantile of the recent norms, so that the spikes it is there for are still clipped (as
AutoClip, Seetharaman et al. 2020, does with a low quantile, which would go on clipping nearly every step)."""


@dataclass
class Clip:
    """The norm to which gradients are clipped; raised once when every step is clipped hard.

    Attributes:
        norm: the limit in force.
        recent: norms before clipping of the last steps at this limit.
        may_rise: false leaves it as it is, whatever the norms are.
    """

    norm: float
    recent: list[float] = field(default_factory=list)
    may_rise: bool = True

    def observe(self, norm: float) -> dict[str, Any] | None:
        """Takes in a norm before clipping; returns the cure's event when the limit was raised."""
        if not math.isfinite(norm) or not self.may_rise:
            return None
        self.recent = [*self.recent, norm][-_REMEMBERED_NORMS:]
        if not self._is_mistaken():
            return None
        before, middle = self.norm, statistics.median(self.recent)
        self.norm = sorted(self.recent)[int(_QUANTILE * (len(self.recent) - 1))]
        self.recent = []
        return {"kind": "clip_raised", "before": before, "after": self.norm, "evidence": {"median_norm": middle}}

    def _is_mistaken(self) -> bool:
        if len(self.recent) >= _FEWEST_NORMS and min(self.recent) > HARD_CLIPPING**2 * self.norm:
            return True
        return len(self.recent) >= _REMEMBERED_NORMS and statistics.median(self.recent) > HARD_CLIPPING * self.norm

    def state_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return {"norm": self.norm, "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.norm, self.recent = float(state["norm"]), [float(norm) for norm in state["recent"]]


@dataclass
class MicroBatches:
    """In how many parts a batch goes through the network; doubled when the memory does not suffice.

    The gradient is that of the whole batch, as the counts that the loss divides by are those of the whole batch. Only
    batch normalization sees the parts: its statistics are then those of a smaller batch.
    """

    parts: int = 1

    def backward(self, run: Run, batch: Batch) -> tuple[LossSums, dict[str, Any] | None]:
        """Adds the gradient of the batch's loss to the weights' gradients, which must be empty.

        Of several processes each does so with its share of the windows: the sums over them are those of the batch.

        Returns:
            The summed errors, detached, and the cure's event when the batch was split further.

        Raises:
            RuntimeError: when a single window does not fit.
            AdalocError: of several processes, when the batch does not.
        """
        before = self.parts
        while True:
            try:
                sums = self._backward(run, batch)
            except RuntimeError as error:
                if self.parts >= len(batch.adu_BTHW) or not is_out_of_memory(error):
                    raise
                if run.ranks.size > 1:  # the others are in the middle of this step, with parts of another size
                    raise AdalocError(
                        f"The memory of process {run.ranks.rank} does not suffice. Raise training.accumulation_steps "
                        f"(now {self.parts}) and start all again."
                    ) from error
                self.parts = min(2 * self.parts, len(batch.adu_BTHW))
                run.optimizer.zero_grad(set_to_none=True)
                if run.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            if self.parts == before:
                return sums, None
            return sums, {"kind": "batch_split", "before": before, "after": self.parts, "evidence": {}}

    def _backward(self, run: Run, batch: Batch) -> LossSums:
        num = len(batch.adu_BTHW)
        size = math.ceil(num / self.parts)
        if size >= num and run.ranks.size == 1:
            targets = batch_targets(run, batch)
            outputs = predict(run, batch)
            sums = run.loss.sums(outputs, targets)
            _add_gradient(run, run.loss.objective(sums), outputs, targets, sums.count_K)
            return sums.detach()
        targets = batch_targets(run, batch)
        per_window = len(targets) // num
        count_K = run.loss.counts(targets)
        total_K, nats = torch.zeros_like(count_K), torch.zeros_like(count_K[0])
        with run.ranks.sharing(run.model.network):
            for first in range(0, num, size):
                # Every process has its share of every part, so that the parts are those of a single process.
                low, high = run.ranks.share(first, min(first + size, num))
                rows = targets[low * per_window : high * per_window]
                outputs = predict(run, windows_of(batch, low, high))
                sums = run.loss.sums(outputs, rows)
                objective = run.loss.objective(LossSums(sums.total_K, count_K, sums.nats))
                _add_gradient(run, objective, outputs, rows, count_K)
                total_K += sums.total_K.detach()
                nats += sums.nats.detach()
        return LossSums(total_K, count_K, nats)


def _add_gradient(
    run: Run, objective: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor, count_K: torch.Tensor
) -> None:
    """Adds the gradient of what is minimised: the objective, and the terms that belong to training alone."""
    if run.terms.is_on:
        objective = objective + run.terms(outputs, targets, count_K)
    if run.adversary is not None:
        objective = objective + run.adversary.deceive(outputs, targets, count_K)
    objective.backward()  # type: ignore[no-untyped-call]


def describe_cure(epoch: int, cure: dict[str, Any]) -> str:
    """What was mended, in words; `cure` is the log's event."""
    if cure["kind"] == "batch_split":
        return f"epoch {epoch + 1}: the memory does not suffice; a batch now goes through in {cure['after']} parts"
    return (
        f"epoch {epoch + 1}: every step was clipped hard; clip_norm {cure['before']:.2g} -> {cure['after']:.2g}, "
        f"{100 * _QUANTILE:.0f} % of the recent norms lie below"
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says, in its words for the CPU or the GPU, that the memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or says_out_of_memory(error)


def windows_of(batch: Batch, first: int, last: int) -> Batch:
    """The windows first, ..., last - 1 of a batch."""
    per_window = len(batch.background_N) // len(batch.adu_BTHW)
    low, high = first * per_window, last * per_window
    rows = batch.emitters.select((batch.emitters.window >= low) & (batch.emitters.window < high))
    shifted = EmitterRows(rows.window - low, rows.x, rows.y, rows.z, rows.photons)
    return Batch(batch.adu_BTHW[first:last], shifted, batch.background_N[low:high])


def joined(batches: Sequence[Batch]) -> Batch:
    """The windows of several batches as one."""
    firsts = itertools.accumulate((len(batch.background_N) for batch in batches), initial=0)
    rows = [
        EmitterRows(b.emitters.window + first, b.emitters.x, b.emitters.y, b.emitters.z, b.emitters.photons)
        for b, first in zip(batches, firsts, strict=False)
    ]
    columns = (torch.cat([getattr(r, name) for r in rows]) for name in ("window", "x", "y", "z", "photons"))
    return Batch(
        torch.cat([b.adu_BTHW for b in batches]),
        EmitterRows(*columns),
        torch.cat([b.background_N for b in batches]),
    )
