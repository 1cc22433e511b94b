"""First the tokenizer, then the prior over the tokens of the tokenizer that is kept."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from imggen.models.base import Learner
from imggen.models.muon import adam_and_muon
from imggen.models.training import EMA, cosine_decay, micro_batches
from imggen.models.transformer.adversarial import Adversary
from imggen.models.transformer.backend import TransformerBackend
from imggen.models.transformer.config import TransformerConfig
from imggen.models.transformer.generation_order import training_groups
from imggen.models.transformer.prior import Prior
from imggen.models.transformer.tokenizer import tokenizer_loss

CHECKS = 20  # times that the prior is held against the held-out pictures
LAST_CHECK = 0.99  # of its share of the budget; once more there, when the learning rate has come down
REMEMBERED = 5_000  # half-life in pictures of the count of codes
WARM_UP = 0.02
TOKENIZER_MUON = 2.0  # Muon's learning rate in the tokenizer, in units of Adam's


class TransformerLearner(Learner):
    """Two stages: what the tokenizer learns ends where the prior begins.

    The prior shown is the averaged one; once it does worse on the held-out pictures, the best one that was seen.
    """

    config: TransformerConfig
    held_out_fraction = 0.02

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.model = TransformerBackend(config)
        self.average = EMA(self.model, config.ema_images)
        tokenizer, prior, rate = self.model.tokenizer, self.model.prior, config.learning_rate
        self.of_tokenizer = adam_and_muon(tokenizer, {1: tokenizer.hidden()}, rate, betas=(0.9, 0.99))
        hidden = prior.hidden() if config.muon else {}
        self.of_prior = adam_and_muon(prior, hidden, rate, weight_decay=config.weight_decay)
        self.adversary = Adversary(config) if config.adversarial else None
        self.frozen = False
        self.checked = 0
        self.began = 0
        self.best = math.inf
        self.kept: TransformerBackend | None = None
        self.worse = False

    @property
    def backend(self) -> TransformerBackend:
        """The averaged one, with the prior that was best where it has become worse since."""
        return self.kept if self.worse and self.kept is not None else self._averaged()

    @property
    def networks(self) -> dict[str, nn.Module]:
        """model, average; critic where the tokenizer has one."""
        more = {} if self.adversary is None else {"critic": self.adversary.critic}
        return {"model": self.model, "average": self.average.network, **more}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """adam_tokenizer, adam_prior, the same of muon where matrices learn by it; adam_critic where there is one."""
        found = {f"{name}_tokenizer": optimiser for name, optimiser in self.of_tokenizer.items()}
        found.update({f"{name}_prior": optimiser for name, optimiser in self.of_prior.items()})
        return found if self.adversary is None else {**found, "adam_critic": self.adversary.adam_critic}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See the contract; the stage, and the best model by the held-out pictures."""
        tensors, document = super().state()
        if self.kept is not None:
            tensors.update({f"kept.{key}": value for key, value in self.kept.state_dict().items()})
        own: dict[str, Any] = {"frozen": self.frozen, "began": self.began, "checked": self.checked, "worse": self.worse}
        if self.adversary is not None:
            own["criticised"] = self.adversary.steps
        return tensors, {**document, **own, "best": None if self.kept is None else self.best}

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """See the contract."""
        super().load_state(tensors, document)
        self.frozen, self.worse = bool(document["frozen"]), bool(document["worse"])
        self.began, self.checked = int(document["began"]), int(document["checked"])
        if self.adversary is not None:
            self.adversary.steps = int(document["criticised"])
        self.kept, self.best = None, math.inf
        if document["best"] is not None:
            self.kept, self.best = copy.deepcopy(self._averaged()), float(document["best"])
            self.kept.load_state_dict({key: tensors[f"kept.{key}"] for key in self.kept.state_dict()})

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """One step of the tokenizer, or once its share of the budget is spent, of the prior."""
        share = self.config.tokenizer_share
        # Once frozen it stays so: a larger budget on --resume must not change the tokens that the prior knows.
        if not self.frozen and progress >= share:
            self._freeze(images_seen)
        self.model.train()
        if not self.frozen:
            return self._step_tokenizer(images, progress / share, images_seen)
        # A larger budget may put a prior that has begun before its share: past the warm-up, not at its foot.
        done = (progress - share) / (1 - share) if progress >= share else WARM_UP
        # First the check, then the step: where memory does not suffice for it, no step is taken twice.
        due = int(done * CHECKS) + (done >= LAST_CHECK)
        checked = {}
        if self.held_out is not None and due != self.checked:
            checked["held_out"] = self._check()
            self.checked = due
        return {**self._step_prior(images, labels, done, images_seen), **checked}

    def _freeze(self, images_seen: int) -> None:
        """The averaged tokenizer is the one that stays."""
        self.model.tokenizer.load_state_dict(self._averaged().tokenizer.state_dict())
        self.frozen, self.began = True, images_seen

    def _averaged(self) -> TransformerBackend:
        average = self.average.network
        assert isinstance(average, TransformerBackend)
        return average

    def _rate(self, optimisers: dict[str, torch.optim.Optimizer], done: float, peak: float, muon: float = 1.0) -> None:
        """Warm-up to `peak` of the learning rate, then a cosine to a fiftieth of that; `done` is the stage's share.

        Muon's is `muon` times as high.
        """
        rate = peak * self.config.learning_rate * min(1.0, 0.05 + done / WARM_UP)
        rate *= cosine_decay(min(done, 1.0), 0.02)
        for name, optimiser in optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rate * (muon if name == "muon" else 1.0)

    def _step_tokenizer(self, images: Tensor, done: float, images_seen: int) -> dict[str, Tensor]:
        tokenizer = self.model.tokenizer
        parts = [(len(part) / len(images), part) for part in micro_batches(images, self.micro_batch)]
        totals: dict[str, Tensor] = {}
        tokens = []
        late = None if self.adversary is None else self.adversary.share(done)
        along, peak = (done, 1.0) if self.adversary is None else self.adversary.rate(done)
        self._rate(self.of_tokenizer, along, peak, TOKENIZER_MUON)
        said = {}
        if self.adversary is not None and late is not None:
            said = self.adversary.judge(tokenizer, parts, late, self.apply_gradients, self.autocast)
        for weight, part in parts:
            if self.adversary is not None and late is not None:
                terms, found = self.adversary.teach(tokenizer, part, late, weight, self.autocast(part.device))
            else:
                with self.autocast(part.device):
                    loss, terms, found = tokenizer_loss(tokenizer, part, self.config.edges)
                torch.autograd.backward(loss * weight)
            tokens.append(found)
            for name, value in terms.items():
                totals[name] = totals.get(name, images.new_zeros(())) + value * weight
        self.apply_gradients(list(self.of_tokenizer.values()), *totals.values())
        usage = self._count(torch.cat(tokens))
        self.average.update(self.model, len(images) * self.processes, images_seen)
        psnr = -10 * totals["error"].clamp(min=1e-10).log10()
        told = {name: totals[name] for name in ("told",) if name in totals}
        return {"nats_byte": totals["nats"], "edges": totals["edges"], "psnr": psnr, "codes": usage, **said, **told}

    def _count(self, tokens: Tensor) -> Tensor:
        """Count codes; returns the share of all codes that is in use."""
        tokenizer = self.model.tokenizer
        tokenizer.count(tokens, 0.5 ** (len(tokens) * self.processes / REMEMBERED))
        return tokenizer.usage

    def _step_prior(self, images: Tensor, labels: Tensor | None, done: float, images_seen: int) -> dict[str, Tensor]:
        self._rate(self.of_prior, done, self.config.prior_rate)
        model, prior = self.model, self.model.prior
        total = images.new_zeros(())
        sound = images.new_zeros(())
        all_tokens = []
        label_parts = micro_batches(labels, self.micro_batch) if labels is not None else None
        for index, part in enumerate(micro_batches(images, self.micro_batch)):
            with torch.no_grad():
                latents = model.tokenizer.latents(part)
                sound += latents.sum()  # tokens are whole numbers: what is not finite would not show in them
                tokens = model.tokenizer.quantiser.indices(latents)
            all_tokens.append(tokens)
            label = self._dropped(None if label_parts is None else label_parts[index], len(part), part.device)
            with self.autocast(part.device):
                groups = self._groups(prior, len(part), part.device)
                nats = -prior.log_probabilities(model.values(tokens), label, groups).sum(-1).mean()
            torch.autograd.backward(nats * (len(part) / len(images)))
            total += nats.detach() * (len(part) / len(images))
        self.apply_gradients(list(self.of_prior.values()), total, sound)
        usage = self._count(torch.cat(all_tokens))
        self.average.update(self.model, len(images) * self.processes, max(0, images_seen - self.began))
        return {"nats": total, "codes": usage}

    def _groups(self, prior: Prior, count: int, device: torch.device) -> Tensor:
        if self.config.raster:
            return torch.arange(prior.length, device=device).expand(count, -1)
        return training_groups(count, prior.side, device)

    def _dropped(self, labels: Tensor | None, count: int, device: torch.device) -> Tensor:
        none = torch.full((count,), len(self.config.classes), device=device)
        if labels is None:
            return none
        return torch.where(torch.rand(count, device=device) < self.config.drop_label, none, labels)

    @torch.no_grad()
    def _check(self) -> Tensor:
        """Nats a token of the held-out pictures; keeps the best prior, and shows it when this one is worse."""
        assert self.held_out is not None
        averaged = self._averaged()
        total, count = torch.zeros((), dtype=torch.float64), 0
        for images, labels in self.held_out():
            tokens = averaged.tokenizer.encode(images)
            with self.autocast(images.device):
                known = averaged.labels_or_none(labels, len(images))
                found = averaged.token_likelihood(tokens, known, averaged.steps)
            total -= found.cpu().double().sum()
            count += tokens.shape[0] * tokens.shape[1]
        value = float(total) / max(count, 1)
        self.worse = value >= self.best
        if not self.worse:
            self.best, self.kept = value, copy.deepcopy(averaged)
        return torch.tensor(value)
