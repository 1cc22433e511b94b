"""At the edge of a hole: what is known is carried into it, before tokens are found and after they are decoded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

SMOOTHINGS = 4  # of what is carried into a hole, for each pixel that it is carried
SOFT = 1.5  # pixels: the deviation of the bell by which the decoder's error is carried
DOUBT = 0.05  # of a whole bell: how much of it must be known for the error to be carried at half


def spread(images: Tensor, mask: Tensor, reach: int) -> Tensor:
    """Pictures (B, C, H, W) with what is known carried on `reach` pixels into the hole, `mask` (B, 1, H, W).

    Further in they are 0.
    """
    known = (mask <= 0.5).to(images)
    filled, there = images * known, known
    for _ in range(reach):
        near, count = avg_pool2d(filled, 3, 1, 1), avg_pool2d(there, 3, 1, 1)
        fresh = (there == 0) & (count > 0)
        filled = torch.where(fresh, near / count.clamp(min=1e-6), filled)
        there = torch.where(fresh, torch.ones_like(there), there)
    still = (known > 0) | (there == 0)
    count = avg_pool2d(there, 3, 1, 1).clamp(min=1e-6)
    for _ in range(SMOOTHINGS * reach):
        filled = torch.where(still, filled, avg_pool2d(filled, 3, 1, 1) / count)
    return filled


def seamless(drawn: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    """Fills (B, C, H, W) with what tokens leave out of the known pixels carried into the hole, so that no seam shows.

    Near the edge the decoder errs in the hole as it errs beside it; deeper in there is nothing to go by. Where a token
    is drawn of whose patch a little is known, that little draws the rest to it.
    """
    known = (mask <= 0.5).to(images)
    error = _bell((images - drawn) * known) / (_bell(known) + DOUBT)
    return (drawn + error).clamp(-1, 1)


def _bell(x: Tensor) -> Tensor:
    """(B, C, H, W) blurred, with nothing beyond its borders."""
    reach = round(3 * SOFT)
    places = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    bell = torch.exp(-places.square() / (2 * SOFT**2))
    bell = (bell / bell.sum()).expand(x.shape[1], 1, 1, -1)
    across = conv2d(x, bell, padding=(0, reach), groups=x.shape[1])
    return conv2d(across, bell.transpose(2, 3), padding=(reach, 0), groups=x.shape[1])
