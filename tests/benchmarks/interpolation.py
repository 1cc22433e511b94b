"""Interpolations of a model measured: are frames as good as samples, do loops close evenly, how smooth are paths?

    python tests/benchmarks/interpolation.py --data mnist.zip --model gan [--model vae …] [--count 5000] [--loops 20]

Frames: the Fréchet distance (FD) of random frames (a random point between two random seeds), of as many samples, and,
as the control, of points on the straight line between the same seeds, whose middle has too small a norm. All are
compared with the held-out images (`--split all` if there are none), and each is the mean of `--repeats` sets, because
two sets of samples differ by a tenth as well.

Loops: of `--loops` closed paths through four seeds, the step that closes each divided by its median step, the fraction
for which that is at most 1, the largest step divided by the median, and the deviation over the mean, by path and pace.
If the model has classes, FD uses those of the seeds, and each loop has one class.

PPL is the perceptual path length like StyleGAN's (arXiv 1812.04948), but in the features of `imggen evaluate` and of
images as bytes: the mean squared distance between the features of two images, ε = 1e-2 apart on an arc, over ε².
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imggen.data.dataset import DataOptions, load_dataset
from imggen.engine import interpolation
from imggen.engine.checkpoints import load_backend
from imggen.engine.interpolation.latent_path import make_segments
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import InterpolateOptions
from imggen.io.image import ImageArray
from imggen.io.pixels import to_uint8
from imggen.metrics.distances import frechet, moments_of
from imggen.metrics.features import Features, load_features
from imggen.models.base import Backend
from imggen.reporting import Silent

BATCH = 250
EPSILON = 1e-2


def seed_noise(backend: Backend, first: int, count: int) -> tuple[Tensor, Tensor | None]:
    """Noise and labels of consecutive seeds."""
    return noise_for([SampleSpec(first + index) for index in range(count)], backend)


def generate(backend: Backend, noise: Tensor, labels: Tensor | None) -> ImageArray:
    """Images (N, H, W, C) of noise (N, *noise_shape) and labels (N,)."""
    parts = []
    for start in range(0, len(noise), BATCH):
        part = slice(start, start + BATCH)
        with torch.inference_mode():
            parts.append(to_uint8(backend.generate(noise[part], None if labels is None else labels[part])))
    return np.concatenate(parts)


def random_frames(backend: Backend, count: int, path: str, repeat: int) -> ImageArray:
    """Frames at random points, each between its own two seeds (slerp, straight) or four seeds (spline)."""
    size = 4 if path == "spline" else 2
    keyframes = [seed_noise(backend, (repeat + 1) * 10**6 + count * index, count) for index in range(size)]
    noise = torch.stack([keyframe[0] for keyframe in keyframes])
    t = np.random.default_rng(repeat).random(count)
    if path == "straight":
        weights = np.stack([1 - t, t], 1)
    else:
        segment = make_segments(path, size, False, lambda i, j: float(i == j), np.ones(size))[size // 2 - 1]
        weights = np.zeros((count, size))
        np.add.at(weights.T, list(segment.keyframes), segment.weights(t).T)
    mixed = torch.einsum("nk,kn...->n...", torch.from_numpy(weights).float(), noise)
    labels = None
    if backend.classes:
        old, new = (keyframes[size // 2 - 1 + end][1] for end in (0, 1))
        assert old is not None and new is not None
        labels = torch.where(torch.from_numpy(t).float() < 0.5, old, new)
    return generate(backend, mixed, labels)


def path_length(backend: Backend, features: Features, count: int) -> float:
    """PPL, from `count` random points on arcs."""
    noise, labels = seed_noise(backend, 0, count)
    others, _ = seed_noise(backend, 10**5, count)
    angle = torch.rand(count, generator=torch.Generator().manual_seed(0)) * (math.pi / 2)
    angles = [angle.view(-1, *[1] * (noise.ndim - 1)) + step for step in (0.0, EPSILON)]
    here, there = (
        features.extract(generate(backend, angle.cos() * noise + angle.sin() * others, labels)) for angle in angles
    )
    return float(((here - there) / EPSILON).square().sum(1).mean())


def measure(model: str, features: Features, given: argparse.Namespace) -> None:
    """Print the results of one model."""
    backend = load_backend(model, device="cpu").backend.for_inference()
    form = DataOptions(size=backend.config.size, channels=backend.config.channels, split=given.split)
    dataset = load_dataset(given.data, form, max_size=256, reporter=Silent())
    reference = moments_of(features.extract(np.asarray(dataset.images)))

    def distance(images: ImageArray) -> float:
        return frechet(reference, moments_of(features.extract(images)))

    repeats = range(given.repeats)
    each = [distance(generate(backend, *seed_noise(backend, repeat * given.count, given.count))) for repeat in repeats]
    samples = float(np.mean(each))
    print(f"\n{model}: FD of {given.count:,} samples {samples:.3f} ({min(each):.3f} to {max(each):.3f})", flush=True)
    for path in ("slerp", "spline", "straight"):
        frames = float(np.mean([distance(random_frames(backend, given.count, path, repeat)) for repeat in repeats]))
        print(f"  frames, {path:9} {frames:8.3f}, {frames / samples:.2f} times that of samples", flush=True)
    print(f"  PPL {path_length(backend, features, given.count):.1f}", flush=True)
    measure_loops(model, backend, given.loops, given.frames)


def measure_loops(model: str, backend: Backend, count: int, frames: int) -> None:
    """Print how closed paths close."""
    print(f"  {count} loops of {frames} frames: closing/median (mean), at most 1, largest/median, deviation/mean")
    for path, pace in (("slerp", "noise"), ("spline", "noise"), ("slerp", "perceptual"), ("spline", "perceptual")):
        rows = []
        for index in range(count):
            label = backend.classes[index % len(backend.classes)] if backend.classes else None
            with tempfile.TemporaryDirectory() as folder:
                options = InterpolateOptions(
                    model=model, output=str(Path(folder) / "w.gif"), seeds=f"{4 * index}-{4 * index + 3}", label=label,
                    path=path, pace=pace, loop=True, frames=frames, device="cpu",
                )  # fmt: skip
                steps = interpolation.run(options, Silent())["steps"]
            closing, largest = steps["closing"] / steps["median"], steps["largest"] / steps["median"]
            rows.append((closing, float(closing <= 1), largest, steps["unevenness"]))
        mean = np.mean(rows, axis=0)
        print(f"  {path:7} {pace:11} {mean[0]:5.2f} {mean[1]:5.0%} {mean[2]:6.2f} {mean[3]:6.2f}", flush=True)


def main() -> None:
    """Print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--split", default="test")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--loops", type=int, default=20)
    parser.add_argument("--frames", type=int, default=120)
    given = parser.parse_args()
    features = load_features(None, torch.device("cpu"))
    for model in given.model:
        measure(model, features, given)


if __name__ == "__main__":
    main()
