"""GAN inversion: find z and class that reproduce the unmasked pixels.

Many candidates are compared, the nearest are optimized together by Adam, and the best of those is optimized further
(Image2StyleGAN, arXiv 1904.03189, starts from the mean of z alone; with a mask there are many local minima, and several
starts reach better ones). An encoder's z is nearer: candidates lie around it, and one start is enough (arXiv
2004.00049). For inpainting, the features after the generator's first layer are optimized at the end: they can represent
more than z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

MAX_PIXELS_PER_BATCH = 128 * 32**2  # of one channel, when candidates are generated
# Multiplications of a forward pass in float32, measured on two cores and on one GPU.
CPU_MULTIPLICATIONS_PER_SECOND, GPU_MULTIPLICATIONS_PER_SECOND = 5e10, 2.5e12
SECONDS_PER_IMAGE = 10
LATENT_LEARNING_RATE, FEATURE_LEARNING_RATE = 0.1, 0.03
MAX_ENCODED_CANDIDATES = 32  # where an encoder says where to search
PRIOR_WEIGHT, OFFSET_WEIGHT = 1e-3, 1e-2


class SplitGenerator(Protocol):
    """A generator in two halves; its images may exceed [-1, 1]."""

    def start(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """z (N, z_dim), labels (N,) → features of the first layer (N, C', first_side, first_side)."""
        ...

    def finish(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """Features of the first layer → images (N, C, H, W)."""
        ...


@dataclass(frozen=True)
class SearchBudget:
    """How many candidates are compared, and how many are optimized for how many steps.

    `starts` of the candidates are optimized for `steps` steps each, the best one for `final_steps` more.
    """

    candidates: int
    starts: int
    steps: int
    final_steps: int

    @classmethod
    def for_cost(cls, multiplications: float, rate: float = CPU_MULTIPLICATIONS_PER_SECOND) -> SearchBudget:
        """The budget of about `SECONDS_PER_IMAGE`.

        `multiplications`: those of one generated image; `rate`: multiplications per second of the device.
        """
        # One step, forward and backward, costs about as much as three generated images.
        steps = int(min(440.0, max(20.0, SECONDS_PER_IMAGE * rate / (3 * multiplications))))
        starts = 4 if steps >= 200 else 2 if steps >= 60 else 1
        return cls(
            candidates=max(8, min(256, steps)),
            starts=starts,
            steps=steps * 2 // (5 * starts),
            final_steps=steps * 9 // 20,
        )

    def from_encoder(self) -> SearchBudget:
        """The budget of a search that begins near its end, at the z of an encoder: less than half of this one."""
        return SearchBudget(
            candidates=min(self.candidates // 2, MAX_ENCODED_CANDIDATES),
            starts=1,
            steps=0,
            final_steps=max(1, (self.starts * self.steps + self.final_steps) // 2),
        )


@dataclass(frozen=True)
class SearchResult:
    """z (B, z_dim) and labels (B,), those given or the best ones; None without classes."""

    z: Tensor
    labels: Tensor | None


def search_latents(
    generator: SplitGenerator,
    images: Tensor,
    unmasked: Tensor,
    candidates: Tensor,
    labels: Tensor | None,
    num_classes: int,
    budget: SearchBudget,
) -> SearchResult:
    """Find z that generate `images` (B, C, H, W) where `unmasked` (B, 1, H, W) is 1.

    `candidates` (B, K, z_dim) are compared first. If there are classes and no `labels`, the best class is chosen, too.
    Row i of the result depends on row i alone.
    """
    starts = budget.starts
    z, labels = _best_candidates(generator, images, unmasked, candidates, labels, num_classes, starts)
    # Optimize several starts for each image.
    repeated = images.repeat_interleave(starts, 0), unmasked.repeat_interleave(starts, 0)
    z, errors = _optimize_latents(generator, *repeated, z, labels, budget.steps)
    # Optimize the best of them further.
    best = errors.view(-1, starts).argmin(1) + torch.arange(len(images), device=z.device) * starts
    labels = None if labels is None else labels[best]
    z, _ = _optimize_latents(generator, images, unmasked, z[best], labels, budget.final_steps)
    return SearchResult(z, labels)


def _unmasked_errors(generated: Tensor, images: Tensor, unmasked: Tensor) -> Tensor:
    """Mean squared error (B,) over the unmasked pixels of each image."""
    squares = (generated - images).square() * unmasked
    return squares.flatten(1).sum(1) / (unmasked.flatten(1).sum(1) * images.shape[1]).clamp(min=1)


@torch.no_grad()
def _best_candidates(
    generator: SplitGenerator,
    images: Tensor,
    unmasked: Tensor,
    candidates: Tensor,
    labels: Tensor | None,
    num_classes: int,
    starts: int,
) -> tuple[Tensor, Tensor | None]:
    """The `starts` nearest candidates (B * starts, z_dim) of each image, and their labels (B * starts,)."""
    best_z, best_labels = [], []
    for row, z in enumerate(candidates):
        # Spread the candidates over the classes to be tried: all of them, or the given one.
        row_labels = None
        if num_classes:
            tried = torch.arange(num_classes, device=z.device) if labels is None else labels[row : row + 1]
            row_labels = tried.repeat_interleave(max(1, len(z) // len(tried)))
            z = z[torch.arange(len(row_labels), device=z.device) % len(z)]
        errors = _candidate_errors(generator, images[row : row + 1], unmasked[row : row + 1], z, row_labels)
        best = errors.topk(min(starts, len(z)), largest=False).indices
        # With fewer candidates than starts, some are taken repeatedly.
        best = best[torch.arange(starts, device=best.device) % len(best)]
        best_z.append(z[best])
        if row_labels is not None:
            best_labels.append(row_labels[best])
    return torch.cat(best_z), torch.cat(best_labels) if best_labels else None


def _candidate_errors(
    generator: SplitGenerator, image: Tensor, unmasked: Tensor, z: Tensor, labels: Tensor | None
) -> Tensor:
    """Errors (K,) of candidates z (K, z_dim) for one image (1, C, H, W), in batches of bounded memory."""
    errors = []
    batch = max(1, MAX_PIXELS_PER_BATCH // image[0, 0].numel())
    for begin in range(0, len(z), batch):
        part = slice(begin, begin + batch)
        part_labels = None if labels is None else labels[part]
        generated = generator.finish(generator.start(z[part], part_labels), part_labels)
        errors.append(_unmasked_errors(generated, image, unmasked))
    return torch.cat(errors)


def _optimize_latents(
    generator: SplitGenerator,
    images: Tensor,
    unmasked: Tensor,
    start: Tensor,
    labels: Tensor | None,
    steps: int,
) -> tuple[Tensor, Tensor]:
    """Minimize the error by Adam from z = `start`; returns z and the last errors (B,).

    A penalty keeps the mean square of z from exceeding 1, that of the prior.
    """
    z = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=LATENT_LEARNING_RATE)
    errors = images.new_zeros(len(images))
    with torch.enable_grad():
        for step in range(steps):
            adam.param_groups[0]["lr"] = LATENT_LEARNING_RATE * (1 - step / steps)
            errors = _unmasked_errors(generator.finish(generator.start(z, labels), labels), images, unmasked)
            prior = PRIOR_WEIGHT * (z.square().mean(1) - 1).relu().square()
            # Summed over images, so that the result of each does not depend on the others.
            (z.grad,) = torch.autograd.grad((errors + prior).sum(), z)
            adam.step()
    return z.detach(), errors.detach()


def refine_features(
    generator: SplitGenerator, images: Tensor, unmasked: Tensor, result: SearchResult, steps: int
) -> Tensor:
    """Minimize the error by Adam over the first layer's features, from those of the result's z on.

    Returns images (B, C, H, W). A penalty on the offset, measured relative to each image's features, keeps it small.
    """
    with torch.no_grad():
        features = generator.start(result.z, result.labels)
    scale = features.square().mean((1, 2, 3), keepdim=True).sqrt()
    offset = torch.zeros_like(features, requires_grad=True)
    adam = torch.optim.Adam([offset], lr=FEATURE_LEARNING_RATE)
    with torch.enable_grad():
        for step in range(steps):
            adam.param_groups[0]["lr"] = FEATURE_LEARNING_RATE * (1 - step / steps)
            errors = _unmasked_errors(generator.finish(features + offset * scale, result.labels), images, unmasked)
            penalty = OFFSET_WEIGHT * offset.square().flatten(1).mean(1)
            (offset.grad,) = torch.autograd.grad((errors + penalty).sum(), offset)
            adam.step()
    with torch.no_grad():
        return generator.finish(features + offset * scale, result.labels)
