"""Reuse of decoded images: where a folder has changed, only the new and changed images are decoded.

rows.npy of an entry has a hash of name and fingerprint of each image, (N,) uint64, in the order of images.npy.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imggen.data.cache_entry import KEY, CacheEntry, Form, last_used, open_entry, read_index
from imggen.data.cache_files import DamagedError, load_array
from imggen.data.readers import Source
from imggen.data.workers import DecodeJob

_COPY_BYTES = 64 << 20


def row_hashes(source: Source) -> npt.NDArray[np.uint64]:
    """A hash of name and fingerprint of every image (N,); empty if the source has no fingerprints."""
    hashes = [
        hashlib.blake2b(f"{name}\0{mark}".encode("utf-8", "backslashreplace"), digest_size=8).digest()
        for name, mark in zip(source.names, source.fingerprints, strict=bool(source.fingerprints))
    ]
    return np.frombuffer(b"".join(hashes), dtype=np.uint64)


def open_previous(source: Source, form: Form, cache_dir: Path) -> CacheEntry | None:
    """The entry, in the same form, of the same files in an earlier state; the one that was used last."""
    if not source.fingerprints or not cache_dir.is_dir():
        return None
    found = []
    for folder in cache_dir.iterdir():
        if KEY.fullmatch(folder.name):
            with suppress(DamagedError, OSError):
                index = read_index(folder)
                if index.form == form and index.origin == source.origin and index.source_key != source.key:
                    found.append(folder)
    for folder in sorted(found, key=last_used, reverse=True):
        with suppress(DamagedError):
            return open_entry(folder)
    return None


def copy_rows(job: DecodeJob, previous: CacheEntry) -> npt.NDArray[np.int64]:
    """Copy the images that are unchanged since `previous` to their rows of the job's file; returns which these are."""
    try:
        old_hashes = load_array(previous.folder / "rows.npy")
        images = np.load(previous.folder / "images.npy", mmap_mode="r", allow_pickle=False)
    except (DamagedError, OSError):
        return np.empty(0, np.int64)
    if old_hashes.shape != (len(images),):
        return np.empty(0, np.int64)
    _, rows, old_rows = np.intersect1d(row_hashes(job.source), old_hashes, return_indices=True)
    order = np.argsort(rows)
    rows, old_rows = rows[order], old_rows[order]
    step = max(1, _COPY_BYTES // job.row_bytes)
    with Path(job.target).open("r+b") as file:
        for start in range(0, len(rows), step):
            copied = images[old_rows[start : start + step]]
            for row, image in zip(rows[start : start + step].tolist(), copied, strict=True):
                file.seek(job.offset + row * job.row_bytes)
                file.write(image.data)
    return rows.astype(np.int64)
