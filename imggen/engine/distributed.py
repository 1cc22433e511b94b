"""Several processes started by torchrun: rank, barriers, shared decisions. Imports torch only to talk to the others."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from imggen.errors import DeviceError, ProcessEndedError, first_line

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store


# A day: the other processes wait while the main one decodes a large data set.
JOIN_TIMEOUT = timedelta(days=1)
SECONDS_BETWEEN_LOOKS = 0.02


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank among `size` processes. A single process is a group of one.

    The methods that wait for the others raise ProcessEndedError if one of them has ended.
    """

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
        if self.size == 1:
            return
        from torch import distributed
        from torch.distributed.rendezvous import rendezvous

        if not distributed.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            try:
                store, rank, size = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
                store = store_of_this_start(store, rank, size)
                distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=JOIN_TIMEOUT)
            except (RuntimeError, ValueError) as error:
                reason = first_line(error)
                raise DeviceError(f"the other processes cannot be reached: {reason}", "use torchrun") from error

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        if self.size > 1:
            from torch import distributed

            _together(distributed.barrier)

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
        if self.size > 1:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()

    def maxima(self, values: list[float], device: torch.device) -> list[float]:
        """The maximum of each value over all processes, so that all decide the same."""
        return self._reduced(values, device, "MAX")

    def sums(self, values: list[float], device: torch.device) -> list[float]:
        """The sum of each value over all processes."""
        return self._reduced(values, device, "SUM")

    def _reduced(self, values: list[float], device: torch.device, operation: str) -> list[float]:
        if self.size == 1:
            return values
        import torch

        from imggen.models.global_batch import all_reduce

        shared = torch.tensor(values, dtype=torch.float64, device=device)
        all_reduce(shared, getattr(torch.distributed.ReduceOp, operation))
        return [float(value) for value in shared]


def store_of_this_start(store: Store, rank: int, size: int) -> Store:
    """The store in which processes find each other, apart from what ended processes of this torchrun left in it.

    torchrun keeps one store for all its restarts, so that a process may find the address of one that has ended, and
    wait for it forever; and machines count their restarts differently. So the main process names this start. The others
    answer to that name, and to any newer one, until it shows that it has their own answer.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    own = uuid.uuid4().hex
    if rank == 0:
        store.set("start", own)
        answers = [store.get(f"{own} {other}").decode() for other in range(1, size)]
        store.set(f"{own} complete", " ".join(answers))
        return PrefixStore(own, store)
    answered = ""
    while True:
        name = store.get("start").decode()
        if name != answered:
            store.set(f"{name} {rank}", own)
            answered = name
        if store.check([f"{name} complete"]) and own in store.get(f"{name} complete").decode():
            return PrefixStore(name, store)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _together(wait: Callable[[], object]) -> None:
    """Call a function that waits for the other processes, of which a part may have ended."""
    import torch

    try:
        wait()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessEndedError from error


def launch_name() -> str | None:
    """What identifies this run of torchrun, its restarts included; None without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    import socket

    run = os.environ["TORCHELASTIC_RUN_ID"]
    # "none" is torchrun's default: then the process that starts the workers, and starts them again, identifies it.
    return f"process {os.getppid()} of {socket.gethostname()}" if run == "none" else run


def launch_began() -> float:
    """When the process that starts the workers began, in seconds since 1970; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{os.getppid()}/stat").read_text(errors="replace").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return time.time() - age
