"""Part 4, sampling: images per second as `imggen sample` generates them, and with PyTorch's defaults."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from imggen.engine.device import configure_device
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.render import default_batch_size, sample_batches
from imggen.io.pixels import to_uint8
from imggen.models.base import Backend
from tests.benchmarks.gpu_benchmark.runs import TrainedModels
from tests.benchmarks.gpu_benchmark.setting import TINY_BATCH, Setting, set_arithmetic
from tests.benchmarks.gpu_benchmark.table import DEFAULTS, OURS, short


class SamplingSpeed:
    """Measures sampling, with the models of the training part."""

    def __init__(self, setting: Setting, trained: TrainedModels) -> None:
        self.setting = setting
        self.trained = trained

    def measure_networks(self, family: str, preset: str, batch: int | None) -> dict[str, Any]:
        """The networks alone: noise is on the device, and images stay there."""
        backend = self.trained[family, preset].backend
        batch = batch or (TINY_BATCH if self.setting.tiny else default_batch_size(backend))
        noise, labels = self.setting.noise(backend, batch)

        def rate_of(network: Backend, *, bf16: bool = False) -> float:
            def work() -> int:
                for _ in range(2):
                    with torch.inference_mode(), self.setting.autocast(bf16):
                        network.generate(noise, labels)
                return 2 * batch

            return self.setting.rate(work, seconds=self.setting.seconds / 2, warm_up=1 if self.setting.tiny else 2)

        configure_device(self.setting.device, full_precision=backend.needs_full_precision)
        rates = {OURS: rate_of(backend.for_inference())}
        others = {}
        if batch > 1:
            others["bf16"] = rate_of(backend.for_inference(), bf16=True)
        if batch > 1 and family != "transformer":
            channels_last = copy.deepcopy(backend).to(memory_format=torch.channels_last)
            others["channels_last"] = rate_of(channels_last.for_inference())
        set_arithmetic(tf32=False, convolutions_tf32=True)
        rates[DEFAULTS] = rate_of(backend)
        note = ", ".join(f"{name} {short(value)}" for name, value in others.items())
        return {**rates, "note": f"batch {batch}; {note}" if note else "", "details": {**rates, **others}}

    def measure_seeds_to_bytes(self, family: str, preset: str) -> dict[str, Any]:
        """From seeds to bytes in the machine's memory, beside `randn` on the device, the network, and a copy."""
        backend = self.trained[family, preset].backend
        batch = TINY_BATCH if self.setting.tiny else default_batch_size(backend)
        configure_device(self.setting.device, full_precision=backend.needs_full_precision)
        fast = backend.for_inference()

        def sample(num_batches: int = 4) -> int:
            specs = map(SampleSpec, range(num_batches * batch))
            return sum(sample_batches(fast, specs, lambda part, images: len(images), batch=batch))

        sample(1)
        result = {"imggen": self.setting.rate(sample, seconds=self.setting.seconds / 2, warm_up=0)}
        start = time.perf_counter()
        noise_for([SampleSpec(seed) for seed in range(batch)], backend)
        result["noise"] = batch / (time.perf_counter() - start)
        set_arithmetic(tf32=False, convolutions_tf32=True)
        labels = torch.zeros(batch, dtype=torch.int64, device=self.setting.device) if backend.classes else None

        def eager() -> int:
            with torch.inference_mode():
                to_uint8(backend.generate(torch.randn(batch, *backend.noise_shape, device=self.setting.device), labels))
            return batch

        result["eager"] = self.setting.rate(eager, seconds=self.setting.seconds / 2)
        return {
            OURS: result["imggen"],
            DEFAULTS: result["eager"],
            "note": f"batch {batch}; noise of seeds alone {short(result['noise'])} images/s on one core",
            "details": result,
        }
