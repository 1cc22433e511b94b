"""Part 4, sampling: whether CUDA graphs give the same images as the same operations without a graph."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from imggen.engine.device import configure_device
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.cuda_graphs import Work, record_on_gpu
from tests.benchmarks.gpu_benchmark.rows import SkippedError
from tests.benchmarks.gpu_benchmark.runs import TrainedModels
from tests.benchmarks.gpu_benchmark.setting import Setting
from tests.benchmarks.gpu_benchmark.table import OURS

BATCH_SIZES = ((1, False), (8, False), (64, False), (8, True))  # and whether in bf16
TURNS = 5


class CudaGraphs:
    """Compares transformers with and without CUDA graphs."""

    def __init__(self, setting: Setting, trained: TrainedModels) -> None:
        self.setting = setting
        self.trained = trained

    def compare(self, preset: str) -> dict[str, Any]:
        """Whether CUDA graphs are used, and generate the same as the same operations without a graph."""
        if not self.setting.on_gpu:
            raise SkippedError("there is no GPU")
        backend = self.trained["transformer", preset].backend
        assert isinstance(backend, TransformerBackend)
        notes, details = [], {}
        for batch, bf16 in BATCH_SIZES:
            name = f"batch {batch}{' bf16' if bf16 else ''}"
            result = self.compare_batch(backend, batch, bf16=bf16)
            details[name] = result
            speed = f"{1000 * result['graph']:.1f} ms, without {1000 * result['plain']:.1f} ms"
            notes.append(f"{name}: {result['equal']} of {TURNS} equal, {result['replays']} replays, {speed}")
            if result["errors"]:
                notes.append(f"not recorded: {result['errors'][0].splitlines()[0][:80]}")
        good = all(result["equal"] == result["replays"] == TURNS for result in details.values())
        return {OURS: "equal" if good else "NOT EQUAL", "note": "; ".join(notes), "details": details}

    def compare_batch(self, backend: TransformerBackend, batch: int, *, bf16: bool) -> dict[str, Any]:
        """Number of turns with equal images, number of replays, errors, and seconds of the last turn of each way."""
        configure_device(self.setting.device, full_precision=True)
        fast = backend.for_inference()
        cache = fast.graph_cache
        assert cache is not None
        replays: list[int] = []
        errors: list[str] = []

        def record(work: Work, inputs: tuple[Tensor, ...]) -> Work:
            try:
                replay = record_on_gpu(work, inputs)
            except RuntimeError as error:
                errors.append(str(error))
                raise

            def counted(*inputs: Tensor) -> Tensor:
                replays.append(1)
                return replay(*inputs)

            return counted

        cache.record = record
        equal, seconds = 0, {"graph": 0.0, "plain": 0.0}
        for turn in range(TURNS):
            noise, labels = self.setting.noise(backend, batch, first_seed=100 * turn)
            images = {}
            for way in seconds:
                fast.graph_cache = cache if way == "graph" else None
                self.setting.wait()
                start = time.perf_counter()
                with torch.inference_mode(), self.setting.autocast(bf16):
                    images[way] = fast.generate(noise, labels)
                self.setting.wait()
                seconds[way] = time.perf_counter() - start
            equal += torch.equal(images["graph"], images["plain"])
        return {"equal": equal, "replays": len(replays), "errors": errors, **seconds}
