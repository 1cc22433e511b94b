"""At the edge of a hole: what is known is carried into it."""

import pytest
import torch

from imggen.models.transformer.hole_edges import seamless, spread


@pytest.mark.parametrize("reach", [4, 8])
def test_what_is_known_is_carried_into_wide_holes(reach: int) -> None:
    """As far as a patch goes, and never beyond what is known of the picture."""
    mask = torch.zeros(3, 1, 32, 32)
    mask[0, :, :, 15:31] = 1  # edges inside patches
    mask[1, :, 3:29, 2:30] = 1
    mask[2] = 1
    flat = torch.full((3, 3, 32, 32), -0.5)
    found = spread(flat.masked_fill(mask > 0, 0.9), mask, reach)
    assert torch.equal(torch.where(mask > 0, flat, found), flat)
    assert (found[0, :, :, 15 : 15 + reach] + 0.5).abs().max() < 1e-5
    assert (found[2] == 0).all()
    images = torch.rand(3, 3, 32, 32) * 0.5
    found = spread(images, mask, reach)
    assert torch.isfinite(found).all() and found.min() >= 0 and found.max() <= 0.5 + 1e-6


@pytest.mark.parametrize("channels", [1, 4])
def test_no_seam_shows_round_a_hole(channels: int) -> None:
    """A decoder that is too bright everywhere: near the edge that is taken back, deep in the hole it stays."""
    torch.manual_seed(0)
    images = torch.rand(2, channels, 24, 24) - 0.5
    mask = torch.zeros(2, 1, 24, 24)
    mask[..., 8:] = 1
    bright = images + 0.3
    found = seamless(bright, images, mask)
    left = (found - images)[..., 8:].mean((0, 1, 2))
    assert left[0] < 0.15 and (left.diff()[:4] > 0).all()
    assert torch.equal(found[..., 12:], bright[..., 12:])
    assert torch.equal(seamless(bright, images, torch.ones_like(mask)), bright)
