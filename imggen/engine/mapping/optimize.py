"""An image changed step by step, from coarse to fine, until it has the statistics of the styles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from imggen.engine.color import LUMINANCE, ColorMap, Moments, color_axes, luminance, to_colors, to_pixels
from imggen.engine.mapping.losses import StyleLoss
from imggen.io.image import ImageArray

COARSEST_SIDE = 96  # scales halve until the longer side is below twice this
STEPS_RATIO = 0.6  # of each scale to the next coarser one
MIN_STEPS = 12
MIN_SIDE = 16
LEARNING_RATE = 0.15  # in standard deviations of the styles' colors
# Of the full, the half and the quarter size: a step that moved every pixel as far would make specks, not strokes.
OCTAVE_RATES = (0.1, 0.6, 1.0)
FINAL_RATE = 0.2
ADAM_EPSILON = 1e-3  # of gradients a pixel: a result that is already right does not move
AVERAGED = 0.2  # the last part of the steps, whose mean is the result
EDGE_WEIGHT = 0.3
RANGE_WEIGHT = 1.0
MAX_STEPS = 10_000  # of a scale: the numbers of its steps are its own

Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class Scale:
    """A size (width, height) at which the image is changed, and in how many steps."""

    size: Size
    steps: int

    @property
    def work(self) -> int:
        """Pixels times steps: what the time is proportional to."""
        return self.size[0] * self.size[1] * self.steps


@dataclass(frozen=True)
class Problem:
    """What to change and into what: RGB images, the styles' weights and joint color moments, and the color map.

    `make_loss(styles, start)` gives the loss at one scale, of tensors (1, 3, H, W) in [-1, 1].
    """

    content: Image.Image
    styles: Sequence[Image.Image]
    weights: Sequence[float]
    moments: Moments
    color_map: ColorMap
    is_gray: bool
    make_loss: Callable[[Sequence[Tensor], Tensor], StyleLoss]
    style_maps: Sequence[ColorMap | None]
    device: torch.device


def fitted_size(size: Size, longest: float) -> Size:
    """The size scaled so that its longer side is `longest`, and no side below MIN_SIDE."""
    scale = longest / max(size)
    return max(MIN_SIDE, round(size[0] * scale)), max(MIN_SIDE, round(size[1] * scale))


def plan_scales(size: Size, longest: int, steps: int) -> list[Scale]:
    """The scales from the coarsest to that of `longest` pixels; an image is never enlarged."""
    side = min(longest, max(size))
    count = 1 + max(0, int(math.log2(side / COARSEST_SIDE))) if side >= COARSEST_SIDE else 1
    scales = []
    for index in range(count):
        halvings = count - 1 - index
        scale_size = size if halvings == 0 and side == max(size) else fitted_size(size, side / 2**halvings)
        scales.append(Scale(scale_size, min(steps, max(MIN_STEPS, round(steps * STEPS_RATIO**index)))))
    return scales


def optimize(
    problem: Problem, scales: Sequence[Scale], style_scale: float, advance: Callable[[float], None]
) -> ImageArray:
    """The changed image (H, W, 3) at the size of the last scale; `advance` is called with the work that is done."""
    result: Tensor | None = None
    for number, scale in enumerate(scales):
        content = _tensor(problem, _colors(problem.content, scale.size, problem, problem.color_map))
        styles = []
        for style, style_map in zip(problem.styles, problem.style_maps, strict=True):
            size = fitted_size(style.size, max(scale.size) * style_scale)
            styles.append(_tensor(problem, _colors(style, size, problem, style_map)))
        if result is None:
            start = content
        else:
            start = interpolate(result, content.shape[2:], mode="bicubic", align_corners=False).clamp_(-1, 1)
        loss = problem.make_loss(styles, content)
        edge_scale = max(_edges(image).square().mean().item() for image in (content, *styles))
        descent = Descent(problem, loss, content, edge_scale, scale, number * MAX_STEPS, advance)
        result = descent.run(start)
    assert result is not None
    return to_pixels(result[0].permute(1, 2, 0).cpu().numpy())


def seconds_of_work(problem: Problem, scales: Sequence[Scale], style_scale: float) -> float:
    """An estimate of the seconds that `optimize` takes, from two steps at the coarsest scale."""
    trial = Scale(scales[0].size, 2)
    optimize(problem, [Scale(trial.size, 1)], style_scale, lambda work: None)  # the first run is slower than others
    began = time.perf_counter()
    optimize(problem, [trial], style_scale, lambda work: None)
    return (time.perf_counter() - began) * sum(scale.work for scale in scales) / trial.work


def _colors(image: Image.Image, size: Size, problem: Problem, color_map: ColorMap | None) -> NDArray[np.floating]:
    """An image (H, W, 3) at a size, in gray if only luminance is to change, with its colors mapped."""
    small = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    colors: NDArray[np.floating] = to_colors(np.asarray(small))
    if problem.is_gray:
        colors = np.repeat(luminance(colors), 3, 2)
    return colors if color_map is None else np.clip(color_map(colors), -1, 1)


def _tensor(problem: Problem, colors: NDArray[np.floating]) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(colors, dtype=np.float32)).permute(2, 0, 1)[None]
    return tensor.to(problem.device).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Descent:
    """Adam on the colors at one scale, along the axes of the styles' colors: a gray style has one, so results are gray.

    `edge_scale` is the mean square of the edges in the content or the styles, whichever has more; `first_step` numbers
    the steps for what is random in the loss.
    """

    problem: Problem
    loss: StyleLoss
    content: Tensor
    edge_scale: float
    scale: Scale
    first_step: int
    advance: Callable[[float], None]

    def run(self, start: Tensor) -> Tensor:
        """The mean of the last steps from `start`, (1, 3, H, W) in [-1, 1]."""
        mean, axes = _axes(self.problem)
        octaves = _octaves(torch.einsum("kc,bchw->bkhw", torch.linalg.pinv(axes), start - mean))
        groups = [{"params": [octave], "rate": rate} for octave, rate in zip(octaves, OCTAVE_RATES, strict=False)]
        optimizer = torch.optim.Adam(groups, LEARNING_RATE, betas=(0.9, 0.99), eps=ADAM_EPSILON)

        def make_image() -> Tensor:
            return mean + torch.einsum("ck,bkhw->bchw", axes, _sum_of_octaves(octaves))

        edges, steps = _edges(self.content), self.scale.steps
        total, count = torch.zeros_like(start), 0
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * LEARNING_RATE * (1 - (1 - FINAL_RATE) * step / steps)
            image = make_image()
            error = self.loss(image, self.first_step + step)
            error = error + EDGE_WEIGHT * (_edges(image) - edges).square().mean() / max(self.edge_scale, 1e-6)
            error = error + RANGE_WEIGHT * (image.abs() - 1).clamp_min(0).square().mean()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(error * image[0, 0].numel())
            optimizer.step()
            if step >= min(steps - 1, int(steps * (1 - AVERAGED))):
                with torch.no_grad():
                    total, count = total + make_image(), count + 1
            self.advance(self.scale.size[0] * self.scale.size[1])
        return (total / count).clamp_(-1, 1)


def _octaves(values: Tensor) -> list[Tensor]:
    """What `_sum_of_octaves` makes `values` (1, k, H, W) of: these themselves, and zeros at 1/2 and 1/4 of the side."""
    octaves = [values]
    for factor in (2, 4):
        size = [max(1, side // factor) for side in values.shape[2:]]
        octaves.append(values.new_zeros(*values.shape[:2], *size))
    return [octave.requires_grad_() for octave in octaves]


def _sum_of_octaves(octaves: Sequence[Tensor]) -> Tensor:
    size = octaves[0].shape[2:]
    total = octaves[0]
    for octave in octaves[1:]:
        total = total + interpolate(octave, size, mode="bilinear", align_corners=False)
    return total


def _axes(problem: Problem) -> tuple[Tensor, Tensor]:
    """The mean (1, 3, 1, 1) and the axes (3, k) of the styles' colors."""
    mean = torch.tensor(problem.moments.mean, dtype=torch.float32, device=problem.device).view(1, 3, 1, 1)
    return mean, torch.tensor(color_axes(problem.moments), dtype=torch.float32, device=problem.device)


def _edges(image: Tensor) -> Tensor:
    """Differences of the luminance (1, 2, h, w) between neighbors, at half the size."""
    weights = torch.tensor(LUMINANCE, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    light = avg_pool2d((image * weights).sum(1, keepdim=True), 2)
    across, down = light[..., 1:, 1:] - light[..., 1:, :-1], light[..., 1:, 1:] - light[..., :-1, 1:]
    return torch.cat([across, down], 1)
