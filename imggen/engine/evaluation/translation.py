"""Evaluate a translator: how near its results are to the true ones, and to the images that they should be like."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.data.dataset import Dataset
from imggen.data.layout import NoSplitError
from imggen.data.pair_scan import match_names
from imggen.engine.checkpoints import LoadedModel, load_model, prepare
from imggen.engine.color import ColorMap, moments_of_images, to_colors, to_pixels, transport
from imggen.engine.evaluation import MIN_IMAGES_TO_COMPARE
from imggen.engine.evaluation.samples import MIN_IMAGES_FOR_STEADY_METRICS, dataset_features, scan_split
from imggen.engine.evaluation.translation_report import write_translation_report
from imggen.engine.noise import translation_noise
from imggen.engine.options import EvaluateOptions
from imggen.engine.run_dir import RunDir
from imggen.errors import DataError
from imggen.io.image import ImageArray, composite_on_white
from imggen.io.pixels import float_images, to_uint8
from imggen.metrics.compare import Estimate, Estimator, evenly_spaced
from imggen.metrics.distances import moments_of
from imggen.metrics.features import Features, load_features
from imggen.metrics.images import psnrs, ssims
from imggen.models.mapper.translate.channels import to_channels
from imggen.models.mapper.translate.model import TranslateModel
from imggen.reporting import Reporter

IndexArray = npt.NDArray[np.int64]
AT_ONCE = 32
MAX_MEASURED = 1_000  # images whose colors and mean the baselines know
NUM_WORST, NUM_SHOWN = 12, 24
BASELINES = ("identity", "color", "mean")


@dataclass(frozen=True)
class Side:
    """The images of one side, by their rows in a data set, with their names."""

    dataset: Dataset
    names: list[str]

    def images(self, rows: Any) -> ImageArray:
        """Images (N, H, W, C) of some rows."""
        return np.asarray(self.dataset.images[np.asarray(rows, dtype=np.int64)])


@dataclass
class Measured:
    """Of what one method makes of the images: PSNR and SSIM where the truth is known, and features where not."""

    psnr: list[Tensor] = field(default_factory=list)
    ssim: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)


def evaluate_translation(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Translate, and compare; returns metrics with intervals, those of baselines, the floor, and the worst images."""
    start = time.monotonic()
    loaded = load_model(options.model, weights=options.weights, device=options.device)
    model = loaded.model
    assert isinstance(model, TranslateModel)
    prepare(loaded, reporter, full_precision=True)
    features = load_features(options.features, model.device)
    assert options.source is not None
    inputs, split = _open_side(
        replace(options, data=options.source, source=options.data), model.config.size, model.config.channels, reporter
    )
    targets, _ = _open_side(options, model.config.size, model.config.target_channels, reporter)
    try:
        document = _evaluate(options, loaded, model, features, inputs, targets, reporter)
        document |= {"data": targets.dataset.name, "from": inputs.dataset.name, "split": split}
        if options.output is not None:
            _write_report(options, document, loaded, model, inputs, targets)
            document["report"] = str(options.output)
    finally:
        inputs.dataset.close()
        targets.dataset.close()
    document["seconds"] = round(time.monotonic() - start, 1)
    return document


def _open_side(options: EvaluateOptions, size: int, channels: int, reporter: Reporter) -> tuple[Side, str]:
    """The images of `options.data`: of the test split, else of the validation split, else all. Raises DataError."""
    for split in ("test", "val", "all"):
        try:
            scanned = scan_split(options, size, channels, split, reporter)
        except NoSplitError:
            continue
        dataset = scanned.load(reporter)
        unreadable = {name for name, _ in dataset.skipped} if not dataset.on_the_fly else set()
        return Side(dataset, [name for name in scanned.source.names if name not in unreadable]), split
    raise DataError(f"{options.data} has no images", "give a folder of images")


def _evaluate(
    options: EvaluateOptions,
    loaded: LoadedModel,
    model: TranslateModel,
    features: Features,
    inputs: Side,
    targets: Side,
    reporter: Reporter,
) -> dict[str, Any]:
    rows = evenly_spaced(len(inputs.names), options.count).numpy()
    partners = _partners(inputs, targets)
    reference, apart, new_rows = _halves(rows.tolist(), partners, len(targets.names))
    has_distance = min(len(apart), len(new_rows)) >= MIN_IMAGES_TO_COMPARE
    if not has_distance and not partners:
        raise DataError(
            f"{len(rows)} images of {inputs.dataset.name} are too few to compare with {targets.dataset.name}",
            "give more images, or images whose names match",
        )
    if (count := min(len(apart), len(new_rows))) < MIN_IMAGES_FOR_STEADY_METRICS:
        reporter.warn(f"{count:,} images are few: distances are overestimated, and intervals are wide")
    color_map, mean = _knowledge(inputs, targets)
    methods = {"model": Measured(), **{name: Measured() for name in BASELINES}}
    psnr_names: list[str] = []
    with reporter.task("translating", len(rows)) as task:
        for part in np.array_split(rows, -(-len(rows) // AT_ONCE)):
            images = inputs.images(part)
            noise = translation_noise([options.seed + row for row in part.tolist()], model)
            made = made_by_methods(model, images, noise, color_map, mean)
            known = [index for index, row in enumerate(part.tolist()) if row in partners]
            new = [index for index, row in enumerate(part.tolist()) if row in new_rows]
            truth = targets.images([partners[int(part[index])] for index in known]) if known else None
            psnr_names += [inputs.names[int(part[index])] for index in known]
            for name, results in made.items():
                if truth is not None:
                    methods[name].psnr.append(psnrs(results[known], truth))
                    methods[name].ssim.append(ssims(results[known], truth))
                if has_distance and new and name != "mean":
                    methods[name].features.append(features.extract(results[new]))
            task.update(int(np.searchsorted(rows, part[-1])) + 1)
    measure = Estimator(features.hash, distances=features.distances, seed=options.seed)
    floor: dict[str, Estimate] = {}
    moments = None
    if has_distance:
        halves = (torch.from_numpy(half) for half in (reference, apart))
        known_features, other = (dataset_features(targets.dataset, half, features, reporter, "B") for half in halves)
        moments = moments_of(known_features.features)
        floor = {features.distances[0]: measure.frechet(moments, other.features)}
    estimates = {name: _estimates(found, moments, measure) for name, found in methods.items()}
    return {
        "kind": "translator",
        "model": options.model if options.weights is None else options.weights.name,
        "hash": loaded.hash,
        "count": len(rows),
        "matched": len(psnr_names),
        "features": {"name": features.name, "hash": features.hash},
        "metrics": _as_json(estimates.pop("model")),
        "baselines": {name: _as_json(found) for name, found in estimates.items()},
        "floor": _as_json(floor),
        "worst": _worst(methods["model"], psnr_names),
    }


def _halves(rows: list[int], partners: dict[int, int], count: int) -> tuple[IndexArray, IndexArray, set[int]]:
    """Rows of the `count` targets to compare with, and as many others as there are results; and the images of these.

    A truth among the targets to compare with would make its own result look better, so such images are left out.
    """
    # Random halves: of evenly spaced images, the truths of all might be in one half.
    shuffled = np.random.default_rng(0).permutation(count)
    apart, reference = np.sort(shuffled[::2]), np.sort(shuffled[1::2])
    compared = set(reference.tolist())
    new_rows = {row for row in rows if partners.get(row) not in compared}
    # As many as there are results: distances of fewer images are larger.
    return reference, apart[evenly_spaced(len(apart), len(new_rows)).numpy()], new_rows


def _partners(inputs: Side, targets: Side) -> dict[int, int]:
    """The row of the true result of each image that has one. Raises DataError for an image with two."""
    return dict(zip(*match_names(inputs.names, targets.names), strict=True))


def _knowledge(inputs: Side, targets: Side) -> tuple[ColorMap, ImageArray]:
    """What the baselines know: a map between the colors of both sides, and the mean (H, W, T) of the targets."""
    sides = [side.images(evenly_spaced(len(side.names), MAX_MEASURED).numpy()) for side in (inputs, targets)]
    moments = [moments_of_images(_colors(images)) for images in sides]
    return transport(*moments), np.rint(sides[1].mean(0)).astype(np.uint8)


def _colors(images: ImageArray) -> ImageArray:
    """Images (N, H, W, C) as RGB; alpha is left out, because transparent pixels are white already."""
    return images[..., :3] if images.shape[3] == 4 else np.repeat(images, 3 // images.shape[3], 3)


@torch.inference_mode()
def made_by_methods(
    model: TranslateModel, images: ImageArray, noise: Tensor | None, color_map: ColorMap, mean: ImageArray
) -> dict[str, ImageArray]:
    """What the model, with its noise, and each baseline make of images (N, H, W, C): (N, H, W, target_channels)."""
    channels = model.config.target_channels
    levels = float_images(images, model.device)
    recolored = to_pixels(color_map(to_colors(_colors(images))))
    if channels == images.shape[3] == 4:
        recolored = np.concatenate([recolored, images[..., 3:]], 3)
    return {
        "model": to_uint8(model(levels, noise)),
        "identity": to_uint8(to_channels(levels, channels)),
        "color": to_uint8(to_channels(float_images(recolored, model.device), channels)),
        "mean": np.repeat(mean[None], len(images), 0),
    }


def _estimates(found: Measured, moments: Any, measure: Estimator) -> dict[str, Estimate]:
    estimates = []
    if found.psnr:
        estimates += [measure.mean("psnr", torch.cat(found.psnr)), measure.mean("ssim", torch.cat(found.ssim))]
    if found.features and moments is not None:
        estimates.append(measure.frechet(moments, torch.cat(found.features)))
    return {estimate.name: estimate for estimate in estimates}


def _as_json(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}


def _worst(found: Measured, names: list[str]) -> list[dict[str, Any]]:
    """The images whose results are furthest from the truth, the worst first."""
    if not found.psnr:
        return []
    values = torch.cat(found.psnr)
    order = values.argsort(stable=True)[:NUM_WORST].tolist()
    return [{"path": names[index], "psnr": round(float(values[index]), 2)} for index in order]


def _write_report(
    options: EvaluateOptions,
    document: dict[str, Any],
    loaded: LoadedModel,
    model: TranslateModel,
    inputs: Side,
    targets: Side,
) -> None:
    partners = _partners(inputs, targets)
    numbers = {name: row for row, name in enumerate(inputs.names)}

    @torch.inference_mode()
    def shown(row: int) -> ImageArray:
        """An image, its translation and, where it is known, the truth, as RGB (2 or 3, H, W, 3)."""
        images = inputs.images([row])
        noise = translation_noise([options.seed + row], model)
        parts = [images, to_uint8(model(float_images(images, model.device), noise))]
        if row in partners:
            parts.append(targets.images([partners[row]]))
        return np.stack([composite_on_white(part[0]) for part in parts])

    assert options.output is not None
    write_translation_report(
        options.output,
        document,
        [shown(row) for row in evenly_spaced(len(inputs.names), NUM_SHOWN).tolist()],
        [shown(numbers[entry["path"]]) for entry in document["worst"]],
        targets.images(evenly_spaced(len(targets.names), NUM_SHOWN).numpy()),
        RunDir(loaded.path.parent).metrics,
    )
