"""The errors that imggen raises on purpose: each has a message, a hint and an exit code."""

from __future__ import annotations


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
