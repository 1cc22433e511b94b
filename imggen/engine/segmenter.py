"""What a segmentation model finds in an image of any size, and how that is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from imggen.data.decode import to_array, with_channels
from imggen.data.masks import VOID, MaskTable
from imggen.documents import DocumentError
from imggen.engine.checkpoints import LoadedModel
from imggen.engine.sheet import resized
from imggen.engine.tiling import map_in_tiles
from imggen.errors import CheckpointError, UsageError
from imggen.io.image import ImageArray, composite_on_white
from imggen.models import kind_of
from imggen.models.mapper.segment.model import SegmentModel

OVERLAY_STRENGTH = 0.5
Plane = npt.NDArray[np.uint8]


class Found(NamedTuple):
    """Of one image (H, W, C): the class numbers (H, W), and each class's probability of 255 at the model's scale.

    The probabilities (h, w, classes) have no class if they were not wanted.
    """

    pixels: ImageArray
    classes: Plane
    probabilities: npt.NDArray[np.uint8]

    def probability(self, number: int) -> Plane:
        """The probability (H, W) of a class, of 255."""
        return _enlarged(self.probabilities[..., number], self.classes.shape)


def open_segmenter(loaded: LoadedModel) -> tuple[SegmentModel, MaskTable]:
    """The model and its table. Raises UsageError for a model of another kind, CheckpointError for a damaged table."""
    model = loaded.model
    if not isinstance(model, SegmentModel):
        noun, _, use = kind_of(model.config.family)
        raise UsageError(f"{loaded.path} is a {noun}: it labels no pixels", use)
    try:
        return model, MaskTable.from_json(model.config.table or {})
    except DocumentError as error:
        raise CheckpointError(f"{loaded.path}: its table of classes {error}", "copy it again") from error


@torch.inference_mode()
def find_classes(
    model: SegmentModel,
    image: Image.Image,
    scale: float,
    *,
    probabilities: bool = False,
    advance: Callable[[float], None] | None = None,
) -> Found:
    """The classes of an image, which the model sees resized by `scale`, tile by tile.

    Without `probabilities`, and at scale 1, memory hardly depends on the number of classes. `advance` is called with
    the fraction that is done.
    """
    whole = with_channels(image, model.config.channels)
    pixels = to_array(whole, model.config.channels)
    size = max(1, round(whole.width * scale)), max(1, round(whole.height * scale))
    is_whole, count = size == whole.size, len(model.config.pixel_classes)
    seen = pixels if is_whole else to_array(whole.resize(size, Image.Resampling.LANCZOS), pixels.shape[2])
    with_all = probabilities or not is_whole

    def apply(tile: Tensor) -> Tensor:
        scores: Tensor = model(tile).float()
        best = scores.argmax(1, keepdim=True).byte()
        return torch.cat([best, scores.softmax(1).mul_(255).round_().byte()], 1) if with_all else best

    network = model.network
    found = map_in_tiles(
        seen,
        apply,
        1 + count * with_all,
        reach=network.reach,
        multiple=network.multiple,
        device=model.device,
        side=network.tile_side,
        advance=advance,
    )
    planes = found[..., 1:]
    classes = found[..., 0].copy() if is_whole else _most_probable(planes, pixels.shape[:2])
    return Found(pixels, classes, planes)


def _most_probable(planes: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Plane:
    """The numbers (H, W) of the planes (h, w, classes) that, enlarged to that shape, are largest; one at a time."""
    best, highest = np.zeros(shape, np.uint8), _enlarged(planes[..., 0], shape)
    for number in range(1, planes.shape[2]):
        plane = _enlarged(planes[..., number], shape)
        is_higher = plane > highest
        best[is_higher], highest[is_higher] = number, plane[is_higher]
    return best


def _enlarged(plane: Plane, shape: tuple[int, ...]) -> Plane:
    """A plane (h, w) at another shape (H, W)."""
    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.array(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def colors_of(classes: Plane, table: MaskTable) -> ImageArray:
    """Class numbers (H, W) as colors (H, W, 3); VOID is white."""
    palette = table.palette()
    palette[VOID] = 255
    return np.asarray(palette[classes])


def overlay(found: Found, table: MaskTable) -> ImageArray:
    """The image (H, W, 3) with the colors of its classes laid over it; class 0 stays as it is."""
    result = composite_on_white(found.pixels).copy()
    labeled = found.classes > 0
    own, colors = result[labeled].astype(np.float32), colors_of(found.classes, table)[labeled]
    result[labeled] = np.rint(own + (colors - own) * OVERLAY_STRENGTH).astype(np.uint8)
    return result


def in_square(image: ImageArray, side: int) -> ImageArray:
    """The image (H, W, C) in the center of a white square of this side (side, side, 3)."""
    image = composite_on_white(image)
    height, width = image.shape[:2]
    whole = max(height, width)
    top, left = (whole - height) // 2, (whole - width) // 2
    padding = ((top, whole - height - top), (left, whole - width - left), (0, 0))
    return resized(np.pad(image, padding, constant_values=255), side)
