"""A command line in this process with output streams of any encoding, on a terminal or not; returns the bytes."""

from __future__ import annotations

import io
import sys

import pytest

from imggen.cli.app import main


class Stream(io.TextIOWrapper):
    """What Python makes of stdout: strict, in the encoding of the locale."""

    def __init__(self, encoding: str, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def written(self) -> bytes:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


def run_bytes(
    monkeypatch: pytest.MonkeyPatch, *words: object, encoding: str = "utf-8", terminal: bool = False
) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of a command line."""
    out, err = Stream(encoding, terminal=terminal), Stream(encoding, terminal=terminal)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setenv("NO_COLOR", "1")
        patch.setenv("TERM", "dumb")
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
    return int(caught.value.code or 0), out.written(), err.written()
