"""What several processes tell each other, and what their errors mean."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributed import HashStore

from imggen.engine.distributed import ProcessGroup, store_of_this_start
from imggen.errors import ProcessEndedError


@pytest.mark.parametrize("call", ["barrier", "sums"])
@pytest.mark.parametrize(
    ("error", "shown"),
    [(torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError), (RuntimeError("gloo"), ProcessEndedError)],
)
def test_too_little_memory_is_not_the_end_of_another_process(
    monkeypatch: pytest.MonkeyPatch, call: str, error: RuntimeError, shown: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("torch.distributed.barrier", fail)
    monkeypatch.setattr("torch.distributed.all_reduce", fail)
    group = ProcessGroup(size=2)
    with pytest.raises(shown):
        group.barrier() if call == "barrier" else group.sums([1.0], torch.device("cpu"))


def test_processes_find_only_those_of_the_same_start() -> None:
    """Not what those left that ended: their names, their answers, and their addresses, at whatever moment."""
    shared = HashStore()
    for name in ("first", "second"):
        shared.set("start", name)
        shared.set(f"{name} 1", "ended")
        shared.set(f"{name} complete", "ended others")

    def start(rank: int) -> bytes:
        time.sleep((0.1, 0, 0.2)[rank])
        store = store_of_this_start(shared, rank, 3)
        store.set(f"address {rank}", str(time.monotonic()))
        return b" ".join(store.get(f"address {each}") for each in range(3))

    with ThreadPoolExecutor(3) as threads:
        once, again = (list(threads.map(start, range(3))) for _ in range(2))
    assert len(set(once)) == len(set(again)) == 1 and not set(once[0].split()) & set(again[0].split())
