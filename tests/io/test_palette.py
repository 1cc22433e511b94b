"""Images of few colors, and PNG palettes."""

import numpy as np
import pytest

from imggen.io.palette import reduce_colors, with_palette


def colors_of(image: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in image.reshape(-1, image.shape[2]).tolist()}


def noise(channels: int, seed: int = 0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (12, 10, channels), dtype=np.uint8)
    if channels == 4:
        image[..., 3] = np.where(image[..., 3] > 99, 255, 0)
    return image


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("colors", [2, 7, 256])
def test_colors_are_reduced_to_near_ones(channels: int, colors: int) -> None:
    image = noise(channels)
    reduced = reduce_colors(image, colors)
    visible = reduced if channels < 4 else reduced[reduced[..., 3] > 0][None]
    has_transparent = channels == 4
    assert len(colors_of(visible)) <= colors - has_transparent
    if channels == 4:
        assert np.array_equal(reduced[..., 3], image[..., 3])
    shown = np.ones((12, 10), bool) if channels < 4 else image[..., 3] > 0
    error = np.abs(reduced.astype(int) - image)[shown]
    baseline = np.abs(image[shown].astype(int) - image[shown].mean(0))
    assert error.mean() < baseline.mean()
    assert np.array_equal(reduce_colors(reduced, colors), reduced)


def test_two_flat_colors_stay_exact() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4] = (200, 30, 31)
    image[0, 0] = (201, 30, 31)
    assert colors_of(reduce_colors(image, 3)) == colors_of(image)
    assert len(colors_of(reduce_colors(image, 2))) == 2


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_palette_keeps_every_pixel(channels: int) -> None:
    image = reduce_colors(noise(channels), 30)
    with_colors = with_palette(image)
    assert with_colors is not None and with_colors.mode == "P"
    back = np.asarray(with_colors.convert("RGBA"))
    if channels == 4:
        assert np.array_equal(back[..., 3], image[..., 3])
        assert np.array_equal(back[image[..., 3] > 0], image[image[..., 3] > 0])
    else:
        assert np.array_equal(back[..., :3], np.broadcast_to(image, (12, 10, 3)))


def test_what_has_no_palette() -> None:
    half = noise(4)
    half[0, 0, 3] = 128
    assert with_palette(half) is None
    assert with_palette(np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)) is None
    empty = np.zeros((4, 4, 4), np.uint8)
    assert np.array_equal(reduce_colors(empty, 2), empty)
    image = with_palette(empty)
    assert image is not None and np.asarray(image.convert("RGBA"))[..., 3].max() == 0
