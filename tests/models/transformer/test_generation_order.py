"""Plans: every position once, spread out; and the random orders of training."""

import pytest
import torch
from torch import Tensor

from imggen.models.transformer.generation_order import group_sizes, halton, schedule, training_groups
from tests.models.transformer.helpers import any_order_prior, causal_prior


@pytest.mark.parametrize("side", [1, 2, 3, 4, 8, 16])
def test_schedules_have_every_position_once(side: int) -> None:
    order = halton(side)
    assert sorted(order) == list(range(side * side))
    for steps in (1, 2, 5, 12, side * side, 10_000):
        plan = schedule(order, steps)
        assert sorted(position for group in plan for position in group) == sorted(order)
        assert len(plan) == min(steps, side * side) and all(plan)
        assert len(plan[0]) <= len(plan[-1])
    assert group_sizes(0, 5) == []


def test_plans_of_the_priors() -> None:
    """Unmasked positions are one group before the others; raster order cannot be changed."""
    prior = any_order_prior(side=4)
    assert prior.plan() == schedule(halton(4), 8) and prior.plan(3) == schedule(halton(4), 3)
    masked = [5, 6, 9, 10]
    first, *others = prior.plan(8, masked)
    assert sorted(first) == [position for position in range(16) if position not in masked]
    assert sorted(position for group in others for position in group) == masked
    assert len(others) == 2  # a quarter of the steps for a quarter of the tokens
    assert prior.plan(8, list(range(16))) == prior.plan(8)
    raster = [[position] for position in range(16)]
    for plan in (causal_prior(side=4).plan(), causal_prior(side=4).plan(3, masked)):
        assert plan == raster


def test_groups_are_spread_out() -> None:
    """Positions of a group are further apart than in groups of the same sizes in raster order."""

    def mean_smallest_distance(plan: list[list[int]]) -> float:
        distances = []
        for group in plan:
            points = torch.tensor([divmod(position, 8) for position in group]).float()
            if len(group) > 1:
                distances.append(torch.cdist(points, points).fill_diagonal_(99).min().item())
        return sum(distances) / len(distances)

    raster = mean_smallest_distance(schedule(tuple(range(64)), 16))
    assert mean_smallest_distance(schedule(halton(8), 16)) > 1.4 * raster


def test_training_groups() -> None:
    torch.manual_seed(0)
    groups = training_groups(4000, 4, torch.device("cpu"))
    assert groups.shape == (4000, 16) and groups.min() == 0 and groups.dtype == torch.int64
    count = torch.tensor([len(row.unique()) for row in groups])
    assert count.min() <= 2 and count.max() >= 14 and len(count.unique()) > 8
    # In the random orders every position is first, and last, about as often as any other.
    first = (groups == groups.min(1, keepdim=True).values).float().mean(0)
    last = (groups == groups.max(1, keepdim=True).values).float().mean(0)
    assert first.min() > 0.15 and last.min() > 0.1
    single_first = groups[((groups == 0).sum(1) == 1)]
    assert len(single_first[:, 0].unique()) > 4


def test_training_groups_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raster order, Halton's order, a rectangle at the end, and a prefix of any length, one at a time."""

    def sample(*, raster: float = 0, halton: float = 0, box: float = 0, prefix: float = 0) -> Tensor:
        fractions = {"RASTER": raster, "HALTON": halton, "BOX": box, "PREFIX": prefix}
        for name, fraction in fractions.items():
            monkeypatch.setattr(f"imggen.models.transformer.generation_order.{name}_FRACTION", fraction)
        torch.manual_seed(1)
        return training_groups(500, 4, torch.device("cpu"))

    assert (sample(raster=1).diff(dim=1) >= 0).all()
    assert (sample(halton=1)[:, list(halton(4))].diff(dim=1) >= 0).all()
    areas = []
    for row in sample(box=1, prefix=1).view(-1, 4, 4):
        later = row > 0
        rows, columns = later.any(1), later.any(0)
        ranges = rows.nonzero().flatten(), columns.nonzero().flatten()
        contiguous = all(len(indices) == indices[-1] - indices[0] + 1 for indices in ranges if len(indices))
        if later.any() and contiguous and torch.equal(later, rows[:, None] & columns[None]):
            areas.append(int(later.sum()))
    # A rectangle that is the whole image leaves no prefix: those few look like any other order.
    assert len(areas) > 480 and len(set(areas)) > 6
    first = (sample(prefix=1) == 0).sum(1)
    assert first.min() <= 1 and first.max() >= 15 and len(first.unique()) > 12
    assert (sample() == 0).sum(1).float().mean() < first.float().mean()
