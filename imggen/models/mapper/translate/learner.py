"""One step of learning to translate: by L1 and a critic of pairs, or without pairs by a critic and patch contrast."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from imggen.documents import COUNT, read_fields
from imggen.models import global_batch
from imggen.models.adversarial import (
    augment_alike,
    bce_discriminator_loss,
    bce_generator_loss,
    composite_on_white,
    zero_centered_gradient_penalty,
)
from imggen.models.learner import Learner
from imggen.models.mapper.pairs import augment_pairs, split_pairs
from imggen.models.mapper.translate.channels import to_channels
from imggen.models.mapper.translate.config import TranslateConfig
from imggen.models.mapper.translate.contrast import PatchContrast
from imggen.models.mapper.translate.model import TranslateModel
from imggen.models.mapper.translate.posterior import Posterior
from imggen.models.muon import adam_and_muon
from imggen.models.patch_gan import PatchDiscriminator
from imggen.models.training import EMA, set_learning_rate, warmed_cosine

WARM_UP = 0.01  # fraction of the training in which the learning rate rises
LAST_RATE = 0.02  # of the initial learning rate
LAST_IDENTITY = 0.1  # of the initial weight of the identity loss
# The losses of identity and of turning are those of one in so many images: they are learned fast.
SHARE = 4
PENALTY_EVERY = 8  # steps
CRITIC_SIDE = 32  # the critic halves an image of this side twice: a patch is 17 pixels wide


class Part(NamedTuple):
    """A part of the batch: its fraction of it, images (B, C, H, W), and images of the other kind (B, T, H, W).

    With noise also that, (B, N).
    """

    fraction: float
    images: Tensor
    targets: Tensor
    noise: Tensor | None = None


class Made(NamedTuple):
    """Results (B, T, H, W) for images, whose alpha is not hardened, and the encoder's maps of these images."""

    images: Tensor
    maps: list[Tensor]


class TranslateLearner(Learner):
    """The translator with its EMA, the critic, and the heads of the contrast.

    The images of a step are pairs: their last channels are the target, which without `paired` is an image of the other
    kind that has nothing to do with the first.
    """

    config: TranslateConfig

    def __init__(self, config: TranslateConfig) -> None:
        super().__init__(config)
        self.held_out_fraction = 1 / 20 if config.paired else 0.0
        self.model = TranslateModel(config)
        self.average = EMA(self.model, config.ema_images)
        self.critic = _build_critic(config) if config.has_critic else None
        self.contrast = None if config.paired else PatchContrast(config.widths)
        self.posterior = Posterior(config.channels + config.target_channels, config.noise) if config.noise else None
        betas = (0.5, 0.99) if config.has_critic else (0.9, 0.99)
        rate, decay = config.learning_rate, config.weight_decay
        taught = nn.ModuleList(
            network for network in (self.model, self.contrast, self.posterior) if network is not None
        )
        # Muon learns pairs faster; against a critic alone it has not been measured.
        hidden = {1: self.model.network.hidden_weights()} if config.paired else {}
        self.translating = adam_and_muon(taught, hidden, rate, betas=betas, weight_decay=decay)
        self.adam_critic = None
        if self.critic is not None:
            self.adam_critic = torch.optim.AdamW(self.critic.parameters(), rate, betas, weight_decay=decay, fused=True)
        self.steps = 0

    @property
    def saved_model(self) -> TranslateModel:
        """The EMA of the model."""
        average = self.average.network
        assert isinstance(average, TranslateModel)
        return average

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Keys: model, average (its EMA); critic, contrast and posterior, where they take part."""
        helpers = {"critic": self.critic, "contrast": self.contrast, "posterior": self.posterior}
        present = {name: network for name, network in helpers.items() if network is not None}
        return {"model": self.model, "average": self.average.network, **present}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Keys: adam; with pairs muon, for the weights between hidden layers; adam_critic, if there is a critic."""
        return {**self.translating, **({} if self.adam_critic is None else {"adam_critic": self.adam_critic})}

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Begin with these weights; critic, contrast and posterior begin anew."""
        self.model.load_state_dict(weights)
        self.average.network.load_state_dict(weights)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Adds the number of steps, from which the lazy penalty is due."""
        tensors, document = super().state()
        return tensors, {**document, "steps": self.steps}

    def load_state(self, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """The inverse of `state`."""
        super().load_state(tensors, document)
        self.steps = read_fields(document, {"steps": COUNT})["steps"]

    def step(self, images: Tensor, labels: Tensor | None, progress: float, images_seen: int) -> dict[str, Tensor]:
        """Learn from pairs (B, C + T, H, W): the critic first, then the translator, on the same outputs."""
        config = self.config
        rate = config.learning_rate * warmed_cosine(progress, LAST_RATE, WARM_UP)
        set_learning_rate(self.optimizers.values(), rate)
        if config.geometry or config.color:
            sides = split_pairs(images, config.channels)
            images = torch.cat(augment_pairs(*sides, config.geometry, config.color, "bilinear"), 1)
        noise = global_batch.randn(len(images), config.noise).to(images.device) if config.noise else None
        parts = list[Part]()
        for fraction, pairs, _ in self.micro_batches(images, None):
            pixels, targets = (_ordered(each) for each in split_pairs(pairs, config.channels))
            first = sum(len(each.images) for each in parts)
            own = None if noise is None else noise[first : first + len(pairs)]
            parts.append(Part(fraction, pixels, targets, own))
        metrics: dict[str, Tensor] = {}
        # A single part's graph serves both updates; those of several are computed again, to bound the memory.
        outputs = self._made(parts[0]) if len(parts) == 1 else None
        if self.critic is not None and self.adam_critic is not None:
            self._learn_critic(self.critic, self.adam_critic, parts, outputs, metrics)
        for part in parts:
            made = self._made(part) if outputs is None else outputs
            losses = self._paired_losses(part, made) if config.paired else self._unpaired_losses(part, made, progress)
            torch.autograd.backward(torch.stack([weight * loss for weight, loss in losses.values()]).sum())
            _add(metrics, {name: loss for name, (_, loss) in losses.items()})
        self.apply_gradients(list(self.translating.values()), *metrics.values())
        self.steps += 1
        self.average.update(self.model, len(images) * global_batch.num_parts(), images_seen)
        return metrics

    def _made(self, part: Part) -> Made:
        """The results of a part of the batch; with noise, that of even rows is found from their true results."""
        if self.posterior is None or part.noise is None:
            return self._translate(part.images)
        with self.autocast(part.images.device):
            known = self.posterior(part.images, _visible(part.targets), part.noise)
        is_new = torch.arange(len(known), device=known.device)[:, None] % 2 == 1
        return self._translate(part.images, torch.where(is_new, part.noise, known))

    def _translate(self, images: Tensor, noise: Tensor | None = None) -> Made:
        with self.autocast(images.device):
            made, maps = self.model.with_maps(images, noise)
        return Made(made.float(), maps)

    def _learn_critic(
        self,
        critic: PatchDiscriminator,
        adam: torch.optim.Optimizer,
        parts: list[Part],
        outputs: Made | None,
        metrics: dict[str, Tensor],
    ) -> None:
        """Update the critic by the logistic loss, and R1 (arXiv 1801.04406) in a step of PENALTY_EVERY; freeze it."""
        critic.requires_grad_(True)
        for part in parts:
            made = self._made(part) if outputs is None else outputs
            real, fake = self._judged(part, part.targets, made.images.detach())
            loss = bce_discriminator_loss(self._logits(critic, real), self._logits(critic, fake)) * part.fraction
            torch.autograd.backward(loss)
            _add(metrics, {"critic": loss})
            if self.config.gamma > 0 and self.steps % PENALTY_EVERY == 0:
                weight = self.config.gamma / 2 * PENALTY_EVERY * part.fraction
                penalty = zero_centered_gradient_penalty(lambda x: critic(x)[0], real) * weight
                torch.autograd.backward(penalty)
                _add(metrics, {"penalty": penalty})
        self.apply_gradients(adam, *metrics.values())
        critic.requires_grad_(False)

    def _logits(self, critic: PatchDiscriminator, images: Tensor) -> Tensor:
        with self.autocast(images.device):
            logits: Tensor = critic(images)[0]
        return logits.float()

    def _judged(self, part: Part, *outputs: Tensor) -> tuple[Tensor, ...]:
        """What the critic sees of outputs: with their inputs if there are pairs, else augmented alike.

        It sees hard edges. L1 does not: at a pixel whose alpha is already right it would teach nothing, so that results
        stay near the threshold; with one seed, 6 % of the pixels were wrong in place of 1 %.
        """
        outputs = tuple(self.model.harden(each) for each in outputs)
        if self.config.paired:
            return tuple(_ordered(torch.cat([part.images, _visible(each)], 1)) for each in outputs)
        return augment_alike(*outputs, strength=self.config.augment, on_white=True)

    def _adversarial_loss(self, part: Part, made: Tensor) -> Tensor:
        assert self.critic is not None
        (judged,) = self._judged(part, made)
        return bce_generator_loss(self._logits(self.critic, judged))

    def _paired_losses(self, part: Part, made: Made) -> dict[str, tuple[float, Tensor]]:
        """The weight and the value of each loss of a part of the batch, times its fraction."""
        known = slice(None, None, 2 if self.config.noise else 1)
        losses = {"l1": (1.0, distance(made.images[known], part.targets[known]) * part.fraction)}
        if self.critic is not None:
            adversarial = self._adversarial_loss(part, made.images) * part.fraction
            losses["adversarial"] = self.config.critic_weight, adversarial
        return losses

    def _unpaired_losses(self, part: Part, made: Made, progress: float) -> dict[str, tuple[float, Tensor]]:
        """The same without pairs: the critic, contrast, identity, whose weight falls, and turning.

        An image of the other kind, with the channels of the inputs, should stay as it is (arXiv 1703.10593). An image
        turned upside down should become what it becomes upright, turned (arXiv 1809.05852): else all results may lie
        some pixels aside, which neither the critic nor contrast can tell.
        """
        config = self.config
        assert self.contrast is not None
        targets = _ordered(part.targets[::SHARE])
        known = to_channels(targets, config.channels)
        with self.autocast(part.images.device):
            found = self.model.network.maps(to_channels(made.images, config.channels))
            contrast = self.contrast(found, made.maps, part.images)
        identity = distance(self._translate(known).images, targets)
        weight = config.identity * (1 - (1 - LAST_IDENTITY) * progress)
        losses = {
            "adversarial": (1.0, self._adversarial_loss(part, made.images) * part.fraction),
            "contrast": (config.contrast, contrast * part.fraction),
            "identity": (weight, identity * part.fraction),
        }
        if config.turning:
            turned = self._translate(_turned(part.images[::SHARE])).images
            losses["turning"] = config.turning, distance(_turned(turned), made.images[::SHARE]) * part.fraction
        return losses


def _build_critic(config: TranslateConfig) -> PatchDiscriminator:
    """A critic of patches of outputs, with their inputs if there are pairs; He initialization (arXiv 1502.01852).

    With torch's own, smaller weights it cannot tell outputs and images apart for hundreds of steps.
    """
    channels = config.target_channels + (config.channels if config.paired else 0)
    critic = PatchDiscriminator(channels, CRITIC_SIDE, config.critic_width)
    for module in critic.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, 0.2)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return critic


def _visible(images: Tensor) -> Tensor:
    """Images with the colors of transparent pixels, which nobody sees, made white: no loss may depend on them."""
    return composite_on_white(images) if images.shape[1] == 4 else images


def distance(images: Tensor, targets: Tensor) -> Tensor:
    """The mean absolute difference; that of colors counts as much as the targets are opaque.

    So what an edge looks like is learned from opaque pixels alone, and not from the white of those beside it.
    """
    differences = (images - targets).abs()
    if targets.shape[1] == 4:
        opacity = (targets[:, 3:] + 1) / 2
        differences = torch.cat([differences[:, :3] * opacity, differences[:, 3:]], 1)
    return differences.mean()


def _turned(images: Tensor) -> Tensor:
    """The images upside down."""
    return _ordered(images.flip((2, 3)))


def _ordered(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _add(metrics: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        metrics[name] = metrics.get(name, torch.zeros_like(value)) + value.detach()
