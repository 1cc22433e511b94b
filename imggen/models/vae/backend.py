"""The VAE as a backend: generate from the prior, invert by posterior means, inpaint by the partial posterior."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from imggen.models.base import DEFAULT_SAMPLING, Backend, Features, Inversion, Task, class_log_frequencies
from imggen.models.config import SamplingOptions
from imggen.models.heads import GRID_SIDE, pool_unit_grid
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import (
    Core,
    Normal,
    PosteriorFunction,
    TopDownPass,
    decode,
    encoder_posterior,
    log_density_ratio,
    posterior_mean,
    posterior_means,
    sum_except_batch,
    top_down_pass,
)
from imggen.models.vae.dense import Dense
from imggen.models.vae.fill_candidates import (
    Candidate,
    gumbel_noise,
    num_candidates,
    permuted_noise,
    resample,
    unique_rows,
)
from imggen.models.vae.hierarchy import Hierarchy
from imggen.models.vae.partial_encoder import PartialEncoder
from imggen.models.vae.refiner import Refiner

# When classes are compared, beside the KL of coarse layers: of that of detail layers, and of the pixels' likelihood
CLASS_DETAIL_WEIGHT, CLASS_PIXEL_WEIGHT = 1 / 4, 1 / 16
GIBBS_ROUNDS = 12
GIBBS_FIRST_SCALE, GIBBS_LAST_SCALE = 0.3, 0.8  # of the posterior's standard deviation
MAX_DETAIL_SPACING = 4  # latents less than so many pixels apart are fine details


class MaskedImages(NamedTuple):
    """What fills are conditioned on, and the temperature to sample them with.

    Images (B, C, H, W), of which only the pixels are used where `unmasked` (B, 1, H, W) is 1.
    """

    images: Tensor
    unmasked: Tensor
    labels: Tensor | None
    temperature: float


class VaeBackend(Backend):
    """The VAE, and optionally its partial encoder (for inpainting) and its refiner (for sharper images)."""

    config: VaeConfig

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.core: Core = Dense(config) if config.hidden else Hierarchy(config)
        self.partial_encoder = PartialEncoder(config) if config.inpaint_fraction else None
        self.refiner = Refiner(config, self.core.likelihood.outputs) if config.sharpen else None

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(number of latents,): layer by layer, the coarsest first."""
        return (sum(self._layer_sizes()),)

    @property
    def binarized(self) -> bool:
        """Whether the likelihood is that of images of -1 and 1."""
        return self.core.likelihood.binarized

    @property
    def detail_mask(self) -> Tensor | None:
        """The noise of layers whose latents are less than MAX_DETAIL_SPACING pixels apart."""
        fine = self._details
        if all(fine) or not any(fine):
            return None
        sizes = self._layer_sizes()
        return torch.cat([torch.full((size,), is_fine) for size, is_fine in zip(sizes, fine, strict=True)])

    def limitation(self, task: Task) -> str:
        """Inpainting needs the partial encoder; the likelihood does not hold for images changed by the refiner."""
        if task == "inpaint" and self._trained_partial_encoder() is None:
            return "it has no trained partial encoder, so it searches for fills"
        if task == "likelihood" and self._trained_refiner() is not None:
            return "its refiner changes the images, so they are no longer the means of its likelihood"
        return ""

    # Sampling and inversion

    def generate(
        self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Tensor:
        """What `to_images` makes of the decoded noise. The temperature scales the priors' standard deviations."""
        labels = self._check_labels(labels, noise.shape[0])
        return self.to_images(self._decode(noise * options.temperature, labels))

    def invert(
        self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Inversion:
        """Encode images to the noise of the posterior's means, each layer's given those above."""
        if labels is None and self.classes:
            labels = self._class_scores(images).argmax(1)
        labels = self._check_labels(labels, len(images))
        with torch.no_grad():
            posterior = encoder_posterior(self.core, self._binarize(images))
            encoding = top_down_pass(self.core, len(images), labels, posterior, posterior_mean)
        return Inversion(torch.cat([layer_noise.flatten(1) for layer_noise in encoding.noise], 1), labels)

    def to_images(self, output: Tensor) -> Tensor:
        """The likelihood's parameters (B, outputs, H, W) -> images: the mean, through the refiner if there is one.

        Pixel art has a palette: where alpha is hard, a color is the most probable one, as blends are not in the data.
        """
        likelihood, refiner = self.core.likelihood, self._trained_refiner()
        if refiner is None:
            return self.harden(likelihood.typical(output) if self.config.hard_alpha else likelihood.mean(output))
        mean = likelihood.mean(output)
        return self.harden(refiner(mean, output).to(mean.dtype))

    # Likelihood

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Evidence lower bound (B,) in nats, estimated by one sample of the posterior of each image."""
        encoding = self._encode_sample(images, labels)
        return self._log_prob(encoding, images) - encoding.kl

    def importance_bound(self, images: Tensor, labels: Tensor | None = None, *, num_samples: int) -> Tensor:
        """Importance-weighted bound (B,) in nats (Burda et al. 2015, arXiv 1509.00519)."""
        labels = self._check_labels(labels, len(images))
        posterior = encoder_posterior(self.core, images)
        total = torch.full((len(images),), -math.inf, device=images.device)
        for _ in range(num_samples):
            encoding = top_down_pass(self.core, len(images), labels, posterior)
            total = torch.logaddexp(total, self._log_prob(encoding, images) + encoding.log_ratio)
        return total - math.log(num_samples)

    def layer_information(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """KL divergence (B,) in nats of each layer's posterior from its prior."""
        names = [layer.name for layer in self.core.layers]
        return dict(zip(names, self._encode_sample(images, labels).layer_kl, strict=True))

    # Recognition

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """The posterior's means of the coarse layers, with all classes mixed, and a map of the encoder; all its maps.

        Coarse are the layers whose latents are MAX_DETAIL_SPACING pixels or more apart. The map is the coarsest that
        has as many places as a vector distinguishes; at each of them its channels have length one. By 1,000 labels a
        probe tells 92 of 100 digits by the means alone, 96 with the map. A textbook VAE has no maps.
        """
        images, layers = self._binarize(images), self.core.layers
        labels = None
        if self.classes:
            labels = class_log_frequencies(self.config, images.device).softmax(0).expand(images.shape[0], -1)
        detail = self._details
        encoded = self.core.encode(images)
        means = posterior_means(self.core, encoded, labels, detail.index(True) if True in detail[1:] else len(layers))
        maps = [each.float() for each in encoded] if isinstance(self.core, Hierarchy) else []
        vectors = [mean.float().flatten(1) for mean in means]
        shown = [each for each in maps if min(each.shape[2:]) >= GRID_SIDE]
        if shown:
            vectors.append(pool_unit_grid(shown[0]))
        return Features(torch.cat(vectors, 1), tuple(maps))

    def class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The divergence of the posterior from each class's prior, and some of the pixels' likelihood."""
        return self._class_scores(images, mask) if self.classes else None

    @torch.no_grad()
    def _class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Approximate log-probability (B, classes) of each class, up to a constant, given the pixels where `mask` is 0.

        The score is minus the KL of the posterior from the class's prior, with latents at the posterior's means, and
        the log-likelihood of the pixels. Details and pixels hardly depend on the class but are noisy, so they count
        less. With the shipped digits and one half masked it is right for 91 in 100 images, the full bound for 73.
        """
        masked = torch.zeros_like(images[:, :1]) if mask is None else mask
        # Score equal rows once: inpainting repeats an image for several fills.
        first, inverse = unique_rows(torch.cat([images * (1 - masked), masked], 1).flatten(1))
        images, masked = self._binarize(images[first]), masked[first]
        unmasked = 1 - masked
        posterior = self._posterior_of_masked(images, masked, use_partial_encoder=mask is not None)
        weights = images.new_tensor([CLASS_DETAIL_WEIGHT if detail else 1.0 for detail in self._details])
        scores = []
        for label in range(len(self.classes)):
            labels = torch.full_like(first, label)
            encoding = top_down_pass(self.core, len(images), labels, posterior, posterior_mean)
            kl = (weights[:, None] * torch.stack(encoding.layer_kl)).sum(0)
            pixels = self._log_prob(encoding, images, unmasked)
            scores.append(CLASS_PIXEL_WEIGHT * pixels - kl)
        return torch.stack(scores, 1)[inverse] + class_log_frequencies(self.config, images.device)

    def _posterior_of_masked(self, images: Tensor, masked: Tensor, *, use_partial_encoder: bool) -> PosteriorFunction:
        """The partial posterior or, without one, that of the images with their mean color in the masked region."""
        unmasked = 1 - masked
        partial_encoder = self._trained_partial_encoder() if use_partial_encoder else None
        if partial_encoder is not None:
            return partial_encoder.posterior(images, unmasked)
        mean_color = (images * unmasked).sum((2, 3), keepdim=True) / unmasked.sum((2, 3), keepdim=True).clamp(min=1)
        return encoder_posterior(self.core, self._binarize(images * unmasked + mean_color * masked))

    # Inpainting

    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Tensor:
        """Fill by self-normalized importance resampling with the Gumbel-max trick.

        Candidate fills are sampled from a proposal q(latents | unmasked pixels), which is the partial encoder's
        posterior or, without one, the prior; one is chosen with probability proportional to its importance weight
        p(unmasked pixels | latents) p(latents) / q(latents | unmasked pixels). Fills from the prior are then improved
        by pseudo-Gibbs sampling. Candidates and choice are functions of `noise`.

        Without labels each row's class is sampled from the probabilities given the unmasked pixels. The temperature
        scales the standard deviation of the proposal, and the Gumbel noise that samples the class.
        """
        if labels is None and self.classes:
            scores = self._class_scores(images, mask)
            labels = (scores + options.temperature * gumbel_noise(noise, scores.shape[1])).argmax(1)
        labels = self._check_labels(labels, len(images))
        given = MaskedImages(images, 1 - mask, labels, options.temperature)
        gumbel = gumbel_noise(noise, self._num_candidates())
        with torch.no_grad():
            partial_encoder = self._trained_partial_encoder()
            if partial_encoder is not None:
                fills = resample(self._partial_posterior_candidates(partial_encoder, given, noise), gumbel, images)
            else:
                fills = resample(self._prior_candidates(given, noise), gumbel, images)
                fills = self._pseudo_gibbs(given, fills, noise)
        return images * given.unmasked + fills * mask

    def _partial_posterior_candidates(
        self, partial_encoder: PartialEncoder, given: MaskedImages, noise: Tensor
    ) -> Iterator[Candidate]:
        """Candidates from the partial encoder's posterior."""
        images = self._binarize(given.images)
        posterior = partial_encoder.posterior(images, given.unmasked)
        for candidate_noise in permuted_noise(noise, self._num_candidates()):
            standard = self._split_layers(candidate_noise)
            encoding = self._sample_pass(posterior, given.labels, standard, given.temperature)
            log_ratios = [
                log_density_ratio(layer_noise, standardized, q)
                for layer_noise, standardized, q in zip(encoding.noise, standard, encoding.posteriors, strict=True)
            ]
            log_weight = self._log_prob(encoding, images, given.unmasked) + torch.stack(log_ratios).sum(0)
            yield Candidate(self.to_images(encoding.output), log_weight)

    def _prior_candidates(self, given: MaskedImages, noise: Tensor) -> Iterator[Candidate]:
        """Candidates from the prior, so that the weight is the likelihood of the unmasked pixels alone."""
        images = self._binarize(given.images)
        for candidate_noise in permuted_noise(noise, self._num_candidates()):
            output = self._decode(candidate_noise * given.temperature, given.labels)
            log_prob = self.core.likelihood.log_prob(output, images)
            yield Candidate(self.to_images(output), sum_except_batch(log_prob * given.unmasked[:, 0]))

    def _pseudo_gibbs(self, given: MaskedImages, fills: Tensor, noise: Tensor) -> Tensor:
        """Improve fills: encode the filled image, decode a sample of its posterior, and repeat (pseudo-Gibbs sampling).

        The posterior's standard deviation is scaled by a factor that grows from GIBBS_FIRST_SCALE to GIBBS_LAST_SCALE,
        as in PnP-HVAE (arXiv 2301.06325).
        """
        growth = GIBBS_LAST_SCALE - GIBBS_FIRST_SCALE
        for index, round_noise in enumerate(permuted_noise(noise, GIBBS_ROUNDS)):
            scale = given.temperature * (GIBBS_FIRST_SCALE + growth * index / (GIBBS_ROUNDS - 1))
            filled = self._binarize(given.images * given.unmasked + fills * (1 - given.unmasked))
            posterior = encoder_posterior(self.core, filled)
            encoding = self._sample_pass(posterior, given.labels, self._split_layers(round_noise), scale)
            fills = self.core.likelihood.mean(encoding.output)
        return self.to_images(encoding.output)

    def _num_candidates(self) -> int:
        weights = sum(weight.numel() for weight in self.core.parameters())
        return num_candidates(weights, self.config.size, self.device, self.noise_shape[0], len(self.classes))

    # Helpers

    def _trained_partial_encoder(self) -> PartialEncoder | None:
        """None, too, in a checkpoint written before its training began."""
        encoder = self.partial_encoder
        return encoder if encoder is not None and bool(encoder.trained > 0) else None

    def _trained_refiner(self) -> Refiner | None:
        """None, too, in a checkpoint written before its training began."""
        return self.refiner if self.refiner is not None and bool(self.refiner.trained > 0) else None

    def _binarize(self, images: Tensor) -> Tensor:
        """Set pixels to -1 or 1 if the model was trained on such images."""
        return torch.where(images > 0, 1.0, -1.0) if self.binarized else images

    @property
    def _details(self) -> list[bool]:
        """Of each layer, whether its latents are less than MAX_DETAIL_SPACING pixels apart."""
        shapes = [layer.shape for layer in self.core.layers]
        return [len(shape) == 3 and MAX_DETAIL_SPACING * shape[-1] > self.config.size for shape in shapes]

    def _layer_sizes(self) -> list[int]:
        return [math.prod(layer.shape) for layer in self.core.layers]

    def _split_layers(self, noise: Tensor) -> list[Tensor]:
        """Noise (B, *noise_shape) -> the noise of each layer (B, *shape)."""
        parts = torch.split(noise, self._layer_sizes(), 1)
        return [part.reshape(-1, *layer.shape) for part, layer in zip(parts, self.core.layers, strict=True)]

    def _decode(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Noise (B, *noise_shape) -> the likelihood's parameters."""
        return decode(self.core, self._split_layers(noise), labels)

    def _encode_sample(self, images: Tensor, labels: Tensor | None) -> TopDownPass:
        """A pass with one sample of the images' posterior."""
        labels = self._check_labels(labels, len(images))
        return top_down_pass(self.core, len(images), labels, encoder_posterior(self.core, images))

    def _sample_pass(
        self, posterior: PosteriorFunction, labels: Tensor | None, standard: list[Tensor], temperature: float
    ) -> TopDownPass:
        """A pass with noise sampled from the posterior by the given standard normal noise of each layer."""

        def sample(index: int, q: Normal) -> Tensor:
            return q.mean + temperature * q.scale * standard[index]

        return top_down_pass(self.core, len(standard[0]), labels, posterior, sample)

    def _log_prob(self, encoding: TopDownPass, images: Tensor, unmasked: Tensor | None = None) -> Tensor:
        """Log-likelihood of the images' pixels (B,), or only of those where `unmasked` (B, 1, H, W) is 1."""
        log_prob = self.core.likelihood.log_prob(encoding.output, images)
        return sum_except_batch(log_prob if unmasked is None else log_prob * unmasked[:, 0])
