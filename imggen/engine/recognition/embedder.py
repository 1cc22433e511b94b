"""Images to vectors that can be compared, by what a model sees in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imggen.data.cache import check_skipped
from imggen.data.readers import ArchiveReader, FolderReader, Source
from imggen.data.workers import DecodeJob, decode_images, max_workers
from imggen.engine.checkpoints import load_model, prepare
from imggen.engine.device import configure_device, find_device
from imggen.engine.noise import SampleSpec
from imggen.engine.options import SeeingOptions
from imggen.engine.render import default_batch_size, sample_batches
from imggen.errors import CheckpointError, UsageError
from imggen.io.image import ImageArray
from imggen.io.pixels import float_images
from imggen.models.base import Backend, Model
from imggen.models.classifier.backbone import ModelBackbone
from imggen.models.classifier.model import ClassifierModel
from imggen.models.efficientnet import SIDE, VECTOR_SIZE, load_efficientnet
from imggen.models.pretrained import PRETRAINED
from imggen.reporting import Reporter

CENTER_SAMPLES = 64
MAX_VECTOR_SIZE = 512  # longer vectors are projected to it: a kilobyte an image, and nearly the same neighbors
PRETRAINED_BATCH = 32


Decoded = tuple[ImageArray, dict[int, str]]
"""Images, and the reasons for the unreadable ones by index."""


class Batch(NamedTuple):
    """Some images of a source: their indices, and their pixels (B, H, W, C) at the model's size."""

    indices: list[int]
    pixels: ImageArray


@dataclass(frozen=True)
class Embedder:
    """What turns images (B, size, size, channels) uint8 into vectors (B, D) float32: `embed`.

    `center` computes the mean vector (D,) of the model's own samples.
    """

    name: str
    hash: str
    size: int
    channels: int
    batch: int
    embed: Callable[[ImageArray], Tensor]
    center: Callable[[], Tensor]


def open_named_embedder(options: SeeingOptions, reporter: Reporter) -> Embedder:
    """What embeds images with the model or the network that the options name. Errors as of the two functions below."""
    if options.model is None:
        return open_pretrained(options.device, options.batch, reporter)
    try:
        return open_embedder(options.model, options.weights, options.device, options.batch, reporter)
    except CheckpointError as error:
        hint = f"--features {PRETRAINED}, without a MODEL" if options.model == PRETRAINED else error.hint
        raise CheckpointError(error.message, hint) from error


def open_embedder(model: str, weights: Path | None, device: str, batch: int | None, reporter: Reporter) -> Embedder:
    """What embeds images with a model. Raises UsageError for one that cannot see, CheckpointError and DeviceError."""
    loaded = load_model(model, weights=weights, device=device)
    prepare(loaded, reporter, full_precision=True)
    seeing = loaded.model
    if reason := seeing.limitation("features"):
        raise UsageError(f"{model} cannot embed images: {reason}", "use another model, such as vae")
    channels, size, _ = seeing.config.image_shape
    see = projected(seeing, loaded.hash)
    generator = _generator_of(seeing)

    def center() -> Tensor:
        if generator is None:  # a network that ends in a ReLU, as EfficientNet does
            return torch.zeros(see(np.zeros((1, size, size, channels), np.uint8)).shape[1])
        specs = [SampleSpec(seed) for seed in range(CENTER_SAMPLES)]
        return torch.cat([see(images) for images in sample_batches(generator.for_inference(), specs)]).mean(0)

    return Embedder(model, loaded.hash, size, channels, batch or default_batch_size(seeing), see, center)


def _generator_of(model: Model) -> Backend | None:
    """What generates images such as the model was trained on: itself, the backbone of a classifier, or nothing."""
    if isinstance(model, ClassifierModel) and isinstance(model.backbone, ModelBackbone):
        model = model.backbone.model
    return model if isinstance(model, Backend) else None


def open_pretrained(device: str, batch: int | None, reporter: Reporter) -> Embedder:
    """EfficientNet-Lite0, which sees photographs. Raises UsageError without its package, and DeviceError.

    Its 1,280 numbers are kept: projected to 512, the nearest photograph of clothes is of the same class up to 4 points
    less often. They are compared from zero, as ReLU leaves them, so that scores do not depend on the other images.
    """
    found = find_device(device)
    network, digest = load_efficientnet()
    network.to(found)
    configure_device(found)
    reporter.info(f"EfficientNet-Lite0 ({digest}) on {found}")

    @torch.inference_mode()
    def embed(images: ImageArray) -> Tensor:
        return network(float_images(images, found)).cpu()

    def center() -> Tensor:
        return torch.zeros(VECTOR_SIZE)

    return Embedder("EfficientNet-Lite0", digest, SIDE, 3, batch or PRETRAINED_BATCH, embed, center)


def mirrored(embedder: Embedder) -> Embedder:
    """The same for images that are mirrored left to right before they are embedded."""
    return replace(embedder, embed=lambda images: embedder.embed(np.ascontiguousarray(images[:, :, ::-1])))


def projected(model: Model, key: str) -> Callable[[ImageArray], Tensor]:
    """The model's vectors; those longer than MAX_VECTOR_SIZE are projected by random directions that `key` decides."""
    directions: Tensor | None = None

    @torch.inference_mode()
    def embed(images: ImageArray) -> Tensor:
        nonlocal directions
        vectors = model.features(float_images(images, model.device)).vectors.cpu()
        if vectors.shape[1] <= MAX_VECTOR_SIZE:
            return vectors
        if directions is None:
            generator = torch.Generator().manual_seed(int(key[:12], 16))
            directions = torch.randn(vectors.shape[1], MAX_VECTOR_SIZE, generator=generator) / MAX_VECTOR_SIZE**0.5
        return vectors @ directions

    return embed


def path_of(spec: str, source: Source, index: int) -> str:
    """The path of image `index` of a source that was given as `spec`; in an archive its name there."""
    if not isinstance(source.reader, FolderReader):
        return source.names[index]
    given = Path(spec)
    if given.is_dir():
        return str(given / source.names[index])
    return spec if given.is_file() else str(Path(source.reader.root, source.names[index]))


def bytes_of(source: Source, index: int) -> int:
    """The size of the file of image `index`; 0 where it is not known."""
    reader = source.reader
    if isinstance(reader, ArchiveReader):
        return reader.members[index].size
    if isinstance(reader, FolderReader):
        with suppress(OSError):
            return Path(reader.root, reader.names[index]).stat().st_size
    return 0


def read_batches(
    source: Source, indices: npt.NDArray[np.int64], size: int, channels: int, batch: int, reporter: Reporter
) -> Iterator[Batch]:
    """Decode images of a source, at a model's size, while the batch before is worked on.

    Unreadable images are left out, with one warning that names some. Raises DataError for more than one in twenty, and
    if none can be read.
    """
    job = DecodeJob(source, size, channels, "center", "", 0)
    parts = [indices[start : start + batch].tolist() for start in range(0, len(indices), batch)]
    skipped: list[tuple[str, str]] = []
    workers = max_workers()
    with ThreadPoolExecutor(workers) as decoder:

        def submit(part: list[int]) -> list[Future[Decoded]]:
            size = -(-len(part) // workers)
            return [decoder.submit(decode_images, job, part[i : i + size]) for i in range(0, len(part), size)]

        pending = submit(parts[0]) if parts else []
        for number, part in enumerate(parts):
            decoded = [future.result() for future in pending]
            pending = submit(parts[number + 1]) if number + 1 < len(parts) else []
            pixels = np.concatenate([each for each, _ in decoded])
            unreadable = {index: reason for _, reasons in decoded for index, reason in reasons.items()}
            skipped += [(source.names[index], reason) for index, reason in unreadable.items()]
            kept = [position for position, index in enumerate(part) if index not in unreadable]
            if kept:
                yield Batch([part[position] for position in kept], pixels[kept])
    check_skipped(tuple(skipped), len(source), strict=False)
    if skipped:
        examples = ", ".join(f"{name} ({reason})" for name, reason in skipped[:3])
        reporter.warn(f"left out {len(skipped):,} of {len(source):,} images that cannot be read: {examples}")
