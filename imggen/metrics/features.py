"""The small network in whose features pictures are compared; its weights come with imggen, so no network is needed."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from imggen.errors import CheckpointError, UsageError
from imggen.io.checkpoint import read_header, read_tensors, weights_hash
from imggen.io.image import ImageArray
from imggen.io.model_paths import shipped_folder

INPUT_SIDE = 32
WIDTH = 128


class Unit(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H, W)."""
        y: Tensor = self.norm(self.conv(x)).relu_()
        return y


class Extractor(nn.Module):
    """A nine-layer residual network (after He et al. 2015, arXiv 1512.03385) for 32-pixel pictures.

    Trained to tell the classes of `labels` apart; what it sees on the way, averaged over the picture half-way up and
    at the top, are its features. Each is shifted and scaled to mean 0 and variance 1 over the pictures that it was
    trained on, so that every feature has a like say in a distance.
    """

    def __init__(self, labels: int = 20) -> None:
        super().__init__()
        self.stem, self.second = Unit(3, WIDTH // 2), Unit(WIDTH // 2, WIDTH)
        self.half_way = nn.Sequential(Unit(WIDTH, WIDTH), Unit(WIDTH, WIDTH))
        self.third = Unit(WIDTH, WIDTH)
        self.top = nn.Sequential(Unit(WIDTH, WIDTH), Unit(WIDTH, WIDTH))
        self.logits = nn.Linear(WIDTH, labels)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(2 * WIDTH))
        self.register_buffer("scale", torch.ones(2 * WIDTH))

    def raw(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, 32, 32) in [-1, 1] → features (B, 256) as they leave the network."""
        x = max_pool2d(self.stem(x), 2)
        x = max_pool2d(self.second(x), 2)
        middle = x + self.half_way(x)
        x = max_pool2d(self.third(middle), 2)
        return torch.cat([middle.mean((2, 3)), (x + self.top(x)).mean((2, 3))], 1)

    def classify(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, 32, 32) in [-1, 1] → logits (B, labels)."""
        logits: Tensor = self.logits(self.raw(x)[:, WIDTH:])
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (B, C, H, W) in [-1, 1], C of 1, 3 or 4, any size → features (B, 256 or 384).

        A picture of another size is seen as a whole, resized to 32 pixels; one of 64 pixels or more also in 32-pixel
        tiles, whose half-way features are averaged: what is lost when it is made small, its texture, is seen there.
        """
        colour = to_rgb(images)
        features = (self.raw(resized(colour)) - self.mean) / self.scale
        side = min(images.shape[2:])
        if side < 2 * INPUT_SIDE:
            return features
        total = torch.zeros_like(features[:, :WIDTH])
        corners = [(y, x) for y in tile_starts(images.shape[2]) for x in tile_starts(images.shape[3])]
        for y, x in corners:
            total += self.raw(colour[:, :, y : y + INPUT_SIDE, x : x + INPUT_SIDE])[:, :WIDTH]
        texture = (total / len(corners) - self.mean[:WIDTH]) / self.scale[:WIDTH]
        return torch.cat([features, texture], 1)


def to_rgb(images: Tensor) -> Tensor:
    """Grey three times; alpha laid on white."""
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] == 4:
        alpha = (images[:, 3:] + 1) / 2
        return images[:, :3] * alpha + (1 - alpha)
    return images


def resized(images: Tensor) -> Tensor:
    """To 32x32 with an antialiasing filter; pictures of that size stay as they are."""
    if images.shape[2:] == (INPUT_SIDE, INPUT_SIDE):
        return images
    return interpolate(images, (INPUT_SIDE, INPUT_SIDE), mode="bilinear", antialias=True, align_corners=False)


def tile_starts(length: int) -> list[int]:
    """Where tiles begin along a side: as few as cover it, evenly spread."""
    count = math.ceil(length / INPUT_SIDE)
    return [round(k * (length - INPUT_SIDE) / max(1, count - 1)) for k in range(count)]


def load_extractor(path: Path | None = None) -> tuple[Extractor, str]:
    """The shipped extractor, or the one in `path`, in eval mode, and its hash. Raises CheckpointError."""
    if path is None:
        folder = shipped_folder()
        if folder is None or not (folder / "features.safetensors").is_file():
            raise CheckpointError("the shipped feature extractor is not here", "reinstall imggen, or --features FILE")
        path = folder / "features.safetensors"
    header = read_header(path, kind="features")
    labels = _labels(path, header.document)
    extractor = Extractor(labels).eval().requires_grad_(False)
    expected = {name: tuple(tensor.shape) for name, tensor in extractor.state_dict().items()}
    extractor.load_state_dict(read_tensors(path, header, expected))
    return extractor.to(memory_format=torch.channels_last), weights_hash(header)


def _labels(path: Path, document: dict[str, Any]) -> int:
    labels = document.get("labels")
    if type(labels) is not int or not 2 <= labels <= 10_000:
        raise CheckpointError(f"{path} has a damaged description", "copy it again, or use another extractor")
    return labels


@dataclass(frozen=True)
class Features:
    """Pictures (B, H, W, C), uint8 → features (B, D), float32; and what they are called."""

    name: str
    hash: str
    extract: Callable[[ImageArray], Tensor]
    inception: bool = False


def load_features(name: str | None, device: torch.device) -> Features:
    """None is the shipped extractor; `inception` or `inception:FILE` torch-fidelity's; else a file of an extractor.

    Raises CheckpointError, and UsageError when the extra is missing.
    """
    if name is not None and name.split(":")[0] == "inception":
        return _inception(Path(name.partition(":")[2]) if ":" in name else None, device)
    extractor, digest = load_extractor(None if name is None else Path(name))
    extractor.to(device)

    def extract(pictures: ImageArray) -> Tensor:
        found: Tensor = extractor(_channels_first(pictures, device).float().div_(127.5).sub_(1))
        return found

    return Features("imggen" if name is None else Path(name).name, digest, _in_parts(extract, 250 * 32 * 32))


def _in_parts(extract: Callable[[ImageArray], Tensor], pixels: int) -> Callable[[ImageArray], Tensor]:
    """The same for any number of pictures, at most about `pixels` pixels at a time, and in full float32 everywhere."""

    @torch.inference_mode()
    def whole(pictures: ImageArray) -> Tensor:
        size = max(1, pixels // (pictures.shape[1] * pictures.shape[2]))
        # CUDA's shortened multiplications would make other features of the same picture than a CPU does.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [extract(pictures[start : start + size]) for start in range(0, len(pictures), size)]
        return torch.cat(parts).float().cpu()

    return whole


def _channels_first(pictures: ImageArray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.require(pictures, requirements=("C", "W"))).to(device).permute(0, 3, 1, 2)


def _inception(path: Path | None, device: torch.device) -> Features:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UsageError("Inception's features need torch-fidelity", "pip install 'imggen[eval]'") from error
    if path is not None and not path.is_file():
        raise CheckpointError(f"there is no file {path}", "--features inception downloads the weights")
    # Its weights are a pickle: only tensors may come out of it.
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        build: Callable[..., torch.nn.Module] = FeatureExtractorInceptionV3
        network = build(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=None if path is None else str(path)
        )
    except Exception as error:  # of the network, of the disk, of a file that is something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"Inception's weights cannot be had: {reason}", "--features inception:FILE takes a file that you have"
        ) from error
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
    network.eval().requires_grad_(False).to(device)
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def extract(pictures: ImageArray) -> Tensor:
        # It takes bytes in three channels and resizes by itself, as the reference implementation does.
        levels = to_rgb(_channels_first(pictures, device).float().div_(127.5).sub_(1))
        found: Tensor = network(levels.add(1).mul_(127.5).round_().to(torch.uint8))[0]
        return found

    return Features("inception", digest.hexdigest()[:12], _in_parts(extract, 32 * 299 * 299), inception=True)
