"""A residual U-Net (Ronneberger et al. 2015, arXiv 1505.04597; He et al. 2015, arXiv 1512.03385) for any image size.

Nothing in it depends on the batch, nor on places further away than `UNet.reach`: channels are normalized at each place
by itself, because GroupNorm's statistics of the whole image would differ between an image and its tiles. So tiles that
overlap by twice the reach give exactly the result of the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, layer_norm, pad, silu

from imggen.models.mapper.backbone import Backbone
from imggen.models.muon import inner_weights


class PlaceNorm(nn.Module):
    """Normalize the channels of each place to mean 0 and deviation 1, then scale and shift each (arXiv 1607.06450)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the last convolution begins at zero, so that the block does nothing."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = PlaceNorm(before), PlaceNorm(after)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = None if before == after else nn.Conv2d(before, after, 1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H, W)."""
        y = self.second(silu(self.second_norm(self.first(silu(self.first_norm(x))))))
        return (x if self.shortcut is None else self.shortcut(x)) + y


class UNet(nn.Module):
    """Images (B, before, H, W) → maps (B, after, H, W), of any size.

    `widths` are the channels of each resolution, the image's own first and each half of the one before; `blocks` is
    the number of residual blocks at each resolution of the encoder. With `magnify` the resolutions are given what a
    pretrained network sees, too, of images magnified so many times (1, 2 or 4). With `noise` numbers of noise an image,
    these change all channels of all resolutions, at each place alike.
    """

    def __init__(
        self,
        before: int,
        after: int,
        widths: tuple[int, ...],
        blocks: int,
        *,
        magnify: int | None = None,
        noise: int = 0,
    ) -> None:
        super().__init__()
        self.halvings, self.blocks = len(widths) - 1, blocks
        self.enter = nn.Conv2d(before, widths[0], 3, padding=1)
        encoder = []
        for narrow, wide in pairwise((widths[0], *widths)):
            encoder.append(nn.Sequential(Block(narrow, wide), *(Block(wide, wide) for _ in range(blocks - 1))))
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(Block(wide + narrow, narrow) for narrow, wide in pairwise(widths))
        self.backbone = None if magnify is None else Backbone(self.halvings, magnify)
        first, seen_widths = (0, ()) if self.backbone is None else (self.backbone.first, self.backbone.widths)
        entered = (widths[0], *widths[:-1])
        seen = zip(seen_widths, entered[first:], strict=False)
        self.project = nn.ModuleList(nn.Sequential(PlaceNorm(own), nn.Conv2d(own, width, 1)) for own, width in seen)
        self.encoder_noise = nn.ModuleList(nn.Linear(noise, width, bias=False) for width in entered if noise)
        self.decoder_noise = nn.ModuleList(nn.Linear(noise, width, bias=False) for width in widths[1:] if noise)
        self.norm = PlaceNorm(widths[0])
        self.leave = nn.Conv2d(widths[0], after, 3, padding=1)

    def hidden_weights(self) -> list[Tensor]:
        """The weights between hidden layers that learn, for Muon."""
        weights = inner_weights(self, (self.enter, self.leave))
        return [weight for weight in weights if weight.requires_grad]

    @property
    def tile_side(self) -> int:
        """The side in pixels of the squares in which to map a large image: `tiny` and `base` then take 1 to 2 GB."""
        needs_much = self.leave.in_channels > 32 or (self.backbone is not None and self.backbone.magnify > 2)
        return 256 if needs_much else 512

    @property
    def multiple(self) -> int:
        """The number of pixels by which a tile's place must be divisible to be halved as in the whole image."""
        return max(1 << self.halvings, 1 if self.backbone is None else self.backbone.multiple)

    @property
    def reach(self) -> int:
        """How far away, in pixels, another place may be that a result depends on."""
        # Two 3x3 convolutions a block, of which one pixel is 2^level pixels of the image; the first and the last layer;
        # a mean of 2x2 and its interpolation back.
        levels = [2 * (self.blocks + (level < self.halvings)) << level for level in range(self.halvings + 1)]
        own = 2 + sum(levels) + sum(3 << level for level in range(self.halvings))
        return own + (0 if self.backbone is None else self.backbone.reach)

    def maps(self, images: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """The encoder's maps, the finest first; sides that cannot be halved are padded at the right and the bottom."""
        height, width = images.shape[2:]
        right, bottom = -width % self.multiple, -height % self.multiple
        if right or bottom:
            images = pad(images, (0, right, 0, bottom), "replicate")
        first, seen = (0, []) if self.backbone is None else (self.backbone.first, self.backbone(images))
        x, maps = self.enter(images), []
        for level, layers in enumerate(self.encoder):
            x = avg_pool2d(x, 2) if level else x
            if first <= level < first + len(seen):
                x = x + self.project[level - first](seen[level - first])
            if noise is not None:
                x = x + self.encoder_noise[level](noise)[:, :, None, None]
            x = layers(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H, W)."""
        return self.decode(self.maps(images), images.shape[2:])

    def decode(self, maps: Sequence[Tensor], size: Sequence[int], noise: Tensor | None = None) -> Tensor:
        """The result (B, after, *size) from the encoder's maps of images of that height and width."""
        *skips, x = maps
        for level in reversed(range(len(skips))):
            if noise is not None:
                x = x + self.decoder_noise[level](noise)[:, :, None, None]
            skip, block = skips[level], self.decoder[level]
            x = block(torch.cat([interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), skip], 1))
        result: Tensor = self.leave(silu(self.norm(x)))
        return result[:, :, : size[0], : size[1]]
