"""Output of the command line: messages, warnings and progress on stderr, results on stdout."""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.text import Text

from imggen.errors import ImggenError
from imggen.reporting import Silent, Task

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

NAME_WIDTH = 18  # characters of a setting's name in a list; the longest is tokenizer_fraction
SECONDS_TO_FIRST_LINE, SECONDS_BETWEEN_LINES = 3.0, 10.0


def escaped(line: str) -> str:
    """Write control characters and bytes that are not Unicode as \\n, \\x1b, \\xe9.

    All text for a terminal goes through this once, here: names and files of others may contain escape sequences.
    """
    return "".join(character if character.isprintable() else _escape(character) for character in line)


def _escape(character: str) -> str:
    code = ord(character)
    is_byte = 0xDC80 <= code <= 0xDCFF  # as Python keeps the bytes of a name that are not Unicode
    return f"\\x{code - 0xDC00:02x}" if is_byte else character.encode("unicode_escape").decode()


def _encode_any(error: UnicodeError) -> tuple[bytes, int]:
    """An error handler for output streams: bytes of names as they are, other characters as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = []
    for character in error.object[error.start : error.end]:
        is_byte = 0xDC80 <= ord(character) <= 0xDCFF
        parts.append(bytes([ord(character) - 0xDC00]) if is_byte else character.encode("ascii", "backslashreplace"))
    return b"".join(parts), error.end


codecs.register_error("imggen", _encode_any)


def open_closed_streams() -> None:
    """Open the null device in place of a standard stream with which the program was started closed (`>&-`).

    Python has None there; and the next file to be opened would be the one that libraries print to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (until the process ends)


def accept_all_characters() -> None:
    """Let stdout and stderr print any text, whatever their encoding is: a locale must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="imggen")


def _without_nan(value: Any) -> Any:
    """The value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class ProgressBar:
    """A task shown as a progress bar, on a terminal."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def update(self, completed: float, note: str = "") -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=completed, note=escaped(note))


class ProgressLines:
    """A task shown as a plain line every few seconds, where stderr is not a terminal."""

    def __init__(self, console: Console, description: str, total: float) -> None:
        self.console, self.description, self.total = console, description, total
        self.next_line_at = time.monotonic() + SECONDS_TO_FIRST_LINE

    def update(self, completed: float, note: str = "") -> None:
        """Print the fraction that is done, if the last line is old enough."""
        if time.monotonic() >= self.next_line_at:
            self.next_line_at = time.monotonic() + SECONDS_BETWEEN_LINES
            fraction = completed / self.total if self.total else 1.0
            self.console.info(f"{self.description} {fraction:4.0%}  {note}".rstrip())


class PipeSafeConsole(RichConsole):
    """A Rich console that stops printing when the reader of stderr closes it; the command continues."""

    def on_broken_pipe(self) -> None:
        """Discard all further output; Rich would exit the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Console:
    """An `imggen.reporting.Reporter` that prints on stderr; `result` prints on stdout."""

    def __init__(
        self, *, quiet: bool = False, as_json: bool = False, no_color: bool = False, debug: bool = False
    ) -> None:
        # Of the processes that torchrun starts, one prints messages; every process prints its own errors.
        self.is_main = os.environ.get("RANK", "0") == "0"
        self.quiet, self.as_json, self.debug = quiet or not self.is_main, as_json, debug
        # Rich itself reads NO_COLOR and TERM=dumb.
        self.rich = PipeSafeConsole(stderr=True, no_color=no_color or None, highlight=False, soft_wrap=True)

    def _line(self, message: str, label: str = "", style: str = "") -> None:
        # Escaped first: Rich would leave out some control characters, and the line would not name the file.
        self.rich.print(Text.assemble((label, style), escaped(message)), soft_wrap=True)

    def info(self, message: str) -> None:
        """Print a message, unless --quiet."""
        if not self.quiet:
            self._line(message)

    def warn(self, message: str) -> None:
        """Print a warning, even with --quiet."""
        if self.is_main:
            self._line(message, "warning: ", "yellow")

    def error(self, error: ImggenError) -> None:
        """Print an error as one line, and its hint as another."""
        self._line(error.message, "error: ", "bold red")
        if error.hint:
            self._line(error.hint, "hint: ", "cyan")

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """Show progress: a bar on a terminal, lines elsewhere, nothing with --quiet."""
        if self.quiet:
            yield Silent()
        elif self.rich.is_terminal and os.environ.get("TERM") != "dumb":
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            with Progress(*columns, console=self.rich) as progress:
                yield ProgressBar(progress, progress.add_task(escaped(description), total=total, note=""))
        else:
            yield ProgressLines(self, description, total)

    def settings(self, document: dict[str, Any]) -> None:
        """Print resolved settings on stdout: JSON if asked for, else one a line."""
        self.result(document, text=[f"{name:{NAME_WIDTH}} {value}" for name, value in document.items()])

    def result(
        self, document: dict[str, Any], names: Sequence[str] = (), *, text: Sequence[str] = (), end: str = "\n"
    ) -> None:
        """Print a result on stdout: JSON if asked for, else lines of text for people, then of names.

        `end` follows each line. As `ls` does, it writes names (paths, for most verbs) as they are for another program,
        and escaped on a terminal; text is always escaped.
        """
        if not self.is_main:
            return
        if self.as_json:
            sys.stdout.write(json.dumps(_without_nan(document), allow_nan=False) + "\n")
        else:
            is_terminal = sys.stdout.isatty()
            lines = [*map(escaped, text), *(map(escaped, names) if is_terminal else names)]
            sys.stdout.writelines(f"{line}{end}" for line in lines)
        sys.stdout.flush()
