"""Noise → picture from the prior; picture → noise by the posterior's means; holes by the partial posterior."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from imggen.models.base import PLAIN, Backend, Inversion, class_log_frequencies
from imggen.models.config import SamplingOptions
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Core, Normal, TopDownPass, look_at, mean, sum_except_batch, top_down_pass
from imggen.models.vae.dense import Dense
from imggen.models.vae.fill_candidates import gumbel_noise, num_candidates, permuted_noise, unique_rows
from imggen.models.vae.hierarchy import Hierarchy
from imggen.models.vae.partial_encoder import PartialEncoder
from imggen.models.vae.refiner import Refiner

PIXELS = 1 / 8  # what the pixels' likelihood counts where classes are compared
ROUNDS = 12  # of the search without a partial encoder


class VaeBackend(Backend):
    """The networks that draw, look and fill."""

    config: VaeConfig

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.core: Core = Dense(config) if config.hidden else Hierarchy(config)
        self.partial = PartialEncoder(config) if config.filling else None
        self.sharpener = Refiner(config, self.core.likelihood.outputs) if config.sharpen else None

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(all latents,): layer by layer, the coarsest first."""
        return (sum(math.prod(layer.shape) for layer in self.core.layers),)

    @property
    def binarized(self) -> bool:
        """See the contract."""
        return self.core.likelihood.binary

    @property
    def detail_mask(self) -> Tensor | None:
        """See the contract: those of the layers whose places are less than four pixels apart."""
        shapes = [layer.shape for layer in self.core.layers]
        fine = [len(shape) == 3 and 4 * shape[-1] > self.config.size for shape in shapes]
        if all(fine) or not any(fine):
            return None
        return torch.cat([torch.full((math.prod(shape),), one) for shape, one in zip(shapes, fine, strict=True)])

    def limitation(self, task: Literal["inpaint", "likelihood"]) -> str:
        """Inpainting needs the partial encoder; the likelihood does not hold for images changed by the refiner."""
        if task == "inpaint" and self._ready_partial() is None:
            return "it has no trained partial encoder, so it searches for fills"
        if task == "likelihood" and self._sharp():
            return "its refiner changes the images, so they are no longer the means of its likelihood"
        return ""

    def generate(self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = PLAIN) -> Tensor:
        """See the contract. The picture is the mean; `temperature` scales every prior's standard deviation."""
        labels = self._check_labels(labels, len(noise))
        return self._picture(noise * options.temperature, labels)

    def invert(self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = PLAIN) -> Inversion:
        """Encode images to the noise of the posterior's means, each layer's given those above."""
        labels = self._some_labels(images, labels)
        with torch.no_grad():
            found = top_down_pass(self.core, len(images), labels, look_at(self.core, self._seen(images)), mean)
        return Inversion(_joined(found.noise), labels)

    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        options: SamplingOptions = PLAIN,
    ) -> Tensor:
        """One of several candidate fills, drawn by p(known | latents) p(latents) / q(latents | known).

        Without labels each fill has a class of its own, drawn by how likely the known pixels make it. Class,
        candidates, and the choice among them, are functions of `noise`. `temperature` scales the posterior's deviation,
        and the luck that the class is drawn with.
        """
        known = 1 - mask
        if labels is None and self.classes:
            scores = self._class_scores(images, mask)
            labels = (scores + options.temperature * gumbel_noise(noise, scores.shape[1])).argmax(1)
        labels = self._check_labels(labels, len(images))
        with torch.no_grad():
            partial = self._ready_partial()
            candidates = self._partial_fills if partial is not None else self._prior_fills
            chosen, best = images, torch.full_like(noise[:, 0], -math.inf)
            chances = gumbel_noise(noise, self._candidates()).unbind(1)
            for (filled, weight), chance in zip(
                candidates(images, known, noise, labels, options.temperature), chances, strict=True
            ):
                score = weight + chance
                better = score > best  # a candidate beyond what fp32 holds never is
                chosen = torch.where(better.view(-1, 1, 1, 1), filled, chosen)
                best = torch.where(better, score, best)
            if partial is None:
                chosen = self._settled(images, known, chosen, noise, labels, options.temperature)
        return images * known + chosen * mask

    @torch.no_grad()
    def _class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """About the logarithm of each class's probability (B, classes), but for a constant, where `mask` is 0.

        It is the divergence of the posterior from the class's prior, each layer's latents at their means, and a little
        of the other half of the bound: how well the pixels are drawn from those is much the same in every class but
        for noise. Of shipped digits with a half hidden 90 in 100 are right so, 73 by the bound.
        """
        hidden = torch.zeros_like(images[:, :1]) if mask is None else mask
        first, like = unique_rows(torch.cat([images * (1 - hidden), hidden], 1).flatten(1))
        images, hidden = images[first], hidden[first]
        known, seen = 1 - hidden, self._seen(images)
        partial = None if mask is None else self._ready_partial()
        if partial is not None:
            look = partial.look_at(seen, known)
        else:
            middle = (seen * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
            look = look_at(self.core, self._seen(seen * known + middle * hidden))
        scores = []
        for label in range(len(self.classes)):
            labels = torch.full_like(first, label)
            descent = top_down_pass(self.core, len(images), labels, look, mean)
            scores.append(PIXELS * self._observed(descent.output, seen, known) - descent.divergence)
        return torch.stack(scores, 1)[like] + class_log_frequencies(self.config, images.device)

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Evidence lower bound (B,) in nats, estimated by one sample of the posterior of each image."""
        labels = self._check_labels(labels, len(images))
        descent = top_down_pass(self.core, len(images), labels, look_at(self.core, images))
        return sum_except_batch(self.core.likelihood.log_prob(descent.output, images)) - descent.divergence

    def importance_bound(self, images: Tensor, labels: Tensor | None = None, *, num_samples: int) -> Tensor:
        """Importance-weighted bound (B,) in nats (Burda et al. 2015, arXiv 1509.00519)."""
        labels = self._check_labels(labels, len(images))
        look = look_at(self.core, images)
        total = torch.full((len(images),), -math.inf, device=images.device)
        for _ in range(num_samples):
            descent = top_down_pass(self.core, len(images), labels, look)
            weight = sum_except_batch(self.core.likelihood.log_prob(descent.output, images)) + descent.log_ratio
            total = torch.logaddexp(total, weight)
        return total - math.log(num_samples)

    def layer_information(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """KL divergence (B,) in nats of each layer's posterior from its prior."""
        labels = self._check_labels(labels, len(images))
        descent = top_down_pass(self.core, len(images), labels, look_at(self.core, images))
        return {layer.name: found for layer, found in zip(self.core.layers, descent.divergences, strict=True)}

    def _sharp(self) -> Refiner | None:
        """None, too, in a checkpoint of before it began to learn."""
        return self.sharpener if self.sharpener is not None and bool(self.sharpener.ready > 0) else None

    def shown(self, output: Tensor) -> Tensor:
        """The likelihood's input (B, outputs, H, W) → the picture: its mean, made sharper where that was learnt."""
        picture, sharpener = self.core.likelihood.mean(output), self._sharp()
        return picture if sharpener is None else sharpener(picture, output).to(picture.dtype)

    def _ready_partial(self) -> PartialEncoder | None:
        """None, too, in a checkpoint of before it began to learn."""
        return self.partial if self.partial is not None and bool(self.partial.ready > 0) else None

    def _candidates(self) -> int:
        weights = sum(weight.numel() for weight in self.core.parameters())
        return num_candidates(weights, self.config.size, self.device, self.noise_shape[0], len(self.classes))

    def _seen(self, images: Tensor) -> Tensor:
        """A model of binarised pictures has seen no grey."""
        return torch.where(images > 0, 1.0, -1.0) if self.binarized else images

    def _likely_labels(self, images: Tensor) -> Tensor | None:
        return self._class_scores(images).argmax(1) if self.classes else None

    def _some_labels(self, images: Tensor, labels: Tensor | None) -> Tensor | None:
        return self._check_labels(self._likely_labels(images) if labels is None else labels, len(images))

    def _parts(self, noise: Tensor) -> list[Tensor]:
        shapes = [layer.shape for layer in self.core.layers]
        parts = torch.split(noise, [math.prod(shape) for shape in shapes], 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def _output(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        parts = self._parts(noise)
        return self.core.top_down(len(noise), labels, lambda index, state: parts[index])

    def _picture(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        return self.shown(self._output(noise, labels))

    def _observed(self, output: Tensor, images: Tensor, known: Tensor) -> Tensor:
        return sum_except_batch(self.core.likelihood.log_prob(output, images) * known[:, 0])

    def _partial_fills(
        self, images: Tensor, known: Tensor, noise: Tensor, labels: Tensor | None, temperature: float
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Fills with the logarithms of their importance weights (B,)."""
        partial = self._ready_partial()
        assert partial is not None
        seen = self._seen(images)
        look = partial.look_at(seen, known)
        for other in permuted_noise(noise, self._candidates()):
            parts = self._parts(other)

            def take(index: int, posterior: Normal, parts: list[Tensor] = parts) -> Tensor:
                return posterior.mean + temperature * posterior.scale * parts[index]

            found = top_down_pass(self.core, len(images), labels, look, take)
            weight = self._observed(found.output, seen, known) + self._prior_share(found, parts)
            yield self.shown(found.output), weight

    @staticmethod
    def _prior_share(found: TopDownPass, parts: list[Tensor]) -> Tensor:
        """log p(latents) - log q(latents | known), but for what is the same for all candidates."""
        zipped = zip(found.noise, parts, found.posteriors, strict=True)
        shares = [sum_except_batch((part.square() - noise.square()) / 2 + q.scale.log()) for noise, part, q in zipped]
        return torch.stack(shares).sum(0)

    def _prior_fills(
        self, images: Tensor, known: Tensor, noise: Tensor, labels: Tensor | None, temperature: float
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Draws from the prior: a start for `_settled`."""
        for other in permuted_noise(noise, self._candidates()):
            output = self._output(other * temperature, labels)
            yield self.shown(output), self._observed(output, self._seen(images), known)

    def _settled(
        self,
        images: Tensor,
        known: Tensor,
        filled: Tensor,
        noise: Tensor,
        labels: Tensor | None,
        temperature: float,
    ) -> Tensor:
        """Without a partial encoder: look at the filled picture, draw what was seen, again and again (pseudo-Gibbs).

        The posterior's deviation grows from 0.3 to 0.8 of its own, as in PnP-HVAE (arXiv 2301.06325).
        """
        for round_, other in enumerate(permuted_noise(noise, ROUNDS)):
            parts = self._parts(other)
            warmth = temperature * (0.3 + 0.5 * round_ / (ROUNDS - 1))
            whole = self._seen(images * known + filled * (1 - known))

            def take(index: int, posterior: Normal, parts: list[Tensor] = parts, warmth: float = warmth) -> Tensor:
                return posterior.mean + warmth * posterior.scale * parts[index]

            found = top_down_pass(self.core, len(images), labels, look_at(self.core, whole), take)
            filled = self.core.likelihood.mean(found.output)
        return self.shown(found.output)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)
