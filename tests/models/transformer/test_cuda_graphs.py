"""What is drawn again and again on a GPU: that it can be recorded, and that what is played back is what was drawn."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.cuda_graphs import KEPT, CudaGraphCache, Work, record_on_gpu
from imggen.models.transformer.sampling import ordered
from imggen.models.transformer.tokenizer import counts_on
from tests.models.transformer_help import drawer

SETTINGS = [{}, {"steps": 1}, {"guidance": 2.0, "top_k": 3}, {"steps": 5, "top_p": 0.9}]


class Crossings(TorchDispatchMode):
    """Notes what goes from the host to the device, or back."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Numbers alone (no dimensions) are handed to a kernel by value.
        tensors = [part for part in (*args, result) if isinstance(part, Tensor) and part.ndim]
        if len({part.device.type for part in tensors}) > 1:
            self.found.append(str(func))
        return result


@pytest.fixture
def no_counts_kept() -> Iterator[None]:
    counts_on.cache_clear()
    yield
    counts_on.cache_clear()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.usefixtures("no_counts_kept")
def test_nothing_is_sent_or_read_while_a_gpu_draws(channels: int, settings: dict[str, float]) -> None:
    """On a pretended GPU, where reading a number back is an error."""
    backend = drawer(channels=channels)
    backend.draw_with(**settings)
    backend = backend.for_inference()
    done: list[list[str]] = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        with Crossings() as crossings:
            assert work(*inputs).device.type == "cuda"
        done.append(crossings.found)
        raise RuntimeError("only pretended")

    backend.recorder = CudaGraphCache(record)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        _to_gpu(backend)
        noise = torch.empty(4, *backend.noise_shape, device="cuda")
        for _ in range(2):
            found = backend.generate(noise, torch.zeros(4, dtype=torch.int64, device="cuda"))
    assert found.shape == (4, *backend.image_shape)
    assert done == [[]]


def test_a_crossing_is_found() -> None:
    """The control."""
    with FakeTensorMode(), Crossings() as crossings:
        torch.tensor([1, 2], device="cuda")
        torch.empty(3, 3, device="cuda")[:, [0, 2]]
        torch.empty(3, device="cuda").cpu()
    assert len(crossings.found) == 3


def _to_gpu(backend: TransformerBackend) -> None:
    """Every tensor of a fused backend, also those in what is no module."""
    seen: set[int] = set()

    def move(thing: Any) -> Any:
        if isinstance(thing, torch.nn.Parameter):
            return torch.nn.Parameter(torch.empty(thing.shape, dtype=thing.dtype, device="cuda"), requires_grad=False)
        if isinstance(thing, Tensor):
            return torch.empty(thing.shape, dtype=thing.dtype, device="cuda")
        if isinstance(thing, (list, tuple)):
            return type(thing)(move(part) for part in thing)
        if type(thing).__module__.startswith(("imggen.models.transformer", "torch.nn")) and id(thing) not in seen:
            seen.add(id(thing))
            for name, part in list(vars(thing).items()):
                if isinstance(part, dict):
                    part.update({key: move(value) for key, value in part.items()})
                elif name not in ("config", "settings", "recorder"):
                    vars(thing)[name] = move(part)
        return thing

    move(backend)


def a_work(calls: list[int]) -> Callable[..., Tensor]:
    def work(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x * 2

    return work


def test_the_second_time_is_recorded_and_the_third_played() -> None:
    calls: list[int] = []
    played: list[int] = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        def play(x: Tensor) -> Tensor:
            played.append(len(x))
            return x + x

        return play

    recorder, work = CudaGraphCache(record), a_work(calls)
    for turn in range(4):
        x = torch.randn(3)
        assert torch.equal(recorder("a", work, x), x * 2)
        assert (len(calls), len(played)) == [(1, 0), (2, 2), (2, 3), (2, 4)][turn]
    # Another key, another shape, another type, another precision: another recording.
    for key, x in (("b", torch.ones(3)), ("a", torch.ones(4)), ("a", torch.ones(3, dtype=torch.float64))):
        recorder(key, work, x)
        assert calls[-1] == len(x) and len(played) == 4
    with torch.autocast("cpu", torch.bfloat16):
        recorder("a", work, torch.ones(3))
    assert len(calls) == 6 and len(played) == 4


@pytest.mark.parametrize("fault", ["cannot", "wrong"])
def test_what_cannot_be_recorded_is_done_the_plain_way(fault: str) -> None:
    tried: list[str] = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        tried.append(fault)
        if fault == "cannot":
            raise torch.OutOfMemoryError("no room")
        return lambda x: x * 3

    recorder, calls = CudaGraphCache(record), list[int]()
    work = a_work(calls)
    for _ in range(5):
        assert torch.equal(recorder("a", work, torch.ones(3)), torch.full((3,), 2.0))
    assert tried == [fault]  # and it is not tried again


def test_a_few_recordings_are_kept() -> None:
    recorded: list[int] = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        recorded.append(len(inputs[0]))
        return work

    recorder, work = CudaGraphCache(record), a_work([])
    for size in range(1, KEPT + 2):
        for _ in range(2):
            recorder("a", work, torch.ones(size))
    recorder("a", work, torch.ones(2))
    assert recorded == list(range(1, KEPT + 2)) and len(recorder.recordings) == KEPT
    recorder("a", work, torch.ones(1))
    assert recorded[-1] == 1 and len(recorded) == KEPT + 2


def test_a_recording_is_played_for_one_at_a_time() -> None:
    """Two threads share its memory."""
    together = threading.Barrier(2)

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        place = inputs[0].clone()

        def play(given: Tensor) -> Tensor:
            place.copy_(given)
            time.sleep(0.02)
            return work(place)

        return play

    recorder, work = CudaGraphCache(record), a_work([])
    for _ in range(2):
        recorder("a", work, torch.zeros(3))

    def several(value: int) -> bool:
        together.wait()
        given = torch.full((3,), float(value))
        return all(torch.equal(recorder("a", work, given), work(given)) for _ in range(5))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(several, [1, 2]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_graph_draws_the_same(settings: dict[str, float]) -> None:
    backend = drawer().cuda()
    backend.draw_with(**settings)
    backend = backend.for_inference()
    played = []

    def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
        play = record_on_gpu(work, inputs)

        def counted(*given: Tensor) -> Tensor:
            played.append(1)
            return play(*given)

        return counted

    assert backend.recorder is not None
    backend.recorder.record = record
    with torch.inference_mode():
        for _ in range(4):
            noise, labels = torch.randn(8, *backend.noise_shape).cuda(), (torch.arange(8) % 3).cuda()
            found = backend.generate(noise, labels)
            kept, backend.recorder = backend.recorder, None
            assert torch.equal(found, backend.generate(noise, labels))
            backend.recorder = kept
    assert backend.recorder is not None and len(backend.recorder.recordings) == 1
    assert len(played) == 4  # once to compare, then the second to the fourth time


def test_places_in_their_order() -> None:
    assert ordered([[3, 1], [0], [2]], torch.device("cpu")).tolist() == [3, 1, 0, 2]
