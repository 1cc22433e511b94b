"""The command line of this process, and how it is going: the one global state of the program."""

from __future__ import annotations

import shlex

from imggen.cli.console import Console


class Invocation:
    """The words typed (recorded in checkpoints), and the console through which `main` reports the verb's errors.

    A process runs one command.
    """

    words: tuple[str, ...] = ()
    console = Console()
    is_interrupted = False  # by Ctrl-C

    @classmethod
    def has(cls, flag: str) -> bool:
        """Whether an option was typed."""
        return any(word == flag or word.startswith(f"{flag}=") for word in cls.words)

    @classmethod
    def command(cls) -> str:
        """The command line, quoted for a shell."""
        return shlex.join(["imggen", *cls.words])
