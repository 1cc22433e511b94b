"""The encoder of pictures with holes: what its maps have seen, and how it begins."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from imggen.models import build_backend, build_learner, presets
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.core import Normal, kl_divergence, look_at, top_down_pass
from imggen.models.vae.hierarchy import Hierarchy
from imggen.models.vae.likelihoods import scale_of
from imggen.models.vae.partial_encoder import PartialEncoder

SMALL = {"size": 32, "channels": 1, "width": 16, "max_width": 16, "z": 2, "mixtures": 2}


def partial_of(**values: object) -> tuple[VaeBackend, PartialEncoder]:
    config = presets("vae")["tiny"].with_overrides(**{**SMALL, **values})
    torch.manual_seed(0)
    backend = build_backend(config)
    assert isinstance(backend, VaeBackend) and backend.partial is not None
    return backend, backend.partial


def pictures(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def finest_middle(partial: PartialEncoder, images: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The finest map where the hole is deepest."""
    maps = partial.encoder(torch.cat([images * known, known], 1))
    if partial.around is not None:
        maps = partial.around(maps)
    found: torch.Tensor = maps[-1][..., 7:9, 7:9]
    return found


@pytest.mark.parametrize("around", [0, 1])
def test_deep_in_a_hole_fine_maps_have_seen_what_is_known(around: int) -> None:
    """With nothing that carries it there they have not."""
    _, partial = partial_of(around=around)
    with torch.no_grad():
        known = torch.ones(4, 1, 32, 32)
        known[..., 6:26, 6:26] = 0
        one, other = (finest_middle(partial, images, known) for images in (pictures(), pictures().flip(0)))
    assert (float((one - other).abs().max()) > 1e-4) == bool(around)
    if not around:
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [17, 31, 64])
def test_any_size(size: int) -> None:
    backend, partial = partial_of(size=size, patch=1, width=8, max_width=8)
    assert isinstance(backend.core, Hierarchy)
    partial.begin(backend.core)
    images = torch.zeros(2, 1, size, size)
    mask = torch.ones(2, 1, size, size)
    mask[..., :4] = 0
    filled = backend.inpaint(images, mask, torch.randn(2, *backend.noise_shape))
    assert filled.shape == images.shape and torch.equal(filled[..., :4], images[..., :4])


def test_it_begins_as_the_prior() -> None:
    """Before a step of its own it says of every picture what is so without seeing any."""
    backend, partial = partial_of()
    assert isinstance(backend.core, Hierarchy)
    with torch.no_grad():
        for weight in backend.core.parameters():
            weight.add_(torch.randn(weight.shape) * 0.05)
        partial.begin(backend.core)
        torch.manual_seed(0)
        gaps = partial.gaps(backend.core, pictures(), torch.ones(4, 1, 32, 32), None)
        torch.manual_seed(0)
        prior = Normal(torch.zeros(()), scale_of(torch.zeros(())))
        whole = top_down_pass(backend.core, 4, None, look_at(backend.core, pictures())).posteriors
        found = [kl_divergence(posterior, prior) for posterior in whole]
    assert min(float(gap.min()) for gap in gaps) > 1e-2
    for gap, divergence in zip(gaps, found, strict=True):
        assert torch.allclose(gap, divergence, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("progress", [0.2, 0.9])
def test_micro_batches_are_the_same_step(monkeypatch: pytest.MonkeyPatch, progress: float) -> None:
    """Of the model's stage and of that in which holes are learnt, where nothing is drawn by chance."""
    masks = torch.zeros(8, 1, 32, 32)
    masks[..., 10:, 4:20] = 1
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr("imggen.models.vae.learner.random_masks", lambda count, *_: masks[:count])
    found: list[list[torch.Tensor]] = []
    losses = []
    for size in (None, 3):
        torch.manual_seed(0)
        learner = build_learner(presets("vae")["tiny"].with_overrides(**SMALL, filling=0.5, free=0.0))
        learner.micro_batch = size

        def norm(several: list[torch.optim.Optimizer], loss: torch.Tensor) -> torch.Tensor:
            groups = [group for optimiser in several for group in optimiser.param_groups]
            gradients = [weight.grad for group in groups for weight in group["params"] if weight.grad is not None]
            found.append([gradient.clone() for gradient in gradients])
            return torch.ones(())

        monkeypatch.setattr(learner, "gradient_norm", norm)
        losses.append(learner.step(pictures(8), None, progress, 0))
    whole, parts = found
    assert len(whole) == len(parts) and sum(float(gradient.abs().sum()) for gradient in whole) > 1e-3
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    for name, value in losses[0].items():
        assert float(value) == pytest.approx(float(losses[1][name]), rel=1e-4), name


@torch.no_grad()
def test_a_fill_beyond_fp32_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, partial = partial_of()
    assert isinstance(backend.core, Hierarchy)
    partial.begin(backend.core)
    images, mask = pictures(2), torch.zeros(2, 1, 32, 32)
    mask[..., 16:] = 1
    noise = torch.randn(2, *backend.noise_shape)
    honest = backend._partial_fills

    def poisoned(*given: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index, (filled, weight) in enumerate(honest(*given)):
            yield (filled * torch.nan, weight * torch.nan) if index == 0 else (filled, weight)

    monkeypatch.setattr(backend, "_partial_fills", poisoned)
    filled = backend.inpaint(images, mask, noise)
    others = [fill for fill, _ in list(honest(images, 1 - mask, noise, None, 1.0))[1:]]
    for index in range(2):
        hole = filled[index, :, :, 16:]
        assert any(torch.equal(hole, fill[index, :, :, 16:]) for fill in others)


def test_rare_classes_are_rarely_found_where_nothing_tells_them() -> None:
    """All hidden, the chances of the classes are their shares of the data."""
    shares = {}
    for counts in ((99, 1), (50, 50), (0, 0)):
        backend, _ = partial_of(classes=("often", "seldom"), class_counts=counts)
        scores = backend.class_scores(pictures(), torch.ones(4, 1, 32, 32))
        shares[counts] = float((scores[:, 0] - scores[:, 1]).mean())
    assert shares[99, 1] - shares[50, 50] == pytest.approx(math.log(99), abs=1e-3)
    assert shares[0, 0] == pytest.approx(shares[50, 50], abs=1e-3)


