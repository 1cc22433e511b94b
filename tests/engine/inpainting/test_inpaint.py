"""Filling holes: known pixels bit for bit in every mode, masks, sizes, metadata."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps

from imggen.engine.info import describe_file
from imggen.engine.inpainting.blending import poisson_blend, solve_laplace
from imggen.engine.inpainting.masks import feathered, grown, parts_of, squares
from imggen.errors import DataError
from imggen.io.image import ImageArray
from tests.engine.inpaint_help import ENDING, MODES, Call, Told, mask_file, picture, pixels, square_hole


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(MODES),
    width=st.integers(3, 41),
    height=st.integers(3, 41),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 10**6),
    share=st.floats(0.01, 0.9),
    blobs=st.booleans(),
    context=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_known_pixels_keep_their_bits(
    models: Call,
    mode: str,
    width: int,
    height: int,
    channels: int,
    seed: int,
    share: float,
    blobs: bool,
    context: float,
) -> None:
    random = np.random.default_rng(seed)
    hole = random.random((height, width)) < share
    if blobs:
        hole[:] = False
        hole[random.integers(height) :, : random.integers(1, width + 1)] = True
    hole[0, 0], hole[-1, -1] = True, False
    ending = ENDING.get(mode, "png")
    given_picture = picture(mode, width, height, seed)
    given_picture.save(f"x.{ending}")
    before = pixels(f"x.{ending}")
    mask = mask_file(hole.astype(np.uint8))
    models(f"x.{ending}", f"y.{ending}", channels, mask=mask, force=True, context=context, seed=seed)
    with Image.open(f"x.{ending}") as was, Image.open(f"y.{ending}") as now:
        assert (now.mode, now.size) == (was.mode, was.size)
        assert now.getpalette() == was.getpalette()
    after = pixels(f"y.{ending}")
    assert np.array_equal(before[~hole], after[~hole])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "P"])
def test_webp_keeps_known_colours(models: Call, mode: str) -> None:
    picture(mode, 20, 20).save("x.png")
    hole = square_hole()
    models("x.png", "y.webp", mask=mask_file(hole))
    with Image.open("x.png") as was, Image.open("y.webp") as now:
        assert np.array_equal(np.asarray(was.convert(now.mode))[hole == 0], np.asarray(now)[hole == 0])


def test_other_seeds_other_fills_and_the_same_again(models: Call) -> None:
    picture("RGB", 20, 20).save("x.png")
    mask = mask_file(square_hole())
    found = models("x.png", "y.png", mask=mask, count=3)
    assert found["paths"] == ["y-1.png", "y-2.png", "y-3.png"]
    assert len({pixels(path).tobytes() for path in found["paths"]}) == 3
    models("x.png", "one.png", mask=mask, seed=7)
    assert np.array_equal(pixels("one.png"), pixels("y-3.png"))
    models("x.png", "p-%03d.png", mask=mask, count=2)
    assert np.array_equal(pixels("p-006.png"), pixels("y-2.png"))


def test_profile_exif_and_orientation(models: Call) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x010F] = "mine", 6, "Leica"
    for ending in ("png", "webp", "tif"):
        picture("RGB", 30, 20).save(
            f"x.{ending}", icc_profile=profile, exif=exif, **({"lossless": True} if ending == "webp" else {})
        )
        with Image.open(f"x.{ending}") as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
        hole = square_hole(20, 30)
        models(f"x.{ending}", f"y.{ending}", mask=mask_file(hole), boxes=((0, 0, 2, 3),))
        hole[:3, :2] = 1
        with Image.open(f"y.{ending}") as image:
            image.load()
            assert image.size == (20, 30) and image.info["icc_profile"] == profile
            kept = image.getexif()
            assert kept.get(0x0112, 1) == 1 and kept[0x010E] == "mine" and kept[0x010F] == "Leica"
            assert np.array_equal(np.asarray(image)[hole == 0], upright[hole == 0])
        assert describe_file(Path(f"y.{ending}"))["command"].startswith("imggen inpaint")


def test_jpeg_says_that_it_cannot(models: Call) -> None:
    picture("RGBA", 20, 20).save("x.png")
    told = Told()
    models("x.png", "y.jpg", reporter=told, mask=mask_file(square_hole()))
    assert any("warning: JPEG changes every pixel" in line for line in told.lines)
    with Image.open("y.jpg") as image:
        assert image.mode == "RGB" and image.size == (20, 20)
    assert describe_file(Path("y.jpg"))["seed"] == "5"


def test_alpha(models: Call) -> None:
    raw = np.full((20, 20, 4), 200, np.uint8)
    raw[6:12, 5:13, 3] = 0
    raw[0, 0, 3] = 0
    Image.fromarray(raw).save("x.png")
    models("x.png", "a.png", from_alpha=True)
    assert (pixels("a.png")[..., 3] == np.where(raw[..., 3] == 0, 255, raw[..., 3])).all()
    models("x.png", "b.png", mask=mask_file(square_hole()))
    assert np.array_equal(pixels("b.png")[..., 3], raw[..., 3])  # colours are filled, transparency stays
    models("x.png", "c.png", 4, from_alpha=True)
    assert len(np.unique(pixels("c.png")[6:12, 5:13, 3])) == 1
    picture("RGB", 20, 20).save("solid.png")
    with pytest.raises(DataError, match="no transparency"):
        models("solid.png", "d.png", from_alpha=True)
    key = picture("RGB", 20, 20)
    key.save("key.png", transparency=key.getpixel((8, 8)))
    models("key.png", "e.png", from_alpha=True)
    with Image.open("e.png") as image:
        assert image.mode == "RGB" and np.asarray(image.convert("RGBA"))[8, 8, 3] == 255


def test_masks_of_every_kind(models: Call) -> None:
    picture("L", 20, 20).save("x.png")
    hole = square_hole() > 0

    def filled_where(**more: Any) -> ImageArray:
        models("x.png", "y.png", force=True, seed=12, **more)
        return pixels("y.png") != pixels("x.png")

    white = Image.fromarray(hole.astype(np.uint8) * 255)
    clear = Image.new("RGBA", (20, 20))
    clear.paste((255, 255, 255, 255), mask=white)
    for name, mask in (("grey", white), ("bits", white.convert("1")), ("rgb", white.convert("RGB")), ("clear", clear)):
        mask.save(f"{name}.png")
        found = filled_where(mask=Path(f"{name}.png"))
        assert not found[~hole].any() and found[hole].mean() > 0.8, name
    Image.fromarray(np.where(hole, 128, 127).astype(np.uint8)).save("edge.png")
    assert not filled_where(mask=Path("edge.png"))[~hole].any()
    ImageOps.invert(white).save("black.png")
    assert not filled_where(mask=Path("black.png"), invert=True)[~hole].any()
    wider = filled_where(mask=Path("grey.png"), grow=2)
    assert wider[4, 3:15].any() and not wider[:4].any() and not wider[:, :3].any()
    white.resize((40, 40)).save("large.png")
    with pytest.raises(DataError, match="40x40, its picture 20x20"):
        models("x.png", "z.png", mask=Path("large.png"))
    assert filled_where(mask=Path("large.png"), resize_mask=True)[hole].mean() > 0.8
    boxes = filled_where(boxes=((0, 0, 3, 2), (18, 18, 2, 2)))
    assert boxes[:2, :3].any() and boxes[18:, 18:].any() and boxes.sum() <= 10


def test_feathers_stay_in_the_hole(models: Call) -> None:
    Image.fromarray(np.full((32, 32), 100, np.uint8)).save("x.png")
    hole = np.zeros((32, 32), np.uint8)
    hole[4:28, 4:28] = 1
    models("x.png", "hard.png", mask=mask_file(hole))
    models("x.png", "soft.png", mask=mask_file(hole), feather=5)
    hard, soft = (np.abs(pixels(name).astype(int) - 100) for name in ("hard.png", "soft.png"))
    assert not soft[hole == 0].any() and soft[16, 16] == hard[16, 16] > 0
    assert 0 < soft[16, 4] < soft[16, 6] < soft[16, 9]
    weights = feathered(hole > 0, 5)
    assert weights[hole == 0].max() == 0 and weights[16, 16] == 1 and np.isclose(weights[16, 4], 1 / 6)


def test_expanding_grows_the_picture(models: Call) -> None:
    for mode in ("RGB", "P", "RGBA", "I;16"):
        picture(mode, 20, 16).save("x.png")
        models("x.png", "y.png", expand=(3, 0, 5, 7), force=True)
        before, after = pixels("x.png"), pixels("y.png")
        assert after.shape[:2] == (23, 28) and np.array_equal(after[:16, 3:23], before)
        if mode == "RGBA":
            assert (after[16:, :, 3] == 255).all()


def test_large_pictures_are_worked_in_squares(models: Call) -> None:
    told = Told()
    picture("RGB", 300, 200).save("x.png")
    hole = np.zeros((200, 300), np.uint8)
    hole[10:90, 20:60] = hole[150:156, 250:258] = hole[158:160, 255:257] = 1
    models("x.png", "y.png", reporter=told, mask=mask_file(hole), count=2)
    for name in ("y-1.png", "y-2.png"):
        assert np.array_equal(pixels(name)[hole == 0], pixels("x.png")[hole == 0])
        assert (pixels(name)[hole > 0] != pixels("x.png")[hole > 0]).mean() > 0.9
    assert any("squares of more than 64 pixels are worked at 16" in line for line in told.lines)
    parts, count = parts_of(hole > 0)
    found = squares(parts, count, 16, 2.0)
    assert len(found) == 2 and found[0].side == 160 and found[1].side == 20
    for place in found:
        assert 0 <= place.left <= 300 - place.side and 0 <= place.top <= 200 - place.side
    assert {part for place in found for part in place.parts} == set(range(1, count + 1))


def test_seams_are_blended() -> None:
    random = np.random.default_rng(0)
    truth = np.add.outer(np.linspace(0, 200, 48), np.linspace(0, 40, 48))[..., None].astype(np.float32)
    hole = np.zeros((48, 48), bool)
    hole[12:37, 9:30] = True
    wrong = truth + 30 + np.linspace(0, 20, 48)[None, :, None].astype(np.float32)
    mended = poisson_blend(wrong, truth, ~hole, hole)
    assert np.abs(mended - truth)[hole].max() < 1.5 < np.abs(wrong - truth)[hole].min()
    assert np.array_equal(poisson_blend(truth, truth, ~hole, hole), truth)
    rough = solve_laplace(random.normal(0, 1, (48, 48, 3)).astype(np.float32), ~hole, hole)
    assert np.abs(rough[20:28, 16:22]).max() < 0.6
    assert np.array_equal(grown(hole, 0), hole) and grown(hole, 2).sum() == 29 * 25
    assert np.array_equal(solve_laplace(truth, np.zeros_like(hole), hole), np.zeros_like(truth))


def png_of_16_bits(kind: int, channels: int) -> bytes:
    """A PNG of 4x4 pixels of that colour type, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(range(1, 8 * channels + 1)) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_refused_not_cut(models: Call, kind: int, channels: int) -> None:
    Path("x.png").write_bytes(png_of_16_bits(kind, channels))
    with pytest.raises(DataError, match="16 bits a colour"):
        models("x.png", "y.png", boxes=((0, 0, 2, 2),))
    Path("g.png").write_bytes(png_of_16_bits(0, 1))
    models("g.png", "h.png", boxes=((0, 0, 2, 2),))
    assert np.array_equal(pixels("h.png")[2:], pixels("g.png")[2:]) and pixels("h.png").dtype == np.uint16


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "jpg"])
def test_a_cameras_exif_goes_into_every_format(models: Call, ending: str) -> None:
    """With the folders of tags inside it that every camera and telephone writes."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Box"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    picture("RGB", 20, 20).save("x.jpg", exif=exif)
    models("x.jpg", f"y.{ending}", boxes=((0, 0, 2, 2),))
    with Image.open(f"y.{ending}") as image:
        kept = image.getexif()
        assert kept[ExifTags.Base.Make] == "Box"
        assert ending == "tif" or kept.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
