"""The directions of a model, as a list and as a sheet: a row for each, one sample at several values along it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.engine.checkpoints import LoadedModel, open_model
from imggen.engine.directions import Directions, find_directions
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import DirectionsOptions
from imggen.engine.provenance import settings
from imggen.engine.render import render_batches
from imggen.engine.sheet import Cell, draw_sheet, resized
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, encode, format_of
from imggen.reporting import Reporter

VALUES = (-2.0, -1.0, 0.0, 1.0, 2.0)
MIN_SIDE = 96  # pixels of an image on the sheet, for the text below it


def show_directions(options: DirectionsOptions, reporter: Reporter) -> dict[str, Any]:
    """List and draw them; see `imggen.engine.direction_sheet.run`."""
    began = time.monotonic()
    loaded = open_model(options, options.model, reporter)
    label = None if options.label is None else loaded.backend.config.class_index(options.label)
    directions = find_directions(loaded, reporter)
    paths = []
    if options.output is not None:
        images = _images(options, loaded, directions, label)
        info = settings("directions", options, loaded, seed=options.seed, output=options.output.name)
        atomic_write(options.output, encode(_sheet(images, directions), format_of(options.output), info))
        paths.append(str(options.output))
    return {
        "paths": paths,
        "directions": directions.listing(),
        "hash": loaded.hash,
        "seconds": round(time.monotonic() - began, 3),
    }


def _images(
    options: DirectionsOptions, loaded: LoadedModel, directions: Directions, label: int | None
) -> list[ImageArray]:
    """The images (len(VALUES), H, W, C) of each direction."""
    backend = loaded.backend.for_inference()
    noise, labels = noise_for([SampleSpec(options.seed, label)], backend)

    def render(part: list[tuple[int, float]]) -> Tensor:
        moved = torch.cat([directions.move(noise, {number: value}) for number, value in part])
        expanded = None if labels is None else labels.to(backend.device).expand(len(part))
        return backend.generate(moved.to(backend.device), expanded, options.sampling)

    cells = [(number, value) for number in range(1, len(directions) + 1) for value in VALUES]
    images = [image for batch in render_batches(backend, cells, render, batch=options.batch) for image in batch]
    return [np.stack(images[start : start + len(VALUES)]) for start in range(0, len(images), len(VALUES))]


def _sheet(images: list[ImageArray], directions: Directions) -> ImageArray:
    """Below each image its value; below the middle one the direction's name, if it has one."""
    rows = []
    for number, (values, known) in enumerate(zip(images, directions.known, strict=True), 1):
        factor = max(1, -(-MIN_SIDE // values.shape[1]))
        side = factor * values.shape[1]
        texts = [f"{number}={value:g}" for value in VALUES]
        texts[len(VALUES) // 2] = known.name or texts[len(VALUES) // 2]
        rows.append([Cell(resized(image, side), text) for image, text in zip(values, texts, strict=True)])
    return draw_sheet(rows, rows[0][0].image.shape[0] if rows else MIN_SIDE)
