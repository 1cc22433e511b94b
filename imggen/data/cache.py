"""Decode the images of a source into the cache, once for each form; the entry appears complete or not at all.

The folder `surveys` beside the entries (see cache_entry.py) holds one small JSON file per source.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imggen.data.cache_contents import NoRoomError, make_room, remove_leftovers, remove_outdated
from imggen.data.cache_dir import NOT_ALLOWED, cache_limit, locked_cache
from imggen.data.cache_entry import (
    CacheEntry,
    Form,
    Index,
    Skipped,
    entry_key,
    open_entry,
    remove_unused,
    write_index,
)
from imggen.data.cache_files import DamagedError, block_checksums, read_document, save_array, write_document
from imggen.data.cache_reuse import copy_rows, open_previous, row_hashes
from imggen.data.decode import REMOVED
from imggen.data.masks import NO_CLASS
from imggen.data.readers import Source
from imggen.data.survey import Survey, survey_source
from imggen.data.workers import DecodeJob, decode_all
from imggen.documents import COUNT, FLAG, FRACTION, DocumentError, read_fields
from imggen.errors import DataError
from imggen.io.locks import Lock, make_locked_folder
from imggen.reporting import Reporter

MAX_UNREADABLE_FRACTION = 0.05
SURVEY = {
    **dict.fromkeys(("channels", "width_median", "height_median", "short_median", "sampled", "readable"), COUNT),
    "used_16_bit_range": FRACTION,
    **dict.fromkeys(("same_size", "hard_alpha"), FLAG),
}
_INDEX_BYTES = 1 << 20  # estimate for index.json and the headers of the arrays
_LABEL_BYTES = 16  # of labels.npy and rows.npy, per image


def load_survey(source: Source, cache_dir: Path) -> Survey:
    """The survey of a source from the cache, or a new one.

    A new one is cached if it can be, unless some images were unreadable: the rest may be readable the next time.
    """
    path = cache_dir / "surveys" / f"{source.key}.json"
    with suppress(OSError, DamagedError, DocumentError):
        return Survey(**read_fields(read_document(path), SURVEY))
    survey = survey_source(source)
    if survey.readable == survey.sampled:
        with suppress(OSError, DataError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_document(path, dataclasses.asdict(survey))
    return survey


def find_entry(source: Source, form: Form, cache_dir: Path, reporter: Reporter) -> CacheEntry | None:
    """The entry of `source` in this form, if there is one; a damaged one is reported and removed."""
    folder = cache_dir / entry_key(source, form)
    try:
        return open_entry(folder)
    except DamagedError as error:
        if not folder.exists():
            return None
        reporter.warn(f"the decoded images of {source.name} in {folder} are damaged, and are decoded again: {error}")
        remove_unused(folder, damaged=True)
        return None


def decode_into_cache(source: Source, form: Form, cache_dir: Path, strict: bool, reporter: Reporter) -> CacheEntry:
    """Decode the images of `source` to this form into a new entry.

    Images of an entry of the same files in an earlier state are copied, as far as they are unchanged. Raises
    NoRoomError if they do not fit the disk or the limit of the cache, or nothing may be written there; DataError for
    other errors of the disk, and if too many images are unreadable.
    """
    with _disk_errors(cache_dir):
        previous = open_previous(source, form, cache_dir)
        with locked_cache(cache_dir):
            remove_leftovers(cache_dir)
            needed = len(source) * (form.size * form.size * form.channels + _LABEL_BYTES) + _INDEX_BYTES
            limit = cache_limit(cache_dir)
            try:
                make_room(cache_dir, needed, limit, reporter)
            except NoRoomError:
                if previous is None:
                    raise
                previous.lock.release()
                previous = None
                make_room(cache_dir, needed, limit, reporter)
            key = entry_key(source, form)
            temporary, lock = make_locked_folder(cache_dir, f".{key}-")
        try:
            unreadable = _decode_into(temporary, source, form, previous, strict, reporter)
            _write_labels_and_index(temporary, source, form, unreadable)
            entry = _publish(temporary, cache_dir / key, lock)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if previous is not None:
            previous.lock.release()
        with locked_cache(cache_dir):
            remove_outdated(cache_dir, reporter)
    return entry


def check_skipped(skipped: Skipped, total: int, strict: bool) -> None:
    """Raise DataError if too many of `total` images are unreadable: all, more than 5 %, or any with `strict`."""
    if not skipped:
        return
    examples, hint = describe_skipped(skipped, 20), _hint_of_cause(skipped)
    if len(skipped) == total:
        raise DataError(f"none of {total:,} images can be read: {examples}", hint or "check that they are images")
    fraction = len(skipped) / total
    if strict or fraction > MAX_UNREADABLE_FRACTION:
        many = fraction > MAX_UNREADABLE_FRACTION
        hint = hint or f"remove or repair them{'' if many else ', or omit --strict'}"
        raise DataError(f"{len(skipped):,} of {total:,} images ({fraction:.1%}) cannot be read: {examples}", hint)


def _hint_of_cause(skipped: Skipped) -> str | None:
    """What to do where the files are not damaged; None if they are."""
    if any(reason == REMOVED for _, reason in skipped):
        return "the data was changed or removed while it was read: run the command again when nothing changes it"
    if any(reason.endswith(NO_CLASS) for _, reason in skipped):
        return "the model has the classes of other masks: use those, or train another model"
    return None


def describe_skipped(skipped: Skipped, limit: int = 5) -> str:
    """The first unreadable images with their reasons, as one line."""
    ellipsis = ", …" if len(skipped) > limit else ""
    return ", ".join(f"{name} ({reason})" for name, reason in skipped[:limit]) + ellipsis


@contextmanager
def _disk_errors(cache_dir: Path) -> Iterator[None]:
    """Raise an OSError of the block as a DataError: as a NoRoomError if nothing may be written there."""
    try:
        yield
    except OSError as error:
        if error.errno in NOT_ALLOWED:
            raise NoRoomError(
                f"cannot write to the cache {cache_dir}: {error.strerror}",
                "set IMGGEN_CACHE to a folder that you may write to, or --cache none",
            ) from error
        hint = "free some space, or set IMGGEN_CACHE to another folder"
        if isinstance(error, FileNotFoundError):
            hint = "the cache was changed or removed while it was written: run the command again"
        raise DataError(f"cannot write to the cache {cache_dir}: {error.strerror or error}", hint) from error


def _publish(temporary: Path, final: Path, lock: Lock | None) -> CacheEntry:
    """Rename the finished folder; if another process has made the same one meanwhile, use that."""
    if lock is not None:
        lock.share()
    try:
        temporary.rename(final)
    except OSError:
        with suppress(DamagedError):
            other = open_entry(final)
            if other is not None:
                shutil.rmtree(temporary, ignore_errors=True)
                return other
        remove_unused(final, damaged=True)  # a damaged folder has the name
        temporary.rename(final)
    try:
        entry = open_entry(final)
    except DamagedError as error:
        raise DataError(
            f"the cache {final} cannot be read back: {error}", "check the disk, or set IMGGEN_CACHE"
        ) from error
    if entry is None:
        raise FileNotFoundError(None, "No such file or directory", str(final))
    return entry


def _decode_into(
    folder: Path, source: Source, form: Form, previous: CacheEntry | None, strict: bool, reporter: Reporter
) -> dict[int, str]:
    """Decode all images into images.npy; returns the reason for each unreadable one, by index."""
    path = folder / "images.npy"
    shape = (len(source), form.size, form.size, form.channels)
    offset = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).offset
    job = DecodeJob(source, form.size, form.channels, form.crop, str(path), offset)
    copied: npt.NDArray[np.int64] = np.empty(0, np.int64)
    if previous is not None:
        copied = copy_rows(job, previous)
        reporter.info(f"{source.name} has changed: {len(copied):,} of {len(source):,} images are unchanged")
    unreadable = decode_all(job, folder / "job.json", reporter, skip=copied)
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


def _write_labels_and_index(folder: Path, source: Source, form: Form, unreadable: dict[int, str]) -> None:
    """Write labels, hashes of the images' names and, last, the index, which makes the folder valid."""
    skipped = sorted(unreadable)
    labels = np.delete(source.labels, skipped).astype(np.int64)
    save_array(folder / "labels.npy", labels)
    if source.fingerprints:
        save_array(folder / "rows.npy", np.delete(row_hashes(source), skipped))
    index = Index(
        source=source.name,
        origin=source.origin,
        source_key=source.key,
        form=form,
        count=len(labels),
        classes=source.classes,
        ignored=source.ignored,
        skipped=tuple((source.names[i], unreadable[i]) for i in skipped),
        created=time.time(),
        blocks=block_checksums(folder / "images.npy"),
    )
    write_index(folder, index)
