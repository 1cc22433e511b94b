"""Overlaps and boundaries of masks whose true values follow from counting."""

import pytest
import torch

from imggen.metrics.compare import Estimator
from imggen.metrics.segmentation import (
    VOID,
    accuracies,
    boundary_counts,
    boundary_f,
    class_metrics,
    confusions,
    dices,
    ious,
    mean_iou,
    overall_metrics,
    pixel_counts,
)


def square(top: int, left: int, side: int = 8, whole: int = 32) -> torch.Tensor:
    """(1, whole, whole): class 1 in a square, class 0 around it."""
    mask = torch.zeros(1, whole, whole, dtype=torch.uint8)
    mask[:, top : top + side, left : left + side] = 1
    return mask


def counted(found: torch.Tensor, truth: torch.Tensor, classes: int = 3) -> torch.Tensor:
    return pixel_counts(confusions(found, truth, classes))


def test_overlaps_of_shifted_squares() -> None:
    found, truth = square(4, 4), square(4, 8)
    counts = counted(found, truth)[0]
    # The squares of 64 pixels share 8 rows of 4; of the 1,024 pixels 2 * 32 are wrong.
    assert counts[1].tolist() == [32, 64, 64]
    assert ious(counts)[:2].tolist() == pytest.approx([928 / 992, 32 / 96])
    assert dices(counts)[:2].tolist() == pytest.approx([2 * 928 / 1920, 64 / 128])
    assert ious(counts)[2].isnan() and dices(counts)[2].isnan()
    assert float(accuracies(counts)) == pytest.approx(1 - 64 / 1024)
    assert mean_iou(counts[None]) == pytest.approx((928 / 992 + 1 / 3) / 2)


def test_confusions_name_what_was_found_and_void_counts_for_nothing() -> None:
    truth = torch.tensor([[[0, 0, 1, 1], [2, 2, VOID, VOID]], [[1, 1, 1, 1], [1, 1, 1, 1]]], dtype=torch.uint8)
    found = torch.tensor([[[0, 1, 1, 1], [0, 2, 1, 2]], [[1, 1, 1, 2], [1, 1, 1, 1]]], dtype=torch.uint8)
    tables = confusions(found, truth, 3)
    assert tables[0].tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert tables[1].tolist() == [[0, 0, 0], [0, 7, 1], [0, 0, 0]]


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_boundaries_within_two_pixels_count_as_found(shift: int) -> None:
    counts = boundary_counts(square(12, 4 + shift), square(12, 4), 3)
    assert counts[0, 1].tolist() == [28, 28, 28, 28]
    assert boundary_f(counts)[0, 1] == 1 and boundary_f(counts)[0, 2].isnan()


def test_boundaries_further_away_do_not() -> None:
    # Side by side: near the other's boundary are the column that touches it, and one more pixel at each of its ends.
    counts = boundary_counts(square(12, 12), square(12, 4), 3)
    assert counts[0, 1].tolist() == [10, 28, 10, 28]
    assert float(boundary_f(counts)[0, 1]) == pytest.approx(10 / 28)


def test_neither_the_border_of_an_image_nor_void_is_a_boundary() -> None:
    truth = torch.ones(1, 8, 8, dtype=torch.uint8)
    truth[:, :, 6:] = VOID
    assert boundary_counts(truth.clamp(max=1), truth, 2).sum() == 0
    truth[:, :, 6:] = 0
    assert boundary_counts(torch.ones_like(truth), truth, 2)[0].tolist() == [[0, 0, 0, 8], [0, 0, 0, 8]]
    assert boundary_f(boundary_counts(torch.ones_like(truth), truth, 2))[0].tolist() == [0, 0]


def test_metrics_are_those_of_all_pixels_with_intervals_over_the_images() -> None:
    random = torch.Generator().manual_seed(0)
    truth = torch.cat([square(*torch.randint(0, 24, (2,), generator=random).tolist()) for _ in range(40)])
    found = truth.clone()
    found[:20] = torch.roll(found[:20], 3, 2)
    counts, boundaries = counted(found, truth), boundary_counts(found, truth, 3)
    metrics = overall_metrics(counts, boundaries, Estimator("x"))
    for name, expected in (("mean_iou", mean_iou(counts)), ("accuracy", float((found == truth).double().mean()))):
        estimate = metrics[name]
        assert estimate.value == pytest.approx(expected)
        assert estimate.low < estimate.value < estimate.high and estimate.count == 40
    assert metrics["foreground_iou"].value == pytest.approx(float(ious(counts.sum(0))[1]))
    assert class_metrics(counts, boundaries, 1, Estimator("x"))["dice"].value == pytest.approx(
        float(dices(counts.sum(0))[1])
    )
    assert class_metrics(counts, boundaries, 2, Estimator("x")) == {}
    perfect = overall_metrics(counted(truth, truth), boundary_counts(truth, truth, 3), Estimator("x"))
    assert {(each.value, each.low, each.high) for each in perfect.values()} == {(1.0, 1.0, 1.0)}


def test_a_statistic_of_sums_has_the_interval_of_bootstrap() -> None:
    values = torch.randn(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    measure = Estimator("x")
    by_sums = measure.of_sums("mean", values, lambda sums: sums[..., 0] / 50)
    by_mean = measure.mean("mean", values[:, 0])
    assert by_sums.value == pytest.approx(by_mean.value)
    assert abs(by_sums.low - by_mean.low) < 0.1 and abs(by_sums.high - by_mean.high) < 0.1
