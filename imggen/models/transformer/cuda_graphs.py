"""CUDA graphs: work on a GPU that is repeated is recorded once, which saves starting each of its kernels.

Sampling a few images consists of many small kernels; starting them takes longer than running them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Work = Callable[..., Tensor]
Record = Callable[[Work, tuple[Tensor, ...]], Work]
MAX_GRAPHS = 4  # kept at a time; each has the memory of its own batch
WARM_UP_RUNS = 2  # before recording


class CudaGraphCache:
    """Runs work; what is requested a second time is recorded, and replayed from then on.

    Work that cannot be recorded, or whose recording does not give exactly the same numbers, is run as it is. `record`
    turns work and example inputs into its replay; tests pass their own.
    """

    def __init__(self, record: Record | None = None) -> None:
        self.record = record or record_on_gpu
        self.requested: set[Hashable] = set()
        self.recordings: OrderedDict[Hashable, Work] = OrderedDict()
        self.lock = threading.Lock()  # a recording has memory for one batch only

    def __call__(self, key: Hashable, work: Work, *inputs: Tensor) -> Tensor:
        """The result of `work(*inputs)`, which must depend on nothing but the inputs and `key`."""
        device = inputs[0].device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (key, precision, *((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs))
        with self.lock:
            return self._run(key, work, inputs)

    def _run(self, key: Hashable, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        if key not in self.requested:
            self.requested.add(key)
            return work(*inputs)
        if key not in self.recordings:
            self.recordings[key] = self._record_and_compare(work, inputs)
            if len(self.recordings) > MAX_GRAPHS:
                self.recordings.popitem(last=False)  # the one that was used least recently
        self.recordings.move_to_end(key)
        return self.recordings[key](*inputs)

    def _record_and_compare(self, work: Work, inputs: tuple[Tensor, ...]) -> Work:
        try:
            replay = self.record(work, inputs)
            if torch.equal(replay(*inputs), work(*inputs)):
                return replay
        except RuntimeError:
            pass  # the driver cannot record it, or there is too little memory
        return work


def record_on_gpu(work: Work, inputs: tuple[Tensor, ...]) -> Work:
    """Record `work` as a CUDA graph with fixed memory for its inputs and its result; returns the replay."""
    with torch.cuda.device(inputs[0].device):
        fixed_inputs = [tensor.clone() for tensor in inputs]
        for _ in range(WARM_UP_RUNS):  # libraries choose their kernels and allocate their memory
            work(*fixed_inputs)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are recorded: other threads may copy earlier results to the host meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = work(*fixed_inputs)

    def replay(*inputs: Tensor) -> Tensor:
        with torch.cuda.device(fixed_inputs[0].device):
            for fixed, tensor in zip(fixed_inputs, inputs, strict=True):
                fixed.copy_(tensor)
            graph.replay()
            return result.clone()

    return replay
