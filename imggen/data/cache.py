"""The cache of decoded images: each source and form is decoded once, and its folder appears complete or not at all.

A folder of the cache is named by a hash and holds images.npy (N, size, size, channels) uint8, labels.npy (N,) int64
and index.json, which is written last. The folder `surveys` beside them holds one small JSON file per source.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imggen.data.readers import Source
from imggen.data.scan import digest
from imggen.data.survey import Survey, survey_source
from imggen.data.workers import DecodeJob, decode_all
from imggen.errors import DataError
from imggen.reporting import Reporter

FORMAT_VERSION = 1
MAX_UNREADABLE_FRACTION = 0.05
INCOMPLETE_FOLDER = re.compile(r"\.[0-9a-f]{32}-[^.]+")
MAX_INCOMPLETE_AGE_SECONDS = 86_400
_INDEX_BYTES = 1 << 20  # estimate for index.json and the header of labels.npy
_LABEL_BYTES = 8

Skipped = tuple[tuple[str, str], ...]
"""Name and reason of each image that cannot be read."""


class Form(NamedTuple):
    """What images are decoded to: (size, size, channels), by one of `decode.CROPS`."""

    size: int
    channels: int
    crop: str


@dataclass(frozen=True)
class CacheEntry:
    """A complete folder of the cache, its number of images, and the unreadable ones that were left out."""

    folder: Path
    count: int
    skipped: Skipped


def load_survey(source: Source, cache_dir: Path) -> Survey:
    """The survey of a source from the cache, or a new one, which is then cached unless some images were unreadable."""
    path = cache_dir / "surveys" / f"{source.key}.json"
    try:
        return Survey(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        found = survey_source(source)
    if found.readable < found.sampled:
        return found  # the rest may be readable the next time
    with _disk_errors(cache_dir):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
            json.dump(dataclasses.asdict(found), file)
        Path(file.name).replace(path)
    return found


def load_or_decode(
    source: Source, survey: Survey, form: Form, cache_dir: Path, strict: bool, reporter: Reporter
) -> CacheEntry:
    """The cached images of `source` in this form, decoded first if they are not there.

    Raises DataError if the disk is full or cannot be written, or if too many images are unreadable.
    """
    key = digest([source.key, *form, FORMAT_VERSION])
    final = cache_dir / key
    entry = _read_entry(final)
    if entry is None:
        with _disk_errors(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
            _remove_incomplete_folders(cache_dir)
            image_bytes = form.size * form.size * form.channels
            _check_space(len(source) * (image_bytes + _LABEL_BYTES) + _INDEX_BYTES, cache_dir)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache_dir))
            try:
                unreadable = _decode_into(temporary, source, form, strict, reporter)
                _write_labels_and_index(temporary, source, survey, form, unreadable)
                entry = _publish(temporary, final)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
    check_skipped(entry.skipped, len(source), strict)
    return entry


def check_skipped(skipped: Skipped, total: int, strict: bool) -> None:
    """Raise DataError if too many of `total` images are unreadable: all, more than 5 %, or any with `strict`."""
    if not skipped:
        return
    examples = describe_skipped(skipped, 20)
    if len(skipped) == total:
        raise DataError(f"none of {total:,} images can be read: {examples}", "check that they are images")
    fraction = len(skipped) / total
    if strict or fraction > MAX_UNREADABLE_FRACTION:
        raise DataError(
            f"{len(skipped):,} of {total:,} images ({fraction:.1%}) cannot be read: {examples}",
            "remove or repair them" + (", or omit --strict" if strict and fraction <= MAX_UNREADABLE_FRACTION else ""),
        )


def describe_skipped(skipped: Skipped, limit: int = 5) -> str:
    """The first unreadable images with their reasons, as one line."""
    ellipsis = ", …" if len(skipped) > limit else ""
    return ", ".join(f"{name} ({reason})" for name, reason in skipped[:limit]) + ellipsis


@contextmanager
def _disk_errors(cache_dir: Path) -> Iterator[None]:
    """Raise an OSError of the block as a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {cache_dir}: {error.strerror or error}",
            "free some space, or set IMGGEN_CACHE to another folder",
        ) from error


def _remove_incomplete_folders(cache_dir: Path) -> None:
    """Remove folders that killed processes left incomplete, once a day old; anything else in `cache_dir` stays."""
    for path in cache_dir.iterdir():
        incomplete = INCOMPLETE_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if incomplete and time.time() - path.stat().st_mtime > MAX_INCOMPLETE_AGE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _check_space(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the decoded images need {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free",
            "free some space, set IMGGEN_CACHE to a larger disk, or choose a smaller size",
        )


def _read_entry(folder: Path) -> CacheEntry | None:
    """The entry in a folder, or None if it is missing or its arrays do not fit its index."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        skipped = tuple((str(name), str(reason)) for name, reason in index["skipped"])
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        complete = len(images) == len(labels) == int(index["count"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return CacheEntry(folder, len(labels), skipped) if complete else None


def _publish(temporary: Path, final: Path) -> CacheEntry:
    """Rename the finished folder; if another process has made the same one meanwhile, use that."""
    try:
        temporary.rename(final)
    except OSError:
        other = _read_entry(final)
        if other is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            return other
        shutil.rmtree(final, ignore_errors=True)  # a damaged folder has the name
        temporary.rename(final)
    entry = _read_entry(final)
    if entry is None:
        raise DataError(f"the cache {final} cannot be read back", "check the disk, or set IMGGEN_CACHE")
    return entry


def _decode_into(folder: Path, source: Source, form: Form, strict: bool, reporter: Reporter) -> dict[int, str]:
    """Decode all images into images.npy; returns the reason for each unreadable one, by index."""
    path = folder / "images.npy"
    shape = (len(source), form.size, form.size, form.channels)
    offset = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).offset
    job = DecodeJob(source, form.size, form.channels, form.crop, str(path), offset)
    unreadable = decode_all(job, folder / "job.json", reporter)
    skipped = tuple((source.names[i], unreadable[i]) for i in sorted(unreadable))
    check_skipped(skipped, len(source), strict)
    if unreadable:
        _remove_rows(job, sorted(unreadable))
    return unreadable


def _remove_rows(job: DecodeJob, unreadable: list[int]) -> None:
    """Move the readable rows of images.npy up over the unreadable ones, and shorten the file and its header."""
    readable = np.delete(np.arange(len(job.source)), unreadable).tolist()
    buffer = io.BytesIO()
    shape = (len(readable), job.size, job.size, job.channels)
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    header = buffer.getvalue()
    with Path(job.target).open("r+b") as file:
        for position, index in enumerate(readable):
            if position != index:
                file.seek(job.offset + index * job.row_bytes)
                row = file.read(job.row_bytes)
                file.seek(job.offset + position * job.row_bytes)
                file.write(row)
        file.truncate(job.offset + len(readable) * job.row_bytes)
        # NumPy pads its headers, so that the new one has the length of the old one.
        if len(header) != job.offset:
            raise DataError("cannot shorten the decoded images", "remove the unreadable images and try again")
        file.seek(0)
        file.write(header)


def _write_labels_and_index(
    folder: Path, source: Source, survey: Survey, form: Form, unreadable: dict[int, str]
) -> None:
    """Write the labels and, last, the index, which makes the folder valid."""
    labels = np.delete(source.labels, sorted(unreadable)).astype(np.int64)
    np.save(folder / "labels.npy", labels, allow_pickle=False)
    index = {
        "version": FORMAT_VERSION,
        "source": source.name,
        "form": list(form),
        "count": len(labels),
        "classes": list(source.classes),
        "ignored": source.ignored,
        "survey": dataclasses.asdict(survey),
        "skipped": [[source.names[i], unreadable[i]] for i in sorted(unreadable)],
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
