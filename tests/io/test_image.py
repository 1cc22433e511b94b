"""Pictures with their settings, grids, seeds, and the writer."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imggen.engine.seeds import MAX_SEED, Seeds, format_seeds, parse_seeds
from imggen.errors import DataError, UsageError
from imggen.io import image as module
from imggen.io.image import encode, encode_png_fast, format_of, grid, read_info


def picture(channels: int, side: int = 8) -> Any:
    return np.random.default_rng(channels).integers(0, 256, (side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_settings_travel_with_the_picture(tmp_path: Path, channels: int, format: str) -> None:
    info = {"seeds": "0-63", "class": "Füchse 🦊", "command": "imggen sample gan"}
    path = tmp_path / f"x.{format}"
    path.write_bytes(encode(picture(channels), format, info))
    assert read_info(path) == info
    with Image.open(path) as image:
        pixels = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])).reshape(8, 8, channels)
    if format != "jpeg":
        assert np.array_equal(pixels, picture(channels))


def test_pictures_without_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encode(picture(3), "png", None))
    assert read_info(path) is None
    for text in ("{", "[1]", "1", "[" * 100_000):
        path.write_bytes(_with_text(text))
        assert read_info(path) is None
    path.write_bytes(b"not a picture")
    with pytest.raises(DataError):
        read_info(path)


def _with_text(text: str) -> bytes:
    chunk, buffer = module.PngImagePlugin.PngInfo(), io.BytesIO()
    chunk.add_itxt("imggen", text)
    Image.new("L", (2, 2)).save(buffer, "PNG", pnginfo=chunk)
    return buffer.getvalue()


def test_formats() -> None:
    assert [format_of(Path(f"a.{s}")) for s in ("png", "JPG", "jpeg", "webp")] == ["png", "jpeg", "jpeg", "webp"]
    with pytest.raises(UsageError, match="bmp"):
        format_of(Path("a.bmp"))
    with pytest.raises(UsageError):
        encode(picture(3), "bmp", None)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]), st.integers(1, 40))
def test_every_picture_is_on_the_grid_once(count: int, height: int, width: int, channels: int, columns: int) -> None:
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


def test_grid_default_is_square() -> None:
    assert grid(np.zeros((64, 4, 4, 4), np.uint8)).shape == (50, 50, 4)
    assert (grid(np.ones((4, 4, 4, 4), np.uint8))[0, 0] == (255, 255, 255, 0)).all()


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4]), st.booleans())
def test_quick_png_is_read_by_pillow(height: int, width: int, channels: int, smooth: bool) -> None:
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


def test_seeds_read_and_written() -> None:
    assert list(parse_seeds("0-3,70, 5")) == [0, 1, 2, 3, 70, 5]
    many = parse_seeds("0-999999,7")
    assert len(many) == 1_000_001 and many[-1] == 7 and many[999_999] == 999_999 and many[1:3] == [1, 2]
    assert format_seeds(range(3, 3)) == "" and format_seeds([1, 2, 3, 9]) == "1-3,9"
    for bad in ("", "a", "3-1", "-1", "1--2", "1,,2", str(MAX_SEED + 1), "1.5", "²"):
        with pytest.raises(UsageError):
            parse_seeds(bad)
    with pytest.raises(IndexError):
        many[len(many)]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 50)), min_size=1, max_size=8))
def test_seeds_round_trip(parts: list[tuple[int, int]]) -> None:
    seeds = Seeds([range(low, low + more + 1) for low, more in parts])
    assert list(parse_seeds(format_seeds(seeds))) == list(seeds)
    assert [seeds[index] for index in range(len(seeds))] == list(seeds)
