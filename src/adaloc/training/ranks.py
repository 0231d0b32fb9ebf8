"""One training in several processes, started by torchrun: each has a part of every batch, and all take the same steps.

Process 0 alone writes, scores and speaks. Nobody waits without an end: a process that died, or says nothing for
`_PATIENCE_S`, ends the others with a `PeerError`. With one process nothing here does anything.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from adaloc.errors import AdalocError, ConfigError
from adaloc.models.batch_norm import sharing
from adaloc.models.device import device_of
from adaloc.models.losses import LossSums
from adaloc.models.model_file import first_line
from adaloc.processes import place_of_this_process

T = TypeVar("T")

_PATIENCE_S = 40.0
"""Without an answer; with what a process does then, saving included, all end within a minute."""
_JOIN_S = 300.0
_BEAT_S = 3.0
_WORKING, _DONE, _FAILED = "working", "done", "failed"


class PeerError(AdalocError):
    """Another process of this training has failed or no longer answers."""


class Ranks:
    """The processes of a training, as one of them sees them.

    Args:
        rank: this process's number, from 0.
        size: how many there are.
        local_rank: number on this machine, which is that of its GPU.
        store: torch's `Store` in which the processes leave notes for each other; None for a single one.
        device: of the tensors that they exchange.

    Attributes:
        asked: the signal that asked any of them to stop, as known from the latest step; 0 for none.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        store: Any = None,
        device: torch.device | None = None,
    ) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.asked = 0
        self._store, self._device = store, device or torch.device("cpu")
        self._meetings = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, first: int, last: int) -> tuple[int, int]:
        """This process's part of windows first, ..., last - 1; empty where there are fewer windows than processes."""
        num = last - first
        return first + num * self.rank // self.size, first + num * (self.rank + 1) // self.size

    def sharing(self, network: nn.Module) -> AbstractContextManager[None]:
        """While it lasts, batch normalization in training mode sees the batches of all processes."""
        return sharing(network, self) if self.size > 1 else nullcontext()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the processes, in place; the same bits in all of them."""
        if self.size > 1:
            with self._answered():
                dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """(R, ...) the tensors of all processes."""
        if self.size == 1:
            return tensor[None]
        gathered = tensor.new_empty((self.size, *tensor.shape))
        with self._answered():
            dist.all_gather_into_tensor(gathered.flatten(0, 1), tensor.contiguous())
        return gathered

    def sum_losses(self, sums: LossSums) -> LossSums:
        """Errors summed over the processes."""
        if self.size == 1:
            return sums
        num = len(sums.total_K)
        joined = self.sum(torch.cat([sums.total_K, sums.count_K, sums.nats.reshape(1)]))
        return LossSums(joined[:num], joined[num : 2 * num], joined[-1])

    def sum_step(
        self, parameters: Iterable[nn.Parameter], sums: LossSums, *, asked: int, place: int, rate: float
    ) -> LossSums:
        """Sums a step's gradients over the processes, in place, and its errors.

        Args:
            parameters: with the gradients of this process's part.
            sums: its errors, over the counts of the whole batch.
            asked: the signal that asked this process to stop, 0 for none; any of them stops all, see `asked`.
            place, rate: of the step; must be the same everywhere.

        Raises:
            PeerError: when a process does not answer, or makes another step than this one.
        """
        if self.size == 1:
            return sums
        gradients = [p.grad for p in parameters if p.grad is not None]
        facts = torch.zeros(self.size, 3)
        facts[self.rank] = torch.tensor([asked, place, rate])
        parts = [g.flatten() for g in gradients]
        parts += [sums.total_K, sums.nats.reshape(1), facts.flatten().to(sums.total_K)]
        joined = torch.split(self.sum(torch.cat(parts)), [len(part) for part in parts])
        for gradient, total in zip(gradients, joined, strict=False):
            gradient.copy_(total.view_as(gradient))
        facts = joined[-1].view(self.size, 3).cpu()
        if not bool((facts[:, 1:] == facts[0, 1:]).all()):
            raise PeerError(
                f"The processes of this training have come apart: at one step they stand at places "
                f"{facts[:, 1].tolist()} of the data with rates {facts[:, 2].tolist()}. All must run the same versions "
                "on the same kind of device. Go on with --resume auto from the last checkpoint."
            )
        self.asked = self.asked or int(facts[:, 0].max())
        return LossSums(joined[-3], sums.count_K, joined[-2].reshape(()))

    def must_agree(self, number: int, what: str) -> None:
        """Refuses to go on where the processes see different things.

        Args:
            number: a digest of what this one sees, below 2^63.
            what: for the message.

        Raises:
            PeerError: when another process has another digest.
        """
        digests = self.gather(torch.tensor([number], device=self._device)).flatten().tolist()
        if len(set(digests)) > 1:
            raise PeerError(
                f"The processes of this training do not see {what} alike (digests {digests}). Use one shared folder, "
                "or the same files on every machine."
            )

    def from_first(self, contents: dict[str, Any] | None) -> dict[str, Any]:
        """What process 0 gives, as tensors on the CPU and plain containers, in every process; nothing is executed.

        Args:
            contents: in process 0; None in the others.
        """
        buffer = io.BytesIO()
        if contents is not None:
            torch.save(contents, buffer)
        num = torch.tensor([buffer.tell()], device=self._device)
        with self._answered():
            dist.broadcast(num, 0)
            if contents is not None:
                raw = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8).to(self._device)
            else:
                raw = torch.empty(int(num), dtype=torch.uint8, device=self._device)
            dist.broadcast(raw, 0)
        if contents is not None:
            return contents
        received: dict[str, Any] = torch.load(
            io.BytesIO(raw.cpu().numpy().tobytes()), map_location="cpu", weights_only=True
        )
        return received

    def meet(self, work: Callable[[], T]) -> T:
        """Does this process's work while the others do theirs, and comes back when all are done.

        It may take any time: each tells the others every few seconds that it is still alive.

        Raises:
            PeerError: when another process failed, or has died.
        """
        if self.size == 1:
            return work()
        self._meetings += 1
        with self._beating(self._meetings):
            result = work()
        for other in range(self.size):
            if other != self.rank:
                self._wait_for(other, self._meetings)
        return result

    def alone(self, work: Callable[[], None]) -> None:
        """Work of process 0, for which the others wait. See `meet`."""
        self.meet(work if self.is_first else lambda: None)

    def give_up(self) -> None:
        """Tells those who wait at the next meeting that this process will not come."""
        if self.size > 1:
            with suppress(RuntimeError):  # the notes may have gone with a process that died; that is said already
                self._note(self._meetings + 1, 0, _FAILED)

    @contextmanager
    def _beating(self, meeting: int) -> Iterator[None]:
        """Notes 0, 1, ... say that this process is still working; the last one how it ended."""
        over = threading.Event()
        number = 0

        def beat() -> None:
            nonlocal number
            with suppress(RuntimeError):  # without the notes' keeper the wait behind the work says what has happened
                while not over.wait(_BEAT_S):
                    self._note(meeting, number, _WORKING)
                    number += 1

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        ending = _FAILED
        try:
            yield
            ending = _DONE
        finally:
            over.set()
            thread.join()
            with self._answered() if ending == _DONE else suppress(RuntimeError):
                self._note(meeting, number, ending)

    def _note(self, meeting: int, number: int, text: str) -> None:
        assert self._store is not None
        self._store.set(f"{meeting}/{self.rank}/{number}", text)

    def _wait_for(self, other: int, meeting: int) -> None:
        assert self._store is not None
        number = 0
        while True:
            key = f"{meeting}/{other}/{number}"
            with self._answered(other):
                self._store.wait([key], timedelta(seconds=_PATIENCE_S))
                said = self._store.get(key).decode()
            if said == _DONE:
                return
            if said == _FAILED:
                raise PeerError(f"Process {other} of this training has failed and says why; so this one ends too.")
            number += 1

    @contextmanager
    def _answered(self, other: int | None = None) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            who = f"Process {other}" if other is not None else "Another process"
            raise PeerError(
                f"{who} of the {self.size} of this training has ended or no longer answers ({first_line(error)}). "
                "What process 0 has saved stays: start all again with --resume auto."
            ) from error


@contextmanager
def join_ranks(device_name: str) -> Iterator[Ranks]:
    """Meets the other processes, as torchrun's environment variables name them; one alone without these.

    Args:
        device_name: the config's device.

    Raises:
        ConfigError: when the environment is incomplete, or the device cannot be used by several processes.
        PeerError: when the others do not come.
    """
    place = place_of_this_process()
    if place.size == 1:
        yield Ranks()
        return
    rank, size, local_rank = place.rank, place.size, place.local_rank
    if not dist.is_available():
        raise ConfigError("This build of torch has no torch.distributed; train with one process.")
    device = device_of(device_name, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=_JOIN_S)))  # type: ignore[attr-defined]
        notes: Any = dist.PrefixStore("adaloc", store)  # type: ignore[attr-defined]
        notes.set(f"here/{rank}", "")
        notes.wait([f"here/{other}" for other in range(size)], timedelta(seconds=_JOIN_S))
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store, rank=rank, world_size=size, timeout=timedelta(seconds=_PATIENCE_S),
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise PeerError(
            f"Process {rank} cannot meet the other {size - 1} of this training: {first_line(error)}. Check that all "
            "were started, that MASTER_ADDR can be reached from every machine, and that MASTER_PORT is free."
        ) from error
    ranks = Ranks(rank, size, local_rank, notes, device)
    try:
        yield ranks
    except BaseException:
        ranks.give_up()
        raise
    dist.destroy_process_group()
