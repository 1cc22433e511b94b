"""Evaluate a classifier on labeled images: how often it is right, how sure it may be, what it takes for what."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.layout import NoSplitError
from imggen.engine.checkpoints import LoadedModel, load_model, prepare
from imggen.engine.evaluation.classifier_report import write_classifier_report
from imggen.engine.evaluation.labeled import (
    Labeled,
    labels_by_neighbors,
    pixel_vectors,
    scores_of,
    untrained,
    vectors_of,
)
from imggen.engine.evaluation.samples import scan_split
from imggen.engine.options import EvaluateOptions
from imggen.engine.run_dir import RunDir
from imggen.errors import DataError
from imggen.metrics.calibration import BINS
from imggen.metrics.classification import confusion_table, label_metrics
from imggen.metrics.compare import Estimate, Estimator
from imggen.metrics.crossvalidation import folds_of, logistic_regression, with_ones
from imggen.models.base import Model
from imggen.models.config import list_classes
from imggen.reporting import Reporter, Silent

MAX_KNOWN, MAX_KNOWN_SEEN = 10_000, 1_000  # training images for the baselines: of pixels, and of the untrained network
NUM_LEAST_SURE = 48


def evaluate_classifier(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Label the data and compare; returns metrics and baselines with intervals, the confusion table, the least sure."""
    start = time.monotonic()
    loaded = load_model(options.model, weights=options.weights, device=options.device)
    prepare(loaded, reporter, full_precision=True)
    model, temperature = loaded.model, loaded.calibrated_temperature(reporter)
    test, split = _open_test(options, model, reporter)
    try:
        return _evaluate(options, loaded, temperature, test, split, reporter, start)
    finally:
        test.dataset.close()


def _evaluate(
    options: EvaluateOptions,
    loaded: LoadedModel,
    temperature: float,
    test: Labeled,
    split: str,
    reporter: Reporter,
    start: float,
) -> dict[str, Any]:
    model, measure = loaded.model, Estimator(loaded.hash, seed=options.seed)
    probabilities = (scores_of(model, test, reporter).double() / temperature).softmax(1)
    sureness, guesses = probabilities.max(1)
    known = _open_known(options, model, test, split, reporter)
    baselines, basis = _baselines(model, test, known, measure, reporter)
    least_sure = sureness.argsort(stable=True)[:NUM_LEAST_SURE].tolist()
    document: dict[str, Any] = {
        "kind": "classifier",
        "model": options.model if options.weights is None else options.weights.name,
        "hash": loaded.hash,
        "data": test.dataset.name,
        "split": split,
        "count": len(test.rows),
        "bins": BINS,
        "temperature": loaded.class_temperature,
        "metrics": _as_json(label_metrics(probabilities, test.labels, measure)),
        "baselines": _as_json(baselines),
        "baselines_from": basis,
        "classes": list(model.classes),
        "confusion": confusion_table(test.labels, guesses, len(model.classes)).tolist(),
        "least_sure": [
            {
                "path": test.names[index],
                "class": model.classes[int(test.labels[index])],
                "label": model.classes[int(guesses[index])],
                "probability": round(float(sureness[index]), 4),
            }
            for index in least_sure
        ],
    }
    if options.output is not None:
        metrics = RunDir(loaded.path.parent).metrics

        def images(indices: list[int]) -> Any:
            return np.asarray(test.dataset.images[test.rows[indices].numpy()])

        write_classifier_report(options.output, document, test.labels, guesses, sureness, least_sure, images, metrics)
        document["report"] = str(options.output)
    document["seconds"] = round(time.monotonic() - start, 1)
    return document


def _as_json(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}


def _open_test(options: EvaluateOptions, model: Model, reporter: Reporter) -> tuple[Labeled, str]:
    """The images to judge by: those of the test split, else of the validation split, else all. Raises DataError."""
    for split in ("test", "val", "all"):
        try:
            found = _open_labeled(options, model, split, reporter)
        except NoSplitError:
            continue
        return found.part(options.count), split
    raise DataError(f"{options.data} has no images", "give a folder with a folder for each class")


def _open_labeled(options: EvaluateOptions, model: Model, split: str, reporter: Reporter) -> Labeled:
    """The images of a split whose classes the model has. Raises DataError if there are none, NoSplitError."""
    config = model.config
    scanned = scan_split(options, config.size, config.channels, split, reporter)
    unknown = [name for name in scanned.classes if name not in model.classes]
    if len(unknown) == len(scanned.classes):
        raise DataError(
            f"{scanned.name} has none of the model's classes: {list_classes(model.classes)}",
            "one folder for each class, named as in training",
        )
    dataset = scanned.load(reporter)
    numbers = torch.tensor([model.classes.index(name) if name in model.classes else -1 for name in dataset.classes])
    labels = numbers[torch.from_numpy(np.asarray(dataset.labels).copy())]
    rows = torch.nonzero(labels >= 0).flatten()
    if unknown:
        reporter.warn(
            f"left out {len(labels) - len(rows):,} images of classes the model has not: {list_classes(unknown)}"
        )
    unreadable = {name for name, _ in dataset.skipped} if not dataset.on_the_fly else set()
    names = [name for name in scanned.source.names if name not in unreadable]
    return Labeled(dataset, rows, labels[rows], [names[row] for row in rows.tolist()])


def _open_known(
    options: EvaluateOptions, model: Model, test: Labeled, split: str, reporter: Reporter
) -> Labeled | None:
    """The training images of the same data, for the baselines; None if the data is not divided."""
    if split == "all":
        return None
    try:
        known = _open_labeled(options, model, "train", Silent())
    except DataError:
        return None
    return known.part(MAX_KNOWN)


def _baselines(
    model: Model, test: Labeled, known: Labeled | None, measure: Estimator, reporter: Reporter
) -> tuple[dict[str, Estimate], str]:
    """The accuracy of methods that train no network, and from which images they learn.

    The most frequent class; the votes of the nearest images by their pixels; a logistic regression on what the same
    backbone computes with random weights.
    """
    counts = torch.tensor(model.config.class_counts)
    random = untrained(model)
    pixels, vectors = pixel_vectors(test), vectors_of(random, test, reporter)
    classes = len(model.classes)
    if known is None:
        basis = "the other images of the data, in five folds"
        folds = folds_of(len(test.rows))
        near, seen = torch.zeros_like(test.labels), torch.zeros_like(test.labels)
        for fold in range(int(folds.max()) + 1):
            part, rest = folds == fold, folds != fold
            near[part] = labels_by_neighbors(pixels[rest], test.labels[rest], pixels[part])
            seen[part] = _by_regression(vectors[rest], test.labels[rest], vectors[part], classes)
    else:
        some = known.part(MAX_KNOWN_SEEN)
        basis = f"{len(known.rows):,} images of the train split, {len(some.rows):,} for the untrained network"
        near = labels_by_neighbors(pixel_vectors(known), known.labels, pixels)
        seen = _by_regression(vectors_of(random, some, reporter), some.labels, vectors, classes)
        known.dataset.close()
    guesses = {"majority": torch.full_like(test.labels, int(counts.argmax())), "pixels": near, "untrained": seen}
    return {name: measure.mean(name, (found == test.labels).double()) for name, found in guesses.items()}, basis


def _by_regression(known: Tensor, labels: Tensor, vectors: Tensor, classes: int) -> Tensor:
    mean, scale = known.mean(0), 1 / known.std(0).clamp(min=1e-3)
    weights = logistic_regression((known - mean) * scale, labels, classes)
    return (with_ones((vectors - mean) * scale) @ weights).argmax(1)
