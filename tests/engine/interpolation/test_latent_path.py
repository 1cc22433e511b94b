"""Paths through noise: unit variance everywhere, exact keyframes, even steps, loops that close."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imggen.engine.interpolation.latent_path import divide_steps, even_points, make_segments, paced_points, unevenness


def independent(i: int, j: int) -> float:
    return float(i == j)


@pytest.mark.parametrize("path", ["slerp", "spline", "circle"])
def test_noise_is_standard_normal_at_every_point(path: str) -> None:
    count = 2 if path == "circle" else 4
    for loop in (False, True):
        for segment in make_segments(path, count, loop, independent, np.ones(count)):
            weights = segment.weights(np.linspace(0, 1, 21))
            cosines = np.array([[float(i == j) for j in segment.keyframes] for i in segment.keyframes])
            assert np.allclose(np.einsum("ni,ij,nj->n", weights, cosines, weights), 1)
            ends = np.eye(len(segment.keyframes))[list(segment.ends)]
            assert np.array_equal(segment.weights(np.array([0.0, 1.0])), ends)


@pytest.mark.parametrize("path", ["slerp", "spline", "circle"])
def test_loops_close_evenly(path: str) -> None:
    random = np.random.default_rng(0)
    count = 2 if path == "circle" else 5
    keyframes = random.standard_normal((count, 512))
    segments = make_segments(path, count, True, independent, np.ones(count))
    for frames in (40, 41, 43):
        points = even_points(segments, frames, True, "none")
        noise = np.stack(
            [
                segments[point.segment].weights(np.array([point.t]))[0]
                @ keyframes[list(segments[point.segment].keyframes)]
                for point in points
            ]
        )
        steps = np.linalg.norm(np.roll(noise, -1, 0) - noise, axis=1)
        assert len(points) == frames and steps[-1] <= np.median(steps) * 1.05
        if path != "spline":
            assert steps.max() / steps.min() < 1.4


def test_keyframes_that_are_not_independent() -> None:
    random = np.random.default_rng(1)
    keyframes = random.standard_normal((3, 64)) * np.array([[0.5], [1.0], [2.0]])
    keyframes[1] += keyframes[0]
    rms = np.sqrt((keyframes**2).mean(1))
    cosines = keyframes @ keyframes.T / 64 / rms[:, None] / rms
    assert np.allclose(np.diag(cosines), 1)
    for path in ("slerp", "spline"):
        for segment in make_segments(path, 3, True, lambda i, j: float(cosines[i, j]), rms):
            noise = segment.weights(np.linspace(0, 1, 11)) @ keyframes[list(segment.keyframes)]
            a, b = (rms[segment.keyframes[end]] for end in segment.ends)
            assert np.allclose(np.sqrt((noise**2).mean(1)), np.linspace(a, b, 11), rtol=1e-6)
    equal = make_segments("slerp", 2, False, lambda i, j: 1.0, np.ones(2))[0]
    assert np.allclose(equal.weights(np.linspace(0, 1, 5)).sum(1), 1)
    opposite = make_segments("slerp", 2, False, lambda i, j: -1.0 if i != j else 1.0, np.ones(2))[0]
    assert np.isfinite(opposite.weights(np.linspace(0, 1, 5))).all()


@given(lengths=st.lists(st.floats(0.01, 100), min_size=1, max_size=12), more=st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_steps_are_divided_completely(lengths: list[float], more: int) -> None:
    counts = divide_steps(np.array(lengths), len(lengths) + more)
    assert sum(counts) == len(lengths) + more and min(counts) >= 1


def test_perceptual_steps_are_even_and_close_a_loop() -> None:
    def traveled(segment: int, t: float) -> float:
        return segment + t**3

    distances = [np.diff([traveled(k, t) for t in np.linspace(0, 1, 400)]) for k in range(4)]
    points = paced_points(distances, 80, True, "none")
    positions = np.array([traveled(point.segment, point.t) for point in points])
    steps = np.diff([*positions, 4.0])
    assert unevenness(steps) < 0.05 and steps[-1] <= np.median(steps)
    assert [point.t for point in points].count(0.0) == 4
