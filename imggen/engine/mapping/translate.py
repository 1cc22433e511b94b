"""Images to images by a translator: of any size, and with the metadata of the originals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imggen.data.cache import check_skipped
from imggen.data.decode import (
    ImageFile,
    UnreadableError,
    decode_or_explain,
    decode_with_metadata,
    image_size,
    read_source,
    simple_mode,
    to_array,
    warn_of_frames,
    with_channels,
)
from imggen.data.deep_gray import image_strips
from imggen.data.readers import Source
from imggen.data.scan import open_images
from imggen.engine.checkpoints import LoadedModel, load_model, prepare
from imggen.engine.mapping.inputs import ENDINGS, image_of, metadata_of_color, result_names
from imggen.engine.noise import translation_noise
from imggen.engine.options import TranslateOptions
from imggen.engine.outputs import output_kind
from imggen.engine.provenance import settings
from imggen.engine.tiling import map_in_tiles
from imggen.errors import UsageError
from imggen.io.atomic import atomic_write
from imggen.io.formats import LONGEST_SIDE, MAX_PIXELS, check_side
from imggen.io.image import as_image, drop_alpha, format_of
from imggen.io.metadata import SilencedPillow, encode_with_metadata, fitting
from imggen.io.pixels import to_levels
from imggen.models import kind_of
from imggen.models.mapper.translate.model import TranslateModel
from imggen.reporting import Reporter


def translate(options: TranslateOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the translations; see `imggen.engine.mapping.run_translate`."""
    began = time.monotonic()
    source = open_images(options.image, reporter, exclude=(Path(options.output),))
    outputs = _outputs(options, source)
    _check_sides(source, format_of(outputs[0][0]), reporter)
    loaded = load_model(options.model, weights=options.weights, device=options.device)
    model = _open(loaded)
    if not model.config.noise and (options.count > 1 or options.seed):
        raise UsageError(
            f"{loaded.path} has no noise: an image has one result",
            "leave --count and --seed out; imggen train translate --paired --noise 16 makes models that have",
        )
    prepare(loaded, reporter, full_precision=True)
    results, skipped = list[dict[str, Any]](), list[tuple[str, str]]()
    count = options.count
    with reporter.task("translating", len(source) * count) as task:
        for index, (name, paths) in enumerate(zip(source.names, outputs, strict=True)):
            try:
                file = _read(source, index)
            except UnreadableError as error:
                skipped.append((name, str(error)))
                continue
            warn_of_frames(name, file.frames, "translated", reporter)
            for number, path in enumerate(paths):

                def advance(fraction: float, done: int = index * count + number) -> None:
                    task.update(done + fraction)

                one = replace(options, seed=options.seed + number, count=1)
                made = _translate(model, file, one, advance)
                _write(one, loaded, file, made, name, path, reporter)
                seed = {"seed": one.seed} if model.config.noise else {}
                results.append({"image": name, "path": str(path), "size": list(made.size), **seed})
    check_skipped(tuple(skipped), len(source), strict=False)
    for name, reason in skipped:
        reporter.warn(f"left out {name}: {reason}")
    seconds = round(time.monotonic() - began, 3)
    written = [result["path"] for result in results]
    return {"images": results, "count": len(results), "hash": loaded.hash, "paths": written, "seconds": seconds}


def _open(loaded: LoadedModel) -> TranslateModel:
    """The model. Raises UsageError for one of another kind."""
    if not isinstance(loaded.model, TranslateModel):
        noun, _, use = kind_of(loaded.model.config.family)
        raise UsageError(f"{loaded.path} is a {noun}: it translates no images", use)
    return loaded.model


def _outputs(options: TranslateOptions, source: Source) -> list[list[Path]]:
    """The files of the results of each image."""
    if output_kind(options.output) != "folder":
        return [[Path(options.output)]]
    numbers = [""] if options.count == 1 else [f"-{number + 1}" for number in range(options.count)]
    endings = [f"{number}{ENDINGS[options.format]}" for number in numbers]
    folder = Path(options.output)
    return [[folder / f"{name}{ending}" for ending in endings] for name in result_names(source.names, endings)]


def _check_sides(source: Source, format: str, reporter: Reporter) -> None:
    """Raise UsageError for an image whose result the format cannot store, by the headers of the images."""
    if LONGEST_SIDE[format] >= MAX_PIXELS:
        return
    with reporter.task("reading sizes", len(source)) as task:
        for index, name in enumerate(source.names):
            with suppress(UnreadableError):
                check_side(name, decode_or_explain(image_size, read_source(source, index)), format)
            task.update(index + 1)


def _read(source: Source, index: int) -> ImageFile:
    """Raises UnreadableError, also for an image of more than 8 bits a color channel."""
    file = decode_with_metadata(read_source(source, index))
    if file.has_deep_color:
        raise UnreadableError("it has 16 bits per color channel: convert it to 8 bits first")
    return file


@torch.inference_mode()
def _translate(
    model: TranslateModel, file: ImageFile, options: TranslateOptions, advance: Callable[[float], None]
) -> Image.Image:
    """The translation, of the size of the image; with the image's alpha, if the model has none on either side."""
    with SilencedPillow():
        image = simple_mode(file.image)
    config, network = model.config, model.network
    has_own_alpha = 4 not in (config.channels, config.target_channels) and image.mode in ("LA", "RGBA")
    seen = with_channels(_without_alpha(image) if has_own_alpha else image, config.channels)
    scale = options.scale or config.scale
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if size != image.size:
        seen = seen.resize(size, Image.Resampling.LANCZOS)

    noise = translation_noise([options.seed], model)

    def apply(tile: Tensor) -> Tensor:
        return to_levels(model(tile, noise))

    made = map_in_tiles(
        to_array(seen, config.channels),
        apply,
        config.target_channels,
        reach=network.reach,
        multiple=network.multiple,
        side=network.tile_side,
        device=model.device,
        advance=advance,
    )
    result = as_image(made)
    if size != image.size:
        result = result.resize(image.size, Image.Resampling.LANCZOS)
    if config.hard_alpha and size != image.size:
        result.putalpha(result.getchannel("A").point(lambda level: 255 * (level > 127)))
    if options.strength < 1:
        before = image.convert(image.mode[:-1]) if has_own_alpha else image
        result = blended(with_channels(before, config.target_channels), result, options.strength)
    if has_own_alpha:
        result.putalpha(image.getchannel("A"))
    return result


def _without_alpha(image: Image.Image) -> Image.Image:
    """The colors of an image of mode LA or RGBA, with white where it is fully transparent.

    They are not blended with white, because the result gets this alpha back: half-transparent edges would be whitish.
    """
    colors, alpha = image.convert(image.mode[:-1]), image.getchannel("A")
    colors.paste("white", mask=alpha.point(lambda level: 255 * (level == 0)))
    return colors


def blended(before: Image.Image, after: Image.Image, strength: float) -> Image.Image:
    """Between two images of one mode, rounded; strength 0 gives the first one, 1 the second.

    Colors count as much as they are opaque, so that those of transparent pixels are not seen at edges.
    """
    result = Image.new(before.mode, before.size)
    for top, strip in image_strips(before):
        other = after.crop((0, top, strip.width, top + strip.height))
        own, made = (np.asarray(each, np.float32).reshape(strip.height, strip.width, -1) for each in (strip, other))
        weights: Any = np.float32(strength)
        if own.shape[2] == 4:
            opacities = (1 - weights) * own[..., 3:], weights * made[..., 3:]
            weights = opacities[1] / np.maximum(sum(opacities), 1e-6)
            weights = np.concatenate([np.repeat(weights, 3, 2), np.full_like(weights, strength)], 2)
        result.paste(as_image(np.rint(own + (made - own) * weights).astype(np.uint8)), (0, top))
    return result


def _write(
    options: TranslateOptions,
    loaded: LoadedModel,
    file: ImageFile,
    made: Image.Image,
    name: str,
    output: Path,
    reporter: Reporter,
) -> None:
    """Write one result, with the image's metadata and the settings."""
    format = format_of(output)
    own = settings("translate", options, loaded, image=image_of(options.image, name), output=output.name)
    text = json.dumps(own)
    gray = made.mode in ("L", "LA") and file.image.mode in ("L", "LA")
    metadata = fitting(file.metadata if gray else metadata_of_color(file), format, len(text))
    if made.mode in ("L", "LA") and not gray and metadata.profile:
        metadata = replace(metadata, profile=None, lost=(*metadata.lost, "a color profile: the result is gray"))
    if metadata.lost:
        reporter.warn(f"{name}: not kept: {'; '.join(metadata.lost)}")
    image = drop_alpha(made) if format == "jpeg" else made
    if format == "webp":
        image = image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB")
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(output, encode_with_metadata(image, format, metadata, text))
