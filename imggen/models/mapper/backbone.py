"""What EfficientNet-Lite0 sees, for the levels of a U-Net: a start where there are few masks (`--features pretrained`).

The network is frozen, and cut where its maps have a sixteenth of the side of what it sees: coarser ones would depend on
places so far away that tiles could not overlap by enough. It was trained with photographs of 224 pixels, and sees small
images magnified.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from imggen.models.efficientnet import STAGES, EfficientNetLite0

# The stage whose output is the last of its resolution, for 1/2, 1/4, 1/8 and 1/16 of the side of what the network sees.
LAST_STAGES = (0, 1, 2, 4)


class Backbone(nn.Module):
    """Images → maps for the levels `first` to `last` of a U-Net, of which level L has 1 / 2^L of the image's side.

    `magnify` is 1, 2 or 4. `widths` are the channels of the maps, whose sides must be divisible by `multiple`.
    """

    def __init__(self, halvings: int, magnify: int) -> None:
        super().__init__()
        network = EfficientNetLite0().eval()
        network.fold()
        self.stem, self.stages = network.stem, network.stages[: LAST_STAGES[-1] + 1]
        self.requires_grad_(False)
        self.magnify = magnify
        finest = 2 - magnify.bit_length()  # the level of the first map; those finer than the image are left out
        self.last_stages = LAST_STAGES[max(0, -finest) :]
        self.first, self.last = max(0, finest), min(halvings, finest + len(LAST_STAGES) - 1)
        widths, count = [STAGES[stage].width for stage in self.last_stages], self.last - self.first
        self.widths = (*widths[:count], sum(widths[count:]))
        self.multiple = (1 << len(LAST_STAGES)) // magnify

    def take(self, network: EfficientNetLite0) -> None:
        """Copy the weights of a network whose BatchNorms are folded."""
        self.stem.load_state_dict(network.stem.state_dict())
        self.stages.load_state_dict(network.stages[: len(self.stages)].state_dict())

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) in [-1, 1] → a map (B, widths[i], H / 2^L, W / 2^L) for each level L = first + i.

        Gray is seen as color, and alpha is not seen: transparent pixels are white. The last level has its own map and
        all coarser ones, enlarged.
        """
        x = images[:, :3] if images.shape[1] > 2 else images.expand(-1, 3, -1, -1)
        if self.magnify > 1:
            x = interpolate(x, scale_factor=self.magnify, mode="bicubic", align_corners=False)
        x, maps = self.stem(x), []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in self.last_stages:
                maps.append(x)
        last = self.last - self.first
        size = maps[last].shape[2:]
        coarser = [interpolate(each, size, mode="bilinear", align_corners=False) for each in maps[last + 1 :]]
        return [*maps[:last], torch.cat([maps[last], *coarser], 1)]

    @property
    def reach(self) -> int:
        """How far away, in pixels, another place may be that a map depends on."""
        distance, step = 1, 2  # of the stem; the distance of neighbors in its output
        for stage in STAGES[: len(self.stages)]:
            distance += stage.kernel // 2 * step
            step *= stage.stride
            distance += (stage.blocks - 1) * (stage.kernel // 2 * step)
        distance += 2 * step  # of enlarging the coarsest map
        return -(-distance // self.magnify) + (2 if self.magnify > 1 else 0)
