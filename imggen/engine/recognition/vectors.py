"""The vectors of a source's images, kept in the cache: only new and changed images are embedded again."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.data.cache_dir import default_cache_dir, expand_user
from imggen.data.cache_reuse import row_hashes
from imggen.data.readers import Source
from imggen.data.scan import digest
from imggen.data.shards import is_archive
from imggen.documents import COUNT, TEXT, DocumentError, read_fields
from imggen.engine.recognition.embedder import Embedder, read_batches
from imggen.errors import CheckpointError, DataError, first_line
from imggen.io.checkpoint import read_header, read_tensors, write_checkpoint
from imggen.reporting import Reporter

DOCUMENT = {
    "model": TEXT,
    "hash": TEXT,
    "size": COUNT,
    "channels": COUNT,
    "source": TEXT,
    "key": TEXT,
    "images": COUNT,
    "stamp": TEXT,
}
LISTS = {"names": torch.uint8, "rows": torch.int64, "pixels": torch.int64, "center": torch.float32}
SHORTEST = 1e-12  # vectors
BLOCK_ROWS = 1024  # vectors compared at a time


@dataclass(frozen=True)
class Vectors:
    """Vectors (N, D) float16 of images, in the order of `names`.

    `rows` and `pixels` (N,) int64 are hashes: of name and fingerprint, by which unchanged images are known (0 where
    there are no fingerprints), and of the pixels at the model's size, by which equal images are known. `center` (D,)
    float32 is the mean of what the model sees in its own samples: similarities are measured from there, so that they
    do not depend on the other images. `about` names the model, its hash, the size and channels, the source with its
    key, how many images it has, and, of an archive, what tells whether it has changed: see `stamp_of`.
    """

    names: list[str]
    vectors: Tensor
    rows: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    center: Tensor
    about: dict[str, Any]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.names)

    def directions(self) -> Tensor:
        """Unit vectors (N, D) float32 from the center: their products are cosine similarities."""
        return unit(self.vectors.float() - self.center)

    def similarities(self, wanted: Tensor) -> Tensor:
        """Cosine similarities (Q, N) of unit vectors (Q, D) from the center to all images.

        In blocks that fit into a CPU's cache, which takes a tenth of the time of `directions`.
        """
        scores = torch.empty(len(wanted), len(self))
        block = torch.empty(BLOCK_ROWS, self.vectors.shape[1])
        for start in range(0, len(self), BLOCK_ROWS):
            rows = self.vectors[start : start + BLOCK_ROWS]
            part = block[: len(rows)].copy_(rows).sub_(self.center)
            scores[:, start : start + len(rows)] = wanted @ part.T / part.norm(dim=1).clamp(min=SHORTEST)
        return scores


def unit(vectors: Tensor) -> Tensor:
    """Vectors (N, D) of length 1; those of length 0 stay 0."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=SHORTEST)


def embed_source(
    source: Source,
    embedder: Embedder,
    reporter: Reporter,
    known: Vectors | None = None,
    center: Tensor | None = None,
) -> Vectors:
    """The vectors of all images of a source that can be read, those that are unchanged since `known` from there.

    `center` is computed if it is not given. Raises DataError if too many images cannot be read.
    """
    rows = row_hashes(source).view(np.int64) if source.fingerprints else np.zeros(len(source), np.int64)
    reused, old = _unchanged(rows, known)
    missing = np.setdiff1d(np.arange(len(source)), reused)
    indices, vectors, pixels = [reused], list[Tensor](), list[npt.NDArray[np.int64]]()
    if known is not None:
        vectors, pixels = [known.vectors[torch.from_numpy(old)]], [known.pixels[old]]
    with reporter.task("embedding", len(missing)) as task:
        done = 0
        for batch in read_batches(source, missing, embedder.size, embedder.channels, embedder.batch, reporter):
            indices.append(np.array(batch.indices))
            vectors.append(embedder.embed(batch.pixels).half())
            pixels.append(np.array([hash_pixels(image) for image in batch.pixels], np.int64))
            done += len(batch.indices)
            task.update(done)
    read = np.concatenate(indices)
    order = np.argsort(read)
    kept = read[order]
    about = {
        "model": embedder.name,
        "hash": embedder.hash,
        "size": embedder.size,
        "channels": embedder.channels,
        "source": source.origin.path or source.name,
        "key": source.key,
        "images": len(source),
        "stamp": "",
    }
    return Vectors(
        [source.names[index] for index in kept.tolist()],
        torch.cat(vectors)[torch.from_numpy(order)],
        rows[kept],
        np.concatenate(pixels)[order],
        embedder.center() if center is None else center,
        about,
    )


def _unchanged(
    rows: npt.NDArray[np.int64], known: Vectors | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which of the images with these hashes are in `known`, and where there."""
    nothing = np.empty(0, np.int64)
    if known is None or not rows.any():
        return nothing, nothing
    _, new, old = np.intersect1d(rows, known.rows, return_indices=True)
    return new.astype(np.int64), old.astype(np.int64)


def hash_pixels(image: npt.NDArray[np.uint8]) -> int:
    """A hash of the pixels (H, W, C), 64 bits signed: equal for equal images."""
    data = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).digest()
    return int.from_bytes(data, "little", signed=True)


def stamp_of(spec: str) -> str:
    """Size and time of a single archive, from before it is read; empty for anything else, which has no one time."""
    path = expand_user(spec)
    if not is_archive(path) or not path.is_file():
        return ""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def unchanged_index(spec: str, stamp: str, embedder: Embedder, reporter: Reporter) -> Vectors | None:
    """The index of an archive whose size and time are those of `stamp`, without listing its members; None if not known.

    Of 100,000 members that would take twice as long as all the rest of a search.
    """
    path = _index_path(str(expand_user(spec).resolve()), "all", embedder)
    if not stamp or not path.exists():
        return None
    try:
        # The header first: an old index is read whole by `index_source`, which also says if it is damaged.
        if read_header(path, kind="vectors").document.get("stamp") != stamp:
            return None
        known = read_vectors(path)
    except CheckpointError:
        return None
    if known.about["size"] != embedder.size:
        return None
    _report_use(path, known, reporter)
    return known


def _index_path(source: str, split: str, embedder: Embedder) -> Path:
    return default_cache_dir() / "vectors" / f"{digest([source, split])}-{embedder.hash}.safetensors"


def _report_use(path: Path, known: Vectors, reporter: Reporter) -> None:
    """Note that an index is used as it is, and say what is missing in it."""
    with suppress(OSError):
        os.utime(path)  # what was used last is removed last to make room
    if (missing := known.about["images"] - len(known)) > 0:
        reporter.warn(f"{missing:,} of {known.about['images']:,} images could not be read, and are left out")


def index_source(source: Source, stamp: str, embedder: Embedder, reporter: Reporter) -> Vectors:
    """The vectors of a source from the cache, where they are brought up to date, and kept with the archive's `stamp`.

    A damaged or unwritable cache costs time only. Raises DataError if too many images cannot be read.
    """
    path = _index_path(source.origin.path or source.key, source.origin.split, embedder)
    known = None
    if path.exists():
        try:
            known = read_vectors(path)
        except CheckpointError as error:
            reporter.warn(f"the index is made again: {error.message}")
    elif path.parent.is_dir() and any(path.parent.glob(f"{path.stem.partition('-')[0]}-*.safetensors")):
        reporter.info(f"another model has indexed {source.name} before: all of it is embedded with {embedder.name}")
    if known is not None and known.about["key"] == source.key and known.about["size"] == embedder.size:
        _report_use(path, known, reporter)
        if known.about["stamp"] == stamp:
            return known
        vectors = known
    else:
        vectors = embed_source(source, embedder, reporter, known, None if known is None else known.center)
    vectors = replace(vectors, about={**vectors.about, "stamp": stamp})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_vectors(path, vectors)
    except (OSError, DataError) as error:
        reporter.warn(f"the index cannot be kept, so it is made each time: {first_line(error)}")
    return vectors


def write_vectors(path: Path, vectors: Vectors) -> None:
    """Write vectors as safetensors. Raises DataError."""
    names = "\0".join(vectors.names).encode("utf-8", "surrogateescape")
    tensors = {
        "vectors": vectors.vectors,
        "center": vectors.center,
        "names": torch.frombuffer(bytearray(names or b"\0"), dtype=torch.uint8),
        "rows": torch.from_numpy(vectors.rows.copy()),
        "pixels": torch.from_numpy(vectors.pixels.copy()),
    }
    write_checkpoint(path, tensors, {**vectors.about, "count": len(vectors)}, kind="vectors")


def read_vectors(path: Path) -> Vectors:
    """Read what `write_vectors` wrote. Raises CheckpointError for anything else."""
    header = read_header(path, kind="vectors")
    damaged = CheckpointError(f"{path} has a damaged description", "make it again with imggen embed")
    try:
        about = read_fields(header.document, {**DOCUMENT, "count": COUNT})
    except DocumentError as error:
        raise damaged from error
    count = about.pop("count")
    tensors = read_tensors(path, header, None)
    if tensors.keys() != {*LISTS, "vectors"} or count == 0:
        raise damaged
    if any(tensors[name].dtype != dtype or tensors[name].ndim != 1 for name, dtype in LISTS.items()):
        raise damaged
    vectors = tensors["vectors"]
    if vectors.dtype != torch.float16 or vectors.shape != (count, len(tensors["center"])):
        raise damaged
    if any(len(tensors[name]) != count for name in ("rows", "pixels")):
        raise damaged
    names = tensors["names"].numpy().tobytes().decode("utf-8", "surrogateescape").split("\0")
    if len(names) != count:
        raise damaged
    return Vectors(names, vectors, tensors["rows"].numpy(), tensors["pixels"].numpy(), tensors["center"], about)
