"""Work on a GPU that is the same every time, as one CUDA graph: drawing few pictures is mostly starting operations."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

Work = Callable[..., Tensor]
Record = Callable[[Work, tuple[Tensor, ...]], Work]
KEPT = 4  # graphs; each has the memory of its own batch
WARM_UPS = 2


class CudaGraphCache:
    """Does work, and what it is asked for again it records and from then on plays back.

    What cannot be recorded, or does not give the very same numbers when played back, is done the plain way.
    """

    def __init__(self, record: Record | None = None) -> None:
        self.record = record or record_on_gpu
        self.seen: set[Hashable] = set()
        self.recordings: OrderedDict[Hashable, Work] = OrderedDict()
        self.one_at_a_time = threading.Lock()  # a recording has memory for one batch

    def __call__(self, key: Hashable, work: Work, *inputs: Tensor) -> Tensor:
        """What `work` makes of the inputs; it must follow from their values, their shapes and `key`."""
        device = inputs[0].device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (key, precision, *((part.shape, part.dtype, part.device) for part in inputs))
        with self.one_at_a_time:
            return self._done(key, work, inputs)

    def _done(self, key: Hashable, work: Work, inputs: tuple[Tensor, ...]) -> Tensor:
        if key not in self.seen:
            self.seen.add(key)
            return work(*inputs)
        if key not in self.recordings:
            self.recordings[key] = self._recorded(work, inputs)
            if len(self.recordings) > KEPT:
                self.recordings.popitem(last=False)
        self.recordings.move_to_end(key)
        return self.recordings[key](*inputs)

    def _recorded(self, work: Work, inputs: tuple[Tensor, ...]) -> Work:
        try:
            played = self.record(work, inputs)
            if torch.equal(played(*inputs), work(*inputs)):
                return played
        except RuntimeError:
            pass  # of a driver that cannot, or for want of memory
        return work


def record_on_gpu(work: Work, inputs: tuple[Tensor, ...]) -> Work:
    """`work` as a graph of the kernels that it starts, between memory for its inputs and for its result."""
    with torch.cuda.device(inputs[0].device):
        fixed = [part.clone() for part in inputs]
        for _ in range(WARM_UPS):  # libraries choose their ways and their memory
            work(*fixed)
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy what was drawn before, meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = work(*fixed)

    def play(*given: Tensor) -> Tensor:
        with torch.cuda.device(fixed[0].device):
            for place, part in zip(fixed, given, strict=True):
                place.copy_(part)
            graph.replay()
            return result.clone()

    return play
