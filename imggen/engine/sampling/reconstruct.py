"""Grids of given images: each beside its reconstruction (--from), or one image and samples near it (--near)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.decode import UnreadableError, fit_image, load_image
from imggen.data.scan import open_images
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import SampleOptions
from imggen.engine.outputs import output_kind
from imggen.engine.provenance import settings
from imggen.engine.render import default_batch_size
from imggen.engine.sampling.sample import SamplePlan, check_grid, describe_plan, mover, open_with_plan
from imggen.engine.seeds import format_seeds
from imggen.errors import DataError
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, encode, format_of, grid
from imggen.io.pixels import float_images, to_uint8
from imggen.models.base import Backend
from imggen.reporting import Reporter


def describe_grid(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """What `reconstruct` would do, without decoding an image; see `imggen.engine.sampling.dry_run`."""
    plan = describe_plan(options, reporter)
    if options.near is not None:
        return {**plan, "columns": _grid_columns(options, 1 + plan["count"]), "near": str(options.near)}
    assert options.source is not None
    count = min(options.count, len(open_images(str(options.source), reporter, exclude=[Path(options.output)])))
    for name in ("seeds", "temperature"):  # nothing is sampled
        del plan[name]
    return {**plan, "count": count, "columns": _grid_columns(options, 2 * count), "from": str(options.source)}


def reconstruct(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the grid; see `imggen.engine.sampling.run`. Raises DataError for images that cannot be read."""
    began = time.monotonic()
    loaded, plan = open_with_plan(options, reporter)
    backend = loaded.backend
    path = options.near or options.source
    assert path is not None
    images = read_images(path, options.count if options.near is None else 1, backend, options.output, reporter)
    num_cells = 2 * len(images) if options.near is None else 1 + len(plan)
    columns = _grid_columns(options, num_cells)
    check_grid(num_cells, columns, backend)
    with torch.no_grad(), torch.autocast(backend.device.type, loaded.dtype, enabled=loaded.dtype != torch.float32):
        if options.near is None:
            cells = _with_reconstructions(backend, images, options, reporter)
        else:
            cells = _with_neighbors(backend, images, plan, options, mover(options, loaded, reporter))

    seeds = {} if options.near is None else {"seeds": format_seeds(plan.seeds)}
    name = options.output if output_kind(options.output) == "grid" else f"sheet.{options.format or 'png'}"
    resolved = {"seed": None, "count": len(images) if options.near is None else None, **seeds}
    info = settings("sample", options, loaded, **resolved, columns=columns, output=name)
    encoded = encode(grid(cells, columns), options.format or format_of(Path(name)), info)
    result: dict[str, Any] = {"paths": [], "count": len(images), "hash": loaded.hash, **seeds}
    if output_kind(options.output) == "stdout":
        result["png"] = encoded
    else:
        atomic_write(Path(options.output), encoded)
        result["paths"] = [options.output]
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def _grid_columns(options: SampleOptions, count: int) -> int:
    """The given number of columns, else about a square; an even number for pairs, so that a pair shares a row."""
    if options.near is not None:
        return options.columns or math.ceil(math.sqrt(count))
    if options.columns is not None:
        return options.columns + options.columns % 2
    return 2 * max(1, round(math.sqrt(count) / 2))


def read_images(path: Path, count: int, backend: Backend, output: str, reporter: Reporter) -> ImageArray:
    """Read at most `count` images of a file, a folder or an archive at the model's size: (N, H, W, C) uint8.

    Unreadable images are skipped with a warning, an earlier `output` in the folder without one. Raises DataError if
    none is left.
    """
    source = open_images(str(path), reporter, exclude=[Path(output)])
    channels, size, _ = backend.config.image_shape
    images: list[ImageArray] = []
    for index in range(len(source)):
        if len(images) == count:
            break
        try:
            images.append(fit_image(load_image(source, index), size, channels, "center", source.names[index]))
        except UnreadableError as error:
            reporter.warn(f"skipped {source.names[index]}: {error}")
    if not images:
        raise DataError(f"no image of {path} can be read", "supported formats: PNG, JPEG, WebP, GIF, BMP and TIFF")
    if count == len(images) < len(source) and count > 1:
        reporter.info(f"the first {count} of {len(source)} images; -n takes more")
    return np.stack(images)


def _with_reconstructions(
    backend: Backend, images: ImageArray, options: SampleOptions, reporter: Reporter
) -> ImageArray:
    """(2N, H, W, C): each image, then its reconstruction."""
    size = options.batch or default_batch_size(backend)
    reconstructions: list[ImageArray] = []
    with reporter.task("reconstructing", len(images)) as task:
        for start in range(0, len(images), size):
            batch = float_images(images[start : start + size], backend.device)
            reconstructions.append(to_uint8(backend.reconstruct(batch, _given_labels(backend, options, batch))))
            task.update(start + len(batch))
    return np.stack([images, np.concatenate(reconstructions)], 1).reshape(-1, *images.shape[1:])


def _with_neighbors(
    backend: Backend,
    image: ImageArray,
    plan: SamplePlan,
    options: SampleOptions,
    move: Callable[[Tensor], Tensor],
) -> ImageArray:
    """(1 + N, H, W, C): the image, then samples near it.

    Their noise is sqrt(1 - t²) times the image's own noise plus t times the noise of a seed, with t the temperature,
    so that it stays standard normal; then it is moved along the directions that are asked for.
    """
    batch = float_images(image, backend.device)
    own_noise, label = backend.invert(batch, _given_labels(backend, options, batch), options.sampling)
    size = options.batch or default_batch_size(backend)
    t = options.temperature
    parts = [image]
    for start in range(0, len(plan), size):
        specs = [SampleSpec(plan[index].seed) for index in range(start, min(len(plan), start + size))]
        noise, _ = noise_for(specs, backend)
        labels = None if label is None else label.expand(len(specs))
        mixed = math.sqrt(1 - t**2) * own_noise + t * noise.to(batch.device)
        parts.append(to_uint8(backend.generate(move(mixed), labels, replace(options.sampling, temperature=1.0))))
    return np.concatenate(parts)


def _given_labels(backend: Backend, options: SampleOptions, images: Tensor) -> Tensor | None:
    """The class that was asked for as labels (B,); None lets the model choose the most likely one."""
    if options.label is None:
        return None
    return torch.full((len(images),), backend.config.class_index(options.label), device=images.device)
