"""Steps of one size in every direction: an optimiser for the matrices inside a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

# The quintic that five times over brings singular values from 0.01 to 1 near 1 (Jordan et al. 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
LIKE_ADAM = 0.2  # the root mean square of a step in units of the learning rate, as AdamW's usually is


class Muon(torch.optim.Optimizer):
    """Momentum whose singular values are all made 1 (Jordan et al. 2024, Muon).

    With the scale and the weight decay of Liu et al. 2025 (arXiv 2502.16982), so that AdamW's learning rates serve. It
    is for matrices between hidden layers; tables, last layers, gains and biases want AdamW. Of a group with `parts`
    each matrix is so many on top of one another, as queries, keys and values are. The weight of a convolution is the
    matrix of its outputs by all that each of them looks at.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": 1})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of all matrices that have a gradient; `closure` is called first, and its loss given back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            updates = [self._momentum(weight, group["momentum"]).flatten(1) for weight in weights]
            for weight, update in zip(weights, orthogonal(updates, group["parts"]), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view(weight.shape), alpha=-group["lr"])
        return loss

    def _momentum(self, weight: Tensor, momentum: float) -> Tensor:
        """Nesterov's."""
        assert weight.grad is not None
        state: dict[str, Any] = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        average: Tensor = state["momentum"]
        average.lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(average, momentum)


def inner_weights(network: nn.Module, outer: Iterable[nn.Module]) -> list[Tensor]:
    """The weights of all convolutions but the `outer` ones: those at a network's ends."""
    ends = {id(layer) for layer in outer}
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return [layer.weight for layer in layers if id(layer) not in ends]


def adam_and_muon(
    network: nn.Module,
    hidden: dict[int, list[Tensor]],
    rate: float,
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.0,
) -> dict[str, torch.optim.Optimizer]:
    """`muon` for the `hidden` weights, by how many matrices each is made of, and `adam` for the network's others.

    Gains and biases do not decay. Without hidden weights there is no `muon`.
    """
    stacks = [{"params": weights, "parts": parts} for parts, weights in hidden.items() if weights]
    known = {id(weight) for weights in hidden.values() for weight in weights}
    others = [weight for weight in network.parameters() if id(weight) not in known]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in others if weight.ndim > 1]},
        {"params": [weight for weight in others if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, rate, betas, weight_decay=weight_decay, fused=True)
    return {"adam": adam, "muon": Muon(stacks, rate, weight_decay=weight_decay)} if stacks else {"adam": adam}


def orthogonal(matrices: list[Tensor], parts: int = 1) -> list[Tensor]:
    """Matrices (rows, columns) → what has their singular vectors and singular values of about one size.

    Each is `parts` matrices on top of one another. That size makes the root mean square of the elements `LIKE_ADAM`.
    Those of one shape are worked on together.
    """
    shapes: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        shapes.setdefault(matrix.shape, []).append(index)
    found: list[Tensor] = list(matrices)
    for (rows, columns), indices in shapes.items():
        stacked = torch.stack([matrices[index] for index in indices]).view(-1, rows // parts, columns)
        done = _orthogonal(stacked).view(-1, rows, columns)
        for index, one in zip(indices, done, strict=True):
            found[index] = one
    return found


def _orthogonal(batch: Tensor) -> Tensor:
    """(count, rows, columns) by Newton and Schulz, fp32."""
    tall = batch.shape[1] > batch.shape[2]
    x = batch.float()
    x = x.transpose(1, 2) if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    x = x.transpose(1, 2) if tall else x
    size: float = LIKE_ADAM * max(batch.shape[1:]) ** 0.5
    return x * size
