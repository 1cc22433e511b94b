"""The priors: with and without cache they agree, no prediction sees its own or later tokens, probabilities add to 1."""

import itertools

import pytest
import torch
from torch import Tensor

from imggen.models.transformer.fast_prior import FastPrior, apply_folded_rotary, fold_norm, fold_rotary, unit_length
from imggen.models.transformer.generation_order import group_indices
from imggen.models.transformer.layers import RMSNorm, apply_rotary, cos_sin, linear
from imggen.models.transformer.prior import Prior
from tests.models.transformer.helpers import add_weight_noise, any_order_prior, causal_prior

RASTER = [[position] for position in range(16)]
LABELS = torch.tensor([0, 1, 2, 0, 1])


def random_plan(length: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(length, generator=generator).tolist()
    ends = sorted({length, *torch.randint(1, length, (3,), generator=generator).tolist()})
    return [order[start:end] for start, end in itertools.pairwise([0, *ends])]


def random_values(prior: Prior, count: int) -> Tensor:
    return torch.stack([torch.randint(0, factor, (count, prior.length)) for factor in prior.factors], -1)


def cached_states(prior: Prior, values: Tensor, labels: Tensor, plan: list[list[int]]) -> Tensor:
    cache = prior.begin(labels, torch.tensor([position for group in plan for position in group]))
    states: list[Tensor] = [torch.empty(0)] * prior.length
    for group in plan:
        for position, state in zip(group, prior.predict(cache, len(group)).unbind(1), strict=True):
            states[position] = state
        prior.commit(cache, values[:, group])
    return torch.stack(states, 1)


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_the_cache_changes_nothing(seed: int) -> None:
    prior = any_order_prior((4, 3), side=4, seed=seed)
    values, plan = random_values(prior, 5), random_plan(16, seed)
    states = prior.states(values, LABELS, group_indices(plan, 16).expand(5, -1))
    cached = cached_states(prior, values, LABELS, plan)
    assert (states - cached).abs().max() < 1e-5
    for channel in range(2):
        difference = prior.head.logits(states, channel, values) - prior.head.logits(cached, channel, values)
        assert difference.abs().max() < 1e-5
    assert prior.head.logits(states, 1, values).std() > 0.1


@torch.no_grad()
def test_the_cache_changes_nothing_in_raster_order() -> None:
    prior = causal_prior(side=4)
    values = random_values(prior, 5)
    states = prior.states(values, LABELS, torch.arange(16).expand(5, -1))
    cached = cached_states(prior, values, LABELS, RASTER)
    assert (prior.head.logits(states, 0, values) - prior.head.logits(cached, 0, values)).abs().max() < 1e-5
    with pytest.raises(ValueError, match="raster"):
        prior.states(values, LABELS, torch.arange(15, -1, -1).expand(5, -1))
    with pytest.raises(ValueError, match="one token"):
        prior.predict(prior.begin(LABELS, torch.arange(16)), 2)


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_the_fast_prior_gives_the_same_numbers(seed: int) -> None:
    """With gains far from 1, which it folds into the matrices; group by group and all at once."""
    prior = any_order_prior((4, 3, 2), side=4, seed=seed)
    add_weight_noise(prior, seed + 9, 0.3)
    values, plan = random_values(prior, 5), random_plan(16, seed)
    groups = group_indices(plan, 16).expand(5, -1)
    fast = FastPrior(prior)
    expected = prior.log_probabilities(values, LABELS, groups)
    assert (fast.log_probabilities(values, LABELS, groups) - expected).abs().max() < 1e-5
    assert fast.plan(5, [0, 3, 7]) == prior.plan(5, [0, 3, 7]) and fast.min_batch == prior.min_batch
    states, cached = prior.states(values, LABELS, groups), cached_states(fast, values, LABELS, plan)
    for channel in range(3):
        logits = prior.head.logits(states, channel, values)
        assert (fast.head.logits(cached, channel, values) - logits).abs().max() < 1e-4 * logits.abs().max()


def noisy_norm(width: int) -> RMSNorm:
    norm = RMSNorm(width)
    add_weight_noise(norm, strength=0.5)
    return norm


@torch.no_grad()
def test_a_folded_norm_is_the_norm_and_the_layer() -> None:
    norm, layer, x = noisy_norm(24), linear(24, 40), torch.randn(3, 5, 24)
    expected = layer(norm(x))
    torch.testing.assert_close(unit_length(x) @ fold_norm(layer.weight, norm), expected, rtol=1e-4, atol=1e-5)
    # Without a norm: the transposed matrix, contiguous.
    assert torch.equal(fold_norm(layer.weight), layer.weight.t()) and fold_norm(layer.weight).is_contiguous()


@torch.no_grad()
def test_a_folded_rotary_embedding_is_the_norm_and_the_rotation() -> None:
    norm, angles, x = noisy_norm(8), 6 * torch.rand(5, 4), torch.randn(3, 5, 2, 8)
    expected = apply_rotary(norm(x), cos_sin(angles))
    factors = fold_rotary(norm, angles)[:, :, None, None]
    folded = apply_folded_rotary(x[:, :, None], factors)[:, :, 0]
    torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["any-order", "causal"])
@torch.no_grad()
def test_predictions_depend_on_earlier_groups_only(kind: str, training: bool) -> None:
    """Another token changes no prediction of its own group or an earlier one, and every prediction of a later one."""
    prior: Prior = any_order_prior((4, 3), side=4) if kind == "any-order" else causal_prior(side=4)
    prior.train(training)
    for module in prior.modules():
        if hasattr(module, "dropout_rate"):
            module.dropout_rate = 0.0  # else two passes would differ by their random numbers
    values, label = random_values(prior, 1), torch.tensor([1])
    groups = group_indices(random_plan(16, 3) if kind == "any-order" else RASTER, 16)
    before = prior.states(values, label, groups[None])
    for position in range(16):
        other = values.clone()
        other[0, position, 0] = (other[0, position, 0] + 1) % prior.factors[0]
        changed = (prior.states(other, label, groups[None]) - before)[0].abs().amax(1) > 0
        assert not changed[groups <= groups[position]].any()
        assert changed[groups > groups[position]].all()


@pytest.mark.parametrize("side", [3, 4])
@torch.no_grad()
def test_features_of_a_place_are_predictions_from_the_other_fields(side: int) -> None:
    """A checkerboard's black and white fields are two groups, each of which is predicted from the other."""
    prior = any_order_prior((4, 3), side=side)
    values, label, places = random_values(prior, 1), torch.tensor([1]), torch.arange(side**2)
    black = (places // side + places % side) % 2
    found = prior.features(values, label)
    for color in (0, 1):
        states = prior.states(values, label, (black == color).long()[None])
        assert torch.allclose(found[:, black == color], states[:, black == color], atol=1e-5)


@torch.no_grad()
def test_a_channel_depends_on_earlier_channels_only() -> None:
    prior = any_order_prior((4, 3, 2))
    state, values = torch.randn(1, 4, 32), torch.zeros(1, 4, 3, dtype=torch.int64)
    other = values.clone()
    other[..., 1] = 1
    for channel in range(3):
        same = torch.equal(prior.head.logits(state, channel, values), prior.head.logits(state, channel, other))
        assert same == (channel <= 1)


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize(
    "plan", [[[0], [1], [2], [3]], [[3], [0], [2], [1]], [[1, 2], [0, 3]], [[2], [0, 1, 3]], [[3, 1, 0, 2]]]
)
@torch.no_grad()
def test_probabilities_of_all_images_add_up_to_one(plan: list[list[int]], label: int) -> None:
    prior = any_order_prior((3,), side=2)
    values = torch.tensor(list(itertools.product(range(3), repeat=4))).unsqueeze(-1)
    groups = group_indices(plan, 4).expand(81, -1)
    log_probabilities = prior.log_probabilities(values, torch.full((81,), label), groups)
    probabilities = log_probabilities.double().sum((1, 2)).exp()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert probabilities.max() > 3 * probabilities.min()


@torch.no_grad()
def test_probabilities_add_up_with_two_channels_and_in_raster_order() -> None:
    codes = torch.tensor(list(itertools.product(range(6), repeat=4)))
    prior: Prior = any_order_prior((3, 2), side=2)
    values = torch.stack([codes // 2, codes % 2], -1)
    groups = group_indices([[1, 3], [0, 2]], 4).expand(len(values), -1)
    labels = torch.zeros(len(values), dtype=torch.int64)
    assert prior.log_probabilities(values, labels, groups).double().sum((1, 2)).exp().sum() == pytest.approx(
        1, abs=1e-5
    )
    prior = causal_prior()
    values = torch.tensor(list(itertools.product(range(3), repeat=4))).unsqueeze(-1)
    groups, labels = torch.arange(4).expand(81, -1), torch.ones(81, dtype=torch.int64)
    assert prior.log_probabilities(values, labels, groups).double().sum((1, 2)).exp().sum() == pytest.approx(
        1, abs=1e-5
    )
