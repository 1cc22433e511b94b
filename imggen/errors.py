"""Every error that imggen raises on purpose: a line for the user, a hint, and the exit code."""

from __future__ import annotations


class ImggenError(Exception):
    """One clear line, a hint what to do about it, and the exit code of the process.

    Exit codes: 2 usage, 3 bad data, bad checkpoint or no space, 4 device or out of memory,
    5 diverged, 130 Ctrl-C, 143 SIGTERM.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(ImggenError):
    """What was asked for makes no sense, or would overwrite something."""

    exit_code = 2


class DataError(ImggenError):
    """Pictures, a folder, an archive or a disk that cannot be used."""

    exit_code = 3


class CheckpointError(ImggenError):
    """A checkpoint that is missing, damaged, or of another kind or version."""

    exit_code = 3


class DeviceError(ImggenError):
    """A device that is not there, or whose memory is too small."""

    exit_code = 4


class DivergedError(ImggenError):
    """Training met non-finite numbers more often than rolling back could mend."""

    exit_code = 5


class InterruptedRun(ImggenError):
    """The user (Ctrl-C, 130) or the system (SIGTERM, 143) ended the command; the message says what was saved."""

    exit_code = 130
