"""How near are a model's pictures (or a folder's) to the data's? Bounded memory: of pictures only features are kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imggen.data.scan import is_archive
from imggen.engine.checkpoints import open_model
from imggen.engine.device import configure_device, find_device
from imggen.engine.evaluation.likelihood import bits_per_dimension, layers_of, own_measures
from imggen.engine.evaluation.report import Pictures, write_report
from imggen.engine.evaluation.samples import ROUGH, Reference, Side, _data, _folder, _model
from imggen.engine.options import EvaluateOptions
from imggen.engine.outputs import check_report
from imggen.engine.run_dir import RunDir
from imggen.errors import UsageError
from imggen.io.image import Bytes
from imggen.io.model_paths import holds_weights, shipped_weights
from imggen.metrics.compare import Comparison, Estimate, Measure, Sample, compare, evenly
from imggen.metrics.features import load_features
from imggen.models import FAMILIES
from imggen.models.base import HasLatentLayers
from imggen.reporting import Reporter


def evaluate(options: EvaluateOptions, reporter: Reporter) -> dict[str, Any]:
    """Compare; returns every figure with its interval, and the floor. Errors as in `imggen.errors`."""
    began = time.monotonic()
    check_report(options)
    device = find_device(options.device)
    configure_device(device)
    features = load_features(options.features, device)
    measure = Measure(features.hash, inception=features.inception, seed=options.seed)
    loaded = None
    if not is_pictures(options):
        if options.size is not None:
            raise UsageError("a model has its size", "--size is for two folders of pictures")
        loaded = open_model(options, options.model, reporter)
    elif options.sampling.changed():
        raise UsageError(f"{options.model} is a folder of images: sampling options do not apply", "leave them out")
    if options.iw is not None and (loaded is None or not isinstance(loaded.backend, HasLatentLayers)):
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
    own: dict[str, Estimate] = {}
    explained: dict[str, tuple[str, str]] = {}
    known = not generated.classes or (held_out is not None and generated.classes == held_out.dataset.classes)
    layers: list[dict[str, Any]] = []
    if loaded is not None and held_out is not None and known:
        given = (loaded.backend, held_out.dataset, held_out.rows)
        found.figures.update(bits_per_dimension(*given, measure, reporter, options.iw))
        if limitation := loaded.backend.limitation("likelihood"):
            reporter.warn(f"no bits per dimension of this model: {limitation}")
        own, explained = own_measures(*given, options.sampling, measure, reporter)
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
        "sampling": options.sampling.changed(),
        "explained": explained,
        "figures": {name: figure.to_json() for name, figure in found.figures.items()},
        "floor": {name: figure.to_json() for name, figure in found.floor.items()},
        "closest": closest,
    }
    if layers:
        document["layers"] = layers
    if options.iw is not None:
        document["iw"] = options.iw
    if options.output is not None:
        curves = None if loaded is None else RunDir(loaded.path.parent).metrics
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
