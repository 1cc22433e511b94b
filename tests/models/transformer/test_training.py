"""Two stages in one run: the frozen tokenizer stays as it is, the best prior is kept, resuming is exact in both."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from imggen.engine.training.training_run import split_rows
from imggen.errors import UsageError
from imggen.models import build_learner, presets
from imggen.models.transformer.learner import NUM_VALIDATIONS, TransformerLearner


def small_learner(preset: str = "tiny", **overrides: Any) -> TransformerLearner:
    config = presets("transformer")[preset].with_overrides(
        **{
            "size": 16, "channels": 1, "classes": ("a", "b"), "class_counts": (1, 1), "width": 32, "depth": 2,
            "heads": 2, "tokenizer_width": 8, "factor": 4, "tokenizer_fraction": 0.3, "dropout": 0.1, **overrides,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    learner = build_learner(config)
    assert isinstance(learner, TransformerLearner)
    return learner


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A horizontal or vertical bar, by its class, at a random position and brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    positions = torch.randint(0, 12, (count,), generator=generator)
    brightness = torch.rand(count, generator=generator)
    images = torch.full((count, 1, 16, 16), -1.0)
    for image, label, first, value in zip(images, labels, positions, brightness, strict=True):
        (image[:, first : first + 4] if label else image[:, :, first : first + 4])[:] = value
    return images, labels


def held_out() -> Iterator[tuple[Tensor, Tensor | None]]:
    images, labels = stripes(16, 99)
    yield images[:10], labels[:10]
    yield images[10:], labels[10:]


def train(learner: TransformerLearner, start: int, stop: int, total: int = 20) -> list[dict[str, Tensor]]:
    """Steps from `start` to `stop` of a run of `total` steps; returns the metrics of each."""
    metrics = []
    for index in range(start, stop):
        torch.manual_seed(index)
        metrics.append(learner.step(*stripes(8, index), index / total, index * 8))
    return metrics


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@cache
def whole_run(preset: str) -> TransformerLearner:
    """A learner after all 20 steps, with validation."""
    learner = small_learner(preset)
    learner.held_out = held_out
    train(learner, 0, 20)
    return learner


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "cut"), [("tiny", 3), ("tiny", 6), ("tiny", 7), ("tiny", 13), ("classic", 10)])
def test_resuming_is_bit_exact_in_both_stages(preset: str, cut: int) -> None:
    whole, first, second = whole_run(preset), small_learner(preset), small_learner(preset)
    first.held_out = second.held_out = held_out
    train(first, 0, cut)
    tensors, document = first.state()
    torch.manual_seed(99)
    second.load_state({name: value.clone() for name, value in tensors.items()}, document)
    train(second, cut, 20)
    assert equal(whole.state()[0], second.state()[0]) and whole.state()[1] == second.state()[1]
    assert equal(whole.backend.state_dict(), second.backend.state_dict())


def test_the_prior_is_trained_on_a_frozen_tokenizer() -> None:
    learner = small_learner()
    names = [set(metrics) for metrics in train(learner, 0, 6)]
    assert all(name == {"nats_byte", "edges", "psnr", "codes"} for name in names)
    tokenizer = {name: value.clone() for name, value in learner.backend.tokenizer.state_dict().items()}
    prior = {name: value.clone() for name, value in learner.backend.prior.state_dict().items()}
    assert all(set(metrics) == {"nats", "codes"} for metrics in train(learner, 6, 8))
    for network in (learner.model, learner.backend):
        for name, value in network.tokenizer.state_dict().items():
            assert name == "frequencies" or torch.equal(value, tokenizer[name])
    assert not equal(prior, learner.backend.prior.state_dict())
    # With a larger budget progress is lower, and yet the tokenizer stays frozen and the prior past its warm-up.
    assert "nats" in train(learner, 8, 9, total=100)[0] and learner.tokenizer_frozen
    rate = learner.prior_optimizers["adam"].param_groups[0]["lr"]
    assert rate > 0.9 * learner.config.learning_rate * learner.config.prior_rate


def test_learning_rates() -> None:
    """Muon's is twice Adam's in the tokenizer and the same in the prior; warm-up, then a cosine to a fiftieth."""
    learner, peak = small_learner(), small_learner().config.learning_rate
    rates = {name: optimizer.param_groups for name, optimizer in learner.optimizers.items()}
    learner.step(*stripes(8, 0), 0.3 * 0.01, 0)
    assert rates["adam_tokenizer"][0]["lr"] == pytest.approx(0.55 * peak, rel=1e-2)
    assert rates["muon_tokenizer"][0]["lr"] == 2 * rates["adam_tokenizer"][0]["lr"]
    learner.step(*stripes(8, 0), 1.0, 0)
    assert rates["adam_prior"][0]["lr"] == pytest.approx(learner.config.prior_rate * peak / 50)
    assert all(group["lr"] == rates["adam_prior"][0]["lr"] for group in rates["muon_prior"])


@pytest.mark.slow
def test_a_larger_budget_continues_the_validation() -> None:
    learner = small_learner()
    learner.held_out = held_out
    train(learner, 0, 20)
    assert "held_out" in train(learner, 20, 21, total=40)[0]


def test_half_precision_changes_little() -> None:
    full, half = small_learner(dropout=0.0), small_learner(dropout=0.0)
    half.precision = torch.bfloat16
    for index in (0, 15):
        one, other = (train(learner, index, index + 1)[0] for learner in (full, half))
        name = "nats" if index else "nats_byte"
        assert other[name].dtype == torch.float32 and float(one[name]) == pytest.approx(float(other[name]), rel=0.03)


@pytest.mark.slow
def test_the_best_prior_is_used() -> None:
    learner = small_learner(learning_rate=3e-2)
    learner.held_out = held_out
    losses: list[float] = []
    steps = 60
    for index in range(steps):
        torch.manual_seed(index)
        # The same four images over and over, which are soon memorized.
        metrics = learner.step(*stripes(4, 0), index / steps, index * 4)
        if "held_out" in metrics:
            losses.append(float(metrics["held_out"]))
        if learner.use_best:
            assert learner.backend is learner.best_backend and losses[-1] >= min(losses)
        else:
            assert learner.backend is learner.average.network
    assert len(losses) > NUM_VALIDATIONS / 2
    assert learner.best_loss == pytest.approx(min(losses)) and learner.use_best
    assert learner.best_backend is not None
    total = 0.0
    for images, labels in held_out():
        tokens = learner.best_backend.tokenizer.encode(images)
        assert labels is not None
        total -= float(learner.best_backend.token_likelihood(tokens, labels, learner.best_backend.steps).sum())
    assert total / (16 * 16) == pytest.approx(learner.best_loss, rel=1e-5)


@pytest.mark.slow
def test_both_stages_learn() -> None:
    learner = small_learner(learning_rate=8e-3, dropout=0.0)
    metrics = train(learner, 0, 120, total=120)
    first, last = metrics[0], metrics[35]
    assert last["nats_byte"] < first["nats_byte"] - 0.5
    nats = [float(step["nats"]) for step in metrics[36:]]
    assert sum(nats[-10:]) < 0.6 * sum(nats[:10])
    # The class decides the direction of a bar.
    images, labels = stripes(64, 1234)
    tokens = learner.backend.tokenizer.encode(images)
    right, wrong = (learner.backend.token_likelihood(tokens, which, 16).mean() for which in (labels, 1 - labels))
    assert right > wrong + 1


def test_micro_batches_are_the_same_step() -> None:
    """Random orders are sampled for each micro-batch, so this holds for the causal prior only."""
    for start in (0, 10):
        whole, parts = (small_learner("classic", dropout=0.0, drop_label=0.0) for _ in range(2))
        parts.micro_batch = 3
        for learner in (whole, parts):
            train(learner, start, start + 1)
        for (name, one), other in zip(whole.model.state_dict().items(), parts.model.state_dict().values(), strict=True):
            assert torch.allclose(one, other, atol=2e-4), name


@pytest.mark.parametrize("part", ["decoder", "prior"])
def test_decoder_or_prior_can_be_trained_alone(part: str) -> None:
    trained = whole_run("tiny")
    learner = small_learner(keep_tokens=True, tokenizer_fraction=float(part == "decoder"))
    learner.begin_from(trained.backend.state_dict())
    train(learner, 0, 21)  # at the end of the budget, too
    old, new = trained.backend.state_dict(), learner.backend.state_dict()
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])} - {"tokenizer.frequencies"}
    assert changed and all(f"{part}." in name for name in changed)
    with pytest.raises(UsageError, match="unless --keep-tokens"):
        small_learner(tokenizer_fraction=float(part == "decoder"))


def test_the_prior_to_begin_from_stays_if_training_makes_it_worse() -> None:
    trained = whole_run("tiny")
    learner = small_learner(keep_tokens=True, prior_rate=1000.0)
    learner.begin_from(trained.backend.state_dict())
    learner.held_out = held_out
    train(learner, 0, 20)
    own = learner.backend.prior.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in trained.backend.prior.state_dict().items())
    assert not torch.equal(learner.backend.tokenizer.decoder[0].weight, trained.backend.tokenizer.decoder[0].weight)


def test_held_out_rows() -> None:
    rows, kept = split_rows(1000, 0.02)
    assert len(kept) == 20 and len(rows) == 980 and not set(kept) & set(rows)
    assert kept.max() > 900 and sorted({*kept, *rows}) == list(range(1000))
    assert len(split_rows(10**6, 0.02)[1]) == 500 and len(split_rows(300, 0.02)[1]) == 16
    for count, fraction in ((191, 0.02), (10**6, 0.0)):
        rows, kept = split_rows(count, fraction)
        assert len(rows) == count and not len(kept)
