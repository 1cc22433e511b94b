"""Training by several processes with a core each, compared with one process that uses as many threads.

    python tests/benchmarks/processes.py [--families gan vae transformer] [--processes 2] [--seconds 40] [--rounds 3]

Prints for each family's `tiny` at 32 px the images per second of both, in turns, and the median of their ratios. The
first report of a run is left out: it includes the start. Nothing else should run on the machine. The ratio of CPU
seconds per image, beside it, depends less on what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

NUM_IMAGES, SIZE = 2_000, 32


def make_images(folder: Path) -> None:
    """Images of smooth random colors."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for index in range(NUM_IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{index}.png")


def cpu_seconds() -> float:
    """CPU time of all processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def speed(family: str, folder: Path, processes: int, threads: int, seconds: float) -> tuple[float, float]:
    """Images per second, and CPU seconds per image."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    words = [sys.executable, "-m", "imggen", "train", family, "--preset", "tiny", "--data", str(folder / "imgs")]
    words += ["--device", "cpu", "--minutes", str(seconds / 60), "--seed", "1", "-o", str(folder / "run"), "--force"]
    common = {"IMGGEN_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": str(threads), "WORLD_SIZE": str(processes)}
    before = cpu_seconds()
    started = [
        subprocess.Popen(
            [*words, "--quiet"],
            stdout=subprocess.DEVNULL,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        )
        for rank in range(processes)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("a training failed")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[0], lines[-1]
    rate = (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])
    return rate, (cpu_seconds() - before) / last["images"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", nargs="+", default=["gan", "vae", "transformer"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "imgs")
        for family in given.families:
            ratios, cpu_ratios = [], []
            for _ in range(given.rounds):
                one, one_cpu = speed(family, folder, 1, given.processes, given.seconds)
                several, several_cpu = speed(family, folder, given.processes, 1, given.seconds)
                ratios.append(several / one)
                cpu_ratios.append(one_cpu / several_cpu)
                print(
                    f"{family:12} one process {one:7.1f} img/s, {given.processes} processes {several:7.1f} img/s, "
                    f"ratio {ratios[-1]:.2f}; by CPU time {cpu_ratios[-1]:.2f}",
                    flush=True,
                )
            print(
                f"{family:12} median ratio {statistics.median(ratios):.2f}, {statistics.median(cpu_ratios):.2f} by CPU"
            )


if __name__ == "__main__":
    main()
