"""Noise to images, batch by batch: the image of a seed does not depend on the batch that it is generated in."""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from imggen.engine.device import run_in_batches
from imggen.engine.noise import SampleSpec, noise_for
from imggen.io.image import ImageArray
from imggen.io.pixels import to_uint8
from imggen.models.base import DEFAULT_SAMPLING, Backend, Model
from imggen.models.config import SamplingOptions

CPU_BATCH_PIXELS = 128 * 32 * 32  # the activations of a larger batch do not fit into a CPU's caches
GPU_BATCH_PIXELS = 512 * 64 * 64
GPU_BATCH_NOISE = 1 << 26  # a VAE with many layers has more noise than pixels: 256 MiB on the host
MAX_GPU_THREADS = 8  # each prepares the noise of one batch while the GPU renders another one
T = TypeVar("T")
Item = TypeVar("Item")
Render = Callable[[list[Item]], Tensor]


def default_batch_size(model: Model) -> int:
    """Images per batch if the user gives no `--batch`."""
    pixels = math.prod(model.config.image_shape[1:])
    if model.device.type == "cpu":
        return max(model.min_batch, CPU_BATCH_PIXELS // pixels)
    return max(model.min_batch, min(GPU_BATCH_PIXELS // pixels, GPU_BATCH_NOISE // math.prod(model.input_shape)))


def images_only(items: list[Item], images: ImageArray) -> ImageArray:
    """The default `finish`: return the images of a batch as they are."""
    return images


def sample_batches(
    backend: Backend,
    specs: Iterable[SampleSpec],
    finish: Callable[[list[SampleSpec], ImageArray], Any] = images_only,
    *,
    change: Callable[[list[SampleSpec], Tensor], Tensor] = lambda specs, noise: noise,
    options: SamplingOptions = DEFAULT_SAMPLING,
    batch: int | None = None,
    precision: torch.dtype = torch.float32,
    on_smaller: Callable[[int], None] = lambda batch: None,
) -> Iterator[Any]:
    """Generate samples batch by batch; yields images (B, H, W, C) uint8, or what `finish` returns: `render_batches`.

    `change` maps samples and their noise (B, *noise_shape) on the CPU to the noise that is used.
    """
    device = backend.device

    def prepare(part: list[SampleSpec]) -> list[tuple[Tensor, int]]:
        noise, labels = noise_for(part, backend)
        noise = change(part, noise)
        return list(zip(noise.unbind(), [0] * len(part) if labels is None else labels.tolist(), strict=True))

    def render(part: list[tuple[Tensor, int]]) -> Tensor:
        noise = torch.stack([noise for noise, _ in part]).to(device)
        labels = torch.tensor([label for _, label in part]).to(device) if backend.classes else None
        return backend.generate(noise, labels, options)

    return render_batches(
        backend, specs, render, finish, prepare=prepare, batch=batch, precision=precision, on_smaller=on_smaller
    )


def render_batches(
    backend: Backend,
    items: Iterable[Item],
    render: Render[Any],
    finish: Callable[[list[Item], ImageArray], Any] = images_only,
    *,
    prepare: Callable[[list[Item]], list[Any]] = list,
    batch: int | None = None,
    precision: torch.dtype = torch.float32,
    on_smaller: Callable[[int], None] = lambda batch: None,
) -> Iterator[Any]:
    """Render items batch by batch and in order; yields images (B, H, W, C) uint8.

    `render` maps items to images (B, C, H, W) in [-1, 1] on the backend's device, each from its own item alone.
    It gets what `prepare` makes of the items, which runs in a worker thread while the GPU renders another batch.

    `finish` maps items and their images to what is yielded instead. It runs in one worker thread at a time while the
    next batches are rendered: the place to encode and write files.

    A batch that does not fit into memory is halved, and `on_smaller` is called with the new size. Raises DeviceError
    if one image does not fit.
    """
    device = backend.device
    on_cpu = device.type == "cpu"
    size = batch or default_batch_size(backend)
    renderer = _BatchRenderer(render, device, size, precision, on_smaller)
    # One thread at a time: encoding holds Python's global lock, so two threads would only wait for each other.
    finish_lock = threading.Lock()

    def work(part: list[Item]) -> Any:
        images = renderer.render_batch(prepare(part))
        with finish_lock:
            return finish(part, images)

    # Few items are divided evenly among the cores, more in batches of `size`.
    remaining = iter(items)
    cores = torch.get_num_threads()
    first_items = list(islice(remaining, size * cores))
    length = min(size, math.ceil(len(first_items) / cores)) if on_cpu else size
    all_items = itertools.chain(first_items, remaining)
    batches = iter(lambda: list(islice(all_items, length)), [])
    if len(first_items) < cores:
        return map(work, batches)
    if on_cpu:
        return _in_parallel(work, batches, cores)
    return _in_stages(prepare, renderer.render_batch, finish, batches, min(cores, MAX_GPU_THREADS))


class _BatchRenderer:
    """Renders batches on one device, in parts of at most `size` items; `size` shrinks when memory runs out."""

    def __init__(
        self,
        render: Render[Any],
        device: torch.device,
        size: int,
        precision: torch.dtype,
        on_smaller: Callable[[int], None],
    ) -> None:
        self.render, self.device, self.size, self.precision = render, device, size, precision
        self.on_smaller = on_smaller

    def render_batch(self, items: list[Any]) -> ImageArray:
        """Return the images (B, H, W, C) uint8 of some items."""
        error = "not enough memory to generate one image"
        parts = list(
            run_in_batches(self._render, items, self.size, self.device, on_smaller=self._set_size, error=error)
        )
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _set_size(self, size: int) -> None:
        self.size = size
        self.on_smaller(size)

    @torch.inference_mode()
    def _render(self, items: list[Any]) -> ImageArray:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            return to_uint8(self.render(items))


def _in_parallel(work: Callable[[list[Item]], T], batches: Iterable[list[Item]], threads: int) -> Iterator[T]:
    """Work on one batch per thread and yield the results in order.

    On a CPU this is faster than all cores on one batch, which wait for each other after every layer. At most
    2 * `threads` results wait to be yielded, so that memory stays bounded.
    """
    cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from _in_order((pool.submit(work, part) for part in batches), 2 * threads)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # set_num_threads(1) of the pool would apply to threads made later


def _in_stages(
    prepare: Callable[[list[Item]], list[Any]],
    render: Callable[[list[Any]], ImageArray],
    finish: Callable[[list[Item], ImageArray], T],
    batches: Iterable[list[Item]],
    threads: int,
) -> Iterator[T]:
    """Prepare in `threads` threads, render in one, finish in one; yields the results in order.

    A GPU renders one batch at a time, and always from the same thread: cuDNN and cuBLAS keep what they have prepared
    for the shapes of a model for each thread anew.
    """

    def work(part: list[Item]) -> Future[T]:
        prepared = preparers.submit(prepare, part)
        images = renderer.submit(lambda: render(prepared.result()))
        return finisher.submit(lambda: finish(part, images.result()))

    with ExitStack() as stack:
        pools = [ThreadPoolExecutor(count) for count in (threads, 1, 1)]
        for pool in pools:
            stack.callback(pool.shutdown, cancel_futures=True)
        preparers, renderer, finisher = pools
        yield from _in_order(map(work, batches), threads)


def _in_order(futures: Iterable[Future[T]], limit: int) -> Iterator[T]:
    """The results in order; of the futures, which are made as they are asked for, at most `limit` are ahead."""
    pending: deque[Future[T]] = deque()
    for future in futures:
        pending.append(future)
        if len(pending) > limit:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
