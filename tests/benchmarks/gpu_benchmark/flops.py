"""The FLOPs of a block of code."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the FLOPs of the operations in the block by PyTorch's formulas.

    FlopCounterMode also assigns them to modules, which fails in a gradient penalty. Its formula for a convolution's
    gradients ignores the groups in the gradient of the weights.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and add its FLOPs."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        operation = func._overloadpacket
        if operation == torch.ops.aten.convolution_backward:
            self.total += convolution_backward_flops(*args)
        elif operation in flop_registry:
            self.total += flop_registry[operation](*args, **kwargs, out_val=result)
        return result


def convolution_backward_flops(gradient: Tensor, image: Tensor, weight: Tensor, *settings: Any) -> int:
    """FLOPs of a convolution's gradients, given the arguments of aten.convolution_backward.

    The gradients of the image and of the weights each cost as much as the forward pass.
    """
    transposed, wanted = settings[4], settings[7]
    positions = math.prod((image if transposed else gradient).shape[2:])
    return 2 * len(image) * positions * weight.numel() * (bool(wanted[0]) + bool(wanted[1]))
