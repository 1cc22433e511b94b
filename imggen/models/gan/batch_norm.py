"""Batch norm over the whole batch, of which several processes may each have a part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imggen.models import global_batch


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm; in training with several processes, with the mean and variance over all of them.

    torch.nn.SyncBatchNorm runs on GPUs only, and has no second derivatives, which the gradient penalty needs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        if not self.training or global_batch.num_parts() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            features = x if x.dtype == torch.float64 else x.float()
            part_variance, part_mean = torch.var_mean(features, (0, 2, 3), correction=0)
            # In float64, since the square of a large mean is subtracted again.
            part_variance, part_mean = part_variance.double(), part_mean.double()
            moments = torch.stack([part_mean, part_variance + part_mean.square()])
            mean, mean_square = global_batch.mean_over_parts(moments)
            variance = mean_square - mean.square()
            self._update_running(mean.detach(), variance.detach(), x.numel() // x.shape[1] * global_batch.num_parts())
            scale = self.weight * (variance + self.eps).rsqrt().to(features.dtype)
            shift = self.bias - mean.to(features.dtype) * scale
            return torch.addcmul(shift[:, None, None], features, scale[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics, of which the variance is the unbiased one, as torch does."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * (count / max(1, count - 1))).to(self.running_var), self.momentum)
