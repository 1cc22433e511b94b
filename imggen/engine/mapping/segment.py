"""Images to masks: the class of every pixel, as a palette PNG of the image's own size."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imggen.data.cache import check_skipped
from imggen.data.decode import UnreadableError, load_image
from imggen.data.masks import MaskTable
from imggen.data.scan import open_images
from imggen.engine.checkpoints import LoadedModel, load_model, prepare
from imggen.engine.mapping.inputs import image_of, result_names
from imggen.engine.options import SegmentOptions
from imggen.engine.provenance import settings
from imggen.engine.segmenter import Found, Plane, colors_of, find_classes, in_square, open_segmenter, overlay
from imggen.engine.sheet import Cell, draw_sheet, in_rows
from imggen.io.atomic import atomic_write
from imggen.io.image import encode, encode_image, format_of
from imggen.reporting import Reporter

MAX_SHEET_IMAGES, SHEET_SIDE, SHEET_COLUMNS = 48, 128, 4


def segment(options: SegmentOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the masks; see `imggen.engine.mapping.run_segment`."""
    began = time.monotonic()
    exclude = [Path(options.output)] + ([] if options.sheet is None else [options.sheet])
    source = open_images(options.image, reporter, exclude=exclude)
    loaded = load_model(options.model, weights=options.weights, device=options.device)
    model, table = open_segmenter(loaded)
    prepare(loaded, reporter, full_precision=True)
    scale = options.scale or model.config.scale
    images, paths, cells, skipped = [], list[str](), list[list[Cell]](), list[tuple[str, str]]()
    with reporter.task("segmenting", len(source)) as task:
        for index, name in enumerate(result_names(source.names, _endings(options, table))):

            def advance(fraction: float, index: int = index) -> None:
                task.update(index + fraction)

            try:
                image = load_image(source, index)
            except UnreadableError as error:
                skipped.append((source.names[index], str(error)))
                continue
            found = find_classes(model, image, scale, probabilities=options.probabilities, advance=advance)
            written = _write(name, found, table, options, partial(_settings, options, loaded, source.names[index]))
            images.append({"path": source.names[index], "mask": written[0], "classes": _regions(found.classes, table)})
            paths += written
            if options.sheet is not None and len(cells) < MAX_SHEET_IMAGES:
                cells.append(_cells(found, table, source.names[index]))
            task.update(index + 1)
    check_skipped(tuple(skipped), len(source), strict=False)
    for name, reason in skipped:
        reporter.warn(f"left out {name}: {reason}")
    if options.sheet is not None:
        info = settings("segment", options, loaded, overlay=None, probabilities=None, sheet=options.sheet)
        paths.append(_write_sheet(options.sheet, cells, info))
    seconds = round(time.monotonic() - began, 3)
    return {"images": images, "count": len(images), "hash": loaded.hash, "paths": paths, "seconds": seconds}


def _endings(options: SegmentOptions, table: MaskTable) -> list[str]:
    """What ends the names of the files of one image: of the mask, the overlay, and the probability of each class."""
    of_overlay = ["-overlay.png"] if options.overlay else []
    classes = range(len(table.names)) if options.probabilities else ()
    return [".png", *of_overlay, *(f"-class-{number}.png" for number in classes)]


def _settings(options: SegmentOptions, loaded: LoadedModel, name: str, **kinds: bool) -> dict[str, Any]:
    """What the files of one image record; `kinds` are the options that wrote them."""
    wanted = {"overlay": None, "probabilities": None, "sheet": None, **kinds}
    return settings("segment", options, loaded, image=image_of(options.image, name), output=options.output, **wanted)


def _write(
    name: str, found: Found, table: MaskTable, options: SegmentOptions, settings_with: Callable[..., dict[str, Any]]
) -> list[str]:
    """Write the mask and what else is wanted; returns the paths, the mask's first."""
    paths = [Path(options.output) / f"{name}{ending}" for ending in _endings(options, table)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(found.classes)
    mask.putpalette(table.palette().tobytes())
    atomic_write(paths[0], encode_image(mask, settings_with()))
    if options.overlay:
        atomic_write(paths[1], encode(overlay(found, table), "png", settings_with(overlay=True)))
    if options.probabilities:
        info = settings_with(probabilities=True)
        for number, path in enumerate(paths[-len(table.names) :]):
            atomic_write(path, encode(found.probability(number)[..., None], "png", info))
    return [str(path) for path in paths]


def _regions(classes: Plane, table: MaskTable) -> list[dict[str, Any]]:
    """Of each class that occurs: its number, its name, its share of the pixels, and its box (x, y, width, height)."""
    regions = []
    for number in np.unique(classes).tolist():
        inside = classes == number
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        left, top, right, bottom = (int(each) for each in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        share = round(float(inside.mean()), 6)
        box = [left, top, right - left, bottom - top]
        regions.append({"class": number, "name": table.names[number], "share": share, "box": box})
    return regions


def _cells(found: Found, table: MaskTable, name: str) -> list[Cell]:
    """The image, its overlay and its mask in three squares."""
    shown = (found.pixels, overlay(found, table), colors_of(found.classes, table))
    texts = (name, "overlay", "mask")
    return [Cell(in_square(each, SHEET_SIDE), text) for each, text in zip(shown, texts, strict=True)]


def _write_sheet(path: Path, cells: list[list[Cell]], info: dict[str, Any]) -> str:
    atomic_write(path, encode(draw_sheet(in_rows(cells, SHEET_COLUMNS), SHEET_SIDE), format_of(path), info))
    return str(path)
