"""Training on several processes: who takes which part of a batch, and sums that do not depend on how many take part."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist

from signsclf.errors import LostContactError, SignsclfError, first_line, is_out_of_memory

TIMEOUT = timedelta(seconds=120)
"""A process that does not take part in a step for so long is given up."""
_PREPARED = "prepared"


def cut(n: int, shards: int) -> list[slice]:
    """Cut ``n`` images into ``shards`` micro-batches, whose sizes differ by one at most."""
    return [slice(n * i // shards, n * (i + 1) // shards) for i in range(shards)]


class FixedSum:
    """Adds up ``n`` tensors in an order that depends on ``n`` alone, so that any number of processes can share it.

    Neighbours are added in pairs, and pairs of pairs, as long as their number is even; what remains is added one after
    the other. A process that has every n/k-th part of them, in order, adds its own by the same rule.

    Attributes:
        parts: the sums so far, in order.
    """

    def __init__(self, n: int) -> None:
        self.parts: list[torch.Tensor] = []
        self._n_added = 0
        # The largest power of two that divides n.
        self._largest = n & -n

    def add(self, tensor: torch.Tensor) -> None:
        """Take in the next one, which is written to."""
        self._n_added += 1
        size = 1
        while size < self._largest and self._n_added % (2 * size) == 0:
            tensor = self.parts.pop().add_(tensor)
            size *= 2
        self.parts.append(tensor)

    def total(self) -> torch.Tensor:
        """Give the sum of all."""
        total = self.parts[0]
        for part in self.parts[1:]:
            total = total + part
        return total


class World:
    """The processes that train together; this one alone by default.

    Attributes:
        rank: the number of this process, from 0; the first one writes and prints.
        size: how many there are.
        local_rank: its number on this machine, which is that of its GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, store: dist.Store | None = None) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store, self._device = store, torch.device("cpu")

    @classmethod
    def from_environment(cls, variables: MutableMapping[str, str] = os.environ) -> World:
        """Join the processes that torchrun or ``--processes`` has started, by the variables that torchrun sets.

        They are removed from it: fastai reads them too, and would wait for the others where it saves and loads.

        Raises:
            SignsclfError: they are on several machines.
            LostContactError: the first process cannot be reached.
        """
        rank, size, local_rank = (int(variables[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        if int(variables.get("LOCAL_WORLD_SIZE", size)) != size:
            raise SignsclfError("processes on several machines: training shares one machine's; use --nnodes 1")
        if size > 1:
            with _in_contact():
                store, _, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
        for name in ("RANK", "WORLD_SIZE"):
            del variables[name]
        return cls() if size == 1 else cls(rank, size, local_rank, store)

    def announce(self) -> None:
        """Tell the others that the run's folder has all that they need."""
        if self.size > 1:
            with _in_contact():
                self._store.set(_PREPARED, "1")

    def wait(self) -> None:
        """Wait, however long it takes, until the first process announces its run."""
        with _in_contact():
            # Not by the store's own wait, within which no signal is heard.
            while not self._store.check([_PREPARED]):
                time.sleep(0.1)

    @contextlib.contextmanager
    def connected(self, device: str) -> Iterator[None]:
        """Exchange tensors within: by NCCL between GPUs, else by Gloo.

        Args:
            device: torch's name of where training runs.

        Raises:
            SignsclfError: each process needs a GPU of its own, or the device cannot be shared.
        """
        if self.size == 1:
            yield
            return
        if device == "cuda":
            if self.size > torch.cuda.device_count():
                raise SignsclfError(
                    f"{self.size} processes: this machine has {torch.cuda.device_count()} GPUs, and each process needs "
                    "its own; start as many as there are"
                )
            torch.cuda.set_device(self.local_rank)
            self._device = torch.device("cuda", self.local_rank)
        elif device != "cpu":
            raise SignsclfError(f"--device {device}: several processes share CPUs or CUDA GPUs alone; use one process")
        with _in_contact():
            backend = "nccl" if device == "cuda" else "gloo"
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size, timeout=TIMEOUT)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def sum(self, parts: FixedSum) -> torch.Tensor:
        """Add up what all processes have: the same bits in each, whatever their number."""
        if self.size == 1:
            return parts.total()
        own = torch.stack(parts.parts)
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        with _in_contact():
            dist.all_gather(gathered, own)
        of_all = FixedSum(self.size * len(own))
        for tensors in gathered:
            for tensor in tensors:
                of_all.add(tensor)
        return of_all.total()

    def collect(self, rows: torch.Tensor, first: int, n: int) -> torch.Tensor:
        """Gather ``n`` rows of which this process has those from the ``first`` one on; on the CPU, as they are."""
        if self.size == 1:
            return rows
        whole = torch.zeros((n, *rows.shape[1:]), dtype=rows.dtype, device=self._device)
        whole[first : first + len(rows)] = rows.to(self._device)
        with _in_contact():
            # Each row is some process's own, and zero in the others.
            dist.all_reduce(whole)
        return whole.cpu()

    def hand_out(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the first one's values of these tensors."""
        if self.size == 1:
            return
        for tensor in tensors:
            sent = tensor.detach().to(self._device).contiguous()
            with _in_contact():
                dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What this process computes of each batch.

    Attributes:
        shards: micro-batches of a batch; a multiple of the processes.
        world: the processes.
        asked: set in any of them, ends the training of all after the same batch.
    """

    shards: int
    world: World = field(default_factory=World)
    asked: threading.Event = field(default_factory=threading.Event)

    @property
    def mine(self) -> range:
        """The numbers of this process's micro-batches."""
        each = self.shards // self.world.size
        return range(self.world.rank * each, (self.world.rank + 1) * each)

    def batches(self, n: int) -> range:
        """Which of ``n`` validation batches this process evaluates."""
        taken = cut(n, self.world.size)[self.world.rank]
        return range(taken.start, taken.stop)


@contextlib.contextmanager
def _in_contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise LostContactError(
            f"another process of this training has ended, or does not answer ({first_line(error)}); "
            "--resume continues the run"
        ) from error
