"""Tiles of images through a model: scaled to its size, filled, scaled back, and blended into the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imggen.engine.device import run_in_batches
from imggen.engine.inpainting.blending import poisson_blend, solve_laplace
from imggen.engine.inpainting.image_file import Mask
from imggen.engine.inpainting.masks import Floats
from imggen.engine.inpainting.regions import Regions, TileBox, Window, rounds_of
from imggen.engine.noise import SampleSpec, noise_for
from imggen.io.image import ImageArray
from imggen.io.pixels import to_float
from imggen.models.base import Backend
from imggen.models.config import SamplingOptions

BATCH_OF_32_PX = 32  # tiles per batch at 32x32 pixels, fewer at larger sizes
OPAQUE = 255
MIN_MASKED_COVERAGE = 5  # of 255: a scaled pixel with less of it masked counts as unmasked


@dataclass
class Canvas:
    """An image being filled: its fills (N, H, W, C), what is still masked (H, W), its regions, and their tiles."""

    fills: ImageArray
    masked: Mask
    regions: Regions
    boxes: list[TileBox]


@dataclass(frozen=True)
class Tile:
    """The cut-out of one fill: pixels (S, S, C), which of them are unmasked, and which are filled with this tile."""

    pixels: Floats
    unmasked: Mask
    target: Mask


def cut_tile(canvas: Canvas, fill: int, box: TileBox) -> Tile:
    """Cut a tile out of fill number `fill`; pixels beyond the image's edges count as masked."""
    side = box.side
    pixels = np.zeros((side, side, canvas.fills.shape[3]), np.float32)
    unmasked, target = np.zeros((side, side), bool), np.zeros((side, side), bool)
    in_tile, in_image = _overlap(box, *canvas.masked.shape)
    pixels[in_tile] = canvas.fills[fill][in_image]
    unmasked[in_tile] = ~canvas.masked[in_image]
    target[in_tile] = canvas.regions.select(in_image, box.regions)
    return Tile(pixels, unmasked, target)


def _overlap(box: TileBox, height: int, width: int) -> tuple[Window, Window]:
    """The overlap of box and image, in the coordinates of the tile and in those of the image."""
    top, left = max(box.top, 0), max(box.left, 0)
    bottom, right = min(box.top + box.side, height), min(box.left + box.side, width)
    in_tile = (slice(top - box.top, bottom - box.top), slice(left - box.left, right - box.left))
    return in_tile, (slice(top, bottom), slice(left, right))


def _resize(values: Floats, side: int, method: Image.Resampling) -> Floats:
    """(side, side, C): each channel resized by itself."""
    channels = np.moveaxis(values, 2, 0).copy()
    return np.stack([np.asarray(Image.fromarray(plane).resize((side, side), method)) for plane in channels], 2)


def model_input(tile: Tile, size: int) -> tuple[Tensor, Tensor]:
    """An image (C, size, size) in [-1, 1] and its mask (1, size, size), 1 for every pixel that the tile's mask touches.

    Masked pixels are 0. Before the tile is resized they are filled smoothly, so that they do not blend into others.
    """
    pixels, masked = tile.pixels, ~tile.unmasked
    if len(masked) != size:
        smooth = solve_laplace(pixels, tile.unmasked, masked)
        pixels = _resize(smooth, size, Image.Resampling.LANCZOS).clip(0, 255)
        coverage = _resize(masked[..., None].astype(np.float32), size, Image.Resampling.BOX)[..., 0]
        masked = coverage * 255 >= MIN_MASKED_COVERAGE
    mask = torch.from_numpy(masked)
    image = to_float(torch.from_numpy(np.moveaxis(pixels, 2, 0).copy()))
    return image.masked_fill(mask, 0), mask[None].float()


def paste_tile(canvas: Canvas, fill: int, box: TileBox, generated: Tensor, *, hard_alpha: bool = False) -> None:
    """Write the model's image (C, size, size) in [-1, 1] into the tile's target, at the image's own resolution.

    With `hard_alpha` it has an alpha channel, which is 0 or 255 also where the image was resized or blended.
    """
    tile = cut_tile(canvas, fill, box)
    levels = ((generated.float() + 1) * 127.5).permute(1, 2, 0).cpu().numpy()
    if len(levels) != box.side:
        levels = _resize(levels, box.side, Image.Resampling.BICUBIC)
    levels = poisson_blend(levels, tile.pixels, tile.unmasked, tile.target)
    if hard_alpha:
        levels[..., 3] = np.where(levels[..., 3] > OPAQUE / 2, OPAQUE, 0)
    in_tile, in_image = _overlap(box, *canvas.masked.shape)
    target = tile.target[in_tile]
    canvas.fills[fill][in_image][target] = np.rint(levels[in_tile][target]).clip(0, 255).astype(np.uint8)


def unmask_target(canvas: Canvas, box: TileBox) -> None:
    """Show the tile's target as filled in the tiles that are cut out from now on."""
    _, in_image = _overlap(box, *canvas.masked.shape)
    canvas.masked[in_image] &= ~canvas.regions.select(in_image, box.regions)


@dataclass(frozen=True)
class TileFill:
    """One fill of one tile: number `fill` of the canvas, with the noise of that number."""

    canvas: Canvas
    box: TileBox
    fill: int


class TileInpainter:
    """Fills canvases with a model, many tiles at a time; fill k of every image uses the noise of seed k."""

    def __init__(
        self,
        backend: Backend,
        seeds: Sequence[int],
        label: int | None,
        options: SamplingOptions,
        batch: int | None,
        on_smaller: Callable[[int], None],
    ) -> None:
        self.backend, self.label, self.options = backend, label, options
        self.device = backend.device
        self.batch = batch or max(backend.min_batch, BATCH_OF_32_PX * 32**2 // max(32, backend.config.size) ** 2)
        self.on_smaller = on_smaller
        self.noise, _ = noise_for([SampleSpec(seed) for seed in seeds], backend)

    @torch.no_grad()
    def fill(self, canvases: Sequence[Canvas], advance: Callable[[int], None]) -> None:
        """Fill all masked pixels; `advance` is called with the number of tiles after each batch.

        A batch may hold tiles of different images, and those of one image that are in the same round, see `rounds_of`.
        """
        rounds_of_canvases = [rounds_of(canvas.boxes) for canvas in canvases]
        for rounds in zip_longest(*rounds_of_canvases, fillvalue=()):
            tiles = [(canvas, box) for canvas, boxes in zip(canvases, rounds, strict=True) for box in boxes]
            batches = run_in_batches(
                self._fill_batch,
                [TileFill(canvas, box, fill) for canvas, box in tiles for fill in range(len(canvas.fills))],
                self.batch,
                self.device,
                on_smaller=self._set_batch,
                error="not enough memory to fill one image",
            )
            for count in batches:
                advance(count)
            for canvas, box in tiles:
                unmask_target(canvas, box)

    def _set_batch(self, size: int) -> None:
        self.batch = size
        self.on_smaller(size)

    def _fill_batch(self, work: list[TileFill]) -> int:
        """Fill some tiles; returns how many."""
        size = self.backend.config.size
        # Tiles may be as large as the image, so they are cut out one at a time, here and in `paste_tile`.
        inputs = [model_input(cut_tile(item.canvas, item.fill, item.box), size) for item in work]
        images, masks = (torch.stack(tensors).to(self.device) for tensors in zip(*inputs, strict=True))
        labels = None
        if self.label is not None:
            labels = torch.full((len(work),), self.label, device=self.device)
        noise = self.noise[[item.fill for item in work]].to(self.device)
        generated = self.backend.inpaint(images, masks, noise, labels, self.options)
        for item, image in zip(work, generated, strict=True):
            paste_tile(item.canvas, item.fill, item.box, image, hard_alpha=self.backend.config.hard_alpha)
        return len(work)
