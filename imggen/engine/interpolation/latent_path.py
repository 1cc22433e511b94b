"""Ways through noise: which shares of which keys make the noise of a place, and which places the frames stand at.

A place's noise is a sum of keys' noises. For keys drawn independently from a standard normal the sum is divided by
the length of its shares, so that it is standard normal itself: every frame is one more sample. (A straight line's
middle is too short by a factor of 0.71, and models draw poorly there.) Keys found for given pictures are neither
independent nor of unit size: what they have in common counts too, and their size changes evenly from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imggen.errors import UsageError

Floats = NDArray[np.float64]
EASES: dict[str, Callable[[Floats], Floats]] = {
    "none": lambda u: u,
    "sine": lambda u: (1 - np.cos(np.pi * u)) / 2,
    "cubic": lambda u: u * u * (3 - 2 * u),
}
SLACK = 0.9  # of a step: what closes a loop that is paced by sight, so that rounding never makes it the longest


@dataclass(frozen=True)
class Segment:
    """The way from one key to the next: `keys` it is made of, of which `ends` are the places of its two ends.

    `gram` (K, K) holds the cosines between the keys, `sizes` (K,) their root mean squares.
    """

    path: str
    keys: tuple[int, ...]
    ends: tuple[int, int]
    gram: Floats
    sizes: Floats
    length: float = 1.0
    rest: bool = False

    @property
    def angle(self) -> float:
        """Between the two ends; that of opposite keys, between which there is no one way, is kept off π."""
        return math.acos(float(np.clip(self.gram[self.ends], math.cos(math.pi - 0.05), 1)))

    def shares(self, places: Floats) -> Floats:
        """(N, K): what of each key makes the noise at places in [0, 1]; the ends are the keys themselves, exactly."""
        weights = np.zeros((len(places), len(self.keys)))
        if self.path == "spline":
            weights[:] = _catmull_rom(places)
        else:
            angle, (a, b) = self.angle, self.ends
            if angle < 1e-4:
                weights[:, a], weights[:, b] = 1 - places, places
            else:
                # The rest of a circle leads from its second key on, away from the first, and round to it.
                to = -(2 * math.pi - angle) * places if self.rest else angle * places
                weights[:, a], weights[:, b] = np.sin(angle - to) / math.sin(angle), np.sin(to) / math.sin(angle)
        for end, place in zip(self.ends, (0.0, 1.0), strict=True):
            weights[places == place] = np.eye(len(self.keys))[end]
        lengths = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", weights, self.gram, weights), 1e-12))
        a, b = self.ends
        sizes = (1 - places) * self.sizes[a] + places * self.sizes[b]
        shares: Floats = weights * (sizes / lengths)[:, None] / self.sizes
        return shares


def _catmull_rom(u: Floats) -> Floats:
    """(N, 4): a smooth cubic through the two keys in the middle, aware of the keys beside them."""
    return np.stack(
        [
            ((2 - u) * u - 1) * u / 2,
            ((3 * u - 5) * u * u + 2) / 2,
            ((4 - 3 * u) * u + 1) * u / 2,
            (u - 1) * u * u / 2,
        ],
        axis=1,
    )


def segments(path: str, count: int, loop: bool, alike: Callable[[int, int], float], sizes: Floats) -> list[Segment]:
    """The ways from key to key of a walk through `count` keys; `alike` is the cosine between two. Raises UsageError."""

    def one(keys: tuple[int, ...], ends: tuple[int, int], **more: Any) -> Segment:
        gram = np.array([[alike(i, j) for j in keys] for i in keys])
        return Segment(path, keys, ends, gram, sizes[list(keys)], **more)

    if path == "circle":
        if count != 2:
            raise UsageError(f"a circle goes through two keys, not {count}", "--path spline --loop takes any number")
        if alike(0, 1) > 0.999:
            raise UsageError("a circle goes through two different keys", "other seeds, or other pictures")
        arc = math.acos(max(alike(0, 1), math.cos(math.pi - 0.05)))
        return [
            one((0, 1), (0, 1), length=arc),
            one((0, 1), (1, 0), length=2 * math.pi - arc, rest=True),
        ]
    found = []
    for index in range(count if loop else count - 1):
        if path == "slerp":
            found.append(one((index, (index + 1) % count), (0, 1)))
            continue
        around = [index - 1, index, index + 1, index + 2]
        near = [place % count if loop else min(max(place, 0), count - 1) for place in around]
        found.append(one(tuple(near), (1, 2)))
    return found


@dataclass(frozen=True)
class PathPoint:
    """Where a frame stands: how far along which segment."""

    segment: int
    share: float


def divide(lengths: Floats, steps: int) -> list[int]:
    """Steps for each segment, in proportion to its length, at least one each; what is left over comes last.

    So the step that closes a loop is never a longer one. Raises UsageError when there are too few.
    """
    if steps < len(lengths):
        raise UsageError("there are more keys than frames", f"--frames {len(lengths) + 1} or more")
    whole = np.floor(steps * np.cumsum(lengths) / lengths.sum() + 1e-9).astype(int)
    for index in range(len(whole)):
        whole[index] = max(whole[index], whole[index - 1] + 1 if index else 1)
    whole[-1] = steps
    for index in reversed(range(len(whole) - 1)):
        whole[index] = min(whole[index], whole[index + 1] - 1)
    counts: list[int] = np.diff(whole, prepend=0).tolist()
    return counts


def even_places(parts: Sequence[Segment], frames: int, loop: bool, ease: str) -> list[PathPoint]:
    """Places at an even pace in noise; every key is a frame's place exactly, and so is the end of what is no loop."""
    counts = divide(np.array([part.length for part in parts]), frames if loop else frames - 1)
    found = []
    for index, count in enumerate(counts):
        found += [PathPoint(index, float(u)) for u in EASES[ease](np.arange(count) / count)]
    return found if loop else [*found, PathPoint(len(parts) - 1, 1.0)]


def probe_places(parts: Sequence[Segment], frames: int) -> list[list[PathPoint]]:
    """Places to look at before pacing by sight: of each segment, its two ends and closely between."""
    each = max(16, math.ceil(4 * frames / len(parts)))
    return [[PathPoint(index, float(u)) for u in np.linspace(0, 1, each + 1)] for index in range(len(parts))]


def paced_places(steps: Sequence[Floats], frames: int, loop: bool, ease: str) -> list[PathPoint]:
    """Places at which neighbouring frames look equally far apart.

    `steps` holds the distances between neighbouring probes of each segment. One that is far larger than the others is
    a jump (a class that changes, tokens that flip): no pace evens it, so it is counted as no more than a few steps.
    """
    everything = np.concatenate(steps)
    most = 4 * float(np.median(everything[everything > 0])) if (everything > 0).any() else 1.0
    ways = [np.cumsum([0.0, *np.clip(part, most * 1e-3, most)]) for part in steps]
    counts = divide(np.array([way[-1] for way in ways]), frames if loop else frames - 1)
    found = []
    for index, (way, count) in enumerate(zip(ways, counts, strict=True)):
        marks = np.arange(count) / count
        if loop and index == len(ways) - 1:
            marks = np.arange(count) / (count - 1 + SLACK)
        looked = np.interp(EASES[ease](marks) * way[-1], way, np.linspace(0, 1, len(way)))
        found += [PathPoint(index, float(u)) for u in looked]
    return found if loop else [*found, PathPoint(len(ways) - 1, 1.0)]


def unevenness(steps: Floats) -> float:
    """Standard deviation of the steps over their mean."""
    return float(steps.std() / steps.mean()) if len(steps) and steps.mean() > 0 else 0.0
