"""One step of adversarial training: each picture judged alone, or in pairs; lazy penalties; steered augmentation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from imggen.models.augment import Changes, Steering, draw_changes
from imggen.models.base import Learner
from imggen.models.gan import dcgan as networks
from imggen.models.gan import r3gan as residual
from imggen.models.gan.backend import GanBackend
from imggen.models.gan.config import GanConfig
from imggen.models.training import EMA, cosine_decay, micro_batches, on_white

STEER_EVERY = 4
# A set of this many pictures needs no augmentation; a hundredth of it may get all of it.
PLENTY = 30_000
# Times through the pictures in which the augmentation may rise from nothing to 1; and the least and most pictures.
EPOCHS, LEAST, MOST = 100, 30_000, 500_000


class GanLearner(Learner):
    """Generator, discriminator, their Adams and the averaged generator.

    Judged alone: binary cross-entropy with R1 (Mescheder et al. 2018, arXiv 1801.04406). In pairs: the relativistic
    loss with R1 and R2 (Huang et al. 2024, arXiv 2501.05441). Penalties are taken through the augmentation, with
    respect to the pictures before it, in fp32.
    """

    config: GanConfig

    def __init__(self, config: GanConfig) -> None:
        super().__init__(config)
        self.model = GanBackend(config)
        self.discriminator = (residual if config.blocks else networks).Discriminator(config)
        self.average = EMA(self.model, config.ema_images)
        # Fused: one pass over the weights in place of ten, a thirtieth of the step on a CPU.
        betas = (0.0, 0.9) if config.blocks else (0.5, 0.999)
        settings: dict[str, Any] = {"lr": config.learning_rate, "betas": betas, "fused": True}
        self.adam_g = torch.optim.Adam(self.model.parameters(), **settings)
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), **settings)
        self.steps = 0
        self.steering = Steering(config.augment, MOST)

    @property
    def backend(self) -> GanBackend:
        """The averaged generator."""
        average = self.average.network
        assert isinstance(average, GanBackend)
        return average

    @property
    def networks(self) -> dict[str, nn.Module]:
        """generator, discriminator, average."""
        return {"generator": self.model, "discriminator": self.discriminator, "average": self.average.network}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """adam_g, adam_d."""
        return {"adam_g": self.adam_g, "adam_d": self.adam_d}

    def set_dataset_size(self, num_images: int) -> None:
        """See the contract: the fewer num_images, the stronger the augmentation may get, and the sooner."""
        scarcity = min(1.0, max(0.0, math.log10(PLENTY / max(1, num_images)) / 2))
        self.steering = Steering(self.config.augment * scarcity, min(MOST, max(LEAST, EPOCHS * num_images)))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See the contract; the step count says when the lazy penalty is due."""
        tensors, document = super().state()
        steering = {"strength": self.steering.strength, "signs": self.steering.signs}
        return tensors, {**document, "steps": self.steps, **steering}

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """See the contract."""
        super().load_state(tensors, document)
        self.steps = int(document["steps"])
        self.steering.strength, self.steering.signs = float(document["strength"]), float(document["signs"])
        # Of more pictures than before it may be less.
        self.steering.strength = min(self.steering.strength, self.steering.limit)

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """Discriminator, then generator, on the same fakes (drawn once, used twice)."""
        self._schedule(progress)
        batch = len(images) * self.processes
        self.model.train()
        self.discriminator.train()
        # A step that ran out of memory in the generator's pass left it frozen; tried again, this one steps twice.
        self.discriminator.requires_grad_(True)
        z = torch.randn(len(images), *self.model.noise_shape, device=images.device)
        parts = [micro_batches(tensor, self.micro_batch) for tensor in (images, z)]
        label_parts = micro_batches(labels, self.micro_batch) if labels is not None else [None] * len(parts[0])
        weights = [len(part) / len(images) for part in parts[0]]
        penalise = self.config.gamma > 0 and self.steps % self.config.penalty_every == 0
        penalty_weight = self.config.penalty_weight(batch, progress) * self.config.penalty_every

        batches = list(zip(*parts, label_parts, weights, strict=True))
        # In one piece the fakes' graph serves both updates; in parts it is drawn again, to bound the memory.
        kept: Tensor | None = None
        loss_d = images.new_zeros(())
        loss_g = images.new_zeros(())
        penalty = images.new_zeros(())
        answers: list[tuple[Tensor, Tensor]] = []
        for real, noise, label, weight in batches:
            fake = self._draw(noise, label)
            kept = fake if len(batches) == 1 else None
            on_real, on_fake = self._judge(real, label), self._judge(fake.detach(), label)
            answers.append((on_real.detach(), on_fake.detach()))
            part = self._loss_d(on_real, on_fake) * weight
            torch.autograd.backward(part)
            loss_d += part.detach()
            if penalise:
                for pictures in (real, fake) if self.config.relativistic else (real,):
                    part = self._slope(pictures, label) * weight
                    torch.autograd.backward(part * penalty_weight)
                    penalty += part.detach()
        self.apply_gradients(self.adam_d, loss_d, penalty)
        if self.config.normalise:
            networks.hold_lengths(self.discriminator)

        # Frozen, the discriminator passes gradients on without working out its own: a twelfth of the step.
        self.discriminator.requires_grad_(False)
        for real, noise, label, weight in batches:
            fake = kept if kept is not None else self._draw(noise, label)
            part = self._loss_g(real, fake, label) * weight
            torch.autograd.backward(part)
            loss_g += part.detach()
        self.discriminator.requires_grad_(True)
        self.apply_gradients(self.adam_g, loss_g)
        if self.config.normalise:
            networks.hold_lengths(self.model)

        metrics = {"loss_d": loss_d, "loss_g": loss_g}
        if self.steering.limit > 0:
            if self.steps % STEER_EVERY == 0:
                self._steer(answers, batch * STEER_EVERY)
            metrics["augment"] = torch.tensor(self.steering.strength)
        self.steps += 1
        self.average.update(self.model, batch, images_seen)
        return {**metrics, "penalty": penalty} if penalise else metrics

    def _schedule(self, progress: float) -> None:
        rate = self.config.learning_rate
        if self.config.cosine:
            rate *= cosine_decay(progress, 0.1)
        for adam in (self.adam_g, self.adam_d):
            for group in adam.param_groups:
                group["lr"] = rate
                if self.config.blocks:
                    # From .9 to .99 over the first half: early gradients are soon out of date.
                    memory = 0.1 * 10 ** (-0.5 * (1 - math.cos(math.pi * min(1.0, 2 * progress))))
                    group["betas"] = (0.0, 1 - memory)

    def _draw(self, z: Tensor, labels: Tensor | None) -> Tensor:
        with self.autocast(z.device):
            picture: Tensor = self.model.generator(z, labels)
        return picture.float()

    def _changed(self, pictures: Tensor) -> Tensor:
        """Pictures as the discriminator sees them; every call draws other changes."""
        if self.config.blend and pictures.shape[1] == 4:
            pictures = on_white(pictures)
        if self.steering.strength <= 0:
            return pictures
        return self._changes(pictures)(pictures)

    def _changes(self, pictures: Tensor) -> Changes:
        return draw_changes(pictures.shape, self.steering.strength, pictures.device)

    def _judge(self, pictures: Tensor, labels: Tensor | None) -> Tensor:
        changed = self._changed(pictures)
        with self.autocast(pictures.device):
            logits: Tensor = self.discriminator(changed, labels)
        return logits.float()

    def _loss_d(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        if self.config.relativistic:
            return softplus(on_fake - on_real).mean()
        # Binary cross-entropy on logits: softplus(-x) calls x real, softplus(x) calls it fake.
        return softplus(-on_real).mean() + softplus(on_fake).mean()

    def _loss_g(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        on_fake = self._judge(fake, labels)
        if not self.config.relativistic:
            return softplus(-on_fake).mean()
        with torch.no_grad():
            on_real = self._judge(real, labels)
        return softplus(on_real - on_fake).mean()

    def _slope(self, pictures: Tensor, labels: Tensor | None) -> Tensor:
        """The squared norm of the discriminator's gradient at the pictures, in fp32."""
        pictures = pictures.detach().requires_grad_(True)
        logits = self.discriminator(self._changed(pictures), labels)
        (slope,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
        return slope.square().flatten(1).sum(1).mean()

    def _steer(self, answers: list[tuple[Tensor, Tensor]], images: int) -> None:
        """All processes steer by the same mean, sent the way gradients are."""
        on_real, on_fake = (torch.cat(part) for part in zip(*answers, strict=True))
        middle = (on_real.mean() + on_fake.mean()) / 2
        signs = nn.Parameter(torch.zeros((), device=on_real.device))
        signs.grad = (on_real - middle).sign().mean()
        self.reduce_gradients([signs])
        self.steering.update(float(signs.grad), images)
