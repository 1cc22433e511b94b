"""Pictures as an array on disk, in memory or on a device, and the order in which training sees them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.data.cache import Skipped, listed, stored, surveyed
from imggen.data.decode import CROPS, Survey
from imggen.data.readers import Source
from imggen.data.scan import open_source
from imggen.errors import DataError, UsageError
from imggen.reporting import Reporter

_MIN_SIZE = 16
_MOVE_BYTES = 256 << 20


@dataclass(frozen=True)
class DataOptions:
    """How pictures are taken in; None for size and channels means what suits the pictures."""

    size: int | None = None
    channels: int | None = None
    crop: str = "center"
    split: str = "train"
    use_classes: bool = True
    strict: bool = False
    cache_dir: Path | None = None


def default_cache_dir() -> Path:
    """IMGGEN_CACHE, else the folder for caches of this system and user."""
    if chosen := os.environ.get("IMGGEN_CACHE"):
        return Path(chosen).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "imggen"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "imggen"
    if local := os.environ.get("LOCALAPPDATA"):
        return Path(local) / "imggen"
    return Path.home() / ".cache" / "imggen"


class Dataset:
    """Decoded pictures (N, H, W, C) uint8 with labels; only the readable pictures are in it.

    `images` is mapped from disk, so the set may be larger than the memory; `skipped` holds
    (name, reason) of what could not be read; `class_counts` is empty when there are no classes.
    """

    def __init__(self, folder: Path, name: str, classes: tuple[str, ...], skipped: Skipped) -> None:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        if not isinstance(images, np.memmap):
            raise DataError(f"{folder / 'images.npy'} cannot be mapped", "remove this folder and start again")
        self.images: npt.NDArray[np.uint8] = images
        self.labels: npt.NDArray[np.int64] = np.load(folder / "labels.npy", allow_pickle=False)
        self.folder = folder
        self.name = name
        self.key = folder.name
        self.classes = classes
        self.class_counts = counts_of(self.labels, classes)
        self.skipped = skipped
        self.size = int(images.shape[1])
        self.channels = int(images.shape[3])
        self._held: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all pictures, which is what `to` needs on a device."""
        return int(self.images.nbytes)

    def to(self, device: torch.device | str) -> Self:
        """Move all pictures into the memory of `device`; from then on `batch` gathers there."""
        pixels = torch.empty(self.images.shape, dtype=torch.uint8, device=device)
        # In steps, so that a set that fits the device need not fit this machine's memory too.
        step = max(1, _MOVE_BYTES // max(1, self.nbytes // len(self)))
        for start in range(0, len(self), step):
            pixels[start : start + step].copy_(torch.from_numpy(np.array(self.images[start : start + step])))
        self._held = pixels, torch.from_numpy(self.labels).to(device)
        return self

    def batch(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Pictures (B, C, H, W) uint8 in channels_last memory, and labels (B,) int64."""
        if self._held is not None:
            pixels, labels = self._held
            chosen = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64)).to(pixels.device)
            return pixels.index_select(0, chosen).permute(0, 3, 1, 2), labels.index_select(0, chosen)
        rows = torch.from_numpy(np.asarray(self.images[indices]))
        return rows.permute(0, 3, 1, 2), torch.from_numpy(self.labels[indices])


class Order:
    """An endless stream of epochs, each a permutation of range(n) that depends on (seed, epoch) only.

    So a run that resumes at picture k sees what it would have seen without the break.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError("an order needs at least one picture")
        self.n = n
        self.seed = seed
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        found = self._epochs.get(epoch)
        if found is None:
            key = [self.seed % 2**64, epoch]
            found = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64))).permutation(self.n)
            # A batch spans two epochs at most times; older ones are not needed again.
            self._epochs = {e: p for e, p in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = found
        return found

    def indices(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Indices number start to start + count of the stream."""
        parts: list[npt.NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        while count > 0:
            epoch, place = divmod(start, self.n)
            part = self._epoch(epoch)[place : place + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)


def _auto_size(short_median: int, max_size: int) -> int:
    """The next power of two that holds the pictures' short side, within 16 and `max_size`."""
    size = _MIN_SIZE
    while size < short_median:
        size *= 2
    return min(size, max_size)


@dataclass(frozen=True)
class ScannedDataset:
    """A source that was listed and looked at, but not decoded: what a data set of it will be."""

    source: Source
    look: Survey
    size: int
    channels: int
    options: DataOptions

    @property
    def name(self) -> str:
        """What it is called."""
        return self.source.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or none."""
        return self.source.classes

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Pictures of each class; some of them may turn out to be unreadable."""
        return counts_of(self.source.labels, self.classes)

    @property
    def key(self) -> str:
        """Stands for the listed files."""
        return self.source.key

    def __len__(self) -> int:
        """How many pictures there are, readable or not."""
        return len(self.source)

    def load(self, reporter: Reporter) -> Dataset:
        """Decode into the cache, unless that was done before, and open the result."""
        options = self.options
        form = (self.size, self.channels, options.crop)
        found = stored(self.source, self.look, form, cache_of(options), options.strict, reporter)
        if found.skipped:
            reporter.warn(
                f"skipped {len(found.skipped):,} of {len(self.source):,} pictures that cannot be read: "
                f"{listed(found.skipped)}; the full list is in {found.folder / 'index.json'}"
            )
        return Dataset(found.folder, self.source.name, self.source.classes, found.skipped)


def cache_of(options: DataOptions) -> Path:
    """The cache's folder that the options name, else the default one."""
    return options.cache_dir or default_cache_dir()


def counts_of(labels: npt.NDArray[np.int64], classes: tuple[str, ...]) -> tuple[int, ...]:
    """Pictures of each class; empty when there are no classes."""
    return tuple(int(n) for n in np.bincount(labels, minlength=len(classes))) if classes else ()


def scan_dataset(spec: str, options: DataOptions, *, max_size: int, reporter: Reporter) -> ScannedDataset:
    """Scan `spec` and look at some of its pictures. `max_size` limits the size chosen when `options.size` is None."""
    if options.crop not in CROPS:
        raise UsageError(f"there is no crop {options.crop!r}", f"choose one of {', '.join(CROPS)}")
    if options.channels not in (None, 1, 3, 4):
        raise UsageError(f"pictures cannot have {options.channels} channels", "choose 1 (grey), 3 (RGB) or 4 (RGBA)")
    if options.size is not None and options.size < 1:
        raise UsageError(f"pictures cannot have the size {options.size}", "choose a size of 1 or more")
    cache_dir = cache_of(options)
    source = open_source(spec, split=options.split, use_classes=options.use_classes, cache_dir=cache_dir)
    if source.ignored:
        reporter.info(f"{source.name}: ignored {source.ignored:,} files that are no pictures")
    look = surveyed(source, cache_dir)
    size = options.size or _auto_size(look.short_median, max_size)
    return ScannedDataset(source, look, size, options.channels or look.channels, options)


def load_dataset(spec: str, options: DataOptions, *, max_size: int, reporter: Reporter) -> Dataset:
    """`outline`, then decode and open."""
    return scan_dataset(spec, options, max_size=max_size, reporter=reporter).load(reporter)


def mirror(images: Tensor, probability: float = 0.5) -> Tensor:
    """Flip each picture of a (B, C, H, W) batch left to right with the given probability.

    Draws from torch's global generator, which the engine seeds before every step.
    """
    flipped = torch.rand(len(images)).to(images.device) < probability
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
