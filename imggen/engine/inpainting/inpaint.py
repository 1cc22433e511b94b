"""Pictures with holes → fills: the model works squares at its own size, what is known keeps its bits."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import imggen
from imggen.data.decode import decode_image, to_array, with_channels
from imggen.engine.checkpoints import LoadedModel, open_model
from imggen.engine.inpainting.blending import biharmonic, check_classical
from imggen.engine.inpainting.image_file import LOSSLESS, Mask, SourceImage, filled, format_for, open_source_image, save
from imggen.engine.inpainting.inputs import Pair, check_fill_output, find_pairs, result_path, wanted_format
from imggen.engine.inpainting.masks import box_mask, feathered, grown, parts_of, read_mask, squares
from imggen.engine.inpainting.tiles import AT_ONCE, Canvas, TileInpainter
from imggen.engine.options import InpaintOptions
from imggen.engine.outputs import LONGEST_SIDE
from imggen.engine.seeds import MAX_SEED
from imggen.errors import DataError, UsageError
from imggen.io.animation import composite_on_white
from imggen.io.atomic import atomic_write
from imggen.io.image import ImageArray, encode, format_of, grid
from imggen.reporting import Reporter

MOST_HIDDEN = 0.95
SOFT = 4  # times the model's size: squares wider than that are filled softly
WIDE_SCRATCHES = 0.2
GREY = 128  # how a hole is shown on a sheet


@dataclass(frozen=True)
class Holed:
    """A picture and its hole (H, W); `fresh` is where it had no pixels at all: transparent, or beyond its edges."""

    pair: Pair
    original: SourceImage
    hole: Mask
    fresh: Mask


def inpaint(options: InpaintOptions, reporter: Reporter) -> dict[str, Any]:
    """Fill holes; returns the paths and, for each picture, its hole's share. Errors as in `imggen.errors`."""
    began = time.monotonic()
    pairs = _checked(options, reporter)
    loaded = _model(options, reporter)
    fill = _filler(options, loaded, reporter)
    document: dict[str, Any] = {"paths": [], "seed": options.seed, "count": options.count, "method": options.method}
    if loaded is not None:
        document |= {"weights": str(loaded.path), "hash": loaded.hash}
    pictures: list[dict[str, Any]] = []
    rows: list[list[ImageArray]] = []
    group = max(1, (options.batch or AT_ONCE) // options.count)
    with reporter.task("filling", len(pairs)) as task:
        for start in range(0, len(pairs), group):
            several = [_open(options, pair) for pair in pairs[start : start + group]]

            def advance(share: float, start: int = start, count: int = len(several)) -> None:
                task.update(start + share * count)

            for holed, fills in zip(several, fill(several, advance), strict=True):
                results = [_result(options, holed, picture) for picture in fills]
                told = {"image": str(holed.pair.image), "hole": round(float(holed.hole.mean()), 4)}
                if options.sheet:
                    rows.append(_row(holed, results))
                else:
                    told["paths"] = _write(options, holed, results, loaded)
                    document["paths"] += told["paths"]
                pictures.append(told)
            task.update(start + len(several))
    if options.sheet:
        path = Path(options.output)
        atomic_write(path, encode(_sheet(rows), format_of(path), _settings(options, loaded, None)))
        document["paths"] = [options.output]
    return {**document, "pictures": pictures, "seconds": round(time.monotonic() - began, 3)}


def _checked(options: InpaintOptions, reporter: Reporter) -> list[Pair]:
    """Every picture and mask is looked at before anything is loaded or written. Raises UsageError, DataError."""
    check_fill_output(options)
    if options.mask is None and not options.boxes and not options.from_alpha and not any(options.expand):
        raise UsageError("where is the hole?", "--mask FILE, --box X,Y,W,H, --mask-from-alpha or --expand N")
    if options.feather and (options.from_alpha or any(options.expand)):
        raise UsageError("--feather mixes in what was in the hole, and there was nothing", "leave it out")
    if options.seed + options.count - 1 > MAX_SEED:
        raise UsageError(f"the seeds from {options.seed} on are too large", f"the largest is {MAX_SEED}")
    pairs = find_pairs(options)
    lossy = False
    for pair in pairs:
        holed = _open(options, pair)
        format = format_for(holed.original, None if options.sheet else wanted_format(options))
        lossy |= format not in LOSSLESS
        share = float(holed.hole.mean())
        if share > MOST_HIDDEN:
            reporter.warn(f"{pair.image}: {share:.0%} is hole, little is known")
        if options.method == "classical" and share > WIDE_SCRATCHES:
            reporter.warn(f"{pair.image}: {share:.0%} is hole; --method classical is for thin scratches")
        if holed.original.frames > 1:
            reporter.warn(f"{pair.image}: of its {holed.original.frames} pictures only the first is filled and kept")
    if lossy and not options.sheet:
        reporter.warn("JPEG changes every pixel a little, known ones too; a name in .png keeps them")
    return pairs


def _open(options: InpaintOptions, pair: Pair) -> Holed:
    """Raises DataError for what cannot be read or makes no hole."""
    original = open_source_image(pair.image)
    width, height = original.size
    hole = box_mask(options.boxes, original.size)
    if pair.mask is not None:
        found = read_mask(pair.mask, original.size, resize=options.resize_mask)
        hole |= ~found if options.invert else found
    fresh = np.zeros_like(hole)
    if options.from_alpha:
        alpha = original.alpha()
        if alpha is None:
            raise DataError(f"{pair.image} has no transparency", "--mask FILE says where the hole is")
        fresh = alpha < 128
        hole |= ~fresh if options.invert and pair.mask is None else fresh
    hole = grown(hole, options.grow)
    if any(options.expand):
        left, top, right, bottom = options.expand
        if max(width + left + right, height + top + bottom) > LONGEST_SIDE:
            raise UsageError(f"{pair.image} would grow too large", f"--expand up to {LONGEST_SIDE:,} pixels a side")
        edges = ((top, bottom), (left, right))
        original, new = original.expanded(left, top, right, bottom)
        hole, fresh = np.pad(hole, edges) | new, np.pad(fresh, edges) | new
    if not hole.any():
        source = pair.mask or pair.image
        raise DataError(f"{source}: there is no hole to fill", "white is the hole; --invert-mask takes black")
    if hole.all():
        raise DataError(
            f"{pair.mask or pair.image}: everything is hole", "--invert-mask, or imggen sample draws freely"
        )
    return Holed(pair, original, hole, fresh & hole)


Fill = Callable[[list[Holed], Callable[[float], None]], Iterator[ImageArray]]


def _model(options: InpaintOptions, reporter: Reporter) -> LoadedModel | None:
    if options.method == "classical":
        check_classical()
        return None
    if options.model is None:
        raise UsageError("which model fills the hole?", "imggen inpaint MODEL …, or --method classical")
    loaded = open_model(options, options.model, reporter)
    if options.label is not None:
        loaded.backend.config.class_index(options.label)
    if limitation := loaded.backend.limitation("inpaint"):
        reporter.warn(f"this model fills less well than others of its family: {limitation}")
    return loaded


def _filler(options: InpaintOptions, loaded: LoadedModel | None, reporter: Reporter) -> Fill:
    """What fills some pictures: for each (N, H, W, C) of the fills."""
    if loaded is None:

        def classical(several: list[Holed], advance: Callable[[float], None]) -> Iterator[ImageArray]:
            for number, holed in enumerate(several):
                yield np.stack([biharmonic(_pixels(holed, None), holed.hole)] * options.count)
                advance((number + 1) / len(several))

        return classical
    backend = loaded.backend
    label = None if options.label is None else backend.config.class_index(options.label)
    filler = TileInpainter(
        backend,
        range(options.seed, options.seed + options.count),
        label,
        options.sampling,
        options.batch,
        lambda size: reporter.warn(f"not enough memory: filling {size} squares at a time"),
    )
    size, channels = backend.config.size, backend.config.channels
    said: set[str] = set()

    def once(message: str) -> None:
        if message not in said:
            reporter.info(message)
        said.add(message)

    def model(several: list[Holed], advance: Callable[[float], None]) -> Iterator[ImageArray]:
        canvases = []
        for holed in several:
            parts, count = parts_of(holed.hole)
            places = squares(parts, count, size, math.inf if options.context == 0 else options.context)
            pixels = _pixels(holed, channels)
            canvases.append(Canvas(np.stack([pixels] * options.count), holed.hole.copy(), parts, places))
            widest = max(place.side for place in places)
            if widest > SOFT * size:
                once(f"squares of more than {SOFT * size} pixels are worked at {size}: such fills are soft")
            if channels == 1 and holed.original.plain().mode not in ("L", "LA"):
                once("this model draws grey: holes in coloured pictures are filled with grey")
        total = sum(len(canvas.squares) for canvas in canvases) * options.count
        done = 0

        def count_up(more: int) -> None:
            nonlocal done
            done += more
            advance(done / total)

        filler.fill(canvases, count_up)
        yield from (canvas.fills for canvas in canvases)

    return model


def _pixels(holed: Holed, channels: int | None) -> ImageArray:
    """(H, W, C) as the model sees it; with `channels` none, the bare colours: 1 for a grey picture, 3 for any other."""
    plain = holed.original.plain()
    if channels is None:
        channels = 1 if plain.mode in ("L", "LA") else 3
        plain = plain.convert("L" if channels == 1 else "RGB")
    return to_array(with_channels(plain, channels), channels)


def _result(options: InpaintOptions, holed: Holed, fill: ImageArray) -> Image.Image:
    """The picture in its own mode, filled."""
    colours = fill
    if options.feather:
        weight = feathered(holed.hole, options.feather)[..., None]
        old = _pixels(holed, fill.shape[2])
        colours = np.rint(weight * fill + (1 - weight) * old).astype(np.uint8)
    alpha = holed.original.alpha()
    if alpha is not None:
        # A model that draws alpha says it; with any other, what had no pixels becomes opaque and the rest stays.
        alpha = colours[..., 3] if fill.shape[2] == 4 else np.where(holed.fresh, 255, alpha).astype(np.uint8)
        colours = colours[..., :3]
    elif fill.shape[2] == 4:
        colours = composite_on_white(colours)
    return filled(holed.original, holed.hole, colours, alpha)


def _write(options: InpaintOptions, holed: Holed, results: list[Image.Image], loaded: LoadedModel | None) -> list[str]:
    paths = []
    format = format_for(holed.original, wanted_format(options))
    for number, result in enumerate(results):
        path = result_path(options, holed.pair, number, format)
        path.parent.mkdir(parents=True, exist_ok=True)
        info = _settings(options, loaded, (holed.pair, options.seed + number, path.name))
        atomic_write(path, save(holed.original, result, format, info))
        paths.append(str(path))
    return paths


def _shown(image: Image.Image) -> ImageArray:
    clear = image.convert("RGBA") if image.has_transparency_data else image
    return composite_on_white(np.array(clear if clear.mode == "RGBA" else clear.convert("RGB")))


def _row(holed: Holed, results: list[Image.Image]) -> list[ImageArray]:
    """Original, hole, fills; (H, W, 3) each."""
    first = _shown(holed.original.plain())
    first[holed.fresh] = 255
    marked = first.copy()
    marked[holed.hole] = GREY
    return [first, marked, *(_shown(decode_image(result)) for result in results)]


def _sheet(rows: list[list[ImageArray]]) -> ImageArray:
    cells = [cell for row in rows for cell in row]
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    if max((height + 2) * len(rows), (width + 2) * len(rows[0])) > LONGEST_SIDE:
        raise UsageError("the sheet is too large for one file", "fewer or smaller pictures, or -o folder/")
    same = []
    for cell in cells:
        down, across = height - cell.shape[0], width - cell.shape[1]
        edges = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
        same.append(np.pad(cell, edges, constant_values=255))
    sheet = grid(np.stack(same), len(rows[0]))
    return sheet[..., :1] if (sheet == sheet[..., :1]).all() else sheet


def _settings(options: InpaintOptions, loaded: LoadedModel | None, one: tuple[Pair, int, str] | None) -> dict[str, Any]:
    """What a file remembers; `one` is the picture, the seed and the name of a file that is no sheet."""
    name = options.model if options.weights is None else str(options.weights)
    words = ["imggen", "inpaint", *([str(name)] if loaded is not None else [])]
    pair, seed, output = one or (None, options.seed, Path(options.output).name)
    mask = options.mask if pair is None else pair.mask
    given: dict[str, Any] = {"--image": options.image if pair is None else pair.image, "--mask": mask}
    given["--expand"] = ",".join(map(str, options.expand)) if any(options.expand) else None
    given["--grow"], given["--feather"] = options.grow or None, options.feather or None
    given["--class"] = options.label
    given |= {"--" + name.replace("_", "-"): value for name, value in options.sampling.changed().items()}
    if loaded is None:
        given["--method"] = "classical"
    else:
        given["--context"] = f"{options.context:g}" if options.context != 2 else None
        given["--seed"] = seed
        given["-n"] = options.count if pair is None else None
    words += [str(word) for name, value in given.items() if value is not None for word in (name, value)]
    words += [word for box in options.boxes for word in ("--box", ",".join(map(str, box)))]
    flags = {
        "--mask-from-alpha": options.from_alpha,
        "--invert-mask": options.invert,
        "--resize-mask": options.resize_mask,
        "--sheet": options.sheet,
    }
    words += [flag for flag, wanted in flags.items() if wanted]
    return {
        "imggen": imggen.__version__,
        **({"model": name, "hash": loaded.hash} if loaded is not None else {"method": "classical"}),
        **{key.lstrip("-"): str(value) for key, value in given.items() if value is not None},
        "command": shlex.join([*words, "-o", output]),
    }


def plan(options: InpaintOptions, reporter: Reporter) -> dict[str, Any]:
    """What `inpaint` would do, resolved, without filling."""
    pairs = _checked(options, reporter)
    loaded = _model(options, reporter)
    found = []
    for pair in pairs:
        holed = _open(options, pair)
        parts, count = parts_of(holed.hole)
        size = 0 if loaded is None else loaded.backend.config.size
        places = squares(parts, count, size, math.inf if options.context == 0 else options.context)
        format = format_for(holed.original, None if options.sheet else wanted_format(options))
        paths = (
            [options.output]
            if options.sheet
            else [str(result_path(options, pair, number, format)) for number in range(options.count)]
        )
        share = round(float(holed.hole.mean()), 4)
        found.append({"image": str(pair.image), "hole": share, "squares": len(places), "paths": paths})
    return {
        "model": None if loaded is None else str(loaded.path),
        "method": options.method,
        "seed": options.seed,
        "count": options.count,
        "output": options.output,
        "pictures": found,
    }
