"""Gray of 16 bits, 32 bits and floats: ranges of what counts, and the way to 8 bits and back."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imggen.data import deep_gray
from imggen.data.deep_gray import from_8_bits, gray_range, measured_range, rescale_deep_gray
from imggen.reporting import Silent
from tests.data.helpers import WarningRecorder, load

RAMP = np.linspace(1000, 1945, 400).reshape(20, 20)


@pytest.mark.parametrize(
    "nodata", [-9999.0, -3.4028235e38, 3.4028235e38, math.nan, math.inf, -math.inf, 0.0, -32768.0, 65535.0]
)
def test_what_is_no_data_does_not_count(nodata: float) -> None:
    values = RAMP.astype(np.float32)
    values[3:6, 4:9] = nodata
    assert measured_range(Image.fromarray(values)) == (1000, 1945)
    values[0, 1] = math.nan
    assert measured_range(Image.fromarray(values)) == (1000, 1945)


def test_the_value_that_a_geotiff_declares_does_not_count(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[0, 1] = 999
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={42_113: "999"})
    with Image.open(tmp_path / "x.tif") as image:
        assert measured_range(image) == (1000, 1945)
    assert measured_range(Image.fromarray(values)) == (999, 1945)


def test_values_near_the_others_count() -> None:
    assert measured_range(Image.fromarray(np.array([[0, 40, 100]], np.float32))) == (0, 100)
    assert measured_range(Image.fromarray(np.array([[0, 65535, 100, 60000]], np.uint16))) == (0, 65535)
    assert measured_range(Image.fromarray(np.full((3, 3), math.nan, np.float32))) == (0, 0)
    assert measured_range(Image.fromarray(np.full((3, 3), -9999, np.float32))) == (-9999, -9999)


def test_only_unmasked_pixels_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep_gray, "STRIP_PIXELS", 45)  # several strips
    values = RAMP.astype(np.int32)
    unmasked = np.ones(values.shape, bool)
    unmasked[5:15, 5:15] = False
    values[~unmasked] = 10**6
    assert measured_range(Image.fromarray(values), unmasked) == (1000, 1945)
    assert measured_range(Image.fromarray(values)) == (1000, 10**6)


def test_white_of_files_that_do_not_define_it() -> None:
    for high, white in ((1.0, 1.0), (200.0, 255.0), (4095.0, 65535.0), (70_000.0, 70_000.0)):
        image = Image.fromarray(np.array([[0, high]], np.float32))
        assert gray_range(image) == (0, white)
    assert gray_range(Image.fromarray(np.array([[0, 1]], np.int32))) == (0, 255)
    assert gray_range(Image.fromarray(np.array([[5, 9]], np.uint16))) == (0, 65535)


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", np.uint16), ("I", np.int32), ("F", np.float32)])
def test_8_bits_and_back_stay_within_the_range(mode: str, dtype: type) -> None:
    image = Image.fromarray(RAMP.astype(dtype))
    assert image.mode == mode
    small = rescale_deep_gray(image, measured_range(image))
    assert small.mode == "L" and small.getextrema() == (0, 255)
    back = from_8_bits(np.asarray(small), (1000, 1945), mode)
    assert back.min() == 1000 and back.max() == 1945 and np.abs(back - RAMP).max() < 945 / 255
    assert not (from_8_bits(np.arange(256, dtype=np.uint8), (7, 7), mode) - 7).any()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_large_image_takes_the_memory_of_a_strip(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    """Pillow's own copies are not counted. The result is 4 MB; a copy of the whole image would be 8 MB or more."""
    monkeypatch.setattr(deep_gray, "STRIP_PIXELS", 1 << 14)
    image = Image.fromarray((np.arange(4_000_000) % 4096).astype(dtype).reshape(2000, 2000))
    tracemalloc.start()
    small = rescale_deep_gray(image, measured_range(image))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert small.getextrema() == (0, 255) and peak < 6_000_000


@pytest.mark.parametrize(("levels", "is_warned"), [(4096, True), (65_536, False)])
def test_a_narrow_range_of_16_bits_is_warned_of(tmp_path: Path, levels: int, is_warned: bool) -> None:
    (tmp_path / "d").mkdir()
    for number in range(6):
        ramp = np.linspace(0, levels - 1, 400).reshape(20, 20).astype(np.uint16)
        Image.fromarray(ramp).save(tmp_path / "d" / f"{number}.png")
    reporter = WarningRecorder()
    data = load(tmp_path, reporter)
    assert any("16-bit images use 6.2% of their range" in warning for warning in reporter.warnings) == is_warned
    assert len(np.unique(data.images)) == (17 if is_warned else 256) or not is_warned
    again = WarningRecorder()  # from the cached survey
    load(tmp_path, again)
    assert bool(again.warnings) == is_warned
    load(tmp_path, Silent())
