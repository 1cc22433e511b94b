"""What EfficientNet-Lite0 sees, for the levels of a U-Net: a start where there are few masks (`--features pretrained`).

The network is frozen, and cut where its maps have a sixteenth of the image's side: coarser ones would depend on places
so far away that tiles could not overlap by enough.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from imggen.models.efficientnet import STAGES, EfficientNetLite0

# The stage whose output is the last of its resolution, for 1/2, 1/4, 1/8 and 1/16 of the image's side.
LEVEL_STAGES = (0, 1, 2, 4)
MULTIPLE = 1 << len(LEVEL_STAGES)


class Backbone(nn.Module):
    """Images → maps for the levels 1 to `halvings` of a U-Net, of which level L has 1 / 2^L of the image's side."""

    def __init__(self, halvings: int) -> None:
        super().__init__()
        network = EfficientNetLite0().eval()
        network.fold()
        self.stem, self.stages = network.stem, network.stages[: LEVEL_STAGES[-1] + 1]
        self.requires_grad_(False)
        self.levels = min(halvings, len(LEVEL_STAGES))
        widths = [STAGES[stage].width for stage in LEVEL_STAGES]
        self.widths = (*widths[: self.levels - 1], sum(widths[self.levels - 1 :]))

    def take(self, network: EfficientNetLite0) -> None:
        """Copy the weights of a network whose BatchNorms are folded."""
        self.stem.load_state_dict(network.stem.state_dict())
        self.stages.load_state_dict(network.stages[: len(self.stages)].state_dict())

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) in [-1, 1], sides divisible by MULTIPLE → a map (B, widths[i], H / 2^(i + 1), …) for each level.

        Gray is seen as color, and alpha is not seen: transparent pixels are white. The last level has its own map and
        all coarser ones, enlarged.
        """
        x = self.stem(images[:, :3] if images.shape[1] > 2 else images.expand(-1, 3, -1, -1))
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in LEVEL_STAGES:
                maps.append(x)
        last, size = self.levels - 1, maps[self.levels - 1].shape[2:]
        coarser = [interpolate(each, size, mode="bilinear", align_corners=False) for each in maps[self.levels :]]
        return [*maps[:last], torch.cat([maps[last], *coarser], 1)]

    @property
    def reach(self) -> int:
        """How far away, in pixels, another place may be that a map depends on."""
        distance, step = 1, 2  # of the stem; the distance of neighbors in its output
        for stage in STAGES[: len(self.stages)]:
            distance += stage.kernel // 2 * step
            step *= stage.stride
            distance += (stage.blocks - 1) * (stage.kernel // 2 * step)
        return distance + 2 * step  # and the enlarging
