"""Image files with their settings, alpha compositing, and grids."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from imggen.errors import DataError, UsageError
from imggen.io.image import composite_on_white, drop_alpha, encode, encode_png_fast, format_of, grid, read_info


def noise_image(channels: int, side: int = 8) -> Any:
    return np.random.default_rng(channels).integers(0, 256, (side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_settings_are_read_back(tmp_path: Path, channels: int, format: str) -> None:
    info = {"seeds": "0-63", "class": "Füchse 🦊", "command": "imggen sample gan"}
    path = tmp_path / f"x.{format}"
    path.write_bytes(encode(noise_image(channels), format, info))
    assert read_info(path) == info
    with Image.open(path) as image:
        pixels = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])).reshape(8, 8, channels)
    if format != "jpeg":
        assert np.array_equal(pixels, noise_image(channels))


def test_images_without_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encode(noise_image(3), "png", None))
    assert read_info(path) is None
    for text in ("{", "[1]", "1", "[" * 100_000):
        path.write_bytes(_with_text(text))
        assert read_info(path) is None
    path.write_bytes(b"not an image")
    with pytest.raises(DataError):
        read_info(path)


def _with_text(text: str) -> bytes:
    chunk, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    chunk.add_itxt("imggen", text)
    Image.new("L", (2, 2)).save(buffer, "PNG", pnginfo=chunk)
    return buffer.getvalue()


def test_formats() -> None:
    assert [format_of(Path(f"a.{s}")) for s in ("png", "JPG", "jpeg", "webp")] == ["png", "jpeg", "jpeg", "webp"]
    with pytest.raises(UsageError, match="bmp"):
        format_of(Path("a.bmp"))
    with pytest.raises(UsageError):
        encode(noise_image(3), "bmp", None)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]), st.integers(1, 40))
def test_every_image_is_in_the_grid_once(count: int, height: int, width: int, channels: int, columns: int) -> None:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, height, width, channels), np.uint8)
    sheet = grid(images, columns)
    if count == 1:
        assert np.array_equal(sheet, images[0])
        return
    columns = min(columns, count)
    rows = -(-count // columns)
    assert sheet.shape == (rows * (height + 2) + 2, columns * (width + 2) + 2, channels)
    for index in range(count):
        y, x = 2 + index // columns * (height + 2), 2 + index % columns * (width + 2)
        assert (sheet[y : y + height, x : x + width] == index).all()


def test_a_grid_is_square_by_default() -> None:
    assert grid(np.zeros((64, 4, 4, 4), np.uint8)).shape == (50, 50, 4)
    assert (grid(np.ones((4, 4, 4, 4), np.uint8))[0, 0] == (255, 255, 255, 0)).all()


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4]), st.booleans())
def test_fast_png_is_read_by_pillow(height: int, width: int, channels: int, smooth: bool) -> None:
    random = np.random.default_rng(height * 41 + width)
    pixels = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
    if smooth:
        pixels = np.broadcast_to(np.arange(width, dtype=np.uint8)[None, :, None] * 3, pixels.shape).copy()
    info = {"seeds": "7", "class": "Füchse 🦊"}
    with Image.open(io.BytesIO(encode_png_fast(pixels, info))) as image:
        image.load()
        assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        assert json.loads(image.info["imggen"]) == info
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
    with Image.open(io.BytesIO(encode_png_fast(pixels, None))) as image:
        image.load()
        assert "imggen" not in image.info


def test_alpha_is_composited_exactly() -> None:
    color, alpha = np.meshgrid(np.arange(256), np.arange(256))
    exact = (2 * (color * alpha + 255 * (255 - alpha)) + 255) // 510  # rounded; no ties, because 255 is odd
    rgba = np.stack([color, color, color, alpha], 2).astype(np.uint8)
    assert np.array_equal(composite_on_white(rgba), np.stack([exact] * 3, 2))
    gray = Image.merge("LA", (Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])))
    assert drop_alpha(gray).mode == "L" and np.array_equal(np.asarray(drop_alpha(gray)), exact)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK"])
def test_images_without_alpha_stay(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    assert drop_alpha(image) is image


def test_compositing_gives_three_channels() -> None:
    gray, rgb = noise_image(1), noise_image(3)
    assert np.array_equal(composite_on_white(gray), np.concatenate([gray] * 3, 2))
    assert composite_on_white(rgb) is rgb
