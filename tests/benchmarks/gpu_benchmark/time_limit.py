"""The time that is left of --minutes, and the time limit of a row."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Counts the time of --minutes from when it is made."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.start = time.monotonic()

    def seconds_left(self) -> float:
        """Seconds until the end of --minutes."""
        return self.minutes * 60 - (time.monotonic() - self.start)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after `seconds`; no limit on systems without SIGALRM."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    start = time.monotonic()
    previous_handler = signal.signal(signal.SIGALRM, stop)
    previous_delay, _ = signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
        if previous_delay:  # a timer of the caller's, such as that of pytest-timeout
            signal.setitimer(signal.ITIMER_REAL, max(0.1, previous_delay - (time.monotonic() - start)))
