"""Locks on files and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imggen.io import locks
from imggen.io.locks import lock_file, seize, share


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_many_can_share_what_one_alone_can_seize(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    path.mkdir() if kind == "folder" else path.write_text("")
    first, second = share(path), share(path)
    assert first is not None and second is not None and seize(path) is None
    first.release()
    assert seize(path) is None
    second.release()
    alone = seize(path)
    assert alone is not None and share(path) is None and seize(path) is None
    alone.share()
    assert share(path) is not None and seize(path) is None


def test_a_lock_ends_with_its_object(tmp_path: Path) -> None:
    lock = share(tmp_path)
    assert lock is not None and seize(tmp_path) is None
    del lock
    assert seize(tmp_path) is not None


def test_what_is_gone_cannot_be_locked(tmp_path: Path) -> None:
    assert share(tmp_path / "x") is None and seize(tmp_path / "x") is None


def test_what_was_replaced_meanwhile_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may rename and remove a folder between opening and locking it."""
    (tmp_path / "x").mkdir()
    real = os.open

    def open_and_replace(path: Path, *flags: int) -> int:
        handle = real(path, *flags)
        Path(path).rename(tmp_path / "renamed")
        return handle

    monkeypatch.setattr(os, "open", open_and_replace)
    assert share(tmp_path / "x") is None


def test_without_support_everybody_gets_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    lock = seize(tmp_path)
    assert lock is not None and not lock.supported and seize(tmp_path) is not None
    lock.share()
    lock.release()
    with lock_file(tmp_path / ".lock"):
        pass


def test_a_lock_file_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_file(tmp_path / ".lock"):
            assert seize(tmp_path / ".lock") is None
    assert seize(tmp_path / ".lock") is not None
