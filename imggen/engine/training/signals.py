"""Ctrl-C, SIGTERM and a lost terminal while training: the first asks to save and stop, the second stops now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from imggen.errors import InterruptedRun


class StopRequest:
    """Which signal came, if any."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    def error(self, saved: str) -> InterruptedRun:
        """What to raise once everything is saved."""
        name = "Ctrl-C" if self.signal == signal.SIGINT else signal.Signals(self.signal).name
        return InterruptedRun(f"stopped by {name}; {saved}", "the same command with --resume continues", self.exit_code)

    @property
    def exit_code(self) -> int:
        """128 + the signal's number."""
        return 128 + self.signal


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch the signals inside the block; one that is ignored, as nohup does SIGHUP, stays so.

    Outside the main thread they cannot be caught and are left alone.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request:
            raise InterruptedRun("stopped at once; the last checkpoint is whole", None, 128 + number)
        request.signal = number

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    numbers = [number for number in numbers if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield request
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
