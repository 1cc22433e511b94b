"""Results keep unmasked pixels bit for bit in every mode, and color profiles, EXIF data and transparency."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

from imggen.engine.info import describe_file
from imggen.errors import DataError, UsageError
from tests.engine.inpainting.conftest import ENDINGS, MODES, Inpaint, random_image, save_mask, square_mask
from tests.helpers import RecordingReporter, read_pixels


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(MODES),
    width=st.integers(3, 41),
    height=st.integers(3, 41),
    channels=st.sampled_from([1, 3, 4]),
    seed=st.integers(0, 10**6),
    fraction=st.floats(0.01, 0.9),
    is_box=st.booleans(),
    context=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_unmasked_pixels_keep_their_bits(
    inpaint: Inpaint,
    mode: str,
    width: int,
    height: int,
    channels: int,
    seed: int,
    fraction: float,
    is_box: bool,
    context: float,
) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((height, width)) < fraction
    if is_box:
        mask[:] = False
        mask[random.integers(height) :, : random.integers(1, width + 1)] = True
    mask[0, 0], mask[-1, -1] = True, False
    ending = ENDINGS.get(mode, "png")
    random_image(mode, width, height, seed).save(f"x.{ending}")
    before = read_pixels(f"x.{ending}")
    file = save_mask(mask.astype(np.uint8))
    inpaint(f"x.{ending}", f"y.{ending}", channels, mask=file, force=True, context=context, seed=seed)
    with Image.open(f"x.{ending}") as original, Image.open(f"y.{ending}") as result:
        assert (result.mode, result.size) == (original.mode, original.size)
        assert result.getpalette() == original.getpalette()
    assert np.array_equal(before[~mask], read_pixels(f"y.{ending}")[~mask])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "P"])
def test_webp_keeps_unmasked_colors(inpaint: Inpaint, mode: str) -> None:
    random_image(mode).save("x.png")
    mask = square_mask()
    inpaint("x.png", "y.webp", mask=save_mask(mask))
    with Image.open("x.png") as original, Image.open("y.webp") as result:
        expected = np.asarray(original.convert(result.mode))
        assert np.array_equal(expected[mask == 0], np.asarray(result)[mask == 0])


def test_profile_exif_and_orientation(inpaint: Inpaint) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x010F] = "mine", 6, "Leica"
    for ending in ("png", "webp", "tif"):
        random_image("RGB", 30, 20).save(
            f"x.{ending}", icc_profile=profile, exif=exif, **({"lossless": True} if ending == "webp" else {})
        )
        with Image.open(f"x.{ending}") as image:
            upright = np.asarray(ImageOps.exif_transpose(image))
        mask = square_mask(20, 30)
        inpaint(f"x.{ending}", f"y.{ending}", mask=save_mask(mask), boxes=((0, 0, 2, 3),))
        mask[:3, :2] = 1
        with Image.open(f"y.{ending}") as image:
            image.load()
            assert image.size == (20, 30) and image.info["icc_profile"] == profile
            kept = image.getexif()
            assert kept.get(0x0112, 1) == 1 and kept[0x010E] == "mine" and kept[0x010F] == "Leica"
            assert np.array_equal(np.asarray(image)[mask == 0], upright[mask == 0])
        assert describe_file(Path(f"y.{ending}"))["command"].startswith("imggen inpaint")


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "jpg"])
def test_exif_of_a_camera_is_kept_in_every_format(inpaint: Inpaint, ending: str) -> None:
    """With nested folders of tags, which every camera writes."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Box"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    random_image("RGB").save("x.jpg", exif=exif)
    inpaint("x.jpg", f"y.{ending}", boxes=((0, 0, 2, 2),))
    with Image.open(f"y.{ending}") as image:
        kept = image.getexif()
        assert kept[ExifTags.Base.Make] == "Box"
        assert ending == "tif" or kept.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"


def test_jpeg_output_has_a_warning(inpaint: Inpaint) -> None:
    random_image("RGBA").save("x.png")
    reporter = RecordingReporter()
    inpaint("x.png", "y.jpg", reporter=reporter, mask=save_mask(square_mask()))
    assert any("JPEG changes every pixel" in warning for warning in reporter.warnings)
    with Image.open("y.jpg") as image:
        assert image.mode == "RGB" and image.size == (20, 20)
    assert describe_file(Path("y.jpg"))["seed"] == 5


def test_alpha(inpaint: Inpaint) -> None:
    raw = np.full((20, 20, 4), 200, np.uint8)
    raw[6:12, 5:13, 3] = 0
    raw[0, 0, 3] = 0
    Image.fromarray(raw).save("x.png")
    inpaint("x.png", "a.png", from_alpha=True)
    assert (read_pixels("a.png")[..., 3] == np.where(raw[..., 3] == 0, 255, raw[..., 3])).all()
    inpaint("x.png", "b.png", mask=save_mask(square_mask()))
    assert np.array_equal(read_pixels("b.png")[..., 3], raw[..., 3])  # colors are filled, transparency stays
    inpaint("x.png", "c.png", 4, from_alpha=True)
    assert len(np.unique(read_pixels("c.png")[6:12, 5:13, 3])) == 1
    random_image("RGB").save("solid.png")
    with pytest.raises(DataError, match="no transparency"):
        inpaint("solid.png", "d.png", from_alpha=True)
    with_transparent_color = random_image("RGB")
    with_transparent_color.save("key.png", transparency=with_transparent_color.getpixel((8, 8)))
    inpaint("key.png", "e.png", from_alpha=True)
    with Image.open("e.png") as image:
        assert image.mode == "RGB" and np.asarray(image.convert("RGBA"))[8, 8, 3] == 255


def test_expanding(inpaint: Inpaint) -> None:
    for mode in ("RGB", "P", "RGBA", "I;16"):
        random_image(mode, 20, 16).save("x.png")
        inpaint("x.png", "y.png", expand=(3, 0, 5, 7), force=True)
        before, after = read_pixels("x.png"), read_pixels("y.png")
        assert after.shape[:2] == (23, 28) and np.array_equal(after[:16, 3:23], before)
        if mode == "RGBA":
            assert (after[16:, :, 3] == 255).all()


def png_of_16_bits(color_type: int, channels: int) -> bytes:
    """A PNG of 4x4 pixels of that color type, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + bytes(range(1, 8 * channels + 1)) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colors_of_16_bits_are_refused_and_gray_is_kept(inpaint: Inpaint, color_type: int, channels: int) -> None:
    Path("x.png").write_bytes(png_of_16_bits(color_type, channels))
    with pytest.raises(DataError, match="16 bits per color"):
        inpaint("x.png", "y.png", boxes=((0, 0, 2, 2),))
    Path("g.png").write_bytes(png_of_16_bits(0, 1))
    inpaint("g.png", "h.png", boxes=((0, 0, 2, 2),))
    before, after = read_pixels("g.png"), read_pixels("h.png")
    assert np.array_equal(after[2:], before[2:]) and after.dtype == np.uint16


def test_only_the_first_of_several_images_is_filled_with_a_warning(inpaint: Inpaint) -> None:
    pages = [random_image("RGB", seed=seed) for seed in range(3)]
    pages[0].save("x.tif", save_all=True, append_images=pages[1:])
    reporter = RecordingReporter()
    inpaint("x.tif", "y.tif", reporter=reporter, boxes=((0, 0, 2, 2),))
    assert any("of its 3 images only the first" in warning for warning in reporter.warnings)


def test_modes_that_a_format_cannot_store(inpaint: Inpaint) -> None:
    random_image("CMYK").save("x.tif")
    mask = save_mask(square_mask())
    with pytest.raises(UsageError, match="PNG cannot store"):
        inpaint("x.tif", "y.png", mask=mask)
    buffer = io.BytesIO()
    random_image("CMYK").save(buffer, "JPEG")
    Path("in").mkdir()
    Path("in/c.jpg").write_bytes(buffer.getvalue())
    assert inpaint("in", "out/", mask=mask)["paths"] == ["out/c.tif"]
    Image.new("LAB", (20, 20)).save("lab.tif")
    with pytest.raises(DataError, match="mode LAB"):
        inpaint("lab.tif", "y.tif", mask=mask)


@pytest.mark.parametrize("source", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("result", ["jpg", "png", "tif", "webp"])
def test_metadata_that_is_damaged_or_does_not_fit_has_one_warning(inpaint: Inpaint, source: str, result: str) -> None:
    exif = b"Exif\0\0garbage!garbage!"
    more = {"tif": {"tiffinfo": {282: IFDRational(0, 0), 283: IFDRational(0, 0), 296: 2}}}.get(source, {"exif": exif})
    if source == "png":
        more = {"exif": exif[6:]}
    random_image("RGB").save(f"x.{source}", **more, **({"lossless": True} if source == "webp" else {}))
    reporter = RecordingReporter()
    inpaint(f"x.{source}", f"y.{result}", reporter=reporter, boxes=((0, 0, 2, 2),))
    lost = [warning for warning in reporter.warnings if "not kept" in warning]
    assert len(lost) == 1 and lost[0].startswith(f"x.{source}: not kept: ")
    if result != "jpg":
        before, after = read_pixels(f"x.{source}"), read_pixels(f"y.{result}")
        assert np.array_equal(before[2:], after[2:]) and np.array_equal(before[:, 2:], after[:, 2:])
    assert describe_file(Path(f"y.{result}"))["seed"] == 5


def test_exif_that_is_too_long_for_jpeg_is_kept_elsewhere(inpaint: Inpaint) -> None:
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.MakerNote: b"\1" * 65_380}
    random_image("RGB").save("x.jpg", exif=exif)
    reporter = RecordingReporter()
    inpaint("x.jpg", "y.jpg", reporter=reporter, boxes=((0, 0, 2, 2),), count=2)
    assert [warning for warning in reporter.warnings if "EXIF data that JPEG cannot store" in warning] != []
    inpaint("x.jpg", "y.png", boxes=((0, 0, 2, 2),))
    with Image.open("y.png") as image:
        assert len(image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote]) == 65_380


def test_color_chunks_stay_in_png_and_are_missed_elsewhere(inpaint: Inpaint) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"cICP", bytes((12, 13, 0, 1)))
    info.add(b"gAMA", struct.pack(">I", 100_000))
    random_image("RGB").save("x.png", pnginfo=info)
    for name, is_kept in (("y.png", True), ("y.tif", False), ("y.webp", False)):
        reporter = RecordingReporter()
        inpaint("x.png", name, reporter=reporter, boxes=((0, 0, 2, 2),))
        assert (b"cICP" in Path(name).read_bytes()) == is_kept
        assert any("x.png: not kept: cICP" in warning for warning in reporter.warnings) != is_kept


DEEP = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
UNDER_THE_MASK = {"low": 0, "high": 60_000, "nodata": -9999, "no number": np.nan, "infinite": np.inf}


def image_with_masked(mode: str, seed: int) -> Image.Image:
    """A random image whose pixels under `square_mask` depend on the seed, and no others; one palette for all."""
    palette = random_image("P")
    first = palette if mode == "P" else random_image(mode)
    other = palette.point(lambda index: (index * 7 + seed) % 30) if mode == "P" else random_image(mode, seed=seed)
    if mode in DEEP:
        pixels = np.where(square_mask() > 0, np.asarray(other), np.asarray(first))
        return Image.fromarray(pixels.astype(DEEP[mode]))
    first.paste(other, mask=Image.fromarray(square_mask() * 255))
    return first


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_fills_do_not_depend_on_what_is_under_the_mask(inpaint: Inpaint, mode: str, transparent: bool) -> None:
    if transparent and mode not in ("1", "L", "P", "RGB", "I;16"):
        pytest.skip("has no transparent color")
    more = {"transparency": (1, 2, 3) if mode == "RGB" else 1} if transparent else {}
    ending, mask = ENDINGS.get(mode, "png"), save_mask(square_mask())
    fills = []
    for seed in (1, 2, 3):
        image = image_with_masked(mode, seed)
        image.save("x." + ending, **more)
        inpaint("x." + ending, "y." + ending, mask=mask, force=True)
        filled = read_pixels("y." + ending)[square_mask() > 0]
        fills.append(filled[..., :-1] if mode in ("LA", "RGBA") else filled)  # alpha stays
        assert not np.array_equal(np.asarray(image)[square_mask() > 0], read_pixels("y." + ending)[square_mask() > 0])
    assert np.array_equal(fills[0], fills[1]) and np.array_equal(fills[0], fills[2])


@pytest.mark.parametrize("mode", DEEP)
@pytest.mark.parametrize("under", UNDER_THE_MASK)
@pytest.mark.parametrize("expand", [(0, 0, 0, 0), (4, 0, 3, 5)])
def test_fills_of_deep_gray_stay_in_the_range_of_what_is_unmasked(
    inpaint: Inpaint, mode: str, under: str, expand: tuple[int, int, int, int]
) -> None:
    if (mode != "F" and not np.isfinite(UNDER_THE_MASK[under])) or (mode == "I;16" and under == "nodata"):
        pytest.skip("no such value in this mode")
    pixels = np.linspace(1000, 1945, 400).reshape(20, 20).astype(DEEP[mode])
    pixels[square_mask() > 0] = UNDER_THE_MASK[under]
    Image.fromarray(pixels).save("x.tif")
    inpaint("x.tif", "y.tif", mask=save_mask(square_mask()), count=4, expand=expand)
    left, top, _, _ = expand
    for number in range(1, 5):
        filled = read_pixels(f"y-{number}.tif")
        inner = filled[top : top + 20, left : left + 20]
        assert np.array_equal(inner[square_mask() == 0], pixels[square_mask() == 0])
        assert filled.min() >= 1000 and filled.max() <= 1945
