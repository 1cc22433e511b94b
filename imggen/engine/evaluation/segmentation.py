"""Evaluate a segmentation model on images with masks: overlaps, boundaries, what was taken for what, the worst."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.cache import check_skipped
from imggen.data.cache_dir import default_cache_dir, expand_user
from imggen.data.decode import UnreadableError, load_image
from imggen.data.layout import NoSplitError
from imggen.data.masks import Classes, MaskTable
from imggen.data.pair_scan import TargetOptions, pair_sources
from imggen.data.pairs import load_mask
from imggen.data.readers import Source
from imggen.data.scan import open_source
from imggen.engine.checkpoints import LoadedModel, load_model, prepare
from imggen.engine.evaluation.prior import POSITION_SIDE, Prior, prior_of, resized_classes
from imggen.engine.evaluation.segmentation_report import write_segmentation_report
from imggen.engine.options import EvaluateOptions
from imggen.engine.run_dir import RunDir
from imggen.engine.segmenter import colors_of, find_classes, in_square, open_segmenter
from imggen.errors import DataError
from imggen.io.image import ImageArray
from imggen.metrics.compare import Estimator, evenly_spaced
from imggen.metrics.crossvalidation import folds_of
from imggen.metrics.segmentation import (
    boundary_counts,
    class_metrics,
    confusions,
    ious,
    overall_metrics,
    pixel_counts,
)
from imggen.models.mapper.segment.model import SegmentModel
from imggen.reporting import Reporter, Silent

NUM_WORST, WORST_SIDE = 12, 128
MAX_KNOWN = 1_000  # masks of the train split for the baselines
BASELINES = ("majority", "position")


@dataclass
class Compared:
    """Of N images: their names, pixels of each true class by found class in all of them, and counts of each image.

    `counts` (N, classes, 3) and `boundaries` (N, classes, 4) are those of `imggen.metrics.segmentation`, `baselines`
    the counts of what BASELINES find.
    """

    names: list[str]
    confusion: Tensor
    counts: Tensor
    boundaries: Tensor
    baselines: dict[str, Tensor]


def evaluate_segmentation(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Segment images and compare with their masks; returns metrics and baselines with intervals, and the worst."""
    start = time.monotonic()
    loaded = load_model(options.model, weights=options.weights, device=options.device)
    model, table = open_segmenter(loaded)
    prepare(loaded, reporter, full_precision=True)
    source, split = _open_test(options, table, reporter)
    rows = evenly_spaced(len(source), options.count).tolist()
    prior, basis = _open_prior(options, table, source, rows, split)
    compared = _compare(model, table, source, rows, prior, reporter)
    document = _document(options, loaded, table, compared)
    document |= {"data": source.name, "split": split, "baselines_from": basis}
    if options.output is not None:
        shown = [_shown(model, table, source, source.names.index(entry["path"])) for entry in document["worst"]]
        colors = table.palette()[: len(table.names)]
        write_segmentation_report(options.output, document, colors, shown, RunDir(loaded.path.parent).metrics)
        document["report"] = str(options.output)
    document["seconds"] = round(time.monotonic() - start, 1)
    return document


def _open_test(options: EvaluateOptions, table: MaskTable, reporter: Reporter) -> tuple[Source, str]:
    """The images with masks of the test split, else of the validation split, else all. Raises DataError."""
    for split in ("test", "val", "all"):
        try:
            return _open_split(options, table, split, reporter), split
        except NoSplitError:
            continue
    raise DataError(f"{options.data} has no images", "give a folder of images")


def _open_split(options: EvaluateOptions, table: MaskTable, split: str, reporter: Reporter) -> Source:
    assert options.masks is not None
    cache, exclude = default_cache_dir(), (Path(options.model), expand_user(options.masks))
    source = open_source(options.data, split=split, use_classes=False, cache_dir=cache, exclude=exclude)
    source.report(reporter)
    targets = TargetOptions(options.masks, masks=True, table=table)
    return pair_sources(source, targets, cache, exclude, reporter)[0]


def _open_prior(
    options: EvaluateOptions, table: MaskTable, source: Source, rows: list[int], split: str
) -> tuple[Prior, str]:
    """What the baselines know, and of which masks: those of the train split, else the other images of the data."""
    classes = len(table.names)
    if split != "all":
        try:
            known = _open_split(options, table, "train", Silent())
        except DataError:
            pass
        else:
            some = evenly_spaced(len(known), MAX_KNOWN).tolist()
            return prior_of([_true_classes(known, row) for row in some], classes), f"{len(some):,} masks of train"
    masks = [_true_classes(source, row) for row in rows]
    return prior_of(masks, classes, folds_of(len(rows)).tolist()), "the other masks of the data, in five folds"


def _true_classes(source: Source, row: int) -> Classes | None:
    """The class numbers of a mask, reduced to at most POSITION_SIDE; None if it cannot be read."""
    try:
        classes = load_mask(source, row)
    except UnreadableError:
        return None
    return resized_classes(classes, (min(POSITION_SIDE, classes.shape[0]), min(POSITION_SIDE, classes.shape[1])))


def _compare(
    model: SegmentModel, table: MaskTable, source: Source, rows: list[int], prior: Prior, reporter: Reporter
) -> Compared:
    """Segment the images and count, one at a time. Raises DataError if most cannot be read."""
    classes, names, skipped = len(table.names), list[str](), list[tuple[str, str]]()
    tables, boundaries = torch.zeros(classes, classes, dtype=torch.int64), list[Tensor]()
    counts: dict[str, list[Tensor]] = {name: [] for name in ("model", *BASELINES)}
    with reporter.task("segmenting", len(rows)) as task:
        for index, row in enumerate(rows):
            task.update(index)
            try:
                image = load_image(source, row)
                truth = torch.from_numpy(load_mask(source, row, image.size).copy())[None]
            except UnreadableError as error:
                skipped.append((source.names[row], str(error)))
                continue
            found = torch.from_numpy(find_classes(model, image, model.config.scale).classes)[None]
            own = confusions(found, truth, classes)
            tables += own[0]
            names.append(source.names[row])
            counts["model"].append(pixel_counts(own))
            boundaries.append(boundary_counts(found, truth, classes))
            for name in BASELINES:
                guess = torch.from_numpy(prior.guess(name, index, (truth.shape[1], truth.shape[2])))[None]
                counts[name].append(pixel_counts(confusions(guess, truth, classes)))
    check_skipped(tuple(skipped), len(rows), strict=False)
    for name, reason in skipped:
        reporter.warn(f"left out {name}: {reason}")
    joined = {name: torch.cat(parts) for name, parts in counts.items()}
    return Compared(names, tables, joined.pop("model"), torch.cat(boundaries), joined)


def _document(options: EvaluateOptions, loaded: LoadedModel, table: MaskTable, compared: Compared) -> dict[str, Any]:
    """The result as JSON."""
    measure = Estimator(loaded.hash, seed=options.seed)
    own = ious(compared.counts).nanmean(1)
    worst = own.nan_to_num(1).argsort(stable=True)[:NUM_WORST].tolist()
    totals, images = compared.counts.sum(0), (compared.counts[..., 2] > 0).sum(0)
    classes = []
    for number, name in enumerate(table.names):
        estimates = class_metrics(compared.counts, compared.boundaries, number, measure)
        classes.append(
            {
                "class": number,
                "name": name,
                "share": float(totals[number, 2] / totals[:, 2].sum()),
                "images": int(images[number]),
                "metrics": {key: estimate.to_json() for key, estimate in estimates.items()},
            }
        )
    return {
        "kind": "segmentation model",
        "model": options.model if options.weights is None else options.weights.name,
        "hash": loaded.hash,
        "count": len(compared.names),
        "metrics": _as_json(compared.counts, compared.boundaries, measure),
        "baselines": {name: _as_json(counts, None, measure) for name, counts in compared.baselines.items()},
        "classes": classes,
        "confusion": compared.confusion.tolist(),
        "worst": [{"path": compared.names[index], "iou": round(float(own[index]), 4)} for index in worst],
    }


def _as_json(counts: Tensor, boundaries: Tensor | None, measure: Estimator) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in overall_metrics(counts, boundaries, measure).items()}


def _shown(model: SegmentModel, table: MaskTable, source: Source, row: int) -> ImageArray:
    """An image, its truth and what was found, as three squares (3, S, S, 3)."""
    image = load_image(source, row)
    found = find_classes(model, image, model.config.scale)
    truth = load_mask(source, row, image.size)
    parts = (found.pixels, colors_of(truth, table), colors_of(found.classes, table))
    return np.stack([in_square(part, WORST_SIDE) for part in parts])
