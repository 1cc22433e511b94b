"""Noise → pictures, batch by batch: the picture of a seed is the same whatever the batch."""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import torch

from imggen.engine.device import out_of_memory, release_memory
from imggen.engine.noise import SampleSpec, noise_for
from imggen.errors import DeviceError
from imggen.io.image import ImageArray
from imggen.models.base import PLAIN, Backend
from imggen.models.config import SamplingOptions

CPU_PIXELS = 128 * 32 * 32  # in a batch: what stays in the caches
GPU_PIXELS = 512 * 64 * 64
T = TypeVar("T")
Item = TypeVar("Item")
Render = Callable[[list[Item]], torch.Tensor]


def to_uint8(pictures: torch.Tensor) -> ImageArray:
    """Pictures (B, C, H, W) in [-1, 1] → (B, H, W, C). Rounded: truncation would shift three bytes in four."""
    levels = pictures.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    rows: ImageArray = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return rows


class _BatchRenderer(Generic[Item]):
    """Pictures of some items; a batch that memory refuses is halved, and stays so."""

    def __init__(self, render: Render[Item], device: torch.device, size: int, precision: torch.dtype) -> None:
        self.render, self.device, self.size, self.precision = render, device, size, precision
        self.on_smaller: Callable[[int], None] = lambda size: None

    def render_batches(self, items: list[Item]) -> ImageArray:
        """Pictures (B, H, W, C), uint8."""
        parts, start = [], 0
        while start < len(items):
            now = items[start : start + self.size]
            try:
                parts.append(self._once(now))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if len(now) == 1:
                    raise DeviceError(
                        "not enough memory to draw one picture", "--device cpu, or a smaller model"
                    ) from error
                self.size = len(now) // 2
                self.on_smaller(self.size)
                release_memory(self.device)
                continue
            start += len(now)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @torch.inference_mode()
    def _once(self, items: list[Item]) -> ImageArray:
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            return to_uint8(self.render(items))


def default_batch_size(backend: Backend) -> int:
    """Pictures at a time, where nothing else is asked for."""
    pixels = CPU_PIXELS if backend.device.type == "cpu" else GPU_PIXELS
    return max(backend.min_batch, pixels // math.prod(backend.config.image_shape[1:]))


def sample_batches(
    backend: Backend,
    items: Iterable[SampleSpec],
    finish: Callable[[list[SampleSpec], ImageArray], T],
    *,
    options: SamplingOptions = PLAIN,
    batch: int | None = None,
    precision: torch.dtype = torch.float32,
    on_smaller: Callable[[int], None] = lambda batch: None,
) -> Iterator[T]:
    """Draw the pictures of seeds; see `paint`."""
    device = backend.device

    def render(part: list[SampleSpec]) -> torch.Tensor:
        noise, labels = noise_for(part, backend)
        labels = None if labels is None else labels.to(device)
        return backend.generate(noise.to(device), labels, options)

    return render_batches(backend, items, render, finish, batch=batch, precision=precision, on_smaller=on_smaller)


def render_batches(
    backend: Backend,
    items: Iterable[Item],
    render: Render[Item],
    finish: Callable[[list[Item], ImageArray], T],
    *,
    batch: int | None = None,
    precision: torch.dtype = torch.float32,
    on_smaller: Callable[[int], None] = lambda batch: None,
) -> Iterator[T]:
    """Render batch by batch, and give what `finish` makes of each: items and pictures (B, H, W, C), uint8; in order.

    `render` makes pictures (B, C, H, W) in [-1, 1] on the backend's device, each of its own item alone.

    `finish` works beside the drawing of the next batches, in another thread, so it is the place to encode and to
    write. A batch that memory refuses is halved; `on_smaller` is told.
    """
    device = backend.device
    cpu = device.type == "cpu"
    size = batch or default_batch_size(backend)
    painter = _BatchRenderer(render, device, size, precision)
    painter.on_smaller = on_smaller
    drawing, finishing = nullcontext() if cpu else threading.Lock(), threading.Lock()

    def work(part: list[Item]) -> T:
        with drawing:
            pictures = painter.render_batches(part)
        # In turn: two that encode at once only wait for Python's lock, while two that draw at once do not.
        with finishing:
            return finish(part, pictures)

    queue = iter(items)
    cores = torch.get_num_threads()
    head = list(islice(queue, size * cores))
    share = min(size, math.ceil(len(head) / cores)) if cpu else size
    everything = itertools.chain(head, queue)
    parts = iter(lambda: list(islice(everything, share)), [])
    return map(work, parts) if len(head) < cores else _side_by_side(work, parts, cores)


def _side_by_side(work: Callable[[list[Item]], T], parts: Iterable[list[Item]], cores: int) -> Iterator[T]:
    """One batch a core: cores that draw each their own never wait for one another, as those that share one do."""
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # threads to come would take over the pool's setting
