"""Images that are decoded each time they are read, where they are not kept decoded on the disk."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imggen.data.cache import check_skipped, describe_skipped
from imggen.data.cache_dir import locked_cache
from imggen.data.cache_entry import Form, Skipped, entry_key
from imggen.data.readers import Source
from imggen.data.workers import DecodeJob, decode_images, decode_images_in_worker, max_workers, process_pool
from imggen.data.workers import uses_processes as worth_processes
from imggen.errors import DataError
from imggen.io.locks import Lock, make_locked_folder
from imggen.reporting import Reporter

MAX_PREFETCHED = 4  # batches: more are forgotten, the oldest first
_MAX_CHUNK_IMAGES = 32
_MAX_CHUNK_BYTES = 8 << 20

Images = npt.NDArray[np.uint8]
Decoded = tuple[Images, dict[int, str]]
"""Images, and the reason for each unreadable one, by index."""
Batch = tuple[list[int], list[Future[Decoded]]]
"""The indices that the workers were given, and their parts of the result."""


class OnTheFlyImages:
    """The images (N, size, size, channels) uint8 of a source, read like an array: `images[[3, 5]]`, `images[0:8]`.

    The result is that of the cache, bit for bit. An unreadable image is replaced by the next readable one of its class,
    always the same, and is counted in `skipped`; too many raise DataError (see `check_skipped`). Workers decode a batch
    in parallel, and the batches given to `prefetch` ahead of their time.
    """

    def __init__(self, source: Source, form: Form, cache_dir: Path, strict: bool, reporter: Reporter) -> None:
        self.source, self.strict, self.reporter = source, strict, reporter
        self.shape = (len(source), form.size, form.size, form.channels)
        self.workers = max(1, max_workers() // _local_processes())
        self.uses_processes = worth_processes(source) and self.workers > 1
        self._job = DecodeJob(source, form.size, form.channels, form.crop, "", 0)
        self._cache_dir, self._key = cache_dir, entry_key(source, form)
        self._executor: Executor | None = None
        self._close: Callable[[], object] = _nothing
        self._prefetched: dict[bytes, Batch] = {}
        self._reasons: dict[int, str] = {}

    @property
    def description(self) -> str:
        """Who decodes, such as "2 worker processes"."""
        kind = "process" if self.uses_processes else "thread"
        return f"{self.workers} worker {kind}{('es' if self.uses_processes else 's') * (self.workers > 1)}"

    @property
    def nbytes(self) -> int:
        """Bytes of all images together."""
        return len(self.source) * self._job.row_bytes

    @property
    def skipped(self) -> Skipped:
        """Name and reason of each image that was found to be unreadable so far."""
        return tuple((self.source.names[index], self._reasons[index]) for index in sorted(self._reasons))

    def __getitem__(self, rows: Any) -> Images:
        """The images of some rows: a slice, or a sequence of indices (B,). Raises DataError."""
        indices = self._indices(rows)
        while True:
            try:
                key = indices.tobytes()
                prefetched = self._prefetched.pop(key) if key in self._prefetched else None
                wanted, futures = prefetched or self._submit(indices.tolist())
                return self._replace_unreadable(wanted, self._joined(futures))
            except BrokenProcessPool:
                self._continue_in_threads()

    def prefetch(self, rows: npt.NDArray[np.int64]) -> None:
        """Start to decode images that will be read next, as one batch."""
        indices = self._indices(rows)
        key = indices.tobytes()
        if key not in self._prefetched:
            if len(self._prefetched) >= MAX_PREFETCHED:
                for future in self._prefetched.pop(next(iter(self._prefetched)))[1]:
                    future.cancel()
            with suppress(BrokenProcessPool):  # then the batch is decoded when it is read
                self._prefetched[key] = self._submit(indices.tolist())

    def close(self) -> None:
        """End the workers; reading starts new ones."""
        self._close()
        atexit.unregister(self._close)
        self._close = _nothing
        self._executor = None
        self._prefetched.clear()

    def _indices(self, rows: Any) -> npt.NDArray[np.int64]:
        if isinstance(rows, slice):
            return np.arange(len(self.source))[rows]
        return np.asarray(rows, dtype=np.int64).reshape(-1)

    def _submit(self, indices: list[int]) -> Batch:
        """Give the images to the workers in parts; those that were unreadable before are replaced already."""
        if self._executor is None:
            self._start()
        assert self._executor is not None
        readable = [self._readable(index) for index in indices]
        share = -(-len(readable) // self.workers)
        step = max(1, min(share, _MAX_CHUNK_IMAGES, _MAX_CHUNK_BYTES // self._job.row_bytes))
        parts = [readable[start : start + step] for start in range(0, len(readable), step)]
        if isinstance(self._executor, ProcessPoolExecutor):
            return readable, [self._executor.submit(decode_images_in_worker, part) for part in parts]
        return readable, [self._executor.submit(decode_images, self._job, part) for part in parts]

    def _replace_unreadable(self, wanted: list[int], decoded: Decoded) -> Images:
        images, reasons = decoded
        while reasons:
            self._note(reasons)
            positions = [position for position, index in enumerate(wanted) if index in reasons]
            replacements, futures = self._submit([wanted[position] for position in positions])
            for position, index in zip(positions, replacements, strict=True):
                wanted[position] = index
            images[positions], reasons = self._joined(futures)
        return images

    def _joined(self, futures: list[Future[Decoded]]) -> Decoded:
        images, reasons = [np.empty((0, *self.shape[1:]), dtype=np.uint8)], dict[int, str]()
        for future in futures:
            part, part_reasons = future.result()
            images.append(part)
            reasons.update(part_reasons)
        return np.concatenate(images), reasons

    def _note(self, reasons: dict[int, str]) -> None:
        """Count unreadable images; report the first, the tenth, and so on."""
        before = len(self._reasons)
        self._reasons.update(reasons)
        check_skipped(self.skipped, len(self.source), self.strict)
        if len(str(len(self._reasons))) > len(str(before)) or before == 0:
            self.reporter.warn(
                f"{len(self._reasons):,} of {len(self.source):,} images cannot be read so far, and others of their "
                f"class take their places: {describe_skipped(self.skipped)}"
            )

    def _readable(self, index: int) -> int:
        """The index itself, or, if that image was unreadable before, the next one of its class that was not."""
        if index not in self._reasons:
            return index
        labels = self.source.labels
        of_class = np.flatnonzero(labels == labels[index])
        start = int(np.searchsorted(of_class, index))
        for candidate in np.roll(of_class, -start).tolist():
            if candidate not in self._reasons:
                return int(candidate)
        name = self.source.classes[int(labels[index])] if self.source.classes else self.source.name
        raise DataError(f"none of the images of {name} can be read: {describe_skipped(self.skipped)}")

    def _start(self) -> None:
        """Start worker processes; threads for a small source, and where not even a small file can be written."""
        for parent in (self._cache_dir, Path(tempfile.gettempdir())) if self.uses_processes else ():
            with suppress(OSError):
                self._start_processes(parent)
                return
        self.uses_processes = False
        # Pillow's warnings about odd files: to ignore them for the time of a call is not possible with threads.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self._executor = ThreadPoolExecutor(self.workers)
        self._close = partial(self._executor.shutdown, wait=True, cancel_futures=True)

    def _start_processes(self, parent: Path) -> None:
        """Start processes that read their job in a new folder below `parent`. Raises OSError if it cannot be written.

        In the cache, a later run removes the folder if this process is killed.
        """
        with locked_cache(parent) if parent == self._cache_dir else nullcontext():
            folder, lock = make_locked_folder(parent, f".{self._key}-")
        try:
            executor = process_pool(self._job, folder / "job.json", self.workers)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._executor = executor
        self._close = partial(_end_processes, executor, folder, lock)
        # Not a finalizer: it may run in the middle of anything, of the start of a thread too, and must not wait.
        atexit.register(self._close)

    def _continue_in_threads(self) -> None:
        self.reporter.warn("the worker processes ended early: decoding continues in this process, more slowly")
        self.close()
        self.uses_processes = False


def _nothing() -> None:
    """There are no workers to end."""


def _end_processes(executor: Executor, folder: Path, lock: Lock | None) -> None:
    executor.shutdown(wait=True, cancel_futures=True)
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        lock.release()


def _local_processes() -> int:
    """Processes that torchrun has started on this machine; 1 without it."""
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(text)) if text.isdigit() else 1
