"""Seeds to noise: the noise and the class of one sample depend on its own seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from imggen.models.base import Backend

if TYPE_CHECKING:  # samplers need no translator
    from imggen.models.mapper.translate.model import TranslateModel


def mix_seed(*numbers: int) -> int:
    """Hash several numbers to one seed below 2**63; similar inputs give unrelated seeds."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class SampleSpec:
    """One sample to generate. If `label` is None, the seed chooses the class, with the frequencies of the data."""

    seed: int
    label: int | None = None


def noise_for(specs: Sequence[SampleSpec], backend: Backend) -> tuple[Tensor, Tensor | None]:
    """Return noise (B, *noise_shape) and labels (B,), int64, on the CPU; labels are None if the model has no classes.

    Row i depends on spec i alone.
    """
    noise = torch.empty(len(specs), *backend.noise_shape)
    labels = torch.empty(len(specs), dtype=torch.int64)
    cumulative_counts = np.cumsum(np.asarray(backend.config.class_counts, dtype=np.float64))
    generator = torch.Generator()
    for row, spec in enumerate(specs):
        generator.manual_seed(spec.seed)
        torch.randn(backend.noise_shape, generator=generator, out=noise[row])
        if backend.classes:
            threshold = float(torch.rand((), generator=generator, dtype=torch.float64)) * cumulative_counts[-1]
            label = int(np.searchsorted(cumulative_counts, threshold, side="right"))
            labels[row] = min(label, len(cumulative_counts) - 1) if spec.label is None else spec.label
    return noise, labels if backend.classes else None


def translation_noise(seeds: Sequence[int], model: TranslateModel) -> Tensor | None:
    """Return noise (B, config.noise) for translations, on the model's device; None if the model takes none."""
    count = model.config.noise
    if not count:
        return None
    rows = [torch.randn(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(model.device)
