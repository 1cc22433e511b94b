"""One step: the evidence lower bound first, then, the model frozen, the sharpener, and the partial encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from imggen.models.base import Learner, NonFiniteError
from imggen.models.muon import adam_and_muon
from imggen.models.training import EMA, cosine_decay, micro_batches
from imggen.models.vae.backend import VaeBackend
from imggen.models.vae.config import VaeConfig
from imggen.models.vae.core import Core, look_at, sum_except_batch, top_down_pass
from imggen.models.vae.dense import Dense
from imggen.models.vae.gradient_guard import GradientGuard
from imggen.models.vae.hierarchy import Hierarchy, hidden_weights
from imggen.models.vae.random_masks import random_masks
from imggen.models.vae.refiner import RefinerTrainer

WARM_UP = 0.01  # of the learning rate
LAST_RATE = 0.02
FREE_UNTIL = 0.5


class VaeLearner(Learner):
    """The model, its average, and the partial encoder, which learns from the average."""

    config: VaeConfig

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.core: Core = Dense(config) if config.hidden else Hierarchy(config)
        self.average = EMA(self.core, config.ema_images)
        self.shown = VaeBackend(config).eval()
        averaged = self.average.network
        assert isinstance(averaged, Core)
        self.shown.core = averaged
        self.ladder = self._optimisers(self.core)
        self.filler = {} if self.shown.partial is None else self._optimisers(self.shown.partial)
        self.sharpening = None
        if self.shown.sharpener is not None:
            self.sharpening = RefinerTrainer(config, self.core.likelihood)
            self.shown.sharpener = self.sharpening.shown
        self.guard = GradientGuard(config.skip)
        self.dimensions = math.prod(config.image_shape)
        self.filling = False

    @property
    def backend(self) -> VaeBackend:
        """The averaged model with the partial encoder."""
        return self.shown

    @property
    def networks(self) -> dict[str, nn.Module]:
        """core, backend; and sharpener and critic where pictures are made sharper."""
        more = {} if self.sharpening is None else self.sharpening.networks
        return {"core": self.core, "backend": self.shown, **more}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """adam, adam_partial where holes are learnt to be filled, the same of muon, and the sharpening's."""
        found = {**self.ladder, **{f"{name}_partial": optimiser for name, optimiser in self.filler.items()}}
        return found if self.sharpening is None else {**found, **self.sharpening.optimizers}

    def _optimisers(self, network: nn.Module) -> dict[str, torch.optim.Optimizer]:
        hidden = {1: hidden_weights(network)} if self.config.muon_rate else {}
        return adam_and_muon(network, hidden, self.config.learning_rate, weight_decay=self.config.weight_decay)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See the contract; what is usual of gradients, and whether holes are being learnt, belong to it."""
        tensors, document = super().state()
        document = {**document, "filling": self.filling}
        if self.sharpening is not None:
            document["sharpened"] = self.sharpening.steps
        return {**tensors, "guard": self.guard.state()}, document

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """See the contract."""
        super().load_state(tensors, document)
        self.guard.load_state(tensors["guard"])
        self.filling = bool(document["filling"])
        if self.sharpening is not None:
            self.sharpening.steps = int(document["sharpened"])

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """A last share `filling` of the progress is the partial encoder's, `sharpen` before it the critic's."""
        filling, sharpen = self.config.filling, self.config.sharpen
        if filling and progress >= 1 - filling:
            return self._fill(images, labels, (progress - 1 + filling) / filling)
        rest = 1 - filling - sharpen
        if self.sharpening is not None and progress >= rest:
            return self._sharpen(self.sharpening, images, labels, (progress - rest) / sharpen)
        return self._model(images, labels, progress / rest, images_seen)

    def _rate(self, progress: float) -> float:
        rate = self.config.learning_rate * min(1.0, 0.1 + progress / WARM_UP)
        if self.config.cosine:
            rate *= cosine_decay(progress, LAST_RATE)
        return rate

    def _model(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        self.core.train()
        if self.filling and self.shown.partial is not None:
            # A larger budget on --resume: the model learns on, and what was learnt of holes is begun again later.
            self.filling, self.guard = False, GradientGuard(self.config.skip)
            self.shown.partial.ready.zero_()
            for optimiser in self.filler.values():
                optimiser.state.clear()
        if self.sharpening is not None and self.sharpening.steps:
            self.sharpening.forget()
        weight = min(1.0, progress / self.config.warm_up) if self.config.warm_up else 1.0
        # A KL that costs nothing at all lets the posteriors run away before the priors can follow.
        weight = max(weight, 0.01)
        # Free bits (arXiv 1606.04934), but only at first: without them the coarse layers are never taken into use.
        free = self.config.free * max(0.0, 1 - progress / FREE_UNTIL)
        loss = images.new_zeros(())
        bound = images.new_zeros(())
        divergence = images.new_zeros(())
        for part, label in self._batches(images, labels):
            seen = self.core.likelihood.taught(part)
            with self.autocast(part.device):
                descent = top_down_pass(self.core, len(part), label, look_at(self.core, seen))
            with torch.autocast(part.device.type, enabled=False):
                costs = -sum_except_batch(self.core.likelihood.log_prob(descent.output, seen))
                layers = torch.stack(descent.divergences)
                nats = layers.sum(0)
                paid = layers.mean(1).clamp(min=free).sum() * len(part)
                share = (costs.sum() + weight * paid) / (len(images) * self.dimensions)
            torch.autograd.backward(share)
            loss += share.detach()
            bound += (costs + nats).detach().sum() / len(images)
            divergence += nats.detach().sum() / len(images)
        skipped = self._take(self.ladder, self._rate(progress), self.guard, loss)
        self.average.update(self.core, len(images) * self.processes, images_seen)
        if not bool(torch.isfinite(loss)):
            return {"skipped": torch.ones_like(loss)}
        name, value = ("nats", bound) if self.shown.binary else ("bits", bound / (self.dimensions * math.log(2)))
        return {name: value, "kl": divergence, "skipped": loss.new_tensor(float(skipped))}

    def _fill(self, images: Tensor, labels: Tensor | None, progress: float) -> dict[str, Tensor]:
        partial, core = self.shown.partial, self.shown.core
        assert partial is not None and isinstance(core, Hierarchy)
        if not self.filling:
            partial.begin(core)
            self.guard = GradientGuard(self.config.skip)
            self.filling = True
        loss = images.new_zeros(())
        for part, label in self._batches(images, labels):
            seen = core.likelihood.taught(part)
            known = 1 - random_masks(len(part), part.shape[-1], part.device)
            with self.autocast(part.device):
                gaps = partial.gaps(core, seen, known, label)
            share = torch.stack(gaps).sum() / (len(images) * self.dimensions)
            torch.autograd.backward(share)
            loss += share.detach()
        skipped = self._take(self.filler, self._rate(progress), self.guard, loss)
        if not bool(torch.isfinite(loss)):
            return {"skipped": torch.ones_like(loss)}
        return {"gap": loss * self.dimensions, "skipped": loss.new_tensor(float(skipped))}

    def _sharpen(
        self, sharpening: RefinerTrainer, images: Tensor, labels: Tensor | None, progress: float
    ) -> dict[str, Tensor]:
        def batches() -> Iterator[tuple[float, Tensor, tuple[Tensor, Tensor]]]:
            for part, label in self._batches(images, labels):
                yield len(part) / len(images), part, self._outputs(part, label)

        count = len(images) * self.processes
        return sharpening.step(batches, progress, count, self.apply_gradients, self.autocast)

    @torch.no_grad()
    def _outputs(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The likelihood's input for pictures as the posterior sees them, and for as many drawn ones."""
        core, count = self.shown.core, len(images)
        shapes = [layer.shape for layer in core.layers]
        with self.autocast(images.device):
            seen = top_down_pass(core, count, labels, look_at(core, images)).output
            drawn = core.top_down(
                count, labels, lambda index, _: torch.randn(count, *shapes[index], device=images.device)
            )
        return seen.float(), drawn.float()

    def _take(
        self, optimisers: dict[str, torch.optim.Optimizer], rate: float, guard: GradientGuard, loss: Tensor
    ) -> bool:
        """One step, unless the gradient is out of the ordinary; whether it was skipped."""
        groups = [group for optimiser in optimisers.values() for group in optimiser.param_groups]
        for name, optimiser in optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rate * (self.config.muon_rate if name == "muon" else 1.0)
        several = list(optimisers.values())
        try:
            norm = float(self.gradient_norm(several, loss))
        except NonFiniteError:
            if not guard.forgives():
                raise
            return True
        factor = guard.judge(norm)
        if 0 < factor < 1:
            for parameter in (parameter for group in groups for parameter in group["params"]):
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        for optimiser in several:
            if factor:
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return factor == 0

    def _batches(self, images: Tensor, labels: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        parts = micro_batches(images, self.micro_batch)
        of_parts = [None] * len(parts) if labels is None else list(micro_batches(labels, self.micro_batch))
        return list(zip(parts, of_parts, strict=True))
