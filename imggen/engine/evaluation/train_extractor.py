"""Train the feature extractor that evaluate compares pictures with, on labelled sets; all that it needs is here.

python -m imggen.engine.train_features --data mnist.zip --data cifar10-jpeg.zip --share 1 --share 3 \\
        --mirror cifar10-jpeg.zip -o features.safetensors
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from imggen.data.dataset import DataOptions, Dataset, Order, load_dataset, mirror
from imggen.engine.device import configure_device, find_device
from imggen.io.checkpoint import write_checkpoint
from imggen.metrics.features import SIDE, Extractor, to_colour
from imggen.reporting import Silent

SHIFT = 3
STATISTICS = 20_000


def batch_of(dataset: Dataset, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, 32, 32) in [-1, 1] and labels (B,)."""
    pictures, labels = dataset.batch(indices)
    return to_colour(pictures.float().div_(127.5).sub_(1)).contiguous(memory_format=torch.channels_last), labels


def shifted(images: Tensor) -> Tensor:
    """Each picture moved by up to three pixels, its border repeated."""
    padded = pad(images, (SHIFT,) * 4, mode="replicate")
    corners = torch.randint(0, 2 * SHIFT + 1, (len(images), 2)).tolist()
    return torch.stack([padded[i, :, y : y + SIDE, x : x + SIDE] for i, (y, x) in enumerate(corners)])


def accuracy(extractor: Extractor, dataset: Dataset, first: int) -> float:
    """The share of a held-out set that is told right, among that set's own classes."""
    right = 0
    for start in range(0, len(dataset), 500):
        images, labels = batch_of(dataset, np.arange(start, min(start + 500, len(dataset))))
        logits = extractor.classify(images)[:, first : first + len(dataset.classes)]
        right += int((logits.argmax(1) == labels).sum())
    return right / len(dataset)


def train(
    sources: list[str], shares: list[int], mirrored: list[str], images: int, batch: int, seed: int
) -> tuple[Extractor, list[float]]:
    """Train on `images` pictures; each batch holds the sets in the proportion of `shares`. Returns held-out accuracies.

    SGD with a one-cycle rate (Smith and Topin 2017, arXiv 1708.07120), label smoothing, shifts; sets that are
    named in `mirrored` are mirrored too: a mirrored digit would be no digit.
    """
    train_set, test_set = DataOptions(size=SIDE), DataOptions(size=SIDE, split="test")
    sets = [load_dataset(source, train_set, max_size=SIDE, reporter=Silent()) for source in sources]
    held_out = [load_dataset(source, test_set, max_size=SIDE, reporter=Silent()) for source in sources]
    offsets = np.cumsum([0, *(len(dataset.classes) for dataset in sets)]).tolist()
    counts = [batch * share // sum(shares) for share in shares]
    torch.manual_seed(seed)
    extractor = Extractor(offsets[-1]).to(memory_format=torch.channels_last)
    steps = images // sum(counts)
    sgd = torch.optim.SGD(extractor.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.2, total_steps=steps, pct_start=0.2)
    orders = [Order(len(dataset), seed + k) for k, dataset in enumerate(sets)]
    began = time.monotonic()
    for step in range(steps):
        parts = []
        for source, dataset, order, count, offset in zip(sources, sets, orders, counts, offsets[:-1], strict=True):
            pictures, labels = batch_of(dataset, order.indices(step * count, count))
            if source in mirrored:
                pictures = mirror(pictures)
            parts.append((shifted(pictures), labels + offset))
        x = torch.cat([pictures for pictures, _ in parts]).contiguous(memory_format=torch.channels_last)
        loss = cross_entropy(extractor.classify(x), torch.cat([y for _, y in parts]), label_smoothing=0.1)
        sgd.zero_grad()
        torch.autograd.backward(loss)
        sgd.step()
        cycle.step()
        if step % 100 == 99:
            speed = step * sum(counts) / (time.monotonic() - began)
            sys.stderr.write(f"{step / steps:4.0%}  {speed:.0f} pictures/s  loss {loss.item():.3f}\n")
    extractor.eval().requires_grad_(False)
    settle(extractor, sets)
    extractor.half().float()  # as it will be stored
    return extractor, [accuracy(extractor, s, first) for s, first in zip(held_out, offsets[:-1], strict=True)]


def settle(extractor: Extractor, sets: list[Dataset]) -> None:
    """Set the shift and scale of every feature from the training pictures, each set having a like say."""
    features = []
    for dataset in sets:
        chosen = np.linspace(0, len(dataset) - 1, min(STATISTICS, len(dataset))).astype(np.int64)
        for part in np.array_split(chosen, max(1, len(chosen) // 500)):
            features.append(extractor.raw(batch_of(dataset, part)[0]))
    everything = torch.cat(features).double()
    extractor.mean.copy_(everything.mean(0))
    extractor.scale.copy_(everything.std(0).clamp(min=1e-3))


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="a labelled set with train and test; repeatable")
    parser.add_argument("--share", action="append", type=int, help="of each set in a batch, in the same order")
    parser.add_argument("--mirror", action="append", default=[], help="a set whose pictures may be mirrored")
    parser.add_argument("--images", type=int, default=470_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    configure_device(find_device("cpu"))
    began = time.monotonic()
    shares = given.share or [1] * len(given.data)
    extractor, found = train(given.data, shares, given.mirror, given.images, given.batch, given.seed)
    names = [Path(source).name for source in given.data]
    document = {
        "labels": extractor.logits.out_features,
        "provenance": {
            "data": names,
            "held_out_accuracy": dict(zip(names, found, strict=True)),
            "images": given.images,
            "seed": given.seed,
            "seconds": round(time.monotonic() - began),
        },
    }
    half = {name: t.half() if t.is_floating_point() else t for name, t in extractor.state_dict().items()}
    write_checkpoint(given.output, half, document, kind="features")
    for name, share in zip(names, found, strict=True):
        sys.stderr.write(f"{name}: {share:.2%} of the held-out set\n")
    sys.stdout.write(f"{given.output}\n")


if __name__ == "__main__":
    main()
