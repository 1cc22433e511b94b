"""Small transformers whose weights are noisy, so that their distributions are far from uniform."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from imggen.models import build_backend, presets
from imggen.models.transformer.any_order_prior import AnyOrderPrior
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.causal_prior import CausalPrior


def add_weight_noise(network: nn.Module, seed: int = 0, strength: float = 0.15) -> None:
    """Add normal noise to every weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(strength * torch.randn(weight.shape, generator=generator))


def any_order_prior(
    factors: tuple[int, ...] = (3,), side: int = 2, classes: int = 2, seed: int = 0, **overrides: Any
) -> AnyOrderPrior:
    """A prior of a few thousand weights, in eval mode."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"width": 32, "depth": 4, "heads": 2, "dropout": 0.0, **overrides}
    prior = AnyOrderPrior(factors, side, classes, **settings)
    add_weight_noise(prior, seed)
    return prior.eval()


def causal_prior(classes: int = 2, codes: int = 3, side: int = 2) -> CausalPrior:
    """The textbook's prior with a few thousand weights, in eval mode."""
    torch.manual_seed(0)
    prior = CausalPrior((codes,), side, classes, width=32, depth=3, heads=2, dropout=0.1)
    add_weight_noise(prior)
    return prior.eval()


def small_transformer(
    preset: str = "tiny", *, classes: bool = True, channels: int = 1, **overrides: Any
) -> TransformerBackend:
    """A backend of 4x4 tokens at 16 pixels, in eval mode, with noise on the weights of tokenizer and prior."""
    names = ("ants", "bees", "cows") if classes else ()
    config = presets("transformer")[preset].with_overrides(
        **{
            "size": 16, "channels": channels, "classes": names, "class_counts": (5, 3, 2) if classes else (),
            "width": 32, "depth": 4, "heads": 2, "tokenizer_width": 8, "factor": 4, **overrides,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    backend = build_backend(config)
    assert isinstance(backend, TransformerBackend)
    add_weight_noise(backend.prior, 1)
    add_weight_noise(backend.tokenizer, 2, 0.05)
    return backend.eval().requires_grad_(False)


def smooth_images(count: int = 6, channels: int = 1) -> Tensor:
    """Images of 16 pixels, smooth noise, in [-1, 1]."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, channels, 4, 4, generator=generator) * 2 - 1
    return interpolate(coarse, size=16, mode="bilinear").mul(127.5).round().div(127.5)
