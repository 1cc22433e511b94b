"""How long a run has trained, and when to report, save and evaluate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from imggen.engine.distributed import ProcessGroup

Clock = Callable[[], float]  # seconds since some fixed time, as time.monotonic
MAX_GAP_SECONDS = 300.0  # between two readings of a clock: longer than a step, shorter than a night


class SteadyClock:
    """The seconds that another clock has counted, without its jumps.

    time.monotonic is not changed when the time of day is set, but after a process or a machine was stopped for hours it
    may have gone on: a budget of minutes would end at once. So a gap counts as at most MAX_GAP_SECONDS, and a step
    backwards as nothing.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock, self.seconds, self.last = clock, 0.0, clock()

    def __call__(self) -> float:
        """Seconds since the clock was made."""
        now = self.clock()
        self.seconds += min(max(0.0, now - self.last), MAX_GAP_SECONDS)
        self.last = now
        return self.seconds


class Due(NamedTuple):
    """What all processes do in one round of the training loop: how long they have trained, and what is to be done.

    `signal` is the number of the signal that asks to stop, 0 without one.
    """

    seconds: float
    signal: int
    save: bool
    evaluate: bool

    def agreed(self, processes: ProcessGroup, device: torch.device) -> Due:
        """The maximum over processes: an action is due if it is due in any of them; the longest time counts."""
        seconds, signal, save, evaluate = processes.maxima([float(value) for value in self], device)
        return Due(seconds, int(signal), bool(save), bool(evaluate))


class Timers:
    """The training time, which excludes pauses, and a timer for each interval in seconds.

    A timer is due once its interval has passed since it was restarted; None is never.
    """

    def __init__(self, trained: float, intervals: dict[str, float | None], clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.intervals = intervals
        now = clock()
        self.training_start = now - trained
        self.starts = dict.fromkeys(intervals, now)

    def trained(self) -> float:
        """Seconds of training, those of earlier runs included."""
        return self.clock() - self.training_start

    def elapsed(self, name: str) -> float:
        """Seconds since the timer was restarted."""
        return self.clock() - self.starts[name]

    def due(self, name: str) -> bool:
        """Whether the interval has passed."""
        interval = self.intervals[name]
        return interval is not None and self.elapsed(name) >= interval

    def restart(self, name: str) -> None:
        """Start the interval again."""
        self.starts[name] = self.clock()

    @contextmanager
    def pause(self, name: str, processes: ProcessGroup, device: torch.device) -> Iterator[None]:
        """Exclude the block from the training time and from timer `name`, in all processes equally."""
        start = self.clock()
        yield
        (seconds,) = processes.maxima([self.clock() - start], device)
        self.training_start += seconds
        self.starts[name] += seconds
