"""Small data that the tests make themselves, and the program as a real process.

Nothing here imports torch: pytest-xdist starts its processes only when this file has been imported.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

# Each pytest-xdist process, and what it starts, uses one thread: set before torch is loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from tests.cli.forks import Fork, Server, Start

Run = Callable[..., subprocess.CompletedProcess[str]]
# Files (and a test) that share what takes seconds to make: models, the process that others are forked from, or imports.
SHARING = {
    "tests/engine/explore/test_page.py": "page",
    "tests/models/gan/test_encoder.py": "gan encoder",
    "tests/models/gan/test_gan.py": "gan",
    "tests/models/transformer/test_adversarial.py": "transformer adversarial",
    "tests/models/transformer/test_training.py": "transformer",
    "tests/models/vae/test_backend.py": "vae",
    "tests/engine/training/test_processes.py": "two processes",
    "tests/test_package.py": "wheel",
    "tests/engine/test_export.py": "export",
    "tests/test_readme.py::test_the_example_without_imggen_runs": "export",
    "tests/benchmarks/test_gpu.py::test_every_part_is_in_the_table": "forks",
    "tests/cli/test_processes.py": "forks",
    "tests/faults/test_disk.py": "forks",
    "tests/faults/test_kill.py": "forks",
    "tests/faults/test_processes.py": "forks",
}


def unit_of(test: str) -> str:
    """The tests with the same value here are run by the same process of pytest-xdist.

    In the contract those of one preset share a trained model.
    """
    file, _, name = test.partition("::")
    if file == "tests/test_contract.py" and "[" in name:
        return f"{file}[{name.partition('[')[2]}"
    return SHARING.get(test) or SHARING.get(file, test)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divide the tests among the processes. The mark xdist_group would do so too, but not with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class UnitScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    return UnitScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With pytest-xdist the slow tests come first, so that no process is left with one when the others have ended."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Leave what the imports make out of all garbage collections, hundreds of thousands of objects; and collect seldom.

    Tracing a network makes so many objects that a sixth of the time of its tests went into collections.
    """
    gc.disable()
    result = yield
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    return result


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a cache and a current folder of its own."""
    monkeypatch.setenv("IMGGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@cache
def encoded_images() -> dict[str, bytes]:
    """PNG files by their path below the folder; made once, because many tests begin with them."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    files = {}
    for name in ("disc", "square"):
        for index in range(60):
            cy, cx, r = *random.integers(5, 11, 2).tolist(), random.integers(2, 5)
            inside = np.hypot(y - cy, x - cx) < r if name == "disc" else np.maximum(abs(y - cy), abs(x - cx)) < r
            pixels = np.where(inside[..., None], random.integers(128, 255, 3), 20).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            files[f"{name}/{index:03d}.png"] = file.getvalue()
    return files


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """120 images of 16 pixels: bright squares and dark discs, in two classes."""
    folder = tmp_path / "imgs"
    for name, content in encoded_images().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def imggen() -> Run:
    """Run the program in a process of its own; returns what it printed."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "imggen", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )

    return run


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The process that `fork` forks from."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def fork(server: Server) -> Iterator[Start]:
    """Start a command line in a forked process; those that a failed test leaves running are killed."""
    started = []

    def start(*words: object, **more: Any) -> Fork:
        started.append(Fork(server, *words, **more))
        return started[-1]

    yield start
    for process in started:
        process.send_signal(signal.SIGKILL)


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure diversity on 8 samples: most of the time of a short run is spent on that."""
    monkeypatch.setattr("imggen.engine.training.mode_collapse.NUM_PAIRS", 4)
    monkeypatch.setattr("imggen.engine.training.mode_collapse.MAX_NEAREST_SAMPLES", 8)


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the intervals of metrics from few resamples; tests/metrics/test_intervals.py tests those of many."""
    monkeypatch.setattr("imggen.metrics.compare.BOOTSTRAP_RESAMPLES", 40)
    monkeypatch.setattr("imggen.metrics.compare.FRECHET_RESAMPLES", 4)
    monkeypatch.setattr("imggen.metrics.compare.KERNEL_SUBSETS", 20)
