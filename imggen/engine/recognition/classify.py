"""Images to the classes of a model, with probabilities."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.scan import open_images
from imggen.engine.checkpoints import load_model, prepare
from imggen.engine.options import ClassifyOptions
from imggen.engine.recognition.embedder import path_of, read_batches
from imggen.engine.render import default_batch_size
from imggen.errors import UsageError
from imggen.io.atomic import atomic_write
from imggen.io.csv_line import csv_line
from imggen.io.pixels import float_images
from imggen.models import GENERATOR, kind_of
from imggen.models.base import class_log_frequencies
from imggen.reporting import Reporter

# Of all families only a GAN may have classes and no scores.
ENCODER_HINT = "imggen train gan --data DATA --init-from MODEL --encoder-fraction 1 teaches it that, in minutes"


def classify(options: ClassifyOptions, reporter: Reporter) -> dict[str, Any]:
    """Label the images; see `imggen.engine.recognition.run_classify`."""
    began = time.monotonic()
    source = open_images(options.image, reporter)
    loaded = load_model(options.model, weights=options.weights, device=options.device)
    model = loaded.model
    if not model.classes:
        noun, _, use = kind = kind_of(model.config.family)
        if kind != GENERATOR:
            raise UsageError(f"{options.model} is a {noun}: it labels no images", use)
        raise UsageError(f"{options.model} has no classes", "use a model that was trained on folders of classes")
    if reason := model.limitation("classes"):
        raise UsageError(f"{options.model} cannot tell classes: {reason}", ENCODER_HINT)
    prepare(loaded, reporter, full_precision=True)
    temperature = loaded.calibrated_temperature(reporter)
    channels, size, _ = model.config.image_shape
    batch = options.batch or default_batch_size(model)
    paths: list[str] = []
    parts: list[Tensor] = []
    with reporter.task("classifying", len(source)) as task:
        for each in read_batches(source, np.arange(len(source)), size, channels, batch, reporter):
            with torch.inference_mode():
                scores = model.class_scores(float_images(each.pixels, model.device))
            assert scores is not None
            if options.uniform:
                scores = scores - class_log_frequencies(model.config, scores.device)
            parts.append((scores.double() / temperature).softmax(1).cpu())
            paths += [path_of(options.image, source, index) for index in each.indices]
            task.update(len(paths))
    probabilities, order = torch.cat(parts).sort(dim=1, descending=True, stable=True)
    top = min(options.top, len(model.classes))
    labels = []
    for path, values, indices in zip(paths, probabilities[:, :top].tolist(), order[:, :top].tolist(), strict=True):
        found = zip((model.classes[index] for index in indices), values, strict=True)
        classes = [{"label": name if p >= options.above else "", "probability": round(p, 6)} for name, p in found]
        labels.append({"path": path, "classes": classes})
    lines = csv_lines(labels, top)
    result: dict[str, Any] = {"labels": labels, "count": len(labels), "hash": loaded.hash, "paths": []}
    if options.output == "-":
        result["csv"] = lines
    else:
        atomic_write(Path(options.output), "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
        result["paths"] = [options.output]
    return {**result, "seconds": round(time.monotonic() - began, 3)}


def csv_lines(labels: list[dict[str, Any]], top: int) -> list[str]:
    """A header, and a line for each image: its path, then label and probability of its `top` classes."""
    numbers = ["", *map(str, range(2, top + 1))]
    lines = [csv_line(["path", *(f"{column}{number}" for number in numbers for column in ("label", "probability"))])]
    for image in labels:
        cells = [cell for each in image["classes"] for cell in (each["label"], f"{each['probability']:.4f}")]
        lines.append(csv_line([image["path"], *cells]))
    return lines
