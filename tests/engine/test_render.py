"""Rendering in batches: an image depends on its seed alone, memory is bounded, and a lack of memory halves batches."""

import threading
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imggen.engine import render
from imggen.engine.noise import SampleSpec
from imggen.engine.render import sample_batches
from imggen.errors import DeviceError
from imggen.io.image import ImageArray
from imggen.models.base import Backend
from imggen.models.config import SamplingOptions
from imggen.models.gan.backend import GanBackend
from tests.helpers import small_gan


def sample(backend: Backend, count: int, **more: Any) -> ImageArray:
    return np.concatenate(list(sample_batches(backend, map(SampleSpec, range(count)), **more)))


def max_difference(first: ImageArray, second: ImageArray) -> int:
    return int(abs(first.astype(int) - second).max())


@pytest.mark.parametrize("class_counts", [(5, 90, 5), ()])
def test_an_image_depends_on_its_seed_alone(class_counts: tuple[int, ...]) -> None:
    backend = small_gan(class_counts=class_counts)
    images = sample(backend, 50)
    assert len({image.tobytes() for image in images}) == 50
    for batch in (1, 3, 7, 64):
        part = np.concatenate(list(sample_batches(backend, map(SampleSpec, range(11, 40)), batch=batch)))
        assert max_difference(part, images[11:40]) <= 1
    assert max_difference(sample(backend.for_inference(), 50), images) <= 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert max_difference(sample(backend, 50), images) <= 1
    finally:
        torch.set_num_threads(threads)


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    sample(small_gan(), 40, batch=4)
    assert torch.get_num_threads() == before


def test_temperature_reduces_variety() -> None:
    backend = small_gan()
    spread = [sample(backend, 30, options=SamplingOptions(t)).std(axis=0).mean() for t in (0.0, 0.5, 1.0)]
    assert spread[0] == 0 < spread[1] < spread[2]


def test_too_little_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    generate, largest, sizes = GanBackend.generate, 5, list[int]()

    def few_at_most(self: GanBackend, noise: Tensor, *arguments: Any, **more: Any) -> Tensor:
        if len(noise) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, noise, *arguments, **more)

    images = sample(small_gan(), 40)
    monkeypatch.setattr(GanBackend, "generate", few_at_most)
    assert max_difference(sample(small_gan(), 40, batch=16, on_smaller=sizes.append), images) <= 1
    assert sizes and min(sizes) == 4
    largest = 0
    with pytest.raises(DeviceError, match="memory"):
        sample(small_gan(), 40)


def test_other_errors_of_the_model_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(GanBackend, "generate", broken)
    with pytest.raises(RuntimeError, match="shape"):
        sample(small_gan(), 40)


def test_rendering_is_lazy_and_bounded() -> None:
    """Only as many batches are started as can wait: a million images are never in memory at once."""
    taken = 0

    def specs() -> Iterator[SampleSpec]:
        nonlocal taken
        for seed in range(100_000):
            taken += 1
            yield SampleSpec(seed)

    sizes = sample_batches(small_gan(), specs(), lambda part, images: len(part), batch=4)
    for _ in range(5):
        assert next(sizes) == 4
    if isinstance(sizes, Generator):  # with a single core nothing is started in advance
        sizes.close()
    assert taken <= 4 * (6 + 3 * torch.get_num_threads())


def test_a_gpu_renders_in_one_thread_while_others_make_noise() -> None:
    """The noise of a large VAE takes longer to make than its images."""
    two_at_once, threads, taken = threading.Barrier(2), set[int](), 0

    def prepare(part: list[int]) -> list[int]:
        two_at_once.wait(20)
        return [10 * item for item in part]

    def render_part(part: list[int]) -> ImageArray:
        threads.add(threading.get_ident())
        return np.array(part, dtype=np.uint8)

    def batches() -> Iterator[list[int]]:
        nonlocal taken
        for taken in range(1, 9):
            yield [taken]

    results = render._in_stages(prepare, render_part, lambda part, images: (part[0], int(images[0])), batches(), 2)
    assert next(results) == (1, 10)
    assert taken == 3  # no more batches are begun than threads prepare
    assert list(results) == [(item, 10 * item) for item in range(2, 9)]
    assert len(threads) == 1 and threads != {threading.get_ident()}


def test_an_error_in_any_stage_of_a_gpu_is_raised() -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("broken")

    stages = [list, lambda part: np.array(part), lambda part, images: part]
    for index in range(3):
        broken: list[Any] = [fail if stage == index else work for stage, work in enumerate(stages)]
        with pytest.raises(ValueError, match="broken"):
            list(render._in_stages(broken[0], broken[1], broken[2], iter([[1], [2]]), 2))


def test_a_gpu_batch_is_small_where_noise_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = small_gan()
    monkeypatch.setattr(GanBackend, "device", torch.device("cuda", 0))
    assert render.default_batch_size(backend) == render.GPU_BATCH_PIXELS // 16**2
    monkeypatch.setattr(GanBackend, "noise_shape", (1 << 20,))
    assert render.default_batch_size(backend) == render.GPU_BATCH_NOISE >> 20
