"""Images of every mode, size and defect."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imggen.data import decode
from imggen.data.choices import CROPS
from imggen.data.decode import UnreadableError, decode_image, fit_image
from tests.faults.mutate import mutation


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "F", "CMYK", "YCbCr", "LAB", "I;16"])
def test_every_mode(mode: str) -> None:
    image = decode_image(Image.new(mode, (5, 4)))
    assert image.mode in ("L", "LA", "RGB", "RGBA") and image.size == (5, 4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_rescaled(kind: str) -> None:
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert np.asarray(decode_image(encoded(deep, kind))).tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("value", [70_000, -5])
def test_constant_gray_of_any_value_can_be_decoded(value: int) -> None:
    flat = Image.fromarray(np.full((4, 5), value, np.int32))
    assert decode_image(encoded(flat, "TIFF")).getextrema() == (0, 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_transparent_color(mode: str) -> None:
    transparent: object = (0, 0, 0) if mode == "RGB" else 0
    image = decode_image(encoded(Image.new(mode, (4, 4), 0), transparency=transparent))
    assert image.getchannel("A").getextrema() == (0, 0)
    assert (fit_image(image, 4, 3, "center", "") == 255).all()
    assert fit_image(image, 4, 4, "center", "")[0, 0].tolist() == [255, 255, 255, 0]


def test_exif_and_first_frame_and_cmyk() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(Image.new("RGB", (6, 3)), "JPEG", exif=exif)).size == (3, 6)
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    image = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert fit_image(image, 4, 3, "center", "")[0, 0].tolist() == [255, 0, 0]
    assert decode_image(encoded(Image.new("CMYK", (4, 4)), "JPEG")).mode == "RGB"


def test_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise))
    for data, reason in ((b"", "empty"), (b"some text", "not an image"), (whole[: len(whole) // 2], "truncated")):
        with pytest.raises(UnreadableError, match=reason):
            decode_image(data)
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    with pytest.raises(UnreadableError, match="megapixels"):
        decode_image(whole)


def test_exact_bytes_at_the_same_size_and_pad_color() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for crop in CROPS:
        assert (fit_image(Image.fromarray(pixels), 8, 3, crop, "k") == pixels).all()
    wide = Image.new("RGB", (8, 4), (10, 20, 30))
    assert (fit_image(wide, 8, 3, "pad", "") == (10, 20, 30)).all()
    assert fit_image(wide, 8, 4, "pad", "")[0, 0].tolist() == [255, 255, 255, 0]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 24),
    st.sampled_from(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "F"]),
    st.sampled_from(CROPS),
    st.sampled_from([1, 3, 4]),
)
def test_any_size_and_mode(width: int, height: int, size: int, mode: str, crop: str, channels: int) -> None:
    out = fit_image(decode_image(Image.new(mode, (width, height))), size, channels, crop, "key")
    assert out.shape == (size, size, channels) and out.dtype == np.uint8


def test_a_damaged_file_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    """Pillow would map an uncompressed TIFF into memory, and refuse it where its header and its size disagree."""
    memory, path = io.BytesIO(), tmp_path / "x.tif"
    Image.new("L", (64, 64), 7).save(memory, "TIFF")
    for index in range(40):
        data = mutation(memory.getvalue(), 5, index)
        path.write_bytes(data)
        outcomes = []
        for source in (data, path):
            try:
                outcomes.append(decode_image(source).tobytes())
            except UnreadableError:
                outcomes.append(b"")
        assert outcomes[0] == outcomes[1], index
