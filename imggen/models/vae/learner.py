"""Training of the VAE in up to three stages: the VAE itself, then (with the VAE frozen) refiner and partial encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from imggen.documents import COUNT, FLAG, read_fields
from imggen.models import global_batch
from imggen.models.learner import GeneratorLearner, NonFiniteError
from imggen.models.muon import adam_and_muon
from imggen.models.random_masks import random_masks
from imggen.models.training import EMA, cosine_decay, set_learning_rate
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Core, decode, encoder_posterior, sum_except_batch, top_down_pass
from imggen.models.vae.dense import Dense
from imggen.models.vae.gradient_guard import GradientGuard
from imggen.models.vae.hierarchy import Hierarchy, hidden_weights
from imggen.models.vae.refiner import RefinerBatch, RefinerTrainer

RATE_WARM_UP, FIRST_RATE = 0.01, 0.1  # fraction of a stage over which the learning rate rises from this fraction of it
LAST_RATE = 0.02  # where the cosine ends, as a fraction of the learning rate
MIN_KL_WEIGHT = 0.01
FREE_NATS_UNTIL = 0.5  # of the VAE's own stage


class VaeLearner(GeneratorLearner):
    """The VAE with its EMA; partial encoder and refiner are trained on the EMA."""

    config: VaeConfig

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.core: Core = Dense(config) if config.hidden else Hierarchy(config)
        self.ema = EMA(self.core, config.ema_images)
        self.averaged = VaeBackend(config).eval()
        averaged_core = self.ema.network
        assert isinstance(averaged_core, Core)
        self.averaged.core = averaged_core
        self.core_optimizers = self._make_optimizers(self.core)
        partial_encoder = self.averaged.partial_encoder
        self.partial_optimizers = {} if partial_encoder is None else self._make_optimizers(partial_encoder)
        self.refiner_trainer = None
        if self.averaged.refiner is not None:
            self.refiner_trainer = RefinerTrainer(config, self.core.likelihood)
            self.averaged.refiner = self.refiner_trainer.averaged
        self.guard = GradientGuard(config.skip_threshold)
        self.dimensions = math.prod(config.image_shape)
        self.partial_encoder_stage = False

    def _make_optimizers(self, network: nn.Module) -> dict[str, torch.optim.Optimizer]:
        hidden = {1: hidden_weights(network)} if self.config.muon_rate else {}
        return adam_and_muon(network, hidden, self.config.learning_rate, weight_decay=self.config.weight_decay)

    @property
    def backend(self) -> VaeBackend:
        """The averaged VAE with partial encoder and refiner."""
        return self.averaged

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Keys: core, backend; with a refiner also refiner and critic."""
        refiner_networks = {} if self.refiner_trainer is None else self.refiner_trainer.networks
        return {"core": self.core, "backend": self.averaged, **refiner_networks}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Keys: adam and muon; adam_partial and muon_partial; adam_refiner and adam_critic."""
        partial = {f"{name}_partial": optimizer for name, optimizer in self.partial_optimizers.items()}
        refiner = {} if self.refiner_trainer is None else self.refiner_trainer.optimizers
        return {**self.core_optimizers, **partial, **refiner}

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights; refiner and partial encoder count as untrained until their stages."""
        self.averaged.load_state_dict(weights)
        self.core.load_state_dict(self.averaged.core.state_dict())
        for later in (self.averaged.partial_encoder, self.averaged.refiner):
            if later is not None:
                later.trained.zero_()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Adds the guard's gradient norms, and the stage of the training."""
        tensors, document = super().state()
        document = {**document, "partial_encoder_stage": self.partial_encoder_stage}
        if self.refiner_trainer is not None:
            document["refiner_steps"] = self.refiner_trainer.steps
        return {**tensors, "guard": self.guard.state()}, document

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        super().load_state(tensors, document)
        if "guard" not in tensors:
            raise ValueError("'guard' is missing")
        self.guard.load_state(tensors["guard"])
        self.partial_encoder_stage = read_fields(document, {"partial_encoder_stage": FLAG})["partial_encoder_stage"]
        if self.refiner_trainer is not None:
            self.refiner_trainer.steps = read_fields(document, {"refiner_steps": COUNT})["refiner_steps"]

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """Train the VAE, then the refiner for a fraction `sharpen`, then the partial encoder for `inpaint_fraction`."""
        inpaint_fraction, sharpen = self.config.inpaint_fraction, self.config.sharpen
        if inpaint_fraction and progress >= 1 - inpaint_fraction:
            return self._partial_encoder_step(images, labels, (progress - 1 + inpaint_fraction) / inpaint_fraction)
        core_fraction = 1 - inpaint_fraction - sharpen
        if self.refiner_trainer is not None and progress >= core_fraction:
            return self._refiner_step(self.refiner_trainer, images, labels, (progress - core_fraction) / sharpen)
        return self._core_step(images, labels, progress / core_fraction, images_seen)

    def _core_step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """One step of the VAE: -log p(images | latents) + KL. `progress` is that of this stage, in [0, 1]."""
        self.core.train()
        self._reset_later_stages()
        kl_weight, free_nats = self._kl_schedule(progress)
        loss, bound, kl = (images.new_zeros(()) for _ in range(3))
        for _, part, part_labels in self.micro_batches(images, labels):
            # Forward pass
            part = self.core.likelihood.training_images(part)
            with self.autocast(part.device):
                encoding = top_down_pass(self.core, len(part), part_labels, encoder_posterior(self.core, part))

            # Negative evidence lower bound, in float32; free bits are per layer and batch
            with torch.autocast(part.device.type, enabled=False):
                reconstruction = -sum_except_batch(self.core.likelihood.log_prob(encoding.output, part))
                layer_kl = torch.stack(encoding.layer_kl)
                part_kl = layer_kl.sum(0)
                batch_kl = layer_kl.mean(1)
                if free_nats:
                    batch_kl = global_batch.mean_over_parts(batch_kl)
                kl_cost = batch_kl.clamp(min=free_nats).sum() * len(part)
                part_loss = (reconstruction.sum() + kl_weight * kl_cost) / (len(images) * self.dimensions)

            # Backward pass, and metrics
            torch.autograd.backward(part_loss)
            loss += part_loss.detach()
            bound += (reconstruction + part_kl).detach().sum() / len(images)
            kl += part_kl.detach().sum() / len(images)

        # Update weights and EMA
        skipped = self._update(self.core_optimizers, progress, loss, bound, kl)
        self.ema.update(self.core, len(images) * global_batch.num_parts(), images_seen)
        if not bool(torch.isfinite(loss)):
            return {"skipped": torch.ones_like(loss)}
        skipped_metric = loss.new_tensor(float(skipped))
        if self.averaged.binarized:
            return {"nats": bound, "kl": kl, "skipped": skipped_metric}
        return {"bits": bound / (self.dimensions * math.log(2)), "kl": kl, "skipped": skipped_metric}

    def _reset_later_stages(self) -> None:
        """On --resume with a larger budget the VAE is trained further: reset the partial encoder and the refiner."""
        if self.partial_encoder_stage and self.averaged.partial_encoder is not None:
            self.partial_encoder_stage, self.guard = False, GradientGuard(self.config.skip_threshold)
            self.averaged.partial_encoder.trained.zero_()
            for optimizer in self.partial_optimizers.values():
                optimizer.state.clear()
        if self.refiner_trainer is not None and self.refiner_trainer.steps:
            self.refiner_trainer.reset()

    def _kl_schedule(self, progress: float) -> tuple[float, float]:
        """The weight of the KL term, and the free nats per layer (free bits, arXiv 1606.04934).

        The weight is never 0: the posteriors would diverge faster than the priors can follow. Free bits only in the
        first part of the training; without them the coarse layers stay unused.
        """
        weight = min(1.0, progress / self.config.warm_up) if self.config.warm_up else 1.0
        return max(weight, MIN_KL_WEIGHT), self.config.free_nats * max(0.0, 1 - progress / FREE_NATS_UNTIL)

    def _partial_encoder_step(self, images: Tensor, labels: Tensor | None, progress: float) -> dict[str, Tensor]:
        """One step of the partial encoder on random masks: KL of the full posterior from the partial one."""
        partial_encoder, core = self.averaged.partial_encoder, self.averaged.core
        assert partial_encoder is not None and isinstance(core, Hierarchy)
        if not self.partial_encoder_stage:
            partial_encoder.initialize_from(core)
            self.guard = GradientGuard(self.config.skip_threshold)
            self.partial_encoder_stage = True
        loss = images.new_zeros(())
        for _, part, part_labels in self.micro_batches(images, labels):
            part = core.likelihood.training_images(part)
            unmasked = 1 - random_masks(len(part), part.shape[-1], part.device)
            with self.autocast(part.device):
                layer_kl = partial_encoder.matching_losses(core, part, unmasked, part_labels)
            part_loss = torch.stack(layer_kl).sum() / (len(images) * self.dimensions)
            torch.autograd.backward(part_loss)
            loss += part_loss.detach()
        skipped = self._update(self.partial_optimizers, progress, loss)
        if not bool(torch.isfinite(loss)):
            return {"skipped": torch.ones_like(loss)}
        return {"partial_kl": loss * self.dimensions, "skipped": loss.new_tensor(float(skipped))}

    def _refiner_step(
        self, trainer: RefinerTrainer, images: Tensor, labels: Tensor | None, progress: float
    ) -> dict[str, Tensor]:
        """One step of the refiner and its discriminator."""

        def batches() -> Iterator[RefinerBatch]:
            for fraction, part, part_labels in self.micro_batches(images, labels):
                yield RefinerBatch(fraction, part, *self._reconstruct_and_sample(part, part_labels))

        return trainer.step(
            batches, progress, len(images) * global_batch.num_parts(), self.apply_gradients, self.autocast
        )

    @torch.no_grad()
    def _reconstruct_and_sample(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The likelihood's parameters for the images' posterior, and for as many samples from the prior."""
        core, count = self.averaged.core, len(images)
        with self.autocast(images.device):
            reconstruction = top_down_pass(core, count, labels, encoder_posterior(core, images)).output
            noise = [global_batch.randn(count, *layer.shape, device=images.device) for layer in core.layers]
            sample = decode(core, noise, labels)
        return reconstruction.float(), sample.float()

    def _update(self, optimizers: dict[str, torch.optim.Optimizer], progress: float, *losses: Tensor) -> bool:
        """One step of the optimizers, unless the guard skips it; returns whether it was skipped.

        Raises NonFiniteError if a loss or gradient is not finite and the guard does not allow to skip that.
        """
        all_optimizers = list(optimizers.values())
        set_learning_rate(all_optimizers, self._learning_rate(progress), self.config.muon_rate)
        try:
            norm = float(self.gradient_norm(all_optimizers, *losses))
        except NonFiniteError:
            if not self.guard.skip_nonfinite():
                raise
            return True
        scale = self.guard.gradient_scale(norm)
        if 0 < scale < 1:
            _scale_gradients(all_optimizers, scale)
        for optimizer in all_optimizers:
            if scale:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return scale == 0

    def _learning_rate(self, progress: float) -> float:
        """Linear warm-up, then a cosine if the configuration asks for it; `progress` is that of the stage."""
        rate = self.config.learning_rate * min(1.0, FIRST_RATE + progress / RATE_WARM_UP)
        return rate * cosine_decay(progress, LAST_RATE) if self.config.cosine else rate


def _scale_gradients(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
