"""How near are a model's pictures (or a folder's) to the data's? Bounded memory: of pictures only features are kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.dataset import DataOptions, Dataset, default_cache_dir, load_dataset
from imggen.data.layout import NoSplitError
from imggen.data.scan import is_archive
from imggen.engine.device import find_device, prepare
from imggen.engine.draw import Item, draw, noise_of
from imggen.engine.likelihood import bits_per_dimension, layers_of, own_measures
from imggen.engine.load import Loaded, load_backend
from imggen.engine.options import EvaluateOptions
from imggen.engine.report import Pictures, write_report
from imggen.engine.run import FEWEST, RunFolder, check_report
from imggen.errors import DataError, UsageError
from imggen.io.files import atomic_path
from imggen.io.image import Bytes
from imggen.io.weights import holds_weights, shipped_weights
from imggen.metrics.extract import Features, load_features
from imggen.metrics.figures import Comparison, Figure, Measure, Sample, compare, evenly
from imggen.models import FAMILIES
from imggen.models.base import Backend
from imggen.reporting import Reporter

REFERENCE = 100_000
ROUGH = 1_000
BATCH = 250
LARGEST_SIDE = 256


@dataclass(frozen=True)
class Side:
    """One of the things compared: what it is called, its features, and how to get at some of its pictures."""

    name: str
    sample: Sample
    pictures: Callable[[list[int]], Bytes]
    classes: tuple[str, ...]


def evaluate(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Compare; returns every figure with its interval, and the floor. Errors as in `imggen.errors`."""
    began = time.monotonic()
    check_report(options)
    device = find_device(options.device)
    prepare(device)
    features = load_features(options.features, device)
    measure = Measure(features.hash, inception=features.inception, seed=options.seed)
    loaded = None
    if not is_pictures(options):
        if options.size is not None:
            raise UsageError("a model has its size", "--size is for two folders of pictures")
        loaded = load_backend(options.model, weights=options.weights, device=options.device)
        loaded.backend.draw_with(**options.drawing)
        prepare(device, careful=loaded.backend.careful)
    elif options.drawing:
        raise UsageError(f"{options.model} is drawn already", "leave out how a model is to draw")
    if options.iw is not None and (loaded is None or not loaded.backend.offers("importance_bound")):
        what = "pictures have" if loaded is None else f"a {loaded.backend.config.family} has"
        raise UsageError(f"{what} no importance-weighted bound", "leave --iw out")
    shape = (options.size, None) if loaded is None else (loaded.backend.config.size, loaded.backend.config.channels)
    reference, held_out, note = _data(options, shape, features, reporter)
    generated = (
        _folder(options, reference.dataset, features, reporter)
        if loaded is None
        else _model(options, loaded, reference.dataset, features, reporter)
    )
    count = len(generated.sample)
    if held_out is not None and len(held_out.sample) < count:
        count = len(held_out.sample)
        reporter.info(f"the floor is that of {count:,} held-out pictures: there are no more")
    if count < ROUGH:
        reporter.warn(f"{count:,} pictures are few: distances come out too high, and intervals wide")
    reporter.info("comparing")
    classes = len(reference.dataset.classes) if reference.dataset.classes == generated.classes else 0
    pool = reference
    if held_out is not None and held_out.dataset is reference.dataset:
        both = torch.cat([reference.sample.features, held_out.sample.features])
        pool = Reference(reference.dataset, torch.cat([reference.rows, held_out.rows]), Sample(both))
    beside = None if held_out is None else held_out.sample
    found = compare(reference.sample, beside, pool.sample.features, generated.sample, measure, classes)
    own: dict[str, Figure] = {}
    known = not generated.classes or (held_out is not None and generated.classes == held_out.dataset.classes)
    layers: list[dict[str, Any]] = []
    if loaded is not None and held_out is not None and known:
        given = (loaded.backend, held_out.dataset, held_out.rows)
        found.figures.update(bits_per_dimension(*given, measure, reporter, options.iw))
        if loaded.backend.withheld:
            reporter.warn(f"no bits per dimension of this model: {loaded.backend.withheld}")
        own = own_measures(*given, measure, reporter)
        found.figures.update(own)
        layers = layers_of(*given, options.seed)
    elif options.iw is not None:
        reporter.warn("no likelihood: there are no held-out pictures of the model's classes")
    closest = _closest(found, options.seed if loaded is not None else 0)
    document: dict[str, Any] = {
        "model": generated.name,
        "hash": None if loaded is None else loaded.hash,
        "data": reference.dataset.name,
        "count": len(generated.sample),
        "reference": len(reference.sample),
        "features": {"name": features.name, "hash": features.hash},
        "held_out": note,
        "held_out_count": 0 if held_out is None else len(held_out.sample),
        "size": reference.dataset.size,
        "crop": options.crop,
        "seed": options.seed,
        "temperature": options.temperature,
        "drawing": options.drawing,
        "explained": {name: loaded.backend.explained(name) for name in own} if loaded is not None else {},
        "figures": {name: figure.to_json() for name, figure in found.figures.items()},
        "floor": {name: figure.to_json() for name, figure in found.floor.items()},
        "closest": closest,
    }
    if layers:
        document["layers"] = layers
    if options.iw is not None:
        document["iw"] = options.iw
    if options.output is not None:
        curves = None if loaded is None else RunFolder(loaded.path.parent).metrics
        write_report(options.output, document, _shown(pool, generated, closest), curves)
        document["report"] = str(options.output)
    document["seconds"] = round(time.monotonic() - began, 1)
    return document


def is_pictures(options: EvaluateOptions) -> bool:
    """Whether MODEL is a folder or an archive of pictures rather than a model."""
    path = Path(options.model)
    if options.weights is not None or options.model in {*FAMILIES, *shipped_weights()} or not path.exists():
        return False
    return not holds_weights(path) if path.is_dir() else is_archive(path)


@dataclass(frozen=True)
class Reference:
    """Pictures of the data: a data set, which rows of it, and their features."""

    dataset: Dataset
    rows: Tensor
    sample: Sample


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
    elif len(dataset) >= 20 * FEWEST:
        shuffled = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
        cut = min(options.count, len(dataset) // 2)
        rest, rows = shuffled[:cut].sort().values, shuffled[cut:].sort().values
        note = f"{cut:,} of the data's own pictures, set apart; the model may have trained on them"
    rows = rows[evenly(len(rows), REFERENCE)]
    _enough(len(rows), dataset.name)
    reference = Reference(dataset, rows, features_of(dataset, rows, features, reporter, "reference"))
    if test is not None:
        dataset, rest = test[0], evenly(len(test[0]), options.count)
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
        if len(found) >= FEWEST and found.classes == dataset.classes:
            return found, split
    return None


def _enough(count: int, name: str) -> None:
    if count < FEWEST:
        hint = f"{FEWEST} at least, {ROUGH:,} for steady figures"
        raise DataError(f"{count} pictures of {name} are too few to compare", hint)


def features_of(dataset: Dataset, rows: Tensor, features: Features, reporter: Reporter, what: str) -> Sample:
    """Features of some pictures of a data set, taken from the cache where they were worked out before."""
    labels = torch.from_numpy(np.asarray(dataset.labels))[rows] if dataset.classes else None
    chosen = hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:12]
    path = default_cache_dir() / "features" / f"{dataset.key}-{features.hash}-{chosen}.npy"
    try:
        cached = torch.from_numpy(np.load(path, allow_pickle=False))
        if cached.ndim == 2 and len(cached) == len(rows) and bool(torch.isfinite(cached).all()):
            return Sample(cached, labels)
    except (OSError, ValueError, EOFError):
        pass  # not there, or damaged: worked out again
    parts = (np.asarray(dataset.images[part.numpy()]) for part in torch.split(rows, BATCH))
    found = _extract(parts, len(rows), features, reporter, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as sibling, sibling.open("xb") as file:
        np.save(file, found.numpy(), allow_pickle=False)
    return Sample(found, labels)


def _extract(parts: Iterator[Bytes], total: int, features: Features, reporter: Reporter, what: str) -> Tensor:
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
    rows = evenly(len(folder), options.count)
    sample = features_of(folder, rows, features, reporter, "given")
    return Side(folder.name, sample, lambda chosen: np.asarray(folder.images[rows[chosen].numpy()]), folder.classes)


def _model(options: EvaluateOptions, loaded: Loaded, data: Dataset, features: Features, reporter: Reporter) -> Side:
    backend = loaded.backend.fused()
    reporter.info(f"model {loaded.path} ({loaded.origin}, {loaded.hash})")
    if backend.classes and backend.classes != data.classes:
        reporter.warn("the model's classes are not the data's: no accuracy by class")
    sample = draw_sample(backend, options.count, options.seed, features, reporter, options.temperature, options.batch)

    def pictures(chosen: list[int]) -> Bytes:
        items = [Item(options.seed + index) for index in chosen]
        return np.concatenate(list(draw(backend, items, lambda _, part: part, temperature=options.temperature)))

    name = options.model if options.weights is None else options.weights.name
    return Side(name, sample, pictures, backend.classes)


def draw_sample(
    backend: Backend,
    count: int,
    seed: int,
    features: Features,
    reporter: Reporter,
    temperature: float = 1.0,
    batch: int | None = None,
) -> Sample:
    """Features of pictures drawn from the seeds `seed` to `seed + count - 1`."""
    labels: list[Tensor] = []

    def drawn() -> Iterator[Bytes]:
        items = (Item(seed + index) for index in range(count))
        for part, pictures in draw(backend, items, lambda *found: found, temperature=temperature, batch=batch):
            _, of_part = noise_of(part, backend)
            labels.extend([] if of_part is None else [of_part])
            yield pictures

    found = _extract(drawn(), count, features, reporter, "drawn")
    return Sample(found, torch.cat(labels) if labels else None)


def _closest(found: Comparison, seed: int, count: int = 8) -> list[dict[str, Any]]:
    """The generated pictures that are nearest to a training picture, nearest first."""
    order = found.nearest_distances.argsort()[:count].tolist()
    return [
        {
            "index": index,
            "seed": seed + index,
            "reference": int(found.nearest_indices[index]),
            "distance": round(float(found.nearest_distances[index]), 4),
        }
        for index in order
    ]


def _shown(pool: Reference, generated: Side, closest: list[dict[str, Any]]) -> Pictures:
    rows = pool.rows[[pair["reference"] for pair in closest]].numpy()
    by_class: dict[str, Bytes] = {}
    labels = generated.sample.labels
    if labels is not None:
        for label, name in enumerate(generated.classes[:20]):
            chosen = torch.nonzero(labels == label).flatten()[:10].tolist()
            if chosen:
                by_class[name] = generated.pictures(chosen)
    return Pictures(
        drawn=generated.pictures(list(range(min(64, len(generated.sample))))),
        real=np.asarray(pool.dataset.images[pool.rows[evenly(len(pool.rows), 64)].numpy()]),
        closest=generated.pictures([pair["index"] for pair in closest]),
        nearest=np.asarray(pool.dataset.images[rows]),
        by_class=by_class,
    )
