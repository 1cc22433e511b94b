"""Where and at what scale everything is measured: the device, timings on it, and the small sizes of --tiny."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from imggen.engine.device import find_device
from imggen.engine.noise import SampleSpec, noise_for
from imggen.models.base import Backend

# Of --tiny
TINY_SIZE, TINY_BATCH, TINY_IMAGES = 16, 8, 16
TINY_OVERRIDES: dict[str, dict[str, Any]] = {
    "gan": {"max_width": 16, "penalty_every": 1},
    "vae": {"width": 16, "max_width": 16, "depth": 0.1},
    "transformer": {"width": 32, "depth": 2, "heads": 2, "tokenizer_width": 8},
}


class Setting:
    """The device, the size of the images, and how long a timing takes; all is small if `tiny`."""

    def __init__(self, device: str, *, tiny: bool) -> None:
        self.device = find_device(device)  # with an index: "cuda" alone is refused by set_device
        self.on_gpu = self.device.type == "cuda"
        self.tiny = tiny
        self.size = TINY_SIZE if tiny else 64
        self.seconds = 0.0 if tiny else 1.0  # of one timing, at least

    def wait(self) -> None:
        """Wait until the GPU has finished."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def rate(self, work: Callable[[], int], *, seconds: float | None = None, warm_up: int = 1) -> float:
        """Images per second of `work`, which returns the number of images that it handled."""
        for _ in range(warm_up):
            work()
        self.wait()
        images, start = 0, time.perf_counter()
        while True:
            images += work()
            self.wait()
            elapsed = time.perf_counter() - start
            if elapsed >= (self.seconds if seconds is None else seconds):
                return images / elapsed

    def autocast(self, bf16: bool) -> Any:
        """Mixed precision if `bf16`."""
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def noise(self, backend: Backend, count: int, first_seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """Noise and labels of `count` seeds, on the device."""
        noise, labels = noise_for([SampleSpec(first_seed + row) for row in range(count)], backend)
        return noise.to(self.device), None if labels is None else labels.to(self.device)

    def free_memory(self) -> None:
        """Give memory that is not used any more back to the GPU."""
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()


def set_arithmetic(*, tf32: bool, convolutions_tf32: bool | None = None) -> None:
    """TF32 as given, for convolutions as for matrix products by default; no search for the fastest convolution.

    PyTorch's defaults are `tf32=False, convolutions_tf32=True`.
    """
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = tf32 if convolutions_tf32 is None else convolutions_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
