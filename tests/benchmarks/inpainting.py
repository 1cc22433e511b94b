"""Inpainting by models and by classical methods: tables of PSNR, Fréchet distance (FD) and diversity.

    pip install opencv-python-headless scikit-image
    python tests/benchmarks/inpainting.py --data mnist.zip --model gan [--model vae …] [--count 500] [--masks half]

Images are held-out ones (the test split). Masks: strokes and boxes like LaMa's thin, medium and thick sets (arXiv
2109.07161), generated at 256 pixels and scaled down; two centered squares; the right half.

PSNR in dB is measured in the masked region, from the mean squared error over all images (averaging the PSNR of each
image would give about 1 dB more): that of the mean of 16 fills, and that of the best of 8. FD is that of single fills
against all held-out images. Diversity is the mean distance of 8 fills in the masked region, divided by that of real
images. The row "mean" fills with the mean of the unmasked pixels; "real" restores the masked pixels, so its FD is that
of a perfect fill. If the images have classes, "correct" is the fraction of single fills that a linear classifier
assigns to their image's class; if all masks are equal, the accuracy of such a classifier that sees only the unmasked
pixels is printed too.

Last comes, for each model, the CPU time of filling MANY_REGIONS squares of 5 px in an image of 6 megapixels.
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
from imggen.engine.inpainting.regions import find_regions, tile_boxes
from imggen.engine.inpainting.tiles import Canvas, TileInpainter
from imggen.io.image import ImageArray
from imggen.io.pixels import from_array, to_float, to_uint8
from imggen.metrics.distances import Discriminant, frechet, moments_of
from imggen.metrics.features import Features, load_features
from imggen.models.base import DEFAULT_SAMPLING, Backend
from imggen.reporting import Silent

Mask = npt.NDArray[np.bool_]
FILLS, DIVERSITY_FILLS = 16, 8
CANVAS = 256
MANY_REGIONS = 40
# Number of strokes (min, max), their maximum width and length; number of boxes (min, max), their sides; at 256 pixels.
STROKES = {
    "thin": ((4, 50), 10, 40, (0, 0), (0, 0)),
    "medium": ((4, 5), 50, 100, (0, 5), (30, 75)),
    "thick": ((1, 5), 100, 200, (1, 4), (30, 150)),
}
MASKS = (*STROKES, "small", "center", "half")


def stroke_mask(kind: str, size: int, random: np.random.Generator) -> Mask:
    """(H, W): polylines with round ends, and boxes."""
    times, width, length, boxes, sides = STROKES[kind]
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


def make_mask(kind: str, size: int, random: np.random.Generator) -> Mask:
    """(H, W), true where masked; neither empty nor full."""
    mask = np.zeros((size, size), bool)
    if kind == "half":
        mask[:, size // 2 :] = True
    elif kind in ("small", "center"):
        edge = size * (3 if kind == "small" else 2) // 8
        mask[edge : size - edge, edge : size - edge] = True
    else:
        while not 0.02 < mask.mean() < 0.8:
            mask = stroke_mask(kind, size, random)
    return mask


def fill_classically(name: str, image: ImageArray, mask: Mask) -> ImageArray:
    """(H, W, C) with the masked region filled."""
    filled = image.copy()
    if name == "mean":
        filled[mask] = image[~mask].mean(0).round()
    elif name == "biharmonic":
        given = image.astype(np.float64) / 255
        given[mask] = 0
        filled = np.clip(inpaint_biharmonic(given, mask, channel_axis=-1) * 255 + 0.5, 0, 255).astype(np.uint8)
    elif name in ("telea", "navier-stokes"):
        method = cv2.INPAINT_TELEA if name == "telea" else cv2.INPAINT_NS
        filled = cv2.inpaint(image, mask.astype(np.uint8), 3, method).reshape(image.shape)
    filled[~mask] = image[~mask]
    return filled


def fill_by_model(
    backend: Backend, images: ImageArray, masks: list[Mask], fills: int
) -> tuple[npt.NDArray[np.uint8], float]:
    """Fills (fills, N, H, W, C) with the unmasked pixels of the images, and seconds per fill."""
    floats = to_float(from_array(images, "cpu"))
    mask = torch.from_numpy(np.stack(masks))[:, None].float()
    began, results = time.perf_counter(), []
    for fill in range(fills):
        parts = []
        for start in range(0, len(floats), 50):
            part = slice(start, start + 50)
            noise = torch.randn(
                len(floats[part]), *backend.noise_shape, generator=torch.Generator().manual_seed(1000 * fill + start)
            )
            visible = floats[part] * (1 - mask[part])
            parts.append(to_uint8(backend.inpaint(visible, mask[part], noise)))
        generated = np.concatenate(parts)
        results.append(np.where(np.stack(masks)[..., None], generated, images))
    return np.stack(results), (time.perf_counter() - began) / fills / len(images)


def squared_errors(filled: ImageArray, images: ImageArray, masks: list[Mask]) -> npt.NDArray[np.float64]:
    """(N,) mean squared errors in levels of 255, in the masked region."""
    squares = (filled.astype(np.float64) - images) ** 2
    return np.array([square[mask].mean() for square, mask in zip(squares, masks, strict=True)])


def psnr(errors: npt.NDArray[np.float64]) -> float:
    """Mean squared errors (N,) in dB."""
    return float(10 * np.log10(255**2 / max(errors.mean(), 1e-2)))


def mean_distance(several: npt.NDArray[np.uint8], masks: list[Mask]) -> float:
    """Root mean square distance in the masked region, averaged over all pairs of K versions (K, N, H, W, C)."""
    k = len(several)
    total = []
    for a in range(k):
        for b in range(a):
            squares = (several[a].astype(np.float64) - several[b]) ** 2
            total.append(np.mean([np.sqrt(s[m].mean()) for s, m in zip(squares, masks, strict=True)]))
    return float(np.mean(total))


class Classifiers:
    """Linear classifiers trained on the features of the images that are not filled."""

    def __init__(
        self, features: Features, all_images: ImageArray, labels: Tensor, chosen: npt.NDArray[np.int64]
    ) -> None:
        self.features, self.labels, self.classes = features, labels[chosen], int(labels.max()) + 1
        others = np.setdiff1d(np.arange(len(all_images)), chosen)
        self.others, self.other_labels = all_images[others], labels[others]
        self.whole = self._train(self.others)

    def _train(self, images: ImageArray) -> Discriminant:
        return Discriminant(self.features.extract(images), self.other_labels, self.classes)

    def accuracy(self, filled: ImageArray) -> float:
        """The fraction that is assigned to the right class."""
        return float(self.whole.correct(self.features.extract(filled), self.labels).mean())

    def accuracy_of_unmasked(self, images: ImageArray, mask: Mask) -> float:
        """The accuracy of a linear classifier that sees the unmasked pixels only."""
        classifier = self._train(self.others * ~mask[..., None])
        return float(classifier.correct(self.features.extract(images * ~mask[..., None]), self.labels).mean())


def time_many_regions(backend: Backend) -> str:
    """Fill MANY_REGIONS squares of 5 px in a gray image of 2000x3000 px; returns a line with CPU time and calls."""
    random = np.random.default_rng(0)
    mask = np.zeros((2000, 3000), bool)
    for _ in range(MANY_REGIONS):
        top, left = (int(random.integers(0, length - 5)) for length in mask.shape)
        mask[top : top + 5, left : left + 5] = True
    fills = np.full((1, *mask.shape, backend.config.channels), 128, np.uint8)
    batches: list[int] = []
    inpainter = TileInpainter(backend, [0], None, DEFAULT_SAMPLING, None, lambda size: None)
    began = time.process_time()
    regions = find_regions(mask)
    boxes = tile_boxes(regions, backend.config.size, 2.0)
    inpainter.fill([Canvas(fills, mask.copy(), regions, boxes)], batches.append)
    return f"{len(boxes)} tiles in {len(batches)} batches, {time.process_time() - began:.2f} s of CPU time"


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
    all_images = np.asarray(dataset.images)
    reference = moments_of(features.extract(all_images))
    chosen = np.linspace(0, len(all_images) - 1, given.count).astype(int)
    images = all_images[chosen]
    classifiers = None
    if len(dataset.classes) > 1:
        classifiers = Classifiers(features, all_images, torch.from_numpy(np.array(dataset.labels)).long(), chosen)
    other_images = np.stack([np.roll(images, shift, 0) for shift in range(1, DIVERSITY_FILLS + 1)])
    for kind in given.masks.split(","):
        random = np.random.default_rng(0)
        masks = [make_mask(kind, size, random) for _ in images]
        masked = float(np.mean([mask.mean() for mask in masks]))
        columns = f"PSNR of mean, best of {DIVERSITY_FILLS}, FD, diversity, seconds, correct"
        print(f"\n{kind}, {masked:.0%} masked: {columns}", flush=True)

        def line(name: str, mean: float, best: float, single: ImageArray, diversity: float, seconds: float) -> None:
            fd = frechet(reference, moments_of(features.extract(single)))
            correct = "" if classifiers is None else f"{classifiers.accuracy(single):8.1%}"
            print(f"{name:14} {mean:6.2f} {best:6.2f} {fd:8.2f} {diversity:6.2f} {seconds:8.3f}{correct}", flush=True)

        for name in ("real", "mean", "telea", "navier-stokes", "biharmonic"):
            began = time.perf_counter()
            filled = np.stack([fill_classically(name, *pair) for pair in zip(images, masks, strict=True)])
            seconds = (time.perf_counter() - began) / len(images)
            value = psnr(squared_errors(filled, images, masks))
            line(name, value, value, filled, 0.0, seconds)
        for name, backend in backends.items():
            fills, seconds = fill_by_model(backend, images, masks, given.fills)
            mean = psnr(squared_errors(fills.mean(0).round().astype(np.uint8), images, masks))
            best = psnr(np.min([squared_errors(fill, images, masks) for fill in fills[:DIVERSITY_FILLS]], 0))
            diversity = float("nan")
            if len(fills) > 1:
                diversity = mean_distance(fills[:DIVERSITY_FILLS], masks) / mean_distance(other_images, masks)
            line(name, mean, best, fills[0], diversity, seconds)
        if classifiers is not None and all((mask == masks[0]).all() for mask in masks):
            accuracy = classifiers.accuracy_of_unmasked(images, masks[0])
            print(f"a classifier of the unmasked pixels alone: {accuracy:.1%} correct")
    for name, backend in backends.items():
        print(f"many small regions, {name}: {time_many_regions(backend)}", flush=True)


if __name__ == "__main__":
    main()
