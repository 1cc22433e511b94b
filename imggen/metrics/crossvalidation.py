"""How well vectors separate classes: logistic regression, judged by cross-validation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

FOLDS = 5
PENALTY = 0.01  # of the squared weights, in nats
_STEPS = 60


def folds_of(count: int) -> Tensor:
    """The fold (count,) of each of `count` images; always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)) % FOLDS


def cross_validate(vectors: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Whether (N,) the class of each standardized vector (N, D) is found by a regression on the other folds."""
    folds = folds_of(len(vectors))
    right = torch.zeros(len(vectors), dtype=torch.bool)
    for fold in range(FOLDS):
        test = folds == fold
        weights = logistic_regression(vectors[~test], labels[~test], classes)
        right[test] = (with_ones(vectors[test]) @ weights).argmax(1) == labels[test]
    return right


def logistic_regression(vectors: Tensor, labels: Tensor, classes: int, penalty: float = PENALTY) -> Tensor:
    """Weights (D + 1, classes) that give logits of vectors (N, D) with a 1 appended; by L-BFGS, deterministic."""
    inputs = with_ones(vectors)
    weights = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = cross_entropy(inputs @ weights, labels) + penalty * weights[:-1].square().sum()
        torch.autograd.backward(value)
        return float(value.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def with_ones(vectors: Tensor) -> Tensor:
    """Vectors (N, D) with a column of ones (N, D + 1)."""
    return torch.cat([vectors, torch.ones(len(vectors), 1)], 1)
