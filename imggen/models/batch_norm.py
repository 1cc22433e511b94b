"""Batch norm over the whole batch, of which several processes may each have a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from imggen.models import global_batch

_twice_differentiable = False


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """In this block, batch norms over several processes compute what has second derivatives too: it is slower."""
    global _twice_differentiable
    before, _twice_differentiable = _twice_differentiable, True
    try:
        yield
    finally:
        _twice_differentiable = before


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm; in training with several processes, with the mean and variance over all of them.

    torch.nn.SyncBatchNorm runs on GPUs only, and has no second derivatives. The gradient penalty needs them: its
    logits must be computed within `twice_differentiable`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        if not self.training or global_batch.num_parts() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            features = x if x.dtype == torch.float64 else x.float()
            normalize = self._normalize_by_formula if _twice_differentiable else self._normalize_by_kernel
            return normalize(features).to(x.dtype)

    def _normalize_by_kernel(self, x: Tensor) -> Tensor:
        """With torch's kernels, which pass over the features once."""
        part_mean, part_variance = torch.batch_norm_update_stats(x.detach(), None, None, 0.0)
        mean, variance = _over_all_parts(part_mean, part_variance)
        self._update_running(mean, variance, _count(x))
        y: Tensor = _Normalize.apply(x, self.weight, self.bias, mean.to(x.dtype), variance.to(x.dtype), self.eps)
        return y

    def _normalize_by_formula(self, x: Tensor) -> Tensor:
        """With operations that have derivatives of every order."""
        # Not torch.var_mean, which takes twenty times as long for features in channels_last layout.
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        part_mean = rows.mean(0)
        mean, variance = _over_all_parts(part_mean, (rows - part_mean).square().mean(0))
        self._update_running(mean.detach(), variance.detach(), _count(x))
        scale = self.weight * (variance + self.eps).rsqrt().to(x.dtype)
        shift = self.bias - mean.to(x.dtype) * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, of which the variance is the unbiased one, as torch does."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * (count / max(1, count - 1))).to(self.running_var), self.momentum)


class _Normalize(torch.autograd.Function):
    """Normalize x (B, C, H, W) with the mean and variance (C,) over all processes, whose gradients go to x directly."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        return functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        # Of the normalized x (xn), y = weight xn + bias: the gradients of the weight and bias are sum(g xn) and sum(g).
        _, weight_gradient, bias_gradient = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        sums = global_batch.all_reduce(torch.stack([weight_gradient, bias_gradient]))
        mean_product, mean_gradient = sums / _count(x)
        # The gradient of x: weight / deviation (g - mean(g) - xn mean(g xn)), as a g + b x + c.
        inverse_deviation = (variance + ctx.eps).rsqrt()
        a = weight * inverse_deviation
        b = -a * inverse_deviation * mean_product
        c = -a * mean_gradient - b * mean
        x_gradient = torch.addcmul(c[:, None, None], x, b[:, None, None]).addcmul_(gradient, a[:, None, None])
        _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            x_gradient,
            weight_gradient if needs_weight else None,
            bias_gradient if needs_bias else None,
            None,
            None,
            None,
        )


def _over_all_parts(part_mean: Tensor, part_variance: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and variance (C,) over all processes, in float64, since the square of a large mean is subtracted."""
    part_mean, part_variance = part_mean.double(), part_variance.double()
    mean, mean_square = global_batch.mean_over_parts(torch.stack([part_mean, part_variance + part_mean.square()]))
    return mean, mean_square - mean.square()


def _count(x: Tensor) -> int:
    """The number of values for each channel, over all processes."""
    return x.numel() // x.shape[1] * global_batch.num_parts()
