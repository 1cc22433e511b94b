"""Squares of pictures through a model: scaled to its size, filled, scaled back, moved to meet what is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imggen.engine.device import out_of_memory, release_memory
from imggen.engine.inpainting.blending import poisson_blend, solve_laplace
from imggen.engine.inpainting.image_file import Mask
from imggen.engine.inpainting.masks import Floats, Square
from imggen.engine.noise import SampleSpec, noise_for
from imggen.errors import DeviceError
from imggen.io.image import ImageArray
from imggen.models.base import Backend
from imggen.models.config import SamplingOptions

AT_ONCE = 16  # of 32 pixels
TOUCHED = 5  # of 255: a pixel of the scaled square that holds so little of a hole is known


@dataclass
class Canvas:
    """One picture in the making: its fills (N, H, W, C), what is still missing (H, W), and where to work."""

    fills: ImageArray
    missing: Mask
    parts: NDArray[np.int32]
    squares: list[Square]


@dataclass(frozen=True)
class Tile:
    """A square of one fill: its pixels (S, S, C), what is known of them, and what of the hole is to be filled now."""

    pixels: Floats
    known: Mask
    mine: Mask


def cut(canvas: Canvas, fill: int, square: Square) -> Tile:
    """Take a square out; beyond the picture's edges nothing is known."""
    height, width = canvas.missing.shape
    side = square.side
    pixels = np.zeros((side, side, canvas.fills.shape[3]), np.float32)
    known, mine = np.zeros((side, side), bool), np.zeros((side, side), bool)
    inside, place = _overlap(square, height, width)
    pixels[inside] = canvas.fills[fill][place]
    known[inside] = ~canvas.missing[place]
    mine[inside] = np.isin(canvas.parts[place], square.parts)
    return Tile(pixels, known, mine)


Slices = tuple[slice, slice]


def _overlap(square: Square, height: int, width: int) -> tuple[Slices, Slices]:
    """Where the picture lies in the square, and where the square lies in the picture."""
    top, left = max(square.top, 0), max(square.left, 0)
    bottom, right = min(square.top + square.side, height), min(square.left + square.side, width)
    inside = (slice(top - square.top, bottom - square.top), slice(left - square.left, right - square.left))
    return inside, (slice(top, bottom), slice(left, right))


def _resized(values: Floats, side: int, how: Image.Resampling) -> Floats:
    planes = [
        np.asarray(Image.fromarray(plane).resize((side, side), how)) for plane in np.moveaxis(values, 2, 0).copy()
    ]
    found: Floats = np.stack(planes, 2)
    return found


def model_input(piece: Tile, size: int) -> tuple[Tensor, Tensor]:
    """(C, size, size) in [-1, 1] and (1, size, size), 1 where the model is to draw: all that a hole touches."""
    pixels, hidden = piece.pixels, ~piece.known
    if len(hidden) != size:
        smooth = solve_laplace(pixels, piece.known, hidden)
        pixels = _resized(smooth, size, Image.Resampling.LANCZOS).clip(0, 255)
        share = _resized(hidden[..., None].astype(np.float32), size, Image.Resampling.BOX)[..., 0]
        hidden = share * 255 >= TOUCHED
    hole = torch.from_numpy(hidden)
    image = torch.from_numpy(np.moveaxis(pixels, 2, 0).copy()) / 127.5 - 1
    return image.masked_fill(hole, 0), hole[None].float()


def paste(canvas: Canvas, fill: int, square: Square, piece: Tile, drawn: Tensor) -> None:
    """Write what the model drew (C, size, size) into the square's part of the hole, at the picture's own size."""
    levels = ((drawn.float() + 1) * 127.5).permute(1, 2, 0).cpu().numpy()
    if len(levels) != square.side:
        levels = _resized(levels, square.side, Image.Resampling.BICUBIC)
    levels = poisson_blend(levels, piece.pixels, piece.known, piece.mine)
    inside, place = _overlap(square, *canvas.missing.shape)
    mine = piece.mine[inside]
    canvas.fills[fill][place][mine] = np.rint(levels[inside][mine]).clip(0, 255).astype(np.uint8)


class TileInpainter:
    """A model that fills canvases, many squares at a time; fill k of every picture is the noise of seed k."""

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
        self.batch = batch or max(backend.min_batch, AT_ONCE * 32**2 // max(32, backend.config.size) ** 2)
        self.on_smaller = on_smaller
        self.noise, _ = noise_for([SampleSpec(seed) for seed in seeds], backend)

    @torch.no_grad()
    def fill(self, canvases: Sequence[Canvas], advance: Callable[[int], None]) -> None:
        """Fill every hole of some pictures; `advance` is told how many squares are done."""
        for number in range(max((len(canvas.squares) for canvas in canvases), default=0)):
            now = [canvas for canvas in canvases if number < len(canvas.squares)]
            work = [(canvas, fill) for canvas in now for fill in range(len(canvas.fills))]
            start = 0
            while start < len(work):
                part = work[start : start + self.batch]
                try:
                    self._some(part, number)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error):
                        raise
                    if len(part) == 1:
                        raise DeviceError("not enough memory to fill one picture", "--device cpu") from error
                    self.batch = len(part) // 2
                    self.on_smaller(self.batch)
                    release_memory(self.device)
                    continue
                start += len(part)
                advance(len(part))
            for canvas in now:
                canvas.missing &= ~np.isin(canvas.parts, canvas.squares[number].parts)

    def _some(self, work: Sequence[tuple[Canvas, int]], number: int) -> None:
        pieces = [cut(canvas, fill, canvas.squares[number]) for canvas, fill in work]
        inputs = [model_input(piece, self.backend.config.size) for piece in pieces]
        images, masks = (torch.stack(part).to(self.device) for part in zip(*inputs, strict=True))
        labels = None
        if self.label is not None:
            labels = torch.full((len(work),), self.label, device=self.device)
        noise = self.noise[[fill for _, fill in work]].to(self.device)
        drawn = self.backend.inpaint(images, masks, noise, labels, self.options)
        for (canvas, fill), piece, picture in zip(work, pieces, drawn, strict=True):
            paste(canvas, fill, canvas.squares[number], piece, picture)
