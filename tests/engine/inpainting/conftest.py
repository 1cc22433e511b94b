"""Images of every mode, masks, and inpainting with models whose fills cost nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from imggen.engine import inpainting
from imggen.engine.checkpoints import save_backend
from imggen.engine.options import InpaintOptions
from imggen.io.image import ImageArray
from imggen.models.base import DEFAULT_SAMPLING
from imggen.models.config import SamplingOptions
from imggen.models.gan.backend import GanBackend
from imggen.reporting import Silent
from tests.helpers import small_gan

Inpaint = Callable[..., dict[str, Any]]
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
ENDINGS = {"CMYK": "tif", "I": "tif", "F": "tif"}


def fill_with_noise(
    self: GanBackend,
    images: Tensor,
    mask: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    options: SamplingOptions = DEFAULT_SAMPLING,
) -> Tensor:
    """A fill that costs nothing: the first number of the noise, everywhere."""
    assert mask.unique().tolist() in ([0, 1], [1]) and images.shape[1:] == self.config.image_shape
    level = torch.tanh(noise[:, :1, None, None] * options.temperature)
    return torch.where(mask > 0, level.expand_as(images), images)


@pytest.fixture(scope="session")
def gan_files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Checkpoints of GANs of 16 pixels, by their number of channels."""
    folder = tmp_path_factory.mktemp("models")
    for channels in (1, 3, 4):
        save_backend(folder / f"{channels}.safetensors", small_gan(channels=channels), {})
    return {channels: str(folder / f"{channels}.safetensors") for channels in (1, 3, 4)}


@pytest.fixture
def inpaint(gan_files: dict[int, str], monkeypatch: pytest.MonkeyPatch) -> Inpaint:
    """Fill the masked region of an image file by `fill_with_noise`, with a model of 1, 3 or 4 channels."""
    monkeypatch.setattr(GanBackend, "inpaint", fill_with_noise)

    def run(image: str, output: str, channels: int = 3, reporter: Silent | None = None, **more: Any) -> dict[str, Any]:
        options = InpaintOptions(
            model=gan_files[channels], image=Path(image), output=output, **{"seed": 5, "device": "cpu", **more}
        )
        return inpainting.run(options, reporter or Silent())

    return run


def random_image(mode: str, width: int = 20, height: int = 20, seed: int = 0) -> Image.Image:
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


def square_mask(width: int = 20, height: int = 20) -> ImageArray:
    """(H, W), 1 in a box of 8x6 pixels."""
    mask = np.zeros((height, width), np.uint8)
    mask[6:12, 5:13] = 1
    return mask


def save_mask(mask: ImageArray, name: str = "m.png") -> Path:
    Image.fromarray((mask > 0).astype(np.uint8) * 255).save(name)
    return Path(name)
