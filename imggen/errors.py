"""The errors that imggen raises on purpose: each has a message, a hint and an exit code."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

LETTERS_PER_TYPO = 4
MAX_SHOWN = 80


class ImggenError(Exception):
    """The base class: `message` is one sentence, `hint` says what to do, `exit_code` is that of the process.

    Exit codes: 1 bug in imggen, 2 usage, 3 bad data, bad checkpoint or no space, 4 device, out of memory or
    another process ended, 5 diverged, 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(ImggenError):
    """The options are invalid or contradict each other, or a file would be overwritten."""

    exit_code = 2


class DataError(ImggenError):
    """An image, a folder, an archive or a disk cannot be read or written."""

    exit_code = 3


class CheckpointError(ImggenError):
    """A checkpoint is missing, damaged, or of another kind or format."""

    exit_code = 3


class DeviceError(ImggenError):
    """A device does not exist, or its memory is too small."""

    exit_code = 4


class ProcessEndedError(ImggenError):
    """Another of the processes that work together has ended, so this one cannot continue."""

    exit_code = 4

    def __init__(self) -> None:
        super().__init__("another process ended", "the same command with --resume continues")


class DivergedError(ImggenError):
    """Training produced non-finite values again after it was rolled back several times."""

    exit_code = 5


class InterruptedRun(ImggenError):
    """Ctrl-C (130), SIGTERM (143) or, while training, SIGHUP (129) ended the command."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if it has none. A system's error: file and reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def in_one_line(error: BaseException) -> str:
    """An error's message with its lines joined; its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def shortened(value: object) -> str:
    """A value that a file gave, for a message: its text, cut to MAX_SHOWN characters."""
    text = str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that `name` was probably meant to be, for a hint; None if it is not certain enough.

    It is one that differs only in upper and lower case or in how Unicode composes letters, else one that begins with
    `name`, else the one with the fewest typing errors: at most one in LETTERS_PER_TYPO letters, and always one.
    """
    plain = _plain(name)
    if not plain:
        return None
    best: tuple[int, str] | None = None
    for choice in choices:
        candidate = _plain(choice)
        if candidate == plain:
            return choice
        allowed = max(1, min(len(plain), len(candidate)) // LETTERS_PER_TYPO)
        typos = 0 if len(plain) > 2 and candidate.startswith(plain) else _typos(plain, candidate, allowed)
        if typos <= allowed and len(plain) > 1 and (best is None or typos < best[0]):
            best = typos, choice
    return None if best is None else best[1]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _typos(first: str, second: str, most: int) -> int:
    """How many letters to add, remove, replace, or swap with their neighbor; `most` + 1 for more than `most`."""
    if abs(len(first) - len(second)) > most:
        return most + 1
    before_last: list[int] = []
    last = list(range(len(second) + 1))
    for i, letter in enumerate(first, 1):
        row = [i]
        for j, other in enumerate(second, 1):
            cost = min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == second[j - 2] and first[i - 2] == other:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
        if min(row) > most and (not before_last or min(last) > most):
            return most + 1
        before_last, last = last, row
    return min(last[-1], most + 1)
