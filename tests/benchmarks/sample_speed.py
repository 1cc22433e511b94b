"""How much faster imggen samples than a plain eager loop over the same network, and what writing PNGs adds.

    python tests/benchmarks/sample_speed.py [--model gan] [--count 10000] [--rounds 3] [--folder /dev/shm]

Each number is measured in its own process, so that the plain loop and imggen do not share global settings. The plain
loop uses its best batch size. Without --model (a shipped GAN, a run or a file) the network is an untrained DCGAN of
32 px. The speed of the disk alone, for as many files of that size, is printed too: with
--folder in memory, the time of imggen alone remains.
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

from imggen.engine import sampling
from imggen.engine.checkpoints import load_backend, save_backend
from imggen.engine.device import configure_device
from imggen.engine.noise import SampleSpec
from imggen.engine.options import SampleOptions
from imggen.engine.render import sample_batches
from imggen.models import build_backend, presets
from imggen.models.base import Backend
from imggen.reporting import Silent


def eager(backend: Backend, count: int, batch: int) -> float:
    """Images per second of `generator(torch.randn(…), labels)`, batch by batch."""
    classes = len(backend.config.classes)
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(count // batch):
            labels = torch.randint(classes, (batch,)) if classes else None
            backend.generate(torch.randn(batch, *backend.noise_shape), labels)
    return count // batch * batch / (time.perf_counter() - began)


def disk_speed(folder: str, count: int) -> float:
    """Files per second that the disk can write, of about the size of the images."""
    data = bytes(3000)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        began = time.perf_counter()
        for index in range(count):
            Path(f"{directory}/{index:08d}.png").write_bytes(data)
        return count / (time.perf_counter() - began)


def backend_of(model: str | None) -> Backend:
    """The model of a name, or an untrained DCGAN."""
    if model is not None:
        return load_backend(model, device="cpu").backend
    return build_backend(presets("gan")["dcgan"].with_overrides(size=32, channels=3)).eval().requires_grad_(False)


def measure(what: str, count: int, folder: str, model: str | None) -> float:
    """Images per second of one way, after a warm-up."""
    backend = backend_of(model)
    if what.startswith("eager"):
        batch = int(what.removeprefix("eager"))
        eager(backend, 1000, batch)
        return eager(backend, count, batch)
    if what == "disk":
        return disk_speed(folder, count)
    configure_device(torch.device("cpu"))
    fast = backend.for_inference()
    deque(sample_batches(fast, map(SampleSpec, range(1000))), maxlen=0)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        weights = Path(directory) / "w.safetensors"
        save_backend(weights, backend, {})
        options = SampleOptions(model=str(weights), output=f"{directory}/out/", count=count)
        began = time.perf_counter()
        if what == "sample":
            deque(sample_batches(fast, map(SampleSpec, range(count))), maxlen=0)
        else:
            sampling.run(options, Silent())
        return count / (time.perf_counter() - began)


def measure_in_process(what: str, count: int, folder: str, model: str | None) -> tuple[float, float]:
    """The same in a new process, and its peak memory in MiB."""
    words = [sys.executable, __file__, "--what", what, "--count", str(count), "--folder", folder]
    words += [] if model is None else ["--model", model]
    speed, peak = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return float(speed), float(peak)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--model")
    parser.add_argument("--what", help="measure one way in this process")
    given = parser.parse_args()
    if given.what:
        speed = measure(given.what, given.count, given.folder, given.model)
        print(speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    def run(what: str, count: int = given.count) -> tuple[float, float]:
        return measure_in_process(what, count, given.folder, given.model)

    for number in range(given.rounds):
        speeds = {batch: run(f"eager{batch}", given.count // 2)[0] for batch in (32, 64, 128)}
        slow, _ = run(f"eager{max(speeds, key=lambda batch: speeds[batch])}")
        fast, _ = run("sample")
        files, peak = run("files")
        _, small_peak = run("files", given.count // 10)
        print(
            f"round {number}: eager {slow:.0f}/s, imggen {fast:.0f}/s, ratio {fast / slow:.2f}; "
            f"as PNG files {files:.0f}/s, {fast / files - 1:+.0%} (files alone {run('disk')[0]:.0f}/s); "
            f"peak {peak:.0f} MiB, for a tenth of the images {small_peak:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
