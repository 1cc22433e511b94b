"""Between uint8 pixels and floats, to the bit."""

import numpy as np
import pytest
import torch

from imggen.io.pixels import from_array, to_float, to_levels, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


def test_floats_have_the_same_bits_however_they_are_computed() -> None:
    floats = to_float(LEVELS)
    assert floats.dtype == torch.float32 and floats[0] == -1 and floats[255] == 1
    assert torch.equal(floats, LEVELS.float().div_(127.5).sub_(1))
    assert torch.equal(floats, LEVELS.float() / 127.5 - 1)
    assert torch.equal(floats, LEVELS / 127.5 - 1)


def test_the_argument_is_not_changed() -> None:
    floats = torch.arange(4.0)
    to_float(floats), to_levels(floats)
    assert floats.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_returns(dtype: torch.dtype) -> None:
    assert torch.equal(to_levels(to_float(LEVELS).to(dtype)), LEVELS)


def test_levels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-5.0, -1.0, 0.9 / 127.5 - 1, 1.0, 5.0])
    assert to_levels(values).tolist() == [0, 0, 1, 255, 255]


def test_arrays_and_tensors() -> None:
    array = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    images = from_array(array, "cpu")
    assert images.shape == (2, 3, 5, 4) and images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(to_uint8(to_float(images)), array)
    array.flags.writeable = False
    assert torch.equal(from_array(array, "cpu"), images)
    assert torch.equal(from_array(array[:, ::2], "cpu"), images[:, :, ::2])
