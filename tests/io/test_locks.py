"""Locks on files and folders."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imggen.errors import UsageError
from imggen.io import locks
from imggen.io.locks import LOCK_NAME, lock_directory, lock_file, make_locked_folder, seize, share


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up sharing at once."""
    monkeypatch.setattr(locks, "_SHARE_SECONDS", 0.0)


@pytest.mark.parametrize("kind", ["file", "folder", "folder with a lock file"])
@pytest.mark.usefixtures("no_wait")
def test_many_can_share_what_one_alone_can_seize(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    path.mkdir() if "folder" in kind else path.write_text("")
    if "lock" in kind:
        (path / LOCK_NAME).touch()
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


def test_sharing_waits_for_a_process_that_only_asks(tmp_path: Path) -> None:
    asking = seize(tmp_path)
    assert asking is not None
    began = time.monotonic()
    threading.Timer(0.1, asking.release).start()
    assert share(tmp_path) is not None and time.monotonic() - began < 1.5


def test_a_new_folder_is_locked_by_a_file_that_is_open_for_writing(tmp_path: Path) -> None:
    """A network disk locks a file for one process only if it is open for writing, and no folder at all."""
    original, modes = locks.fcntl.flock, list[int]()

    def flock(handle: int, operation: int) -> None:
        modes.append(locks.fcntl.fcntl(handle, locks.fcntl.F_GETFL) & os.O_ACCMODE)
        original(handle, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks.fcntl, "flock", flock)
        folder, lock = make_locked_folder(tmp_path, ".x-")
        assert lock is not None and lock.supported and seize(folder) is None
        lock.release()
        (tmp_path / "file").touch()
        assert seize(tmp_path / "file") is not None
    assert modes == [os.O_RDWR] * 3


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


@pytest.mark.skipif(locks.fcntl is None, reason="needs flock")
def test_a_lock_is_held_for_one_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from imggen.errors import UsageError\n"
        "from imggen.io.locks import lock_directory\n"
        "try:\n"
        f"    with lock_directory(Path({str(tmp_path)!r})): pass\n"
        "except UsageError: sys.exit(2)"
    )
    with lock_directory(tmp_path):
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2
        with pytest.raises(UsageError, match="another process is training"), lock_directory(tmp_path):
            pass
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_locks_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with lock_directory(tmp_path), lock_directory(tmp_path):
        pass
