"""Decode the images of a source into a file, in processes or threads. Worker processes import this, so no torch."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from imggen.data import decode
from imggen.data.decode import UnreadableError
from imggen.data.pairs import PairReader, decode_pair
from imggen.data.readers import Source, reader_document, reader_from
from imggen.reporting import Reporter

MAX_IMAGES_FOR_THREADS = 3_000  # beyond this many, starting processes pays off
MAX_WORKERS = 32
_MAX_CHUNK_IMAGES = 32
_MAX_CHUNK_BYTES = 32 << 20

Chunk = tuple[int, int]
"""Images from start to stop, exclusive."""


@dataclass(frozen=True)
class DecodeJob:
    """What a worker needs: the source, the form of the images, and the file whose rows it writes from `offset` on."""

    source: Source
    size: int
    channels: int
    crop: str
    target: str
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded image."""
        return self.size * self.size * self.channels

    def to_json(self) -> str:
        """Everything that decoding needs, as JSON; the reader as its kind and its fields."""
        form = {name: getattr(self, name) for name in ("size", "channels", "crop", "target", "offset")}
        document = {"reader": self.source.reader, "names": self.source.names, "form": form}
        return json.dumps(document, default=reader_document)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The job written by `to_json`. Of its source, labels, classes and key are left empty: decoding needs none."""
        document = json.loads(text)
        reader, names = reader_from(document["reader"]), document["names"]
        source = Source("", (), names, np.zeros(len(names), np.int64), "", 0, reader)
        return cls(source, **document["form"])


def usable_cores() -> int:
    """Cores that this process may use, which a container or a scheduler can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_all(
    job: DecodeJob, job_file: Path, reporter: Reporter, skip: npt.NDArray[np.int64] | None = None
) -> dict[int, str]:
    """Decode every image of a job, but for those in `skip`; returns the reason for each unreadable one, by index.

    `job_file` is a path at which the job may be written for worker processes. If these end early, for example because
    the main script has no `if __name__ == "__main__"`, threads of this process do what is left.
    """
    step = max(1, min(_MAX_CHUNK_IMAGES, _MAX_CHUNK_BYTES // job.row_bytes))
    left = np.arange(len(job.source)) if skip is None else np.setdiff1d(np.arange(len(job.source)), skip)
    runs = np.split(left, np.flatnonzero(np.diff(left) > 1) + 1) if len(left) else []
    pending = {
        (start, min(start + step, int(run[-1]) + 1))
        for run in runs
        for start in range(int(run[0]), int(run[-1]) + 1, step)
    }
    count = len(left)
    unreadable: dict[int, str] = {}
    with reporter.task("decoding", count) as task:
        for executor in _executors(job, job_file):
            try:
                for chunk, reasons in _decode_chunks(executor, job, sorted(pending)):
                    pending.discard(chunk)
                    unreadable.update(reasons)
                    task.update(count - sum(stop - start for start, stop in pending))
                break
            except BrokenProcessPool:
                reporter.warn("the worker processes ended early: decoding continues in this process, more slowly")
    job_file.unlink(missing_ok=True)
    return unreadable


def _executors(job: DecodeJob, job_file: Path) -> Iterator[Executor]:
    """Processes for large sources, then threads: for small sources, or if the processes fail."""
    if uses_processes(job.source):
        yield process_pool(job, job_file, max_workers())
    yield ThreadPoolExecutor(max_workers())


def uses_processes(source: Source) -> bool:
    """Whether worker processes are worth starting."""
    return source.parallel and max_workers() > 1 and len(source) > MAX_IMAGES_FOR_THREADS


def max_workers() -> int:
    """As many workers as there are cores, up to a limit."""
    return min(usable_cores(), MAX_WORKERS)


def process_pool(job: DecodeJob, job_file: Path, workers: int) -> Executor:
    """Worker processes for one job, which they read from `job_file`, written here.

    Processes read the job from a file, because their arguments go through a pipe: if a process died before it had read
    all of them, this one would wait forever.
    """
    # "spawn" works everywhere; forking a process that runs torch's threads can deadlock.
    context = multiprocessing.get_context("spawn")
    job_file.write_text(job.to_json(), encoding="utf-8")
    return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(str(job_file),))


def _decode_chunks(executor: Executor, job: DecodeJob, chunks: list[Chunk]) -> Iterator[tuple[Chunk, dict[int, str]]]:
    """Yield each chunk when it is done, with the reasons for its unreadable images."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings about odd files; also for the threads
            if isinstance(executor, ProcessPoolExecutor):
                futures = {executor.submit(_decode_in_worker, *chunk): chunk for chunk in chunks}
            else:
                futures = {executor.submit(decode_rows, job, *chunk): chunk for chunk in chunks}
            for future in as_completed(futures):
                yield futures[future], future.result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_worker_job: list[DecodeJob] = []  # of a worker process: the one job that it was started with


def _start_worker(job_file: str) -> None:
    """Read the job. Ctrl-C is left to the parent process, which ends the pool and cleans up; if that is killed, end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    _worker_job[:] = [DecodeJob.from_json(Path(job_file).read_text(encoding="utf-8"))]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode_in_worker(start: int, stop: int) -> dict[int, str]:
    """`decode_rows` of this worker's job."""
    return decode_rows(_worker_job[0], start, stop)


def decode_rows(job: DecodeJob, start: int, stop: int) -> dict[int, str]:
    """Decode images start..stop into their rows of the file; returns the reason for each unreadable one, by index.

    Rows are written, not memory-mapped: when the disk is full, that is an error and not a crash.
    """
    rows, unreadable = decode_images(job, list(range(start, stop)))
    with Path(job.target).open("r+b") as file:
        file.seek(job.offset + start * job.row_bytes)
        file.write(rows.data)
    return unreadable


def decode_images(job: DecodeJob, indices: list[int]) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """Images (N, size, size, channels), black where unreadable, and the reason for each unreadable one, by index."""
    rows = np.zeros((len(indices), job.size, job.size, job.channels), dtype=np.uint8)
    unreadable: dict[int, str] = {}
    for position, index in enumerate(indices):
        try:
            rows[position] = decode_row(job, index)
        except (UnreadableError, MemoryError) as error:
            unreadable[index] = str(error) or "too large for the memory"
    return rows, unreadable


def decode_row(job: DecodeJob, index: int) -> npt.NDArray[np.uint8]:
    """Image `index`, or with its target, (size, size, channels). Raises UnreadableError."""
    if isinstance(job.source.reader, PairReader):
        return decode_pair(job.source, index, job.size, job.channels, job.crop)
    with decode.loaded_image(job.source, index) as image:
        return decode.fit_image(image, job.size, job.channels, job.crop, job.source.names[index])


def decode_images_in_worker(indices: list[int]) -> tuple[npt.NDArray[np.uint8], dict[int, str]]:
    """`decode_images` of this worker's job."""
    return decode_images(_worker_job[0], indices)
