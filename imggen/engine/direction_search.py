"""Find the directions of a model's noise along which its images change most, and name them by what changes.

GANSpace (Härkönen et al. 2020, arXiv 2004.02546) takes the principal components of a layer's features and regresses
the noise on them; SeFa (Shen & Zhou 2020, arXiv 2007.06600) takes the singular vectors of the first layer's weight.
Here the components are those of small images, which every model has. The best linear fit to a function of standard
normal noise is its mean gradient (Stein 1981), which 64 samples estimate well even for a VAE's 27,000 numbers of noise,
where a regression would need more samples than numbers. The directions are the singular vectors of these gradients:
they are orthogonal, and the first changes the images most.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from imggen.engine.directions import Direction, Directions
from imggen.engine.noise import SampleSpec, noise_for
from imggen.engine.options import MAX_DIRECTIONS
from imggen.engine.quantities import Floats, measure
from imggen.engine.render import sample_batches
from imggen.io.image import ImageArray
from imggen.io.pixels import float_images
from imggen.models.base import Backend
from imggen.reporting import Reporter, Task

SMALL_SIDE = 8  # pixels of the small images
PAIRS = 128  # of samples of one class: their differences have nothing that the class explains
GRADIENT_SAMPLES, GRADIENT_BATCH = 64, 16
TRIALS = 96  # samples that a direction is named by, each at another value
MAX_VALUE = 2.0  # of these, in standard deviations
FIRST_SEED = 1 << 62  # of all these samples: no seed that a user would choose
MIN_CORRELATION = 0.6  # of a quantity with the value, to name a direction by it
SAME_CORRELATION = 0.02  # closer ones are taken as equal
MIN_SHARE = 1e-5  # of the variance of small images: what changes less is no direction


def search_directions(backend: Backend, reporter: Reporter) -> Directions:
    """At most MAX_DIRECTIONS of a model whose images have a gradient; the one that changes most comes first."""
    total = 2 * PAIRS + GRADIENT_SAMPLES + MAX_DIRECTIONS * TRIALS
    with reporter.task("finding directions", total) as task:
        fast = backend.for_inference()
        components, variance = _principal_components(fast)
        task.update(2 * PAIRS)
        gradients = mean_gradients(backend, components)
        task.update(2 * PAIRS + GRADIENT_SAMPLES)
        # Along a singular vector the small images of a linear model change by the singular value.
        _, effects, rows = torch.linalg.svd(gradients.flatten(1), full_matrices=False)
        shares = (effects**2 / variance).clamp(max=1)
        kept = int((shares >= MIN_SHARE).sum())
        vectors = rows[:kept].float().view(kept, *backend.noise_shape)
        return _named(fast, vectors, shares[:kept].tolist(), task, total)


def small_images(images: Tensor) -> Tensor:
    """Images (B, C, H, W) → what they show at SMALL_SIDE pixels, flat (B, C · SMALL_SIDE²)."""
    return adaptive_avg_pool2d(images.float(), SMALL_SIDE).flatten(1)


def _principal_components(backend: Backend) -> tuple[Tensor, float]:
    """The components (K, features) of small images of one class, and the variance of these images."""
    first = [SampleSpec(FIRST_SEED + index) for index in range(PAIRS)]
    _, labels = noise_for(first, backend)
    chosen = [None] * PAIRS if labels is None else labels.tolist()
    second = [SampleSpec(FIRST_SEED + PAIRS + index, label) for index, label in enumerate(chosen)]

    def shrink(specs: list[SampleSpec], images: ImageArray) -> Tensor:
        return small_images(float_images(images, torch.device("cpu")))

    small = torch.cat(list(sample_batches(backend, [*first, *second], shrink)))
    differences = (small[:PAIRS] - small[PAIRS:]).double()
    _, _, components = torch.linalg.svd(differences, full_matrices=False)
    variance = float(differences.square().sum()) / (2 * PAIRS)
    return components[:MAX_DIRECTIONS].float(), max(variance, 1e-12)


def mean_gradients(backend: Backend, components: Tensor) -> Tensor:
    """The mean gradients (K, *noise_shape) of components (K, features) of a model's images, float64.

    That of details is left out: small images hardly show them.
    """
    total = torch.zeros(len(components), *backend.noise_shape, dtype=torch.float64)
    components = components.to(backend.device)
    for start in range(0, GRADIENT_SAMPLES, GRADIENT_BATCH):
        specs = [SampleSpec(FIRST_SEED + 2 * PAIRS + start + index) for index in range(GRADIENT_BATCH)]
        noise, labels = noise_for(specs, backend)
        noise = noise.to(backend.device).requires_grad_()
        with torch.enable_grad():
            images = backend.generate(noise, None if labels is None else labels.to(backend.device))
            scores = small_images(images) @ components.T
        for index, score in enumerate(scores.sum(0)):
            (gradient,) = torch.autograd.grad(score, noise, retain_graph=index + 1 < len(components))
            total[index] += gradient.double().sum(0).cpu()
    if backend.detail_mask is not None:
        total[:, backend.detail_mask.cpu()] = 0
    return total / GRADIENT_SAMPLES


def _named(backend: Backend, vectors: Tensor, shares: list[float], task: Task, total: int) -> Directions:
    """With the name of what follows each direction, which then points to where there is more of it."""
    unnamed = Directions(vectors, tuple(Direction(share, "", 0.0) for share in shares))
    known, signs = [], torch.ones(len(vectors))
    for number, share in enumerate(shares, 1):
        name, r = strongest(correlations(backend, unnamed, number))
        signs[number - 1] = -1.0 if r < 0 else 1.0
        known.append(Direction(share, name if abs(r) >= MIN_CORRELATION else "", round(abs(r), 3)))
        task.update(total - (len(shares) - number) * TRIALS)
    return Directions((vectors.flatten(1) * signs[:, None]).view(vectors.shape), tuple(known))


def correlations(backend: Backend, directions: Directions, number: int) -> dict[str, float]:
    """Of each quantity with the value along a direction, from TRIALS samples at values up to MAX_VALUE both ways."""
    first = FIRST_SEED + 2 * PAIRS + GRADIENT_SAMPLES + number * TRIALS
    specs = [SampleSpec(first + index) for index in range(TRIALS)]
    values = dict(zip(specs, np.linspace(-MAX_VALUE, MAX_VALUE, TRIALS).tolist(), strict=True))

    def change(part: list[SampleSpec], noise: Tensor) -> Tensor:
        return directions.move(noise, {number: torch.tensor([values[spec] for spec in part])})

    def measure_part(part: list[SampleSpec], images: ImageArray) -> dict[str, Floats]:
        return measure(images)

    parts = list(sample_batches(backend, specs, measure_part, change=change))
    wanted = np.array(list(values.values()))
    return {name: correlation(wanted, np.concatenate([part[name] for part in parts])) for name in parts[0]}


def correlation(first: Floats, second: Floats) -> float:
    """Pearson's correlation; 0 if one of both does not vary."""
    a, b = first - first.mean(), second - second.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 1e-12 else 0.0


def strongest(found: dict[str, float]) -> tuple[str, float]:
    """The quantity with the largest correlation, of either sign; of equal ones the first."""
    least = max(map(abs, found.values())) - SAME_CORRELATION
    return next((name, r) for name, r in found.items() if abs(r) >= least)
