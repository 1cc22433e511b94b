"""Seeds to noise: the noise of one sample depends on its own seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imggen.models.base import Backend


def mix_seed(*parts: int) -> int:
    """A seed below 2**63 from several numbers; near inputs give unrelated seeds."""
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class SampleSpec:
    """One picture to draw; `label` none means: drawn from the seed, as often as the data has it."""

    seed: int
    label: int | None = None


def noise_for(items: Sequence[SampleSpec], backend: Backend) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The noise (B, *noise_shape) and labels (B,) of some pictures; each depends on its own seed alone."""
    noise = torch.empty(len(items), *backend.noise_shape)
    labels = torch.empty(len(items), dtype=torch.int64)
    shares = np.cumsum(np.asarray(backend.config.class_counts, dtype=np.float64))
    generator = torch.Generator()
    for row, item in enumerate(items):
        generator.manual_seed(item.seed)
        torch.randn(backend.noise_shape, generator=generator, out=noise[row])
        if backend.classes:
            place = float(torch.rand((), generator=generator, dtype=torch.float64)) * shares[-1]
            drawn = min(int(np.searchsorted(shares, place, side="right")), len(shares) - 1)
            labels[row] = drawn if item.label is None else item.label
    return noise, labels if backend.classes else None
