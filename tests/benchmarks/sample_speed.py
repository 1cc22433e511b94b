"""How much faster imggen draws than the plain eager loop over the same network, and what writing PNGs adds.

    python tests/benchmarks/sample_speed.py [--count 10000] [--rounds 3] [--folder /dev/shm]

Each figure is of a process of its own, all of one machine in one state: the plain loop must not gain from what
imggen sets, nor the other way round. The plain loop gets its best batch size. What a disk takes to make that many
files of that size, empty of any drawing, stands beside: give --folder in memory to see imggen's own share.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import torch

from imggen.engine.checkpoints import save_backend
from imggen.engine.device import configure_device
from imggen.engine.noise import SampleSpec
from imggen.engine.options import SampleOptions
from imggen.engine.render import sample_batches
from imggen.engine.sampling.sample import sample
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


def files_alone(folder: str, count: int) -> float:
    """Files a second that the disk can make, of the size that the pictures have."""
    data = bytes(3000)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        began = time.perf_counter()
        for index in range(count):
            Path(f"{place}/{index:08d}.png").write_bytes(data)
        return count / (time.perf_counter() - began)


def measure(what: str, count: int, place: str) -> float:
    """Pictures a second of one of the ways, after a warm-up."""
    backend = build_backend(presets("gan")["dcgan"].with_overrides(size=32, channels=3)).eval().requires_grad_(False)
    if what.startswith("eager"):
        batch = int(what.removeprefix("eager"))
        eager(backend, 1000, batch)
        return eager(backend, count, batch)
    if what == "disk":
        return files_alone(place, count)
    configure_device(torch.device("cpu"))
    fast = backend.for_inference()
    deque(sample_batches(fast, map(SampleSpec, range(1000)), lambda items, _: None), maxlen=0)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        weights = Path(folder) / "w.safetensors"
        save_backend(weights, backend, {})
        options = SampleOptions(model=str(weights), output=f"{folder}/out/", count=count)
        began = time.perf_counter()
        if what == "draw":
            deque(sample_batches(fast, map(SampleSpec, range(count)), lambda items, _: None), maxlen=0)
        else:
            sample(options, Silent())
        return count / (time.perf_counter() - began)


def of_process(what: str, count: int, place: str) -> tuple[float, float]:
    """The same of a new process, with its peak memory in MiB."""
    words = [sys.executable, __file__, "--what", what, "--count", str(count), "--folder", place]
    speed, peak = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return float(speed), float(peak)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--what", help="measure one way in this process")
    given = parser.parse_args()
    if given.what:
        speed = measure(given.what, given.count, given.folder)
        print(speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    def run(what: str, count: int = given.count) -> tuple[float, float]:
        return of_process(what, count, given.folder)

    for number in range(given.rounds):
        speeds = {batch: run(f"eager{batch}", given.count // 2)[0] for batch in (32, 64, 128)}
        slow, _ = run(f"eager{max(speeds, key=lambda batch: speeds[batch])}")
        fast, _ = run("draw")
        files, peak = run("files")
        _, small_peak = run("files", given.count // 10)
        print(
            f"round {number}: eager {slow:.0f}/s, imggen {fast:.0f}/s, ratio {fast / slow:.2f}; "
            f"as PNG files {files:.0f}/s, {fast / files - 1:+.0%} (files alone {run('disk')[0]:.0f}/s); "
            f"peak {peak:.0f} MiB, for a tenth of the pictures {small_peak:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
