"""Pictures beside the model's own versions of them, and pictures near a picture: one sheet each."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imggen.data.dataset import default_cache_dir
from imggen.data.decode import UnreadableError, fit_image, load_image
from imggen.data.readers import FolderReader, Source
from imggen.data.scan import open_source
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import SampleOptions
from imggen.engine.outputs import check_grid, check_sample_output, output_kind
from imggen.engine.provenance import command_of, settings_of
from imggen.engine.render import default_batch_size, to_uint8
from imggen.engine.sampling import sample
from imggen.engine.sampling.sample import SamplePlan, prepared
from imggen.engine.seeds import format_seeds
from imggen.errors import DataError, UsageError
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, encode, format_of, grid
from imggen.models.base import Backend
from imggen.reporting import Reporter


def check(options: SampleOptions) -> None:
    """Refuse what cannot be put on one sheet. Raises UsageError and DataError."""
    what = "--from" if options.near is None else "--near"
    if output_kind(options.output) not in ("grid", "stdout"):
        raise UsageError(f"{what} draws one sheet", "-o side-by-side.png")
    if options.label == "all":
        raise UsageError(f"{what} takes one class, or finds it by itself", "leave --class out")
    if options.near is not None and not options.near.is_file():
        hint = "--from takes a folder" if options.near.is_dir() else None
        raise DataError(f"{options.near} is not a picture's file", hint)
    if options.near is not None and options.temperature > 1:
        raise UsageError(
            f"--near takes temperatures from 0 to 1, not {options.temperature:g}",
            "1 draws as if the picture were not there",
        )


def plan(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """What `reconstruct` would do, resolved, without looking at a picture. Raises as it does."""
    check(options)
    found = sample.plan(options, reporter)
    if options.near is not None:
        return {**found, "columns": sheet_columns(options, 1 + found["count"]), "near": str(options.near)}
    assert options.source is not None
    count = min(options.count, len(_source_of(options.source)))
    for name in ("seeds", "temperature"):
        del found[name]
    return {**found, "count": count, "columns": sheet_columns(options, 2 * count), "from": str(options.source)}


def reconstruct(options: SampleOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the sheet; returns paths, counts, hash and timings.

    Raises DataError for pictures that cannot be read, and as `sample` does.
    """
    check(options)
    check_sample_output(options)
    began = time.monotonic()
    loaded, plan, dtype = prepared(options, reporter)
    backend = loaded.backend
    path = options.near or options.source
    assert path is not None
    pictures = read_pictures(path, options.count if options.near is None else 1, backend, reporter)
    shown = 2 * len(pictures) if options.near is None else 1 + len(plan)
    columns = sheet_columns(options, shown)
    check_grid(shown, columns, backend)
    with torch.no_grad(), torch.autocast(_device(backend).type, dtype, enabled=dtype != torch.float32):
        sheet = (
            _near(backend, pictures, plan, options)
            if options.near is not None
            else _beside(backend, pictures, options, reporter)
        )
    named = options.output if output_kind(options.output) == "grid" else f"sheet.{options.format or 'png'}"
    seeds = {} if options.near is None else {"seeds": format_seeds(plan.seeds)}
    flag = "--from" if options.near is None else "--near"
    what = [flag, str(path), *(["--seeds", seeds["seeds"]] if seeds else ["-n", str(len(pictures))])]
    what += ["--temperature", "1.0"] if seeds and options.temperature == 1 else []  # which is no default here
    info = {**settings_of(options, loaded, dtype), **seeds, flag[2:]: str(path)}
    info["command"] = command_of(info, what, named, columns)
    encoded = encode(grid(sheet, columns), options.format or format_of(Path(named)), info)
    result: dict[str, Any] = {"paths": [], "count": len(pictures), "hash": loaded.hash, **seeds}
    if output_kind(options.output) == "stdout":
        result["png"] = encoded
    else:
        atomic_write(Path(options.output), encoded)
        result["paths"] = [options.output]
    result["seconds"] = round(time.monotonic() - began, 3)
    return result


def sheet_columns(options: SampleOptions, shown: int) -> int:
    """As asked for, else about a square; beside each other stays what is a pair."""
    if options.near is not None:
        return options.columns or math.ceil(math.sqrt(shown))
    asked = None if options.columns is None else options.columns + options.columns % 2
    return asked or 2 * max(1, round(math.sqrt(shown) / 2))


def read_pictures(path: Path, count: int, backend: Backend, reporter: Reporter) -> ImageArray:
    """At most `count` pictures (N, H, W, C), uint8, of a file, a folder or an archive, as the model takes them."""
    source = _source_of(path)
    channels, size, _ = backend.config.image_shape
    found: list[ImageArray] = []
    for index in range(len(source)):
        if len(found) == count:
            break
        try:
            found.append(fit_image(load_image(source, index), size, channels, "center", source.names[index]))
        except UnreadableError as error:
            reporter.warn(f"skipped {source.names[index]}: {error}")
    if not found:
        raise DataError(f"no picture of {path} can be read", "PNG, JPEG, WebP, GIF, BMP and TIFF can")
    if count == len(found) < len(source) and count > 1:
        reporter.info(f"the first {count} of {len(source)} pictures; -n takes more")
    return np.stack(found)


def _source_of(path: Path) -> Source:
    try:
        return open_source(str(path), split="all", use_classes=False, cache_dir=default_cache_dir())
    except DataError:
        if not path.is_file():
            raise
        reader = FolderReader(str(path.parent), [path.name])
        return Source(path.name, (), [path.name], np.zeros(1, np.int64), "", 0, reader)


def _beside(backend: Backend, pictures: ImageArray, options: SampleOptions, reporter: Reporter) -> ImageArray:
    """Each picture, then its reconstruction."""
    size = options.batch or default_batch_size(backend)
    found: list[ImageArray] = []
    with reporter.task("looking", len(pictures)) as task:
        for start in range(0, len(pictures), size):
            images = _images(pictures[start : start + size], backend)
            found.append(to_uint8(backend.reconstruct(images, _asked(backend, options, images))))
            task.update(start + len(images))
    return np.stack([pictures, np.concatenate(found)], 1).reshape(-1, *pictures.shape[1:])


def _near(backend: Backend, pictures: ImageArray, plan: SamplePlan, options: SampleOptions) -> ImageArray:
    """The picture, then those near it: its noise and other noise, mixed so that the variance stays."""
    images = _images(pictures, backend)
    own, labels = backend.invert(images, _asked(backend, options, images), options.sampling)
    size = options.batch or default_batch_size(backend)
    share = options.temperature
    found = [pictures]
    for start in range(0, len(plan), size):
        items = [SampleSpec(plan[index].seed) for index in range(start, min(len(plan), start + size))]
        noise, _ = noise_for(items, backend)
        of_items = None if labels is None else labels.expand(len(items))
        mixed = math.sqrt(1 - share**2) * own + share * noise.to(images.device)
        found.append(to_uint8(backend.generate(mixed, of_items, replace(options.sampling, temperature=1.0))))
    return np.concatenate(found)


def _asked(backend: Backend, options: SampleOptions, images: Tensor) -> Tensor | None:
    """The class that was asked for, of each picture; none lets the family find it."""
    if options.label is None:
        return None
    return torch.full((len(images),), backend.config.class_index(options.label), device=images.device)


def _device(backend: Backend) -> torch.device:
    return backend.device


def _images(pictures: ImageArray, backend: Backend) -> Tensor:
    levels = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(_device(backend))
    return levels.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
