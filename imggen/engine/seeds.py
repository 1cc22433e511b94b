"""Lists of seeds in text form, such as "0-63,70"."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import overload

from imggen.engine.options import MAX_SEED
from imggen.errors import UsageError

MAX_RANGE_LENGTH = 10**12
_HINT = "seeds look like 7, 0-63 or 0-63,70"


class Seeds(Sequence[int]):
    """Several ranges in a row as one sequence; the seeds are not stored one by one."""

    def __init__(self, ranges: Sequence[range]) -> None:
        self.ranges = tuple(ranges)
        self._ends = list(itertools.accumulate(map(len, self.ranges)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(self.ranges)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        """Return one seed, or a list for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._ends, index)
        return self.ranges[number][index - self._ends[number]]


def parse_seeds(text: str) -> Seeds:
    """Parse "0-63,70". Raises UsageError."""
    ranges = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first.strip(), last.strip() if dash else first.strip())
        if not all(end.isascii() and end.isdigit() and len(end) <= 19 for end in ends):
            raise UsageError(f"'{part.strip()}' is not a seed or a range of seeds", _HINT)
        low, high = int(ends[0]), int(ends[1])
        if low > high:
            raise UsageError(f"the range '{part.strip()}' runs backwards", _HINT)
        if high > MAX_SEED:
            raise UsageError(f"the seed {high} is too large", f"the largest seed is {MAX_SEED}")
        if high - low >= MAX_RANGE_LENGTH:
            raise UsageError(f"the range '{part.strip()}' is too long", f"at most {MAX_RANGE_LENGTH:,} seeds at a time")
        ranges.append(range(low, high + 1))
    return Seeds(ranges)


def seed_range(first: int, count: int) -> range:
    """Return `count` seeds from `first` on. Raises UsageError if the last one is larger than MAX_SEED."""
    if first + count - 1 > MAX_SEED:
        raise UsageError(f"the seeds from {first} on are too large", f"the largest seed is {MAX_SEED}")
    return range(first, first + count)


def format_seeds(seeds: Sequence[int]) -> str:
    """Return the shortest text that `parse_seeds` reads back as the same seeds in the same order."""
    if isinstance(seeds, range) and seeds.step == 1:
        seeds = Seeds([seeds])
    if isinstance(seeds, Seeds):
        ranges = [(part.start, part.stop - 1) for part in seeds.ranges if len(part)]
    else:
        ranges = [(seed, seed) for seed in seeds]
    merged: list[tuple[int, int]] = []
    for low, high in ranges:
        if merged and merged[-1][1] + 1 == low:
            merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in merged)
