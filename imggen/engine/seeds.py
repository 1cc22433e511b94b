"""Seeds as people write them: "0-63,70"."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import overload

from imggen.errors import UsageError

MAX_SEED = 2**63 - 1
MOST = 10**12
_HINT = "seeds look like 7, 0-63 or 0-63,70"


class Seeds(Sequence[int]):
    """Ranges one after another, without making a list of them."""

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
        """One seed, or a list of some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = index + len(self) if index < 0 else index
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect.bisect_right(self._ends, index)
        return self.ranges[place][index - self._ends[place]]


def parse_seeds(text: str) -> Seeds:
    """Read "0-63,70". Raises UsageError."""
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
            raise UsageError(f"the seed {high} is too large", f"the largest is {MAX_SEED}")
        if high - low >= MOST:
            raise UsageError(f"the range '{part.strip()}' is too long", f"at most {MOST:,} at a time")
        ranges.append(range(low, high + 1))
    return Seeds(ranges)


def format_seeds(seeds: Sequence[int]) -> str:
    """The shortest text that `parse_seeds` reads back as the same seeds in the same order."""
    if isinstance(seeds, range) and seeds.step == 1:
        seeds = Seeds([seeds])
    ranges = (
        [[r.start, r.stop - 1] for r in seeds.ranges if len(r)] if isinstance(seeds, Seeds) else [[s, s] for s in seeds]
    )
    runs: list[list[int]] = []
    for low, high in ranges:
        if runs and runs[-1][1] + 1 == low:
            runs[-1][1] = high
        else:
            runs.append([low, high])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
