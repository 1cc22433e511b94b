"""Masks from files, boxes and alpha; growing and feathering."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from imggen.data.decode import decode_image
from imggen.engine.inpainting.masks import dilate, feather_weights, read_mask
from imggen.errors import DataError
from imggen.io.image import ImageArray
from tests.engine.inpainting.conftest import Inpaint, random_image, save_mask, square_mask
from tests.helpers import RecordingReporter, read_pixels


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


def one_line(width: int, height: int, column: int) -> Image.Image:
    mask = np.zeros((height, width), np.uint8)
    mask[:, column] = 255
    return Image.fromarray(mask)


@pytest.mark.parametrize("size", [(256, 256), (65, 64), (100, 64), (1000, 700), (64, 300)])
@pytest.mark.parametrize("invert", [False, True])
def test_a_pixel_that_the_mask_touches_is_masked(tmp_path: Path, size: tuple[int, int], invert: bool) -> None:
    width, height = size
    for column in (0, width // 3, width - 1):
        line = one_line(width, height, column)
        (ImageOps.invert(line) if invert else line).save("line.png")
        mask = read_mask(Path("line.png"), (64, 64), invert=invert, resize=True).mask
        touched = {column * 64 // width, ((column + 1) * 64 - 1) // width}
        assert mask.shape == (64, 64) and set(np.flatnonzero(mask.all(0)).tolist()) == touched
        assert mask.sum() == 64 * len(touched)


def test_enlarged_masks_keep_their_shape() -> None:
    Image.fromarray(square_mask() * 255).save("m.png")
    mask = read_mask(Path("m.png"), (40, 40), invert=False, resize=True).mask
    assert np.array_equal(mask, square_mask().repeat(2, 0).repeat(2, 1) > 0)


def test_another_aspect_ratio_is_said() -> None:
    for size, wanted, is_said in (
        ((40, 20), (20, 20), True),
        ((1000, 667), (500, 334), False),
        ((20, 20), (20, 20), 0),
    ):
        Image.new("L", size, 255).save("m.png")
        note = read_mask(Path("m.png"), wanted, invert=False, resize=True).note
        assert bool(note) == is_said and (not note or "40x20 is stretched" in note)


def palette_mask(shape: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    image = shape.point(lambda value: 1 if value else 0).convert("P")
    image.putpalette([0, 0, 0, *color])
    return image


@pytest.mark.parametrize("kind", ["levels 0 and 1", "palette of VOC", "16 bits of 0 and 255", "red", "black"])
@pytest.mark.parametrize("invert", [False, True])
def test_hints_look_at_the_mask(inpaint: Inpaint, kind: str, invert: bool) -> None:
    white = Image.fromarray(square_mask() * 255)
    masks = {
        "levels 0 and 1": (white.point(lambda value: value // 255), 1),
        "palette of VOC": (palette_mask(white, (128, 0, 0)), 38),
        "16 bits of 0 and 255": (Image.fromarray(square_mask().astype(np.uint16) * 255), 1),
        "red": (Image.merge("RGB", [white, *[Image.new("L", (20, 20))] * 2]), 76),
        "black": (Image.new("L", (20, 20)), 0),
    }
    image, lightest = masks[kind]
    image.save("m.png")
    random_image("RGB").save("x.png")
    what = "every pixel" if invert else "no pixel"
    with pytest.raises(DataError, match=f"m.png: {what} is masked: its lightest level is {lightest} of 255") as error:
        inpaint("x.png", "y.png", mask=Path("m.png"), invert=invert)
    assert "--invert-mask" not in str(error.value.hint)
    with Image.open("m.png") as mask:
        ImageOps.invert(decode_image(mask).convert("L")).save("n.png")
    with pytest.raises(DataError, match=f"is masked: its darkest level is {255 - lightest} of 255"):
        inpaint("x.png", "y.png", mask=Path("n.png"), invert=invert)


@pytest.mark.parametrize("color", [(0, 0, 0), (200, 0, 0)])
@pytest.mark.parametrize("hidden", [(0, 0, 0), (9, 90, 200)])
def test_a_shape_in_the_transparency_is_the_mask(
    inpaint: Inpaint, color: tuple[int, int, int], hidden: tuple[int, int, int]
) -> None:
    shape = square_mask() > 0
    pixels = np.where(shape[..., None], (*color, 255), (*hidden, 0)).astype(np.uint8)
    Image.fromarray(pixels).save("m.png")
    random_image("L").save("x.png")
    reporter = RecordingReporter()
    inpaint("x.png", "y.png", mask=Path("m.png"), seed=12, reporter=reporter)
    changed = read_pixels("y.png") != read_pixels("x.png")
    assert not changed[~shape].any() and changed[shape].mean() > 0.8
    assert any("the opaque pixels are the mask" in line for line in reporter.infos)


def test_what_covers_the_whole_image_without_a_file_is_explained(inpaint: Inpaint) -> None:
    random_image("RGBA").save("x.png")
    with pytest.raises(DataError, match=r"x\.png: every pixel is masked"):
        inpaint("x.png", "y.png", boxes=((3, 3, 9, 9),), grow=20)
    Image.new("RGBA", (20, 20), (1, 2, 3, 255)).save("x.png")
    with pytest.raises(DataError, match="no pixel is masked") as error:
        inpaint("x.png", "y.png", from_alpha=True)
    assert "--mask-from-alpha" in str(error.value.hint)


def test_both_notes_about_a_mask_are_kept() -> None:
    image = Image.new("RGBA", (40, 20))
    image.paste((0, 0, 0, 255), (0, 0, 20, 20))
    image.save("m.png")
    note = read_mask(Path("m.png"), (20, 20), invert=False, resize=True).note
    assert note is not None and "opaque pixels are the mask" in note and "40x20 is stretched" in note
