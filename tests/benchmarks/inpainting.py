"""Holes filled by models and by classical methods: the table of PSNR, Fréchet distance and diversity.

    pip install opencv-python-headless scikit-image
    python tests/benchmarks/inpainting.py --data mnist.zip --model gan [--model vae …] [--count 500] [--masks half]

Pictures are held-out ones (the test split). Masks are strokes and boxes in the manner of LaMa's (arXiv 2109.07161)
thin, medium and thick sets, drawn at 256 px and scaled down, two centred squares and the right half. PSNR is over the
holes alone, in dB, of the mean squared error over all pictures (the mean of the pictures' own PSNRs would be about 1 dB
more): of the mean of 16 fills, and of the best of 8. FD is of single fills, against all held-out pictures.
Diversity is the mean distance of 8 fills in the hole, as a share of that between real pictures. `mean` fills with the
mean of what is known; `real` puts the pixels back, so its FD is what a perfect fill would have. Where pictures have
classes, `right` is the share of single fills that are taken for their picture's class, by a linear classifier of whole
pictures; of one mask for all there is also the share that such a classifier of the known pixels alone gets right.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from imggen.data.dataset import DataOptions, load_dataset
from imggen.engine.checkpoints import load_backend
from imggen.metrics.distances import Discriminant, frechet, moments_of
from imggen.metrics.features import Features, load_features
from imggen.models.base import Backend
from imggen.reporting import Silent

Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
FILLS, DIVERSE = 16, 8
CANVAS = 256
# Strokes (from, to), their greatest width and length; boxes (from, to), their sides; at 256 px.
KINDS = {
    "thin": ((4, 50), 10, 40, (0, 0), (0, 0)),
    "medium": ((4, 5), 50, 100, (0, 5), (30, 75)),
    "thick": ((1, 5), 100, 200, (1, 4), (30, 150)),
}
MASKS = (*KINDS, "small", "centre", "half")


def stroke_mask(kind: str, size: int, random: np.random.Generator) -> Mask:
    """Polylines of round ends, and boxes."""
    times, width, length, boxes, sides = KINDS[kind]
    canvas = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(canvas)
    for _ in range(random.integers(times[0], times[1] + 1)):
        x, y = random.integers(CANVAS, size=2).tolist()
        for _ in range(random.integers(1, 6)):
            angle, reach = random.uniform(0, 2 * np.pi), random.integers(10, length + 1)
            across = int(random.integers(5, width + 1))
            to = (
                float(np.clip(x + reach * np.cos(angle), 0, CANVAS)),
                float(np.clip(y + reach * np.sin(angle), 0, CANVAS)),
            )
            pen.line([(x, y), to], fill=255, width=across)
            pen.ellipse([to[0] - across / 2, to[1] - across / 2, to[0] + across / 2, to[1] + across / 2], fill=255)
            x, y = to
    for _ in range(random.integers(boxes[0], boxes[1] + 1)):
        across, down = random.integers(sides[0], sides[1] + 1, size=2).tolist()
        left, top = (int(random.integers(0, CANVAS - side + 1)) for side in (across, down))
        pen.rectangle([left, top, left + across, top + down], fill=255)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX)) >= 128


def mask_of(kind: str, size: int, random: np.random.Generator) -> Mask:
    """(H, W), true in the hole; never empty, never everything."""
    mask = np.zeros((size, size), bool)
    if kind == "half":
        mask[:, size // 2 :] = True
    elif kind in ("small", "centre"):
        edge = size * (3 if kind == "small" else 2) // 8
        mask[edge : size - edge, edge : size - edge] = True
    else:
        while not 0.02 < mask.mean() < 0.8:
            mask = stroke_mask(kind, size, random)
    return mask


def classical(name: str, picture: Bytes, mask: Mask) -> Bytes:
    """(H, W, C) with the hole filled."""
    filled = picture.copy()
    if name == "mean":
        filled[mask] = picture[~mask].mean(0).round()
    elif name == "biharmonic":
        given = picture.astype(np.float64) / 255
        given[mask] = 0
        filled = np.clip(inpaint_biharmonic(given, mask, channel_axis=-1) * 255 + 0.5, 0, 255).astype(np.uint8)
    elif name in ("telea", "navier-stokes"):
        method = cv2.INPAINT_TELEA if name == "telea" else cv2.INPAINT_NS
        filled = cv2.inpaint(picture, mask.astype(np.uint8), 3, method).reshape(picture.shape)
    filled[~mask] = picture[~mask]
    return filled


def to_bytes(pictures: Tensor) -> Bytes:
    """(B, C, H, W) in [-1, 1] → (B, H, W, C)."""
    return (pictures.permute(0, 2, 3, 1) + 1).mul(127.5).round().clamp(0, 255).byte().numpy()


def by_model(backend: Backend, pictures: Bytes, masks: list[Mask], fills: int) -> tuple[npt.NDArray[np.uint8], float]:
    """Fills (fills, N, H, W, C) with the known pixels pasted back, and seconds a fill, one after another in batches."""
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    mask = torch.from_numpy(np.stack(masks))[:, None].float()
    began, found = time.perf_counter(), []
    for fill in range(fills):
        parts = []
        for start in range(0, len(images), 50):
            part = slice(start, start + 50)
            noise = torch.randn(
                len(images[part]), *backend.noise_shape, generator=torch.Generator().manual_seed(1000 * fill + start)
            )
            hidden = images[part] * (1 - mask[part])
            parts.append(to_bytes(backend.inpaint(hidden, mask[part], noise)))
        drawn = np.concatenate(parts)
        found.append(np.where(np.stack(masks)[..., None], drawn, pictures))
    return np.stack(found), (time.perf_counter() - began) / fills / len(images)


def errors(filled: Bytes, pictures: Bytes, masks: list[Mask]) -> npt.NDArray[np.float64]:
    """(N,) mean squared error in levels of 255, over the hole alone."""
    squares = (filled.astype(np.float64) - pictures) ** 2
    return np.array([square[mask].mean() for square, mask in zip(squares, masks, strict=True)])


def psnr(found: npt.NDArray[np.float64]) -> float:
    """`errors` (N,) → dB."""
    return float(10 * np.log10(255**2 / max(found.mean(), 1e-2)))


def apart(several: npt.NDArray[np.uint8], masks: list[Mask]) -> float:
    """Mean distance of the pictures (K, N, H, W, C) of every pair of the K, in the hole, root of the mean square."""
    k = len(several)
    total = []
    for a in range(k):
        for b in range(a):
            squares = (several[a].astype(np.float64) - several[b]) ** 2
            total.append(np.mean([np.sqrt(s[m].mean()) for s, m in zip(squares, masks, strict=True)]))
    return float(np.mean(total))


class Judges:
    """Which class is a picture of? Learnt from the pictures that are not filled."""

    def __init__(self, features: Features, everything: Bytes, labels: Tensor, chosen: npt.NDArray[np.int64]) -> None:
        self.features, self.labels, self.classes = features, labels[chosen], int(labels.max()) + 1
        others = np.setdiff1d(np.arange(len(everything)), chosen)
        self.others, self.their_labels = everything[others], labels[others]
        self.whole = self._learnt(self.others)

    def _learnt(self, pictures: Bytes) -> Discriminant:
        return Discriminant(self.features.extract(pictures), self.their_labels, self.classes)

    def correct(self, filled: Bytes) -> float:
        """The share of these that are taken for their own class."""
        return float(self.whole.correct(self.features.extract(filled), self.labels).mean())

    def right_by_known(self, pictures: Bytes, mask: Mask) -> float:
        """The share that the best linear classifier of pictures without the hole's pixels gets right."""
        judge = self._learnt(self.others * ~mask[..., None])
        return float(judge.correct(self.features.extract(pictures * ~mask[..., None]), self.labels).mean())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--masks", default=",".join(MASKS))
    parser.add_argument("--fills", type=int, default=FILLS)
    given = parser.parse_args()
    backends = {name: load_backend(name).backend.eval() for name in given.model}
    one = next(iter(backends.values()), None)
    channels, size = (None, 32) if one is None else (one.config.channels, one.config.size)
    options = DataOptions(size=size, channels=channels, split="test")
    dataset = load_dataset(given.data, options, max_size=size, reporter=Silent())
    features = load_features(None, torch.device("cpu"))
    everything = np.asarray(dataset.images)
    reference = moments_of(features.extract(everything))
    chosen = np.linspace(0, len(everything) - 1, given.count).astype(int)
    pictures = everything[chosen]
    judges = None
    if len(dataset.classes) > 1:
        judges = Judges(features, everything, torch.from_numpy(np.array(dataset.labels)).long(), chosen)
    swapped = np.stack([np.roll(pictures, shift, 0) for shift in range(1, DIVERSE + 1)])
    for kind in given.masks.split(","):
        random = np.random.default_rng(0)
        masks = [mask_of(kind, size, random) for _ in pictures]
        holes = float(np.mean([mask.mean() for mask in masks]))
        print(f"\n{kind}, {holes:.0%} hole: PSNR of mean, best of {DIVERSE}, FD, diversity, seconds, right", flush=True)

        def line(name: str, mean: float, best: float, single: Bytes, diverse: float, seconds: float) -> None:
            fd = frechet(reference, moments_of(features.extract(single)))
            right = "" if judges is None else f"{judges.right(single):8.1%}"
            print(f"{name:14} {mean:6.2f} {best:6.2f} {fd:8.2f} {diverse:6.2f} {seconds:8.3f}{right}", flush=True)

        for name in ("real", "mean", "telea", "navier-stokes", "biharmonic"):
            began = time.perf_counter()
            filled = np.stack([classical(name, *pair) for pair in zip(pictures, masks, strict=True)])
            seconds = (time.perf_counter() - began) / len(pictures)
            value = psnr(errors(filled, pictures, masks))
            line(name, value, value, filled, 0.0, seconds)
        for name, backend in backends.items():
            fills, seconds = by_model(backend, pictures, masks, given.fills)
            mean = psnr(errors(fills.mean(0).round().astype(np.uint8), pictures, masks))
            best = psnr(np.min([errors(fill, pictures, masks) for fill in fills[:DIVERSE]], 0))
            diverse = apart(fills[:DIVERSE], masks) / apart(swapped, masks) if len(fills) > 1 else float("nan")
            line(name, mean, best, fills[0], diverse, seconds)
        if judges is not None and all((mask == masks[0]).all() for mask in masks):
            print(f"a classifier of the known pixels alone: {judges.right_by_known(pictures, masks[0]):.1%} right")


if __name__ == "__main__":
    main()
