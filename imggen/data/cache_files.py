"""Files of the cache that carry checksums: JSON documents, arrays, and large files checked block by block."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imggen.documents import DocumentError, read_json
from imggen.io.atomic import atomic_path, atomic_write

MAX_DOCUMENT_BYTES = 64 << 20
MAX_DOCUMENT_VALUES = 5_000_000  # more than an index can have that is not too long to be written
BLOCK_BYTES = 4 << 20
MAX_CHECKED_BLOCKS = 256  # 1 GiB: about half a second of computing at each opening
_DIGEST_BYTES = 16
_DOCUMENT_START = re.compile(rb'\{"checksum": "([0-9a-f]{32})",\n"document": ')
_DOCUMENT_END = b"}\n"


class DamagedError(ValueError):
    """A file does not match its checksum, or is not what it should be."""


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document with its checksum, completely or not at all. Raises DataError."""
    text = json.dumps(document, indent=1).encode()
    if len(text) > MAX_DOCUMENT_BYTES // 2:
        raise ValueError(f"{path.name} would be too long")
    checksum = hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest().encode()
    atomic_write(path, b'{"checksum": "' + checksum + b'",\n"document": ' + text + _DOCUMENT_END)


def read_document(path: Path) -> dict[str, Any]:
    """The document that `write_document` wrote. Raises DamagedError for any other content, OSError if it is missing."""
    with path.open("rb") as file:
        content = file.read(MAX_DOCUMENT_BYTES + 1)
    start = _DOCUMENT_START.match(content)
    if len(content) > MAX_DOCUMENT_BYTES or start is None or not content.endswith(_DOCUMENT_END):
        raise DamagedError(f"{path.name} is not a document of imggen")
    text = content[start.end() : -len(_DOCUMENT_END)]
    if hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest().encode() != start[1]:
        raise DamagedError(f"{path.name} does not match its checksum")
    try:
        document = read_json(text, max_bytes=MAX_DOCUMENT_BYTES, max_values=MAX_DOCUMENT_VALUES)
    except DocumentError as error:
        raise DamagedError(f"{path.name} {error}") from error
    if not isinstance(document, dict):
        raise DamagedError(f"{path.name} is not a JSON object")
    return document


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as .npy with its checksum after it, completely or not at all. Raises DataError."""
    with atomic_path(path) as temporary:
        with temporary.open("xb") as file:
            np.save(file, array, allow_pickle=False)
        with temporary.open("r+b") as file:
            digest = hashlib.file_digest(file, _blake2b).digest()
            file.seek(0, os.SEEK_END)
            file.write(digest)


def load_array(path: Path) -> npt.NDArray[Any]:
    """The array that `save_array` wrote. Raises DamagedError, and OSError if it is missing."""
    state = _blake2b()
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
        while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
            state.update(block)
            left -= len(block)
        if left != 0 or file.read() != state.digest():
            raise DamagedError(f"{path.name} does not match its checksum")
        file.seek(0)
        try:
            array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DamagedError(f"{path.name} is not an array") from error
    return array


def _blake2b() -> Any:
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)


def block_checksums(path: Path) -> str:
    """The CRC-32 of each block of 4 MiB of a file, eight hexadecimal digits each."""
    with path.open("rb") as file:
        checksums = [f"{zlib.crc32(block):08x}" for block in iter(lambda: file.read(BLOCK_BYTES), b"")]
    return "".join(checksums)


def check_blocks(path: Path, checksums: str) -> None:
    """Compare a file with its `block_checksums`: all of its blocks up to 1 GiB, else the ends and 254 chosen at random.

    Raises DamagedError, and OSError if the file is missing.
    """
    count = -(-path.stat().st_size // BLOCK_BYTES)
    if len(checksums) != 8 * count:
        raise DamagedError(f"{path.name} does not have its length")
    chosen: Sequence[int] = range(count)
    if count > MAX_CHECKED_BLOCKS:
        inner = random.SystemRandom().sample(range(1, count - 1), MAX_CHECKED_BLOCKS - 2)
        chosen = sorted([0, *inner, count - 1])
    with path.open("rb") as file:
        for block in chosen:
            file.seek(block * BLOCK_BYTES)
            if f"{zlib.crc32(file.read(BLOCK_BYTES)):08x}" != checksums[8 * block : 8 * block + 8]:
                raise DamagedError(f"{path.name} does not match its checksum")
