"""How far an image is from the styles: in a network's statistics, or in the distribution of its patches.

A `StyleLoss` is given the styles once for each scale. Images are (1, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from imggen.metrics.features import load_extractor
from imggen.models.efficientnet import load_efficientnet

EFFICIENTNET_STAGES = 5  # deeper maps have fewer than 1/16 of the image's side: composition, not style
PATCH_SIDE = 5
OCTAVES = 3
PATCH_WEIGHT = 0.2
DIRECTIONS = 32
DIRECTIONS_BESIDE_NETWORK = 8
MAX_PATCHES = 1 << 15  # of which quantiles are taken, at random places
STYLE_WEIGHT = 5.0
BORDER = 8  # pixels


class StyleLoss(Protocol):
    """The distance of an image to the styles, at one scale."""

    def __call__(self, image: Tensor, step: int) -> Tensor:
        """The loss, a scalar; what is random in it depends on the seed and `step` alone."""


class Network(NamedTuple):
    """A network to see images with: `maps` gives maps (1, C, h, w); map `content_map` also holds the content."""

    name: str
    hash: str
    maps: Callable[[Tensor], tuple[Tensor, ...]]
    content_map: int


def open_network(name: str, device: torch.device) -> Network:
    """imggen's own extractor or, as "pretrained", EfficientNet-Lite0 with the extractor's first map.

    EfficientNet halves the image at once and is blind to single pixels: without the other map it leaves specks.
    Raises CheckpointError, and UsageError if the package is not installed.
    """
    extractor, digest = load_extractor()
    extractor.to(device)
    if name != "pretrained":
        return Network(name, digest, extractor.maps, 2)
    efficientnet, digest = load_efficientnet()
    efficientnet.to(device)

    def maps(images: Tensor) -> tuple[Tensor, ...]:
        return extractor.stem(images), *efficientnet.stage_maps(images, EFFICIENTNET_STAGES)

    return Network(name, digest, maps, 4)


class NetworkLoss:
    """Gram matrices of a network's maps (Gatys et al. 2016, arXiv 1508.06576), and its map of the content."""

    def __init__(
        self, network: Network, styles: Sequence[Tensor], weights: Sequence[float], start: Tensor, content_weight: float
    ) -> None:
        self.network, self.content_weight = network, content_weight
        with torch.no_grad():
            grams = [[_gram(each) for each in _maps_of(network, style)] for style in styles]
            self.targets = [
                sum((w * gram for w, gram in zip(weights, of_map, strict=True)), torch.zeros_like(of_map[0]))
                for of_map in zip(*grams, strict=True)
            ]
            self.content = _maps_of(network, start)[network.content_map]

    def __call__(self, image: Tensor) -> Tensor:
        """The mean relative error of the Gram matrices, and that of the content's map."""
        maps = _maps_of(self.network, image)
        errors = [
            (_gram(each) - target).square().sum() / target.square().sum().clamp_min(1e-8)
            for each, target in zip(maps, self.targets, strict=True)
        ]
        content = (maps[self.network.content_map] - self.content).square().mean()
        content = content / self.content.square().mean().clamp_min(1e-8)
        return STYLE_WEIGHT * torch.stack(errors).mean() + self.content_weight * content


def _maps_of(network: Network, image: Tensor) -> list[Tensor]:
    """The maps of an image, mirrored at its border: zeros beyond it would be seen, and answered with bright dots."""
    maps = network.maps(pad(image, (BORDER,) * 4, mode="reflect"))
    cut = []
    for each in maps:
        down, across = (round(BORDER * each.shape[axis] / (image.shape[axis] + 2 * BORDER)) for axis in (2, 3))
        cut.append(each[:, :, down : each.shape[2] - down, across : each.shape[3] - across])
    return cut


def _gram(features: Tensor) -> Tensor:
    """(1, C, h, w) → (C, C)."""
    flat = features.flatten(2)[0].float()
    return flat @ flat.T / flat.shape[1]


@dataclass(frozen=True)
class PatchLoss:
    """The sliced Wasserstein distance of patches in three octaves (arXiv 2006.07229, 2203.11862).

    Each step looks along some random directions. Along one, the barycenter of several styles is the mean of their
    quantiles.
    """

    styles: Sequence[Tensor]
    weights: Sequence[float]
    seed: int
    directions: int = DIRECTIONS

    def __call__(self, image: Tensor, step: int) -> Tensor:
        """The mean squared difference of quantiles, over the styles' variance."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % (1 << 63))
        styles, total = list(self.styles), torch.zeros((), device=image.device)
        for _ in range(OCTAVES):
            directions = torch.randn(self.directions, 3, PATCH_SIDE, PATCH_SIDE, generator=generator)
            directions = (directions / directions.flatten(1).norm(dim=1)[:, None, None, None]).to(image.device)
            seen = _project(image, directions)
            count = min(MAX_PATCHES, seen.shape[1])
            target = torch.zeros(self.directions, count, device=image.device)
            for weight, style in zip(self.weights, styles, strict=True):
                target += weight * self._quantiles(_project(style, directions), count, generator)
            quantiles = self._quantiles(seen, count, generator)
            total = total + (quantiles - target).square().mean() / target.var(1).mean().clamp_min(1e-6)
            if min(image.shape[2:]) < 4 * PATCH_SIDE or min(min(style.shape[2:]) for style in styles) < 4 * PATCH_SIDE:
                break
            image, styles = avg_pool2d(image, 2), [avg_pool2d(style, 2) for style in styles]
        return STYLE_WEIGHT * total

    @staticmethod
    def _quantiles(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(D, N) → (D, count): sorted values, at random places if there are more than can be sorted in time."""
        if values.shape[1] > MAX_PATCHES:
            places = torch.randint(values.shape[1], (MAX_PATCHES,), generator=generator)
            values = values[:, places.to(values.device)]
        ordered = values.sort(1).values
        if ordered.shape[1] == count:
            return ordered
        return interpolate(ordered[None], count, mode="linear", align_corners=True)[0]


def _project(image: Tensor, directions: Tensor) -> Tensor:
    """Each patch of (1, 3, H, W) along each direction (D, 3, S, S): (D, H * W).

    The image is mirrored at its border, so that pixels there are in as many patches as others.
    """
    mirrored = pad(image, (directions.shape[-1] // 2,) * 4, mode="reflect")
    return conv2d(mirrored, directions).flatten(2)[0]
