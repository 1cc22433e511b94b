"""Two stages in one run: the tokenizer stays what it was, the best prior is kept, resuming is exact across both."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from imggen.engine.training.training_run import split_rows
from imggen.models import build_learner, presets
from imggen.models.transformer.learner import CHECKS, TransformerLearner


def learner(preset: str = "tiny", **more: Any) -> TransformerLearner:
    config = presets("transformer")[preset].with_overrides(
        **{
            "size": 16, "channels": 1, "classes": ("a", "b"), "class_counts": (1, 1), "width": 32, "depth": 2,
            "heads": 2, "tokenizer_width": 8, "factor": 4, "tokenizer_share": 0.3, "dropout": 0.1, **more,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    found = build_learner(config)
    assert isinstance(found, TransformerLearner)
    return found


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bars that lie or stand by their class, at any place, in any brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    place = torch.randint(0, 12, (count,), generator=generator)
    light = torch.rand(count, generator=generator)
    images = torch.full((count, 1, 16, 16), -1.0)
    for image, label, first, value in zip(images, labels, place, light, strict=True):
        (image[:, first : first + 4] if label else image[:, :, first : first + 4])[:] = value
    return images, labels


def held_out() -> Iterator[tuple[Tensor, Tensor | None]]:
    images, labels = stripes(16, 99)
    yield images[:10], labels[:10]
    yield images[10:], labels[10:]


def run(model: TransformerLearner, start: int, stop: int, total: int = 20) -> list[dict[str, Tensor]]:
    found = []
    for index in range(start, stop):
        torch.manual_seed(index)
        found.append(model.step(*stripes(8, index), index / total, index * 8))
    return found


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(("preset", "cut"), [("tiny", 3), ("tiny", 6), ("tiny", 7), ("tiny", 13), ("classic", 10)])
def test_resuming_is_bit_exact_on_both_sides_of_the_switch(preset: str, cut: int) -> None:
    whole = learner(preset)
    whole.held_out = held_out
    run(whole, 0, 20)
    first = learner(preset)
    first.held_out = held_out
    run(first, 0, cut)
    tensors, document = first.state()
    tensors = {name: value.clone() for name, value in tensors.items()}
    second = learner(preset, dropout=0.1)
    second.held_out = held_out
    torch.manual_seed(99)
    second.load_state(tensors, document)
    run(second, cut, 20)
    assert same(whole.state()[0], second.state()[0]) and whole.state()[1] == second.state()[1]
    assert same(whole.backend.state_dict(), second.backend.state_dict())


def test_the_prior_is_trained_on_the_tokenizer_that_stays() -> None:
    model = learner()
    names = [set(metrics) for metrics in run(model, 0, 6)]
    assert all({"nats_byte", "psnr", "codes"} <= found for found in names)
    average = {name: value.clone() for name, value in model.backend.tokenizer.state_dict().items()}
    prior = {name: value.clone() for name, value in model.backend.prior.state_dict().items()}
    run(model, 6, 8)
    for network in (model.model, model.backend):
        for name, value in network.tokenizer.state_dict().items():
            assert name == "frequencies" or torch.equal(value, average[name])
    assert not same(prior, model.backend.prior.state_dict())
    # A larger budget: less of it is spent, and yet the tokens must not change any more.
    assert "nats" in run(model, 8, 9, total=100)[0] and model.frozen
    rate = model.of_prior["adam"].param_groups[0]["lr"]
    assert rate > 0.9 * model.config.learning_rate * model.config.prior_rate


def test_a_larger_budget_goes_on_checking() -> None:
    model = learner()
    model.held_out = held_out
    run(model, 0, 20)
    assert "held_out" in run(model, 20, 21, total=40)[0]


def test_half_precision_changes_little() -> None:
    full, half = learner(dropout=0.0), learner(dropout=0.0)
    half.precision = torch.bfloat16
    for index in (0, 15):
        one, other = (run(model, index, index + 1)[0] for model in (full, half))
        name = "nats" if index else "nats_byte"
        assert other[name].dtype == torch.float32 and float(one[name]) == pytest.approx(float(other[name]), rel=0.03)


def test_the_best_prior_is_shown() -> None:
    model = learner(learning_rate=3e-2)
    model.held_out = held_out
    found: list[float] = []
    steps = 60
    for index in range(steps):
        torch.manual_seed(index)
        # The same four pictures over and over: learnt by heart soon.
        metrics = model.step(*stripes(4, 0), index / steps, index * 4)
        if "held_out" in metrics:
            found.append(float(metrics["held_out"]))
        if model.worse:
            assert model.backend is model.kept and found[-1] >= min(found)
        else:
            assert model.backend is model.average.network
    assert len(found) > CHECKS / 2
    assert model.best == pytest.approx(min(found)) and model.worse
    assert model.kept is not None
    total = 0.0
    for images, labels in held_out():
        tokens = model.kept.tokenizer.encode(images)
        assert labels is not None
        total -= float(model.kept.token_likelihood(tokens, labels, model.kept.steps).sum())
    assert total / (16 * 16) == pytest.approx(model.best, rel=1e-5)


def test_both_stages_learn() -> None:
    model = learner(learning_rate=4e-3, dropout=0.0)
    found = run(model, 0, 300, total=300)
    first, last = found[0], found[89]
    assert last["nats_byte"] < first["nats_byte"] - 0.5
    nats = [float(metrics["nats"]) for metrics in found[90:]]
    assert sum(nats[-10:]) < 0.6 * sum(nats[:10])
    # The class decides which way a bar lies.
    images, labels = stripes(64, 1234)
    tokens = model.backend.tokenizer.encode(images)
    right, wrong = (model.backend.token_likelihood(tokens, which, 16).mean() for which in (labels, 1 - labels))
    assert right > wrong + 1


def test_micro_batches_are_the_same_step() -> None:
    """Up to the random orders, which each part draws for itself: so of the textbook's prior, exactly."""
    for start in (0, 10):
        whole, parts = (learner("classic", dropout=0.0, drop_label=0.0) for _ in range(2))
        parts.micro_batch = 3
        for model in (whole, parts):
            run(model, start, start + 1)
        for (name, one), two in zip(whole.model.state_dict().items(), parts.model.state_dict().values(), strict=True):
            assert torch.allclose(one, two, atol=2e-4), name


def test_rows_held_out() -> None:
    rows, kept = split_rows(1000, 0.02)
    assert len(kept) == 20 and len(rows) == 980 and not set(kept) & set(rows)
    assert kept.max() > 900 and sorted({*kept, *rows}) == list(range(1000))
    assert len(split_rows(10**6, 0.02)[1]) == 500 and len(split_rows(300, 0.02)[1]) == 16
    for count, share in ((191, 0.02), (10**6, 0.0)):
        rows, kept = split_rows(count, share)
        assert len(rows) == count and not len(kept)
