"""A bound on the pixels that several threads hold at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class PixelBudget:
    """At most `limit` pixels at a time; one image alone may have more."""

    def __init__(self, limit: int) -> None:
        self.limit, self._used = limit, 0
        self._changed = threading.Condition()

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that waits until so many pixels fit beside those of other threads, and counts them.

        Another call replaces the number of the last one. At the end of the block nothing is held.
        """
        held = 0

        def hold(pixels: int) -> None:
            nonlocal held
            with self._changed:
                self._used, held = self._used - held, 0  # also if the wait is interrupted
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self.limit)
                self._used, held = self._used + pixels, pixels

        try:
            yield hold
        finally:
            with self._changed:
                self._used -= held
                self._changed.notify_all()
