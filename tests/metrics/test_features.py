"""The feature extractor on images of every size and number of channels."""

import numpy as np
import pytest
import torch

from imggen.metrics.features import load_features, tile_starts, to_rgb


@pytest.mark.parametrize("length", [32, 64, 65, 100, 128])
def test_tiles_cover_a_side(length: int) -> None:
    starts = tile_starts(length)
    assert starts[0] == 0 and starts[-1] == length - 32 and max(np.diff(starts), default=0) <= 32


def test_alpha_is_composited_on_white() -> None:
    rgb = torch.rand(2, 3, 4, 4) * 2 - 1
    opaque, transparent = (torch.cat([rgb, torch.full((2, 1, 4, 4), value)], 1) for value in (1.0, -1.0))
    assert torch.equal(to_rgb(opaque), rgb) and torch.equal(to_rgb(transparent), torch.ones(2, 3, 4, 4))
    assert torch.equal(to_rgb(rgb), rgb) and torch.equal(to_rgb(rgb[:, :1]), rgb[:, :1].repeat(1, 3, 1, 1))


@pytest.mark.parametrize(("side", "width"), [(20, 256), (32, 256), (64, 384)])
def test_features_of_arrays(side: int, width: int) -> None:
    features = load_features(None, torch.device("cpu"))
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 1), dtype=np.uint8)
    vectors = features.extract(images)
    assert vectors.shape == (3, width) and vectors.dtype == torch.float32
    assert torch.allclose(vectors, features.extract(images.repeat(3, 3)))
    assert torch.allclose(vectors[1:2], features.extract(images[1:2]), atol=1e-4)
    assert (features.name, features.distances, len(features.hash)) == ("imggen", ("fd", "kd"), 12)
