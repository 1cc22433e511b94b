"""How well the classes of pixels were found: intersection over union, Dice, boundaries, with intervals over images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, one_hot

from imggen.metrics.compare import Estimate, Estimator

VOID = 255
BOUNDARY_PIXELS = 2  # how far a boundary may be off


def pixel_counts(found: Tensor, truth: Tensor, classes: int) -> Tensor:
    """(B, classes, 3): of each image (B, H, W) and class, pixels that both have, that were found, that are true.

    Pixels whose true class is VOID count for nothing.
    """
    known = truth != VOID
    ours = one_hot(found.long(), classes).bool() & known[..., None]
    theirs = one_hot(torch.where(known, truth, 0).long(), classes).bool() & known[..., None]
    counts = [each.flatten(1, 2).sum(1) for each in (ours & theirs, ours, theirs)]
    return torch.stack(counts, 2).double()


def boundary_counts(found: Tensor, truth: Tensor, classes: int) -> Tensor:
    """(B, classes, 4): of each image and class, pixels of the found boundary near a true one, of the found boundary,
    of the true boundary near a found one, of the true boundary.

    A boundary is where the class's own pixels have a neighbor of another class; near is at most BOUNDARY_PIXELS away.
    """
    ours, theirs = (_boundaries(each, classes, truth != VOID) for each in (found, truth))
    counts = [ours & _near(theirs), ours, theirs & _near(ours), theirs]
    return torch.stack([each.flatten(2).sum(2) for each in counts], 2).double()


def _boundaries(numbers: Tensor, classes: int, known: Tensor) -> Tensor:
    """(B, classes, H, W): pixels of each class with one of another class above, below, left or right of them."""
    inside = one_hot(torch.where(known, numbers, 0).long(), classes).permute(0, 3, 1, 2).float()
    outside = 1 - inside
    rows, columns = (max_pool2d(outside, size, 1, pad) for size, pad in (((3, 1), (1, 0)), ((1, 3), (0, 1))))
    return (inside * torch.maximum(rows, columns) > 0) & known[:, None]


def _near(boundaries: Tensor) -> Tensor:
    return max_pool2d(boundaries.float(), 2 * BOUNDARY_PIXELS + 1, 1, BOUNDARY_PIXELS) > 0


def ious(counts: Tensor) -> Tensor:
    """Intersection over union (..., classes) of counts (..., classes, 3); NaN for a class that is in neither."""
    both, ours, theirs = counts.unbind(-1)
    return both / (ours + theirs - both)


def dices(counts: Tensor) -> Tensor:
    """Dice, twice the overlap over the sum of both (..., classes); NaN for a class that is in neither."""
    both, ours, theirs = counts.unbind(-1)
    return 2 * both / (ours + theirs)


def boundary_f(counts: Tensor) -> Tensor:
    """The harmonic mean of precision and recall of boundary pixels (..., classes); NaN for a class in neither."""
    found_near, found, true_near, true = counts.unbind(-1)
    precision, recall = found_near / found.clamp(min=1), true_near / true.clamp(min=1)
    values = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(found + true > 0, values, torch.nan)


def mean_iou(counts: Tensor) -> float:
    """The mean IoU over the classes that occur, of the pixels of all images (N, classes, 3) together."""
    return float(ious(counts.sum(0)).nanmean())


def segmentation_metrics(counts: Tensor, boundaries: Tensor, measure: Estimator) -> dict[str, Estimate]:
    """Means over the classes that occur, of the pixels of all images together, with intervals over the images.

    `counts` (N, classes, 3) and `boundaries` (N, classes, 4) are those of each image. "mean_iou_without" leaves class 0
    out, which is the background as a rule.
    """
    accuracy = measure.bootstrap("accuracy", counts, lambda rows: rows[..., 0].sum() / rows[..., 2].sum())
    return {
        "mean_iou": measure.bootstrap("mean_iou", counts, lambda rows: ious(rows.sum(0)).nanmean()),
        "mean_iou_without": measure.bootstrap("mean_iou_without", counts, lambda rows: ious(rows.sum(0))[1:].nanmean()),
        "mean_dice": measure.bootstrap("mean_dice", counts, lambda rows: dices(rows.sum(0)).nanmean()),
        "boundary_f": measure.bootstrap("boundary_f", boundaries, lambda rows: boundary_f(rows.sum(0)).nanmean()),
        "accuracy": accuracy,
    }
