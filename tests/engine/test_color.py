"""Colors by optimal transport: what it must satisfy exactly."""

import numpy as np
import pytest
from PIL import Image

from imggen.engine.color import Moments, blend_moments, color_axes, color_moments, to_colors, transport


def random_moments(seed: int) -> Moments:
    random = np.random.default_rng(seed)
    root = random.normal(0, 0.3, (3, 3))
    return Moments(random.uniform(-0.5, 0.5, 3), root @ root.T)


def test_moments_are_those_of_numpy_weighted_by_alpha() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    colors = to_colors(pixels).reshape(-1, 3).astype(np.float64)
    whole = color_moments(Image.fromarray(pixels))
    assert np.allclose(whole.mean, colors.mean(0)) and np.allclose(whole.covariance, np.cov(colors.T, bias=True))
    alpha = np.zeros((40, 30), np.uint8)
    alpha[:10] = 255
    part, opaque = color_moments(Image.fromarray(pixels), alpha), color_moments(Image.fromarray(pixels[:10]))
    assert np.allclose(part.mean, opaque.mean) and np.allclose(part.covariance, opaque.covariance)


def test_transported_colors_have_the_moments_of_the_style() -> None:
    content, style = random_moments(1), random_moments(2)
    color_map = transport(content, style)
    assert np.allclose(color_map(content.mean), style.mean)
    assert np.allclose(color_map.matrix @ content.covariance @ color_map.matrix.T, style.covariance, atol=1e-6)
    assert np.allclose(
        color_map.matrix, color_map.matrix.T, atol=1e-9
    )  # the map is optimal: the gradient of a convex one
    assert np.linalg.eigvalsh(color_map.matrix).min() > 0


def test_a_nearly_gray_image_does_not_become_noise() -> None:
    noisy = Moments(np.zeros(3), np.full((3, 3), 0.1) + np.eye(3) * 1e-6)
    gains = np.linalg.eigvalsh(transport(noisy, Moments(np.zeros(3), np.eye(3) * 0.2)).matrix)
    assert gains.max() <= 12 + 1e-9


def test_the_barycenter_of_styles() -> None:
    first, second = random_moments(3), random_moments(4)
    same = blend_moments([first, first], [0.3, 0.7])
    assert np.allclose(same.mean, first.mean) and np.allclose(same.covariance, first.covariance, atol=1e-6)
    # Of covariances with equal axes, the standard deviations are averaged.
    wide, narrow = Moments(np.zeros(3), np.eye(3) * 0.16), Moments(np.ones(3), np.eye(3) * 0.04)
    between = blend_moments([wide, narrow], [0.75, 0.25])
    assert np.allclose(between.covariance, np.eye(3) * 0.35**2, atol=1e-9) and np.allclose(between.mean, 0.25)
    other_order = blend_moments([second, first], [0.6, 0.4])
    assert np.allclose(other_order.covariance, blend_moments([first, second], [0.4, 0.6]).covariance, atol=1e-8)


@pytest.mark.parametrize(("covariance", "count"), [(np.ones((3, 3)), 1), (np.eye(3), 3), (np.zeros((3, 3)), 1)])
def test_a_gray_style_has_one_axis(covariance: np.ndarray, count: int) -> None:
    axes = color_axes(Moments(np.zeros(3), covariance * 0.1))
    assert axes.shape == (3, count)
    if count == 1:
        assert np.allclose(axes, axes[0])
