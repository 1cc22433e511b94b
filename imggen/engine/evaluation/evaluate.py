"""Compare samples of a model, or images of a folder, with the data. Only their features are kept in memory."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from imggen.engine.device import configure_device, find_device
from imggen.engine.evaluation.report import ReportImages, write_report
from imggen.engine.evaluation.samples import (
    MIN_IMAGES_FOR_STEADY_METRICS,
    DataSubset,
    ModelMetrics,
    References,
    Samples,
    load_references,
    open_samples,
)
from imggen.engine.options import EvaluateOptions
from imggen.io.image import ImageArray
from imggen.metrics.compare import Comparison, Estimator, FeatureSet, compare, evenly_spaced
from imggen.metrics.features import Features, load_features
from imggen.reporting import Reporter

NUM_CLOSEST = 8
NUM_SHOWN, NUM_SHOWN_CLASSES, NUM_SHOWN_PER_CLASS = 64, 20, 10


@dataclass(frozen=True)
class _Evaluation:
    """All that the report and the JSON document show."""

    options: EvaluateOptions
    features: Features
    samples: Samples
    sample: FeatureSet
    references: References
    comparison: Comparison
    model_metrics: ModelMetrics
    recognition: dict[str, Any] | None
    closest: list[dict[str, Any]]


def evaluate(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Compare; returns every metric with its interval, and the floor. Errors as in `imggen.errors`."""
    with ExitStack() as stack:
        return _evaluate(options, reporter, stack)


def _evaluate(options: EvaluateOptions, reporter: Reporter, stack: ExitStack) -> dict[str, Any]:
    start = time.monotonic()

    # Gather the features of the samples, of the data, and of held-out images
    device = find_device(options.device)
    configure_device(device)
    features = load_features(options.features, device)
    samples = open_samples(options, reporter)
    stack.callback(samples.close)
    references = load_references(options, samples.size, samples.channels, features, reporter)
    stack.callback(references.close)
    reference, held_out = references.reference, references.held_out
    sample = samples.extract(reference.dataset, features)
    _report_small_counts(len(sample), held_out, reporter)

    # Compare
    reporter.info("comparing")
    measure = Estimator(features.hash, distances=features.distances, seed=options.seed)
    num_classes = len(samples.classes) if samples.classes == reference.dataset.classes else 0
    searched = references.searched_for_copies()
    floor_sample = None if held_out is None else held_out.features
    comparison = compare(reference.features, floor_sample, searched.features.features, sample, measure, num_classes)
    model_metrics = samples.model_metrics(held_out, measure)
    recognition = samples.recognition(references)
    closest = _closest(comparison, samples.first_seed)

    # Report
    evaluation = _Evaluation(
        options, features, samples, sample, references, comparison, model_metrics, recognition, closest
    )
    document = _document(evaluation)
    if options.output is not None:
        write_report(options.output, document, _report_images(evaluation, searched), samples.training_metrics)
        document["report"] = str(options.output)
    document["seconds"] = round(time.monotonic() - start, 1)
    return document


def _report_small_counts(count: int, held_out: DataSubset | None, reporter: Reporter) -> None:
    if held_out is not None and len(held_out) < count:
        count = len(held_out)
        reporter.info(f"the floor is measured on {count:,} held-out images: there are no more")
    if count < MIN_IMAGES_FOR_STEADY_METRICS:
        reporter.warn(f"{count:,} images are few: distances are overestimated, and intervals are wide")


def _document(evaluation: _Evaluation) -> dict[str, Any]:
    """The result as JSON."""
    options, samples, references = evaluation.options, evaluation.samples, evaluation.references
    comparison, model_metrics = evaluation.comparison, evaluation.model_metrics
    metrics = {**comparison.metrics, **model_metrics.metrics}
    held_out = references.held_out
    document: dict[str, Any] = {
        "model": samples.name,
        "hash": samples.hash,
        "data": references.reference.dataset.name,
        "count": len(evaluation.sample),
        "reference_count": len(references.reference),
        "features": {"name": evaluation.features.name, "hash": evaluation.features.hash},
        "held_out": references.held_out_description,
        "held_out_count": 0 if held_out is None else len(held_out),
        "size": references.reference.dataset.size,
        "crop": options.crop,
        "seed": options.seed,
        "temperature": options.temperature,
        "sampling": options.sampling.changed(),
        "descriptions": model_metrics.descriptions,
        "metrics": {name: estimate.to_json() for name, estimate in metrics.items()},
        "floor": {name: estimate.to_json() for name, estimate in comparison.floor.items()},
        "closest": evaluation.closest,
    }
    if model_metrics.layers:
        document["layers"] = model_metrics.layers
    if evaluation.recognition is not None:
        document["recognition"] = evaluation.recognition
    if options.iw is not None:
        document["iw"] = options.iw
    return document


def _closest(comparison: Comparison, first_seed: int) -> list[dict[str, Any]]:
    """The samples that are nearest to an image of the data, nearest first."""
    order = comparison.nearest_distances.argsort()[:NUM_CLOSEST].tolist()
    return [
        {
            "index": index,
            "seed": first_seed + index,
            "reference": int(comparison.nearest_indices[index]),
            "distance": round(float(comparison.nearest_distances[index]), 4),
        }
        for index in order
    ]


def _report_images(evaluation: _Evaluation, searched: DataSubset) -> ReportImages:
    samples, labels, closest = evaluation.samples, evaluation.sample.labels, evaluation.closest
    by_class: dict[str, ImageArray] = {}
    if labels is not None:
        for label, name in enumerate(samples.classes[:NUM_SHOWN_CLASSES]):
            indices = torch.nonzero(labels == label).flatten()[:NUM_SHOWN_PER_CLASS].tolist()
            if indices:
                by_class[name] = samples.images(indices)
    return ReportImages(
        samples=samples.images(list(range(min(NUM_SHOWN, len(evaluation.sample))))),
        real=searched.images(evenly_spaced(len(searched), NUM_SHOWN)),
        closest=samples.images([pair["index"] for pair in closest]),
        nearest=searched.images([pair["reference"] for pair in closest]),
        by_class=by_class,
    )
