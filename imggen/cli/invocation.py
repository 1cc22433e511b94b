"""What the user typed, for the record in checkpoints."""

from __future__ import annotations

import shlex

_WORDS: list[str] = []


def remember(arguments: list[str]) -> None:
    """Keep the arguments of this call."""
    _WORDS[:] = arguments


def typed(flag: str) -> bool:
    """Whether an option was given on the command line."""
    return any(word == flag or word.startswith(f"{flag}=") for word in _WORDS)


def typed_command() -> str:
    """The command line, quoted for a shell."""
    return shlex.join(["imggen", *_WORDS])
