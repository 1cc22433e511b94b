"""Images to masks: the class of every pixel, as a palette PNG of the image's own size."""

from __future__ import annotations

import io
import time
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from imggen.data.cache import check_skipped
from imggen.data.decode import UnreadableError, load_image, to_array, with_channels
from imggen.data.masks import MaskTable
from imggen.data.scan import open_images
from imggen.documents import DocumentError
from imggen.engine.checkpoints import LoadedModel, load_model, prepare
from imggen.engine.options import SegmentOptions
from imggen.engine.sheet import Cell, draw_sheet, in_rows, resized
from imggen.engine.tiling import map_in_tiles
from imggen.errors import CheckpointError, UsageError
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, composite_on_white, encode, format_of
from imggen.models import kind_of
from imggen.models.mapper.segment.model import SegmentModel
from imggen.reporting import Reporter

OVERLAY_STRENGTH = 0.5
MAX_SHEET_IMAGES, SHEET_SIDE, SHEET_COLUMNS = 48, 128, 4


class Found(NamedTuple):
    """Of one image (H, W, C): the class numbers (H, W), and each class's probability (H, W, classes) of 255."""

    pixels: ImageArray
    classes: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.uint8]


def segment(options: SegmentOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the masks; see `imggen.engine.mapping.run_segment`."""
    began = time.monotonic()
    source = open_images(options.image, reporter, exclude=(Path(options.output),))
    loaded = load_model(options.model, weights=options.weights, device=options.device)
    model, table = _open(loaded)
    prepare(loaded, reporter, full_precision=True)
    names = _result_names(source.names)
    images, paths, cells, skipped = [], list[str](), list[list[Cell]](), list[tuple[str, str]]()
    with reporter.task("segmenting", len(source)) as task:
        for index, name in enumerate(names):
            try:
                image = load_image(source, index)
            except UnreadableError as error:
                skipped.append((source.names[index], str(error)))
                continue
            found = _find(model, image, options.scale or model.config.scale)
            written = _write(Path(options.output) / name, found, table, options)
            images.append({"path": source.names[index], "mask": written[0], "classes": _regions(found.classes, table)})
            paths += written
            if options.sheet is not None and len(cells) < MAX_SHEET_IMAGES:
                cells.append(_cells(found, table, source.names[index]))
            task.update(index + 1)
    check_skipped(tuple(skipped), len(source), strict=False)
    for name, reason in skipped:
        reporter.warn(f"left out {name}: {reason}")
    if options.sheet is not None:
        paths.append(_write_sheet(options.sheet, cells))
    seconds = round(time.monotonic() - began, 3)
    return {"images": images, "count": len(images), "hash": loaded.hash, "paths": paths, "seconds": seconds}


def _open(loaded: LoadedModel) -> tuple[SegmentModel, MaskTable]:
    """The model and its table. Raises UsageError for a model of another kind, CheckpointError for a damaged table."""
    model = loaded.model
    if not isinstance(model, SegmentModel):
        noun, _, use = kind_of(model.config.family)
        raise UsageError(f"{loaded.path} is a {noun}: it labels no pixels", use)
    try:
        return model, MaskTable.from_json(model.config.table or {})
    except DocumentError as error:
        raise CheckpointError(f"{loaded.path}: its table of classes {error}", "copy it again") from error


def _result_names(names: list[str]) -> list[str]:
    """Relative paths of the masks: those of the images, with the ending .png; after theirs, where stems collide."""
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names)
    results = []
    for name in names:
        stem = str(PurePosixPath(name).with_suffix(""))
        parts = [part for part in PurePosixPath(stem if stems[stem] == 1 else name).parts if part not in ("..", "/")]
        results.append(f"{PurePosixPath(*parts)}.png")
    return results


@torch.inference_mode()
def _find(model: SegmentModel, image: Image.Image, scale: float) -> Found:
    """The classes of an image, which the model sees resized by `scale`."""
    whole = with_channels(image, model.config.channels)
    pixels = to_array(whole, model.config.channels)
    size = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
    seen = pixels if size == whole.size else to_array(whole.resize(size, Image.Resampling.LANCZOS), pixels.shape[2])

    def apply(tile: Tensor) -> Tensor:
        return model(tile).float().softmax(1).mul(255).round().byte()

    network = model.network
    probabilities = map_in_tiles(
        seen,
        apply,
        len(model.config.pixel_classes),
        reach=network.reach,
        multiple=network.multiple,
        device=model.device,
    )
    if size != whole.size:
        planes = [Image.fromarray(plane) for plane in np.moveaxis(probabilities, 2, 0)]
        own = [np.asarray(plane.resize(whole.size, Image.Resampling.BILINEAR)) for plane in planes]
        probabilities = np.stack(own, 2)
    return Found(pixels, probabilities.argmax(2).astype(np.uint8), probabilities)


def _write(path: Path, found: Found, table: MaskTable, options: SegmentOptions) -> list[str]:
    """Write the mask and what else is wanted; returns the paths, the mask's first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(found.classes)
    mask.putpalette(table.palette().tobytes())
    file = io.BytesIO()
    mask.save(file, "PNG", optimize=False)
    files = {path: file.getvalue()}
    if options.overlay:
        files[path.with_name(f"{path.stem}-overlay.png")] = encode(_overlay(found, table), "png", None)
    if options.probabilities:
        for number in range(len(table.names)):
            plane = np.ascontiguousarray(found.probabilities[..., number : number + 1])
            files[path.with_name(f"{path.stem}-class-{number}.png")] = encode(plane, "png", None)
    for name, data in files.items():
        atomic_write(name, data)
    return [str(name) for name in files]


def _overlay(found: Found, table: MaskTable) -> ImageArray:
    """The image (H, W, 3) with the colors of its classes laid over it; class 0 stays as it is."""
    own = composite_on_white(found.pixels).astype(np.float32)
    colors = table.palette()[found.classes].astype(np.float32)
    weight = np.where(found.classes[..., None] > 0, OVERLAY_STRENGTH, 0.0)
    return np.rint(own + (colors - own) * weight).astype(np.uint8)


def _regions(classes: npt.NDArray[np.uint8], table: MaskTable) -> list[dict[str, Any]]:
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
    shown = (composite_on_white(found.pixels), _overlay(found, table), table.palette()[found.classes])
    texts = (name, "overlay", "mask")
    return [Cell(resized(_squared(each), SHEET_SIDE), text) for each, text in zip(shown, texts, strict=True)]


def _squared(image: ImageArray) -> ImageArray:
    """The image (H, W, 3) in the center of a white square."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(image, ((top, side - height - top), (left, side - width - left), (0, 0)), constant_values=255)


def _write_sheet(path: Path, cells: list[list[Cell]]) -> str:
    atomic_write(path, encode(draw_sheet(in_rows(cells, SHEET_COLUMNS), SHEET_SIDE), format_of(path), None))
    return str(path)
