"""Ctrl-C, SIGTERM and SIGHUP while training: the first asks to save and stop, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from imggen.errors import InterruptedRun


class StopRequest:
    """The number of the signal that asks to stop, 0 if none has arrived."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    def error(self, saved: str) -> InterruptedRun:
        """The error to raise once everything is saved; `saved` says where."""
        name = "Ctrl-C" if self.signal == signal.SIGINT else signal.Signals(self.signal).name
        return InterruptedRun(f"stopped by {name}; {saved}", "the same command with --resume continues", self.exit_code)

    @property
    def exit_code(self) -> int:
        """128 + the signal's number."""
        return 128 + self.signal


@contextmanager
def stop_requests(request: StopRequest) -> Iterator[None]:
    """Record the signals of the block in `request`. A signal that is ignored, as nohup does SIGHUP, stays ignored.

    Outside of the main thread Python cannot catch signals: there the block runs without.
    """

    def record(number: int, frame: FrameType | None) -> None:
        if request:
            raise InterruptedRun("stopped at once; the last checkpoint is complete", None, 128 + number)
        request.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    numbers = [number for number in numbers if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    previous_handlers = [signal.signal(number, record) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous_handlers, strict=True):
            signal.signal(number, handler)
