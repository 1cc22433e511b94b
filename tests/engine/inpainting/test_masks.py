"""Masks from files, boxes and alpha; growing and feathering."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from imggen.engine.inpainting.masks import dilate, feather_weights
from imggen.errors import DataError
from imggen.io.image import ImageArray
from tests.engine.inpainting.conftest import Inpaint, random_image, save_mask, square_mask
from tests.helpers import read_pixels


def test_masks_of_every_kind(inpaint: Inpaint) -> None:
    random_image("L").save("x.png")
    mask = square_mask() > 0

    def changed_pixels(**more: Any) -> ImageArray:
        inpaint("x.png", "y.png", force=True, seed=12, **more)
        return read_pixels("y.png") != read_pixels("x.png")

    white = Image.fromarray(mask.astype(np.uint8) * 255)
    clear = Image.new("RGBA", (20, 20))
    clear.paste((255, 255, 255, 255), mask=white)
    for name, image in (("gray", white), ("bits", white.convert("1")), ("rgb", white.convert("RGB")), ("clear", clear)):
        image.save(f"{name}.png")
        changed = changed_pixels(mask=Path(f"{name}.png"))
        assert not changed[~mask].any() and changed[mask].mean() > 0.8, name
    Image.fromarray(np.where(mask, 128, 127).astype(np.uint8)).save("edge.png")
    assert not changed_pixels(mask=Path("edge.png"))[~mask].any()
    ImageOps.invert(white).save("black.png")
    assert not changed_pixels(mask=Path("black.png"), invert=True)[~mask].any()
    grown = changed_pixels(mask=Path("gray.png"), grow=2)
    assert grown[4, 3:15].any() and not grown[:4].any() and not grown[:, :3].any()
    white.resize((40, 40)).save("large.png")
    with pytest.raises(DataError, match="40x40, its image 20x20"):
        inpaint("x.png", "z.png", mask=Path("large.png"))
    assert changed_pixels(mask=Path("large.png"), resize_mask=True)[mask].mean() > 0.8
    boxes = changed_pixels(boxes=((0, 0, 3, 2), (18, 18, 2, 2)))
    assert boxes[:2, :3].any() and boxes[18:, 18:].any() and boxes.sum() <= 10


def test_dilating() -> None:
    mask = np.zeros((48, 48), bool)
    mask[12:37, 9:30] = True
    assert np.array_equal(dilate(mask, 0), mask) and dilate(mask, 2).sum() == 29 * 25
    assert dilate(mask, 100).all()


def test_feathers_stay_inside_the_mask(inpaint: Inpaint) -> None:
    Image.fromarray(np.full((32, 32), 100, np.uint8)).save("x.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[4:28, 4:28] = 1
    inpaint("x.png", "hard.png", mask=save_mask(mask))
    inpaint("x.png", "soft.png", mask=save_mask(mask), feather=5)
    hard, soft = (np.abs(read_pixels(name).astype(int) - 100) for name in ("hard.png", "soft.png"))
    assert not soft[mask == 0].any() and soft[16, 16] == hard[16, 16] > 0
    assert 0 < soft[16, 4] < soft[16, 6] < soft[16, 9]
    weights = feather_weights(mask > 0, 5)
    assert weights[mask == 0].max() == 0 and weights[16, 16] == 1 and np.isclose(weights[16, 4], 1 / 6)
