"""Output does not depend on the locale: any text reaches stdout and stderr in any encoding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.streams import run_bytes

NAME = "猫é–😀\udce9.png"


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "猫é–😀".encode() + b"\xe9.png\n"),
        ("cp1252", b"\\u732b\xe9\x96\\U0001f600\xe9.png\n"),
        ("latin1", b"\\u732b\xe9\\u2013\\U0001f600\xe9.png\n"),
        ("ascii", b"\\u732b\\xe9\\u2013\\U0001f600\xe9.png\n"),
    ],
)
def test_any_name_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, printed: bytes) -> None:
    words = ("sample", "gan", "-n", 1, "--seed", 1, "-o", NAME)
    code, out, err = run_bytes(monkeypatch, *words, encoding=encoding)
    assert (code, out) == (0, printed) and b"model" in err and Path(NAME).exists()
    code, out, err = run_bytes(monkeypatch, *words, encoding=encoding)
    assert (code, out) == (2, b"") and b"already exists" in err
    code, out, _ = run_bytes(monkeypatch, "info", NAME, encoding=encoding)
    assert code == 0 and b"seeds" in out
    code, out, _ = run_bytes(monkeypatch, "info", NAME, "--json", encoding=encoding)
    assert code == 0 and os.fsencode(json.loads(out)["file"]) == os.fsencode(NAME)


@pytest.mark.parametrize("encoding", ["cp1252", "latin1", "ascii"])
@pytest.mark.parametrize("words", [("--help",), ("train", "gan", "-h"), ("sample", "-h"), ("models",), ("smaple",)])
def test_help_and_lists_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, words: tuple[str, ...]) -> None:
    code, out, err = run_bytes(monkeypatch, *words, encoding=encoding)
    assert code == (2 if words == ("smaple",) else 0) and (out or err)


def test_json_has_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    from imggen.cli.console import Console

    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", written.append)
    Console(as_json=True).result({"a": float("nan"), "b": [float("inf"), 1.5, (2, None)], "c": {"d": "NaN"}}, [])
    assert written == ['{"a": null, "b": [null, 1.5, [2, null]], "c": {"d": "NaN"}}\n']


@pytest.mark.process
@pytest.mark.slow
def test_the_locale_of_the_process() -> None:
    """As the program starts: Python itself chooses the encoding of stdout, and its error handler.

    A command that prints its arguments takes the place of the others, since most of them load torch.
    """
    command = (
        "import sys\nfrom imggen.cli import app\nfrom imggen.cli.console import Console\n"
        "app.app = lambda args, **more: Console().result({}, args)\napp.main()"
    )
    words = [sys.executable, "-c", command, NAME]
    for variables in ({"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(words, capture_output=True, check=False, env={**os.environ, **variables}, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(b"\xe9.png\n")
