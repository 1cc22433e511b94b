"""The last phase of the tokenizer's training, with a discriminator: the decoder's means become less blurred.

The encoder is frozen then, so tokens keep their meaning, and the likelihood stays a likelihood: only its location
becomes sharper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from imggen.models import global_batch
from imggen.models.patch_gan import Apply, DiscriminatorTrainer, generator_loss
from imggen.models.transformer.config import TransformerConfig
from imggen.models.transformer.tokenizer import Tokenizer, logistic_mean, reconstruction_loss

ADVERSARIAL_FRACTION = 0.3  # of the tokenizer's training, at its end
DISCRIMINATOR_WARM_UP = 0.15  # of that phase: the discriminator trains alone (untrained, it damages the decoder)
FEATURE_MATCHING_WEIGHT = 0.2  # relative to the adversarial loss
PEAK_LEARNING_RATE = 0.3  # of the decoder in this phase, in units of the learning rate before


class AdversarialPhase(DiscriminatorTrainer):
    """A discriminator, its optimizer, and the decoder's gradients from it.

    t in [0, 1] is the fraction of the tokenizer's training that is over; `phase` is that of its adversarial phase.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.channels, config.size, config.tokenizer_width)
        self.weight = config.adversarial
        # The decoder of a model to begin from needs no training before it.
        self.share = 1.0 if config.keep_tokens else ADVERSARIAL_FRACTION

    def phase(self, t: float) -> float | None:
        """The fraction of the adversarial phase that is over; None before it begins."""
        return (t - 1 + self.share) / self.share if t >= 1 - self.share else None

    def schedule(self, t: float) -> tuple[float, float]:
        """Progress and peak of the tokenizer's learning-rate schedule.

        The schedule runs twice: the encoder's training ends where the adversarial phase begins, so the rate must come
        down before it, too.
        """
        phase = self.phase(t)
        return (t / (1 - self.share), 1.0) if phase is None else (phase, PEAK_LEARNING_RATE)

    def train_discriminator(
        self,
        tokenizer: Tokenizer,
        parts: list[tuple[float, Tensor]],
        phase: float,
        apply: Apply,
        autocast: Callable[[torch.device], torch.autocast],
    ) -> dict[str, Tensor]:
        """One step of the discriminator on images and their reconstructions; returns its losses.

        `parts` are the micro-batches: the fraction of the batch, and images (B, C, H, W).
        """

        def with_reconstructions() -> Iterator[tuple[float, Tensor, tuple[Tensor, ...]]]:
            for fraction, images in parts:
                with torch.no_grad(), autocast(images.device):
                    reconstructions = tokenizer.decode(tokenizer.encode(images))
                yield fraction, images, (reconstructions,)

        return self.learn(with_reconstructions(), phase, apply, autocast)

    def backward(
        self, tokenizer: Tokenizer, images: Tensor, phase: float, fraction: float, autocast: torch.autocast
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Add `fraction` times the decoder's gradients for a micro-batch; returns its losses and tokens.

        The adversarial gradient at the decoded image is scaled to `adversarial` times the norm of the likelihood's
        gradient, so that neither dominates (Esser et al. 2020, arXiv 2012.09841, do so at the last layer).
        """
        with torch.no_grad(), autocast:
            tokens = tokenizer.encode(images)
        with autocast:
            location, log_scale = tokenizer.pixel_parameters(tokenizer.quantizer.dequantize(tokens))

        # Gradients at the decoder's output. Without the edge loss: it blurs texture that cannot be predicted.
        output = location.detach().requires_grad_(True), log_scale.detach().requires_grad_(True)
        loss, losses = reconstruction_loss(images, *output, 0.0)
        gradients = list(torch.autograd.grad(loss, output))
        if phase >= DISCRIMINATOR_WARM_UP:
            with autocast:
                adversarial, feature_distance = generator_loss(
                    self.critic, images, logistic_mean(output[0], output[1].detach())
                )
            (gradient,) = torch.autograd.grad(adversarial + FEATURE_MATCHING_WEIGHT * feature_distance, output[0])
            norm, adversarial_norm = _norms_in_the_whole_batch(gradients[0], gradient)
            scale = self.weight * norm / adversarial_norm.clamp(min=1e-12)
            gradients[0] = gradients[0] + scale * gradient
            losses = {**losses, "adversarial": adversarial.detach()}

        # Through the decoder.
        torch.autograd.backward((location, log_scale), [gradient * fraction for gradient in gradients])
        return losses, tokens


def _norms_in_the_whole_batch(*gradients: Tensor) -> tuple[Tensor, ...]:
    """The norm of each gradient, as the root mean square of its norms in all processes."""
    norms = [gradient.norm() for gradient in gradients]
    if global_batch.num_parts() > 1:
        norms = list(global_batch.mean_over_parts(torch.stack(norms).square()).sqrt())
    return tuple(norms)
