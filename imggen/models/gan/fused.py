"""Transposed convolutions as matrix products: on a CPU faster than torch's, for a DCGAN's first and last layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear


class DenseFromPixel(nn.Module):
    """A transposed convolution of a single pixel, (B, C, 1, 1) → (B, C', k, k), as one matrix product."""

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        inputs, self.channels, self.side, _ = layer.weight.shape
        assert layer.bias is not None
        self.weight = nn.Parameter(layer.weight.permute(2, 3, 1, 0).reshape(-1, inputs).contiguous(), False)
        self.bias = nn.Parameter(layer.bias.repeat(self.side**2), False)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the layer, in channels_last memory."""
        y = linear(x.flatten(1), self.weight, self.bias)
        return y.view(len(x), self.side, self.side, self.channels).permute(0, 3, 1, 2)


class DenseUpsampling(nn.Module):
    """A transposed convolution of kernel 4, stride 2, padding 1 to few channels: one matrix product, then four sums.

    Every input pixel becomes a 4x4 patch; neighboring patches are two pixels apart and are added where they overlap.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        inputs, self.channels = layer.weight.shape[:2]
        assert layer.bias is not None
        self.weight = nn.Parameter(layer.weight.permute(2, 3, 1, 0).reshape(-1, inputs).contiguous(), False)
        self.bias = nn.Parameter(layer.bias.clone(), False)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the layer, in channels_last memory."""
        count, _, height, width = x.shape
        patches = linear(x.permute(0, 2, 3, 1), self.weight).view(count, height, width, 4, 4, self.channels)
        # Row 2i + k of the total, which has one pixel of padding on each side, is row k of the patches of row i.
        total = self.bias.expand(count, height + 1, 2, width + 1, 2, self.channels).contiguous()
        for down in (0, 1):
            for right in (0, 1):
                quarter = patches[:, :, :, 2 * down : 2 * down + 2, 2 * right : 2 * right + 2]
                total[:, down : down + height, :, right : right + width] += quarter.transpose(2, 3)
        padded = total.view(count, 2 * height + 2, 2 * width + 2, self.channels)
        return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
