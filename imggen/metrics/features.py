"""The features in which images are compared: imggen's own small network, EfficientNet-Lite0, or Inception.

First the network, `Extractor`, whose weights are shipped with imggen, so that no download is needed. Then loading it:
`load_features` gives a `Features`, which turns arrays of images into feature vectors.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from imggen.errors import CheckpointError, UsageError, first_line
from imggen.io.checkpoint import read_header, read_tensors, weights_hash
from imggen.io.image import ImageArray
from imggen.io.model_paths import shipped_folder
from imggen.io.pixels import from_array, to_float, to_levels
from imggen.models.efficientnet import SIDE, load_efficientnet

INPUT_SIDE = 32
WIDTH = 128

# Pixels per batch, so that a batch of 250 images of 32 pixels, or 32 of Inception's 299, fits the memory.
_BATCH_PIXELS = 250 * 32 * 32
_PRETRAINED_BATCH = 32  # images of 224 pixels
_INCEPTION_BATCH_PIXELS = 32 * 299 * 299


# The network


class Unit(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H, W)."""
        return self.norm(self.conv(x)).relu_()


class Extractor(nn.Module):
    """A residual network (after He et al. 2015, arXiv 1512.03385) of nine layers for images of 32 pixels.

    It was trained to classify images into `labels` classes. Its features are the activations half-way and at the top,
    averaged over the image, then normalized: `mean` and `scale` make each feature's mean 0 and variance 1 over the
    training images, so that every feature has the same weight in a distance.
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

    def maps(self, x: Tensor) -> tuple[Tensor, ...]:
        """RGB images (B, 3, H, W) in [-1, 1] → activations of 1, 1/2, 1/4, 1/4 and 1/8 of the image's side."""
        stem = self.stem(x)
        second = self.second(max_pool2d(stem, 2))
        x = max_pool2d(second, 2)
        middle = x + self.half_way(x)
        third = self.third(middle)
        x = max_pool2d(third, 2)
        return stem, second, middle, third, x + self.top(x)

    def raw(self, x: Tensor) -> Tensor:
        """RGB images (B, 3, 32, 32) in [-1, 1] → features (B, 256) before normalization."""
        _, _, middle, _, top = self.maps(x)
        return torch.cat([middle.mean((2, 3)), top.mean((2, 3))], 1)

    def classify(self, x: Tensor) -> Tensor:
        """RGB images (B, 3, 32, 32) in [-1, 1] → logits (B, labels)."""
        return self.logits(self.raw(x)[:, WIDTH:])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1], C of 1, 3 or 4, any size → features (B, 256), or (B, 384) from 64 pixels on.

        Images of another size are resized to 32 pixels as a whole. That removes the texture of large images: from 64
        pixels on, the half-way features of tiles of 32 pixels, averaged over the tiles, are appended.
        """
        rgb = to_rgb(images)
        features = (self.raw(_resize(rgb, INPUT_SIDE)) - self.mean) / self.scale
        if min(images.shape[2:]) < 2 * INPUT_SIDE:
            return features
        total = torch.zeros_like(features[:, :WIDTH])
        corners = [(y, x) for y in tile_starts(images.shape[2]) for x in tile_starts(images.shape[3])]
        for y, x in corners:
            total += self.raw(rgb[:, :, y : y + INPUT_SIDE, x : x + INPUT_SIDE])[:, :WIDTH]
        texture = (total / len(corners) - self.mean[:WIDTH]) / self.scale[:WIDTH]
        return torch.cat([features, texture], 1)


def to_rgb(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] → (B, 3, H, W): gray is repeated, alpha is composited on white."""
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] == 4:
        alpha = (images[:, 3:] + 1) / 2
        return images[:, :3] * alpha + (1 - alpha)
    return images


def _resize(images: Tensor, side: int) -> Tensor:
    """Resize to a square, bilinear with antialiasing; images of that size are returned as they are."""
    if images.shape[2:] == (side, side):
        return images
    return interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def tile_starts(length: int) -> list[int]:
    """The first pixels of the tiles along a side of `length` pixels: the fewest that cover it, evenly spaced."""
    count = math.ceil(length / INPUT_SIDE)
    return [round(k * (length - INPUT_SIDE) / max(1, count - 1)) for k in range(count)]


# Loading, and extraction from arrays


@dataclass(frozen=True)
class Features:
    """A way to extract features: `extract` maps images (B, H, W, C) uint8 to vectors (B, D) float32 on the CPU.

    `hash` identifies the weights: metrics of different features cannot be compared. `distances` are the names of the
    Fréchet and the kernel distance in these features: only Inception's are called FID and KID.
    """

    name: str
    hash: str
    extract: Callable[[ImageArray], Tensor]
    distances: tuple[str, str] = ("fd", "kd")


def load_features(name: str | None, device: torch.device) -> Features:
    """The features named: None for the shipped extractor, `pretrained` for EfficientNet-Lite0, `inception` or
    `inception:FILE` for torch-fidelity's Inception, or the path of an extractor.

    Raises CheckpointError, and UsageError if the package that has the network is not installed.
    """
    if name == "pretrained":
        return _load_pretrained(device)
    if name is not None and name.split(":")[0] == "inception":
        return _load_inception(Path(name.partition(":")[2]) if ":" in name else None, device)
    extractor, digest = load_extractor(None if name is None else Path(name))
    extractor.to(device)

    def extract(images: ImageArray) -> Tensor:
        return extractor(to_float(from_array(images, device)))

    return Features("imggen" if name is None else Path(name).name, digest, _in_batches(extract, _BATCH_PIXELS))


def load_extractor(path: Path | None = None) -> tuple[Extractor, str]:
    """The extractor in `path`, or the shipped one, in eval mode, and the hash of its weights.

    Raises CheckpointError.
    """
    if path is None:
        folder = shipped_folder()
        if folder is None or not (folder / "features.safetensors").is_file():
            raise CheckpointError("the shipped feature extractor is missing", "reinstall imggen, or --features FILE")
        path = folder / "features.safetensors"
    header = read_header(path, kind="features")
    labels = _label_count(path, header.document)
    extractor = Extractor(labels).eval().requires_grad_(False)
    extractor.load_state_dict(read_tensors(path, header, extractor.state_dict()))
    return extractor.to(memory_format=torch.channels_last), weights_hash(header)


def _label_count(path: Path, document: dict[str, Any]) -> int:
    labels = document.get("labels")
    if type(labels) is not int or not 2 <= labels <= 10_000:
        raise CheckpointError(f"{path} has a damaged description", "copy it again, or use another extractor")
    return labels


def _in_batches(extract: Callable[[ImageArray], Tensor], max_pixels: int) -> Callable[[ImageArray], Tensor]:
    """Apply `extract` in batches of at most about `max_pixels` pixels, in full float32 precision on every device."""

    @torch.inference_mode()
    def extract_all(images: ImageArray) -> Tensor:
        size = max(1, max_pixels // (images.shape[1] * images.shape[2]))
        # With TF32, a GPU's features of the same image would differ from a CPU's.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [extract(images[start : start + size]) for start in range(0, len(images), size)]
        return torch.cat(parts).float().cpu()

    return extract_all


def _load_pretrained(device: torch.device) -> Features:
    """EfficientNet-Lite0's 1,280 features, of images resized as a whole."""
    network, digest = load_efficientnet()
    network.to(device)

    def extract(images: ImageArray) -> Tensor:
        return network(_resize(to_rgb(to_float(from_array(images, device))), SIDE))

    # The batch is bounded by the pixels after resizing.
    def extract_all(images: ImageArray) -> Tensor:
        return _in_batches(extract, _PRETRAINED_BATCH * images.shape[1] * images.shape[2])(images)

    return Features("EfficientNet-Lite0", digest, extract_all, ("fd_pretrained", "kd_pretrained"))


def _load_inception(path: Path | None, device: torch.device) -> Features:
    """torch-fidelity's Inception v3, with the weights in `path`, or those that it downloads."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UsageError("Inception's features need torch-fidelity", "pip install 'imggen[eval]'") from error
    if path is not None and not path.is_file():
        raise CheckpointError(f"there is no file {path}", "--features inception downloads the weights")
    build: Callable[..., nn.Module] = FeatureExtractorInceptionV3
    weights_path = None if path is None else str(path)
    try:
        with _weights_only_pickles():
            network = build("inception-v3-compat", ["2048"], feature_extractor_weights_path=weights_path)
    except Exception as error:  # of the network, of the disk, or of a file that is something else
        raise CheckpointError(
            f"Inception's weights cannot be loaded: {first_line(error)}",
            "--features inception:FILE loads them from a file",
        ) from error
    network.eval().requires_grad_(False).to(device)
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def extract(images: ImageArray) -> Tensor:
        # The network takes uint8 RGB images and resizes them itself, as the reference implementation does.
        return network(to_levels(to_rgb(to_float(from_array(images, device)))))[0]

    return Features("inception", digest.hexdigest()[:12], _in_batches(extract, _INCEPTION_BATCH_PIXELS), ("fid", "kid"))


@contextmanager
def _weights_only_pickles() -> Iterator[None]:
    """Let torch.load read tensors only: Inception's weights are a pickle, which could run any code."""
    variable = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    previous = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ[variable]
        else:
            os.environ[variable] = previous
