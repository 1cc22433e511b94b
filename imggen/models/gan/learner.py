"""One step of adversarial training: binary cross-entropy, with a lazy R1 penalty where asked for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from imggen.models.base import Learner as BaseLearner
from imggen.models.gan.backend import Backend
from imggen.models.gan.config import Config
from imggen.models.gan.networks import Discriminator
from imggen.models.layers import Average, micro_batches


class Learner(BaseLearner):
    """Generator, discriminator, their Adams (β .5, .999) and the averaged generator."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.model = Backend(config)
        self.discriminator = Discriminator(config)
        self.average = Average(self.model, config.ema_images)
        # Fused: one pass over the weights in place of ten, a thirtieth of the step on a CPU.
        settings: dict[str, Any] = {"lr": config.learning_rate, "betas": (0.5, 0.999), "fused": True}
        self.adam_g = torch.optim.Adam(self.model.parameters(), **settings)
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), **settings)
        self.steps = 0

    @property
    def backend(self) -> Backend:
        """The averaged generator."""
        average = self.average.network
        assert isinstance(average, Backend)
        return average

    @property
    def networks(self) -> dict[str, nn.Module]:
        """generator, discriminator, average."""
        return {"generator": self.model, "discriminator": self.discriminator, "average": self.average.network}

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """adam_g, adam_d."""
        return {"adam_g": self.adam_g, "adam_d": self.adam_d}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See the contract; the step count says when the lazy penalty is due."""
        tensors, document = super().state()
        return tensors, {**document, "steps": self.steps}

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """See the contract."""
        super().load_state(tensors, document)
        self.steps = int(document["steps"])

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """Discriminator, then generator, on the same fakes (drawn once, used twice)."""
        rate = self.config.learning_rate
        if self.config.cosine:
            rate *= 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
        for adam in (self.adam_g, self.adam_d):
            for group in adam.param_groups:
                group["lr"] = rate
        self.model.train()
        self.discriminator.train()
        # A step that ran out of memory in the generator's pass left it frozen; tried again, this one steps twice.
        self.discriminator.requires_grad_(True)
        z = torch.randn(len(images), *self.model.noise_shape, device=images.device)
        parts = [micro_batches(tensor, self.micro_batch) for tensor in (images, z)]
        label_parts = micro_batches(labels, self.micro_batch) if labels is not None else [None] * len(parts[0])
        weights = [len(part) / len(images) for part in parts[0]]
        penalise = self.config.gamma > 0 and self.steps % self.config.penalty_every == 0

        batches = list(zip(*parts, label_parts, weights, strict=True))
        # In one piece the fakes' graph serves both updates; in parts it is drawn again, to bound the memory.
        kept: Tensor | None = None
        loss_d = images.new_zeros(())
        loss_g = images.new_zeros(())
        penalty = images.new_zeros(())
        for real, noise, label, weight in batches:
            fake = self._draw(noise, label)
            kept = fake if len(batches) == 1 else None
            part = self._loss_d(real, fake.detach(), label) * weight
            torch.autograd.backward(part)
            loss_d += part.detach()
            if penalise:
                part = self._r1(real, label) * weight
                torch.autograd.backward(part * (self.config.gamma / 2 * self.config.penalty_every))
                penalty += part.detach()
        self.apply_gradients(self.adam_d, loss_d, penalty)

        # Frozen, the discriminator passes gradients on without working out its own: a twelfth of the step.
        self.discriminator.requires_grad_(False)
        for _, noise, label, weight in batches:
            fake = kept if kept is not None else self._draw(noise, label)
            with self._autocast(noise):
                logits = self.discriminator(fake, label)
            part = softplus(-logits.float()).mean() * weight
            torch.autograd.backward(part)
            loss_g += part.detach()
        self.discriminator.requires_grad_(True)
        self.apply_gradients(self.adam_g, loss_g)

        self.steps += 1
        self.average.update(self.model, len(images) * self.processes, images_seen)
        metrics = {"loss_d": loss_d, "loss_g": loss_g}
        return {**metrics, "r1": penalty} if penalise else metrics

    def _autocast(self, tensor: Tensor) -> torch.autocast:
        return torch.autocast(tensor.device.type, self.precision, enabled=self.precision != torch.float32)

    def _draw(self, z: Tensor, labels: Tensor | None) -> Tensor:
        with self._autocast(z):
            return self.model.generate(z, labels).float()

    def _loss_d(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Tensor:
        with self._autocast(real):
            on_real, on_fake = self.discriminator(real, labels), self.discriminator(fake, labels)
        # Binary cross-entropy on logits: softplus(-x) calls x real, softplus(x) calls it fake.
        return softplus(-on_real.float()).mean() + softplus(on_fake.float()).mean()

    def _r1(self, real: Tensor, labels: Tensor | None) -> Tensor:
        """Squared gradient norm at real pictures (Mescheder et al. 2018, arXiv 1801.04406), in fp32."""
        real = real.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(self.discriminator(real, labels).sum(), real, create_graph=True)
        return slope.square().flatten(1).sum(1).mean()
