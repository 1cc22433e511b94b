"""The priors alone: what is cached is what would be worked out anew, nothing looks ahead, probabilities add up to 1."""

import itertools

import pytest
import torch
from torch import Tensor

from imggen.models.transformer.causal_prior import CausalPrior
from imggen.models.transformer.fast_prior import FastPrior
from imggen.models.transformer.generation_order import groups_of, halton, schedule, sizes, training_groups
from imggen.models.transformer.prior import Prior
from tests.models.transformer_help import stirred, toy


def classic(classes: int = 2, codes: int = 3, side: int = 2) -> CausalPrior:
    torch.manual_seed(0)
    prior = CausalPrior((codes,), side, classes, width=32, depth=3, heads=2, dropout=0.1)
    stirred(prior)
    return prior.eval()


def random_plan(length: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(length, generator=generator).tolist()
    ends = sorted({length, *torch.randint(1, length, (3,), generator=generator).tolist()})
    return [order[start:end] for start, end in itertools.pairwise([0, *ends])]


def cached_states(prior: Prior, tokens: Tensor, labels: Tensor, plan: list[list[int]]) -> Tensor:
    cache = prior.begin(labels, torch.tensor([place for group in plan for place in group]))
    found: list[Tensor] = [torch.empty(0)] * prior.length
    for group in plan:
        for place, state in zip(group, prior.predict(cache, len(group)).unbind(1), strict=True):
            found[place] = state
        prior.commit(cache, tokens[:, group])
    return torch.stack(found, 1)


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_cached_is_uncached(seed: int) -> None:
    prior = toy((4, 3), side=4, seed=seed)
    tokens = torch.stack([torch.randint(0, count, (5, 16)) for count in prior.factors], -1)
    labels = torch.tensor([0, 1, 2, 0, 1])
    plan = random_plan(16, seed)
    whole = prior.states(tokens, labels, groups_of(plan, 16).expand(5, -1))
    parts = cached_states(prior, tokens, labels, plan)
    assert (whole - parts).abs().max() < 1e-5
    for channel in range(2):
        difference = prior.head.logits(whole, channel, tokens) - prior.head.logits(parts, channel, tokens)
        assert difference.abs().max() < 1e-5
    assert prior.head.logits(whole, 1, tokens).std() > 0.1


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_a_quick_prior_is_the_one_it_was_made_of(seed: int) -> None:
    """With gains far from 1, which it folds away; step by step and all at once."""
    prior = toy((4, 3, 2), side=4, seed=seed)
    stirred(prior, seed + 9, 0.3)
    tokens = torch.stack([torch.randint(0, count, (5, 16)) for count in prior.factors], -1)
    labels, plan = torch.tensor([0, 1, 2, 0, 1]), random_plan(16, seed)
    groups = groups_of(plan, 16).expand(5, -1)
    fast = FastPrior(prior)
    wanted = prior.log_probabilities(tokens, labels, groups)
    assert (fast.log_probabilities(tokens, labels, groups) - wanted).abs().max() < 1e-5
    states, parts = prior.states(tokens, labels, groups), cached_states(fast, tokens, labels, plan)
    for channel in range(3):
        logits = prior.head.logits(states, channel, tokens)
        assert (fast.head.logits(parts, channel, tokens) - logits).abs().max() < 1e-4 * logits.abs().max()


@torch.no_grad()
def test_cached_is_uncached_in_raster_order() -> None:
    prior = classic(side=4)
    tokens, labels = torch.randint(0, 3, (5, 16, 1)), torch.tensor([0, 1, 2, 0, 1])
    whole = prior.states(tokens, labels, torch.arange(16).expand(5, -1))
    parts = cached_states(prior, tokens, labels, [[place] for place in range(16)])
    assert (prior.head.logits(whole, 0, tokens) - prior.head.logits(parts, 0, tokens)).abs().max() < 1e-5
    with pytest.raises(ValueError, match="raster"):
        prior.states(tokens, labels, torch.arange(15, -1, -1).expand(5, -1))
    with pytest.raises(ValueError, match="one token"):
        prior.predict(prior.begin(labels, torch.arange(16)), 2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["any", "classic"])
@torch.no_grad()
def test_nothing_looks_ahead(kind: str, training: bool) -> None:
    """Another token changes no prediction of its own group or an earlier one, and some prediction of a later one."""
    prior: Prior = toy((4, 3), side=4) if kind == "any" else classic(side=4)
    prior.train(training)
    if training and kind == "classic":
        for module in prior.modules():
            if hasattr(module, "rate"):
                module.rate = 0.0  # the same with dropout would need the same random numbers
    tokens = torch.stack([torch.randint(0, count, (1, 16)) for count in prior.factors], -1)
    labels = torch.tensor([1])
    plan = random_plan(16, 3) if kind == "any" else [[place] for place in range(16)]
    groups = groups_of(plan, 16)
    before = prior.states(tokens, labels, groups[None])
    for place in range(16):
        other = tokens.clone()
        other[0, place, 0] = (other[0, place, 0] + 1) % prior.factors[0]
        changed = (prior.states(other, labels, groups[None]) - before)[0].abs().amax(1) > 0
        assert not changed[groups <= groups[place]].any()
        later = groups > groups[place]
        assert changed[later].all() or not later.any()


@torch.no_grad()
def test_a_channel_sees_only_those_before_it() -> None:
    prior = toy((4, 3, 2))
    state, tokens = torch.randn(1, 4, 32), torch.zeros(1, 4, 3, dtype=torch.int64)
    other = tokens.clone()
    other[..., 1] = 1
    for channel in range(3):
        same = torch.equal(prior.head.logits(state, channel, tokens), prior.head.logits(state, channel, other))
        assert same == (channel <= 1)


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize(
    "plan", [[[0], [1], [2], [3]], [[3], [0], [2], [1]], [[1, 2], [0, 3]], [[2], [0, 1, 3]], [[3, 1, 0, 2]]]
)
@torch.no_grad()
def test_probabilities_of_everything_add_up_to_one(plan: list[list[int]], label: int) -> None:
    prior = toy((3,), side=2)
    tokens = torch.tensor(list(itertools.product(range(3), repeat=4))).unsqueeze(-1)
    labels = torch.full((81,), label)
    found = prior.log_probabilities(tokens, labels, groups_of(plan, 4).expand(81, -1)).double().sum((1, 2)).exp()
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found.max() > 3 * found.min()


@torch.no_grad()
def test_probabilities_add_up_in_two_channels_and_in_raster_order() -> None:
    values = torch.tensor(list(itertools.product(range(6), repeat=4)))
    two = toy((3, 2), side=2)
    tokens = torch.stack([values // 2, values % 2], -1)
    groups = groups_of([[1, 3], [0, 2]], 4).expand(len(tokens), -1)
    found = two.log_probabilities(tokens, torch.zeros(len(tokens), dtype=torch.int64), groups).double().sum((1, 2))
    assert found.exp().sum() == pytest.approx(1, abs=1e-5)
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).unsqueeze(-1)
    in_turn = torch.arange(4).expand(81, -1)
    raster = classic().log_probabilities(every, torch.ones(81, dtype=torch.int64), in_turn)
    assert raster.double().sum((1, 2)).exp().sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 8, 16])
def test_schedules_are_whole(side: int) -> None:
    order = halton(side)
    assert sorted(order) == list(range(side * side))
    for steps in (1, 2, 5, 12, side * side, 10_000):
        plan = schedule(order, steps)
        assert sorted(place for group in plan for place in group) == sorted(order)
        assert len(plan) == min(steps, side * side) and all(plan)
        assert len(plan[0]) <= len(plan[-1])
    assert sizes(0, 5) == []


def test_groups_are_spread_out() -> None:
    """Neighbours in a group are further apart than those of the same group sizes in raster order."""

    def nearest(plan: list[list[int]]) -> float:
        found = []
        for group in plan:
            places = torch.tensor([divmod(place, 8) for place in group]).float()
            if len(group) > 1:
                found.append(torch.cdist(places, places).fill_diagonal_(99).min().item())
        return sum(found) / len(found)

    assert nearest(schedule(halton(8), 16)) > 1.4 * nearest(schedule(tuple(range(64)), 16))


def test_training_orders() -> None:
    torch.manual_seed(0)
    groups = training_groups(4000, 4, torch.device("cpu"))
    assert groups.shape == (4000, 16) and groups.min() == 0 and groups.dtype == torch.int64
    count = torch.tensor([len(row.unique()) for row in groups])
    assert count.min() <= 2 and count.max() >= 14 and len(count.unique()) > 8
    # Every place comes first, and every place comes last, about as often as any other in the random orders.
    first = (groups == groups.min(1, keepdim=True).values).float().mean(0)
    last = (groups == groups.max(1, keepdim=True).values).float().mean(0)
    assert first.min() > 0.15 and last.min() > 0.1
    alone = groups[((groups == 0).sum(1) == 1)]
    assert len(alone[:, 0].unique()) > 4


def test_training_orders_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raster, Halton's, and a rectangle last, each when it alone is asked for; a group of any size first."""

    def asked(raster: float, near: float, box: float, prefix: float) -> Tensor:
        for name, share in {"RASTER": raster, "HALTON": near, "BOX": box, "PREFIX": prefix}.items():
            monkeypatch.setattr(f"imggen.models.transformer.generation_order.{name}", share)
        torch.manual_seed(1)
        return training_groups(500, 4, torch.device("cpu"))

    assert (asked(1, 0, 0, 0).diff(dim=1) >= 0).all()
    assert (asked(0, 1, 0, 0)[:, list(halton(4))].diff(dim=1) >= 0).all()
    boxed = asked(0, 0, 1, 1)
    sizes = []
    for row in boxed.view(-1, 4, 4):
        later = row > 0
        down, across = later.any(1), later.any(0)
        places = down.nonzero().flatten(), across.nonzero().flatten()
        whole = all(len(found) == found[-1] - found[0] + 1 for found in places if len(found))
        if later.any() and whole and torch.equal(later, down[:, None] & across[None]):
            sizes.append(int(later.sum()))
    # A rectangle that is the whole picture has a first group of its own: those few look like any other order.
    assert len(sizes) > 480 and len(set(sizes)) > 6
    first = (asked(0, 0, 0, 1) == 0).sum(1)
    assert first.min() <= 1 and first.max() >= 15 and len(first.unique()) > 12
    assert (asked(0, 0, 0, 0) == 0).sum(1).float().mean() < first.float().mean()
