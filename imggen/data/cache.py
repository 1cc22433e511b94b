"""The cache of decoded pictures: made once, in parallel, and atomically. Workers import this, so no torch."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imggen.data import decode
from imggen.data.decode import Survey, UnreadableError
from imggen.data.readers import FILE_READERS, Source
from imggen.data.scan import digest
from imggen.errors import DataError
from imggen.reporting import Reporter

FORMAT_VERSION = 1
POOL_THRESHOLD = 3_000
MAX_BAD_SHARE = 0.05
_CHUNK_PICTURES = 32
HALF_MADE = re.compile(r"\.[0-9a-f]{32}-[^.]+")

Skipped = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Job:
    """What a worker needs: the source, the form of the pictures, and the file to write rows into."""

    source: Source
    size: int
    channels: int
    crop: str
    target: str
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded picture."""
        return self.size * self.size * self.channels


@dataclass(frozen=True)
class Stored:
    """A finished folder of the cache and what its index says."""

    folder: Path
    count: int
    skipped: Skipped


def surveyed(source: Source, cache_dir: Path) -> Survey:
    """The survey of a source, taken once and then read from the cache."""
    path = cache_dir / "surveys" / f"{source.key}.json"
    try:
        return Survey(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        found = decode.survey(source)
    if found.readable < found.sampled:
        return found  # what could not be read today may be tomorrow
    with _disk_errors(cache_dir):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
            json.dump(dataclasses.asdict(found), file)
        Path(file.name).replace(path)
    return found


def stored(
    source: Source, look: Survey, form: tuple[int, int, str], cache_dir: Path, strict: bool, reporter: Reporter
) -> Stored:
    """The cached decoding of `source` in the form (size, channels, crop), made first if it is not there."""
    size, channels, crop = form
    key = digest([source.key, size, channels, crop, FORMAT_VERSION])
    final = cache_dir / key
    found = _read(final)
    if found is None:
        with _disk_errors(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
            _sweep(cache_dir)
            _check_space(len(source) * (size * size * channels + 8) + (1 << 20), cache_dir)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache_dir))
            try:
                skipped = _build(source, form, temporary, strict, reporter)
                _finish(temporary, source, look, form, skipped)
                found = _publish(temporary, final)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    check_skipped(found.skipped, len(source), strict)
    return found


def check_skipped(skipped: Skipped, total: int, strict: bool) -> None:
    """Raise when too much of a source cannot be read: any with `strict`, else more than 5 %, or all."""
    if not skipped:
        return
    examples = listed(skipped, 20)
    if len(skipped) == total:
        raise DataError(f"none of {total:,} pictures can be read: {examples}", "are they really pictures?")
    share = len(skipped) / total
    if strict or share > MAX_BAD_SHARE:
        raise DataError(
            f"{len(skipped):,} of {total:,} pictures ({share:.1%}) cannot be read: {examples}",
            "remove or mend them" + (", or leave out --strict" if strict and share <= MAX_BAD_SHARE else ""),
        )


def listed(skipped: Skipped, most: int = 5) -> str:
    """The first unreadable pictures with their reasons."""
    more = ", …" if len(skipped) > most else ""
    return ", ".join(f"{name} ({reason})" for name, reason in skipped[:most]) + more


def usable_cores() -> int:
    """Cores that this process may use, which a container or a scheduler can limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _disk_errors(cache_dir: Path) -> Iterator[None]:
    """Say a fault of the cache's disk in one line."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {cache_dir}: {error.strerror or error}",
            "free some space, or set IMGGEN_CACHE to another folder",
        ) from error


def _sweep(cache_dir: Path) -> None:
    """Remove what killed processes left half-made, once it is a day old; nothing else that may lie there."""
    for left in cache_dir.iterdir():
        ours = HALF_MADE.fullmatch(left.name) and left.is_dir() and not left.is_symlink()
        if ours and time.time() - left.stat().st_mtime > 86_400:
            shutil.rmtree(left, ignore_errors=True)


def _check_space(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the decoded pictures need {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free",
            "free some space, set IMGGEN_CACHE to a larger disk, or choose a smaller size",
        )


def _read(folder: Path) -> Stored | None:
    """The index of a finished folder, or None when it is missing or does not fit its arrays."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        skipped = tuple((str(name), str(reason)) for name, reason in index["skipped"])
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        whole = len(images) == len(labels) == int(index["count"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return Stored(folder, len(labels), skipped) if whole else None


def _publish(temporary: Path, final: Path) -> Stored:
    """Give the finished folder its name; where another process was faster, take what it made."""
    try:
        temporary.rename(final)
    except OSError:
        found = _read(final)
        if found is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            return found
        shutil.rmtree(final, ignore_errors=True)  # a damaged one is in the way
        temporary.rename(final)
    result = _read(final)
    if result is None:
        raise DataError(f"the cache {final} cannot be read back", "check the disk, or set IMGGEN_CACHE")
    return result


def _build(
    source: Source, form: tuple[int, int, str], folder: Path, strict: bool, reporter: Reporter
) -> dict[int, str]:
    """Decode everything into images.npy; returns the reasons of the unreadable ones by index."""
    size, channels, crop = form
    path = folder / "images.npy"
    shape = (len(source), size, size, channels)
    offset = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).offset
    job = Job(source, size, channels, crop, str(path), offset)
    step = max(1, min(_CHUNK_PICTURES, (32 << 20) // job.row_bytes))
    chunks = {(start, min(start + step, len(source))) for start in range(0, len(source), step)}
    bad: dict[int, str] = {}
    with reporter.task("decoding", len(source)) as task:
        for executor in _executors(job, folder / "job.json"):
            try:
                for done, found in _run(executor, job, sorted(chunks)):
                    chunks.discard(done)
                    bad.update(found)
                    task.update(len(source) - sum(stop - start for start, stop in chunks))
                break
            except BrokenProcessPool:
                reporter.warn("the worker processes ended early; decoding goes on in this process")
    (folder / "job.json").unlink(missing_ok=True)
    skipped = tuple((source.names[i], bad[i]) for i in sorted(bad))
    check_skipped(skipped, len(source), strict)
    if bad:
        _close_gaps(job, sorted(bad))
    return bad


def _executors(job: Job, note: Path) -> Iterator[Executor]:
    """Processes for large sets, and threads for small ones or when the processes cannot start.

    Processes find the job in the file `note`: what they are started with goes through a pipe, and a process that dies
    before it has read all of that would be waited for, for ever.
    """
    workers = min(usable_cores(), 32)
    if job.source.parallel and workers > 1 and len(job.source) > POOL_THRESHOLD:
        # "spawn" works everywhere; a fork of a process that runs torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        note.write_text(written(job), encoding="utf-8")
        yield ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(str(note),))
    yield ThreadPoolExecutor(workers)


def _run(
    executor: Executor, job: Job, chunks: list[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], dict[int, str]]]:
    """Each chunk as it is done, with its unreadable pictures."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd files; also for the threads
            if isinstance(executor, ProcessPoolExecutor):
                pending = {executor.submit(_work, *chunk): chunk for chunk in chunks}
            else:
                pending = {executor.submit(decode_rows, job, *chunk): chunk for chunk in chunks}
            for future in as_completed(pending):
                yield pending[future], future.result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def written(job: Job) -> str:
    """A job as JSON: what decoding needs of it. Readers are told by their kind and what they are made of."""
    reader = job.source.reader
    kind = next(name for name, known in FILE_READERS.items() if isinstance(reader, known))
    made_of = {
        field.name: getattr(reader, field.name) for field in dataclasses.fields(FILE_READERS[kind]) if field.init
    }
    form = {"size": job.size, "channels": job.channels, "crop": job.crop, "target": job.target, "offset": job.offset}
    return json.dumps({"reader": kind, "made_of": made_of, "names": job.source.names, "form": form})


def read_job(text: str) -> Job:
    """What `written` told; of the source, what decoding needs."""
    found = json.loads(text)
    reader, names = FILE_READERS[found["reader"]](**found["made_of"]), found["names"]
    return Job(Source("", (), names, np.zeros(len(names), np.int64), "", 0, reader), **found["form"])


_worker_job: list[Job] = []


def _start_worker(note: str) -> None:
    """Keep the job of this file; leave Ctrl-C to the parent, which ends the pool and cleans up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    _worker_job[:] = [read_job(Path(note).read_text(encoding="utf-8"))]


def _work(start: int, stop: int) -> dict[int, str]:
    return decode_rows(_worker_job[0], start, stop)


def decode_rows(job: Job, start: int, stop: int) -> dict[int, str]:
    """Decode pictures start..stop into their rows of the file; returns reasons of unreadable ones.

    Rows are written, not mapped: a disk that fills up is then an error and not a crash.
    """
    rows = np.zeros((stop - start, job.size, job.size, job.channels), dtype=np.uint8)
    bad: dict[int, str] = {}
    for index in range(start, stop):
        try:
            picture = decode.load_image(job.source, index)
            rows[index - start] = decode.fit_image(picture, job.size, job.channels, job.crop, job.source.names[index])
        except (UnreadableError, MemoryError) as error:
            bad[index] = str(error) or "too large for the memory"
    with Path(job.target).open("r+b") as file:
        file.seek(job.offset + start * job.row_bytes)
        file.write(rows.data)
    return bad


def _close_gaps(job: Job, bad: list[int]) -> None:
    """Move the good rows up over the bad ones and shorten the file, so that images.npy holds no holes."""
    good = np.delete(np.arange(len(job.source)), bad).tolist()
    header = io.BytesIO()
    shape = (len(good), job.size, job.size, job.channels)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    text = header.getvalue()
    with Path(job.target).open("r+b") as file:
        for place, index in enumerate(good):
            if place != index:
                file.seek(job.offset + index * job.row_bytes)
                row = file.read(job.row_bytes)
                file.seek(job.offset + place * job.row_bytes)
                file.write(row)
        file.truncate(job.offset + len(good) * job.row_bytes)
        if len(text) != job.offset:  # numpy leaves room for a growing first number, so they are equal
            raise DataError("cannot shorten the decoded pictures", "remove the unreadable pictures and try again")
        file.seek(0)
        file.write(text)


def _finish(folder: Path, source: Source, look: Survey, form: tuple[int, int, str], bad: dict[int, str]) -> None:
    """Write the labels and, last, the index that makes the folder valid."""
    labels = np.delete(source.labels, sorted(bad)).astype(np.int64)
    np.save(folder / "labels.npy", labels, allow_pickle=False)
    index = {
        "version": FORMAT_VERSION,
        "source": source.name,
        "form": list(form),
        "count": len(labels),
        "classes": list(source.classes),
        "ignored": source.ignored,
        "survey": dataclasses.asdict(look),
        "skipped": [[source.names[i], bad[i]] for i in sorted(bad)],
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
