"""The partial encoder: the receptive field of its maps, its initialization, and its training."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from imggen.models import build_backend, presets
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.core import Normal, encoder_posterior, kl_divergence, top_down_pass
from imggen.models.vae.fill_candidates import Candidate
from imggen.models.vae.hierarchy import Hierarchy
from imggen.models.vae.likelihoods import positive_scale
from imggen.models.vae.partial_encoder import PartialEncoder
from tests.models.vae.helpers import vae_learner

SMALL = {"size": 32, "channels": 1, "width": 16, "max_width": 16, "z": 2, "mixtures": 2}


def with_partial_encoder(**values: object) -> tuple[VaeBackend, PartialEncoder, Hierarchy]:
    config = presets("vae")["tiny"].with_overrides(**{**SMALL, **values})
    torch.manual_seed(0)
    backend = build_backend(config)
    assert isinstance(backend, VaeBackend) and backend.partial_encoder is not None
    assert isinstance(backend.core, Hierarchy)
    return backend, backend.partial_encoder, backend.core


def random_images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def middle_of_finest_map(partial: PartialEncoder, images: torch.Tensor, unmasked: torch.Tensor) -> torch.Tensor:
    """The finest map at the center of the masked region."""
    maps = partial.encoder(torch.cat([images * unmasked, unmasked], 1))
    if partial.context_path is not None:
        maps = partial.context_path(maps)
    return maps[-1][..., 7:9, 7:9]


@pytest.mark.parametrize("context_blocks", [0, 1])
def test_fine_maps_depend_on_distant_pixels_only_by_the_context_path(context_blocks: int) -> None:
    _, partial, _ = with_partial_encoder(context_blocks=context_blocks)
    with torch.no_grad():
        unmasked = torch.ones(4, 1, 32, 32)
        unmasked[..., 6:26, 6:26] = 0
        images = random_images()
        one, other = (middle_of_finest_map(partial, batch, unmasked) for batch in (images, images.flip(0)))
    assert (float((one - other).abs().max()) > 1e-4) == bool(context_blocks)
    if not context_blocks:
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("size", [17, 31, 64])
def test_any_size(size: int) -> None:
    backend, partial, core = with_partial_encoder(size=size, patch=1, width=8, max_width=8)
    partial.initialize_from(core)
    images = torch.zeros(2, 1, size, size)
    mask = torch.ones(2, 1, size, size)
    mask[..., :4] = 0
    filled = backend.inpaint(images, mask, torch.randn(2, *backend.noise_shape))
    assert filled.shape == images.shape and torch.equal(filled[..., :4], images[..., :4])


def test_it_starts_as_the_prior() -> None:
    """Before its first step its posterior does not depend on the image: it is the prior."""
    _, partial, core = with_partial_encoder()
    with torch.no_grad():
        for weight in core.parameters():
            weight.add_(torch.randn(weight.shape) * 0.05)
        partial.initialize_from(core)
        torch.manual_seed(0)
        losses = partial.matching_losses(core, random_images(), torch.ones(4, 1, 32, 32), None)
        torch.manual_seed(0)
        prior = Normal(torch.zeros(()), positive_scale(torch.zeros(())))
        encoding = top_down_pass(core, 4, None, encoder_posterior(core, random_images()))
        from_prior = [kl_divergence(posterior, prior) for posterior in encoding.posteriors]
    assert min(float(loss.min()) for loss in losses) > 1e-2
    for loss, kl in zip(losses, from_prior, strict=True):
        assert torch.allclose(loss, kl, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("progress", [0.2, 0.9])
def test_micro_batches_give_the_same_step(monkeypatch: pytest.MonkeyPatch, progress: float) -> None:
    """In the stages of the VAE and of the partial encoder, with fixed masks and noise."""
    masks = torch.zeros(8, 1, 32, 32)
    masks[..., 10:, 4:20] = 1
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr("imggen.models.vae.learner.random_masks", lambda count, *_: masks[:count])
    all_gradients: list[list[torch.Tensor]] = []
    losses = []
    for size in (None, 3):
        config = presets("vae")["tiny"].with_overrides(**SMALL, inpaint_fraction=0.5, free_nats=0.0)
        learner = vae_learner(config)
        learner.micro_batch = size

        def gradient_norm(optimizers: list[torch.optim.Optimizer], *_: torch.Tensor) -> torch.Tensor:
            groups = [group for optimizer in optimizers for group in optimizer.param_groups]
            gradients = [weight.grad for group in groups for weight in group["params"] if weight.grad is not None]
            all_gradients.append([gradient.clone() for gradient in gradients])
            return torch.ones(())

        monkeypatch.setattr(learner, "gradient_norm", gradient_norm)
        losses.append(learner.step(random_images(8), None, progress, 0))
    whole, parts = all_gradients
    assert len(whole) == len(parts) and sum(float(gradient.abs().sum()) for gradient in whole) > 1e-3
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    for name, value in losses[0].items():
        assert float(value) == pytest.approx(float(losses[1][name]), rel=1e-4), name


@pytest.mark.slow
@torch.no_grad()
def test_a_fill_beyond_float32_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, partial, core = with_partial_encoder()
    partial.initialize_from(core)
    images, mask = random_images(2), torch.zeros(2, 1, 32, 32)
    mask[..., 16:] = 1
    noise = torch.randn(2, *backend.noise_shape)
    candidates_of = backend._partial_posterior_candidates
    others: list[torch.Tensor] = []

    def overflowing(*arguments: Any) -> Iterator[Candidate]:
        for index, candidate in enumerate(candidates_of(*arguments)):
            if index:
                others.append(candidate.images)
                yield candidate
            else:
                yield Candidate(candidate.images * torch.nan, candidate.log_weight * torch.nan)

    monkeypatch.setattr(backend, "_partial_posterior_candidates", overflowing)
    filled = backend.inpaint(images, mask, noise)
    for index in range(2):
        fill = filled[index, :, :, 16:]
        assert any(torch.equal(fill, other[index, :, :, 16:]) for other in others)


def test_class_scores_of_masked_images_are_class_frequencies() -> None:
    """With every pixel masked the classes' probabilities are their frequencies in the data."""
    differences = {}
    for counts in ((99, 1), (50, 50), (0, 0)):
        backend, _, _ = with_partial_encoder(classes=("often", "seldom"), class_counts=counts)
        scores = backend._class_scores(random_images(), torch.ones(4, 1, 32, 32))
        differences[counts] = float((scores[:, 0] - scores[:, 1]).mean())
    assert differences[99, 1] - differences[50, 50] == pytest.approx(math.log(99), abs=1e-3)
    assert differences[0, 0] == pytest.approx(differences[50, 50], abs=1e-3)
