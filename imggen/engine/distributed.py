"""Several processes started by torchrun: rank, barriers, shared decisions, averaged gradients."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import nn


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank among `size` processes. A single process is a group of one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> ProcessGroup:
        """Read torchrun's RANK, WORLD_SIZE and LOCAL_RANK; without them, a group of one."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        values = [int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 0), strict=True)]
        return cls(*values)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and messages."""
        return self.rank == 0

    def start(self, device: torch.device) -> None:
        """Join the other processes (torch.distributed)."""
        if self.size > 1 and not torch.distributed.is_initialized():
            # A day: the other processes wait while the main one decodes a large data set.
            backend = "nccl" if device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(backend, timeout=timedelta(days=1))

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        if self.size > 1:
            torch.distributed.barrier()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process, then in the others: they use the files that it has written."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def stop(self) -> None:
        """Leave the group."""
        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def all_reduce_max(self, values: list[float], device: torch.device) -> list[float]:
        """The maximum of each value over all processes, so that all decide the same."""
        if self.size == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return [float(value) for value in shared]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over the processes, in one all-reduce."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
