"""Walks of a model measured: are frames samples, do loops close evenly, how smooth is the way?

    python tests/benchmarks/walks.py --data mnist.zip --model gan [--model vae …] [--count 5000] [--loops 20]

FD of random frames (a place drawn evenly on a way between two random seeds) beside FD of as many samples and of frames
on the straight line between the same seeds, the control, whose middle is too short; all against the held-out pictures
(`--split all` where there are none), and each the mean of `--repeats` sets of pictures: two sets of samples differ by a
tenth as well.
Loops: of `--loops` closed walks through four seeds, the step that closes each over its median step, how many of those
are at most 1, largest over median step, and deviation over mean, by path and pace. Models with classes: those that the
seeds draw (FD), and one class a loop. PPL is perceptual path length in the manner of StyleGAN (arXiv 1812.04948),
but in the features of imggen evaluate and of pictures as bytes: the mean squared distance of two pictures' features,
ε = 1e-2 apart on an arc, over ε².
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
from imggen.engine.checkpoints import load_backend
from imggen.engine.interpolation.interpolate import interpolate
from imggen.engine.interpolation.latent_path import segments
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import InterpolateOptions
from imggen.engine.render import to_uint8
from imggen.io.image import ImageArray
from imggen.metrics.distances import frechet, moments_of
from imggen.metrics.features import load_features
from imggen.models.base import Backend
from imggen.reporting import Silent

BATCH = 250
EPSILON = 1e-2


def keys_of(backend: Backend, first: int, count: int) -> tuple[Tensor, Tensor | None]:
    """The noise and the classes of seeds."""
    return noise_for([SampleSpec(first + index) for index in range(count)], backend)


def drawn(backend: Backend, noise: Tensor, ways: tuple[Tensor, Tensor, Tensor] | None) -> ImageArray:
    """(N, H, W, C) of noise, and of classes left, classes to come and how far between."""
    parts = []
    for start in range(0, len(noise), BATCH):
        part = slice(start, start + BATCH)
        with torch.inference_mode():
            if ways is None:
                parts.append(to_uint8(backend.generate(noise[part])))
            else:
                parts.append(to_uint8(backend.generate_between(noise[part], *(way[part] for way in ways))))
    return np.concatenate(parts)


def frames(backend: Backend, count: int, path: str, repeat: int) -> ImageArray:
    """Random frames: of each, two (slerp, straight) or four (spline) seeds of its own, and a random place."""
    size = 4 if path == "spline" else 2
    several = [keys_of(backend, (repeat + 1) * 10**6 + count * index, count) for index in range(size)]
    noise = torch.stack([part[0] for part in several])
    place = np.random.default_rng(repeat).random(count)
    if path == "straight":
        shares = np.stack([1 - place, place], 1)
    else:
        part = segments(path, size, False, lambda i, j: float(i == j), np.ones(size))[size // 2 - 1]
        shares = np.zeros((count, size))
        np.add.at(shares.T, list(part.keys), part.shares(place).T)
    weights = torch.from_numpy(shares).float()
    mixed = torch.einsum("nk,kn...->n...", weights, noise)
    ways = None
    if backend.classes:
        a, b = (several[size // 2 - 1 + end][1] for end in (0, 1))
        assert a is not None and b is not None
        ways = a, b, torch.from_numpy(place).float()
    return drawn(backend, mixed, ways)


def main() -> None:
    """Print the figures."""
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
        backend = load_backend(model, device="cpu").backend.for_inference()
        form = DataOptions(size=backend.config.size, channels=backend.config.channels, split=given.split)
        dataset = load_dataset(given.data, form, max_size=256, reporter=Silent())
        reference = moments_of(features.extract(np.asarray(dataset.images)))

        def distance(pictures: ImageArray, reference: tuple[Tensor, Tensor] = reference) -> float:
            return frechet(reference, moments_of(features.extract(pictures)))

        def sampled(repeat: int, backend: Backend = backend) -> ImageArray:
            noise, labels = keys_of(backend, repeat * given.count, given.count)
            return drawn(backend, noise, None if labels is None else (labels, labels, torch.zeros(given.count)))

        repeats = range(given.repeats)
        each = [distance(sampled(repeat)) for repeat in repeats]
        samples = float(np.mean(each))
        print(
            f"\n{model}: FD of {given.count:,} samples {samples:.3f} ({min(each):.3f} to {max(each):.3f})", flush=True
        )
        for path in ("slerp", "spline", "straight"):
            found = float(np.mean([distance(frames(backend, given.count, path, repeat)) for repeat in repeats]))
            print(f"  frames, {path:9} {found:8.3f}, {found / samples:.2f} of the samples'", flush=True)
        noise, labels = keys_of(backend, 0, given.count)
        ways = None if labels is None else (labels, labels, torch.zeros(given.count))
        others, _ = keys_of(backend, 10**5, given.count)
        angle = torch.rand(given.count, generator=torch.Generator().manual_seed(0)) * (math.pi / 2)
        turns = [angle.view(-1, *[1] * (noise.ndim - 1)) + step for step in (0.0, EPSILON)]
        here, there = (
            features.extract(drawn(backend, turn.cos() * noise + turn.sin() * others, ways)) for turn in turns
        )
        print(f"  PPL {float(((here - there) / EPSILON).square().sum(1).mean()):.1f}", flush=True)
        loops(model, backend, given.loops, given.frames)


def loops(model: str, backend: Backend, count: int, length: int) -> None:
    """Print how closed walks close."""
    print(f"  {count} loops of {length} frames: closing/median (mean), at most 1, largest/median, deviation/mean")
    for path, pace in (("slerp", "noise"), ("spline", "noise"), ("slerp", "perceptual"), ("spline", "perceptual")):
        rows = []
        for index in range(count):
            label = backend.classes[index % len(backend.classes)] if backend.classes else None
            with tempfile.TemporaryDirectory() as folder:
                options = InterpolateOptions(
                    model=model, output=str(Path(folder) / "w.gif"), seeds=f"{4 * index}-{4 * index + 3}", label=label,
                    path=path, pace=pace, loop=True, frames=length, device="cpu",
                )  # fmt: skip
                steps = interpolate(options, Silent())["steps"]
            closing, largest = steps["closing"] / steps["median"], steps["largest"] / steps["median"]
            rows.append((closing, float(closing <= 1), largest, steps["unevenness"]))
        mean = np.mean(rows, axis=0)
        print(f"  {path:7} {pace:11} {mean[0]:5.2f} {mean[1]:5.0%} {mean[2]:6.2f} {mean[3]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
