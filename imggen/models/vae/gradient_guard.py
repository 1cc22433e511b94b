"""Skip updates whose gradient norm exceeds a multiple of a running quantile."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NORMS_KEPT = 100
MIN_NORMS_BEFORE_SKIPPING = 20
MAX_CONSECUTIVE_SKIPS = 5
USUAL_NORM_QUANTILE = 0.9


class GradientGuard:
    """Decides by the gradient norm whether a step is taken, skipped or shortened.

    VDVAE skips steps above a fixed threshold, and never learns again once all gradients exceed it. Here the
    limit is `factor` times a quantile of the last norms, which include skipped ones, and after MAX_CONSECUTIVE_SKIPS
    skips the next step is taken, shortened to the limit. `factor` 0 skips nothing.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.norms: list[float] = []
        self.consecutive_skips = 0

    def gradient_scale(self, norm: float) -> float:
        """What to multiply the gradient by: 1, less than 1 to shorten it, or 0 to skip the step."""
        limit = self.factor * self._usual_norm() if self.factor and self._has_enough_norms() else math.inf
        self.norms = [*self.norms, norm][-NORMS_KEPT:]
        # A limit of 0 means that gradients have vanished until now: then every step is taken.
        if norm <= limit or limit == 0:
            self.consecutive_skips = 0
            return 1.0
        if self.consecutive_skips < MAX_CONSECUTIVE_SKIPS:
            self.consecutive_skips += 1
            return 0.0
        self.consecutive_skips = 0
        return limit / norm

    def skip_nonfinite(self) -> bool:
        """Count a step whose gradient is not finite as skipped; False if it may not be skipped.

        That is at the start of training and after MAX_CONSECUTIVE_SKIPS. About one image in a hundred thousand makes a
        deep hierarchy of latents overflow float32.
        """
        if not self.factor or not self._has_enough_norms() or self.consecutive_skips >= MAX_CONSECUTIVE_SKIPS:
            return False
        self.consecutive_skips += 1
        return True

    def _has_enough_norms(self) -> bool:
        return len(self.norms) >= MIN_NORMS_BEFORE_SKIPPING

    def _usual_norm(self) -> float:
        return sorted(self.norms)[math.ceil(USUAL_NORM_QUANTILE * len(self.norms)) - 1]

    def state(self) -> Tensor:
        """For a checkpoint: the count of consecutive skips, then the norms, float64."""
        return torch.tensor([self.consecutive_skips, *self.norms], dtype=torch.float64)

    def load_state(self, state: Tensor) -> None:
        """Continue from what `state` returned. Raises ValueError for anything else."""
        if state.dtype != torch.float64 or state.dim() != 1 or not len(state) or not (state >= 0).all():
            raise ValueError("'guard' is not a list of norms")
        skips, *self.norms = state.tolist()
        self.consecutive_skips = int(skips)
