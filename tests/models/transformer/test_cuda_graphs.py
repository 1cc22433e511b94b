"""CUDA graphs: sampling can be recorded, and what is replayed is what would have been computed.

Without a GPU: a recorder is passed in that records nothing, and a fake GPU shows that sampling copies nothing.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from imggen.models.config import SamplingOptions
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.cuda_graphs import MAX_GRAPHS, CudaGraphCache, Work, record_on_gpu
from imggen.models.transformer.quantizer import level_counts
from tests.models.transformer.helpers import small_transformer

PLAIN = SamplingOptions()
OPTIONS = [
    PLAIN,
    SamplingOptions(steps=1),
    SamplingOptions(guidance=2.0, top_k=3),
    SamplingOptions(steps=5, top_p=0.9),
]


class CopyRecorder(TorchDispatchMode):
    """Records the operations that copy from the host to the device, or back."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Scalars (no dimensions) are passed to a kernel by value.
        tensors = [tensor for tensor in (*args, result) if isinstance(tensor, Tensor) and tensor.ndim]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.copies.append(str(func))
        return result


@pytest.fixture
def empty_level_counts() -> Iterator[None]:
    level_counts.cache_clear()
    yield
    level_counts.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "options"),
    # Operations on a fake GPU are slow: not every combination has all steps.
    [(1, SamplingOptions(steps=3)), *((1, options) for options in OPTIONS[1:]), *((n, OPTIONS[1]) for n in (3, 4))],
)
@pytest.mark.usefixtures("empty_level_counts")
def test_sampling_on_a_gpu_copies_nothing(channels: int, options: SamplingOptions) -> None:
    """On a fake GPU, where reading a number back is an error. The first request may still copy constants."""
    backend = small_transformer(channels=channels, depth=2).for_inference()
    recorder = CopyRecorder()

    class RunTwice(CudaGraphCache):
        def __call__(self, key: Hashable, work: Work, *inputs: Tensor) -> Tensor:
            work(*inputs)
            with recorder:
                return work(*inputs)

    backend.graph_cache = RunTwice()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        move_to_fake_gpu(backend)
        noise = torch.empty(4, *backend.noise_shape, device="cuda")
        images = backend.generate(noise, torch.zeros(4, dtype=torch.int64, device="cuda"), options)
    assert images.shape == (4, *backend.config.image_shape) and images.device.type == "cuda"
    assert recorder.copies == []


def test_copies_are_detected() -> None:
    """The control."""
    with FakeTensorMode(), CopyRecorder() as recorder:
        torch.tensor([1, 2], device="cuda")
        torch.empty(3, 3, device="cuda")[:, [0, 2]]
        torch.empty(3, device="cuda").cpu()
    assert len(recorder.copies) == 3


def move_to_fake_gpu(backend: TransformerBackend) -> None:
    """Move every tensor of a backend made by `for_inference`, also those in objects that are no modules."""
    visited: set[int] = set()

    def move(thing: Any) -> Any:
        if isinstance(thing, torch.nn.Parameter):
            return torch.nn.Parameter(torch.empty(thing.shape, dtype=thing.dtype, device="cuda"), requires_grad=False)
        if isinstance(thing, Tensor):
            return torch.empty(thing.shape, dtype=thing.dtype, device="cuda")
        if isinstance(thing, (list, tuple)):
            return type(thing)(move(part) for part in thing)
        if type(thing).__module__.startswith(("imggen.models.transformer", "torch.nn")) and id(thing) not in visited:
            visited.add(id(thing))
            for name, part in list(vars(thing).items()):
                if isinstance(part, dict):
                    part.update({key: move(value) for key, value in part.items()})
                elif name not in ("config", "graph_cache"):
                    vars(thing)[name] = move(part)
        return thing

    move(backend)


def doubling(calls: list[int]) -> Callable[..., Tensor]:
    """Work that doubles its input, and records the length of the input of each call."""

    def work(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x * 2

    return work


def test_the_second_request_is_recorded_and_the_third_replayed() -> None:
    calls: list[int] = []
    replays: list[int] = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        def replay(x: Tensor) -> Tensor:
            replays.append(len(x))
            return x + x

        return replay

    cache, work = CudaGraphCache(record), doubling(calls)
    for request in range(4):
        x = torch.randn(3)
        assert torch.equal(cache("a", work, x), x * 2)
        assert (len(calls), len(replays)) == [(1, 0), (2, 2), (2, 3), (2, 4)][request]
    # Another key, shape, dtype or precision is another recording.
    for key, x in (("b", torch.ones(3)), ("a", torch.ones(4)), ("a", torch.ones(3, dtype=torch.float64))):
        cache(key, work, x)
        assert calls[-1] == len(x) and len(replays) == 4
    with torch.autocast("cpu", torch.bfloat16):
        cache("a", work, torch.ones(3))
    assert len(calls) == 6 and len(replays) == 4


@pytest.mark.parametrize("fault", ["error", "wrong result"])
def test_work_that_cannot_be_recorded_is_run_as_it_is(fault: str) -> None:
    attempts: list[str] = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        attempts.append(fault)
        if fault == "error":
            raise torch.OutOfMemoryError("out of memory")
        return lambda x: x * 3

    cache, work = CudaGraphCache(record), doubling([])
    for _ in range(5):
        assert torch.equal(cache("a", work, torch.ones(3)), torch.full((3,), 2.0))
    assert attempts == [fault]  # it is not tried again


def test_the_latest_recordings_are_kept() -> None:
    recorded: list[int] = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        recorded.append(len(inputs[0]))
        return work

    cache, work = CudaGraphCache(record), doubling([])
    for size in range(1, MAX_GRAPHS + 2):
        for _ in range(2):
            cache("a", work, torch.ones(size))
    cache("a", work, torch.ones(2))
    assert recorded == list(range(1, MAX_GRAPHS + 2)) and len(cache.recordings) == MAX_GRAPHS
    cache("a", work, torch.ones(1))
    assert recorded[-1] == 1 and len(recorded) == MAX_GRAPHS + 2


def test_two_threads_do_not_replay_at_once() -> None:
    """A recording has memory for one batch."""
    start = threading.Barrier(2)

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        fixed = inputs[0].clone()

        def replay(x: Tensor) -> Tensor:
            fixed.copy_(x)
            time.sleep(0.02)
            return work(fixed)

        return replay

    cache, work = CudaGraphCache(record), doubling([])
    for _ in range(2):
        cache("a", work, torch.zeros(3))

    def repeat(value: int) -> bool:
        start.wait()
        x = torch.full((3,), float(value))
        return all(torch.equal(cache("a", work, x), work(x)) for _ in range(5))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(repeat, [1, 2]))


def test_each_set_of_options_has_its_own_recording() -> None:
    """What is replayed for some options must not be replayed for others; and a CPU records nothing."""
    backend = small_transformer().for_inference()
    keys: list[Hashable] = []

    class KeyRecorder(CudaGraphCache):
        def __call__(self, key: Hashable, work: Work, *inputs: Tensor) -> Tensor:
            keys.append(key)
            return torch.empty(len(inputs[0]), *backend.config.image_shape, device="cuda")

    backend.graph_cache = KeyRecorder()
    backend.generate(torch.randn(2, *backend.noise_shape), torch.zeros(2, dtype=torch.int64))
    assert not keys
    with FakeTensorMode(allow_non_fake_inputs=True):
        move_to_fake_gpu(backend)
        noise, labels = torch.empty(2, *backend.noise_shape, device="cuda"), torch.zeros(2, dtype=torch.int64)
        for options in OPTIONS:
            backend.generate(noise, labels.cuda(), options)
    assert keys == OPTIONS and len(set(keys)) == len(OPTIONS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
@pytest.mark.parametrize("options", OPTIONS)
def test_a_graph_gives_the_same_images(options: SamplingOptions) -> None:
    backend = small_transformer().cuda().for_inference()
    replays = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        replay = record_on_gpu(work, inputs)

        def count_and_replay(*inputs: Tensor) -> Tensor:
            replays.append(1)
            return replay(*inputs)

        return count_and_replay

    cache = CudaGraphCache(record)
    with torch.inference_mode():
        for _ in range(4):
            noise, labels = torch.randn(8, *backend.noise_shape).cuda(), (torch.arange(8) % 3).cuda()
            backend.graph_cache = cache
            images = backend.generate(noise, labels, options)
            backend.graph_cache = None
            assert torch.equal(images, backend.generate(noise, labels, options))
    assert len(cache.recordings) == 1
    assert len(replays) == 4  # once to compare, then for the second to the fourth request
