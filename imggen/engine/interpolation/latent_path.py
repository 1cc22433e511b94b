"""Paths through the latent space, and the points on them at which frames are rendered.

The noise at a point is a weighted sum of the noise of keyframes. For independent standard normal keyframes, the
weights are divided by their norm, so that the sum is standard normal too: every frame is a sample of the model. (The
middle of a straight line has only 0.71 of that norm, and models generate poor images there.) Keyframes that were
inverted from images are neither independent nor of unit variance: their cosine similarities are taken into account,
and their RMS changes linearly from one to the next.
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
CLOSING_STEP_FRACTION = 0.9  # of a perceptual step: rounding must not make the closing step the longest
MAX_ANGLE = math.pi - 0.05  # between opposite keyframes there is no unique arc


@dataclass(frozen=True)
class Segment:
    """The part of a path between two neighboring keyframes.

    keyframes: the K keyframes that it depends on, as indices into those of the path.
    ends: positions, in `keyframes`, of the two that it connects.
    cosines: (K, K) cosine similarities between the keyframes; rms: (K,) their root mean squares.
    length: relative to other segments. is_long_arc: of a circle, the arc that leads back the long way.
    """

    path: str
    keyframes: tuple[int, ...]
    ends: tuple[int, int]
    cosines: Floats
    rms: Floats
    length: float = 1.0
    is_long_arc: bool = False

    @property
    def angle(self) -> float:
        """The angle between the two ends in radians, at most MAX_ANGLE."""
        return math.acos(float(np.clip(self.cosines[self.ends], math.cos(MAX_ANGLE), 1)))

    def weights(self, t: Floats) -> Floats:
        """(N, K): the weight of each keyframe at positions `t` (N,) in [0, 1]; exactly one-hot at 0 and 1."""
        weights = np.zeros((len(t), len(self.keyframes)))
        a, b = self.ends
        if self.path == "spline":
            weights[:] = _catmull_rom(t)
        else:
            weights[:, a], weights[:, b] = self._arc_weights(t)
        for end, position in zip(self.ends, (0.0, 1.0), strict=True):
            weights[t == position] = np.eye(len(self.keyframes))[end]
        norms = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", weights, self.cosines, weights), 1e-12))
        rms = (1 - t) * self.rms[a] + t * self.rms[b]
        return weights * (rms / norms)[:, None] / self.rms

    def _arc_weights(self, t: Floats) -> tuple[Floats, Floats]:
        """Spherical interpolation (slerp): weights (N,) of the two ends."""
        angle = self.angle
        if angle < 1e-4:
            return 1 - t, t
        # The long arc starts at its first end in the direction away from the other end.
        turn = -(2 * math.pi - angle) * t if self.is_long_arc else angle * t
        return np.sin(angle - turn) / math.sin(angle), np.sin(turn) / math.sin(angle)


def _catmull_rom(u: Floats) -> Floats:
    """(N, 4): weights of a cubic spline through the two middle keyframes, with the outer two as neighbors."""
    return np.stack(
        [
            ((2 - u) * u - 1) * u / 2,
            ((3 * u - 5) * u * u + 2) / 2,
            ((4 - 3 * u) * u + 1) * u / 2,
            (u - 1) * u * u / 2,
        ],
        axis=1,
    )


def make_segments(
    path: str, count: int, loop: bool, cosine_similarity: Callable[[int, int], float], rms: Floats
) -> list[Segment]:
    """The segments of a path through `count` keyframes with root mean squares `rms` (count,).

    `cosine_similarity(i, j)` is that of two keyframes. Raises UsageError for a circle that is not defined.
    """

    def segment(keyframes: tuple[int, ...], ends: tuple[int, int], **more: Any) -> Segment:
        cosines = np.array([[cosine_similarity(i, j) for j in keyframes] for i in keyframes])
        return Segment(path, keyframes, ends, cosines, rms[list(keyframes)], **more)

    if path == "circle":
        if count != 2:
            raise UsageError(
                f"a circle goes through two keyframes, not {count}", "--path spline --loop takes any number"
            )
        if cosine_similarity(0, 1) > 0.999:
            raise UsageError("a circle goes through two different keyframes", "give other seeds, or other images")
        arc = math.acos(max(cosine_similarity(0, 1), math.cos(MAX_ANGLE)))
        return [
            segment((0, 1), (0, 1), length=arc),
            segment((0, 1), (1, 0), length=2 * math.pi - arc, is_long_arc=True),
        ]
    segments = []
    for index in range(count if loop else count - 1):
        if path == "slerp":
            segments.append(segment((index, (index + 1) % count), (0, 1)))
            continue
        neighbors = [index - 1, index, index + 1, index + 2]
        inside = [number % count if loop else min(max(number, 0), count - 1) for number in neighbors]
        segments.append(segment(tuple(inside), (1, 2)))
    return segments


@dataclass(frozen=True)
class PathPoint:
    """A point on a path: the index of the segment, and the position `t` in it, 0 to 1."""

    segment: int
    t: float


def divide_steps(lengths: Floats, steps: int) -> list[int]:
    """Divide `steps` among segments in proportion to their lengths, at least one each; the remainder goes to the last.

    So the step that closes a loop is never a longer one. Raises UsageError if there are too few steps.
    """
    if steps < len(lengths):
        raise UsageError("there are more keyframes than frames", f"--frames {len(lengths) + 1} or more")
    ends = np.floor(steps * np.cumsum(lengths) / lengths.sum() + 1e-9).astype(int)
    for index in range(len(ends)):
        ends[index] = max(ends[index], ends[index - 1] + 1 if index else 1)
    ends[-1] = steps
    for index in reversed(range(len(ends) - 1)):
        ends[index] = min(ends[index], ends[index + 1] - 1)
    counts: list[int] = np.diff(ends, prepend=0).tolist()
    return counts


def even_points(segments: Sequence[Segment], frames: int, loop: bool, ease: str) -> list[PathPoint]:
    """Points at equal steps in noise. Every keyframe is one of them, and so is the end of a path that is no loop."""
    counts = divide_steps(np.array([segment.length for segment in segments]), frames if loop else frames - 1)
    points = []
    for index, count in enumerate(counts):
        points += [PathPoint(index, float(t)) for t in EASES[ease](np.arange(count) / count)]
    return points if loop else [*points, PathPoint(len(segments) - 1, 1.0)]


def probe_points(segments: Sequence[Segment], frames: int) -> list[list[PathPoint]]:
    """Closely spaced points of each segment, its ends included, at which to measure before `paced_points`."""
    count = max(16, math.ceil(4 * frames / len(segments)))
    return [[PathPoint(index, float(t)) for t in np.linspace(0, 1, count + 1)] for index in range(len(segments))]


def paced_points(distances: Sequence[Floats], frames: int, loop: bool, ease: str) -> list[PathPoint]:
    """Points at which neighboring frames differ by equal amounts.

    `distances` are those between neighboring probes of each segment. One that is far larger than the others is a jump
    (the class changes, a token flips) that no choice of points can even out, so it is clipped to a few steps.
    """
    all_distances = np.concatenate(distances)
    positive = all_distances[all_distances > 0]
    limit = 4 * float(np.median(positive)) if len(positive) else 1.0
    traveled = [np.cumsum([0.0, *np.clip(part, limit * 1e-3, limit)]) for part in distances]
    counts = divide_steps(np.array([part[-1] for part in traveled]), frames if loop else frames - 1)
    points = []
    for index, (part, count) in enumerate(zip(traveled, counts, strict=True)):
        fractions = np.arange(count) / count
        if loop and index == len(traveled) - 1:
            fractions = np.arange(count) / (count - 1 + CLOSING_STEP_FRACTION)
        positions = np.interp(EASES[ease](fractions) * part[-1], part, np.linspace(0, 1, len(part)))
        points += [PathPoint(index, float(t)) for t in positions]
    return points if loop else [*points, PathPoint(len(traveled) - 1, 1.0)]


def unevenness(steps: Floats) -> float:
    """Standard deviation of the steps over their mean."""
    return float(steps.std() / steps.mean()) if len(steps) and steps.mean() > 0 else 0.0
