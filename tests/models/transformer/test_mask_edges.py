"""Mask edges: unmasked pixels are extended into the mask, and fills are blended with them."""

import pytest
import torch

from imggen.models.transformer.mask_edges import blend_edges, extend_into_mask


@pytest.mark.parametrize("reach", [4, 8])
def test_unmasked_pixels_are_extended_into_the_mask(reach: int) -> None:
    """By `reach` pixels, and never beyond the range of the unmasked pixels."""
    mask = torch.zeros(3, 1, 32, 32)
    mask[0, :, :, 15:31] = 1  # edges inside patches
    mask[1, :, 3:29, 2:30] = 1
    mask[2] = 1
    flat = torch.full((3, 3, 32, 32), -0.5)
    extended = extend_into_mask(flat.masked_fill(mask > 0, 0.9), mask, reach)
    assert torch.equal(torch.where(mask > 0, flat, extended), flat)
    assert (extended[0, :, :, 15 : 15 + reach] + 0.5).abs().max() < 1e-5
    assert (extended[2] == 0).all()
    images = torch.rand(3, 3, 32, 32) * 0.5
    extended = extend_into_mask(images, mask, reach)
    assert torch.isfinite(extended).all() and extended.min() >= 0 and extended.max() <= 0.5 + 1e-6


@pytest.mark.parametrize("channels", [1, 4])
def test_fills_are_blended_at_the_edge(channels: int) -> None:
    """A decoder that is too bright everywhere: corrected near the edge of the mask, unchanged deep inside."""
    torch.manual_seed(0)
    images = torch.rand(2, channels, 24, 24) - 0.5
    mask = torch.zeros(2, 1, 24, 24)
    mask[..., 8:] = 1
    bright = images + 0.3
    blended = blend_edges(bright, images, mask)
    error = (blended - images)[..., 8:].mean((0, 1, 2))
    assert error[0] < 0.15 and (error.diff()[:4] > 0).all()
    assert torch.equal(blended[..., 12:], bright[..., 12:])
    assert torch.equal(blend_edges(bright, images, torch.ones_like(mask)), bright)
