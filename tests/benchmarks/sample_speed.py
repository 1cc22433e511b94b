"""How much faster imggen draws than the plain eager loop over the same network, and what writing PNGs adds.

python tests/benchmarks/sample_speed.py [--count 10000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import deque
from pathlib import Path

import torch

from imggen.engine.load import save_backend
from imggen.engine.options import SampleOptions
from imggen.engine.sample import Item, draw, sample
from imggen.models import build_backend, presets
from imggen.models.base import Backend
from imggen.reporting import Silent


def eager(backend: Backend, count: int, batch: int) -> float:
    """Pictures a second of `generator(torch.randn(…))`, batch by batch."""
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(count // batch):
            backend.generate(torch.randn(batch, *backend.noise_shape))
    return count // batch * batch / (time.perf_counter() - began)


def ours(backend: Backend, count: int) -> float:
    """Pictures a second of the engine's `draw`, to bytes."""
    fast = backend.fused()
    began = time.perf_counter()
    deque(draw(fast, (Item(seed) for seed in range(count))), maxlen=0)
    return count / (time.perf_counter() - began)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    backend = build_backend(presets("gan")["dcgan"].with_overrides(size=32, channels=3)).eval().requires_grad_(False)
    eager(backend, 1000, 64)
    best = max((16, 32, 64, 128, 256), key=lambda batch: eager(backend, 2000, batch))
    for number in range(given.rounds):
        slow, fast = eager(backend, given.count, best), ours(backend, given.count)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "w.safetensors"
            save_backend(weights, backend, {})
            options = SampleOptions(model=str(weights), output=f"{folder}/out/", count=given.count)
            began = time.perf_counter()
            sample(options, Silent())
            seconds = time.perf_counter() - began
        extra = seconds / (given.count / fast) - 1
        print(
            f"round {number}: eager (batch {best}) {slow:.0f}/s, imggen {fast:.0f}/s, ratio {fast / slow:.2f}; "
            f"as PNG files {given.count / seconds:.0f}/s, {extra:+.0%}; "
            f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
        )


if __name__ == "__main__":
    main()
