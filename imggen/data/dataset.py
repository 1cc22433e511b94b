"""A data set as an array of images, on disk or on a device, and the order in which training reads it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.data.cache import (
    MAX_UNREADABLE_FRACTION,
    check_skipped,
    decode_into_cache,
    describe_skipped,
    find_entry,
    load_survey,
)
from imggen.data.cache_contents import NoRoomError
from imggen.data.cache_dir import default_cache_dir, expand_user, warn_of_temporary_cache
from imggen.data.cache_entry import CacheEntry, Form, Skipped, entry_key
from imggen.data.cache_files import load_array
from imggen.data.choices import CROPS, KEEP
from imggen.data.on_the_fly import OnTheFlyImages
from imggen.data.pair_scan import TargetOptions, Targets, pair_sources
from imggen.data.readers import Source
from imggen.data.scan import open_source
from imggen.data.survey import Survey
from imggen.errors import DataError, UsageError
from imggen.reporting import Reporter, Silent

CHANNEL_REASONS = {
    1: "all images are gray",
    3: "the images have colors, and most have no transparent pixels",
    4: "half of the images or more have transparent pixels",
}
DEVICE_LIMIT = "the largest default on this device"  # why there is no larger size
_MIN_SIZE = 16
_MAX_KEPT_SIZE = 64  # images that all have one size up to this are not made smaller, whatever the device
_KEPT_MULTIPLE = 8  # of which such a size must be a multiple to be kept as it is
_COPY_BYTES = 256 << 20


@dataclass(frozen=True)
class DataOptions:
    """How images are read and decoded.

    `size` and `channels` None are chosen to suit the images; `crop` is one of `choices.CROPS`, `split` one of
    `scan.SPLIT_CHOICES`; `strict` fails on the first unreadable image; `cache_dir` None is the default cache; `keep` is
    one of KEEP: whether decoded images are kept on the disk, which auto does where there is room. What lies in or at
    the paths of `exclude` is not read. `targets` makes a data set of pairs: images with their masks, or two images.
    """

    size: int | None = None
    channels: int | None = None
    crop: str = "center"
    split: str = "train"
    use_classes: bool = True
    strict: bool = False
    cache_dir: Path | None = None
    keep: str = "auto"
    exclude: tuple[Path, ...] = ()
    targets: TargetOptions | None = None


class Dataset:
    """Images (N, H, W, C) uint8 with labels (N,): decoded in the cache, or decoded on the fly.

    In the cache, `images` is memory-mapped, so a data set may be larger than the memory, and only the readable images
    are in it; on the fly, it is an `OnTheFlyImages`. `class_counts` is empty if there are no classes.
    `hard_alpha`, `choices` and `targets` are those of the `ScannedDataset`; with targets, an image's channels are
    followed by its target's, which `channels` does not count.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8] | OnTheFlyImages,
        labels: npt.NDArray[np.int64],
        *,
        name: str,
        key: str,
        classes: tuple[str, ...],
        entry: CacheEntry | None = None,
    ) -> None:
        # Any: both are read by rows, images[indices].
        self.images: Any = images
        self.labels = labels
        self.name = name
        self.key = key
        self.classes = classes
        self.class_counts = counts_of(labels, classes)
        self.entry = entry
        self.size = int(images.shape[1])
        self.channels = int(images.shape[3])
        self.hard_alpha = False
        self.choices: tuple[str, ...] = ()
        self.targets: Targets | None = None
        self.scale = 1.0
        self._on_device: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of_entry(cls, entry: CacheEntry, source: Source) -> Self:
        """The data set of an entry of the cache, which keeps the entry's lock. Raises DataError."""
        images = np.load(entry.folder / "images.npy", mmap_mode="r", allow_pickle=False)
        if not isinstance(images, np.memmap):
            raise DataError(f"{entry.folder / 'images.npy'} cannot be mapped", "remove this folder and start again")
        labels = load_array(entry.folder / "labels.npy")
        return cls(images, labels, name=source.name, key=entry.folder.name, classes=source.classes, entry=entry)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def on_the_fly(self) -> bool:
        """Whether images are decoded each time they are read."""
        return isinstance(self.images, OnTheFlyImages)

    @property
    def skipped(self) -> Skipped:
        """Name and reason of each image that cannot be read; on the fly, of those that were found so far."""
        return self.images.skipped if self.entry is None else self.entry.skipped

    @property
    def nbytes(self) -> int:
        """Bytes of all images: the memory that `to` needs on a device."""
        return int(self.images.nbytes)

    def to(self, device: torch.device | str, reporter: Reporter | None = None) -> Self:
        """Copy all images into the memory of `device`, where `batch` then selects from them."""
        pixels = torch.empty(self.images.shape, dtype=torch.uint8, device=device)
        # In parts, because a data set that fits the device need not fit the memory of this machine.
        step = max(1, _COPY_BYTES // max(1, self.nbytes // len(self)))
        with (reporter or Silent()).task("reading images", len(self)) as task:
            for start in range(0, len(self), step):
                pixels[start : start + step].copy_(torch.from_numpy(np.array(self.images[start : start + step])))
                task.update(start)
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

    def prefetch(self, indices: npt.NDArray[np.int64]) -> None:
        """Say that `batch`, or `images`, will be asked for these indices soon. Only on the fly it has an effect."""
        if self.on_the_fly and self._on_device is None:
            self.images.prefetch(indices)

    def in_parts(self, parts: Sequence[npt.NDArray[np.int64]]) -> Iterator[npt.NDArray[np.uint8]]:
        """The images (B, H, W, C) of each part, a list of indices (B,); on the fly the next part is decoded ahead."""
        for part, following in itertools.zip_longest(parts, parts[1:]):
            images = np.asarray(self.images[part])
            if following is not None:
                self.prefetch(following)
            yield images

    def close(self) -> None:
        """End the processes that decode on the fly."""
        if self.on_the_fly:
            self.images.close()


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


def _choose_size(survey: Survey, max_size: int, reason_of_max: str) -> tuple[int, str]:
    """The least power of two from 16 on that is not below the images' short side, but at most `max_size`; and why.

    Images that all have one size up to _MAX_KEPT_SIZE are an exception: they are never made smaller, and stay as they
    are if the networks can halve that size three times.
    """
    side, size = survey.short_median, _MIN_SIZE
    if survey.same_size and _MIN_SIZE <= side <= _MAX_KEPT_SIZE and side % _KEPT_MULTIPLE == 0:
        return side, "all images have it"
    while size < side:
        size *= 2
    if survey.same_size and size <= _MAX_KEPT_SIZE:
        return size, f"the next power of two above the images' {side}"
    if size > max_size:
        return max_size, f"{reason_of_max}; the images' median side is {side}"
    return size, f"the next power of two from the images' median side, {side}"


@dataclass(frozen=True)
class ScannedDataset:
    """A source that was listed and surveyed but not decoded, and the form that its data set will have.

    `choices` are sentences: what was chosen to suit the images, and why.
    """

    source: Source
    survey: Survey
    size: int
    channels: int
    options: DataOptions
    choices: tuple[str, ...] = ()
    targets: Targets | None = None

    @property
    def scale(self) -> float:
        """By how much the images are resized, that of the median of their shorter sides."""
        side = self.survey.short_median
        return self.size / side if side and not (self.survey.same_size and side == self.size) else 1.0

    @property
    def hard_alpha(self) -> bool:
        """Whether a model must make alpha of only 0 or 255: that of the images, or of their targets, is so.

        Also after decoding: images of another size are resized, which blurs it, as are targets of matched images.
        """
        if self.options.targets is None or self.targets is None:
            return self.channels == 4 and self.survey.hard_alpha and self.survey.has_side(self.size)
        survey, is_resized = self.targets.survey, self.options.targets.matched and not self.survey.has_side(self.size)
        if survey is None or self.targets.channels != 4 or is_resized:
            return False
        return survey.hard_alpha and survey.has_side(self.size)

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

    @property
    def form(self) -> Form:
        """What images are decoded to."""
        targets = 0 if self.targets is None else self.targets.channels
        return Form(self.size, self.channels + targets, self.options.crop)

    def load(self, reporter: Reporter, *, keep: str | None = None) -> Dataset:
        """Open the data set, decoded into the cache first if it is not there, or on the fly.

        `keep` overrides the options' `keep`. Raises DataError, and NoRoomError (a DataError) with "disk".
        """
        keep = keep or self.options.keep
        if keep == "none":
            return self._on_the_fly("--cache none", reporter)
        source, cache_dir, strict = self.source, cache_of(self.options), self.options.strict
        entry = find_entry(source, self.form, cache_dir, reporter)
        if entry is None:
            try:
                entry = decode_into_cache(source, self.form, cache_dir, strict, reporter)
            except NoRoomError as error:
                if keep == "disk":
                    raise
                return self._on_the_fly(error.message, reporter)
        check_skipped(entry.skipped, len(source), strict)
        if entry.skipped:
            reporter.warn(
                f"skipped {len(entry.skipped):,} of {len(source):,} images that cannot be read: "
                f"{describe_skipped(entry.skipped)}; the full list is in {entry.folder / 'index.json'}"
            )
        return self._describe(Dataset.of_entry(entry, source))

    def _describe(self, dataset: Dataset) -> Dataset:
        dataset.hard_alpha, dataset.choices = self.hard_alpha, self.choices
        dataset.targets, dataset.channels, dataset.scale = self.targets, self.channels, self.scale
        return dataset

    def _on_the_fly(self, reason: str, reporter: Reporter) -> Dataset:
        """Raises DataError if the survey found too many unreadable images."""
        source, survey = self.source, self.survey
        unreadable = survey.sampled - survey.readable
        if unreadable and (self.options.strict or unreadable > MAX_UNREADABLE_FRACTION * survey.sampled):
            raise DataError(
                f"{unreadable:,} of {survey.sampled:,} images of {source.name} cannot be read",
                "remove or repair them: --cache disk names them",
            )
        images = OnTheFlyImages(source, self.form, cache_of(self.options), self.options.strict, reporter)
        reporter.info(f"{source.name}: images are decoded each time they are read, by {images.description}: {reason}")
        key = entry_key(source, self.form)
        return self._describe(Dataset(images, source.labels, name=source.name, key=key, classes=source.classes))


def cache_of(options: DataOptions) -> Path:
    """The cache folder of the options, or the default one."""
    return options.cache_dir or default_cache_dir()


def counts_of(labels: npt.NDArray[np.int64], classes: tuple[str, ...]) -> tuple[int, ...]:
    """Images per class; empty if there are no classes."""
    return tuple(int(n) for n in np.bincount(labels, minlength=len(classes))) if classes else ()


def scan_dataset(
    spec: str, options: DataOptions, *, max_size: int, reason_of_max: str = DEVICE_LIMIT, reporter: Reporter
) -> ScannedDataset:
    """List the images of `spec` (see `open_source`), survey some of them, and choose size and channels.

    `max_size` limits the size that is chosen if `options.size` is None, for a reason that is said. Raises UsageError
    for an invalid option and DataError for unusable data.
    """
    if options.crop not in CROPS:
        raise UsageError(f"there is no crop {options.crop!r}", f"choose one of {', '.join(CROPS)}")
    if options.channels not in (None, 1, 3, 4):
        raise UsageError(f"images cannot have {options.channels} channels", "choose 1 (gray), 3 (RGB) or 4 (RGBA)")
    if options.size is not None and options.size < 1:
        raise UsageError(f"images cannot have the size {options.size}", "choose a size of 1 or more")
    if options.keep not in KEEP:
        raise UsageError(f"--cache cannot be {options.keep!r}", f"choose one of {', '.join(KEEP)}")
    cache_dir = cache_of(options)
    if options.cache_dir is None:
        warn_of_temporary_cache(reporter)
    exclude = options.exclude if options.targets is None else (*options.exclude, expand_user(options.targets.spec))
    source = open_source(
        spec, split=options.split, use_classes=options.use_classes, cache_dir=cache_dir, exclude=exclude
    )
    source.report(reporter)
    targets = None
    if options.targets is not None:
        source, targets = pair_sources(source, options.targets, cache_dir, exclude, reporter)
    survey = load_survey(source, cache_dir)
    if (warning := survey.warning()) is not None:
        reporter.warn(f"{source.name}: {warning}")
    size, reason = (options.size, "") if options.size else _choose_size(survey, max_size, reason_of_max)
    choices = [f"size {size}: {reason}"] if reason else []
    channels = options.channels or survey.channels
    if not options.channels:
        choices.append(f"channels {channels}: {CHANNEL_REASONS[channels]}")
    scanned = ScannedDataset(source, survey, size, channels, options, targets=targets)
    if scanned.hard_alpha:
        where, made = ("images", "samples") if targets is None else ("targets", "results")
        choices.append(f"hard edges: alpha is only 0 or 255 in the {where}, and will be in {made}")
    elif targets is None and survey.hard_alpha and channels == 4:
        choices.append("soft edges: alpha is only 0 or 255 in the images, but they are resized, which blurs it")
    return replace(scanned, choices=tuple(choices))


def load_dataset(spec: str, options: DataOptions, *, max_size: int, reporter: Reporter) -> Dataset:
    """Scan, decode if that was not done before, and open; see `scan_dataset`."""
    return scan_dataset(spec, options, max_size=max_size, reporter=reporter).load(reporter)


def mirror(images: Tensor, probability: float = 0.5, rand: Callable[[int], Tensor] = torch.rand) -> Tensor:
    """Flip each image of a batch (B, C, H, W) horizontally with the given probability.

    `rand` returns a random number in [0, 1) for each image.
    """
    flipped = rand(len(images)).to(images.device) < probability
    return torch.where(flipped[:, None, None, None], images.flip(3), images)
