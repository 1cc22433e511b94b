"""Muon: momentum with orthogonalized updates, an optimizer for the weight matrices between hidden layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration; five iterations bring singular values between 0.01 and 1 near 1.
NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
WIDE = 2.5  # times as many columns as rows; from there on `_newton_schulz` is faster on a CPU by a detour (measured)
UPDATE_RMS = 0.2  # root mean square of an update in units of the learning rate; AdamW's is usually about this


class Muon(torch.optim.Optimizer):
    """Nesterov momentum orthogonalized by Newton-Schulz iteration (Jordan et al. 2024, Muon).

    Scaled, and with weight decay, as in Liu et al. 2025 (arXiv 2502.16982), so that learning rates are as for AdamW.
    For weight matrices between hidden layers; embeddings, last layers, gains and biases should be trained with AdamW.

    torch.optim.Muon takes only 2-D weights (and needs torch 2.9). Here the weight of a convolution is a matrix, too:
    output channels by all else. And a weight in a group with `parts` > 1 is that many matrices stacked along dimension
    0, such as queries, keys and values, each of which is orthogonalized by itself.
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
        """Update all weights that have a gradient. `closure`, if given, is called first, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            updates = [self._nesterov_momentum(weight, group["momentum"]).flatten(1) for weight in weights]
            for weight, update in zip(weights, orthogonalize(updates, group["parts"]), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update.view(weight.shape), alpha=-group["lr"])
        return loss

    def _nesterov_momentum(self, weight: Tensor, momentum: float) -> Tensor:
        assert weight.grad is not None
        state: dict[str, Any] = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        average: Tensor = state["momentum"]
        average.lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(average, momentum)


def inner_weights(network: nn.Module, outer: Iterable[nn.Module]) -> list[Tensor]:
    """The weights of all convolutions of a network except the `outer` ones, its first and last layers."""
    outer_ids = {id(layer) for layer in outer}
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return [layer.weight for layer in layers if id(layer) not in outer_ids]


def adam_and_muon(
    network: nn.Module,
    hidden: dict[int, list[Tensor]],
    rate: float,
    *,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.0,
) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of a network: "muon" for its `hidden` weights, "adam" (AdamW) for all others but frozen ones.

    `hidden` lists the weights by the number of matrices that are stacked in each (`parts`). Weights of one dimension
    (gains and biases) have no weight decay. Without hidden weights there is no "muon".
    """
    stacks = [{"params": weights, "parts": parts} for parts, weights in hidden.items() if weights]
    hidden_ids = {id(weight) for weights in hidden.values() for weight in weights}
    others = [weight for weight in network.parameters() if weight.requires_grad and id(weight) not in hidden_ids]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in others if weight.ndim > 1]},
        {"params": [weight for weight in others if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, rate, betas, weight_decay=weight_decay, fused=True)
    return {"adam": adam, "muon": Muon(stacks, rate, weight_decay=weight_decay)} if stacks else {"adam": adam}


def orthogonalize(matrices: list[Tensor], parts: int = 1) -> list[Tensor]:
    """Replace the singular values of matrices (rows, columns) by about equal ones, keeping the singular vectors.

    Each is `parts` matrices stacked along dimension 0. The root mean square of the elements becomes about
    `UPDATE_RMS`. Matrices of one shape are computed as one batch.
    """
    indices_by_shape: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        indices_by_shape.setdefault(matrix.shape, []).append(index)
    results: list[Tensor] = list(matrices)
    for (rows, columns), indices in indices_by_shape.items():
        stacked = torch.stack([matrices[index] for index in indices]).view(-1, rows // parts, columns)
        batch = _newton_schulz(stacked).view(-1, rows, columns)
        for index, result in zip(indices, batch, strict=True):
            results[index] = result
    return results


def _newton_schulz(batch: Tensor) -> Tensor:
    """Orthogonalize matrices (count, rows, columns) in float32 and scale them to `UPDATE_RMS`."""
    tall = batch.shape[1] > batch.shape[2]
    x = batch.float()
    x = x.transpose(1, 2) if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    # Each step multiplies x from the left by a polynomial of x xᵀ. For a wide x, iterate the product of these, a square
    # matrix, and multiply x once. Not on a GPU: TF32 products are too coarse for it, up to 65 % off where x is nearly
    # singular.
    rows, columns = x.shape[1:]
    gram = x @ x.transpose(1, 2) if columns >= WIDE * rows and x.device.type == "cpu" else None
    left = x if gram is None else torch.eye(rows).expand(len(x), -1, -1)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = (left if gram is None else left @ gram) @ left.transpose(1, 2)
        left = torch.baddbmm(left, torch.baddbmm(square, square, square, beta=b, alpha=c), left, beta=a)
    x = left if gram is None else left @ x
    x = x.transpose(1, 2) if tall else x
    size: float = UPDATE_RMS * max(batch.shape[1:]) ** 0.5
    return x * size
