"""How the layers below the command line report to the user, independent of a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


def duration(seconds: float) -> str:
    """40 s, 12 min or 3 h 5 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def readable(text: str) -> str:
    """The text with U+FFFD for bytes that are not Unicode, which Python keeps in file names as lone surrogates.

    For every format that must be Unicode: HTML, TOML, XML. JSON escapes them instead, and paths keep them.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Task(Protocol):
    """One progress bar."""

    def update(self, completed: float, note: str = "") -> None:
        """Move to `completed` (of the task's total) and show `note` beside it."""


class Reporter(Protocol):
    """Receives messages, warnings and progress; `imggen.cli.console` implements it for a terminal."""

    def info(self, message: str) -> None:
        """Report one line of information."""

    def warn(self, message: str) -> None:
        """Report a warning, which is shown even with --quiet."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """A progress bar of `total` units, shown during the block."""
        ...


class Silent:
    """A reporter, and a task, that print nothing: for use as a library and in tests."""

    def info(self, message: str) -> None:
        """Ignore the message."""

    def warn(self, message: str) -> None:
        """Ignore the message."""

    def update(self, completed: float, note: str = "") -> None:
        """Ignore the progress."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """A task that prints nothing."""
        yield self


def size_text(size: float) -> str:
    """A number of bytes for messages, such as "640 kB", "3.4 MB" or "12 GB"."""
    unit = next((unit for unit in (1e12, 1e9, 1e6) if size >= unit), 1e3)
    name = {1e12: "TB", 1e9: "GB", 1e6: "MB", 1e3: "kB"}[unit]
    return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:,.0f} {name}"
