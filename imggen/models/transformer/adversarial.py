"""The last part of the tokenizer's training where a critic has a say: the decoder's means become less soft.

What tokens say no longer changes then, and the likelihood stays one: its place is what becomes sharper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from imggen.models.patch_gan import Apply, DiscriminatorTrainer, generator_loss
from imggen.models.transformer.config import TransformerConfig
from imggen.models.transformer.tokenizer import Tokenizer, mean_picture, reconstruction_loss

LATE = 0.3  # share of the tokenizer's training, the last
ALONE = 0.15  # share of that in which the critic learns before it is listened to (else it ruins what there is)
ALIKE = 0.2  # weight of its features
PEAK = 0.3  # the decoder's, of the learning rate it has had


class Adversary(DiscriminatorTrainer):
    """A critic, its Adam, and what it says to the decoder."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.channels, config.size, config.tokenizer_width)
        self.weight = config.adversarial

    def share(self, done: float) -> float | None:
        """How much of its part of the tokenizer's training is over, None before that; `done` is the training's own."""
        return (done - 1 + LATE) / LATE if done >= 1 - LATE else None

    def rate(self, done: float) -> tuple[float, float]:
        """How far the tokenizer's learning rate has come along its curve, and that curve's peak.

        The encoder's training ends where the critic's begins, so the rate comes down before that, too.
        """
        late = self.share(done)
        return (done / (1 - LATE), 1.0) if late is None else (late, PEAK)

    def judge(
        self,
        tokenizer: Tokenizer,
        parts: list[tuple[float, Tensor]],
        share: float,
        apply: Apply,
        autocast: Callable[[torch.device], torch.autocast],
    ) -> dict[str, Tensor]:
        """The critic's step, on pictures and what tokens leave of them; `parts` are shares of the step and pictures."""

        def softened() -> Iterator[tuple[float, Tensor, tuple[Tensor, ...]]]:
            for weight, images in parts:
                with torch.no_grad(), autocast(images.device):
                    soft = tokenizer.decode(tokenizer.encode(images))
                yield weight, images, (soft,)

        return self.learn(softened(), share, apply, autocast)

    def teach(
        self, tokenizer: Tokenizer, images: Tensor, share: float, weight: float, autocast: torch.autocast
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients of the decoder, `weight` times; the parts of its loss, and the tokens.

        At the pictures of each part of a step the critic's gradient is made `adversarial` times as long as that of the
        likelihood, so that neither drowns the other (as Esser et al. 2020, arXiv 2012.09841, do at the last layer).
        """
        with torch.no_grad(), autocast:
            tokens = tokenizer.encode(images)
        with autocast:
            location, log_scale = tokenizer.parameters_of(tokenizer.quantiser.values(tokens))
        place, scale = location.detach().requires_grad_(True), log_scale.detach().requires_grad_(True)
        # Without the edges' term: where texture cannot be foretold, it asks for none.
        loss, parts = reconstruction_loss(images, place, scale, 0.0)
        slopes = list(torch.autograd.grad(loss, (place, scale)))
        if share >= ALONE:
            with autocast:
                told, apart = generator_loss(self.critic, images, mean_picture(place, scale.detach()))
            (pull,) = torch.autograd.grad(told + ALIKE * apart, place)
            slopes[0] = slopes[0] + self.weight * slopes[0].norm() / pull.norm().clamp(min=1e-12) * pull
            parts = {**parts, "told": told.detach()}
        torch.autograd.backward((location, log_scale), [slope * weight for slope in slopes])
        return parts, tokens
