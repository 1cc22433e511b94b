"""Pictures with their settings, grids, seeds, and the writer."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imggen.errors import DataError, UsageError
from imggen.io import image as module
from imggen.io.image import Writer, encode, format_of, grid, read_info
from imggen.io.seeds import LARGEST, Seeds, format_seeds, parse_seeds


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


def test_writer_writes_all_and_tells_its_first_error(tmp_path: Path) -> None:
    with Writer() as writer:
        for seed in range(50):
            writer.put(tmp_path / f"{seed}.png", picture(3), {"seeds": str(seed)}, "png")
    assert len(list(tmp_path.iterdir())) == 50
    assert read_info(tmp_path / "7.png") == {"seeds": "7"}
    with pytest.raises(DataError, match="cannot be written"), Writer(waiting=4) as writer:
        for seed in range(50):
            writer.put(tmp_path / "none" / f"{seed}.png", picture(3), {}, "png")


def test_seeds_read_and_written() -> None:
    assert list(parse_seeds("0-3,70, 5")) == [0, 1, 2, 3, 70, 5]
    many = parse_seeds("0-999999,7")
    assert len(many) == 1_000_001 and many[-1] == 7 and many[999_999] == 999_999 and many[1:3] == [1, 2]
    assert format_seeds(range(3, 3)) == "" and format_seeds([1, 2, 3, 9]) == "1-3,9"
    for bad in ("", "a", "3-1", "-1", "1--2", "1,,2", str(LARGEST + 1), "1.5", "²"):
        with pytest.raises(UsageError):
            parse_seeds(bad)
    with pytest.raises(IndexError):
        many[len(many)]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 50)), min_size=1, max_size=8))
def test_seeds_round_trip(parts: list[tuple[int, int]]) -> None:
    seeds = Seeds([range(low, low + more + 1) for low, more in parts])
    assert list(parse_seeds(format_seeds(seeds))) == list(seeds)
    assert [seeds[index] for index in range(len(seeds))] == list(seeds)
