"""The critic of the tokenizer's last part: what it changes, what it leaves alone, and that resuming is exact."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from imggen.errors import UsageError
from imggen.models import build_learner, presets
from imggen.models.transformer.adversarial import ALONE, LATE
from imggen.models.transformer.learner import TransformerLearner


def learner(**more: object) -> TransformerLearner:
    settings = {
        "size": 16, "channels": 1, "width": 32, "depth": 2, "heads": 2, "tokenizer_width": 16, "tokenizer_share": 0.99,
        "adversarial": 4.0, "edges": 0.0, "learning_rate": 4e-3, **more,
    }  # fmt: skip
    torch.manual_seed(0)
    found = build_learner(presets("transformer")["tiny"].with_overrides(**settings))
    assert isinstance(found, TransformerLearner)
    return found


def grain(count: int, seed: int, channels: int = 1) -> Tensor:
    """A grey level a picture, and grain on it that no token can hold: means must be smooth."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.rand(count, 1, 1, 1, generator=generator) - 0.5
    return level + torch.randint(0, 2, (count, channels, 16, 16), generator=generator) * 0.8 - 0.4


def roughness(pictures: Tensor) -> float:
    """How far pixels are from the mean of their square of four."""
    coarse = interpolate(avg_pool2d(pictures, 2), scale_factor=2)
    return float((pictures - coarse).square().mean().sqrt())


def run(model: TransformerLearner, first: int, last: int, total: int, channels: int = 1) -> list[dict[str, Tensor]]:
    found = []
    for index in range(first, last):
        torch.manual_seed(index)
        found.append(model.step(grain(16, index, channels), None, 0.99 * index / total, index * 16))
    return found


def test_means_become_rougher_and_tokens_stay() -> None:
    model, total = learner(), 256
    begin = math.ceil(total * (1 - LATE))
    assert not any("critic" in metrics for metrics in run(model, 0, begin, total))
    encoder = {name: value.clone() for name, value in model.model.tokenizer.encoder.state_dict().items()}
    tokens = model.backend.tokenizer.encode(grain(64, 1))
    images = grain(64, 9999)
    soft = roughness(model.model.tokenizer.decode(model.model.tokenizer.encode(images)).detach())
    later = run(model, begin, total, total)
    assert all("critic" in metrics for metrics in later)
    told = ["told" in metrics for metrics in later]
    assert told == sorted(told) and abs(told.index(True) - ALONE * len(later)) <= 1
    assert sum("penalty" in metrics for metrics in later) == -(-len(later) // 8)
    with torch.no_grad():
        drawn = model.backend.tokenizer.decode(model.backend.tokenizer.encode(images))
    real = roughness(images)
    assert soft < 0.5 * real
    assert roughness(drawn) > soft + 0.15 * real
    assert avg_pool2d(drawn - images, 8).abs().mean() < 0.15
    assert all(torch.equal(value, encoder[name]) for name, value in model.model.tokenizer.encoder.state_dict().items())
    assert (model.backend.tokenizer.encode(grain(64, 1)) == tokens).float().mean() > 0.95


@pytest.mark.parametrize("pause", [6, 8, 11])
def test_resuming_is_bit_exact(pause: int) -> None:
    whole, first, second = learner(), learner(), learner()
    run(whole, 0, 12, 12)
    run(first, 0, pause, 12)
    tensors, document = first.state()
    second.load_state({name: value.clone() for name, value in tensors.items()}, document)
    run(second, pause, 12, 12)
    expected, found = whole.state(), second.state()
    assert expected[1] == found[1] and expected[0].keys() == found[0].keys()
    assert all(torch.equal(value, found[0][name]) for name, value in expected[0].items())
    assert whole.adversary is not None and whole.adversary.steps > 0


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_alpha_and_half_precision(channels: int) -> None:
    model = learner(channels=channels)
    model.precision = torch.bfloat16
    for metrics in run(model, 10, 12, 12, channels):
        assert {"critic", "told", "psnr"} <= metrics.keys()
        assert all(torch.isfinite(value).all() for value in metrics.values())


def test_micro_batches_are_the_same_step() -> None:
    """Before the critic is listened to; its own step differs by the changes that each part draws for itself."""
    whole, parts = learner(), learner()
    parts.micro_batch = 6
    found = [run(model, 71, 72, 100)[0] for model in (whole, parts)]
    assert all({"critic", "penalty"} <= metrics.keys() and "told" not in metrics for metrics in found)
    for (name, one), two in zip(whole.model.state_dict().items(), parts.model.state_dict().values(), strict=True):
        assert torch.allclose(one, two, atol=2e-5), name
    assert "told" in run(parts, 90, 91, 100)[0] and parts.adversary is not None and parts.adversary.steps == 2


def test_where_it_cannot_be() -> None:
    with pytest.raises(UsageError, match="adversarial"):
        learner(size=8)
