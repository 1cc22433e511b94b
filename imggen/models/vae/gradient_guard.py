"""Which steps to skip: those whose gradient is much longer than is usual just now."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WINDOW = 100
FIRST = 20
MOST_IN_A_ROW = 5
USUAL = 0.9


class GradientGuard:
    """A running quantile of gradient norms says what is usual.

    A fixed threshold (VDVAE's) can lock up: once all gradients are longer, no step is taken ever again. Here skipped
    norms count among the usual ones, and after five skips in a row a step is shortened and taken.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.norms: list[float] = []
        self.skipped = 0

    def judge(self, norm: float) -> float:
        """What to multiply the gradient by: 1, or less to shorten it, or 0 to skip the step."""
        limit = self.factor * self._usual() if self.factor and len(self.norms) >= FIRST else math.inf
        self.norms = [*self.norms, norm][-WINDOW:]
        if norm <= limit or limit == 0:
            self.skipped = 0
            return 1.0
        if self.skipped < MOST_IN_A_ROW:
            self.skipped += 1
            return 0.0
        self.skipped = 0
        return limit / norm

    def forgives(self) -> bool:
        """Whether a gradient that is not finite may be skipped too: not at first, and not five times in a row.

        One picture in a hundred thousand can drive a ladder of latents beyond what fp32 holds.
        """
        if not self.factor or len(self.norms) < FIRST or self.skipped >= MOST_IN_A_ROW:
            return False
        self.skipped += 1
        return True

    def _usual(self) -> float:
        return sorted(self.norms)[math.ceil(USUAL * len(self.norms)) - 1]

    def state(self) -> Tensor:
        """For a checkpoint: the count of skips, then the norms, float64."""
        return torch.tensor([self.skipped, *self.norms], dtype=torch.float64)

    def load_state(self, state: Tensor) -> None:
        """The inverse."""
        skipped, *self.norms = state.tolist()
        self.skipped = int(skipped)
