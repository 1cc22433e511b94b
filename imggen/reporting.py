"""How the layers below the command line speak to the user, without knowing of a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Task(Protocol):
    """One progress bar."""

    def update(self, completed: float, note: str = "") -> None:
        """Move to `completed` (of the task's total) and show `note` beside it."""


class Reporter(Protocol):
    """Where lines, warnings and progress go; `imggen.cli.console` has the real one."""

    def info(self, message: str) -> None:
        """A line of information."""

    def warn(self, message: str) -> None:
        """Something the user should know; shown even with --quiet."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """A progress bar of `total` units that lives as long as the block."""
        ...  # a protocol: the console and Silent give the bodies


class Silent:
    """A reporter that says nothing, and a task that shows nothing: for library use and tests."""

    def info(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""

    def update(self, completed: float, note: str = "") -> None:
        """Show nothing."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Task]:
        """A task that shows nothing."""
        yield self
