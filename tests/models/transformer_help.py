"""Small transformers with weights that make their distributions far from uniform."""

from typing import Any

import torch
from torch import nn

from imggen.models import build_backend, presets
from imggen.models.transformer.any_order_prior import AnyOrderPrior
from imggen.models.transformer.backend import TransformerBackend


def stirred(network: nn.Module, seed: int = 0, strength: float = 0.15) -> None:
    """Add noise to every weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(strength * torch.randn(weight.shape, generator=generator))


def toy(factors: tuple[int, ...] = (3,), side: int = 2, classes: int = 2, seed: int = 0, **more: Any) -> AnyOrderPrior:
    """A prior of a few thousand weights, in eval mode."""
    torch.manual_seed(seed)
    given: dict[str, Any] = {"width": 32, "depth": 4, "heads": 2, "dropout": 0.0, **more}
    prior = AnyOrderPrior(factors, side, classes, **given)
    stirred(prior, seed)
    return prior.eval()


def drawer(preset: str = "tiny", *, classes: bool = True, channels: int = 1, **more: Any) -> TransformerBackend:
    """A backend of 4x4 tokens at 16 pixels, in eval mode, its tokenizer's and its prior's weights stirred."""
    names = ("ants", "bees", "cows") if classes else ()
    config = presets("transformer")[preset].with_overrides(
        **{
            "size": 16, "channels": channels, "classes": names, "class_counts": (5, 3, 2) if classes else (),
            "width": 32, "depth": 4, "heads": 2, "tokenizer_width": 8, "factor": 4, **more,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    backend = build_backend(config)
    assert isinstance(backend, TransformerBackend)
    stirred(backend.prior, 1)
    stirred(backend.tokenizer, 2, 0.05)
    return backend.eval().requires_grad_(False)
