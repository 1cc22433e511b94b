"""What several processes tell each other, and what their errors mean."""

import pytest
import torch

from imggen.engine.distributed import ProcessGroup
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
