"""Architecture strings, and the sizes that they fit."""

import pytest
import torch

from imggen.errors import UsageError
from imggen.models import build_backend, presets
from imggen.models.vae.architecture import fit_stages, parse_architecture
from imggen.models.vae.hierarchy import Encoder, downsample
from tests.models.vae.helpers import small_config


def test_parsing_and_fitting() -> None:
    stages = parse_architecture(
        "32x11,32d2,16x6,16d2,8x6,8d2,4x3,4d4,1x3", "1x1,4m1,4x2,8m4,8x5,16m8,16x10,32m16,32x21"
    )
    assert [(s.nominal, s.encoder_blocks, s.decoder_layers) for s in stages] == [
        (1, 3, 1), (4, 3, 3), (8, 6, 6), (16, 6, 11), (32, 11, 22),
    ]  # fmt: skip
    # Twice as large: one more stage, with half the blocks; half as large: one less.
    assert [(s.nominal, s.encoder_blocks, s.decoder_layers) for s in fit_stages(stages, 64)][-1] == (64, 5, 11)
    assert [s.side for s in fit_stages(stages, 16)] == [1, 4, 8, 16]
    assert [s.side for s in fit_stages(stages, 28)] == [1, 4, 7, 14, 28]
    halved = [(s.encoder_blocks, s.decoder_layers) for s in fit_stages(stages, 32, 0.5)]
    assert halved == [(2, 1), (2, 2), (3, 3), (3, 6), (6, 11)]


@pytest.mark.parametrize(("preset", "layers"), [("tiny", 9), ("base", 32), ("large", 43)])
def test_layers_of_the_presets(preset: str, layers: int) -> None:
    narrow = presets("vae")[preset].with_overrides(width=4, max_width=4)
    assert len(build_backend(narrow).core.layers) == layers


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        ("", "1x1", "--encoder is empty"),
        ("16x2,hello,8x2", "8x1,16m8", "'hello' is not a part"),
        ("16x2,16d3,8x2", "8x1,16m8", "'16d3' cannot divide"),
        ("16x2,8x2", "8x1,16m8", "'8x2' is out of place: the resolution is 16"),
        ("16x2,16d2,8x2", "8x1,16m4", "'16m4' upsamples from 4, but the resolution is 8"),
        ("16x2,16d2,8x2", "16m8,16x2", "not set yet"),
        ("16x2,16d2,8x2", "8x1,8x2,4x1", "'4x1' is out of place: the resolution is 8"),
        ("16x2,16d2,8x2", "8x1", "different resolutions: 16"),
        ("16x2,16d2,8x0", "8x1,16m8", "'8x0'"),
        ("16m8", "8x1,16m8", "'16m8' is not a part"),
        ("16x2,16d16,1x9999", "1x1,16m1", "more than"),
    ],
)
def test_errors_name_the_wrong_part(encoder: str, decoder: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small_config(encoder=encoder, decoder=decoder)


def test_sizes() -> None:
    for size in (0, 8, 15, 257, 512):
        with pytest.raises(UsageError, match="size"):
            small_config(size=size)
    for preset in presets("vae").values():
        for size in (16, 18, 20, 28, 30, 32, 50, 100, 254, 256):
            assert preset.with_overrides(size=size).size == size
    with pytest.raises(UsageError, match="patch"):
        small_config(size=20, patch=8)
    with pytest.raises(UsageError, match="--patch 1 does"):
        small_config(size=17)
    assert small_config(size=17, patch=1).size == 17
    with pytest.raises(UsageError, match="does not fit"):
        small_config(encoder="64x1,64d2,32x1", decoder="32x1,64m32")
    with pytest.raises(UsageError, match="likelihood"):
        small_config(likelihood="laplace")
    with pytest.raises(UsageError, match="inpaint-fraction"):
        small_config(hidden=16)


@pytest.mark.parametrize("size", [20, 28, 36])
def test_sizes_that_are_no_powers_of_two(size: int) -> None:
    backend = build_backend(small_config(size=size)).eval()
    noise = torch.randn(2, *backend.noise_shape)
    with torch.no_grad():
        images = backend.generate(noise)
        assert images.shape == (2, 1, size, size)
        assert backend.reconstruct(images).shape == images.shape


def test_the_encoder_accepts_a_mask_channel() -> None:
    maps = Encoder(small_config(size=28, z=2), 4)(torch.zeros(2, 4, 28, 28))
    assert [tuple(x.shape) for x in maps] == [(2, 16, 1, 1), (2, 16, 4, 4), (2, 16, 7, 7), (2, 8, 14, 14)]


@pytest.mark.parametrize(("side", "factor"), [(7, 2), (5, 2), (3, 4), (8, 2)])
def test_maps_of_odd_sides_are_pooled_in_whole_squares(side: int, factor: int) -> None:
    x = torch.arange(float(side * side)).view(1, 1, side, side).requires_grad_()
    small = -(-side // factor)
    pooled = downsample(x, factor, small)
    assert pooled.shape == (1, 1, small, small)
    if side >= factor:
        torch.testing.assert_close(pooled[0, 0, 0, 0], x[0, 0, :factor, :factor].mean())
    if side == 7:
        assert pooled[0, 0, 3, 3].item() == 48.0  # the corner, four times
    torch.autograd.backward(pooled.sum())
    assert x.grad is not None and bool((x.grad > 0).all())
