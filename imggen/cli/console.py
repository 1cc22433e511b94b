"""The one stderr console: lines, warnings, progress; results alone go to stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.text import Text

from imggen.errors import ImggenError
from imggen.reporting import Silent, Task

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

FIRST_LINE, LINES = 3.0, 10.0


def printable(line: str) -> str:
    """Names in files are whatever somebody put there: no control characters reach the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)


class Bar:
    """A bar on a terminal."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def update(self, completed: float, note: str = "") -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=completed, note=note)


class Lines:
    """A plain line every few seconds, where there is no terminal."""

    def __init__(self, console: Console, description: str, total: float) -> None:
        self.console, self.description, self.total = console, description, total
        self.due = time.monotonic() + FIRST_LINE

    def update(self, completed: float, note: str = "") -> None:
        """Say how far it is, if it is time to."""
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + LINES
            share = completed / self.total if self.total else 1.0
            self.console.info(f"{self.description} {share:4.0%}  {note}".rstrip())


class Unheard(RichConsole):
    """Whoever read stderr may go away: then nothing more is said, and what is being done goes on."""

    def on_broken_pipe(self) -> None:
        """Instead of Rich's exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Console:
    """`imggen.reporting.Reporter` on stderr; `result` on stdout."""

    def __init__(
        self, *, quiet: bool = False, as_json: bool = False, no_color: bool = False, debug: bool = False
    ) -> None:
        # Of the processes that torchrun starts, one speaks; errors are told by whoever has them.
        self.is_main = os.environ.get("RANK", "0") == "0"
        self.quiet, self.as_json, self.debug = quiet or not self.is_main, as_json, debug
        # Rich knows NO_COLOR and TERM=dumb by itself.
        self.rich = Unheard(stderr=True, no_color=no_color or None, highlight=False, soft_wrap=True)

    def _line(self, text: Text) -> None:
        text.plain = printable(text.plain)
        self.rich.print(text, soft_wrap=True)

    def info(self, message: str) -> None:
        """A line, unless --quiet."""
        if not self.quiet:
            self._line(Text(message))

    def warn(self, message: str) -> None:
        """A warning, always."""
        if self.is_main:
            self._line(Text.assemble(("warning: ", "yellow"), message))

    def error(self, error: ImggenError) -> None:
        """One line, and a hint."""
        self._line(Text.assemble(("error: ", "bold red"), error.message))
        if error.hint:
            self._line(Text.assemble(("hint: ", "cyan"), error.hint))

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """A bar on a terminal, lines elsewhere, nothing with --quiet."""
        if self.quiet:
            yield Silent()
        elif self.rich.is_terminal and os.environ.get("TERM") != "dumb":
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            with Progress(*columns, console=self.rich) as progress:
                yield Bar(progress, progress.add_task(description, total=total, note=""))
        else:
            yield Lines(self, description, total)

    def result(self, document: dict[str, Any], paths: Sequence[str]) -> None:
        """stdout: JSON if asked for, else the paths, one a line."""
        if not self.is_main:
            return
        if self.as_json:
            sys.stdout.write(json.dumps(document) + "\n")
        else:
            sys.stdout.writelines(f"{path}\n" for path in paths)
        sys.stdout.flush()
