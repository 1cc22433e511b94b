"""Patch contrast: a place of the output should show the same as that place of the input (CUT, arXiv 2007.15651)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize

PLACES = 64  # of each map, compared with each other
TEMPERATURE = 0.07
DIMENSIONS = 128
ALIKE = 0.05  # places whose mean colors differ by less, in [-1, 1], count as equal


class PatchContrast(nn.Module):
    """A small network for each of the encoder's maps, by whose vectors places are compared."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, DIMENSIONS), nn.ReLU(), nn.Linear(DIMENSIONS, DIMENSIONS))
            for width in widths
        )

    def forward(self, found: Sequence[Tensor], known: Sequence[Tensor], images: Tensor) -> Tensor:
        """The loss in nats of maps (B, C, h, w) of the outputs, one a level, and those of the inputs `images`.

        It is the cross-entropy of finding, among the places of the input, that of the output. Places of the same
        color in the input are not compared: on plain ground the translator would draw marks to tell them apart.
        Places come from torch's global generator. The maps of the inputs get no gradients.
        """
        losses = []
        for head, ours, theirs in zip(self.heads, found, known, strict=True):
            count = ours.shape[2] * ours.shape[3]
            places = torch.randperm(count)[:PLACES].to(ours.device)
            queries, keys = (
                normalize(head(maps.flatten(2)[:, :, places].transpose(1, 2)).float(), dim=2)
                for maps in (ours, theirs.detach())
            )
            scores = queries @ keys.detach().transpose(1, 2) / TEMPERATURE
            colors = interpolate(images, theirs.shape[2:], mode="area").flatten(2)[:, :, places]
            scores = scores.masked_fill(_alike(colors), float("-inf"))
            truth = torch.arange(len(places), device=ours.device).repeat(len(scores))
            losses.append(cross_entropy(scores.flatten(0, 1), truth))
        return torch.stack(losses).mean()


def _alike(colors: Tensor) -> Tensor:
    """Which two places of colors (B, C, places) are alike, (B, places, places); no place is like itself."""
    differences = (colors[:, :, :, None] - colors[:, :, None]).abs().amax(1)
    return (differences < ALIKE) & ~torch.eye(colors.shape[2], dtype=torch.bool, device=colors.device)
