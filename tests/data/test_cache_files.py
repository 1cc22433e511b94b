"""Documents, arrays and large files with checksums: every kind of damage is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imggen.data import cache_files
from imggen.data.cache_files import (
    DamagedError,
    block_checksums,
    check_blocks,
    load_array,
    read_document,
    save_array,
    write_document,
)

DOCUMENT = {"name": "caf\udce9", "count": 3, "list": [1, [2.5, None]]}


def damaged_versions(content: bytes) -> list[bytes]:
    """One bit flipped in each byte, each shorter version in steps, one byte more, nothing."""
    flipped = [content[:i] + bytes([content[i] ^ 1 << i % 8]) + content[i + 1 :] for i in range(len(content))]
    cut = [content[:i] for i in range(0, len(content), 7)]
    return [*flipped, *cut, content + b"\0"]


def test_a_document_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_document(tmp_path / "d", DOCUMENT)
    assert read_document(tmp_path / "d") == DOCUMENT


def test_damage_of_a_document_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "d"
    write_document(path, DOCUMENT)
    for content in damaged_versions(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DamagedError):
            read_document(path)


@pytest.mark.parametrize("text", [b"[" * 100_000 + b"]" * 100_000, b"[1]", b"{", b"\xff", b"9" * 5_000])
def test_what_has_a_right_checksum_must_also_be_an_object(tmp_path: Path, text: bytes) -> None:
    checksum = hashlib.blake2b(text, digest_size=16).hexdigest().encode()
    (tmp_path / "d").write_bytes(b'{"checksum": "' + checksum + b'",\n"document": ' + text + b"}\n")
    with pytest.raises(DamagedError):
        read_document(tmp_path / "d")


def test_a_document_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_document(tmp_path / "d", DOCUMENT)
    monkeypatch.setattr(cache_files, "MAX_DOCUMENT_BYTES", 20)
    with pytest.raises(DamagedError):
        read_document(tmp_path / "d")
    with pytest.raises(ValueError, match="too long"):
        write_document(tmp_path / "d", DOCUMENT)


@pytest.mark.parametrize("array", [np.arange(6, dtype=np.int64), np.empty((0, 3), np.float32)])
def test_an_array_is_read_as_it_was_written_and_damage_is_noticed(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    save_array(path, array)
    assert (load_array(path) == array).all() and load_array(path).dtype == array.dtype
    assert (np.load(path) == array).all()  # other programs read it too
    for content in damaged_versions(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DamagedError):
            load_array(path)


def test_damage_of_a_large_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_files, "BLOCK_BYTES", 16)
    path = tmp_path / "f"
    path.write_bytes(bytes(range(100)))
    checksums = block_checksums(path)
    check_blocks(path, checksums)
    for content in damaged_versions(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DamagedError):
            check_blocks(path, checksums)


@pytest.mark.parametrize("damage", ["first", "last", "none"])
def test_of_a_very_large_file_a_bounded_part_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(cache_files, "BLOCK_BYTES", 16)
    monkeypatch.setattr(cache_files, "MAX_CHECKED_BLOCKS", 5)
    path = tmp_path / "f"
    content = bytearray(range(256)) * 4
    path.write_bytes(content)
    checksums = block_checksums(path)
    count = 0
    real: Callable[[bytes], int] = cache_files.zlib.crc32

    def counted(block: bytes) -> int:
        nonlocal count
        count += 1
        return real(block)

    monkeypatch.setattr(cache_files.zlib, "crc32", counted)
    if damage == "none":
        check_blocks(path, checksums)
        assert count == 5
        return
    content[0 if damage == "first" else -1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        check_blocks(path, checksums)


def test_the_index_of_very_many_skipped_images_can_be_read(tmp_path: Path) -> None:
    document = {"skipped": [0] * 1_000_001}  # more values than `documents.read_json` allows otherwise
    write_document(tmp_path / "index.json", document)
    assert read_document(tmp_path / "index.json") == document
