"""The two sides of a comparison, samples (of a model or a folder) and references (the data), and their features."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.cache_dir import default_cache_dir, expand_user
from imggen.data.cache_files import DamagedError, load_array, save_array
from imggen.data.dataset import DataOptions, Dataset, ScannedDataset, load_dataset, scan_dataset
from imggen.data.layout import NoSplitError
from imggen.engine.checkpoints import open_model
from imggen.engine.evaluation import MIN_IMAGES_TO_COMPARE, is_image_source
from imggen.engine.evaluation.labeled import Labeled
from imggen.engine.evaluation.likelihood import bits_per_dimension, diagnostic_metrics, latent_layers
from imggen.engine.evaluation.recognition import LabeledParts, measure_recognition
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import EvaluateOptions
from imggen.engine.render import sample_batches
from imggen.engine.run_dir import RunDir
from imggen.errors import DataError, UsageError
from imggen.io.image import ImageArray
from imggen.metrics.compare import Estimate, Estimator, FeatureSet, evenly_spaced
from imggen.metrics.features import Features
from imggen.models.base import DEFAULT_SAMPLING, Backend, HasLatentLayers
from imggen.models.config import SamplingOptions
from imggen.reporting import Reporter, Silent

MAX_REFERENCE_IMAGES = 100_000
MIN_IMAGES_FOR_STEADY_METRICS = 1_000
MIN_IMAGES_TO_DIVIDE = 20 * MIN_IMAGES_TO_COMPARE
MAX_DEFAULT_SIDE = 256
FEATURE_BATCH = 250


@dataclass(frozen=True)
class DataSubset:
    """Some rows of a data set, and their features."""

    dataset: Dataset
    rows: Tensor
    features: FeatureSet

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, indices: Tensor | list[int]) -> ImageArray:
        """Images (B, H, W, C), uint8, by their index within the subset."""
        return np.asarray(self.dataset.images[self.rows[indices].numpy()])

    def joined(self, other: DataSubset) -> DataSubset:
        """Both subsets of one data set, without labels."""
        features = torch.cat([self.features.features, other.features.features])
        return DataSubset(self.dataset, torch.cat([self.rows, other.rows]), FeatureSet(features))


@dataclass(frozen=True)
class References:
    """The data's images to compare with; held-out ones for the floor, if there are any, and where they come from."""

    reference: DataSubset
    held_out: DataSubset | None
    held_out_description: str

    def close(self) -> None:
        """End the processes that decode on the fly."""
        for subset in (self.reference, self.held_out):
            if subset is not None:
                subset.dataset.close()

    def searched_for_copies(self) -> DataSubset:
        """All images that a model may have been trained on."""
        if self.held_out is not None and self.held_out.dataset is self.reference.dataset:
            return self.reference.joined(self.held_out)
        return self.reference

    def labeled_parts(self) -> LabeledParts | None:
        """Reference images as known ones, and held-out ones to judge, or each other image; None without classes."""
        rows, labels, dataset = self.reference.rows, self.reference.features.labels, self.reference.dataset
        if labels is None:
            return None
        if self.held_out is None:
            known, judged = slice(0, None, 2), slice(1, None, 2)
            return LabeledParts(
                Labeled(dataset, rows[known], labels[known]), Labeled(dataset, rows[judged], labels[judged])
            )
        held_out_labels = self.held_out.features.labels
        assert held_out_labels is not None  # the classes are the same
        held_out = Labeled(self.held_out.dataset, self.held_out.rows, held_out_labels)
        return LabeledParts(Labeled(dataset, rows, labels), held_out)


def load_references(
    options: EvaluateOptions, size: int | None, channels: int | None, features: Features, reporter: Reporter
) -> References:
    """Load the data in the given shape (None: the data's own) and extract its features.

    Held-out images are those of a test or validation split; without one, a part of the data. Raises DataError.
    """
    dataset = scan_split(options, size, channels, "train", reporter).load(reporter)
    rows, held_out_rows = torch.arange(len(dataset)), torch.empty(0, dtype=torch.int64)
    held_out_dataset, description = dataset, "none: the data has no test split, and is too small to divide"
    split = _held_out_split(options, dataset, reporter)
    if split is not None:
        held_out_dataset, name = split
        held_out_rows = evenly_spaced(len(held_out_dataset), options.count)
        description = f"{name} split, {len(held_out_dataset):,} images"
    elif len(dataset) >= MIN_IMAGES_TO_DIVIDE:
        shuffled = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
        count = min(options.count, len(dataset) // 2)
        held_out_rows, rows = shuffled[:count].sort().values, shuffled[count:].sort().values
        description = f"{count:,} images set apart from the data; the model may have been trained on them"
    rows = rows[evenly_spaced(len(rows), MAX_REFERENCE_IMAGES)]
    _check_count(len(rows), dataset.name)
    reference = DataSubset(dataset, rows, dataset_features(dataset, rows, features, reporter, "reference"))
    held_out = None
    if len(held_out_rows):
        sample = dataset_features(held_out_dataset, held_out_rows, features, reporter, "held-out")
        held_out = DataSubset(held_out_dataset, held_out_rows, sample)
    return References(reference, held_out, description)


def scan_split(
    options: EvaluateOptions, size: int | None, channels: int | None, split: str, reporter: Reporter
) -> ScannedDataset:
    """List the data's images of a split for a shape (None: the data's own).

    Raises DataError, and NoSplitError if there is no such split.
    """
    others = (options.model, options.source)
    data_options = DataOptions(
        size=size,
        channels=channels,
        crop=options.crop,
        keep=options.cache,
        exclude=tuple(expand_user(other) for other in others if other is not None),
        split=split,
    )
    return scan_dataset(options.data, data_options, max_size=MAX_DEFAULT_SIDE, reporter=reporter)


def _held_out_split(options: EvaluateOptions, dataset: Dataset, reporter: Reporter) -> tuple[Dataset, str] | None:
    """The test or validation split with the same classes, and its name."""
    for split in ("test", "val"):
        try:
            # What was left out has been reported for the other split.
            held_out = scan_split(options, dataset.size, dataset.channels, split, Silent()).load(reporter)
        except NoSplitError:
            continue
        if len(held_out) >= MIN_IMAGES_TO_COMPARE and held_out.classes == dataset.classes:
            return held_out, split
    return None


def _check_count(count: int, name: str) -> None:
    if count < MIN_IMAGES_TO_COMPARE:
        hint = f"at least {MIN_IMAGES_TO_COMPARE}, and {MIN_IMAGES_FOR_STEADY_METRICS:,} for small intervals"
        raise DataError(f"{count} images of {name} are too few to compare", hint)


def dataset_features(dataset: Dataset, rows: Tensor, features: Features, reporter: Reporter, name: str) -> FeatureSet:
    """Features of some rows of a data set, read from the cache if they were extracted before."""
    labels = torch.from_numpy(np.asarray(dataset.labels))[rows] if dataset.classes else None
    rows_hash = hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:12]
    path = default_cache_dir() / "features" / f"{dataset.key}-{features.hash}-{rows_hash}.npy"
    try:
        cached = torch.from_numpy(load_array(path))
        if cached.ndim == 2 and len(cached) == len(rows) and bool(torch.isfinite(cached).all()):
            return FeatureSet(cached, labels)
    except (OSError, DamagedError, TypeError):
        pass  # missing or damaged: extract again
    batches = dataset.in_parts([part.numpy() for part in torch.split(rows, FEATURE_BATCH)])
    extracted = _extract(batches, len(rows), features, reporter, name)
    with suppress(OSError, DataError):  # a full disk, for example, only means that they are extracted again
        path.parent.mkdir(parents=True, exist_ok=True)
        save_array(path, extracted.numpy())
    return FeatureSet(extracted, labels)


def sample_features(
    backend: Backend,
    count: int,
    seed: int,
    features: Features,
    reporter: Reporter,
    options: SamplingOptions = DEFAULT_SAMPLING,
    batch: int | None = None,
) -> FeatureSet:
    """Features of samples of the seeds `seed` to `seed + count - 1`."""
    labels: list[Tensor] = []

    def batches() -> Iterator[ImageArray]:
        specs = (SampleSpec(seed + index) for index in range(count))
        for part, images in sample_batches(backend, specs, lambda *both: both, options=options, batch=batch):
            _, part_labels = noise_for(part, backend)
            labels.extend([] if part_labels is None else [part_labels])
            yield images

    extracted = _extract(batches(), count, features, reporter, "generated")
    return FeatureSet(extracted, torch.cat(labels) if labels else None)


def _extract(batches: Iterator[ImageArray], total: int, features: Features, reporter: Reporter, name: str) -> Tensor:
    parts: list[Tensor] = []
    done = 0
    with reporter.task(f"{name} images", total) as task:
        for images in batches:
            parts.append(features.extract(images))
            done += len(images)
            task.update(done)
    extracted = torch.cat(parts)
    if not torch.isfinite(extracted).all():
        raise DataError(f"features of the {name} images are not finite", "use another --features, or --device cpu")
    return extracted


@dataclass(frozen=True)
class ModelMetrics:
    """What a model measures itself on held-out images: metrics, a title and description of each, its latent layers."""

    metrics: dict[str, Estimate] = field(default_factory=dict)
    descriptions: dict[str, tuple[str, str]] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)


class Samples(ABC):
    """The images that are compared with the data. `extract` must be called first: it sets `name` and `classes`.

    `size` and `channels` are the shape in which the data must be loaded, None for the data's own. `hash` identifies a
    model's weights, `first_seed` is the seed of its first sample, `training_metrics` its run's metrics.jsonl.
    """

    size: int | None = None
    channels: int | None = None
    hash: str | None = None
    first_seed: int = 0
    training_metrics: Path | None = None
    name: str
    classes: tuple[str, ...]

    @abstractmethod
    def extract(self, data: Dataset, features: Features) -> FeatureSet:
        """Features and labels of all the images, in the shape of `data`."""

    @abstractmethod
    def images(self, indices: list[int]) -> ImageArray:
        """Some of the images (B, H, W, C), uint8."""

    def model_metrics(self, held_out: DataSubset | None, measure: Estimator) -> ModelMetrics:
        """Likelihood and diagnostics of held-out images, as far as the model gives them; none without a model."""
        return ModelMetrics()

    def recognition(self, references: References) -> dict[str, Any] | None:
        """How well a model tells the classes of the data apart; None without a model, and without classes."""
        return None

    def close(self) -> None:  # noqa: B027
        """End the processes that decode on the fly, if there are any."""


class FolderSamples(Samples):
    """Images of a folder or an archive."""

    def __init__(self, options: EvaluateOptions, reporter: Reporter) -> None:
        self.options, self.reporter = options, reporter
        self.size = options.size
        self.subset: DataSubset | None = None

    def extract(self, data: Dataset, features: Features) -> FeatureSet:
        """Load the folder, and extract features of at most `--count` evenly spaced images. Raises DataError."""
        data_options = DataOptions(
            size=data.size,
            channels=data.channels,
            crop=self.options.crop,
            split="all",
            keep=self.options.cache,
            exclude=(Path(self.options.data),),
        )
        folder = load_dataset(self.options.model, data_options, max_size=MAX_DEFAULT_SIDE, reporter=self.reporter)
        _check_count(len(folder), folder.name)
        rows = evenly_spaced(len(folder), self.options.count)
        sample = dataset_features(folder, rows, features, self.reporter, "given")
        self.subset = DataSubset(folder, rows, sample)
        self.name, self.classes = folder.name, folder.classes
        return sample

    def images(self, indices: list[int]) -> ImageArray:
        """Read from the decoded folder, after `extract`."""
        assert self.subset is not None
        return self.subset.images(indices)

    def close(self) -> None:
        """End the processes that decode on the fly."""
        if self.subset is not None:
            self.subset.dataset.close()


class ModelSamples(Samples):
    """Samples of a model. Raises UsageError for options that the model does not support."""

    def __init__(self, options: EvaluateOptions, reporter: Reporter) -> None:
        self.options, self.reporter = options, reporter
        self.model = open_model(options, options.model, reporter)
        self.generator = self.model.backend.for_inference()
        config = self.model.backend.config
        if options.iw is not None and not isinstance(self.model.backend, HasLatentLayers):
            raise UsageError(f"a {config.family} has no importance-weighted bound", "leave --iw out")
        self.size, self.channels, self.classes = config.size, config.channels, config.classes
        self.hash, self.first_seed = self.model.hash, options.seed
        self.name = options.model if options.weights is None else options.weights.name
        self.training_metrics = RunDir(self.model.path.parent).metrics

    def extract(self, data: Dataset, features: Features) -> FeatureSet:
        """Generate the samples; only their features are kept."""
        options = self.options
        if self.classes and self.classes != data.classes:
            self.reporter.warn("the model's classes are not the data's: class accuracy is not measured")
        return sample_features(
            self.generator, options.count, options.seed, features, self.reporter, options.sampling, options.batch
        )

    def images(self, indices: list[int]) -> ImageArray:
        """Generate them again from their seeds."""
        specs = [SampleSpec(self.first_seed + index) for index in indices]
        options = self.options.sampling
        return np.concatenate(list(sample_batches(self.generator, specs, options=options)))

    def model_metrics(self, held_out: DataSubset | None, measure: Estimator) -> ModelMetrics:
        """Only for held-out images of the model's classes."""
        options, reporter, backend = self.options, self.reporter, self.model.backend
        if held_out is None or (self.classes and self.classes != held_out.dataset.classes):
            if options.iw is not None:
                reporter.warn("the likelihood is not measured: there are no held-out images of the model's classes")
            return ModelMetrics()
        dataset, rows = held_out.dataset, held_out.rows
        metrics = bits_per_dimension(backend, dataset, rows, measure, reporter, options.iw)
        if limitation := backend.limitation("likelihood"):
            reporter.warn(f"bits per dimension are not measured: {limitation}")
        diagnostics, descriptions = diagnostic_metrics(backend, dataset, rows, options.sampling, measure, reporter)
        layers = latent_layers(backend, dataset, rows, options.seed)
        return ModelMetrics({**metrics, **diagnostics}, descriptions, layers)

    def recognition(self, references: References) -> dict[str, Any] | None:
        """On at most `--count` images; None for data without classes too."""
        parts = references.labeled_parts()
        if parts is None:
            return None
        measure = Estimator(self.model.hash, seed=self.options.seed)
        return measure_recognition(self.model.backend, parts.bounded(self.options.count), measure, self.reporter)


def open_samples(options: EvaluateOptions, reporter: Reporter) -> Samples:
    """The folder of images, or the model, that the options name. Raises UsageError, CheckpointError and DeviceError."""
    return FolderSamples(options, reporter) if is_image_source(options) else ModelSamples(options, reporter)
