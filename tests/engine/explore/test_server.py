"""The address, the folder, and what is refused before torch is imported."""

import importlib.util
import os
import socket
import time
from pathlib import Path

import pytest

from imggen.engine import explore
from imggen.engine.explore import is_local, server
from imggen.engine.explore.server import listening_socket, own_folder
from imggen.errors import UsageError
from imggen.io.locks import make_locked_folder
from tests.helpers import run_cli


def test_without_gradio_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(explore, "find_spec", lambda name: None if name == "gradio" else find(name))
    code, out, err = run_cli(capsys, "explore", "gan")
    assert (code, out) == (2, ""), err
    assert err.splitlines() == ["error: imggen explore needs gradio", "hint: pip install 'imggen[explore]'"]


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}"), listening_socket("127.0.0.1", port):
            pass
        monkeypatch.setattr(server, "FIRST_PORT", port)
        with listening_socket("127.0.0.1", None) as listener:
            assert listener.getsockname()[1] > port
    with pytest.raises(UsageError), listening_socket("203.0.113.7", 0):
        pass
    code, _, err = run_cli(capsys, "explore", "gan", "--port", "70000")
    assert code == 2 and "--port must be at least 0 and at most 65535" in err


def test_only_addresses_of_this_machine_are_local() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.0.0.2", "::1", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.1", "example.com", "")))


def test_the_folder_is_removed_and_so_is_what_a_killed_process_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.tempfile, "tempdir", str(tmp_path))
    left, other = tmp_path / f"{server.FOLDER_PREFIX}left", tmp_path / "other"
    for folder in (left, other):
        folder.mkdir()
        os.utime(folder, (0, time.time() - 2 * server.SECONDS_UNTIL_LEFT))
    young = tmp_path / f"{server.FOLDER_PREFIX}young"
    young.mkdir()
    used, lock = make_locked_folder(tmp_path, server.FOLDER_PREFIX)
    os.utime(used, (0, 0))
    with own_folder() as own:
        assert own.is_dir() and not left.exists()
        assert other.exists() and young.exists() and used.exists()
    assert not own.exists() and lock is not None
