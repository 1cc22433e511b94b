"""Every way in which a command can end has its exit code, one line and no traceback."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.helpers import run_cli


def raising(error: BaseException) -> Callable[..., None]:
    def run(*_: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 4, "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 4, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 4, "not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 4, "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), 1, "internal: RecursionError"),
        (OSError(errno.EIO, "Input/output error", "a.png"), 3, "a.png: Input/output error"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 3, "no space is left on the disk: free some"),
        (OSError(99_999, "Unknown error", "a\x1b.png"), 3, "a\\x1b.png: Unknown error"),
        (OSError("odd"), 3, "error: odd"),
        (OSError(), 3, "error: OSError"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a\nb"), 3, "a\\nb: No such file"),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), 3, "cannot be written"),
        (UnicodeEncodeError("ascii", "\xe9", 0, 1, "ordinal not in range(128)"), 1, "internal: UnicodeEncodeError"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"), 1, "internal: UnicodeDecodeError"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (ValueError("first\nsecond"), 1, "internal: ValueError: first\n"),
        (ValueError(), 1, "internal: ValueError: ValueError"),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    monkeypatch.setattr("imggen.engine.sampling.run", raising(error))
    exit_code, out, err = run_cli(capsys, "sample", "gan", "--seed", 1)
    assert (exit_code, out) == (code, "") and message in err and "Traceback" not in err
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


def test_ctrl_c_that_a_library_turns_into_another_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr("imggen.engine.sampling.run", run)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore Ctrl-C
    try:
        code, _, err = run_cli(capsys, "sample", "gan", "--seed", 1)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert code == 130 and "stopped by Ctrl-C" in err
    monkeypatch.setattr("imggen.engine.sampling.run", raising(ImportError("odd")))
    assert run_cli(capsys, "sample", "gan", "--seed", 1)[0] == 1


def test_ctrl_c_while_an_error_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from imggen.cli.console import Console

    original = Console.error

    def error(console: Console, shown: object) -> None:
        signal.raise_signal(signal.SIGINT)
        original(console, shown)  # type: ignore[arg-type]

    monkeypatch.setattr(Console, "error", error)
    code, _, err = run_cli(capsys, "sample", "gna")
    assert code == 3 and "did you mean 'gan'" in err


def test_an_ignored_ctrl_c_stays_ignored(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the background of a script."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    monkeypatch.setattr("imggen.engine.sampling.run", lambda *_: signal.raise_signal(signal.SIGINT) or {"paths": []})
    try:
        assert run_cli(capsys, "sample", "gan", "--seed", 1)[0] == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("module", ["typer", "imggen.engine.sampling", "torch"])
def test_ctrl_c_while_python_imports(module: str) -> None:
    """Exit code 130 at any moment of the start, without a traceback."""
    code = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['imggen', 'sample', 'gan', '-n', '1', '--seed', '1', '-o', 'x.png']\n"
        "runpy.run_module('imggen', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ})
    assert (done.returncode, done.stdout) == (130, "") and "Traceback" not in done.stderr


def test_internal_errors_are_reported_as_such(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr("imggen.engine.sampling.run", broken)
    code, _, err = run_cli(capsys, "sample", "gan")
    assert code == 1 and "internal: ValueError: odd" in err and "--debug" in err
    for error, number in ((MemoryError(), 4), (KeyboardInterrupt(), 130), (OSError(28, "full"), 3)):

        def fails(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("imggen.engine.sampling.run", fails)
        assert run_cli(capsys, "sample", "gan")[0] == number
