"""Images and masks to fills: the model fills tiles at its own size, unmasked pixels keep their bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from imggen.data.decode import to_array, with_channels
from imggen.data.deep_gray import image_strips
from imggen.engine.checkpoints import LoadedModel, open_model
from imggen.engine.inpainting.blending import biharmonic
from imggen.engine.inpainting.image_file import encode_result, replace_masked
from imggen.engine.inpainting.inputs import MaskedImage, MaskedImages, result_format, result_path
from imggen.engine.inpainting.masks import feather_weights
from imggen.engine.inpainting.regions import find_regions, tile_boxes
from imggen.engine.inpainting.tiles import BATCH_OF_32_PX, Canvas, TileInpainter
from imggen.engine.options import InpaintOptions
from imggen.engine.provenance import settings
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, composite_on_white, encode, format_of, grid
from imggen.reporting import Reporter

WARN_TILE_SCALE = 4  # tiles more than this many times as wide as the model's images are filled without fine detail
MAX_PIXELS_PER_GROUP = 4_000_000
MASK_GRAY = 128  # how the mask is shown on a sheet


def inpaint(options: InpaintOptions, images: MaskedImages, reporter: Reporter) -> dict[str, Any]:
    """Fill and write the images; see `imggen.engine.inpainting.run`."""
    began = time.monotonic()
    loaded = _open_model(options, reporter)
    inpainter = ClassicalInpainter(options) if loaded is None else ModelInpainter(options, loaded, reporter)
    result: dict[str, Any] = {"paths": [], "seed": options.seed, "count": options.count, "method": options.method}
    if loaded is not None:
        result |= {"weights": str(loaded.path), "hash": loaded.hash}
    reports: list[dict[str, Any]] = []
    rows: list[list[ImageArray]] = []
    groups = _groups(images, max(1, (options.batch or BATCH_OF_32_PX) // options.count))
    with reporter.task("inpainting", len(images)) as task:
        for group in groups:
            done = len(reports)

            def advance(fraction: float, done: int = done, count: int = len(group)) -> None:
                task.update(done + fraction * count)

            for image, fills in zip(group, inpainter.fill(group, advance), strict=True):
                results = _make_results(options, image, fills)
                report = {"image": str(image.files.image), "masked_fraction": round(image.masked_fraction, 4)}
                if options.sheet:
                    rows.append(_sheet_row(image, results))
                else:
                    report["paths"] = _write_results(options, image, results, loaded)
                    result["paths"] += report["paths"]
                reports.append(report)
            task.update(len(reports))
    if options.sheet:
        path = Path(options.output)
        info = settings("inpaint", options, loaded, seed=options.seed, output=path.name)
        atomic_write(path, encode(_make_sheet(rows), format_of(path), info))
        result["paths"] = [options.output]
    return {**result, "images": reports, "seconds": round(time.monotonic() - began, 3)}


def _groups(images: Iterable[MaskedImage], count: int) -> Iterator[list[MaskedImage]]:
    """Yield groups of images to fill together: up to `count`, and fewer if they are large, to bound the memory."""
    group: list[MaskedImage] = []
    for image in images:
        group.append(image)
        if len(group) == count or sum(each.mask.size for each in group) >= MAX_PIXELS_PER_GROUP:
            yield group
            group = []
    if group:
        yield group


def describe_plan(options: InpaintOptions, images: MaskedImages, reporter: Reporter) -> dict[str, Any]:
    """What `inpaint` would do; see `imggen.engine.inpainting.dry_run`."""
    loaded = _open_model(options, reporter)
    model_size = 0 if loaded is None else loaded.backend.config.size
    reports = []
    for image in images:
        tiles = tile_boxes(find_regions(image.mask), model_size, options.context or math.inf)
        paths = [options.output]
        if not options.sheet:
            paths = [str(result_path(options, image, number)) for number in range(options.count)]
        reports.append(
            {
                "image": str(image.files.image),
                "masked_fraction": round(image.masked_fraction, 4),
                "tiles": len(tiles),
                "paths": paths,
            }
        )
    return {
        "model": None if loaded is None else str(loaded.path),
        "method": options.method,
        "seed": options.seed,
        "count": options.count,
        "output": options.output,
        "images": reports,
    }


def _open_model(options: InpaintOptions, reporter: Reporter) -> LoadedModel | None:
    """The model, or None for the classical method. Raises UsageError, CheckpointError and DeviceError."""
    if options.method == "classical":
        return None
    assert options.model is not None
    loaded = open_model(options, options.model, reporter)
    if options.label is not None:
        loaded.backend.config.class_index(options.label)
    if limitation := loaded.backend.limitation("inpaint"):
        reporter.warn(f"this model fills less well than others of its family: {limitation}")
    return loaded


class Inpainter(Protocol):
    """The interface of the two methods of inpainting."""

    def fill(self, images: Sequence[MaskedImage], advance: Callable[[float], None]) -> Iterator[ImageArray]:
        """Yield, for each image, its fills (count, H, W, C); `advance` is called with the fraction that is done."""


class ClassicalInpainter:
    """Fills without a model, by a smooth surface; all fills of an image are equal."""

    def __init__(self, options: InpaintOptions) -> None:
        self.count = options.count

    def fill(self, images: Sequence[MaskedImage], advance: Callable[[float], None]) -> Iterator[ImageArray]:
        """Yield, for each image, its fills (count, H, W, C): C is 1 for a gray image and 3 for any other."""
        for number, image in enumerate(images, 1):
            yield np.stack([biharmonic(_read_pixels(image, None), image.mask)] * self.count)
            advance(number / len(images))


class ModelInpainter:
    """Fills with a model; C of the fills is the model's number of channels."""

    def __init__(self, options: InpaintOptions, loaded: LoadedModel, reporter: Reporter) -> None:
        self.count, self.context = options.count, options.context or math.inf
        self.config = loaded.backend.config
        self.reporter = reporter
        self._reported: set[str] = set()
        self._tiles = TileInpainter(
            loaded.backend,
            range(options.seed, options.seed + options.count),
            None if options.label is None else self.config.class_index(options.label),
            options.sampling,
            options.batch,
            lambda size: reporter.warn(f"not enough memory: filling {size} tiles at a time"),
        )

    def fill(self, images: Sequence[MaskedImage], advance: Callable[[float], None]) -> Iterator[ImageArray]:
        """Yield, for each image, its fills (count, H, W, C)."""
        canvases = [self._make_canvas(image) for image in images]
        total = sum(len(canvas.boxes) for canvas in canvases) * self.count
        done = 0

        def count_tiles(tiles: int) -> None:
            nonlocal done
            done += tiles
            advance(done / total)

        self._tiles.fill(canvases, count_tiles)
        while canvases:  # so that the memory of each is free once its fills are written
            yield canvases.pop(0).fills

    def _make_canvas(self, image: MaskedImage) -> Canvas:
        """Plan the tiles of an image, and report once what will limit its fills."""
        size, channels = self.config.size, self.config.channels
        regions = find_regions(image.mask)
        boxes = tile_boxes(regions, size, self.context)
        if max(box.side for box in boxes) > WARN_TILE_SCALE * size:
            self._report_once(f"regions over {WARN_TILE_SCALE * size} px are filled at {size} px: soft results")
        if channels == 1 and image.source.plain().mode not in ("L", "LA"):
            self._report_once("this model generates gray images: masked regions of color images become gray")
        pixels = _read_pixels(image, channels)
        fills = pixels[None] if self.count == 1 else np.stack([pixels] * self.count)
        return Canvas(fills, image.mask.copy(), regions, boxes)

    def _report_once(self, message: str) -> None:
        if message not in self._reported:
            self.reporter.info(message)
        self._reported.add(message)


def _read_pixels(image: MaskedImage, channels: int | None) -> ImageArray:
    """(H, W, C) with a model's channels; with None, only the colors: 1 channel of a gray image, 3 of any other."""
    plain = image.source.plain()
    only_colors = channels is None
    channels = channels or (1 if plain.mode in ("L", "LA") else 3)
    pixels = np.empty((plain.height, plain.width, channels), np.uint8)
    for top, part in image_strips(plain):
        opaque = part.convert("L" if channels == 1 else "RGB") if only_colors else part
        pixels[top : top + part.height] = to_array(with_channels(opaque, channels), channels)
    return pixels


def _make_results(options: InpaintOptions, image: MaskedImage, fills: ImageArray) -> Iterator[Image.Image]:
    """The results of one image, each made when it is asked for; the last may use the memory of the image itself."""
    for number, fill in enumerate(fills):
        is_last = number == len(fills) - 1 and not options.sheet
        yield _make_result(options, image, fill, in_place=is_last)


def _make_result(options: InpaintOptions, image: MaskedImage, fill: ImageArray, *, in_place: bool) -> Image.Image:
    """The image in its own mode, with its masked pixels taken from the fill (H, W, C)."""
    colors = fill
    if options.feather:
        weights = feather_weights(image.mask, options.feather)[..., None]
        own_colors = _read_pixels(image, fill.shape[2])
        colors = np.rint(weights * fill + (1 - weights) * own_colors).astype(np.uint8)
        if fill.shape[2] == 4 and has_hard_alpha(fill) and has_hard_alpha(own_colors):
            colors[..., 3] = fill[..., 3]
    # Where no alpha is generated and no pixel was empty, every pixel keeps its own.
    may_change_alpha = fill.shape[2] == 4 or image.empty.any()
    alpha = image.source.alpha() if may_change_alpha else None
    if alpha is not None:
        # A model with alpha generates it; with any other, empty pixels become opaque and all others keep theirs.
        alpha = colors[..., 3] if fill.shape[2] == 4 else np.where(image.empty, 255, alpha).astype(np.uint8)
        colors = colors[..., :3]
    elif fill.shape[2] == 4:
        colors = composite_on_white(colors)
    return replace_masked(image.source, image.mask, colors, alpha, in_place=in_place)


def has_hard_alpha(pixels: ImageArray) -> bool:
    """Whether alpha, the last of four channels, is only 0 or 255."""
    alpha = pixels[..., 3]
    return bool(((alpha == 0) | (alpha == 255)).all())


def _write_results(
    options: InpaintOptions, image: MaskedImage, results: Iterator[Image.Image], loaded: LoadedModel | None
) -> list[str]:
    """Write the results of one image; returns their paths."""
    paths = []
    format = result_format(options, image)
    for number, result in enumerate(results):
        path = result_path(options, image, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        own_files = {"image": image.files.image, "mask": image.files.mask, "output": path.name}
        info = settings("inpaint", options, loaded, **own_files, seed=options.seed + number, count=None)
        atomic_write(path, encode_result(image.source, result, format, info))
        paths.append(str(path))
    return paths


def _sheet_row(image: MaskedImage, results: Iterator[Image.Image]) -> list[ImageArray]:
    """The original, the original with its mask in gray, and the fills; (H, W, 3) each."""
    original = _on_white(image.source.plain())
    original[image.empty] = 255
    with_mask = original.copy()
    with_mask[image.mask] = MASK_GRAY
    fills = (replace(image.source, image=result).plain() for result in results)
    return [original, with_mask, *(_on_white(fill) for fill in fills)]


def _on_white(image: Image.Image) -> ImageArray:
    return composite_on_white(np.array(image.convert("RGBA" if image.has_transparency_data else "RGB")))


def _make_sheet(rows: list[list[ImageArray]]) -> ImageArray:
    """One grid (H, W, C) of all rows; smaller images are centered. C is 1 if everything is gray, else 3."""
    cells = [cell for row in rows for cell in row]
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    padded = []
    for cell in cells:
        down, across = height - cell.shape[0], width - cell.shape[1]
        margins = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
        padded.append(np.pad(cell, margins, constant_values=255))
    sheet = grid(np.stack(padded), len(rows[0]))
    return sheet[..., :1] if (sheet == sheet[..., :1]).all() else sheet
