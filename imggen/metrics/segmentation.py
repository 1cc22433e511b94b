"""How well the classes of pixels were found: intersection over union, Dice, boundaries, with intervals over images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from imggen.metrics.compare import Estimate, Estimator

VOID = 255  # the true class of a pixel that counts for nothing
BOUNDARY_PIXELS = 2  # how far a boundary may be off, along each axis


def confusions(found: Tensor, truth: Tensor, classes: int) -> Tensor:
    """(B, classes, classes): how many pixels of each image (B, H, W) of each true class (row) got each class (column).

    Pixels whose true class is VOID are left out.
    """
    known, cells = truth != VOID, classes * classes
    image = torch.arange(len(truth), device=truth.device)[:, None, None].expand_as(truth)
    index = image[known] * cells + truth[known].long() * classes + found[known].long()
    return torch.bincount(index, minlength=len(truth) * cells).view(len(truth), classes, classes)


def pixel_counts(confusions: Tensor) -> Tensor:
    """(…, classes, 3) of (…, classes, classes): of each class, pixels in both, found ones, true ones."""
    parts = [confusions.diagonal(dim1=-2, dim2=-1), confusions.sum(-2), confusions.sum(-1)]
    return torch.stack(parts, -1).double()


def boundary_counts(found: Tensor, truth: Tensor, classes: int) -> Tensor:
    """(B, classes, 4): of each image (B, H, W) and class, four numbers of pixels.

    Those of the found boundary near a true one, of the found boundary, of the true boundary near a found one, and of
    the true boundary. The boundary of a class are its pixels that have one of another class above, below, left or right
    of them; near is at most BOUNDARY_PIXELS away along each axis. VOID pixels are of no class.
    """
    known = truth != VOID
    counts = torch.zeros(len(truth), classes, 4, dtype=torch.float64)
    for number in torch.unique(torch.cat([found[known], truth[known]])).tolist():
        ours, theirs = (_boundary(each == number, known) for each in (found, truth))
        pixels = [ours & _near(theirs), ours, theirs & _near(ours), theirs]
        counts[:, number] = torch.stack([each.flatten(1).sum(1) for each in pixels], 1).double()
    return counts


def _boundary(inside: Tensor, known: Tensor) -> Tensor:
    """Where in (B, H, W) pixels that are inside have known neighbors that are not."""
    inside, outside = inside & known, known & ~inside
    beside = torch.zeros_like(inside)
    beside[:, 1:] |= outside[:, :-1]
    beside[:, :-1] |= outside[:, 1:]
    beside[:, :, 1:] |= outside[:, :, :-1]
    beside[:, :, :-1] |= outside[:, :, 1:]
    return inside & beside


def _near(boundary: Tensor) -> Tensor:
    return max_pool2d(boundary.float(), 2 * BOUNDARY_PIXELS + 1, 1, BOUNDARY_PIXELS) > 0


def ious(counts: Tensor) -> Tensor:
    """Intersection over union (…, classes) of `pixel_counts`; NaN for a class that was neither found nor is true."""
    both, found, true = counts.unbind(-1)
    return both / (found + true - both)


def dices(counts: Tensor) -> Tensor:
    """Dice (…, classes) of `pixel_counts`: twice the overlap over the sum of both; NaN as in `ious`."""
    both, found, true = counts.unbind(-1)
    return 2 * both / (found + true)


def accuracies(counts: Tensor) -> Tensor:
    """The fraction (…) of pixels whose class was found, of `pixel_counts`."""
    return counts[..., 0].sum(-1) / counts[..., 2].sum(-1)


def boundary_f(counts: Tensor) -> Tensor:
    """The harmonic mean (…, classes) of precision and recall, of `boundary_counts`; NaN for a class without boundary.

    As in Csurka et al. 2013, What is a good evaluation measure for semantic segmentation? (BMVC), but over all images.
    """
    found_near, found, true_near, true = counts.unbind(-1)
    precision, recall = found_near / found.clamp(min=1), true_near / true.clamp(min=1)
    values = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(found + true > 0, values, torch.nan)


def mean_iou(counts: Tensor) -> float:
    """The mean IoU over the classes that occur, of the pixels of all images (N, classes, 3) together."""
    return float(ious(counts.sum(0)).nanmean())


def overall_metrics(counts: Tensor, boundaries: Tensor | None, measure: Estimator) -> dict[str, Estimate]:
    """Means over the classes that occur, of the pixels of all images together, with intervals over the images.

    `counts` (N, classes, 3) and `boundaries` (N, classes, 4) are those of each image. "foreground_iou" leaves class 0
    out, which is the background as a rule.
    """
    metrics = {
        "mean_iou": measure.of_sums("mean_iou", counts, lambda sums: ious(sums).nanmean(-1)),
        "foreground_iou": measure.of_sums("foreground_iou", counts, lambda sums: ious(sums)[..., 1:].nanmean(-1)),
        "mean_dice": measure.of_sums("mean_dice", counts, lambda sums: dices(sums).nanmean(-1)),
        "accuracy": measure.of_sums("accuracy", counts, accuracies),
    }
    if boundaries is not None:
        metrics["boundary_f"] = measure.of_sums("boundary_f", boundaries, lambda sums: boundary_f(sums).nanmean(-1))
    return _defined(metrics)


def class_metrics(counts: Tensor, boundaries: Tensor, number: int, measure: Estimator) -> dict[str, Estimate]:
    """IoU, Dice and boundary F of one class, as far as it occurs, with intervals over the images."""
    counts, boundaries = counts[:, number], boundaries[:, number]
    return _defined(
        {
            "iou": measure.of_sums("iou", counts, ious),
            "dice": measure.of_sums("dice", counts, dices),
            "boundary_f": measure.of_sums("boundary_f", boundaries, boundary_f),
        }
    )


def _defined(metrics: dict[str, Estimate]) -> dict[str, Estimate]:
    return {name: estimate for name, estimate in metrics.items() if estimate.value == estimate.value}
