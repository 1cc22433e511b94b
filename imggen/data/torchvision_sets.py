"""The well-known sets that torchvision downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imggen.data.layout import NoSplitError
from imggen.data.readers import ArrayReader, Source
from imggen.errors import DataError


def open_torchvision_set(name: str, split: str, use_classes: bool, cache_dir: Path) -> Source:
    """`mnist`, `cifar10` or `cifar100`, downloaded below `cache_dir` at the first call."""
    if split == "val":
        raise NoSplitError(f"{name} has no val split", "it has: train, test; or take them together with split all")
    from torchvision import datasets

    # "type[Any]", because the common base class of the three knows nothing of their arrays.
    kinds: dict[str, type[Any]] = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
    kind = kinds[name]
    wanted = ("train", "test") if split == "all" else (split,)
    try:
        sets = [kind(str(cache_dir / "datasets"), train=part == "train", download=True) for part in wanted]
    except Exception as error:  # torchvision raises whatever its many mirrors make of a missing network
        raise DataError(
            f"cannot download {name}: {error}",
            f"check the network, or give a folder or archive of pictures; files go to {cache_dir / 'datasets'}",
        ) from error
    pixels = np.concatenate([np.asarray(part.data, dtype=np.uint8) for part in sets])
    labels = np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in sets])
    # MNIST calls its classes "0 - zero".
    classes = tuple(str(label).split(" - ")[0] for label in sets[0].classes) if use_classes else ()
    names = [f"{word}/{i:05d}" for word, part in zip(wanted, sets, strict=True) for i in range(len(part.data))]
    return Source(
        name=name,
        classes=classes,
        names=names,
        labels=labels if use_classes else np.zeros_like(labels),
        key=f"{name}-{split}-{len(names)}" + ("" if use_classes else "-plain"),
        ignored=0,
        reader=ArrayReader(pixels),
        parallel=False,
    )
