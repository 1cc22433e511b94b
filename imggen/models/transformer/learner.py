"""Training in two stages: first the tokenizer, then the prior over the tokens of the frozen tokenizer."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from imggen.documents import COUNT, FLAG, NUMBER, optional, read_fields
from imggen.models import global_batch
from imggen.models.learner import GeneratorLearner, load_exactly
from imggen.models.muon import adam_and_muon
from imggen.models.training import EMA, cosine_decay, set_learning_rate
from imggen.models.transformer.adversarial import AdversarialPhase
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.config import TransformerConfig
from imggen.models.transformer.tokenizer import tokenizer_loss

NUM_VALIDATIONS = 20  # of the prior on the held-out images, at equal intervals
FINAL_VALIDATION = 0.99  # one more at this fraction of the prior's stage, when the learning rate is low
CODE_COUNT_HALF_LIFE = 5_000  # images
WARM_UP_FRACTION = 0.02  # of each stage
FINAL_RATE_FRACTION = 0.02  # of the peak learning rate, at the end of each stage
TOKENIZER_MUON_SCALE = 2.0  # Muon's learning rate in the tokenizer, in units of Adam's


class TransformerLearner(GeneratorLearner):
    """Tokenizer and prior, each with its part of the budget.

    `backend` is the averaged model; once its likelihood on the held-out images gets worse, the best one so far.
    """

    config: TransformerConfig
    held_out_fraction = 0.02

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.model = TransformerBackend(config)
        self.average = EMA(self.model, config.ema_images)
        tokenizer, prior, rate = self.model.tokenizer, self.model.prior, config.learning_rate
        tokenizer.encoder.requires_grad_(not config.keep_tokens)
        self.tokenizer_optimizers = adam_and_muon(tokenizer, {1: tokenizer.hidden_weights()}, rate, betas=(0.9, 0.99))
        hidden = prior.hidden_weights() if config.muon else {}
        self.prior_optimizers = adam_and_muon(prior, hidden, rate, weight_decay=config.weight_decay)
        self.adversarial = AdversarialPhase(config) if config.adversarial else None
        self.tokenizer_frozen = False
        self.prior_start = 0  # images seen when the prior's stage began
        self.validations = 0  # index of the last one
        self.best_loss = math.inf
        self.best_backend: TransformerBackend | None = None
        self.use_best = False

    @property
    def backend(self) -> TransformerBackend:
        """The averaged model, or the one with the best prior if the averaged one has become worse since."""
        return self.best_backend if self.use_best and self.best_backend is not None else self._averaged()

    def _averaged(self) -> TransformerBackend:
        average = self.average.network
        assert isinstance(average, TransformerBackend)
        return average

    @property
    def networks(self) -> dict[str, nn.Module]:
        """model, average; critic if the tokenizer has an adversarial phase."""
        critic = {} if self.adversarial is None else {"critic": self.adversarial.critic}
        return {"model": self.model, "average": self.average.network, **critic}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """adam_tokenizer, muon_tokenizer, adam_prior, muon_prior, adam_critic: those that are used."""
        optimizers = {f"{name}_tokenizer": optimizer for name, optimizer in self.tokenizer_optimizers.items()}
        optimizers.update({f"{name}_prior": optimizer for name, optimizer in self.prior_optimizers.items()})
        return optimizers if self.adversarial is None else {**optimizers, "adam_critic": self.adversarial.adam_critic}

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights: both stages are trained, so the tokens may change."""
        self.model.load_state_dict(weights)
        self.average.network.load_state_dict(weights)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The base's, with the stage and the best model."""
        tensors, document = super().state()
        if self.best_backend is not None:
            tensors.update({f"best.{key}": value for key, value in self.best_backend.state_dict().items()})
        document |= {
            "tokenizer_frozen": self.tokenizer_frozen,
            "prior_start": self.prior_start,
            "validations": self.validations,
            "use_best": self.use_best,
            "best_loss": None if self.best_backend is None else self.best_loss,
        }
        if self.adversarial is not None:
            document["critic_steps"] = self.adversarial.steps
        return tensors, document

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """The inverse of `state`."""
        super().load_state(tensors, document)
        kinds = {"tokenizer_frozen": FLAG, "prior_start": COUNT, "validations": COUNT, "use_best": FLAG}
        saved = read_fields(document, {**kinds, "best_loss": optional(NUMBER)})
        self.tokenizer_frozen, self.prior_start = saved["tokenizer_frozen"], saved["prior_start"]
        self.validations, self.use_best = saved["validations"], saved["use_best"]
        if self.adversarial is not None:
            self.adversarial.steps = read_fields(document, {"critic_steps": COUNT})["critic_steps"]
        self.best_backend, self.best_loss = None, math.inf
        if saved["best_loss"] is not None:
            self.best_backend, self.best_loss = copy.deepcopy(self._averaged()), float(saved["best_loss"])
            load_exactly(self.best_backend, "best", tensors)

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """One step of the tokenizer or, after its fraction of the budget, of the prior."""
        self.model.train()

        # The tokenizer's stage. Once frozen the tokenizer stays so: a larger budget on --resume must not change tokens
        # on which the prior has been trained.
        fraction = self.config.tokenizer_fraction
        if not self.tokenizer_frozen and (progress < fraction or fraction == 1):
            return self._step_tokenizer(images, progress / fraction, images_seen)
        if not self.tokenizer_frozen:
            self.model.tokenizer.load_state_dict(self._averaged().tokenizer.state_dict())
            self.tokenizer_frozen, self.prior_start = True, images_seen

        # The prior's stage: t is the fraction of it that is over. With a larger budget on --resume, progress may be
        # back below `fraction`; the prior then continues as just after its warm-up.
        t = (progress - fraction) / (1 - fraction) if progress >= fraction else WARM_UP_FRACTION

        # Validate before the step: if memory runs out in it, the step has not been taken and can be repeated.
        validation: dict[str, Tensor] = {}
        due = int(t * NUM_VALIDATIONS) + (t >= FINAL_VALIDATION)
        # With the tokens of the model to begin from, its prior may be the best one.
        is_first = self.config.keep_tokens and self.best_backend is None
        if self.held_out is not None and (is_first or due != self.validations):
            validation["held_out"] = self._validate()
            self.validations = due
        return {**self._step_prior(images, labels, t, images_seen), **validation}

    def _step_tokenizer(self, images: Tensor, t: float, images_seen: int) -> dict[str, Tensor]:
        """One step of the tokenizer; t is the fraction of its stage that is over."""
        tokenizer, adversarial = self.model.tokenizer, self.adversarial
        parts = [(fraction, part) for fraction, part, _ in self.micro_batches(images, None)]

        # Learning rate
        phase = None if adversarial is None else adversarial.phase(t)
        schedule, peak = (t, 1.0) if adversarial is None else adversarial.schedule(t)
        rate = self._learning_rate(schedule, peak)
        set_learning_rate(self.tokenizer_optimizers.values(), rate, TOKENIZER_MUON_SCALE)

        # Discriminator
        critic_losses: dict[str, Tensor] = {}
        if adversarial is not None and phase is not None:
            critic_losses = adversarial.train_discriminator(
                tokenizer, parts, phase, self.apply_gradients, self.autocast
            )

        # Gradients of the tokenizer: of the decoder alone in the adversarial phase
        totals: dict[str, Tensor] = {}
        all_tokens = []
        for fraction, part in parts:
            if adversarial is not None and phase is not None:
                losses, tokens = adversarial.backward(tokenizer, part, phase, fraction, self.autocast(part.device))
            else:
                with self.autocast(part.device):
                    loss, losses, tokens = tokenizer_loss(tokenizer, part, self.config.edges)
                torch.autograd.backward(loss * fraction)
            all_tokens.append(tokens)
            for name, value in losses.items():
                totals[name] = totals.get(name, images.new_zeros(())) + value * fraction

        # Optimizers, code counts, EMA
        self.apply_gradients(list(self.tokenizer_optimizers.values()), *totals.values())
        usage = self._update_frequencies(torch.cat(all_tokens))
        self.average.update(self.model, len(images) * global_batch.num_parts(), images_seen)

        psnr = -10 * totals.pop("error").clamp(min=1e-10).log10()
        return {"nats_byte": totals.pop("nats"), **totals, "psnr": psnr, "codes": usage, **critic_losses}

    def _step_prior(self, images: Tensor, labels: Tensor | None, t: float, images_seen: int) -> dict[str, Tensor]:
        """One step of the prior; t is the fraction of its stage that is over."""
        tokenizer, prior = self.model.tokenizer, self.model.prior
        set_learning_rate(self.prior_optimizers.values(), self._learning_rate(t, self.config.prior_rate))

        # Gradients
        total = images.new_zeros(())
        latent_sum = images.new_zeros(())  # tokens are integers and would hide latents that are not finite
        all_tokens = []
        for fraction, part, part_labels in self.micro_batches(images, labels):
            with torch.no_grad():
                latents = tokenizer.latents(part)
                latent_sum += latents.sum()
                tokens = tokenizer.quantizer.quantize(latents)
            all_tokens.append(tokens)
            part_labels = self._drop_labels(part_labels, len(part), part.device)
            with self.autocast(part.device):
                groups = prior.training_groups(len(part), part.device)
                nats = -prior.log_probabilities(prior.from_tokens(tokens), part_labels, groups).sum(-1).mean()
            torch.autograd.backward(nats * fraction)
            total += nats.detach() * fraction

        # Optimizers, code counts, EMA
        self.apply_gradients(list(self.prior_optimizers.values()), total, latent_sum)
        usage = self._update_frequencies(torch.cat(all_tokens))
        self.average.update(self.model, len(images) * global_batch.num_parts(), max(0, images_seen - self.prior_start))
        return {"nats": total, "codes": usage}

    def _learning_rate(self, t: float, peak: float) -> float:
        """Linear warm-up to `peak` times the configured rate, then a cosine down to a fiftieth of that; t in [0, 1]."""
        warm_up = min(1.0, 0.05 + t / WARM_UP_FRACTION)
        return peak * self.config.learning_rate * warm_up * cosine_decay(min(t, 1.0), FINAL_RATE_FRACTION)

    def _update_frequencies(self, tokens: Tensor) -> Tensor:
        """Count the codes of a batch; returns the fraction of the codes in use."""
        tokenizer = self.model.tokenizer
        tokenizer.update_frequencies(tokens, 0.5 ** (len(tokens) * global_batch.num_parts() / CODE_COUNT_HALF_LIFE))
        return tokenizer.usage

    def _drop_labels(self, labels: Tensor | None, count: int, device: torch.device) -> Tensor:
        """Replace a random fraction `drop_label` of the labels by "no class", for guidance."""
        no_class = torch.full((count,), len(self.config.classes), device=device)
        if labels is None:
            return no_class
        return torch.where(global_batch.rand(count, device=device) < self.config.drop_label, no_class, labels)

    @torch.no_grad()
    def _validate(self) -> Tensor:
        """Nats per token of the held-out images; keeps the best model, and uses it if the averaged one is worse."""
        assert self.held_out is not None
        averaged = self._averaged()
        total, count = torch.zeros((), dtype=torch.float64), 0
        for images, labels in self.held_out():
            tokens = averaged.tokenizer.encode(images)
            with self.autocast(images.device):
                labels_or_none = averaged.labels_or_no_class(labels, len(images))
                log_likelihood = averaged.token_likelihood(tokens, labels_or_none, averaged.steps)
            total -= log_likelihood.cpu().double().sum()
            count += tokens.shape[0] * tokens.shape[1]
        loss = float(total) / max(count, 1)
        self.use_best = loss >= self.best_loss
        if not self.use_best:
            self.best_loss, self.best_backend = loss, copy.deepcopy(averaged)
        return torch.tensor(loss)
