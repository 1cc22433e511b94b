"""The critic that makes soft pictures sharper: it learns to tell them from real ones, patch by patch.

Relativistic pairs (Jolicoeur-Martineau 2018, arXiv 1807.00734) with R1 and R2 (Huang et al. 2024, arXiv 2501.05441),
and its own features to compare pictures by (Larsen et al. 2015, arXiv 1512.09300).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, softplus

from imggen.models.augment import draw_changes
from imggen.models.training import cosine_decay, on_white

PATCH_MAP_SIZE = 8  # side in pixels of the coarsest map
AUGMENT_STRENGTH = 0.3  # strength of the changes to what it sees
GAMMA, EVERY = 0.3, 8  # the penalty's weight, and in how many steps it is taken once
RATE = 1e-3

Apply = Callable[..., None]


class PatchDiscriminator(nn.Module):
    """Pictures (B, C, H, W) → a logit a patch, and the features on the way to it."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        widths, side = [width], size
        while side > PATCH_MAP_SIZE:
            side //= 2
            widths.append(min(2 * widths[-1], 4 * width))
        self.enter = nn.Conv2d(channels, widths[0], 3, 1, 1)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.leave = nn.Conv2d(widths[-1], 1, 3, 1, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, 1, h, w)."""
        x = leaky_relu(self.enter(pictures), 0.2)
        found = []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
            found.append(x)
        logits: Tensor = self.leave(x)
        return logits, found


def augmented(*several: Tensor) -> tuple[Tensor, ...]:
    """Batches of pictures as the critic sees them: all changed alike, so that none differs by its change."""
    device = several[0].device
    change = draw_changes(several[0].shape, AUGMENT_STRENGTH, device)
    with torch.autocast(device.type, enabled=False):
        return tuple(change(on_white(pictures) if pictures.shape[1] == 4 else pictures) for pictures in several)


def discriminator_loss(critic: PatchDiscriminator, real: Tensor, *soft: Tensor) -> Tensor:
    """Real pictures against each batch of soft ones."""
    seen, *others = augmented(real, *(pictures.detach() for pictures in soft))
    on_real = critic(seen)[0]
    return torch.stack([softplus(critic(other)[0] - on_real).mean() for other in others]).mean()


def generator_loss(critic: PatchDiscriminator, real: Tensor, *soft: Tensor) -> tuple[Tensor, Tensor]:
    """How well each batch of soft pictures is told from real ones, and how unlike the first of them is in features.

    The first batch are the real ones' own versions. Every layer of the critic counts alike, however large its numbers.
    """
    seen, *others = augmented(real, *soft)
    with torch.no_grad():
        on_real, wanted = critic(seen)
    judged = [critic(other) for other in others]
    told = torch.stack([softplus(on_real - logits).mean() for logits, _ in judged]).mean()
    apart = [
        (one - other).abs().mean() / other.abs().mean().clamp(min=1e-6)
        for one, other in zip(judged[0][1], wanted, strict=True)
    ]
    return told, torch.stack(apart).mean()


def gradient_penalty(critic: PatchDiscriminator, *several: Tensor) -> Tensor:
    """The squared length of the critic's gradient at real and at soft pictures, fp32."""
    total = torch.zeros((), device=several[0].device)
    for pictures in several:
        pictures = pictures.detach().float().requires_grad_(True)
        logits = critic(augmented(pictures)[0])[0]
        (slope,) = torch.autograd.grad(logits.mean((1, 2, 3)).sum(), pictures, create_graph=True)
        # Of a mean over many patches the slope is as much flatter.
        total = total + slope.square().flatten(1).sum(1).mean() * logits[0].numel()
    return GAMMA / 2 * EVERY * total / len(several)


def learning_rate(progress: float) -> float:
    """The learning rate of a critic, and of what it alone teaches, from `RATE` down to a tenth of it."""
    return RATE * cosine_decay(progress, 0.1)


class DiscriminatorTrainer:
    """A critic, its Adam, and its side of a training step."""

    def __init__(self, channels: int, size: int, width: int) -> None:
        self.critic = PatchDiscriminator(channels, size, width)
        self.adam_critic = torch.optim.Adam(self.critic.parameters(), lr=RATE, betas=(0.0, 0.99), fused=True)
        self.steps = 0

    def learn(
        self,
        parts: Iterable[tuple[float, Tensor, tuple[Tensor, ...]]],
        progress: float,
        apply: Apply,
        autocast: Callable[[torch.device], torch.autocast],
    ) -> dict[str, Tensor]:
        """One step of the critic, which is frozen afterwards: what it teaches wants none of its gradients.

        A part is its share of the step, real pictures, and soft ones, the first of which are the real ones' own
        versions. `apply` takes an optimiser's step, or raises NonFiniteError.
        """
        for group in self.adam_critic.param_groups:
            group["lr"] = learning_rate(progress)
        self.critic.requires_grad_(True)
        losses: dict[str, Tensor] = {}

        def add(name: str, loss: Tensor) -> None:
            torch.autograd.backward(loss)
            losses[name] = losses.get(name, torch.zeros_like(loss)) + loss.detach()

        for share, real, soft in parts:
            with autocast(real.device):
                loss = discriminator_loss(self.critic, real, *soft) * share
            add("critic", loss)
            if self.steps % EVERY == 0:
                add("penalty", gradient_penalty(self.critic, real, soft[0]) * share)
        apply(self.adam_critic, *losses.values())
        self.critic.requires_grad_(False)
        self.steps += 1
        return losses
