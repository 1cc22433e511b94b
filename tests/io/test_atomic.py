"""Files and folders that are written completely or not at all, and the lock of a folder."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from imggen.errors import DataError
from imggen.io import atomic


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data in (b"old", b"new" * 100_000, b""):
        atomic.atomic_write(path, data)
        assert path.read_bytes() == data
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    with atomic.atomic_path(path, durable=True) as sibling:
        assert sibling.parent == path.parent
        sibling.write_bytes(b"durable")
    assert path.read_bytes() == b"durable" and names_in(tmp_path) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="limits names in another way")
@pytest.mark.parametrize("letter", ["x", "é", "猫", "\U0001f408", "\udce9"])
def test_every_name_that_the_disk_allows_can_be_written(tmp_path: Path, letter: str) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    path = tmp_path / (letter * (longest // len(os.fsencode(letter))))
    atomic.atomic_write(path, b"one")
    with atomic.atomic_path(path) as sibling:
        sibling.write_bytes(b"two")
    assert path.read_bytes() == b"two"
    path.unlink()
    with atomic.atomic_folder(path, re.compile("x")) as folder:
        (folder / "a").write_bytes(b"three")
    assert names_in(path) == ["a"] and len(names_in(tmp_path)) == 1


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", full_disk)
        with pytest.raises(DataError, match="No space") as caught:
            atomic.atomic_write(path, b"new")
        assert caught.value.hint and "space" in caught.value.hint
    with pytest.raises(ValueError, match="mine"), atomic.atomic_path(path) as sibling:
        sibling.write_bytes(b"new")
        raise ValueError("mine")
    assert path.read_bytes() == b"old" and names_in(tmp_path) == ["a"]
    with pytest.raises(DataError, match="cannot be written"):
        atomic.atomic_write(tmp_path / "no" / "folder", b"")


def test_a_symlink_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic.atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


def test_a_folder_keeps_other_files_and_loses_stale_ones(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    with atomic.atomic_folder(folder, re.compile(r"\d+\.png")) as sibling:
        for name in ("0.png", "1.png"):
            (sibling / name).write_bytes(b"first")
        assert not folder.exists()
    (folder / "notes.txt").write_text("mine")
    with atomic.atomic_folder(folder, re.compile(r"\d+\.png")) as sibling:
        (sibling / "0.png").write_bytes(b"second")
    assert names_in(folder) == ["0.png", "notes.txt"] and (folder / "0.png").read_bytes() == b"second"
    assert names_in(tmp_path) == ["frames"]


def test_a_failing_folder_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "0.png").write_bytes(b"old")
    with pytest.raises(DataError, match="No space"), atomic.atomic_folder(folder, re.compile(".*")) as sibling:
        (sibling / "0.png").write_bytes(b"new")
        full_disk()
    assert (folder / "0.png").read_bytes() == b"old" and names_in(tmp_path) == ["frames"]
