"""Adversarial training (loss of either kind, lazy gradient penalty, adaptive augmentation, EMA), then the encoder's."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from imggen.documents import COUNT, FLAG, FRACTION, NUMBER, read_fields
from imggen.models import global_batch
from imggen.models.adversarial import (
    augment_alike,
    bce_discriminator_loss,
    bce_generator_loss,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    zero_centered_gradient_penalty,
)
from imggen.models.augment import AdaptiveStrength
from imggen.models.batch_norm import twice_differentiable
from imggen.models.gan import dcgan
from imggen.models.gan.backend import GanBackend, build_discriminator
from imggen.models.gan.config import GanConfig
from imggen.models.gan.encoder import WEIGHTS as ENCODER_WEIGHTS
from imggen.models.gan.encoder import encoder_losses
from imggen.models.learner import GeneratorLearner
from imggen.models.training import EMA, cosine_decay, micro_batches, set_learning_rate

STRENGTH_UPDATE_STEPS = 4  # steps between two updates of the augmentation's strength
# A data set of this many images needs no augmentation; one of a hundredth of it may have the full strength.
MIN_IMAGES_WITHOUT_AUGMENTATION = 300_000
# The augmentation's strength may rise from 0 to 1 in this many epochs, and at least and at most this many images.
AUGMENT_RAMP_EPOCHS, MIN_AUGMENT_RAMP_IMAGES, MAX_AUGMENT_RAMP_IMAGES = 100, 30_000, 500_000

# So as not to spoil a trained generator, a new discriminator learns alone for a fraction of the training, and then the
# generator's learning rate rises over another: without it the shipped people went from a Fréchet distance of 4 to 15.
DISCRIMINATOR_ALONE, GENERATOR_WARM_UP = 0.1, 0.1

ENCODER_ADAM: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 0.05, "fused": True}
# The encoder's learning rate: it rises over a fraction of its stage, from a fraction of it, then falls along a cosine.
ENCODER_RATE, ENCODER_WARM_UP, ENCODER_FIRST_RATE, ENCODER_LAST_RATE = 2e-3, 0.05, 0.05, 0.01


class MicroBatch(NamedTuple):
    """A part of the batch: its fraction of the batch, real images, labels and noise."""

    fraction: float
    real: Tensor
    labels: Tensor | None
    noise: Tensor


class GanLearner(GeneratorLearner):
    """Generator, discriminator, their Adams and the EMA; and the encoder, which is trained on the EMA at the end.

    Either the non-saturating loss with R1 (Mescheder et al. 2018, arXiv 1801.04406), or the relativistic pairing loss
    with R1 and R2 (Huang et al. 2024, arXiv 2501.05441). The penalties are computed through the augmentation, with
    respect to the images before it, in float32.
    """

    config: GanConfig

    def __init__(self, config: GanConfig) -> None:
        super().__init__(config)
        self.model = GanBackend(config)
        self.discriminator = self.model.discriminator or build_discriminator(config)
        self.model.encoder = None  # it has no EMA
        self.average = EMA(self.model, config.ema_images)
        self.averaged = GanBackend(config).eval()
        average = self.average.network
        assert isinstance(average, GanBackend)
        self.averaged.generator, self.averaged.discriminator = average.generator, average.discriminator
        # Fused: one pass over the weights in place of ten, which saves a thirtieth of the step on a CPU.
        betas = (0.0, 0.9) if config.blocks else (0.5, 0.999)
        settings: dict[str, Any] = {"lr": config.learning_rate, "betas": betas, "fused": True}
        self.adam_g = torch.optim.Adam(self.model.generator.parameters(), **settings)
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), **settings)
        encoder = self.averaged.encoder
        self.adam_e = None if encoder is None else torch.optim.AdamW(encoder.parameters(), **ENCODER_ADAM)
        self.steps = 0
        self.discriminator_is_new = False  # beside a trained generator
        self.augmentation = AdaptiveStrength(config.augment, MAX_AUGMENT_RAMP_IMAGES)

    @property
    def backend(self) -> GanBackend:
        """The EMA of the generator, and of the discriminator if it is kept; and the encoder."""
        return self.averaged

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Keys: generator, discriminator, average (what a checkpoint holds)."""
        return {"generator": self.model.generator, "discriminator": self.discriminator, "average": self.averaged}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Keys: adam_g (generator), adam_d (discriminator), adam_e (encoder)."""
        encoder = {} if self.adam_e is None else {"adam_e": self.adam_e}
        return {"adam_g": self.adam_g, "adam_d": self.adam_d, **encoder}

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights; the encoder counts as untrained.

        A discriminator that is not among them begins anew, and first learns alone.
        """
        own = self.averaged.state_dict()
        changed = {name.partition(".")[0] for name in weights if not torch.equal(weights[name], own[name])}
        self.discriminator_is_new = "generator" in changed and "discriminator" not in changed
        self.averaged.load_state_dict(weights)
        self.model.load_state_dict(self.average.network.state_dict())
        if self.averaged.encoder is not None:
            self.averaged.encoder.trained.zero_()

    @property
    def beginning(self) -> str:
        """Whether the discriminator learns alone at first."""
        if not self.discriminator_is_new or self.config.encoder_fraction == 1:
            return ""
        return f"with a new discriminator: it learns alone for the first {DISCRIMINATOR_ALONE:.0%} of the training"

    def set_dataset_size(self, num_images: int) -> None:
        """Limit the augmentation: the fewer images, the stronger it may get, and the sooner."""
        scarcity = min(1.0, max(0.0, math.log10(MIN_IMAGES_WITHOUT_AUGMENTATION / max(1, num_images)) / 2))
        ramp_images = max(MIN_AUGMENT_RAMP_IMAGES, AUGMENT_RAMP_EPOCHS * num_images)
        self.augmentation = AdaptiveStrength(self.config.augment * scarcity, min(MAX_AUGMENT_RAMP_IMAGES, ramp_images))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Adds the number of steps, from which the lazy penalty is due, the augmentation's strength, and how it began.

        How it began: whether the discriminator was new beside a trained generator.
        """
        tensors, document = super().state()
        document |= {"steps": self.steps, "discriminator_is_new": self.discriminator_is_new}
        augmentation = {"strength": self.augmentation.strength, "signs": self.augmentation.mean_sign}
        return tensors, {**document, **augmentation}

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Also limits the augmentation's strength to what `set_dataset_size` allows: the data set may have grown."""
        super().load_state(tensors, document)
        kinds = {"steps": COUNT, "discriminator_is_new": FLAG, "strength": FRACTION, "signs": NUMBER}
        saved = read_fields(document, kinds)
        self.steps, self.discriminator_is_new = saved["steps"], saved["discriminator_is_new"]
        self.augmentation.strength = min(float(saved["strength"]), self.augmentation.limit)
        self.augmentation.mean_sign = float(saved["signs"])

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """Train generator and discriminator, then the encoder for `encoder_fraction`."""
        fraction = self.config.encoder_fraction
        if self.adam_e is not None and progress >= 1 - fraction:
            return self._encoder_step(self.adam_e, images, labels, (progress - 1 + fraction) / fraction)
        return self._adversarial_step(images, labels, progress / (1 - fraction), images_seen)

    def _adversarial_step(
        self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int
    ) -> dict[str, Tensor]:
        """Update the discriminator, then the generator, on the same fakes. `progress` is that of this stage.

        A new discriminator beside a trained generator is updated alone at first.
        """
        self._reset_encoder()
        batch = len(images) * global_batch.num_parts()
        self._set_schedules(progress)
        alone = self._generator_warm_up(progress) == 0
        self.model.train()
        self.discriminator.train()

        parts = self._parts(images, labels)

        # Update the discriminator: loss, and every few steps the gradient penalty
        # Unfreeze it: if memory ran out in the generator's update, this step is repeated with it still frozen.
        self.discriminator.requires_grad_(True)
        with_penalty = self.config.gamma > 0 and self.steps % self.config.penalty_every == 0
        penalty_weight = self.config.penalty_weight(batch, progress) * self.config.penalty_every
        loss_d, penalty = images.new_zeros(()), images.new_zeros(())
        logits: list[tuple[Tensor, Tensor]] = []
        for part in parts:
            with torch.set_grad_enabled(not alone):
                fake = self._generate(part)
            real_logits, fake_logits = self._logits(part.real, part), self._logits(fake.detach(), part)
            logits.append((real_logits.detach(), fake_logits.detach()))
            loss_d += _backward(self._discriminator_loss(real_logits, fake_logits) * part.fraction)
            if with_penalty:
                for penalized in (part.real, fake) if self.config.relativistic else (part.real,):
                    penalty += _backward(self._gradient_penalty(penalized, part) * part.fraction, penalty_weight)
        self._apply(self.adam_d, self.discriminator, loss_d, penalty)

        metrics = {"loss_d": loss_d}
        if not alone:
            metrics["loss_g"] = self._update_generator(parts, fake)

        # Update the augmentation's strength and the EMA
        if self.augmentation.limit > 0:
            if self.steps % STRENGTH_UPDATE_STEPS == 0:
                self._update_strength(logits, batch * STRENGTH_UPDATE_STEPS)
            metrics["augment"] = torch.tensor(self.augmentation.strength)
        self.steps += 1
        self.average.update(self.model, batch, images_seen)
        return {**metrics, "penalty": penalty} if with_penalty else metrics

    def _update_generator(self, parts: list[MicroBatch], fake: Tensor) -> Tensor:
        """Update the generator; returns its loss. `fake` are the samples of the last part, with their graph."""
        loss = fake.new_zeros(())
        # A frozen discriminator computes no gradients of its weights, a twelfth of the step.
        self.discriminator.requires_grad_(False)
        for part in parts:
            # A single part's graph serves both updates; those of several are computed again, to bound the memory.
            fake = fake if len(parts) == 1 else self._generate(part)
            loss += _backward(self._generator_loss(fake, part) * part.fraction)
        self.discriminator.requires_grad_(True)
        self._apply(self.adam_g, self.model.generator, loss)
        return loss

    def _reset_encoder(self) -> None:
        """On --resume with a larger budget the generator is trained further: what the encoder knows of it is old."""
        if self.adam_e is not None and self.adam_e.state:
            assert self.averaged.encoder is not None
            self.averaged.encoder.trained.zero_()
            self.adam_e.state.clear()

    def _encoder_step(
        self, adam: torch.optim.Optimizer, images: Tensor, labels: Tensor | None, progress: float
    ) -> dict[str, Tensor]:
        """One step of the encoder. `progress` is that of this stage."""
        encoder, generator = self.averaged.encoder, self.averaged.generator
        assert encoder is not None
        rate = ENCODER_RATE * cosine_decay(progress, ENCODER_LAST_RATE)
        set_learning_rate([adam], rate * min(1.0, ENCODER_FIRST_RATE + progress / ENCODER_WARM_UP))
        metrics: dict[str, Tensor] = {}
        encoder.train()
        for part in self._parts(images, labels):
            with self.autocast(images.device):
                losses = encoder_losses(encoder, generator, part.real, part.labels, part.noise)
            total = torch.stack([ENCODER_WEIGHTS[name] * loss.float() for name, loss in losses.items()]).sum()
            torch.autograd.backward(total * part.fraction)
            for name, loss in losses.items():
                metrics[f"encoder_{name}"] = metrics.get(f"encoder_{name}", 0) + loss.detach() * part.fraction
        encoder.eval()
        self.apply_gradients(adam, *metrics.values())
        encoder.trained.fill_(1)
        return metrics

    def _parts(self, images: Tensor, labels: Tensor | None) -> list[MicroBatch]:
        """The batch in parts, each with noise for as many samples."""
        noise = micro_batches(
            global_batch.randn(len(images), *self.model.noise_shape, device=images.device), self.micro_batch
        )
        parts = zip(self.micro_batches(images, labels), noise, strict=True)
        return [MicroBatch(*part, part_noise) for part, part_noise in parts]

    def _set_schedules(self, progress: float) -> None:
        """Set the learning rates, and Adam's betas for R3GAN."""
        rate = self.config.learning_rate * (cosine_decay(progress, 0.1) if self.config.cosine else 1.0)
        set_learning_rate([self.adam_d], rate)
        set_learning_rate([self.adam_g], rate * self._generator_warm_up(progress))
        if self.config.blocks:
            # Beta 2 rises from .9 to .99 over the first half: early gradients are soon out of date.
            forgetting = 0.1 * 10 ** (-0.5 * (1 - math.cos(math.pi * min(1.0, 2 * progress))))
            for adam in (self.adam_g, self.adam_d):
                for group in adam.param_groups:
                    group["betas"] = (0.0, 1 - forgetting)

    def _generator_warm_up(self, progress: float) -> float:
        """The factor of the generator's learning rate beside a new discriminator; 0 while that learns alone."""
        if not self.discriminator_is_new:
            return 1.0
        return min(1.0, max(0.0, progress - DISCRIMINATOR_ALONE) / GENERATOR_WARM_UP)

    def _generate(self, part: MicroBatch) -> Tensor:
        with self.autocast(part.noise.device):
            return self.model.generator(part.noise, part.labels).float()

    def _augment(self, images: Tensor) -> Tensor:
        """Augment images before the discriminator sees them; every call samples another augmentation."""
        (augmented,) = augment_alike(images, strength=self.augmentation.strength, on_white=self.config.blend)
        return augmented

    def _logits(self, images: Tensor, part: MicroBatch) -> Tensor:
        augmented = self._augment(images)
        with self.autocast(images.device):
            return self.discriminator(augmented, part.labels).float()

    def _discriminator_loss(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        if self.config.relativistic:
            return relativistic_discriminator_loss(real_logits, fake_logits)
        return bce_discriminator_loss(real_logits, fake_logits)

    def _generator_loss(self, fake: Tensor, part: MicroBatch) -> Tensor:
        fake_logits = self._logits(fake, part)
        if not self.config.relativistic:
            return bce_generator_loss(fake_logits)
        with torch.no_grad():
            real_logits = self._logits(part.real, part)
        return relativistic_generator_loss(real_logits, fake_logits)

    def _gradient_penalty(self, images: Tensor, part: MicroBatch) -> Tensor:
        with twice_differentiable():
            return zero_centered_gradient_penalty(lambda x: self.discriminator(self._augment(x), part.labels), images)

    def _apply(self, optimizer: torch.optim.Optimizer, network: nn.Module, *losses: Tensor) -> None:
        self.apply_gradients(optimizer, *losses)
        if self.config.normalize:
            dcgan.normalize_filters(network)

    def _update_strength(self, logits: list[tuple[Tensor, Tensor]], images: int) -> None:
        """Adapt the augmentation to the mean sign of the logits of real images, relative to the mean of all logits."""
        real_logits, fake_logits = (torch.cat(part) for part in zip(*logits, strict=True))
        middle = global_batch.mean_over_parts((real_logits.mean() + fake_logits.mean()) / 2)
        mean_sign = global_batch.mean_over_parts((real_logits - middle).sign().mean())
        self.augmentation.update(float(mean_sign), images)


def _backward(loss: Tensor, weight: float = 1.0) -> Tensor:
    """Add the gradients of `weight` times the loss; returns the loss, detached."""
    torch.autograd.backward(loss if weight == 1.0 else loss * weight)
    return loss.detach()
