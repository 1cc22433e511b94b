"""A data set as an array of images, on disk or on a device, and the order in which training reads it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.data.cache import Form, Skipped, describe_skipped, load_or_decode, load_survey
from imggen.data.decode import CROPS, Survey
from imggen.data.readers import Source
from imggen.data.scan import open_source
from imggen.errors import DataError, UsageError
from imggen.reporting import Reporter

_MIN_SIZE = 16
_COPY_BYTES = 256 << 20


@dataclass(frozen=True)
class DataOptions:
    """How images are read and decoded.

    `size` and `channels` None are chosen to suit the images; `crop` is one of `decode.CROPS`, `split` one of
    `scan.SPLIT_CHOICES`; `strict` fails on the first unreadable image; `cache_dir` None is the default cache.
    """

    size: int | None = None
    channels: int | None = None
    crop: str = "center"
    split: str = "train"
    use_classes: bool = True
    strict: bool = False
    cache_dir: Path | None = None


def default_cache_dir() -> Path:
    """The folder in IMGGEN_CACHE, else `imggen` in the user's cache folder."""
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
    """Decoded images (N, H, W, C) uint8 with labels (N,); only the readable images are in it.

    `images` is memory-mapped, so a data set may be larger than the memory; `skipped` are the name and reason of each
    image that could not be read; `class_counts` is empty if there are no classes.
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
        self._on_device: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of all images: the memory that `to` needs on a device."""
        return int(self.images.nbytes)

    def to(self, device: torch.device | str) -> Self:
        """Copy all images into the memory of `device`, where `batch` then selects from them."""
        pixels = torch.empty(self.images.shape, dtype=torch.uint8, device=device)
        # In parts, because a data set that fits the device need not fit the memory of this machine.
        step = max(1, _COPY_BYTES // max(1, self.nbytes // len(self)))
        for start in range(0, len(self), step):
            pixels[start : start + step].copy_(torch.from_numpy(np.array(self.images[start : start + step])))
        self._on_device = pixels, torch.from_numpy(self.labels).to(device)
        return self

    def batch(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) uint8 in channels_last memory, and labels (B,) int64."""
        if self._on_device is not None:
            pixels, labels = self._on_device
            chosen = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64)).to(pixels.device)
            return pixels.index_select(0, chosen).permute(0, 3, 1, 2), labels.index_select(0, chosen)
        rows = torch.from_numpy(np.asarray(self.images[indices]))
        return rows.permute(0, 3, 1, 2), torch.from_numpy(self.labels[indices])


class Order:
    """An endless stream of epochs, each a permutation of range(n) that depends on (seed, epoch) alone.

    Therefore a run that resumes after k images continues with the images that it would have read without a break.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError("an order needs at least one image")
        self.n = n
        self.seed = seed
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """The permutation of an epoch; the last two are kept, because a batch usually spans at most two."""
        permutation = self._epochs.get(epoch)
        if permutation is None:
            key = np.array([self.seed % 2**64, epoch], dtype=np.uint64)
            permutation = np.random.Generator(np.random.Philox(key=key)).permutation(self.n)
            self._epochs = {e: p for e, p in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = permutation
        return permutation

    def indices(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """The part of the stream from position `start` on: `count` indices."""
        parts: list[npt.NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        while count > 0:
            epoch, position = divmod(start, self.n)
            part = self._epoch(epoch)[position : position + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)


def _auto_size(short_median: int, max_size: int) -> int:
    """The least power of two from 16 on that is not below the images' short side, but at most `max_size`."""
    size = _MIN_SIZE
    while size < short_median:
        size *= 2
    return min(size, max_size)


@dataclass(frozen=True)
class ScannedDataset:
    """A source that was listed and surveyed but not decoded, and the form that its data set will have."""

    source: Source
    survey: Survey
    size: int
    channels: int
    options: DataOptions

    @property
    def name(self) -> str:
        """The name of the source."""
        return self.source.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty if there are none."""
        return self.source.classes

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Images per class, of which some may be unreadable."""
        return counts_of(self.source.labels, self.classes)

    @property
    def key(self) -> str:
        """A hash of the listed files."""
        return self.source.key

    def __len__(self) -> int:
        """The number of images, including unreadable ones."""
        return len(self.source)

    def load(self, reporter: Reporter) -> Dataset:
        """Open the data set, decoded into the cache first if it is not there. Raises DataError."""
        options = self.options
        form = Form(self.size, self.channels, options.crop)
        entry = load_or_decode(self.source, self.survey, form, cache_of(options), options.strict, reporter)
        if entry.skipped:
            reporter.warn(
                f"skipped {len(entry.skipped):,} of {len(self.source):,} images that cannot be read: "
                f"{describe_skipped(entry.skipped)}; the full list is in {entry.folder / 'index.json'}"
            )
        return Dataset(entry.folder, self.source.name, self.source.classes, entry.skipped)


def cache_of(options: DataOptions) -> Path:
    """The cache folder of the options, or the default one."""
    return options.cache_dir or default_cache_dir()


def counts_of(labels: npt.NDArray[np.int64], classes: tuple[str, ...]) -> tuple[int, ...]:
    """Images per class; empty if there are no classes."""
    return tuple(int(n) for n in np.bincount(labels, minlength=len(classes))) if classes else ()


def scan_dataset(spec: str, options: DataOptions, *, max_size: int, reporter: Reporter) -> ScannedDataset:
    """List the images of `spec` (see `open_source`), survey some of them, and choose size and channels.

    `max_size` limits the size that is chosen if `options.size` is None. Raises UsageError for an invalid option and
    DataError for unusable data.
    """
    if options.crop not in CROPS:
        raise UsageError(f"there is no crop {options.crop!r}", f"choose one of {', '.join(CROPS)}")
    if options.channels not in (None, 1, 3, 4):
        raise UsageError(f"images cannot have {options.channels} channels", "choose 1 (gray), 3 (RGB) or 4 (RGBA)")
    if options.size is not None and options.size < 1:
        raise UsageError(f"images cannot have the size {options.size}", "choose a size of 1 or more")
    cache_dir = cache_of(options)
    source = open_source(spec, split=options.split, use_classes=options.use_classes, cache_dir=cache_dir)
    if source.ignored:
        reporter.info(f"{source.name}: ignored {source.ignored:,} files that are not images")
    survey = load_survey(source, cache_dir)
    size = options.size or _auto_size(survey.short_median, max_size)
    return ScannedDataset(source, survey, size, options.channels or survey.channels, options)


def load_dataset(spec: str, options: DataOptions, *, max_size: int, reporter: Reporter) -> Dataset:
    """Scan, decode if that was not done before, and open; see `scan_dataset`."""
    return scan_dataset(spec, options, max_size=max_size, reporter=reporter).load(reporter)


def mirror(images: Tensor, probability: float = 0.5, rand: Callable[[int], Tensor] = torch.rand) -> Tensor:
    """Flip each image of a batch (B, C, H, W) horizontally with the given probability.

    `rand` returns a random number in [0, 1) for each image.
    """
    flipped = rand(len(images)).to(images.device) < probability
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
