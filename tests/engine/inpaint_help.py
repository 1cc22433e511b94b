"""Pictures, holes and a fill that costs nothing, for the tests of filling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imggen.io.image import ImageArray
from imggen.models.gan.backend import GanBackend as GanBackend
from imggen.reporting import Silent

Call = Callable[..., dict[str, Any]]
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
ENDING = {"CMYK": "tif", "I": "tif", "F": "tif"}


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(f"warning: {message}")


def quick(
    self: GanBackend,
    images: Tensor,
    mask: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 1,
) -> Tensor:
    """A fill that costs nothing: the noise's first number, everywhere."""
    assert mask.unique().tolist() in ([0, 1], [1]) and images.shape[1:] == self.image_shape
    level = torch.tanh(noise[:, :1, None, None] * temperature)
    return torch.where(mask > 0, level.expand_as(images), images)


def picture(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65536, (height, width), dtype=np.uint16))
    if mode == "I":
        return Image.fromarray(random.integers(-(10**6), 10**6, (height, width), dtype=np.int32))
    if mode == "F":
        return Image.fromarray(random.normal(0, 10, (height, width)).astype(np.float32))
    if mode == "1":
        return Image.fromarray(random.random((height, width)) < 0.5)
    channels = {"L": 1, "P": 3, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    raw = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if mode == "P":
        return Image.fromarray(raw).quantize(37)
    return Image.frombytes(mode, (width, height), raw.tobytes())


def mask_file(hole: ImageArray, name: str = "m.png") -> Path:
    Image.fromarray((hole > 0).astype(np.uint8) * 255).save(name)
    return Path(name)


def pixels(path: Path | str) -> ImageArray:
    with Image.open(path) as image:
        return np.asarray(image)


def square_hole(width: int = 20, height: int = 20) -> ImageArray:
    hole = np.zeros((height, width), np.uint8)
    hole[6:12, 5:13] = 1
    return hole


def folders() -> None:
    for name in ("a.png", "b.jpg", "sub/a.png", "sub/c.tif", "b.webp"):
        path = Path("in") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture("RGB", 20, 20, len(name)).save(path)
    for name in ("a", "b", "sub/a", "sub/c"):
        path = Path("masks") / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask_file(square_hole(), str(path))
