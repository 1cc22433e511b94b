"""The samples and the data that are compared, and their features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imggen.data.dataset import DataOptions, Dataset, default_cache_dir, load_dataset
from imggen.data.layout import NoSplitError
from imggen.engine.checkpoints import LoadedModel
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import EvaluateOptions
from imggen.engine.outputs import MIN_IMAGES_TO_COMPARE
from imggen.engine.render import sample_batches
from imggen.errors import DataError
from imggen.io.atomic import atomic_path
from imggen.io.image import ImageArray
from imggen.metrics.compare import FeatureSet, evenly_spaced
from imggen.metrics.features import Features
from imggen.models.base import PLAIN, Backend
from imggen.models.config import SamplingOptions
from imggen.reporting import Reporter

REFERENCE = 100_000
ROUGH = 1_000
BATCH = 250
LARGEST_SIDE = 256


@dataclass(frozen=True)
class Side:
    """One of the things compared: what it is called, its features, and how to get at some of its pictures."""

    name: str
    sample: FeatureSet
    pictures: Callable[[list[int]], ImageArray]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """Pictures of the data: a data set, which rows of it, and their features."""

    dataset: Dataset
    rows: Tensor
    sample: FeatureSet


def _data(
    options: EvaluateOptions, shape: tuple[int | None, int | None], features: Features, reporter: Reporter
) -> tuple[Reference, Reference | None, str]:
    size, channels = shape
    form = DataOptions(size=size, channels=channels, crop=options.crop)
    dataset = load_dataset(options.data, form, max_size=LARGEST_SIDE, reporter=reporter)
    rows, rest = torch.arange(len(dataset)), torch.empty(0, dtype=torch.int64)
    note = "none: the data is not divided, and too small to divide"
    test = _held_out(options, dataset, reporter)
    if test is not None:
        note = f"{test[1]} split, {len(test[0]):,} pictures"
    elif len(dataset) >= 20 * MIN_IMAGES_TO_COMPARE:
        shuffled = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
        cut = min(options.count, len(dataset) // 2)
        rest, rows = shuffled[:cut].sort().values, shuffled[cut:].sort().values
        note = f"{cut:,} of the data's own pictures, set apart; the model may have trained on them"
    rows = rows[evenly_spaced(len(rows), REFERENCE)]
    _enough(len(rows), dataset.name)
    reference = Reference(dataset, rows, features_of(dataset, rows, features, reporter, "reference"))
    if test is not None:
        dataset, rest = test[0], evenly_spaced(len(test[0]), options.count)
    if not len(rest):
        return reference, None, note
    return reference, Reference(dataset, rest, features_of(dataset, rest, features, reporter, "held-out")), note


def _held_out(options: EvaluateOptions, dataset: Dataset, reporter: Reporter) -> tuple[Dataset, str] | None:
    for split in ("test", "val"):
        more = DataOptions(size=dataset.size, channels=dataset.channels, crop=options.crop, split=split)
        try:
            found = load_dataset(options.data, more, max_size=LARGEST_SIDE, reporter=reporter)
        except NoSplitError:
            continue
        if len(found) >= MIN_IMAGES_TO_COMPARE and found.classes == dataset.classes:
            return found, split
    return None


def _enough(count: int, name: str) -> None:
    if count < MIN_IMAGES_TO_COMPARE:
        hint = f"{MIN_IMAGES_TO_COMPARE} at least, {ROUGH:,} for steady figures"
        raise DataError(f"{count} pictures of {name} are too few to compare", hint)


def features_of(dataset: Dataset, rows: Tensor, features: Features, reporter: Reporter, what: str) -> FeatureSet:
    """Features of some pictures of a data set, taken from the cache where they were worked out before."""
    labels = torch.from_numpy(np.asarray(dataset.labels))[rows] if dataset.classes else None
    chosen = hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:12]
    path = default_cache_dir() / "features" / f"{dataset.key}-{features.hash}-{chosen}.npy"
    try:
        cached = torch.from_numpy(np.load(path, allow_pickle=False))
        if cached.ndim == 2 and len(cached) == len(rows) and bool(torch.isfinite(cached).all()):
            return FeatureSet(cached, labels)
    except (OSError, ValueError, EOFError):
        pass  # not there, or damaged: worked out again
    parts = (np.asarray(dataset.images[part.numpy()]) for part in torch.split(rows, BATCH))
    found = _extract(parts, len(rows), features, reporter, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as sibling, sibling.open("xb") as file:
        np.save(file, found.numpy(), allow_pickle=False)
    return FeatureSet(found, labels)


def _extract(parts: Iterator[ImageArray], total: int, features: Features, reporter: Reporter, what: str) -> Tensor:
    found: list[Tensor] = []
    done = 0
    with reporter.task(f"{what} pictures", total) as task:
        for pictures in parts:
            found.append(features.extract(pictures))
            done += len(pictures)
            task.update(done)
    everything = torch.cat(found)
    if not torch.isfinite(everything).all():
        raise DataError(f"features of the {what} pictures are not finite", "another --features, or --device cpu")
    return everything


def _folder(options: EvaluateOptions, data: Dataset, features: Features, reporter: Reporter) -> Side:
    more = DataOptions(size=data.size, channels=data.channels, crop=options.crop, split="all")
    folder = load_dataset(options.model, more, max_size=LARGEST_SIDE, reporter=reporter)
    _enough(len(folder), folder.name)
    rows = evenly_spaced(len(folder), options.count)
    sample = features_of(folder, rows, features, reporter, "given")
    return Side(folder.name, sample, lambda chosen: np.asarray(folder.images[rows[chosen].numpy()]), folder.classes)


def _model(
    options: EvaluateOptions, loaded: LoadedModel, data: Dataset, features: Features, reporter: Reporter
) -> Side:
    backend = loaded.backend.for_inference()
    reporter.info(f"model {loaded.path} ({loaded.origin}, {loaded.hash})")
    if backend.classes and backend.classes != data.classes:
        reporter.warn("the model's classes are not the data's: no accuracy by class")
    sample = draw_sample(backend, options.count, options.seed, features, reporter, options.sampling, options.batch)

    def pictures(chosen: list[int]) -> ImageArray:
        items = [SampleSpec(options.seed + index) for index in chosen]
        return np.concatenate(list(sample_batches(backend, items, lambda _, part: part, options=options.sampling)))

    name = options.model if options.weights is None else options.weights.name
    return Side(name, sample, pictures, backend.classes)


def draw_sample(
    backend: Backend,
    count: int,
    seed: int,
    features: Features,
    reporter: Reporter,
    options: SamplingOptions = PLAIN,
    batch: int | None = None,
) -> FeatureSet:
    """Features of pictures drawn from the seeds `seed` to `seed + count - 1`."""
    labels: list[Tensor] = []

    def drawn() -> Iterator[ImageArray]:
        items = (SampleSpec(seed + index) for index in range(count))
        for part, pictures in sample_batches(backend, items, lambda *found: found, options=options, batch=batch):
            _, of_part = noise_for(part, backend)
            labels.extend([] if of_part is None else [of_part])
            yield pictures

    found = _extract(drawn(), count, features, reporter, "drawn")
    return FeatureSet(found, torch.cat(labels) if labels else None)
